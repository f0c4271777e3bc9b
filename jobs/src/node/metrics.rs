//! What a node measures, in Prometheus' text format.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anabranch_shared::{RequestKind, Requests};
use anabranch_speed::{Daemon, DedupStatus, IntakeCount, TopicStream};

use crate::node::peers::PeerList;
use crate::node::ready::{AttentionKind, Node, Readiness, topics_red};

/// Adds a metric of some kind, with the labels and values of its rows, to a text.
fn metric(text: &mut String, kind: &str, name: &str, help: &str, rows: Vec<(String, f64)>) {
    *text += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
    for (labels, value) in rows {
        let labels = match labels.is_empty() {
            true => labels,
            false => format!("{{{labels}}}"),
        };
        *text += &format!("{name}{labels} {value}\n");
    }
}

/// All that a node measures.
pub(crate) fn text(
    daemon: &Arc<Daemon>,
    node: &Node,
    peers: &PeerList,
    requests: &Requests,
) -> String {
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, rows| metric(&mut text, "gauge", name, help, rows);
    let topics = daemon.topics();
    let by_topic = |read: &dyn Fn(&anabranch_speed::TopicDelta) -> f64| {
        let row = |(n, s): (&String, &Arc<anabranch_speed::TopicStream>)| {
            (format!("topic=\"{n}\""), s.with_delta(|d| read(d)))
        };
        topics.iter().map(row).collect::<Vec<_>>()
    };
    gauge(
        "anabranch_unlanded_facts",
        "Facts that are acknowledged and not yet in the log",
        by_topic(&|d| d.unlanded.facts() as f64),
    );
    gauge(
        "anabranch_speed_memory_bytes",
        "Bytes of facts and deltas in memory",
        by_topic(&|d| d.size_bytes() as f64),
    );
    let failing = |(n, s): (&String, &Arc<TopicStream>)| {
        let failing = s.upkeep().trouble().is_some();
        (format!("topic=\"{n}\""), f64::from(u8::from(failing)))
    };
    gauge(
        "anabranch_landing_fails",
        "1 where the last try to land facts or to follow the log failed; it is tried again",
        topics.iter().map(failing).collect(),
    );
    let failed = |(n, s): (&String, &Arc<TopicStream>)| {
        (
            format!("topic=\"{n}\""),
            f64::from(s.upkeep().failed_tries()),
        )
    };
    gauge(
        "anabranch_landing_failed_tries",
        "How many tries in a row to land facts or to follow the log have failed; each waits longer than the one before",
        topics.iter().map(failed).collect(),
    );
    let by_view = |read: &dyn Fn(&anabranch_speed::ViewDelta) -> f64| {
        let mut rows = Vec::new();
        for stream in topics.values() {
            stream.with_delta(|d| {
                let row = |(n, v): (&String, &anabranch_speed::ViewDelta)| {
                    (format!("view=\"{n}\""), read(v))
                };
                rows.extend(d.views.iter().map(row));
            });
        }
        rows
    };
    gauge(
        "anabranch_delta_memory_bytes",
        "Bytes of a view's delta in memory",
        by_view(&|v| v.size_bytes() as f64),
    );
    gauge(
        "anabranch_delta_spilled_bytes",
        "Bytes of a view's delta on local disk",
        by_view(&|v| v.spilled_bytes() as f64),
    );
    gauge(
        "anabranch_delta_pieces",
        "Pieces of a view's delta",
        by_view(&|v| v.pieces.len() as f64),
    );
    let used = daemon.delta_use();
    for (name, help, value) in [
        (
            "anabranch_speed_memory_bound_bytes",
            "Bytes that facts and deltas may take in memory",
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
    ] {
        gauge(name, help, vec![(String::new(), value as f64)]);
    }
    let lanes = |(topic, s): (&String, &Arc<anabranch_speed::TopicStream>)| {
        let row = |(p, next): (&anabranch_shared::PartitionId, &anabranch_shared::Offset)| {
            (
                format!("topic=\"{topic}\",partition=\"{p}\""),
                next.0 as f64,
            )
        };
        s.with_delta(|d| d.lanes.iter().map(row).collect::<Vec<_>>())
    };
    gauge(
        "anabranch_acknowledged_offset",
        "The first offset of a partition of this daemon that is not visible to queries",
        topics.iter().flat_map(lanes).collect(),
    );
    let now = crate::clock::now_ms();
    let (mut offsets, mut seconds) = (Vec::new(), Vec::new());
    let (mut stopped, mut paused) = (Vec::new(), Vec::new());
    for (topic, source) in daemon.sources().iter() {
        let state = source.state();
        let of_topic = |is: bool| (format!("topic=\"{topic}\""), f64::from(u8::from(is)));
        stopped.push(of_topic(state.stopped.is_some()));
        paused.push(of_topic(state.paused));
        for (partition, lag) in state.partitions {
            let labels = format!("topic=\"{topic}\",partition=\"{partition}\"");
            offsets.extend(lag.lag_offsets.map(|l| (labels.clone(), l as f64)));
            seconds.extend(lag.lag_ms(now).map(|ms| (labels, ms as f64 / 1_000.0)));
        }
    }
    gauge(
        "anabranch_kafka_lag_offsets",
        "Offsets of Kafka that were not read yet",
        offsets,
    );
    gauge(
        "anabranch_kafka_lag_seconds",
        "By how much the newest facts from Kafka are older than now",
        seconds,
    );
    gauge(
        "anabranch_kafka_stopped",
        "1 where nothing is read from Kafka any more, until a restart",
        stopped,
    );
    gauge(
        "anabranch_kafka_paused",
        "1 where reading from Kafka pauses, because the memory for facts and deltas is full",
        paused,
    );
    let mut counter = |name: &str, help: &str, read: &dyn Fn(&IntakeCount) -> u64| {
        let row = |(n, s): (&String, &Arc<TopicStream>)| {
            (format!("topic=\"{n}\""), read(&s.writer().intake()) as f64)
        };
        let rows = topics.iter().map(row).collect();
        metric(&mut text, "counter", name, help, rows);
    };
    counter(
        "anabranch_facts_total",
        "Records that became facts since the daemon started",
        &|i| i.facts,
    );
    counter(
        "anabranch_dead_letters_total",
        "Records that became dead letters since the daemon started",
        &|i| i.dead_letters,
    );
    counter(
        "anabranch_duplicates_total",
        "Records that were left out as duplicates since the daemon started",
        &|i| i.duplicates,
    );
    let misfits = anabranch_shared::misfits().into_iter();
    metric(
        &mut text,
        "counter",
        "anabranch_extra_misfits_total",
        "Values in `_extra` that were read for a field declared since and do not fit it, again each time",
        misfits
            .map(|(field, n)| (format!("field={field:?}"), n as f64))
            .collect(),
    );
    let mut gauge = |name: &str, help: &str, rows| metric(&mut text, "gauge", name, help, rows);
    let dedup: Vec<_> = topics
        .iter()
        .filter_map(|(n, s)| Some((format!("topic=\"{n}\""), s.dedup_status()?)))
        .collect();
    let of_dedup = |read: &dyn Fn(&DedupStatus) -> f64| {
        let row = |(labels, status): &(String, DedupStatus)| (labels.clone(), read(status));
        dedup.iter().map(row).collect::<Vec<_>>()
    };
    gauge(
        "anabranch_dedup_keys",
        "Keys by which duplicates are known",
        of_dedup(&|d| d.keys as f64),
    );
    gauge(
        "anabranch_dedup_memory_bytes",
        "Bytes of those keys in memory",
        of_dedup(&|d| d.bytes as f64),
    );
    gauge(
        "anabranch_dedup_window_seconds",
        "How long a key is remembered: less than the setting where memory is short",
        of_dedup(&|d| d.window_us as f64 / 1e6),
    );
    let mut behind = Vec::new();
    for stream in topics.values() {
        stream.with_delta(|d| {
            for (name, view) in &d.views {
                let distance = view.pin.boundary.distance_to(&d.upto) as f64;
                behind.push((format!("view=\"{name}\""), distance));
            }
        });
    }
    gauge(
        "anabranch_view_behind_offsets",
        "Landed offsets past the view's boundary",
        behind,
    );
    text += &lock_metrics(daemon);
    text += &node_metrics(daemon, node);
    text += &peer_metrics(peers);
    text + &storage_metrics(requests)
}

/// How long the locks were held that an acknowledgement or a query takes.
fn lock_metrics(daemon: &Daemon) -> String {
    let name = "anabranch_lock_hold_seconds";
    let mut text = format!(
        "# HELP {name} How long a lock was held that an acknowledgement or a query takes\n# TYPE {name} histogram\n"
    );
    let mut longest = Vec::new();
    for (topic, stream) in daemon.topics().iter() {
        for holds in stream.lock_holds() {
            let times = holds.times();
            let labels = format!("lock=\"{}\",topic=\"{topic}\"", holds.name());
            for (end, count) in times.buckets {
                let end = match end.is_finite() {
                    true => end.to_string(),
                    false => "+Inf".to_owned(),
                };
                text += &format!("{name}_bucket{{{labels},le=\"{end}\"}} {count}\n");
            }
            text += &format!("{name}_sum{{{labels}}} {}\n", times.sum_seconds);
            text += &format!("{name}_count{{{labels}}} {}\n", times.count);
            longest.push((labels, times.longest_seconds));
        }
    }
    metric(
        &mut text,
        "gauge",
        "anabranch_lock_hold_longest_seconds",
        "The longest that such a lock was held in the last 60 seconds",
        longest,
    );
    text
}

/// Whether the node is ready, what of it needs attention, and its connections.
fn node_metrics(daemon: &Daemon, node: &Node) -> String {
    let mut text = String::new();
    let Readiness { red, attention } = node.readiness();
    let is_ready = red.is_empty() && topics_red(daemon).is_empty();
    let mut add = |kind: &str, name: &str, help: &str, value: f64| {
        metric(&mut text, kind, name, help, vec![(String::new(), value)]);
    };
    add(
        "gauge",
        "anabranch_ready",
        "1 where the node takes facts and answers",
        f64::from(u8::from(is_ready)),
    );
    let connections = &node.connections;
    add(
        "gauge",
        "anabranch_connections",
        "Connections that are held",
        connections.held() as f64,
    );
    add(
        "counter",
        "anabranch_connections_refused_total",
        "Connections beyond the bounds, over which state alone was answered or nothing",
        connections.refused() as f64,
    );
    let ended = node.ended_tasks().into_keys();
    let ended = ended.map(|name| (format!("task={name:?}"), 1.0)).collect();
    metric(
        &mut text,
        "gauge",
        "anabranch_task_ended",
        "1 for a task of the process that ended before it was stopped",
        ended,
    );
    for kind in AttentionKind::ALL {
        let (name, help) = kind.metric();
        let of_kind = attention.iter().filter(|a| a.kind == kind);
        let rows = of_kind.map(|a| {
            let labels = a
                .labels
                .iter()
                .map(|(key, value)| format!("{key}={value:?}"));
            (labels.collect::<Vec<_>>().join(","), 1.0)
        });
        metric(&mut text, "gauge", name, help, rows.collect());
    }
    text
}

/// What was asked of the other daemons.
fn peer_metrics(peers: &PeerList) -> String {
    let mut text = String::new();
    let known = peers.known();
    let silent = known.iter().filter(|(_, silent)| *silent).count();
    let rows = [("answers", known.len() - silent), ("silent", silent)];
    let rows = rows.map(|(state, n)| (format!("state=\"{state}\""), n as f64));
    metric(
        &mut text,
        "gauge",
        "anabranch_peers",
        "Other daemons of the storage",
        rows.into(),
    );
    let read = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed) as f64;
    let counts = peers.counts();
    let mut counter = |name: &str, help: &str, value: f64| {
        let rows = vec![(String::new(), value)];
        metric(&mut text, "counter", name, help, rows);
    };
    counter(
        "anabranch_peer_requests_total",
        "Questions to other daemons, for queries",
        read(&counts.asked),
    );
    counter(
        "anabranch_peer_failures_total",
        "Those that were not answered",
        read(&counts.failed),
    );
    counter(
        "anabranch_peer_seconds_total",
        "How long all of them took",
        read(&counts.us) / 1e6,
    );
    text
}

/// What this process has asked of the storage.
fn storage_metrics(requests: &Requests) -> String {
    let mut text = String::from(
        "# HELP anabranch_storage_requests_total Requests to the storage, without the client's repetitions\n# TYPE anabranch_storage_requests_total counter\n",
    );
    for kind in RequestKind::ALL {
        let (name, count) = (kind.name(), requests.of(kind));
        text += &format!("anabranch_storage_requests_total{{kind=\"{name}\"}} {count}\n");
    }
    text += "# HELP anabranch_storage_bytes_total Bytes of objects read from and written to the storage\n# TYPE anabranch_storage_bytes_total counter\n";
    let bytes = [
        ("read", requests.read_bytes()),
        ("write", requests.written_bytes()),
    ];
    for (direction, bytes) in bytes {
        text += &format!("anabranch_storage_bytes_total{{direction=\"{direction}\"}} {bytes}\n");
    }
    text
}
