//! An answer over HTTP. One of up to a megabyte is whole before its first byte is sent, so that a failure
//! has its status. A larger one is sent as it is computed and as fast as it is read; where that fails
//! it is cut off before its last chunk, which every client reports, so it is never taken for a shorter
//! answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use anabranch_shared::{Error, Result, Stop};
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use datafusion::execution::SendableRecordBatchStream;
use futures::{Stream, StreamExt};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio::sync::mpsc;

use crate::arrow_form::Texts;
use crate::encode::{ARROW, CSV, Encoder, JSON, NDJSON, PARQUET};
use crate::metrics::Asked;
use crate::receipts::Awaited;
use crate::running::Waiter;
use crate::service::{Answer, SqlService};
use crate::workers::{self, Computing};

/// What is escaped in headers: their values are ASCII.
const NOT_IN_A_HEADER: &AsciiSet = &CONTROLS.add(b'%');

/// What is escaped where there may be several of one name: browsers make one of them, with commas between.
const NOT_IN_SEVERAL: &AsciiSet = &NOT_IN_A_HEADER.add(b',');

/// Bytes up to which an answer is whole before it is sent.
const WHOLE: usize = 1 << 20;

/// Bytes that are sent at once of a larger one.
const CHUNK: usize = 256 << 10;

/// Parts of an answer that may wait for its reader.
const WAITING: usize = 2;

/// The header that holds one of the things that an answer's reader should know.
const NOTE: &str = "anabranch-note";

/// The header that holds an answer's receipt.
const RECEIPT: &str = "anabranch-receipt";

/// How much of an answer is there before any of it is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    /// So many bytes, if there are that many.
    UpTo(usize),
    /// All of it.
    Always,
}

/// A part of an answer.
struct Part {
    bytes: Bytes,
    is_last: bool,
}

/// The answer as the request wants it.
///
/// # Errors
/// Those of the first megabyte of it, or of less, where memory has no room for that.
pub(super) async fn respond(
    service: &SqlService,
    answer: Answer,
    headers: &HeaderMap,
) -> Result<Response> {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    let accept = accept.unwrap_or(JSON);
    let content_type = [ARROW, NDJSON, CSV, PARQUET]
        .into_iter()
        .find(|t| accept.contains(t))
        .unwrap_or(JSON);
    // The threads that write the answer may be busy when its reader goes.
    let (waiter, asked, stop) = (answer.waiter(), answer.asked(), answer.stop().clone());
    let awaited = answer.awaited().cloned();
    let Answer {
        schema,
        stream,
        freshness,
        notes,
        ..
    } = answer;
    let pool = service.memory_pool();
    let encoder = Encoder::new(&schema, content_type, Texts::accepted(accept), pool)?;
    let (send, mut received) = mpsc::channel(WAITING);
    let whole = match awaited {
        // What goes with an answer comes before it, and a receipt is known at its end.
        Some(_) => Whole::Always,
        None => Whole::UpTo(WHOLE),
    };
    let computing = workers::begin(encode((encoder, whole), stream, send, (stop, asked)))?;
    let none = || Error::Internal("an answer has no end".to_owned());
    let first = received.recv().await.ok_or_else(none)??;
    let body = match first.is_last {
        true => Body::from(first.bytes),
        false => Body::from_stream(Parts {
            first: Some(first.bytes),
            received: Some(received),
            _computing: computing,
            _waiter: waiter,
        }),
    };
    let mut response = ([(header::CONTENT_TYPE, content_type)], body).into_response();
    let mut note = |name: &'static str, value: &str| {
        let escaped = match name {
            NOTE => NOT_IN_SEVERAL,
            _ => NOT_IN_A_HEADER,
        };
        let value = utf8_percent_encode(value, escaped).to_string();
        if let Ok(value) = HeaderValue::from_str(&value) {
            let name = HeaderName::from_static(name);
            response.headers_mut().append(name, value);
        }
    };
    if let Some(receipt) = awaited.as_ref().and_then(Awaited::receipt) {
        note(RECEIPT, &receipt.to_string());
    }
    let late = awaited.and_then(|awaited| awaited.refused());
    let notes = notes
        .iter()
        .filter(|n| Some(*n) != late.as_ref())
        .chain(&late);
    note("anabranch-freshness", &freshness);
    notes.for_each(|n| note(NOTE, n));
    Ok(response)
}

/// Writes an answer and sends it in parts, as long as somebody reads it and the query goes on.
async fn encode(
    encoder: (Encoder, Whole),
    rows: SendableRecordBatchStream,
    send: mpsc::Sender<Result<Part>>,
    (stop, asked): (Stop, Option<Asked>),
) {
    let encoding = encoded(encoder, rows, &send);
    let ended = tokio::select! {
        ended = encoding => ended,
        // Whoever does not read holds no query beyond its time.
        e = stop.stopped() => Err(e),
    };
    if let Err(e) = ended {
        if let Some(asked) = asked {
            asked.failed(&e);
        }
        // Nobody may be there to be told.
        send.try_send(Err(e)).ok();
    }
}

async fn encoded(
    (mut encoder, whole): (Encoder, Whole),
    mut rows: SendableRecordBatchStream,
    send: &mpsc::Sender<Result<Part>>,
) -> Result<()> {
    let mut most = match whole {
        Whole::UpTo(bytes) => bytes,
        Whole::Always => usize::MAX,
    };
    let gone = |_| Error::Cancelled("the client has left".to_owned());
    while let Some(batch) = rows.next().await {
        let has_room = encoder.write(&batch?)?;
        if !has_room && whole == Whole::Always {
            return Err(Error::NoRoom(
                "an answer with a receipt is whole before it is sent, and this one has no room in memory (`memory` in `[query]`); narrow the query, or ask without a receipt".to_owned(),
            ));
        }
        if encoder.ready() >= most || !has_room {
            most = CHUNK;
            let part = Part {
                bytes: encoder.take().into(),
                is_last: false,
            };
            send.send(Ok(part)).await.map_err(gone)?;
        }
    }
    let part = Part {
        bytes: encoder.finish()?.into(),
        is_last: true,
    };
    send.send(Ok(part)).await.map_err(gone)
}

/// The parts of an answer as they come. Dropping this ends the work.
struct Parts {
    first: Option<Bytes>,
    /// None once the last part has come.
    received: Option<mpsc::Receiver<Result<Part>>>,
    _computing: Computing<()>,
    _waiter: Waiter,
}

impl Stream for Parts {
    type Item = io::Result<Bytes>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Bytes>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let Some(received) = self.received.as_mut() else {
            return Poll::Ready(None);
        };
        let part = std::task::ready!(received.poll_recv(cx));
        Poll::Ready(Some(match part {
            Some(Ok(part)) => {
                if part.is_last {
                    self.received = None;
                }
                Ok(part.bytes)
            }
            other => {
                self.received = None;
                let why = other.and_then(Result::err).map(|e| e.to_string());
                let why = why.unwrap_or_else(|| "its work has ended".to_owned());
                tracing::warn!(error = %why, "an answer is cut off");
                Err(io::Error::other(why))
            }
        }))
    }
}
