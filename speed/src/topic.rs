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

use self::recovery::open_wal;
use crate::admission::{Admission, Admitted};
use crate::appender::{Appender, WriteRequest, Written};
use crate::daemon::{DaemonOptions, TopicOptions};
use crate::delta::TopicDelta;
use crate::failure::Failure;
use crate::payload::{FactPiece, Payload};

mod following;
mod landing;
mod lanes;
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
        let mut delta = TopicDelta {
            upto: head,
            ..Default::default()
        };
        delta.take_lane(partition);
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
            delta.push(piece);
        }
        if planted("planted-batch-replayed")
            && let Some(last) = delta.unlanded.iter().last().cloned()
        {
            delta.unlanded.push(last);
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

    /// Admission to the topic.
    pub(crate) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// The time, in microseconds since 1970.
    pub(crate) fn now_us(&self) -> i64 {
        (self.options.now_us)()
    }

    /// How many records of an ingested file are acknowledged.
    pub fn ingested(&self, id: &str) -> u64 {
        let waiting = self.with_delta(|d| {
            let of_file = |p: &Arc<FactPiece>| p.ingest.clone().filter(|(i, _)| i == id);
            let waiting = d.unlanded.iter().filter_map(of_file);
            waiting.map(|(_, upto)| upto).max()
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
        let facts = payload.facts.num_rows() as u64;
        let dead = payload
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
        let Written { range, repeated } = answer.await.map_err(|_| gone())??;
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
            dead,
            unknown_fields,
            repeated,
        })
    }

    /// Whether facts and deltas take all the memory that they may.
    pub(crate) fn is_full(&self) -> bool {
        self.delta.lock().size_bytes() as u64 >= self.options.memory_bytes
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
