//! How a daemon and its topics run: what the project's settings say, as values.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anabranch_shared::Reference;
use anabranch_shared::settings::{
    Ack, DeadLetterShare, DedupSettings, FieldSettings, KafkaSettings, StepSettings, TopicSettings,
    UnknownFields,
};

use crate::intake::counts::DeadLetterBound;
use crate::metrics::SpeedMetrics;

/// How a daemon runs.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// The folder of the WALs.
    pub wal: PathBuf,
    /// How long acknowledged facts wait before they land.
    pub land_every: Duration,
    /// How many facts make a landing before its time.
    pub land_facts: u64,
    /// How many bytes of facts make a landing before its time.
    pub land_bytes: u64,
    /// Bytes that the WAL of a topic may take.
    pub wal_bytes: u64,
    /// Bytes at which a WAL begins a new segment file; whole segments are removed once landed.
    pub wal_segment_bytes: u64,
    /// Bytes that facts and deltas of all topics may take in memory.
    pub memory_bytes: u64,
    /// Bytes of memory in use at which landed deltas are spilled to disk; below `memory_bytes`.
    pub spill_at_bytes: u64,
    /// Bytes of disk that spilled deltas may take; 0 for none.
    pub spill_bytes: u64,
    /// Bytes of request bodies that are taken in at once.
    pub request_memory_bytes: u64,
    /// Longer records are dead letters.
    pub max_record_bytes: u64,
    /// Longer requests are refused.
    pub max_request_bytes: u64,
    /// How long a request with an idempotency key may be repeated.
    pub idempotency_window: Duration,
    /// The most such keys of a topic in that time.
    pub idempotency_keys: u64,
    /// With more pieces than this in a view's delta the smaller ones are merged; at least 2.
    pub most_pieces: usize,
    /// Facts meet what has landed of references at most so much later.
    pub meet_every: Duration,
    /// Bytes of facts of a topic that are kept for a moment after they have landed, where other
    /// daemons ask.
    pub recently_landed_bytes: usize,
    /// Commits between checkpoints of a log.
    pub checkpoint_every: u64,
    /// Threads that fold.
    pub threads: usize,
    /// The time, in microseconds since 1970.
    pub now_us: fn() -> i64,
    /// Where it counts and times what happens.
    pub metrics: SpeedMetrics,
    /// Set when the daemon stops.
    pub stop: Arc<AtomicBool>,
}

impl DaemonOptions {
    /// The time, in milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        (self.now_us)() / 1_000
    }
}

/// A step, and where its program runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepOptions {
    /// As the project says.
    pub settings: StepSettings,
    /// The project's folder.
    pub dir: PathBuf,
    /// The references that its SQL may join.
    pub references: Vec<Reference>,
    /// The folder with the Python module that its program may import.
    pub python: Option<PathBuf>,
}

/// How a daemon treats a topic.
#[derive(Clone, Debug)]
pub struct TopicOptions {
    /// When facts are acknowledged.
    pub ack: Ack,
    /// What happens to undeclared fields.
    pub unknown_fields: UnknownFields,
    /// The Kafka topic that its facts come from, if they do.
    pub kafka: Option<KafkaSettings>,
    /// The step that makes its facts, if one does: it takes no others.
    pub step: Option<StepOptions>,
    /// How duplicates are known; none are looked for where absent.
    pub dedup: Option<DedupSettings>,
    /// When dead letters are too many.
    pub dead_letter_bound: DeadLetterBound,
    /// How its fields are read.
    pub fields: Vec<FieldSettings>,
}

impl Default for TopicOptions {
    /// Acknowledges from the WAL, keeps undeclared fields, looks for nothing more.
    fn default() -> Self {
        Self {
            ack: Ack::Wal,
            unknown_fields: UnknownFields::Keep,
            kafka: None,
            step: None,
            dedup: None,
            dead_letter_bound: DeadLetterBound {
                share: DeadLetterShare::Off,
                count: 1,
            },
            fields: Vec::new(),
        }
    }
}

impl TopicOptions {
    /// As the project says, without a step.
    pub fn of(topic: &TopicSettings) -> Self {
        Self {
            ack: topic.ack,
            unknown_fields: topic.unknown_fields,
            kafka: topic.kafka.clone(),
            step: None,
            dedup: topic.dedup.clone(),
            dead_letter_bound: DeadLetterBound {
                share: topic.dead_letter_share,
                count: topic.dead_letter_count,
            },
            fields: topic.fields.clone(),
        }
    }
}
