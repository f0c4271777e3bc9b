//! The daemon of a project, opened by its settings, and the service that answers from it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anabranch_serving::{Auditor, SqlService};
use anabranch_shared::settings::{StepRuns, StepSettings};
use anabranch_shared::{Moment, Pin, Pinner, ReadMode, Relation, Result};
use anabranch_speed::{Daemon, DaemonOptions, SpeedMetrics, StepOptions, TopicOptions};
use async_trait::async_trait;

use crate::clock::now_us;
use crate::node::python;
use crate::project::context::Context;
use crate::project::limits::threads;
use crate::reader::past::Past;
use crate::reader::with_references::WithReferences;

/// Pieces that a view's delta may have: each costs a query about a microsecond a state.
const MOST_PIECES: usize = 24;

/// Facts meet what has landed of references at most so much later: whenever they meet other rows, what has
/// not landed is folded anew.
const MEET_EVERY: Duration = Duration::from_secs(10);

/// Bytes of a topic's landed facts that are kept for other daemons until those have followed.
const LATELY_BYTES: usize = 32_000_000;

/// The daemon's pins, and the tables that belong to the project.
#[derive(Debug)]
struct DaemonPinner {
    daemon: Arc<Daemon>,
    context: Context,
    past: Past,
}

#[async_trait]
impl Pinner for DaemonPinner {
    async fn relations(&self) -> Result<Vec<Relation>> {
        let mut relations = self.daemon.relations().await?;
        relations.extend(self.context.relations());
        Ok(relations)
    }

    fn failing(&self) -> BTreeMap<String, String> {
        self.daemon.failing()
    }

    async fn pin(&self, names: &[String], mode: ReadMode) -> Result<Pin> {
        let mut pin = self.daemon.pin(names, mode).await?;
        self.context.pin(names, &mut pin).await?;
        Ok(pin)
    }

    async fn pin_at(&self, names: &[String], moment: &Moment) -> Result<Pin> {
        self.past.pin(names, moment, self).await
    }
}

fn daemon_options(context: &Context) -> DaemonOptions {
    let daemon = &context.project.daemon;
    DaemonOptions {
        wal: daemon.wal.clone(),
        land_every: daemon.land_every,
        land_facts: daemon.land_facts,
        land_bytes: daemon.land_bytes,
        wal_bytes: daemon.wal_bytes,
        wal_segment_bytes: anabranch_speed::wal::WalOptions::default().segment_bytes,
        memory_bytes: daemon.memory_bytes,
        spill_at_bytes: daemon.memory_bytes / 10 * 6,
        spill_bytes: daemon.spill_bytes,
        request_memory_bytes: daemon.request_memory_bytes,
        max_record_bytes: daemon.max_record_bytes,
        max_request_bytes: daemon.max_request_bytes,
        idempotency_window: daemon.idempotency_window,
        idempotency_keys: daemon.idempotency_keys,
        most_pieces: MOST_PIECES,
        meet_every: MEET_EVERY,
        recently_landed_bytes: LATELY_BYTES,
        checkpoint_every: daemon.checkpoint_every,
        threads: threads(context.project.batch.threads),
        now_us,
        metrics: SpeedMetrics::default(),
        stop: Arc::new(AtomicBool::new(false)),
    }
}

/// A step of a project, as it is run.
pub fn step_options(context: &Context, step: &StepSettings) -> Result<StepOptions> {
    let python = match &step.runs {
        StepRuns::Program(_) => Some(python::install(&context.project.daemon.wal)?),
        StepRuns::Sql(_) => None,
    };
    Ok(StepOptions {
        settings: step.clone(),
        dir: context.project.dir.clone(),
        references: context.references(),
        python,
    })
}

/// The topics of a project, and how a daemon treats each.
pub(super) fn topic_options(context: &Context) -> Result<BTreeMap<String, TopicOptions>> {
    let mut topics = BTreeMap::new();
    for topic in &context.project.topics {
        let step = context.project.step_to(&topic.name);
        let options = TopicOptions {
            step: step.map(|step| step_options(context, step)).transpose()?,
            ..TopicOptions::of(topic)
        };
        topics.insert(topic.name.clone(), options);
    }
    Ok(topics)
}

/// Opens the daemon of a project.
pub async fn open(context: &Context) -> Result<Arc<Daemon>> {
    context.retries.open(&context.storage).await?;
    let topics = topic_options(context)?;
    let (storage, catalogue) = (&context.storage, context.catalogue.clone());
    let daemon = Daemon::open(storage, catalogue, &topics, daemon_options(context)).await?;
    note(context, &daemon);
    Ok(daemon)
}

/// Lets a daemon say how the project's views stand to the catalogue.
pub(super) fn note(context: &Context, daemon: &Daemon) {
    let entry = context.catalogue.current().number;
    daemon.set_notes(entry, context.notes(), context.troubles());
}

/// A service that answers from a daemon, and tells an auditor what is asked.
pub fn service(
    context: &Context,
    daemon: &Arc<Daemon>,
    auditor: Option<Arc<dyn Auditor>>,
) -> Result<SqlService> {
    let pinner = Arc::new(DaemonPinner {
        daemon: daemon.clone(),
        context: context.clone(),
        past: Past::new(context.clone()),
    });
    let pinner = WithReferences::over(pinner, context.references());
    let mut options = context.serving_options();
    // What a daemon answers slowly is in its log; who asks without one sees how long it takes.
    options.limits.slow = context.project.log.slow_query;
    options.auditor = auditor;
    SqlService::new(pinner, &context.storage, options)
}
