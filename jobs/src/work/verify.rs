//! Verification: the merged answer of a view against a recompute from the raw facts, both at one
//! pinned head. The law, on live data; of all keys, or of a sample.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anabranch_serving::{SqlService, stoppable, stopped_by};
use anabranch_shared::view::{
    Inexact, KeySample, Recompute, build_session, planning_session, session_builder,
};
use anabranch_shared::{
    DeltaPart, Error, MasterPin, Pin, Result, Stop, Storage, TopicPin, ViewPin, as_met, blocking,
};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{DataFrame, SessionContext};
use futures::StreamExt;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::clock::now_ms;
use crate::work::compare::{Comparer, Comparison, Side, Tolerance};

pub mod text;

/// The share of the memory bound that the engine's operators may take while one of the two answers is
/// made; where they spill, what is sorted and written lies beside it.
const ENGINE_SHARE: u64 = 2;

/// The share that rows may take which are compared.
const ROWS_SHARE: u64 = 8;

/// How a verification runs.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// What of the view is compared.
    pub part: Part,
    /// Whose answer is compared.
    pub whose: Whose,
    /// Bytes of memory; beyond them work goes to temporary files or is refused.
    pub memory_bytes: u64,
    /// Threads that recompute.
    pub threads: usize,
    /// Tells it to stop early.
    pub stop: Stop,
    /// What was done so far.
    pub progress: Arc<VerifyProgress>,
}

/// Whose merged answer is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whose {
    /// That of a process which folds the delta itself.
    #[default]
    Own,
    /// That of the running daemon, with what it has in memory.
    Daemon,
}

/// What of a view is compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Part {
    /// Everything.
    Whole,
    /// A share of the keys, above 0 and at most 1.
    Share {
        /// The share.
        share: f64,
        /// Another seed, other keys.
        seed: u64,
    },
    /// About so many keys.
    Keys {
        /// How many.
        keys: u64,
        /// Another seed, other keys.
        seed: u64,
    },
}

impl Part {
    /// The sample of a view with at most `keys` keys; `None` where everything is compared.
    fn sample(self, keys: u64) -> Option<KeySample> {
        match self {
            Self::Whole => None,
            Self::Share { share, seed } => Some(KeySample { share, seed }),
            Self::Keys { keys: wanted, seed } => {
                let share = wanted as f64 / keys.max(1) as f64;
                (share < 1.0).then_some(KeySample { share, seed })
            }
        }
    }
}

/// How far a verification is.
#[derive(Debug, Default)]
pub struct VerifyProgress {
    /// Facts that are read again, at most.
    pub facts_total: AtomicU64,
    /// Rows of the recomputed answer.
    pub expected: AtomicU64,
    /// Rows of the merged answer.
    pub found: AtomicU64,
    plan: Mutex<Option<Arc<dyn ExecutionPlan>>>,
}

impl VerifyProgress {
    /// Facts that were read again.
    pub fn facts(&self) -> u64 {
        self.plan.lock().as_ref().map_or(0, leaf_rows)
    }
}

/// Rows that came from the leaves of a plan that runs.
fn leaf_rows(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let children = plan.children();
    if children.is_empty() {
        let rows = plan.metrics().and_then(|m| m.output_rows());
        return rows.map_or(0, |rows| rows as u64);
    }
    children.into_iter().map(leaf_rows).sum()
}

/// What a verification came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verified {
    /// The comparison.
    pub comparison: Comparison,
    /// The sample of keys that was compared; none where everything was.
    pub sample: Option<KeySample>,
    /// Why everything was compared although a sample was asked for.
    pub note: Option<String>,
    /// Which facts were not compared, because the log does not hold them.
    pub uncompared: Vec<String>,
}

/// Verifies one view over a pin that holds it and its topic.
///
/// # Errors
/// `Conflict` when stopped; `Unavailable` where the memory does not suffice.
pub async fn verify_pin(
    service: &SqlService,
    storage: &Storage,
    pin: &Pin,
    view: &str,
    topic: &str,
    options: &VerifyOptions,
) -> Result<Verified> {
    let missing = |name: &str| Error::NotFound(format!("`{name}` was not pinned"));
    let view = pin.views.get(view).ok_or_else(|| missing(view))?;
    let facts = pin.topics.get(topic).ok_or_else(|| missing(topic))?;
    if !view.boundary.covers(&facts.low) {
        return Err(Error::Unavailable(format!(
            "view `{}`: retention has removed facts up to [{}] while they were verified; try again",
            view.view.name(),
            facts.low
        )));
    }
    // What retention has removed can't be computed again: the runs above it are compared.
    let files = MasterPin::files_from(&view.files, &facts.low)?;
    let view = &mut ViewPin {
        files,
        ..view.clone()
    };
    view.view = as_met(storage, &view.view, &view.all_met()?, now_ms()).await?;
    let view = &*view;
    let (sample, note) = chosen(view, options.part);
    let schema = service.answer_schema(view, sample.as_ref())?;
    let inexact = view.view.inexact()?;
    let uncompared = inexact_notes(&schema, &inexact);
    if inexact.rows {
        return Ok(Verified {
            comparison: Comparison::default(),
            sample,
            note,
            uncompared,
        });
    }
    let kept: Vec<usize> = (0..schema.fields().len())
        .filter(|&at| !inexact.columns.get(at).copied().unwrap_or(false))
        .collect();
    let schema = Arc::new(schema.project(&kept)?);
    let share = |of: u64| usize::try_from(options.memory_bytes / of).unwrap_or(usize::MAX);
    let (recomputed, terms) =
        recompute(service, storage, view, facts, sample.as_ref(), options).await?;
    // What is compared comes first, then the terms of sums.
    let all = recomputed.schema().fields().len();
    let kept_and_terms: Vec<usize> = kept.iter().copied().chain(terms.len()..all).collect();
    let of = |at: &usize| Some(terms.get(*at).copied().flatten()? - terms.len() + kept.len());
    let terms: Vec<Option<usize>> = kept.iter().map(of).collect();
    let comparer = Comparer::new(&schema, Tolerance::default(), share(ROWS_SHARE))?;
    let mut comparer = comparer
        .with_terms(&terms)
        .with_keys(keys_of(view, &schema));
    let progress = &options.progress;
    comparer = fill(
        comparer,
        Side::Expected,
        recomputed,
        &kept_and_terms,
        &progress.expected,
        &options.stop,
    )
    .await
    .map_err(|e| bounded(e, "recomputing"))?;
    *progress.plan.lock() = None;
    // Not before the other is done: the two share the memory.
    let pool: Arc<dyn MemoryPool> = Arc::new(FairSpillPool::new(share(ENGINE_SHARE)));
    let answer = service.view_answer(view, sample.as_ref(), &pool, &options.stop);
    let answer = options.stop.within(answer).await?;
    comparer = fill(
        comparer,
        Side::Found,
        answer,
        &kept,
        &progress.found,
        &options.stop,
    )
    .await
    .map_err(|e| bounded(e, "merging"))?;
    let stop = options.stop.clone();
    let comparison = blocking(move || {
        while comparer.compare_next()?.is_some() {
            stop.check().map_err(stopped)?;
        }
        comparer.finish()
    })
    .await?;
    Ok(Verified {
        comparison,
        sample,
        note,
        uncompared,
    })
}

/// The columns that tell which row of a view's answer it is; none where not all keys are shown.
fn keys_of(view: &ViewPin, schema: &SchemaRef) -> Option<Vec<usize>> {
    view.view.aggregate()?;
    let key = |at: usize| {
        let at = schema.index_of(&view.view.shown_as(at)?).ok()?;
        (!schema.field(at).data_type().is_floating()).then_some(at)
    };
    (0..view.view.key_count()).map(key).collect()
}

/// Which columns of an answer a recompute can't check.
fn inexact_notes(schema: &SchemaRef, inexact: &Inexact) -> Vec<String> {
    let why = "`approx_percentile_cont` or `approx_median`, whose value depends within its error on the order in which states were merged";
    if inexact.rows {
        return vec![format!(
            "not compared: all of it, because its rows are chosen by {why}"
        )];
    }
    let columns = schema.fields().iter().zip(&inexact.columns);
    let columns = columns.filter(|(_, inexact)| **inexact).map(|(field, _)| {
        format!(
            "not compared: column `{}`, which is made of {why}",
            field.name()
        )
    });
    columns.collect()
}

/// The sample that is compared, and a note where it is not what was asked for.
fn chosen(view: &ViewPin, part: Part) -> (Option<KeySample>, Option<String>) {
    if part == Part::Whole {
        return (None, None);
    }
    if view.view.key_count() == 0 {
        let note = "its aggregate has no GROUP BY, so there is one row and no key to sample by: compared whole";
        return (None, Some(note.to_owned()));
    }
    let master = view.files.iter().filter_map(|f| f.rows()).sum::<u64>();
    let delta = view.delta.iter().map(DeltaPart::rows).sum::<u64>();
    let sample = part.sample(master + delta);
    let note = sample
        .is_none()
        .then(|| "it has no more keys than the sample: compared whole".to_owned());
    (sample, note)
}

/// The error of a stop, with what was stopped.
fn stopped(e: Error) -> Error {
    match e {
        Error::Conflict(_) => {
            Error::Conflict("stopped before all was compared; nothing was changed".into())
        }
        e => e,
    }
}

/// An error of the engine's bound of memory, with what to do about it.
fn bounded(e: Error, doing: &str) -> Error {
    use datafusion::error::DataFusionError::ResourcesExhausted;
    match &e {
        Error::Query(query) if matches!(query.find_root(), ResourcesExhausted(_)) => {
            Error::Unavailable(format!(
                "{doing} takes more memory than allowed; raise `memory` in `[batch]`, or compare a part with `--sample`"
            ))
        }
        _ => e,
    }
}

/// Gives all rows of an answer to the comparer, of each the columns that are compared.
async fn fill(
    mut comparer: Comparer,
    side: Side,
    rows: SendableRecordBatchStream,
    kept: &[usize],
    count: &AtomicU64,
    stop: &Stop,
) -> Result<Comparer> {
    let mut rows = std::pin::pin!(rows);
    while let Some(batch) = unless_stopped(stop, rows.next()).await? {
        if batch.is_err() {
            // Where they were stopped, the engine's operators fail with an error of their own.
            stop.check().map_err(stopped)?;
        }
        let batch = batch?.project(kept)?;
        count.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        comparer = blocking(move || {
            comparer.push(side, &batch)?;
            Ok(comparer)
        })
        .await?;
    }
    Ok(comparer)
}

/// What a future comes to, unless told to stop while waiting for it.
///
/// # Errors
/// Those of [`Stop::check`].
pub async fn unless_stopped<T>(stop: &Stop, work: impl Future<Output = T>) -> Result<T> {
    let work = async { Ok(work.await) };
    stop.within(work).await.map_err(stopped)
}

/// The view's answer by plain evaluation over the raw facts, and which of its further columns hold
/// the terms of its sums.
async fn recompute(
    service: &SqlService,
    storage: &Storage,
    view: &ViewPin,
    facts: &TopicPin,
    sample: Option<&KeySample>,
    options: &VerifyOptions,
) -> Result<(SendableRecordBatchStream, Vec<Option<usize>>)> {
    let pool = usize::try_from(options.memory_bytes / ENGINE_SHARE).unwrap_or(usize::MAX);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(pool)))
        .build_arc()?;
    storage.register(&runtime)?;
    let mut config = planning_session()?.copied_config();
    config.options_mut().execution.target_partitions = options.threads.max(1);
    let builder = session_builder()
        .with_config(config)
        .with_runtime_env(runtime);
    let state = stopped_by(build_session(builder)?, &options.stop);
    let session = SessionContext::new_with_state(state);
    let in_files = facts.files.iter().filter_map(|f| f.add.rows()).sum::<u64>();
    let in_memory: usize = facts.memory.iter().map(RecordBatch::num_rows).sum();
    let total = in_files + in_memory as u64;
    options.progress.facts_total.store(total, Ordering::Relaxed);
    let provider = service.topic_provider(facts, &view.view)?;
    let Recompute { plan, terms } = view.view.recompute_with_terms(provider, sample)?;
    let plan = DataFrame::new(session.state(), plan)
        .create_physical_plan()
        .await?;
    let plan = stoppable(plan, &options.stop)?;
    *options.progress.plan.lock() = Some(plan.clone());
    Ok((execute_stream(plan, session.task_ctx())?, terms))
}
