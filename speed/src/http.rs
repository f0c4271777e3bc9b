//! `POST /topics/{topic}`: records in, an acknowledgement out. `POST /delta`, for other daemons
//! alone: what this one holds that has not landed.

mod refusal;
mod request_memory;

use std::sync::Arc;

use anabranch_shared::{Error, Result, blocking};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Extension, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use crate::daemon::Daemon;
use crate::http::refusal::{refuse, unread};
use crate::http::request_memory::{read_body, within_room};
use crate::intake::body::{BodyFormat, RequestBody};
use crate::intake::files::Separator;
use crate::intake::idempotency::RequestKey;
use crate::intake::room::RequestPermit;
use crate::peers::DeltaRequest;
use crate::topic::{IngestChunk, Input, Write, WriteOutcome};

/// Dead letters that an answer names one by one; the others are counted.
const NAMED_DEAD_LETTERS: usize = 100;

/// The content type of a payload that `anabranch ingest` has admitted itself.
pub const PAYLOAD: &str = "application/vnd.anabranch.payload";

/// The header that names the ingested file of which a request is a chunk.
pub const INGEST_ID: &str = "anabranch-ingest-id";
/// The header with the number of a chunk's first record.
pub const INGEST_FROM: &str = "anabranch-ingest-from";

/// The header with the key by which a request may be repeated.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Where a daemon is asked by others for what it holds. Its form may change with any version.
pub const DELTA: &str = "/delta";

/// Bytes that a question for it may have.
const DELTA_BYTES: usize = 4 << 20;

/// The content type of what it answers.
pub const HELD: &str = "application/vnd.anabranch.delta";

/// What a request for intake came to, beside its answer: for whoever keeps a log of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The topic.
    pub topic: String,
    /// Bytes of the body as they came.
    pub bytes: u64,
    /// Why the first record that became a dead letter did, if one did.
    pub first_dead_letter: Option<String>,
}

/// The routes of this layer.
pub fn router(daemon: Arc<Daemon>) -> Router {
    let bound = (
        daemon.request_room().clone(),
        daemon.options().max_request_bytes,
    );
    let bounded = axum::middleware::from_fn_with_state(bound, within_room);
    Router::new()
        .route("/topics/{topic}", post(write).layer(bounded))
        .route("/topics/{topic}/ingested/{id}", get(ingested))
        .route(DELTA, post(delta).layer(DefaultBodyLimit::max(DELTA_BYTES)))
        .with_state(daemon)
}

/// What this daemon holds of a topic; 421 where another one is meant, whose address this is now.
async fn delta(State(daemon): State<Arc<Daemon>>, body: Bytes) -> Response {
    let request: DeltaRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(e) => return refuse(&Error::Invalid(format!("not a request for a delta: {e}"))),
    };
    if request.wal != daemon.wal() {
        return StatusCode::MISDIRECTED_REQUEST.into_response();
    }
    match daemon.delta(request).await {
        Ok(body) => ([(header::CONTENT_TYPE, HELD)], body).into_response(),
        Err(e) => refuse(&e),
    }
}

/// What a request may say in its address.
#[derive(Debug, Default, serde::Deserialize)]
struct WriteQuery {
    /// Whether it is refused whole where one of its records can't become a fact.
    #[serde(default)]
    strict: bool,
    /// What stands between the fields of CSV.
    separator: Option<String>,
}

async fn write(
    State(daemon): State<Arc<Daemon>>,
    Path(topic): Path<String>,
    query: std::result::Result<Query<WriteQuery>, QueryRejection>,
    Extension(taken): Extension<Arc<RequestPermit>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if let Err(e) = daemon.check_intake() {
        return refuse(&e);
    }
    let limit = daemon.options().max_request_bytes;
    let body = match read_body(body, &taken, limit).await {
        Ok(body) => body,
        Err(e) => return unread(e, limit),
    };
    let query = match query {
        Ok(Query(query)) => query,
        Err(e) => return refuse(&Error::Invalid(format!("the request's address: {e}"))),
    };
    let bytes = body.len() as u64;
    match accept(&daemon, &topic, query, &headers, body, taken).await {
        Ok(outcome) => {
            let mut answer = acknowledge(&topic, &outcome);
            let first_dead_letter = outcome.dead.first().map(|d| d.reason.clone());
            answer.extensions_mut().insert(Accepted {
                topic,
                bytes,
                first_dead_letter,
            });
            answer
        }
        Err(e) => refuse(&e),
    }
}

/// How many records of an ingested file are acknowledged.
async fn ingested(
    State(daemon): State<Arc<Daemon>>,
    Path((topic, id)): Path<(String, String)>,
) -> Response {
    match daemon.topic(&topic) {
        Ok(stream) => stream.writer().ingested(&id).to_string().into_response(),
        Err(e) => refuse(&e),
    }
}

fn acknowledge(topic: &str, outcome: &WriteOutcome) -> Response {
    let dead: Vec<_> = outcome
        .dead
        .iter()
        .take(NAMED_DEAD_LETTERS)
        .map(|d| {
            serde_json::json!({ "record": d.record, "line": d.line, "field": d.field, "reason": d.reason })
        })
        .collect();
    let body = serde_json::json!({
        "facts": outcome.facts,
        "duplicates": outcome.duplicates,
        "dead_letters": outcome.dead_letters,
        "dead": dead,
        "unknown_fields": outcome.unknown_fields,
        "partition": outcome.partition,
        "offsets": [outcome.range.start, outcome.range.end],
        "token": outcome.token(topic),
        "repeated": outcome.repeated,
    });
    (
        StatusCode::OK,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

async fn accept(
    daemon: &Arc<Daemon>,
    topic: &str,
    query: WriteQuery,
    headers: &HeaderMap,
    body: Bytes,
    taken: Arc<RequestPermit>,
) -> Result<WriteOutcome> {
    daemon.topic(topic)?;
    let ingest = match (text(headers, INGEST_ID), text(headers, INGEST_FROM)) {
        (None, _) => None,
        (Some(id), from) => Some(IngestChunk {
            id: id.to_owned(),
            from: from.unwrap_or("0").parse().map_err(|_| {
                Error::Invalid(format!("`{INGEST_FROM}` is not a number of a record"))
            })?,
        }),
    };
    let encoding = text(headers, "content-encoding")
        .unwrap_or("identity")
        .trim()
        .to_lowercase();
    let kind = text(headers, "content-type")
        .unwrap_or("application/x-ndjson")
        .to_lowercase();
    let separator = query.separator.as_deref().map(str::parse);
    let separator: Option<Separator> = separator
        .transpose()
        .map_err(|e| Error::Invalid(format!("`separator`: {e}")))?;
    let form = match &query.separator {
        Some(separator) => format!("{kind}?{separator}"),
        None => kind.clone(),
    };
    let key = request_key(headers, [form, encoding.clone()], &body).await?;
    let input = match kind == PAYLOAD {
        true if query.strict => {
            return Err(Error::Invalid(
                "`strict` is for records, and the body is what `anabranch ingest` has admitted; leave it out".into(),
            ));
        }
        true => Input::Payload(body),
        false => Input::Records(RequestBody {
            bytes: body,
            encoding: encoding.parse()?,
            format: BodyFormat::of(&kind, separator)?,
            strict: query.strict,
            limit: daemon.options().max_request_bytes,
            memory: taken,
        }),
    };
    let write = Write {
        input,
        key,
        chunk: ingest,
        source: text(headers, "anabranch-source").map(str::to_owned),
    };
    daemon.take(topic, write).await
}

/// What a request is known by that may be repeated.
async fn request_key(
    headers: &HeaderMap,
    kind: [String; 2],
    body: &Bytes,
) -> Result<Option<RequestKey>> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let (Some(key), more) = (keys.next(), keys.next()) else {
        return Ok(None);
    };
    if more.is_some() {
        return Err(Error::Invalid(format!(
            "the request has more than one `{IDEMPOTENCY_KEY}`; give it one"
        )));
    }
    let (key, body) = (key.clone(), body.clone());
    let new = move || {
        let kind = [kind[0].as_str(), kind[1].as_str()];
        RequestKey::new(key.as_bytes(), &kind, &body)
    };
    blocking(new).await.map(Some)
}
