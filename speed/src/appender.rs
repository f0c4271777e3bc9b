//! The one thread that appends to a topic's WAL: takes what waits, gives it offsets, writes it as
//! one group with one fsync, makes it visible, and only then answers.

use std::collections::HashMap;
use std::sync::Arc;

use anabranch_shared::{Error, Offset, OffsetRange, PartitionId, Result, Topic};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::delta::TopicDelta;
use crate::payload::Payload;
use crate::wal::{FullCause, Record, Wal, WalError};

/// A group is not made larger than this, so that an answer doesn't wait for ever.
const GROUP_BYTES: usize = 32 << 20;

/// What the appender does.
#[derive(Debug)]
pub enum WriteRequest {
    /// Writes a payload and answers when it is durable and visible.
    Write {
        /// What is written.
        payload: Box<Payload>,
        /// The same, encoded.
        encoded: Bytes,
        /// Of a chunk of an ingested file, the number of its first record.
        ingest_from: Option<u64>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Written>>,
    },
    /// Removes from the WAL what lies below an offset.
    Cut(Offset),
}

/// What came of a write.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// The offsets of its records.
    pub range: OffsetRange,
    /// Whether it was there already, so that nothing was written.
    pub repeated: bool,
}

/// What the appender thread owns.
pub(crate) struct Appender {
    pub topic: Topic,
    pub partition: PartitionId,
    pub wal: Wal,
    pub delta: Arc<Mutex<TopicDelta>>,
    pub requests: mpsc::Receiver<WriteRequest>,
    /// How many records of each ingested file are written.
    pub ingested: HashMap<String, u64>,
}

struct Waiting {
    payload: Box<Payload>,
    record: Record,
    reply: oneshot::Sender<Result<Written>>,
}

pub(crate) fn wal_error(e: WalError) -> Error {
    let text = e.to_string();
    match e {
        WalError::Corrupt { .. } => Error::Corrupt(text),
        WalError::Locked { .. } => Error::Conflict(text),
        WalError::Full {
            cause: FullCause::Limit,
            ..
        } => Error::Unavailable(format!("{text}; facts are refused until some have landed")),
        WalError::TooLarge { .. } | WalError::InvalidTopic { .. } => Error::Invalid(text),
        WalError::NotNext { .. } => Error::Internal(text),
        _ => Error::Unavailable(text),
    }
}

impl Appender {
    /// Runs until every sender is gone.
    pub(crate) fn run(mut self) {
        let mut open = true;
        while open {
            let Some(first) = self.requests.blocking_recv() else {
                break;
            };
            let mut group = Vec::new();
            let mut bytes = 0;
            let mut next = self.wal.next();
            self.take(first, &mut group, &mut bytes, &mut next);
            while bytes < GROUP_BYTES {
                match self.requests.try_recv() {
                    Ok(request) => self.take(request, &mut group, &mut bytes, &mut next),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => {
                        open = false;
                        break;
                    }
                }
            }
            self.append(group);
        }
    }

    fn take(
        &mut self,
        request: WriteRequest,
        group: &mut Vec<Waiting>,
        bytes: &mut usize,
        next: &mut u64,
    ) {
        let (payload, encoded, from, reply) = match request {
            WriteRequest::Write {
                payload,
                encoded,
                ingest_from,
                reply,
            } => (payload, encoded, ingest_from, reply),
            WriteRequest::Cut(below) => {
                let below = u64::try_from(below.0).unwrap_or(0);
                if let Err(e) = self.wal.cut(below) {
                    tracing::warn!(topic = %self.topic.name, error = %e, "could not cut the WAL");
                }
                return;
            }
        };
        if let Some(answer) = self.already(&payload, from) {
            reply.send(answer).ok();
            return;
        }
        if payload.records == 0 {
            let at = Offset(i64::try_from(*next).unwrap_or(i64::MAX));
            reply
                .send(Ok(Written {
                    range: OffsetRange::new(at, at),
                    repeated: false,
                }))
                .ok();
            return;
        }
        if let Some((id, upto)) = &payload.ingest {
            self.ingested.insert(id.clone(), *upto);
        }
        let record = Record {
            first: *next,
            end: *next + payload.records,
            payload: encoded,
        };
        *next = record.end;
        *bytes += record.payload.len();
        group.push(Waiting {
            payload,
            record,
            reply,
        });
    }

    /// The answer to a chunk of a file that was written before.
    fn already(&self, payload: &Payload, from: Option<u64>) -> Option<Result<Written>> {
        let ((id, upto), from) = (payload.ingest.as_ref()?, from?);
        let done = self.ingested.get(id).copied().unwrap_or(0);
        if done >= *upto {
            return Some(Ok(Written {
                range: OffsetRange::default(),
                repeated: true,
            }));
        }
        (done != from).then(|| {
            Err(Error::Conflict(format!(
                "`{id}`: the chunk starts at record {from}, {done} records are written; go on from there"
            )))
        })
    }

    fn append(&mut self, group: Vec<Waiting>) {
        if group.is_empty() {
            return;
        }
        let records: Vec<Record> = group.iter().map(|w| w.record.clone()).collect();
        fail::fail_point!("wal-before-append");
        if let Err(e) = self.wal.append(&records) {
            self.refuse(group, e);
            return;
        }
        fail::fail_point!("wal-after-fsync");
        for waiting in group {
            let first = Offset(i64::try_from(waiting.record.first).unwrap_or(i64::MAX));
            let answer = waiting
                .payload
                .at(&self.topic, self.partition, first)
                .map(|piece| {
                    let range = piece.range;
                    self.delta.lock().push_unlanded(piece);
                    Written {
                        range,
                        repeated: false,
                    }
                });
            // A client that went away does not read its answer; its facts are in all the same.
            waiting.reply.send(answer).ok();
        }
    }

    fn refuse(&mut self, group: Vec<Waiting>, e: WalError) {
        tracing::error!(topic = %self.topic.name, error = %e, "facts refused: the WAL can't be written");
        let text = wal_error(e).to_string();
        for waiting in group {
            if let Some((id, upto)) = &waiting.payload.ingest {
                let before = upto.saturating_sub(waiting.payload.records);
                let done = self.ingested.entry(id.clone()).or_default();
                *done = (*done).min(before);
            }
            waiting
                .reply
                .send(Err(Error::Unavailable(text.clone())))
                .ok();
        }
    }
}
