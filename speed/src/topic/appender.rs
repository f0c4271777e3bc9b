//! What appends to a topic's WAL: takes what waits, gives it offsets, writes it as one group with one
//! fsync, makes it visible, and only then answers. Where it can't go on it says so to the daemon,
//! which ends. It is with one thread at a time, of those in `pool`.

mod keys;
mod pool;

pub(crate) use keys::other_body;
pub(crate) use pool::{AppenderHandle, Appenders};

use pool::OpenFiles;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_shared::{
    Error, HeldMutex, Log, Offset, OffsetRange, PartitionId, Result, panic_text,
};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::delta::TopicDelta;
use crate::failure::Reason;
use crate::intake::dedup::Dedup;
use crate::intake::idempotency::{KeptRequest, Requests};
use crate::intake::payload::Payload;
use crate::metrics::TopicGauges;
use crate::wal::{FullCause, KeyLog, Record, Wal, WalError};

/// A group is not made larger than this, so that an answer doesn't wait for ever.
const GROUP_BYTES: usize = 32 << 20;

/// Small requests that come as densely as the last ones are waited for, this long at a time and so
/// often, so that one fsync serves several: it costs more than to admit one of them.
const GATHERING: Duration = Duration::from_micros(500);
const GATHERINGS: usize = 4;

/// A group with more bytes is not waited with.
const GATHERED_BYTES: usize = 64 << 10;

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
    /// How many of them are facts.
    pub facts: u64,
    /// How many of them are dead letters.
    pub dead_letters: u64,
    /// How many of them are duplicates.
    pub duplicates: u64,
    /// How many of the facts carried undeclared fields, where the request may be repeated.
    pub unknown_fields: u64,
    /// Whether it was there already, so that nothing was written.
    pub repeated: bool,
}

impl Written {
    fn nothing(at: Offset) -> Self {
        Self {
            range: OffsetRange::new(at, at),
            facts: 0,
            dead_letters: 0,
            duplicates: 0,
            unknown_fields: 0,
            repeated: false,
        }
    }

    fn of(payload: &Payload, range: OffsetRange) -> Self {
        let request = payload.request.as_ref();
        Self {
            range,
            facts: payload.facts.num_rows() as u64,
            dead_letters: payload.dead.len() as u64,
            duplicates: payload.duplicates.len() as u64,
            unknown_fields: request.map_or(0, |r| r.unknown_fields),
            repeated: false,
        }
    }

    /// What a request was answered that is repeated now.
    pub(crate) fn again(known: &KeptRequest) -> Self {
        Self {
            range: known.answer.range(),
            facts: known.answer.facts,
            dead_letters: known.answer.dead_letters,
            duplicates: known.answer.duplicates,
            unknown_fields: known.request.unknown_fields,
            repeated: true,
        }
    }
}

/// How many records of an ingested file are written, where not all of them have landed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ingested {
    /// So many records.
    pub upto: u64,
    /// The offset after the last of them.
    pub end: u64,
}

/// What appends to one topic's WAL.
pub(crate) struct Appender {
    pub log: Arc<Log>,
    pub partition: PartitionId,
    pub wal: Wal,
    pub delta: Arc<HeldMutex<TopicDelta>>,
    pub requests: mpsc::Receiver<WriteRequest>,
    /// What is written of ingested files; what has landed the log knows.
    pub ingested: HashMap<String, Ingested>,
    /// The keys that the topic has seen, where duplicates are looked for.
    pub dedup: Option<Arc<HeldMutex<Dedup>>>,
    /// The requests that may be repeated; changed here alone.
    pub known: Arc<HeldMutex<Requests>>,
    /// Where they are kept whose records are removed.
    pub key_log: KeyLog,
    /// Why the last group was refused, if it was, and when.
    pub refused: Arc<Mutex<Option<(Instant, String)>>>,
    /// Where it tells how new the facts are, and what the WAL takes.
    pub gauges: Arc<TopicGauges>,
    /// The time, in microseconds since 1970.
    pub now_us: fn() -> i64,
    /// How many requests the last group had.
    pub last_group: usize,
    /// That its files stay open between two groups.
    pub open: Option<OpenFiles>,
}

/// What is written and answered together.
#[derive(Default)]
struct Group {
    waiting: Vec<Waiting>,
    /// Answers to chunks that are there already: perhaps in this very group, so they wait for it.
    repeated: Vec<(oneshot::Sender<Result<Written>>, Written)>,
    /// The keys of those that wait, and which of them it is.
    keys: HashMap<String, usize>,
    /// Requests of the key of one that waits.
    same_key: Vec<(oneshot::Sender<Result<Written>>, usize)>,
    bytes: usize,
    next: u64,
}

struct Waiting {
    payload: Box<Payload>,
    record: Record,
    reply: oneshot::Sender<Result<Written>>,
}

/// Why a group was not written, or not made visible.
enum AppendError {
    /// The WAL took nothing of it.
    Refused(WalError),
    /// The WAL holds it, and a record of it could not be made visible.
    NotPlaced(Error),
}

/// What a sender is told whose facts the WAL refuses.
fn refusal(e: &WalError) -> String {
    match e {
        WalError::Full {
            cause: FullCause::Limit,
            ..
        } => format!("{e}; facts are refused until some have landed"),
        _ => e.to_string(),
    }
}

pub(crate) fn wal_error(e: WalError) -> Error {
    let text = refusal(&e);
    match e {
        WalError::Corrupt { .. } => Error::Corrupt(text),
        WalError::Locked { .. } => Error::Conflict(text),
        WalError::TooLarge { .. } | WalError::InvalidTopic { .. } => Error::Invalid(text),
        WalError::NotNext { .. } => Error::Internal(text),
        _ => Error::Unavailable(text),
    }
}

impl Appender {
    /// Whether requests wait.
    fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Whether files of the WAL are open.
    fn has_open_files(&self) -> bool {
        self.wal.has_open_files()
    }

    /// Closes the files of the WAL until the next group.
    fn close_files(&mut self) {
        self.wal.close_files();
        self.key_log.close_file();
    }

    /// Serves what waits, as one group.
    ///
    /// # Errors
    /// Why nothing can be appended any more.
    fn serve(&mut self) -> std::result::Result<(), Reason> {
        let failed = match catch_unwind(AssertUnwindSafe(|| self.serve_group())) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(AppendError::Refused(_))) if !self.wal.is_poisoned() => return Ok(()),
            Ok(Err(e)) => Ok(e),
            Err(panic) => Err(panic),
        };
        let topic = self.log.name();
        Err(match failed {
            Ok(AppendError::Refused(e)) => Reason::Outside(format!(
                "the WAL of topic `{topic}` can't be written any more: {e}"
            )),
            Ok(AppendError::NotPlaced(e)) => Reason::Defect(format!(
                "what the WAL of topic `{topic}` holds could not be made visible: {e}"
            )),
            Err(panic) => Reason::Defect(format!(
                "the thread that appends to the WAL of topic `{topic}` panicked: {}",
                panic_text(panic.as_ref())
            )),
        })
    }

    fn serve_group(&mut self) -> std::result::Result<(), AppendError> {
        let Ok(first) = self.requests.try_recv() else {
            return Ok(());
        };
        let dedup = self.dedup.clone();
        // Held until the group is durable or refused: whoever else admits to this topic must
        // not take a fact for the duplicate of one that is then refused.
        let mut dedup = dedup.as_ref().map(|dedup| dedup.lock());
        let mut group = Group {
            next: self.wal.next(),
            ..Default::default()
        };
        self.take(first, &mut group, dedup.as_deref_mut());
        self.gather(&mut group, self.last_group, dedup.as_deref_mut());
        self.last_group = group.waiting.len();
        self.append(group, dedup.as_deref_mut())
    }

    /// Takes what waits, and then as many requests as the last group had, where they are small.
    fn gather(&mut self, group: &mut Group, last_group: usize, mut dedup: Option<&mut Dedup>) {
        for left in (0..=GATHERINGS).rev() {
            while group.bytes < GROUP_BYTES
                && let Ok(request) = self.requests.try_recv()
            {
                self.take(request, group, dedup.as_deref_mut());
            }
            let waiting = group.waiting.len();
            let more = waiting < last_group && group.bytes <= GATHERED_BYTES;
            if waiting == 0 || !more || left == 0 {
                return;
            }
            std::thread::sleep(GATHERING);
        }
    }

    fn take(&mut self, request: WriteRequest, group: &mut Group, dedup: Option<&mut Dedup>) {
        let (mut payload, mut encoded, from, reply) = match request {
            WriteRequest::Write {
                payload,
                encoded,
                ingest_from,
                reply,
            } => (payload, encoded, ingest_from, reply),
            WriteRequest::Cut(below) => {
                let below_end = u64::try_from(below.0).unwrap_or(0);
                self.ingested.retain(|_, written| written.end > below_end);
                if let Err(e) = self.cut(below) {
                    tracing::warn!(topic = %self.log.name(), error = %e, "could not cut the WAL");
                }
                self.gauges.note_wal(self.wal.bytes());
                return;
            }
        };
        match self.already(&payload, from, group.next) {
            Some(Ok(written)) => return group.repeated.push((reply, written)),
            Some(Err(e)) => {
                reply.send(Err(e)).ok();
                return;
            }
            None => {}
        }
        let Some(reply) = self.answer_known(&payload, group, reply) else {
            return;
        };
        if payload.records == 0 {
            let at = Offset(i64::try_from(group.next).unwrap_or(i64::MAX));
            reply.send(Ok(Written::nothing(at))).ok();
            return;
        }
        if let Some(dedup) = dedup
            && let Err(e) = leave_duplicates_out(dedup, &mut payload, &mut encoded)
        {
            reply.send(Err(e)).ok();
            return;
        }
        if let Some((id, upto)) = &payload.ingest {
            let (upto, end) = (*upto, group.next + payload.records);
            self.ingested.insert(id.clone(), Ingested { upto, end });
        }
        let record = Record {
            first: group.next,
            end: group.next + payload.records,
            payload: encoded,
        };
        if let Some(request) = &payload.request {
            group.keys.insert(request.key.clone(), group.waiting.len());
        }
        group.next = record.end;
        group.bytes += record.payload.len();
        group.waiting.push(Waiting {
            payload,
            record,
            reply,
        });
    }

    /// The answer to a chunk of a file that was written before, somewhere below `next`.
    fn already(&self, payload: &Payload, from: Option<u64>, next: u64) -> Option<Result<Written>> {
        let ((id, upto), from) = (payload.ingest.as_ref()?, from?);
        let written = self.ingested.get(id).map_or(0, |written| written.upto);
        let done = written.max(self.log.ingested(id));
        if done >= *upto {
            let at = Offset(i64::try_from(next).unwrap_or(i64::MAX));
            return Some(Ok(Written {
                repeated: true,
                ..Written::of(payload, OffsetRange::new(at, at))
            }));
        }
        (done != from).then(|| {
            Err(Error::Conflict(format!(
                "`{id}`: the chunk starts at record {from}, {done} records are written; go on from there"
            )))
        })
    }

    fn append(
        &mut self,
        group: Group,
        dedup: Option<&mut Dedup>,
    ) -> std::result::Result<(), AppendError> {
        let records: Vec<Record> = group.waiting.iter().map(|w| w.record.clone()).collect();
        if !records.is_empty() {
            fail::fail_point!("wal-before-append");
            if let Err(e) = self.wal.append(&records) {
                self.refuse(group, &e, dedup);
                return Err(AppendError::Refused(e));
            }
            fail::fail_point!("wal-after-fsync");
            *self.refused.lock() = None;
            self.gauges.note_wal(self.wal.bytes());
        }
        let mut answers = Vec::with_capacity(group.waiting.len());
        let (topic, schema) = self.log.declared();
        for waiting in group.waiting {
            let first = Offset(i64::try_from(waiting.record.first).unwrap_or(i64::MAX));
            let answer = waiting
                .payload
                .at(&topic, &schema, self.partition, first)
                .and_then(|piece| {
                    let written = Written::of(&waiting.payload, piece.range);
                    if !self.delta.lock().push(piece) {
                        let start = written.range.start;
                        let text = format!("the WAL gave offsets from {start} twice");
                        return Err(Error::Internal(text));
                    }
                    Ok(written)
                });
            let written = match answer {
                Ok(written) => written,
                // It is durable, and whoever asks would not see it; nor what comes after it, whose
                // senders are told that the daemon stops.
                Err(e) => {
                    let text = format!("{e}; the records are durable, and the daemon ends");
                    waiting.reply.send(Err(Error::Internal(text))).ok();
                    return Err(AppendError::NotPlaced(e));
                }
            };
            let facts = &waiting.payload.facts;
            self.gauges
                .note_facts(facts, &topic.event_time, (self.now_us)());
            self.remember(&waiting.payload, &written);
            answers.push(written);
            // A client that went away does not read its answer; its facts are in all the same.
            waiting.reply.send(Ok(written)).ok();
        }
        for (reply, written) in group.repeated {
            reply.send(Ok(written)).ok();
        }
        for (reply, of) in group.same_key {
            let again = answers.get(of).copied().map(|written| Written {
                repeated: true,
                ..written
            });
            let gone = || Error::Unavailable("the request of this key failed; try again".into());
            reply.send(again.ok_or_else(gone)).ok();
        }
        Ok(())
    }

    fn refuse(&mut self, group: Group, e: &WalError, mut dedup: Option<&mut Dedup>) {
        tracing::error!(topic = %self.log.name(), error = %e, "facts refused: the WAL can't be written");
        let text = refusal(e);
        *self.refused.lock() = Some((Instant::now(), text.clone()));
        for (reply, _) in group.same_key {
            reply.send(Err(Error::Unavailable(text.clone()))).ok();
        }
        for (reply, _) in group.repeated {
            reply.send(Err(Error::Unavailable(text.clone()))).ok();
        }
        for waiting in group.waiting {
            if let Some(dedup) = dedup.as_deref_mut()
                && let Err(e) = dedup.forget(&waiting.payload.facts)
            {
                tracing::error!(topic = %self.log.name(), error = %e, "keys of refused facts are still remembered");
            }
            if let Some((id, upto)) = &waiting.payload.ingest {
                let before = upto.saturating_sub(waiting.payload.records);
                if let Some(written) = self.ingested.get_mut(id) {
                    written.upto = written.upto.min(before);
                }
            }
            waiting
                .reply
                .send(Err(Error::Unavailable(text.clone())))
                .ok();
        }
    }
}

/// Takes the duplicates out of a payload, and what of it is stored. Where that fails no key of it
/// is remembered.
fn leave_duplicates_out(
    dedup: &mut Dedup,
    payload: &mut Payload,
    encoded: &mut Bytes,
) -> Result<()> {
    let Some(wanted) = dedup.check_facts(&payload.facts, payload.received_at_us)? else {
        return Ok(());
    };
    payload.keep(&wanted)?;
    let stored = payload.encode();
    if stored.is_err() {
        dedup.forget(&payload.facts)?;
    }
    *encoded = stored?;
    Ok(())
}

#[cfg(test)]
mod tests;
