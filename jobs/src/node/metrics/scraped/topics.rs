//! The topics of a daemon and their views: what waits, what is behind, what fails, what memory and disk
//! they take, how new they are.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use anabranch_shared::{LockHolds, misfits};
use anabranch_speed::{
    Daemon, DedupStatus, IntakeCount, StepState, TopicDelta, TopicStream, ViewDelta,
};
use prometheus_client::encoding::EncodeGaugeValue;

use super::families::{Families, Labels, one, two, yes_or_no};
use crate::clock::{now_ms, now_us};
use crate::node::metrics::Boundaries;

/// The open topics.
struct Topics<'f, 'e> {
    streams: Arc<BTreeMap<String, Arc<TopicStream>>>,
    families: &'f mut Families<'e>,
}

pub(super) fn encode(
    daemon: &Daemon,
    boundaries: &Boundaries,
    families: &mut Families<'_>,
) -> fmt::Result {
    let mut topics = Topics {
        streams: daemon.topics(),
        families,
    };
    topics.intake()?;
    topics.landing()?;
    topics.memory(daemon)?;
    topics.freshness(boundaries, daemon)?;
    topics.dedup()?;
    topics.locks()?;
    kafka(daemon, families)?;
    steps(daemon, families)
}

impl Topics<'_, '_> {
    /// A value of each topic that has one.
    fn by_topic<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        read: impl Fn(&TopicStream) -> Option<V>,
    ) -> fmt::Result {
        let row = |(name, stream): (&String, &Arc<TopicStream>)| {
            Some((one("topic", name), read(stream)?))
        };
        let rows = self.streams.iter().filter_map(row);
        self.families.gauge(name, help, rows)
    }

    /// A value of each topic's delta.
    fn by_delta(&mut self, name: &str, help: &str, read: fn(&TopicDelta) -> u64) -> fmt::Result {
        self.by_topic(name, help, |s| Some(s.with_delta(read)))
    }

    /// A value of each view that is served.
    fn by_view(
        &mut self,
        name: &str,
        help: &str,
        read: fn(&TopicDelta, &ViewDelta) -> u64,
    ) -> fmt::Result {
        let mut rows = Vec::new();
        for stream in self.streams.values() {
            stream.with_delta(|delta| {
                let views = delta.views.iter();
                rows.extend(views.map(|(name, v)| (one("view", name), read(delta, v))));
            });
        }
        self.families.gauge(name, help, rows)
    }

    fn intake(&mut self) -> fmt::Result {
        let counts: Vec<(Labels, IntakeCount)> = self
            .streams
            .iter()
            .map(|(name, stream)| (one("topic", name), stream.writer().intake()))
            .collect();
        let mut counter = |name: &str, help: &str, read: fn(&IntakeCount) -> u64| {
            let rows = counts.iter().map(|(labels, c)| (labels.clone(), read(c)));
            self.families.counter(name, help, rows)
        };
        counter(
            "anabranch_facts_total",
            "Records that became facts since the daemon started",
            |c| c.facts,
        )?;
        counter(
            "anabranch_dead_letters_total",
            "Records that became dead letters since the daemon started",
            |c| c.dead_letters,
        )?;
        counter(
            "anabranch_duplicates_total",
            "Records that were left out as duplicates since the daemon started",
            |c| c.duplicates,
        )?;
        let misfits = misfits().into_iter();
        self.families.counter(
            "anabranch_extra_misfits_total",
            "Values in `_extra` that were read for a field declared since and do not fit it, again each time",
            misfits.map(|(field, n)| (one("field", field), n)),
        )?;
        self.by_topic(
            "anabranch_waiting_requests",
            "Requests that wait to be appended to the WAL of the topic",
            |s| Some(s.writer().waiting_requests() as u64),
        )
    }

    fn landing(&mut self) -> fmt::Result {
        self.by_delta(
            "anabranch_unlanded_facts",
            "Facts that are acknowledged and not yet in the log",
            |d| d.unlanded.facts() as u64,
        )?;
        self.by_topic(
            "anabranch_landing_fails",
            "1 where the last try to land facts or to follow the log failed; it is tried again",
            |s| Some(yes_or_no(s.upkeep().trouble().is_some())),
        )?;
        self.by_topic(
            "anabranch_landing_failed_tries",
            "How many tries in a row to land facts or to follow the log have failed; each waits longer than the one before",
            |s| Some(u64::from(s.upkeep().failed_tries())),
        )?;
        let lanes = self.streams.iter().flat_map(|(topic, stream)| {
            stream.with_delta(|delta| {
                let lanes = delta.lanes.iter().map(|(partition, next)| {
                    let partition = ("partition", partition.to_string());
                    (two(("topic", topic), partition), next.0)
                });
                lanes.collect::<Vec<_>>()
            })
        });
        self.families.gauge(
            "anabranch_acknowledged_offset",
            "The first offset of a partition of this daemon that is not visible to queries",
            lanes,
        )
    }

    fn memory(&mut self, daemon: &Daemon) -> fmt::Result {
        self.by_delta(
            "anabranch_speed_memory_bytes",
            "Bytes of facts and deltas in memory",
            |d| d.size_bytes() as u64,
        )?;
        self.by_topic(
            "anabranch_wal_bytes",
            "Bytes of the WAL of the topic on disk",
            |s| Some(s.gauges().wal_bytes()),
        )?;
        self.by_view(
            "anabranch_delta_memory_bytes",
            "Bytes of a view's delta in memory",
            |_, v| v.size_bytes() as u64,
        )?;
        self.by_view(
            "anabranch_delta_spilled_bytes",
            "Bytes of a view's delta on local disk",
            |_, v| v.spilled_bytes(),
        )?;
        self.by_view(
            "anabranch_delta_pieces",
            "Pieces of a view's delta",
            |_, v| v.pieces.len() as u64,
        )?;
        let used = daemon.delta_use();
        for (name, help, value) in [
            (
                "anabranch_speed_memory_bound_bytes",
                "Bytes that facts and deltas of all topics may take in memory",
                used.memory_bound_bytes,
            ),
            (
                "anabranch_spilled_bytes",
                "Bytes of deltas on local disk, with those that queries still read",
                used.spilled_bytes,
            ),
            (
                "anabranch_spill_bound_bytes",
                "Bytes of deltas that local disk may take",
                used.spill_bound_bytes,
            ),
            (
                "anabranch_wal_bound_bytes",
                "Bytes that the WAL of each topic may take on disk",
                daemon.options().wal_bytes,
            ),
        ] {
            self.families.gauge_of_all(name, help, value)?;
        }
        Ok(())
    }

    fn freshness(&mut self, boundaries: &Boundaries, daemon: &Daemon) -> fmt::Result {
        let now_us = now_us();
        let age = |since_us: i64| now_us.saturating_sub(since_us).max(0) as f64 / 1e6;
        self.by_topic(
            "anabranch_last_fact_age_seconds",
            "How long ago this daemon last took a fact; absent where it has taken none since it started",
            |s| s.gauges().written_us().map(age),
        )?;
        self.by_topic(
            "anabranch_newest_event_age_seconds",
            "By how much the newest event time among the facts that this daemon took is older than now; absent where it has taken none since it started",
            |s| s.gauges().newest_us().map(age),
        )?;
        self.by_view(
            "anabranch_view_behind_offsets",
            "Landed offsets past the view's boundary",
            |d, v| v.pin.boundary.distance_to(&d.upto),
        )?;
        let ages = boundaries.look(daemon).into_iter();
        self.families.gauge(
            "anabranch_view_boundary_age_seconds",
            "How long ago the view's boundary last moved, or this daemon began to serve the view",
            ages.map(|(view, age)| (one("view", view), age.as_secs_f64())),
        )
    }

    fn dedup(&mut self) -> fmt::Result {
        let status = |(name, stream): (&String, &Arc<TopicStream>)| {
            Some((one("topic", name), stream.dedup_status()?))
        };
        let dedup: Vec<(Labels, DedupStatus)> = self.streams.iter().filter_map(status).collect();
        let counts = |read: fn(&DedupStatus) -> u64| {
            let rows = dedup.iter().map(|(labels, s)| (labels.clone(), read(s)));
            rows.collect::<Vec<_>>()
        };
        self.families.gauge(
            "anabranch_dedup_keys",
            "Keys by which duplicates are known",
            counts(|d| d.keys),
        )?;
        self.families.gauge(
            "anabranch_dedup_memory_bytes",
            "Bytes of the keys by which duplicates are known, in memory",
            counts(|d| d.bytes),
        )?;
        let windows = dedup.iter();
        self.families.gauge(
            "anabranch_dedup_window_seconds",
            "How long a key is remembered: less than the setting where memory is short",
            windows.map(|(labels, s)| (labels.clone(), s.window_us as f64 / 1e6)),
        )
    }

    /// How long the locks were held that an acknowledgement or a query takes.
    fn locks(&mut self) -> fmt::Result {
        let of_topic = |(topic, stream): (&String, &Arc<TopicStream>)| {
            let topic = topic.clone();
            let holds = stream.lock_holds().into_iter();
            holds.map(move |holds| {
                let labels = two(("lock", holds.name()), ("topic", topic.clone()));
                (labels, holds)
            })
        };
        let all: Vec<(Labels, Arc<LockHolds>)> = self.streams.iter().flat_map(of_topic).collect();
        let rows = all.iter();
        self.families.holds(
            "anabranch_lock_hold_seconds",
            "How long a lock was held that an acknowledgement or a query takes",
            rows.map(|(labels, holds)| (labels.clone(), holds.as_ref())),
        )?;
        let rows = all.iter();
        self.families.gauge(
            "anabranch_lock_hold_longest_seconds",
            "The longest that such a lock was held in the last 60 seconds",
            rows.map(|(labels, holds)| (labels.clone(), holds.longest_seconds())),
        )
    }
}

/// What is read from Kafka.
fn kafka(daemon: &Daemon, families: &mut Families<'_>) -> fmt::Result {
    let now_ms = now_ms();
    let (mut offsets, mut seconds) = (Vec::new(), Vec::new());
    let (mut stopped, mut paused) = (Vec::new(), Vec::new());
    for (topic, source) in daemon.sources().iter() {
        let state = source.state();
        stopped.push((one("topic", topic), yes_or_no(state.stopped.is_some())));
        paused.push((one("topic", topic), yes_or_no(state.paused)));
        for (partition, lag) in state.partitions {
            let labels = || two(("topic", topic), ("partition", partition.to_string()));
            offsets.extend(lag.lag_offsets.map(|lag| (labels(), lag)));
            let late = lag.lag_ms(now_ms);
            seconds.extend(late.map(|ms| (labels(), ms as f64 / 1_000.0)));
        }
    }
    families.gauge(
        "anabranch_kafka_lag_offsets",
        "Offsets of Kafka that were not read yet",
        offsets,
    )?;
    families.gauge(
        "anabranch_kafka_lag_seconds",
        "By how much the newest facts from Kafka are older than now",
        seconds,
    )?;
    families.gauge(
        "anabranch_kafka_stopped",
        "1 where nothing is read from Kafka any more, until a restart",
        stopped,
    )?;
    families.gauge(
        "anabranch_kafka_paused",
        "1 where reading from Kafka pauses, because the memory for facts and deltas is full",
        paused,
    )
}

/// What steps make.
fn steps(daemon: &Daemon, families: &mut Families<'_>) -> fmt::Result {
    let now_ms = now_ms();
    let states: Vec<(Labels, StepState)> = daemon
        .steps()
        .iter()
        .map(|(topic, source)| {
            let state = source.state();
            (
                two(("step", state.step.clone()), ("topic", topic.clone())),
                state,
            )
        })
        .collect();
    let rows = |value: fn(&StepState) -> u64| {
        states
            .iter()
            .map(move |(labels, state)| (labels.clone(), value(state)))
    };
    families.counter(
        "anabranch_step_facts",
        "Facts that a step took",
        rows(|s| s.facts),
    )?;
    families.counter(
        "anabranch_step_made",
        "Records that a step made",
        rows(|s| s.made),
    )?;
    families.counter(
        "anabranch_step_refused",
        "Facts of which nothing was made because the step failed over them",
        rows(|s| s.refused),
    )?;
    families.counter(
        "anabranch_step_restarts",
        "How often a program of a step was begun again after it had failed",
        rows(|s| s.restarts),
    )?;
    families.gauge(
        "anabranch_step_lag_offsets",
        "Offsets of its input that a step has not taken",
        states
            .iter()
            .map(|(labels, s)| (labels.clone(), s.lag_offsets())),
    )?;
    families.gauge(
        "anabranch_step_lag_seconds",
        "By how much a step is behind",
        states
            .iter()
            .filter_map(|(labels, s)| Some((labels.clone(), s.lag_ms(now_ms)? as f64 / 1_000.0))),
    )?;
    families.gauge(
        "anabranch_step_failing",
        "1 where a step makes nothing, because it can't begin or fails over all facts",
        states.iter().map(|(labels, s)| {
            let fails = s.stopped.is_some() || s.trouble.is_some();
            (labels.clone(), yes_or_no(fails))
        }),
    )
}
