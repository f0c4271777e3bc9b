//! Facts that come from Kafka. Owns the consumer of a topic: which partitions it fills, from which
//! offsets it reads them, and what is known of its lag.
//!
//! Kafka keeps the messages, so there is no WAL: a partition's position is the log's own `txn`, and
//! what was read and has not landed is read again after a restart or by another daemon. Whoever
//! lands a range that does not start at that position is refused, so a daemon that lost a
//! partition without knowing can't land anything of it. What the group commits to Kafka is for
//! monitoring alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anabranch_shared::settings::KafkaSettings;
use anabranch_shared::{Catalogue, Error, OffsetRange, PartitionId, Result, panic_text};
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Reason};
use crate::topic::TopicStream;

mod consumer;
mod identity;
mod messages;
mod start;

use consumer::{Shared, Source};
pub(crate) use messages::Messages;

/// What is known of one partition.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct PartitionLag {
    /// The next message's offset.
    pub position: i64,
    /// How many offsets of Kafka lie past it; `None` before Kafka has said so.
    pub lag_offsets: Option<i64>,
    /// The time stamp of the last message, in milliseconds since 1970.
    pub last_message_ms: Option<i64>,
}

impl PartitionLag {
    /// By how much the newest facts are older than now, in milliseconds; 0 where nothing waits.
    pub fn lag_ms(&self, now_ms: i64) -> Option<i64> {
        match (self.lag_offsets, self.last_message_ms) {
            (Some(0), _) => Some(0),
            (Some(_), Some(last)) => Some((now_ms - last).max(0)),
            _ => None,
        }
    }
}

/// What is known of a source.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct KafkaState {
    /// The partitions that this daemon reads.
    pub partitions: BTreeMap<i32, PartitionLag>,
    /// Why nothing is read any more.
    pub stopped: Option<String>,
    /// What went wrong last and is tried again.
    pub trouble: Option<String>,
    /// Whether reading pauses, because facts wait to land.
    pub paused: bool,
    /// How often its group refused this daemon for good within the last ten minutes.
    #[serde(default)]
    pub refusals: usize,
    /// The consumer group.
    #[serde(default)]
    pub group: String,
    /// How many partitions Kafka's topic has; `None` before Kafka has said so.
    #[serde(default)]
    pub partition_count: Option<i32>,
    /// The id of Kafka's topic; `None` before Kafka has said so, and where it gives none.
    #[serde(default)]
    pub topic_id: Option<String>,
}

impl KafkaState {
    /// The partitions of Kafka's topic that are not among those that are read.
    pub fn unread(&self) -> Vec<i32> {
        let all = 0..self.partition_count.unwrap_or(0);
        all.filter(|p| !self.partitions.contains_key(p)).collect()
    }
}

/// How far the end of a source has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    #[default]
    Reading,
    /// Nothing more is read.
    Read,
    /// Its group knows that it is away.
    Away,
}

/// How far the end of a source has come, for those who wait for it.
#[derive(Debug, Default)]
struct End {
    phase: Mutex<Phase>,
    moved: Condvar,
}

impl End {
    fn come_to(&self, phase: Phase) {
        let mut now = self.phase.lock();
        *now = phase.max(*now);
        self.moved.notify_all();
    }

    /// Waits until it has come so far, or until a time; whether it has.
    fn wait(&self, phase: Phase, until: Option<Instant>) -> bool {
        let mut now = self.phase.lock();
        while *now < phase {
            match until {
                None => self.moved.wait(&mut now),
                Some(until) if self.moved.wait_until(&mut now, until).timed_out() => {
                    return *now >= phase;
                }
                Some(_) => {}
            }
        }
        true
    }
}

/// The consumer of a topic.
#[derive(Debug)]
pub struct KafkaSource {
    state: Arc<Mutex<KafkaState>>,
    stop: Arc<AtomicBool>,
    end: Arc<End>,
}

impl KafkaSource {
    /// Begins to read.
    ///
    /// # Errors
    /// `Invalid` where librdkafka refuses a property.
    pub(crate) fn start(
        stream: &Arc<TopicStream>,
        catalogue: &Arc<Catalogue>,
        settings: KafkaSettings,
        wal: &str,
        failure: &Failure,
    ) -> Result<Self> {
        let state = Arc::new(Mutex::new(KafkaState::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let source = Source::new(Shared {
            stream: stream.clone(),
            catalogue: catalogue.clone(),
            settings,
            wal: wal.to_owned(),
            state: state.clone(),
            stop: stop.clone(),
            runtime: tokio::runtime::Handle::current(),
        })?;
        let (topic, failure) = (stream.name().to_owned(), failure.clone());
        let end = Arc::new(End::default());
        let told = end.clone();
        std::thread::Builder::new()
            .name(format!("kafka-{topic}"))
            .spawn(move || {
                let read = || told.come_to(Phase::Read);
                let run = std::panic::AssertUnwindSafe(|| source.run(read));
                let ended = std::panic::catch_unwind(run);
                told.come_to(Phase::Away);
                if let Err(panic) = ended {
                    failure.report(Reason::Defect(format!(
                        "the thread that reads topic `{topic}` from Kafka panicked: {}",
                        panic_text(panic.as_ref())
                    )));
                }
            })
            .map_err(|e| Error::Unavailable(format!("can't start a thread: {e}")))?;
        Ok(Self { state, stop, end })
    }

    /// What is known of it.
    pub fn state(&self) -> KafkaState {
        self.state.lock().clone()
    }

    /// Ends reading, which may be in the middle of something for a while.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until nothing more is read. What was read and has not landed stays with the topic.
    pub(crate) fn wait_read(&self) {
        self.end.wait(Phase::Read, None);
    }

    /// Waits until its group knows that it is away, or until a time.
    pub(crate) fn wait_away(&self, until: Instant) {
        if !self.end.wait(Phase::Away, Some(until)) {
            tracing::warn!(
                "Kafka does not answer that this daemon leaves; its group notices by itself"
            );
        }
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        // Its thread ends soon, and nobody is there to wait for it.
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What a gap is to its reader.
fn gap_text(topic: &str, partition: PartitionId, gap: OffsetRange) -> String {
    format!(
        "topic `{topic}`: Kafka has removed messages [{}, {}) of partition {partition} before they were read; set `on_gap = \"record\"` in `[topics.{topic}.source.kafka]` and restart to go on without them",
        gap.start, gap.end
    )
}
