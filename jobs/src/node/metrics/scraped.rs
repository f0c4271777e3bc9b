//! What is so at a moment, looked up at each scrape: topics and their views, the node, its peers, its
//! queries, the storage, the process.

mod families;
mod topics;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anabranch_shared::{RequestKind, process};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use self::families::{Families, Labels, one, yes_or_no};
use super::{Boundaries, Sources};
use crate::node::ready::{AttentionKind, Readiness, topics_red};

/// What is looked up.
#[derive(Debug)]
pub(super) struct Scraped {
    sources: Sources,
    boundaries: Arc<Boundaries>,
}

impl Scraped {
    pub(super) fn new(sources: Sources, boundaries: Arc<Boundaries>) -> Self {
        Self {
            sources,
            boundaries,
        }
    }

    /// Whether the node is ready, what of it needs attention, and its connections.
    fn node(&self, families: &mut Families<'_>) -> fmt::Result {
        let node = &self.sources.node;
        let Readiness { red, attention } = node.readiness();
        let is_ready = red.is_empty() && topics_red(&self.sources.daemon).is_empty();
        families.gauge_of_all(
            "anabranch_ready",
            "1 where the node takes facts and answers",
            yes_or_no(is_ready),
        )?;
        families.gauge_of_all(
            "anabranch_connections",
            "Connections over HTTP that are open",
            node.connections.held() as u64,
        )?;
        families.counter_of_all(
            "anabranch_connections_refused_total",
            "Connections beyond the bounds: over some of them the state of the node was answered, the others were closed",
            node.connections.refused(),
        )?;
        families.counter_of_all(
            "anabranch_audit_lost_total",
            "Statements of which no record was written, because more waited than may",
            node.audit.as_ref().map_or(0, |audit| audit.lost()),
        )?;
        let ended = node.ended_tasks().into_keys();
        families.gauge(
            "anabranch_task_ended",
            "1 for a task of the process that ended before it was stopped",
            ended.map(|name| (one("task", name), 1_u64)),
        )?;
        for kind in AttentionKind::ALL {
            let (name, help) = kind.metric();
            let of_kind = attention.iter().filter(|a| a.kind == kind);
            let rows = of_kind.map(|a| {
                let labels = a.labels.iter().flat_map(|(key, value)| one(key, value));
                (labels.collect::<Labels>(), 1_u64)
            });
            families.gauge(name, help, rows)?;
        }
        Ok(())
    }

    /// The queries that run and wait.
    fn queries(&self, families: &mut Families<'_>) -> fmt::Result {
        let queries = self.sources.sql.queries();
        let rows = ["running", "waiting", "stopping"].map(|state| {
            let count = queries.iter().filter(|q| q.state == state).count();
            (one("state", state), count as u64)
        });
        families.gauge(
            "anabranch_queries",
            "Queries that run, that wait for their turn, and that were told to stop and have not yet",
            rows,
        )?;
        families.gauge_of_all(
            "anabranch_query_memory_bytes",
            "Bytes of the memory for queries that they hold",
            queries.iter().map(|q| q.memory_bytes).sum::<u64>(),
        )
    }

    /// What was asked of the other daemons.
    fn peers(&self, families: &mut Families<'_>) -> fmt::Result {
        let known = self.sources.peers.known();
        let silent = known.iter().filter(|(_, silent)| *silent).count();
        let rows = [("answers", known.len() - silent), ("silent", silent)];
        families.gauge(
            "anabranch_peers",
            "Other daemons of the storage, by whether they answer",
            rows.map(|(state, n)| (one("state", state), n as u64)),
        )?;
        let counts = self.sources.peers.counts();
        families.counter_of_all(
            "anabranch_peer_requests_total",
            "How often this daemon asked another one what it holds, for a query",
            counts.asked.load(Ordering::Relaxed),
        )?;
        families.counter_of_all(
            "anabranch_peer_failures_total",
            "How often another daemon was asked and did not answer",
            counts.failed.load(Ordering::Relaxed),
        )?;
        families.counter_of_all(
            "anabranch_peer_seconds_total",
            "How long queries have waited for other daemons, together",
            counts.us.load(Ordering::Relaxed) as f64 / 1e6,
        )
    }

    /// What this process has asked of the storage.
    fn storage(&self, families: &mut Families<'_>) -> fmt::Result {
        let requests = self.sources.storage.requests();
        let by_kind = RequestKind::ALL.map(|kind| (one("kind", kind.name()), requests.of(kind)));
        families.counter(
            "anabranch_storage_requests_total",
            "Requests to the storage, without the client's repetitions",
            by_kind,
        )?;
        families.counter(
            "anabranch_storage_bytes_total",
            "Bytes of objects read from and written to the storage",
            [
                (one("direction", "read"), requests.read_bytes()),
                (one("direction", "write"), requests.written_bytes()),
            ],
        )
    }
}

impl Collector for Scraped {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families::new(encoder);
        topics::encode(&self.sources.daemon, &self.boundaries, &mut families)?;
        self.node(&mut families)?;
        self.queries(&mut families)?;
        self.peers(&mut families)?;
        self.storage(&mut families)?;
        of_process(&mut families)
    }
}

/// What the process takes of the machine, under the names that every program uses for it.
fn of_process(families: &mut Families<'_>) -> fmt::Result {
    families.gauge(
        "process_resident_memory_bytes",
        "Bytes of resident memory",
        at_most_one(process::resident_bytes()),
    )?;
    families.counter(
        "process_cpu_seconds_total",
        "Seconds of processor time, the process's own and the system's for it",
        at_most_one(process::cpu_seconds()),
    )?;
    families.gauge(
        "process_open_fds",
        "Descriptors that are open",
        at_most_one(process::open_descriptors()),
    )?;
    families.gauge(
        "process_max_fds",
        "Descriptors that may be open",
        at_most_one(process::most_descriptors()),
    )?;
    families.gauge(
        "process_start_time_seconds",
        "When the process started, in seconds since 1970",
        at_most_one(process::started_at_seconds()),
    )
}

/// The row of what only some systems tell.
fn at_most_one<V>(value: Option<V>) -> impl Iterator<Item = (Labels, V)> {
    value.into_iter().map(|value| (Labels::new(), value))
}
