//! What the speed layer counts and times where it happens, and what it knows of each topic at every
//! moment, for whoever reads it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use anabranch_shared::metrics::{Histograms, histograms, register, wait_times};
use arrow::array::{AsArray, RecordBatch};
use arrow::compute::max;
use arrow::datatypes::TimestampMicrosecondType;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// The topic that something is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTopic {
    topic: String,
}

impl OfTopic {
    fn new(topic: &str) -> Self {
        let topic = topic.to_owned();
        Self { topic }
    }
}

/// What is counted and timed in a daemon. Clones are one and the same.
#[derive(Clone, Debug)]
pub struct SpeedMetrics {
    wal_syncs: Histogram,
    acknowledgements: Histograms<OfTopic>,
    landings: Histograms<OfTopic>,
    landing_failures: Family<OfTopic, Counter>,
    landed_facts: Family<OfTopic, Counter>,
    landed_bytes: Family<OfTopic, Counter>,
}

impl Default for SpeedMetrics {
    fn default() -> Self {
        Self {
            wal_syncs: wait_times(),
            acknowledgements: histograms(wait_times),
            landings: histograms(wait_times),
            landing_failures: Family::default(),
            landed_facts: Family::default(),
            landed_bytes: Family::default(),
        }
    }
}

impl SpeedMetrics {
    /// Lets whoever reads a registry see all of this.
    pub fn register(&self, registry: &mut Registry) {
        register(
            registry,
            "anabranch_wal_sync_seconds",
            "How long the disk took to make a group of records durable in a WAL",
            self.wal_syncs.clone(),
        );
        register(
            registry,
            "anabranch_acknowledgement_seconds",
            "How long a request took from when its body was there until its records were acknowledged",
            self.acknowledgements.clone(),
        );
        register(
            registry,
            "anabranch_landing_seconds",
            "How long a landing took: its facts are folded, and written to the log in one commit",
            self.landings.clone(),
        );
        register(
            registry,
            "anabranch_landing_failures_total",
            "Tries to land facts that failed; each is tried again",
            self.landing_failures.clone(),
        );
        register(
            registry,
            "anabranch_landed_facts_total",
            "Facts that this daemon has landed",
            self.landed_facts.clone(),
        );
        register(
            registry,
            "anabranch_landed_bytes_total",
            "Bytes of the files that this daemon has landed",
            self.landed_bytes.clone(),
        );
    }

    /// Begins to tell of a topic: what nobody has counted yet is 0.
    pub(crate) fn begin(&self, topic: &str) {
        let topic = OfTopic::new(topic);
        drop(self.acknowledgements.get_or_create(&topic));
        drop(self.landings.get_or_create(&topic));
        for family in [
            &self.landing_failures,
            &self.landed_facts,
            &self.landed_bytes,
        ] {
            drop(family.get_or_create(&topic));
        }
    }

    /// Where the syncs of WALs are timed.
    pub(crate) fn wal_syncs(&self) -> &Histogram {
        &self.wal_syncs
    }

    /// The records of a request were acknowledged.
    pub(crate) fn acknowledged(&self, topic: &str, took: Duration) {
        let times = self.acknowledgements.get_or_create(&OfTopic::new(topic));
        times.observe(took.as_secs_f64());
    }

    /// Facts have landed, in a file of so many bytes.
    pub(crate) fn landed(&self, topic: &str, took: Duration, (facts, bytes): (u64, u64)) {
        let topic = OfTopic::new(topic);
        let times = self.landings.get_or_create(&topic);
        times.observe(took.as_secs_f64());
        self.landed_facts.get_or_create(&topic).inc_by(facts);
        self.landed_bytes.get_or_create(&topic).inc_by(bytes);
    }

    /// A try to land facts has failed.
    pub(crate) fn landing_failed(&self, topic: &str) {
        self.landing_failures
            .get_or_create(&OfTopic::new(topic))
            .inc();
    }
}

/// What no time is, as a number of microseconds.
const NEVER: i64 = i64::MIN;

/// How new what a topic's daemon holds is, and what its WAL takes.
#[derive(Debug)]
pub struct TopicGauges {
    /// When facts last became durable and visible, in microseconds since 1970.
    written_us: AtomicI64,
    /// The newest time of an event among them, in microseconds since 1970.
    newest_us: AtomicI64,
    wal_bytes: AtomicU64,
}

impl Default for TopicGauges {
    fn default() -> Self {
        Self {
            written_us: AtomicI64::new(NEVER),
            newest_us: AtomicI64::new(NEVER),
            wal_bytes: AtomicU64::new(0),
        }
    }
}

impl TopicGauges {
    /// When this daemon last took facts, in microseconds since 1970.
    pub fn written_us(&self) -> Option<i64> {
        known(&self.written_us)
    }

    /// The newest time of an event among the facts that this daemon took, in microseconds since 1970.
    /// A time that had not come yet counts as when the fact came: a wrong one would hide that no
    /// more come.
    pub fn newest_us(&self) -> Option<i64> {
        known(&self.newest_us)
    }

    /// Bytes of the topic's WAL on disk.
    pub fn wal_bytes(&self) -> u64 {
        self.wal_bytes.load(Ordering::Relaxed)
    }

    /// Facts became durable and visible.
    pub(crate) fn note_facts(&self, facts: &RecordBatch, event_time: &str, now_us: i64) {
        if facts.num_rows() == 0 {
            return;
        }
        self.written_us.fetch_max(now_us, Ordering::Relaxed);
        let times = facts.column_by_name(event_time);
        let times = times.and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
        if let Some(newest) = times.and_then(max) {
            self.newest_us
                .fetch_max(newest.min(now_us), Ordering::Relaxed);
        }
    }

    /// What the WAL takes now.
    pub(crate) fn note_wal(&self, bytes: u64) {
        self.wal_bytes.store(bytes, Ordering::Relaxed);
    }
}

fn known(time_us: &AtomicI64) -> Option<i64> {
    let time_us = time_us.load(Ordering::Relaxed);
    (time_us != NEVER).then_some(time_us)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use anabranch_shared::timestamp_type;
    use arrow::array::TimestampMicrosecondArray;
    use arrow::datatypes::{Field, Schema};
    use prometheus_client::encoding::text::encode;

    fn facts(times_us: &[i64]) -> Result<RecordBatch, arrow::error::ArrowError> {
        let times = TimestampMicrosecondArray::from(times_us.to_vec()).with_timezone("UTC");
        let schema = Schema::new(vec![Field::new("ts", timestamp_type(), false)]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(times)])
    }

    #[test]
    fn the_newest_fact_is_known_and_none_is_of_tomorrow() -> Result<(), arrow::error::ArrowError> {
        let gauges = TopicGauges::default();
        gauges.note_facts(&facts(&[])?, "ts", 50);
        assert_eq!((gauges.written_us(), gauges.newest_us()), (None, None));
        gauges.note_facts(&facts(&[30, 40, 20])?, "ts", 100);
        assert_eq!(gauges.newest_us(), Some(40));
        // Late ones are no newer, and tell that facts still come.
        gauges.note_facts(&facts(&[10])?, "ts", 110);
        assert_eq!(
            (gauges.written_us(), gauges.newest_us()),
            (Some(110), Some(40))
        );
        gauges.note_facts(&facts(&[9_000_000])?, "ts", 120);
        assert_eq!(gauges.newest_us(), Some(120));
        Ok(())
    }

    #[test]
    fn landings_are_told_by_topic_from_the_beginning() {
        let metrics = SpeedMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        metrics.begin("a");
        metrics.landed("b", Duration::from_millis(20), (7, 900));
        metrics.landed("b", Duration::from_secs(2), (3, 100));
        metrics.landing_failed("b");
        let mut text = String::new();
        assert!(encode(&mut text, &registry).is_ok());
        for sample in [
            "anabranch_landing_seconds_count{topic=\"a\"} 0",
            "anabranch_landing_seconds_count{topic=\"b\"} 2",
            "anabranch_landing_seconds_bucket{le=\"0.025\",topic=\"b\"} 1",
            "anabranch_landing_seconds_bucket{le=\"2.5\",topic=\"b\"} 2",
            "anabranch_landed_facts_total{topic=\"a\"} 0",
            "anabranch_landed_facts_total{topic=\"b\"} 10",
            "anabranch_landed_bytes_total{topic=\"b\"} 1000",
            "anabranch_landing_failures_total{topic=\"b\"} 1",
        ] {
            assert!(
                text.lines().any(|l| l == sample),
                "no `{sample}` in\n{text}"
            );
        }
    }
}
