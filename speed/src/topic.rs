//! One topic of a daemon, of four parts: what writes, what lands and follows, what tends the views'
//! pieces, and what pins; each holds the locks that are its own.

use std::collections::HashMap;
use std::sync::Arc;

use anabranch_shared::{
    Generation, GiveWay, HeldMutex, LockHolds, Log, PartitionId, Result, Topic, planted,
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

pub(crate) use self::behind::Behind;
use self::keys::{Keys, open_keys};
pub(crate) use self::memory::ServedAs;
use self::memory::TopicMemory;
use self::pinner::TopicPinner;
use self::recovery::{OpenedWal, open_wal};
pub use self::upkeep::{Doing, Upkeep};
use self::writer::{Appending, admission};
pub use self::writer::{
    IngestChunk, Input, RefusedRecord, Write, WriteOutcome, Writer, made_by_step,
};
use crate::delta::TopicDelta;
use crate::delta::bounds::Bounds;
use crate::failure::Failure;
use crate::intake::dedup::DedupStatus;
use crate::intake::idempotency::{RequestBounds, Requests};
use crate::metrics::TopicGauges;
use crate::options::{DaemonOptions, TopicOptions};
use crate::topic::appender::{Appender, Appenders, Ingested, WriteRequest};

pub(crate) mod appender;
mod behind;
mod keys;
mod memory;
mod pinner;
mod recovery;
mod tending;
mod upkeep;
mod writer;

/// Requests that may wait for the appender.
const WAITING_REQUESTS: usize = 1_024;

/// One topic of a daemon.
///
/// Locks, in the order in which they are taken by who holds several:
///
/// 1. The turn of [`Upkeep`], for those who land, follow the log or begin to serve a view, so it is
///    held while they read and write. Neither an acknowledgement nor a query takes it; whoever waits
///    until facts have landed waits for those who hold it.
/// 2. The turn of `Tending`, for those who put other pieces in the place of a view's: adopt a
///    boundary, merge, spill. What lands meanwhile is added beside. Neither an acknowledgement nor a
///    query takes it.
/// 3. The turns of `folding` of the pinner, one of a view: queries that need the view's states of
///    unlanded facts have them made by one of them, and wait for that one. Nothing else is taken
///    under it but the delta's lock, briefly.
/// 4. `pinning` of the pinner: taken by each query, once what it needs is folded up to a few facts.
/// 5. The keys, where duplicates are looked for: held by the appender from before a group is made
///    until it is durable and visible, so an acknowledgement waits for the group before its own.
/// 6. `known` of the writer: taken by each request with a key, for a look.
/// 7. `delta` of the memory: taken by each acknowledgement and each query, for a look or an
///    addition.
///
/// The others are taken alone. Those of the log's tables are at [`anabranch_shared::table::Table`];
/// who takes them holds none of the last four. Of the last four each hold is measured.
#[derive(Debug)]
pub struct TopicStream {
    memory: Arc<TopicMemory>,
    keys: Arc<Keys>,
    writer: Arc<Writer>,
    upkeep: Arc<Upkeep>,
    pinner: TopicPinner,
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
        let unknown = settings.unknown_fields;
        let admission = admission(&log.topic(), unknown, &settings.fields, options)?;
        let head = log.head();
        let landed = head.get(partition);
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
        let seen = open_keys(&log, settings, &pieces, options).await?;
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
        let refused = Arc::new(Mutex::new(None));
        options.metrics.begin(log.name());
        let gauges = Arc::new(TopicGauges::default());
        gauges.note_wal(wal.bytes());
        let appender = Appender {
            log: log.clone(),
            partition,
            wal,
            delta: delta.clone(),
            requests: receiver,
            ingested,
            dedup: seen.clone(),
            known: known.clone(),
            key_log,
            refused: refused.clone(),
            gauges: gauges.clone(),
            now_us: options.now_us,
            last_group: 0,
            open: None,
        };
        let appender = Arc::new(appenders.add(appender, requests));
        // What was landed and not cut when the daemon was killed may fill the WAL, and then nothing
        // comes that could land and cut it.
        appender.try_send(WriteRequest::Cut(landed));
        let memory = Arc::new(TopicMemory {
            log,
            partition,
            delta,
            options: options.clone(),
            bounds: bounds.clone(),
            gauges,
        });
        let keys = Arc::new(Keys::new(memory.clone(), seen));
        let (tell_landed, landed) = watch::channel(landed);
        let appending = Appending {
            appender: appender.clone(),
            known,
            refused,
        };
        let writer = Writer::new(
            &memory, &keys, settings, admission, appending, landed, failure,
        );
        let ack = settings.ack;
        let upkeep = Upkeep::new(&memory, &keys, ack, give_way, &appender, tell_landed);
        let upkeep = Arc::new(upkeep);
        Ok(Arc::new(Self {
            pinner: TopicPinner::new(&memory, &upkeep, give_way),
            memory,
            keys,
            writer: Arc::new(writer),
            upkeep,
        }))
    }

    /// What writes to the topic.
    pub fn writer(&self) -> &Arc<Writer> {
        &self.writer
    }

    /// What lands its facts and follows its log.
    pub fn upkeep(&self) -> &Upkeep {
        &self.upkeep
    }

    /// What pins it.
    pub(crate) fn pinner(&self) -> &TopicPinner {
        &self.pinner
    }

    /// The topic's name.
    pub fn name(&self) -> &str {
        self.memory.name()
    }

    /// The topic, with the fields that this daemon knows.
    pub fn topic(&self) -> Arc<Topic> {
        self.memory.log.topic()
    }

    /// The topic's log.
    pub fn log(&self) -> &Arc<Log> {
        &self.memory.log
    }

    /// The partition to which this daemon appends.
    pub fn partition(&self) -> PartitionId {
        self.memory.partition
    }

    /// The time, in microseconds since 1970.
    pub(crate) fn now_us(&self) -> i64 {
        self.memory.now_us()
    }

    /// Reads something off the topic's memory. It should take no longer than a look: whoever
    /// acknowledges or asks waits meanwhile.
    pub fn with_delta<T>(&self, read: impl FnOnce(&TopicDelta) -> T) -> T {
        self.memory.with_delta(read)
    }

    /// Whether facts and deltas take all the memory that they may.
    pub(crate) fn is_full(&self) -> bool {
        self.memory.is_full()
    }

    /// The generation of a view that answers.
    pub fn served(&self, view: &str) -> Option<Generation> {
        self.memory.served(view)
    }

    /// Stops serving a view.
    pub(crate) fn forget(&self, view: &str) {
        self.memory.forget(view);
    }

    /// How it stands with the keys by which duplicates are known, where they are looked for.
    pub fn dedup_status(&self) -> Option<DedupStatus> {
        self.keys.status()
    }

    /// How new its facts are, and what its WAL takes.
    pub fn gauges(&self) -> &TopicGauges {
        &self.memory.gauges
    }

    /// How long the locks were held that an acknowledgement or a query takes.
    pub fn lock_holds(&self) -> Vec<Arc<LockHolds>> {
        let mut holds = vec![
            self.memory.delta.holds().clone(),
            self.pinner.holds(),
            self.writer.holds(),
            self.memory.log.table().holds().clone(),
        ];
        holds.extend(self.keys.holds());
        holds
    }
}
