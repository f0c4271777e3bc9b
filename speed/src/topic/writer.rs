//! What writes to a topic: admits what a door hands over, gives it to the appender, and answers
//! once it is acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_shared::settings::{Ack, FieldSettings, UnknownFields};
use anabranch_shared::{
    Error, HeldMutex, LockHolds, Offset, OffsetRange, PartitionId, Result, Topic,
};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{oneshot, watch};

use super::keys::Keys;
use super::memory::TopicMemory;
use crate::failure::Failure;
use crate::intake::admission::{Admission, Admitted};
use crate::intake::arrow_stream::of_request;
use crate::intake::body::RequestBody;
use crate::intake::counts::{DeadLetterBound, Intake, IntakeCount};
use crate::intake::idempotency::{RequestKey, Requests, Standing};
use crate::intake::payload::{Payload, PlacedFacts};
use crate::intake::turns::in_turn;
use crate::options::{DaemonOptions, TopicOptions};
use crate::topic::appender::{AppenderHandle, WriteRequest, Written, other_body};

/// For so long it is believed that the WAL takes nothing after it last took nothing.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// With less room on its disk it is believed for longer.
const LEAST_FREE_BYTES: u64 = 4 << 20;

/// What a door hands over.
#[derive(Clone, Debug)]
pub enum Input {
    /// Records, as they came.
    Records(RequestBody),
    /// A [`Payload`], encoded: what `anabranch ingest` has admitted itself.
    Payload(Bytes),
}

/// One request to write.
#[derive(Clone, Debug)]
pub struct Write {
    /// What is to be written.
    pub input: Input,
    /// What it is known by where it may be repeated: it is written once within
    /// `idempotency_window`, and the others get the answer of the first.
    pub key: Option<RequestKey>,
    /// The chunk of an ingested file that it is, if it is one. It may be repeated as it is.
    pub chunk: Option<IngestChunk>,
    /// Who sent it, for its dead letters.
    pub source: Option<String>,
}

impl Write {
    /// A request of records, which is known by nothing.
    pub fn records(body: RequestBody) -> Self {
        Self {
            input: Input::Records(body),
            key: None,
            chunk: None,
            source: None,
        }
    }
}

/// A chunk of an ingested file.
#[derive(Clone, Debug)]
pub struct IngestChunk {
    /// The file's content hash, or the id that its user gave.
    pub id: String,
    /// The number of the chunk's first record in the file.
    pub from: u64,
}

impl IngestChunk {
    /// The file, and how many of its records the chunk ends at.
    ///
    /// # Errors
    /// `Invalid` where no file has so many: a position in the log holds 63 bits.
    fn upto(self, records: u64) -> Result<(String, u64)> {
        let upto = self.from.checked_add(records);
        match upto.filter(|upto| i64::try_from(*upto).is_ok()) {
            Some(upto) => Ok((self.id, upto)),
            None => Err(Error::Invalid(format!(
                "`{}`: no file has a record {}; a chunk is named by the number of its first record in the file, from 0",
                self.id, self.from
            ))),
        }
    }
}

/// A record that did not become a fact.
#[derive(Clone, Debug)]
pub struct RefusedRecord {
    /// Its number in the request, from 0.
    pub record: u64,
    /// Its line, from 1, where the request has lines.
    pub line: Option<u64>,
    /// The field at fault, where it is one field's.
    pub field: Option<String>,
    /// Why.
    pub reason: String,
}

/// What came of one request, for its sender.
#[derive(Clone, Debug)]
pub struct WriteOutcome {
    /// The partition.
    pub partition: PartitionId,
    /// The offsets of its records.
    pub range: OffsetRange,
    /// How many became facts.
    pub facts: u64,
    /// How many were there already, by the topic's `dedup`, and were left out.
    pub duplicates: u64,
    /// How many did not.
    pub dead_letters: u64,
    /// The records that did not; not known any more where the request was written before.
    pub dead: Vec<RefusedRecord>,
    /// How many facts carried undeclared fields.
    pub unknown_fields: u64,
    /// Whether it was there already, so that nothing was written.
    pub repeated: bool,
}

impl WriteOutcome {
    /// What a query has to have seen to have seen this.
    pub fn token(&self, topic: &str) -> String {
        format!("{topic}:{}:{}", self.partition, self.range.end)
    }
}

/// What writes to one topic.
#[derive(Debug)]
pub struct Writer {
    memory: Arc<TopicMemory>,
    keys: Arc<Keys>,
    ack: Ack,
    /// The step that makes the topic's facts, and the topic that it makes them of: no others are taken.
    step: Option<(String, String)>,
    /// By the topic's fields as they are declared, as far as this daemon knows.
    admission: RwLock<Arc<Admission>>,
    unknown_fields: UnknownFields,
    appender: Arc<AppenderHandle>,
    /// Up to where facts of the daemon's WAL have landed.
    landed: watch::Receiver<Offset>,
    /// The requests that may be repeated.
    known: Arc<HeldMutex<Requests>>,
    dead_letter_bound: DeadLetterBound,
    intake: Mutex<Intake>,
    /// Why the WAL took nothing when it was last to, and when that was.
    refused: Refused,
    failure: Failure,
}

/// Why an appender's last group was refused, if it was, and when.
pub(super) type Refused = Arc<Mutex<Option<(Instant, String)>>>;

/// What the writer and the appender share.
pub(super) struct Appending {
    pub(super) appender: Arc<AppenderHandle>,
    pub(super) known: Arc<HeldMutex<Requests>>,
    pub(super) refused: Refused,
}

impl Writer {
    pub(super) fn new(
        memory: &Arc<TopicMemory>,
        keys: &Arc<Keys>,
        settings: &TopicOptions,
        admission: Admission,
        appending: Appending,
        landed: watch::Receiver<Offset>,
        failure: &Failure,
    ) -> Self {
        Self {
            memory: memory.clone(),
            keys: keys.clone(),
            ack: settings.ack,
            step: settings.step.as_ref().map(|step| {
                let step = &step.settings;
                (step.name.clone(), step.from.clone())
            }),
            admission: RwLock::new(Arc::new(admission)),
            unknown_fields: settings.unknown_fields,
            appender: appending.appender,
            landed,
            known: appending.known,
            dead_letter_bound: settings.dead_letter_bound,
            intake: Mutex::default(),
            refused: appending.refused,
            failure: failure.clone(),
        }
    }

    /// Takes fields that were declared while the daemon runs. Facts that are here already are read
    /// by them as older ones in the log are.
    ///
    /// # Errors
    /// `Unavailable` where the storage does not answer: it is to be tried again.
    pub(crate) async fn take_fields(&self, topic: &Topic, fields: &[FieldSettings]) -> Result<()> {
        fail::fail_point!("take-fields", |_| Err(Error::Unavailable(
            "the storage does not answer".into()
        )));
        let memory = &self.memory;
        let admission = admission(topic, self.unknown_fields, fields, &memory.options)?;
        // Who admits may know fewer fields than who keeps the facts, never more.
        memory.log.redeclare(topic, memory.options.now_ms()).await?;
        *self.admission.write() = Arc::new(admission);
        Ok(())
    }

    /// Whether a step makes the topic's facts.
    pub(crate) fn has_step(&self) -> bool {
        self.step.is_some()
    }

    /// Admission to the topic.
    pub(crate) fn admission(&self) -> Arc<Admission> {
        self.admission.read().clone()
    }

    /// How many records of an ingested file are acknowledged.
    pub(crate) fn ingested(&self, id: &str) -> u64 {
        let landed = self.memory.log.ingested(id);
        if self.ack == Ack::Landed {
            return landed;
        }
        let waiting = self.memory.with_delta(|d| {
            let ingested = d.unlanded.iter().filter_map(|p| p.ingest.as_ref());
            let of_file = ingested.filter(|(i, _)| i == id);
            of_file.map(|(_, upto)| *upto).max()
        });
        waiting.unwrap_or(0).max(landed)
    }

    /// How long the requests that may be repeated were held.
    pub(super) fn holds(&self) -> Arc<LockHolds> {
        self.known.holds().clone()
    }

    /// Admits what a door hands over and writes it; answers when it is acknowledged.
    ///
    /// # Errors
    /// `Invalid` where it can't be read; `Unavailable` when a bound is reached or the WAL can't be
    /// written; `Conflict` where its key was given to another body, or a step makes the topic's facts.
    /// Nothing was admitted then.
    pub async fn write(self: &Arc<Self>, write: Write) -> Result<WriteOutcome> {
        if let Some((step, from)) = &self.step {
            return Err(made_by_step(self.memory.name(), step, from));
        }
        let by_chunk = write.chunk.is_some() || matches!(write.input, Input::Payload(_));
        if write.key.is_some() && by_chunk {
            return Err(Error::Invalid(
                "a chunk of an ingested file may be repeated as it is; send it without `idempotency-key`".into(),
            ));
        }
        let now_us = self.memory.now_us();
        if let Some(key) = &write.key {
            let standing = self.known.lock().standing(key, now_us);
            match standing {
                Standing::New => {}
                Standing::Repeated(known) => {
                    let again = Written::again(&known);
                    return self.acknowledged(again, Vec::new(), 0).await;
                }
                Standing::OtherBody => return Err(other_body(key)),
            }
        }
        self.memory.check()?;
        let from = write.chunk.as_ref().map(|c| c.from);
        let Write {
            input,
            key,
            chunk,
            source,
        } = write;
        let worker = self.clone();
        let (payload, encoded, unknown_fields) = match input {
            Input::Records(body) => {
                let bytes = body.work_bytes();
                let admit = move || worker.admit(body, now_us, (key, chunk, source));
                in_turn(bytes, admit).await?
            }
            Input::Payload(body) => {
                let decode = move || Ok((worker.decode(&body, from)?, body, 0));
                // What is looked through may be large.
                in_turn(usize::MAX, decode).await?
            }
        };
        self.submit(payload, encoded, from, unknown_fields).await
    }

    /// What is to be written of records, also encoded, and how many facts carry undeclared fields.
    fn admit(
        &self,
        body: RequestBody,
        now_us: i64,
        (key, chunk, source): (Option<RequestKey>, Option<IngestChunk>, Option<String>),
    ) -> Result<(Payload, Bytes, u64)> {
        let admitted = body.admit(&self.admission())?;
        let unknown = admitted.unknown_fields;
        let ingest = chunk.map(|c| c.upto(admitted.record_count)).transpose()?;
        let mut payload = Payload::new(admitted, now_us, ingest, source);
        payload.request = key.map(|key| RequestKey {
            unknown_fields: unknown,
            ..key
        });
        let encoded = payload.encode()?;
        Ok((payload, encoded, unknown))
    }

    /// What was admitted elsewhere. What the WAL holds must be readable when it is replayed, so it
    /// is checked before.
    fn decode(&self, encoded: &Bytes, from: Option<u64>) -> Result<Payload> {
        let limit = of_request(self.memory.options.max_request_bytes);
        let mut payload = Payload::decode(encoded, limit)
            .map_err(|e| Error::Invalid(format!("the body is not a payload: {e}")))?;
        let topic = self.memory.log.topic();
        payload.take_fields_of(&topic, self.admission().schema())?;
        payload.check(&topic, from)?;
        Ok(payload)
    }

    async fn submit(
        &self,
        payload: Payload,
        encoded: Bytes,
        ingest_from: Option<u64>,
        unknown_fields: u64,
    ) -> Result<WriteOutcome> {
        let dead: Vec<RefusedRecord> = payload
            .dead
            .iter()
            .map(|d| RefusedRecord {
                record: d.record,
                line: d.line,
                field: d.field.clone(),
                reason: d.reason.clone(),
            })
            .collect();
        let (reply, answer) = oneshot::channel();
        let request = WriteRequest::Write {
            payload: Box::new(payload),
            encoded,
            ingest_from,
            reply,
        };
        let gone = || Error::Unavailable("the daemon is stopping".into());
        self.appender.send(request).await?;
        let written = answer.await.map_err(|_| gone())??;
        if !written.repeated {
            self.count(IntakeCount {
                facts: written.facts,
                dead_letters: written.dead_letters,
                duplicates: written.duplicates,
            });
        }
        self.acknowledged(written, dead, unknown_fields).await
    }

    /// The outcome of what is durable, once it is to be acknowledged.
    async fn acknowledged(
        &self,
        written: Written,
        dead: Vec<RefusedRecord>,
        unknown_fields: u64,
    ) -> Result<WriteOutcome> {
        let range = written.range;
        if self.ack == Ack::Landed {
            let gone = || Error::Unavailable("the daemon is stopping".into());
            let mut landed = self.landed.clone();
            tokio::select! {
                reached = landed.wait_for(|at| *at >= range.end) => {
                    reached.map_err(|_| gone())?;
                }
                e = self.failure.wait() => return Err(e),
            }
        }
        Ok(WriteOutcome {
            partition: self.memory.partition,
            range,
            facts: written.facts,
            duplicates: written.duplicates,
            dead_letters: written.dead_letters,
            dead,
            unknown_fields: unknown_fields.max(written.unknown_fields),
            repeated: written.repeated,
        })
    }

    /// Makes facts visible of a partition that is not the WAL's. Returns `false`, and does nothing,
    /// where the lane does not go on at the start of the piece: another daemon has landed facts of
    /// it, or it was given up. Duplicates are not looked for.
    pub fn push(&self, piece: PlacedFacts) -> bool {
        let memory = &self.memory;
        if piece.partition == memory.partition {
            return false;
        }
        let facts = piece.facts.clone();
        let pushed = memory.delta.lock().push(piece);
        if pushed {
            let event_time = &memory.log.topic().event_time;
            memory
                .gauges
                .note_facts(&facts, event_time, memory.now_us());
        }
        pushed
    }

    /// Leaves the duplicates out of what was admitted to a lane, and makes the others visible as
    /// the piece that `place` makes of them. Returns `false`, and keeps nothing, where the lane
    /// does not go on at the start of the piece. `now_us` is when it was admitted, in microseconds
    /// since 1970.
    pub(crate) fn push_new(
        &self,
        admitted: Admitted,
        now_us: i64,
        place: impl FnOnce(Admitted) -> Result<PlacedFacts>,
    ) -> Result<bool> {
        // Held until the facts are visible or their keys forgotten, and taken before the delta's
        // lock, as the appender does.
        let mut seen = self.keys.lock();
        let (admitted, duplicates) = match seen.as_deref_mut() {
            Some(seen) => seen.check(admitted, now_us)?,
            None => (admitted, Vec::new()),
        };
        // The records' buffers are shared, not copied.
        let facts = admitted.facts.clone();
        let pushed = place(admitted).map(|piece| {
            let count = IntakeCount {
                facts: piece.facts.num_rows() as u64,
                dead_letters: piece.dead.as_ref().map_or(0, |d| d.num_rows() as u64),
                duplicates: duplicates.len() as u64,
            };
            let pushed = self.push(piece);
            if pushed {
                self.count(count);
            }
            pushed
        });
        if !matches!(pushed, Ok(true))
            && let Some(seen) = seen.as_deref_mut()
        {
            seen.forget(&facts)?;
        }
        pushed
    }

    /// Why the topic takes no facts, as far as is known: memory for them is full, or the WAL took
    /// nothing a moment ago, or its disk still has no room.
    pub fn trouble(&self) -> Option<String> {
        if let Err(e) = self.memory.check() {
            return Some(e.to_string());
        }
        let (at, why) = self.refused.lock().clone()?;
        let wal = &self.memory.options.wal;
        let lasts = at.elapsed() < REFUSED_FOR || free_bytes(wal) < LEAST_FREE_BYTES;
        lasts.then_some(why)
    }

    /// Requests that wait to be appended to the WAL.
    pub fn waiting_requests(&self) -> usize {
        self.appender.waiting()
    }

    /// Counts records that were acknowledged.
    fn count(&self, count: IntakeCount) {
        self.intake.lock().note(&count, self.memory.now_us());
    }

    /// What came of the records since the daemon started.
    pub fn intake(&self) -> IntakeCount {
        self.intake.lock().total()
    }

    /// Why the dead letters of the last minutes are too many, if they are.
    pub fn too_many_dead(&self) -> Option<String> {
        let now_us = self.memory.now_us();
        let intake = self.intake.lock();
        intake.too_many_dead(&self.dead_letter_bound, now_us)
    }
}

/// That a topic takes no facts but those that a step makes.
pub fn made_by_step(topic: &str, step: &str, from: &str) -> Error {
    Error::Conflict(format!(
        "topic `{topic}` takes no facts: step `{step}` makes them of topic `{from}`; send them there"
    ))
}

/// How much room a disk has, in bytes; much where that can't be said.
fn free_bytes(dir: &std::path::Path) -> u64 {
    let told = rustix::fs::statvfs(dir);
    told.map_or(u64::MAX, |t| t.f_bavail.saturating_mul(t.f_frsize))
}

/// Admission to a topic, whose fields are read as `fields` say.
pub(super) fn admission(
    topic: &Topic,
    unknown: UnknownFields,
    fields: &[FieldSettings],
    options: &DaemonOptions,
) -> Result<Admission> {
    let record_bytes = usize::try_from(options.max_record_bytes).unwrap_or(usize::MAX);
    Admission::new(
        &topic.field_schema(),
        &topic.event_time,
        unknown,
        record_bytes,
    )
    .map(|admission| admission.reading(fields))
    .map_err(|e| Error::Invalid(format!("topic `{}`: {e}", topic.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_ends_where_a_file_can() {
        let chunk = |from| IngestChunk {
            id: "f".into(),
            from,
        };
        let (last, far) = (i64::MAX as u64, u64::MAX);
        assert!(matches!(chunk(7).upto(3), Ok((_, 10))));
        assert!(matches!(chunk(last - 3).upto(3), Ok((_, upto)) if upto == last));
        for (from, records) in [(last, 1), (last - 3, 4), (far, 1), (far, 0), (far - 1, far)] {
            let refused = chunk(from).upto(records);
            assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
        }
    }
}
