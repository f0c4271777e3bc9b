//! One topic of a daemon: admission, the WAL's appender, the landing loop, and the deltas of the
//! topic's views.

use std::collections::HashMap;
use std::sync::Arc;

use anabranch_shared::settings::Ack;
use anabranch_shared::{
    Error, FoldOptions, FoldProgress, Generation, Log, Master, Offset, OffsetRange, PartitionId,
    Result, Topic, blocking, planted,
};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use self::duplicates::open_dedup;
use self::recovery::open_wal;
use crate::admission::{Admission, Admitted};
use crate::appender::{Appender, WriteRequest, Written};
use crate::daemon::{DaemonOptions, TopicOptions};
use crate::dedup::{Dedup, DedupStatus};
use crate::delta::TopicDelta;
use crate::failure::Failure;
use crate::intake::{DeadLetterBound, Intake, IntakeCount};
use crate::payload::{FactPiece, Payload};

mod duplicates;
mod following;
mod landing;
mod pinning;
mod recovery;

/// Requests that may wait for the appender.
const WAITING_REQUESTS: usize = 1_024;

/// A chunk of an ingested file.
#[derive(Clone, Debug)]
pub struct IngestChunk {
    /// The file's content hash, or the id that its user gave.
    pub id: String,
    /// The number of the chunk's first record in the file.
    pub from: u64,
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
    /// The records that did not.
    pub dead: Vec<RefusedRecord>,
    /// How many facts carried undeclared fields.
    pub unknown_fields: u64,
    /// Whether it was there already, so that nothing was written.
    pub repeated: bool,
}

/// One topic of a daemon.
#[derive(Debug)]
pub struct TopicStream {
    topic: Topic,
    ack: Ack,
    partition: PartitionId,
    log: Arc<Log>,
    admission: Admission,
    delta: Arc<Mutex<TopicDelta>>,
    requests: mpsc::Sender<WriteRequest>,
    landed: watch::Sender<Offset>,
    /// Held by whoever lands, follows or adopts.
    upkeep: tokio::sync::Mutex<()>,
    /// Held by whoever chooses a pin, so that all views of one query end at one head.
    pinning: tokio::sync::Mutex<()>,
    options: DaemonOptions,
    failure: Failure,
    commits: std::sync::atomic::AtomicU64,
    /// The keys that the topic has seen, where duplicates are looked for.
    dedup: Option<Arc<Mutex<Dedup>>>,
    dedup_status: Mutex<DedupStatus>,
    dead_letter_bound: DeadLetterBound,
    intake: Mutex<Intake>,
}

impl TopicStream {
    /// Opens a topic: replays its WAL, lands nothing yet.
    pub(crate) async fn open(
        log: Arc<Log>,
        partition: PartitionId,
        settings: &TopicOptions,
        options: &DaemonOptions,
        failure: &Failure,
    ) -> Result<(Arc<Self>, std::thread::JoinHandle<()>)> {
        let topic = log.topic().clone();
        let head = log.head();
        let landed = head.get(partition);
        let record_bytes = usize::try_from(options.max_record_bytes).unwrap_or(usize::MAX);
        let admission = Admission::new(
            &topic.field_schema(),
            &topic.event_time,
            settings.unknown_fields,
            record_bytes,
        )
        .map_err(|e| Error::Invalid(format!("topic `{}`: {e}", topic.name)))?;
        let (wal, pieces) = open_wal(&topic, partition, landed, options).await?;
        let dedup = open_dedup(&log, settings, &pieces, options).await?;
        let mut delta = TopicDelta {
            next: landed,
            upto: head,
            ..Default::default()
        };
        let mut ingested: HashMap<String, u64> = log.table().with_state(|s| {
            let of = |(app, &n): (&String, &i64)| {
                Some((
                    app.strip_prefix("ingest/")?.to_owned(),
                    u64::try_from(n).ok()?,
                ))
            };
            s.txns.iter().filter_map(of).collect()
        });
        for piece in pieces {
            if let Some((id, upto)) = &piece.ingest {
                ingested.insert(id.clone(), *upto);
            }
            delta.push_unlanded(piece);
        }
        if planted("planted-batch-replayed")
            && let Some(last) = delta.unlanded.back().cloned()
        {
            delta.unlanded_bytes += last.bytes;
            delta.unlanded_facts += last.facts.num_rows();
            delta.unlanded.push_back(last);
        }
        let (requests, receiver) = mpsc::channel(WAITING_REQUESTS);
        let delta = Arc::new(Mutex::new(delta));
        let appender = Appender {
            topic: topic.clone(),
            partition,
            wal,
            delta: delta.clone(),
            requests: receiver,
            ingested,
            dedup: dedup.clone(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("wal-{}", topic.name))
            .spawn({
                let failure = failure.clone();
                move || appender.run(&failure)
            })
            .map_err(|e| Error::Unavailable(format!("can't start a thread: {e}")))?;
        let stream = Self {
            ack: settings.ack,
            topic,
            partition,
            log,
            admission,
            delta,
            requests,
            landed: watch::Sender::new(landed),
            upkeep: tokio::sync::Mutex::default(),
            pinning: tokio::sync::Mutex::default(),
            options: options.clone(),
            failure: failure.clone(),
            commits: std::sync::atomic::AtomicU64::new(0),
            dedup,
            dedup_status: Mutex::default(),
            dead_letter_bound: settings.dead_letter_bound,
            intake: Mutex::default(),
        };
        Ok((Arc::new(stream), thread))
    }

    /// The topic.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The topic's log.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// The partition to which this daemon appends.
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// How many records of an ingested file are acknowledged.
    pub fn ingested(&self, id: &str) -> u64 {
        let waiting = self.with_delta(|d| {
            let of_file = |p: &Arc<FactPiece>| p.ingest.clone().filter(|(i, _)| i == id);
            d.unlanded
                .iter()
                .filter_map(of_file)
                .map(|(_, upto)| upto)
                .max()
        });
        waiting.unwrap_or(0).max(self.log.ingested(id))
    }

    /// Reads something off the topic's memory.
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
        self.check_memory()?;
        let worker = self.clone();
        let upto = ingest.clone();
        let (payload, encoded, unknown_fields) = blocking(move || {
            let admitted = admit(&worker.admission)?;
            let unknown = admitted.unknown_fields;
            let ingest = upto.map(|c| (c.id, c.from + admitted.record_count));
            let payload = Payload::new(admitted, now_us, ingest, source);
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
        let payload = blocking(move || {
            // What the WAL holds must be readable when it is replayed, so it is checked before.
            let payload = Payload::decode(&encoded)
                .map_err(|e| Error::Invalid(format!("the body is not a payload: {e}")))?;
            payload.check(&worker.topic, from)?;
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
        self.requests.send(request).await.map_err(|_| gone())?;
        let Written {
            range,
            facts,
            duplicates,
            repeated,
        } = answer.await.map_err(|_| gone())??;
        if !repeated {
            self.count(IntakeCount {
                facts,
                dead_letters: dead.len() as u64,
                duplicates,
            });
        }
        if self.ack == Ack::Landed && !repeated {
            let mut landed = self.landed.subscribe();
            tokio::select! {
                reached = landed.wait_for(|at| *at >= range.end) => {
                    reached.map_err(|_| gone())?;
                }
                e = self.failure.wait() => return Err(e),
            }
        }
        let partition = self.partition;
        Ok(WriteOutcome {
            partition,
            range,
            facts,
            duplicates,
            dead,
            unknown_fields,
            repeated,
        })
    }

    /// Counts records that were acknowledged.
    fn count(&self, count: IntakeCount) {
        self.intake.lock().note(&count, (self.options.now_us)());
    }

    /// What came of the records since the daemon started.
    pub fn intake(&self) -> IntakeCount {
        self.intake.lock().total()
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

    fn check_memory(&self) -> Result<()> {
        let used = self.delta.lock().size_bytes() as u64;
        if used < self.options.memory_bytes {
            return Ok(());
        }
        Err(Error::Unavailable(format!(
            "topic `{}`: {} MB of facts and deltas are in memory, the bound is {} MB (`memory` in `[daemon]`); run `anabranch batch refresh`, or wait until facts have landed",
            self.topic.name,
            used / 1_000_000,
            self.options.memory_bytes / 1_000_000
        )))
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

    fn fold_options(&self) -> FoldOptions {
        FoldOptions {
            threads: self.options.threads,
            memory_bytes: usize::try_from(self.options.memory_bytes / 4).unwrap_or(usize::MAX),
            stop: self.options.stop.clone(),
            progress: Arc::new(FoldProgress::default()),
        }
    }

    /// Stops serving a view.
    pub(crate) fn forget(&self, name: &str) {
        self.delta.lock().views.remove(name);
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
