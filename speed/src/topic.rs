//! One topic of a daemon: admission, the WAL's appender, the landing loop, and the deltas of the
//! topic's views.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_shared::settings::{Ack, FieldSettings, UnknownFields};
use anabranch_shared::{
    Backoff, Error, FoldOptions, FoldProgress, Generation, GiveWay, HeldMutex, LockHolds, Log,
    Master, Offset, OffsetRange, Offsets, PartitionId, Result, Topic, planted,
};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot, watch};

use self::duplicates::open_dedup;
use self::landing::FailedLanding;
use self::pinning::FoldingTurns;
use self::recovery::{OpenedWal, open_wal};
pub use self::retries::Doing;
use self::retries::Retries;
use crate::delta::TopicDelta;
use crate::delta::bounds::Bounds;
use crate::failure::Failure;
use crate::intake::admission::{Admission, Admitted};
use crate::intake::arrow_stream::of_request;
use crate::intake::counts::{DeadLetterBound, Intake, IntakeCount};
use crate::intake::dedup::{Dedup, DedupStatus};
use crate::intake::idempotency::{RequestBounds, RequestKey, Requests, Standing};
use crate::intake::payload::Payload;
use crate::intake::turns::in_turn;
use crate::metrics::TopicGauges;
use crate::options::{DaemonOptions, TopicOptions};
use crate::topic::appender::{
    Appender, AppenderHandle, Appenders, Ingested, WriteRequest, Written, other_body,
};

pub(crate) mod appender;
mod duplicates;
mod following;
mod landing;
mod lanes;
mod pinning;
mod recovery;
mod relief;
mod retries;

/// How long the log is not followed after there was no room for it, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Requests that may wait for the appender.
const WAITING_REQUESTS: usize = 1_024;

/// For so long it is believed that the WAL takes nothing after it last took nothing.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// With less room on its disk it is believed for longer.
const LEAST_FREE_BYTES: u64 = 4 << 20;

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

/// One topic of a daemon.
///
/// Locks, in the order in which they are taken by who holds several:
///
/// 1. `upkeep`: a turn for those who land, follow the log or begin to serve a view, so it is held
///    while they read and write. Neither an acknowledgement nor a query takes it; whoever waits
///    until facts have landed waits for those who hold it.
/// 2. `tending`: a turn for those who put other pieces in the place of a view's: adopt a boundary,
///    merge, spill. What lands meanwhile is added beside. Neither an acknowledgement nor a query
///    takes it.
/// 3. The turns of `folding`, one of a view: queries that need the view's states of unlanded facts
///    have them made by one of them, and wait for that one. Nothing else is taken under it but the
///    delta's lock, briefly.
/// 4. `pinning`: taken by each query, once what it needs is folded up to a few facts.
/// 5. `dedup`, where duplicates are looked for: held by the appender from before a group is made
///    until it is durable and visible, so an acknowledgement waits for the group before its own.
/// 6. `known`: taken by each request with a key, for a look.
/// 7. `delta`: taken by each acknowledgement and each query, for a look or an addition.
///
/// The others are taken alone. Those of the log's tables are at [`anabranch_shared::table::Table`];
/// who takes them holds none of the last four. Of `pinning`, `dedup`, `known` and `delta` each hold
/// is measured.
#[derive(Debug)]
pub struct TopicStream {
    ack: Ack,
    partition: PartitionId,
    log: Arc<Log>,
    /// By the topic's fields as they are declared, as far as this daemon knows.
    admission: RwLock<Arc<Admission>>,
    unknown_fields: UnknownFields,
    delta: Arc<HeldMutex<TopicDelta>>,
    requests: AppenderHandle,
    landed: watch::Sender<Offset>,
    /// Held by whoever lands, follows the log or begins to serve a view.
    upkeep: tokio::sync::Mutex<()>,
    /// Held by whoever adopts boundaries, merges pieces or spills them.
    tending: tokio::sync::Mutex<()>,
    /// Held by whoever folds much of a view's unlanded facts, or merges their states.
    folding: Mutex<BTreeMap<String, Arc<FoldingTurns>>>,
    /// Held by whoever chooses a pin, so that all views of one query end at one head.
    pinning: tokio::sync::Mutex<()>,
    pinning_holds: Arc<LockHolds>,
    options: DaemonOptions,
    bounds: Arc<Bounds>,
    /// What landings give way to: answers of any topic.
    give_way: GiveWay,
    /// When the log is followed again, where there was no room for it.
    pause: Mutex<Backoff>,
    failure: Failure,
    commits: std::sync::atomic::AtomicU64,
    /// The keys that the topic has seen, where duplicates are looked for.
    dedup: Option<Arc<HeldMutex<Dedup>>>,
    dedup_status: Mutex<DedupStatus>,
    /// The requests that may be repeated.
    known: Arc<HeldMutex<Requests>>,
    dead_letter_bound: DeadLetterBound,
    intake: Mutex<Intake>,
    gauges: Arc<TopicGauges>,
    /// Why the WAL took nothing when it was last to, and when that was.
    refused: Arc<Mutex<Option<(Instant, String)>>>,

    /// The last landing, where it failed.
    failed_landing: Mutex<Option<FailedLanding>>,
    retries: Mutex<Retries>,
    /// Up to where answers with what other daemons hold have gone: no later one is to go less far
    /// without a look at the log.
    answered: Mutex<Offsets>,
    /// When another daemon last asked what this one holds, in milliseconds since 1970.
    asked_at_ms: std::sync::atomic::AtomicI64,
}

impl TopicStream {
    /// Opens a topic: replays its WAL, lands nothing yet.
    pub(crate) async fn open(
        log: Arc<Log>,
        partition: PartitionId,
        settings: &TopicOptions,
        options: &DaemonOptions,
        bounds: &Arc<Bounds>,
        give_way: &GiveWay,
        (appenders, failure): (&Appenders, &Failure),
    ) -> Result<Arc<Self>> {
        let topic = log.topic();
        let head = log.head();
        let landed = head.get(partition);
        let admission =
            admission(&topic, settings.unknown_fields, options)?.reading(&settings.fields);
        let OpenedWal {
            wal,
            pieces,
            key_log,
            requests: found,
        } = open_wal(&log, partition, options).await?;
        let mut known = Requests::new(RequestBounds {
            window_us: i64::try_from(options.idempotency_window.as_micros()).unwrap_or(i64::MAX),
            most: usize::try_from(options.idempotency_keys).unwrap_or(usize::MAX),
        });
        known.load(found, (options.now_us)());
        let known = Arc::new(HeldMutex::new("requests", known));
        let dedup = open_dedup(&log, settings, &pieces, options).await?;
        let mut delta = TopicDelta {
            upto: head,
            ..Default::default()
        };
        delta.take_lane(partition);
        let mut ingested = HashMap::new();
        for piece in pieces {
            if let Some((id, upto)) = &piece.ingest {
                let end = u64::try_from(piece.range.end.0).unwrap_or(0);
                ingested.insert(id.clone(), Ingested { upto: *upto, end });
            }
            delta.push(piece);
        }
        if planted("planted-batch-replayed")
            && let Some(last) = delta.unlanded.iter().last().cloned()
        {
            delta.unlanded.push(last);
        }
        let (requests, receiver) = mpsc::channel(WAITING_REQUESTS);
        let delta = Arc::new(HeldMutex::new("delta", delta));
        let refused = Arc::new(Mutex::default());
        options.metrics.begin(&topic.name);
        let gauges = Arc::new(TopicGauges::default());
        gauges.note_wal(wal.bytes());
        let appender = Appender {
            log: log.clone(),
            partition,
            wal,
            delta: delta.clone(),
            requests: receiver,
            ingested,
            dedup: dedup.clone(),
            known: known.clone(),
            key_log,
            refused: refused.clone(),
            gauges: gauges.clone(),
            now_us: options.now_us,
            last_group: 0,
            open: None,
        };
        let requests = appenders.add(appender, requests);
        // What was landed and not cut when the daemon was killed may fill the WAL, and then nothing
        // comes that could land and cut it.
        requests.try_send(WriteRequest::Cut(landed));
        let stream = Self {
            ack: settings.ack,
            unknown_fields: settings.unknown_fields,
            partition,
            log,
            admission: RwLock::new(Arc::new(admission)),
            delta,
            requests,
            landed: watch::Sender::new(landed),
            upkeep: tokio::sync::Mutex::default(),
            tending: tokio::sync::Mutex::default(),
            folding: Mutex::default(),
            pinning: tokio::sync::Mutex::default(),
            pinning_holds: LockHolds::new("pinning"),
            options: options.clone(),
            bounds: bounds.clone(),
            give_way: give_way.clone(),
            pause: Mutex::new(Backoff::new(FIRST_PAUSE, LONGEST_PAUSE)),
            failure: failure.clone(),
            commits: std::sync::atomic::AtomicU64::new(0),
            dedup,
            dedup_status: Mutex::default(),
            known,
            dead_letter_bound: settings.dead_letter_bound,
            intake: Mutex::default(),
            gauges,
            refused,

            failed_landing: Mutex::default(),
            retries: Mutex::default(),
            answered: Mutex::default(),
            asked_at_ms: std::sync::atomic::AtomicI64::new(i64::MIN),
        };
        Ok(Arc::new(stream))
    }

    /// The topic's name.
    pub fn name(&self) -> &str {
        self.log.name()
    }

    /// The topic, with the fields that this daemon knows.
    pub fn topic(&self) -> Arc<Topic> {
        self.log.topic()
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
        let admission = admission(topic, self.unknown_fields, &self.options)?.reading(fields);
        // Who admits may know fewer fields than who keeps the facts, never more.
        self.log.redeclare(topic, self.options.now_ms()).await?;
        *self.admission.write() = Arc::new(admission);
        Ok(())
    }

    /// The topic's log.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// The partition to which this daemon appends.
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// Admission to the topic.
    pub(crate) fn admission(&self) -> Arc<Admission> {
        self.admission.read().clone()
    }

    /// The time, in microseconds since 1970.
    pub(crate) fn now_us(&self) -> i64 {
        (self.options.now_us)()
    }

    /// How many records of an ingested file are acknowledged.
    pub fn ingested(&self, id: &str) -> u64 {
        if self.ack == Ack::Landed {
            return self.log.ingested(id);
        }
        let waiting = self.with_delta(|d| {
            let ingested = d.unlanded.iter().filter_map(|p| p.ingest.as_ref());
            let of_file = ingested.filter(|(i, _)| i == id);
            of_file.map(|(_, upto)| *upto).max()
        });
        waiting.unwrap_or(0).max(self.log.ingested(id))
    }

    /// How long the locks were held that an acknowledgement or a query takes.
    pub fn lock_holds(&self) -> Vec<Arc<LockHolds>> {
        let mut holds = vec![
            self.delta.holds().clone(),
            self.pinning_holds.clone(),
            self.known.holds().clone(),
            self.log.table().holds().clone(),
        ];
        holds.extend(self.dedup.as_ref().map(|dedup| dedup.holds().clone()));
        holds
    }

    /// Reads something off the topic's memory. It should take no longer than a look: whoever
    /// acknowledges or asks waits meanwhile.
    pub fn with_delta<T>(&self, read: impl FnOnce(&TopicDelta) -> T) -> T {
        read(&self.delta.lock())
    }

    /// Admits records and writes them; answers when they are acknowledged.
    ///
    /// # Errors
    /// `Unavailable` when a bound is reached or the WAL can't be written: nothing was admitted then.
    pub async fn write(
        self: &Arc<Self>,
        admit: impl FnOnce(&Admission) -> Result<Admitted> + Send + 'static,
        source: Option<String>,
        ingest: Option<IngestChunk>,
        now_us: i64,
    ) -> Result<WriteOutcome> {
        // What is looked through may be large.
        self.write_once(None, usize::MAX, admit, source, ingest, now_us)
            .await
    }

    /// As [`TopicStream::write`], where a request of a key is written once, however often it is
    /// repeated within `idempotency_window`; the others get the answer of the first. `bytes` are
    /// those that are looked through to admit it.
    ///
    /// # Errors
    /// Besides those of [`TopicStream::write`]: `Conflict` where the key was given to another body,
    /// `Unavailable` where too many keys are remembered.
    pub async fn write_once(
        self: &Arc<Self>,
        request: Option<RequestKey>,
        bytes: usize,
        admit: impl FnOnce(&Admission) -> Result<Admitted> + Send + 'static,
        source: Option<String>,
        ingest: Option<IngestChunk>,
        now_us: i64,
    ) -> Result<WriteOutcome> {
        if let Some(request) = &request {
            let standing = self.known.lock().standing(request, now_us);
            match standing {
                Standing::New => {}
                Standing::Repeated(known) => {
                    return self
                        .acknowledged(Written::again(&known), Vec::new(), 0)
                        .await;
                }
                Standing::OtherBody => return Err(other_body(request)),
            }
        }
        self.check_memory()?;
        let worker = self.clone();
        let upto = ingest.clone();
        let (payload, encoded, unknown_fields) = in_turn(bytes, move || {
            let admitted = admit(&worker.admission())?;
            let unknown = admitted.unknown_fields;
            let ingest = upto.map(|c| c.upto(admitted.record_count)).transpose()?;
            let mut payload = Payload::new(admitted, now_us, ingest, source);
            payload.request = request.map(|request| RequestKey {
                unknown_fields: unknown,
                ..request
            });
            let encoded = payload.encode()?;
            Ok((payload, encoded, unknown))
        })
        .await?;
        let from = ingest.map(|c| c.from);
        self.submit(payload, encoded, from, unknown_fields).await
    }

    /// Writes a payload that was admitted elsewhere; answers when it is acknowledged.
    ///
    /// # Errors
    /// As [`TopicStream::write`].
    pub async fn write_payload(
        self: &Arc<Self>,
        body: Bytes,
        from: Option<u64>,
    ) -> Result<WriteOutcome> {
        self.check_memory()?;
        let (worker, encoded) = (self.clone(), body.clone());
        let payload = in_turn(usize::MAX, move || {
            // What the WAL holds must be readable when it is replayed, so it is checked before.
            let limit = of_request(worker.options.max_request_bytes);
            let mut payload = Payload::decode(&encoded, limit)
                .map_err(|e| Error::Invalid(format!("the body is not a payload: {e}")))?;
            payload.take_fields_of(&worker.topic(), worker.admission().schema())?;
            payload.check(&worker.topic(), from)?;
            Ok(payload)
        })
        .await?;
        self.submit(payload, body, from, 0).await
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
        self.requests.send(request).await?;
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
            let mut landed = self.landed.subscribe();
            tokio::select! {
                reached = landed.wait_for(|at| *at >= range.end) => {
                    reached.map_err(|_| gone())?;
                }
                e = self.failure.wait() => return Err(e),
            }
        }
        Ok(WriteOutcome {
            partition: self.partition,
            range,
            facts: written.facts,
            duplicates: written.duplicates,
            dead_letters: written.dead_letters,
            dead,
            unknown_fields: unknown_fields.max(written.unknown_fields),
            repeated: written.repeated,
        })
    }

    /// Why the topic takes no facts, as far as is known: memory for them is full, or the WAL took
    /// nothing a moment ago, or its disk still has no room.
    pub fn intake_trouble(&self) -> Option<String> {
        if let Err(e) = self.check_memory() {
            return Some(e.to_string());
        }
        let (at, why) = self.refused.lock().clone()?;
        let lasts = at.elapsed() < REFUSED_FOR || free_bytes(&self.options.wal) < LEAST_FREE_BYTES;
        lasts.then_some(why)
    }

    /// Why facts do not land, or the log is not followed, where the last try failed; how often it has
    /// failed, and when it is tried again.
    pub fn landing_trouble(&self) -> Option<String> {
        self.retries.lock().trouble(Instant::now())
    }

    /// The same of one of the two.
    pub fn trouble(&self, doing: Doing) -> Option<String> {
        self.retries.lock().trouble_of(doing, Instant::now())
    }

    /// How many tries in a row to land, or to follow the log, have failed.
    pub fn failed_tries(&self) -> u32 {
        let retries = self.retries.lock();
        Doing::ALL
            .map(|doing| retries.of(doing).backoff.tries())
            .into_iter()
            .max()
            .unwrap_or(0)
    }

    /// Whether something that failed is due to be tried again.
    pub(crate) fn is_due(&self, doing: Doing) -> bool {
        self.retries.lock().of(doing).backoff.is_due(Instant::now())
    }

    /// Whether the last try of something failed.
    pub(crate) fn is_failing(&self, doing: Doing) -> bool {
        self.retries.lock().of(doing).backoff.is_failing()
    }

    /// Notes how a try to land or to follow the log ended. The same trouble is logged once.
    pub(crate) fn note_trouble(&self, doing: Doing, tried: &Result<()>) {
        self.retries
            .lock()
            .note(self.name(), doing, tried, Instant::now());
    }

    /// Counts records that were acknowledged.
    fn count(&self, count: IntakeCount) {
        self.intake.lock().note(&count, (self.options.now_us)());
    }

    /// What came of the records since the daemon started.
    pub fn intake(&self) -> IntakeCount {
        self.intake.lock().total()
    }

    /// How new its facts are, and what its WAL takes.
    pub fn gauges(&self) -> &TopicGauges {
        &self.gauges
    }

    /// Requests that wait to be appended to its WAL.
    pub fn waiting_requests(&self) -> usize {
        self.requests.waiting()
    }

    /// Why the dead letters of the last minutes are too many, if they are.
    pub fn too_many_dead(&self) -> Option<String> {
        let now_us = (self.options.now_us)();
        let intake = self.intake.lock();
        intake.too_many_dead(&self.dead_letter_bound, now_us)
    }

    /// How it stands with the keys by which duplicates are known, where they are looked for. While
    /// a group is written, how it stood when it was last asked.
    pub fn dedup_status(&self) -> Option<DedupStatus> {
        let dedup = self.dedup.as_ref()?;
        let mut last = self.dedup_status.lock();
        if let Some(dedup) = dedup.try_lock() {
            *last = dedup.status((self.options.now_us)());
        }
        Some(*last)
    }

    /// The views for which states are kept: those that have not failed.
    fn folding(&self) -> Vec<(String, Arc<Master>)> {
        let mut masters = self.masters();
        let delta = self.delta.lock();
        masters.retain(|(name, _)| delta.views.get(name).is_some_and(|v| v.failed.is_none()));
        masters
    }

    fn masters(&self) -> Vec<(String, Arc<Master>)> {
        self.delta
            .lock()
            .views
            .iter()
            .map(|(n, v)| (n.clone(), v.master.clone()))
            .collect()
    }

    /// Bytes that facts and deltas may take in memory.
    fn fold_options(&self) -> FoldOptions {
        FoldOptions {
            threads: self.options.threads,
            memory_bytes: usize::try_from(self.options.memory_bytes / 8).unwrap_or(usize::MAX),
            stop: self.options.stop.clone(),
            progress: Arc::new(FoldProgress::default()),
        }
    }

    /// Stops serving a view.
    pub(crate) fn forget(&self, name: &str) {
        let removed = self.delta.lock().views.remove(name);
        drop(removed);
    }

    /// The generation of a view that answers.
    pub fn served(&self, name: &str) -> Option<Generation> {
        self.delta
            .lock()
            .views
            .get(name)
            .map(|v| v.master.generation())
    }
}

/// How much room a disk has, in bytes; much where that can't be said.
fn free_bytes(dir: &std::path::Path) -> u64 {
    let told = rustix::fs::statvfs(dir);
    told.map_or(u64::MAX, |t| t.f_bavail.saturating_mul(t.f_frsize))
}

/// Admission to a topic.
fn admission(topic: &Topic, unknown: UnknownFields, options: &DaemonOptions) -> Result<Admission> {
    let record_bytes = usize::try_from(options.max_record_bytes).unwrap_or(usize::MAX);
    Admission::new(
        &topic.field_schema(),
        &topic.event_time,
        unknown,
        record_bytes,
    )
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
