//! Steps: what makes the facts of one topic into facts of another. Owns which step runs, how it is
//! told to stop, and what is known of it.
//!
//! A step is a source. Partition and position are the input's: what is made of the fact at offset `o`
//! has the offsets from `o * most` on, so the position of a partition in the log is the progress, and
//! a range that does not start there is refused, whoever lands it. What has landed is what counts;
//! nobody has to promise that a program gives the same twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anabranch_shared::{Catalogue, Error, PartitionId, Result, panic_text};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Reason};
use crate::intake::admission::MAX_DEAD_LETTERS;
use crate::options::StepOptions;
use crate::topic::{Behind, TopicStream};

mod arrow;
mod input;
mod maker;
mod pool;
mod process;
mod share;
mod source;
mod sql;
mod storm;
mod trial;

use input::Input;
use pool::{Parts, Pool};
use share::Share;
use source::Source;
pub use trial::{Trial, TrialOf, try_step};

/// What is known of a partition of a step's input.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct StepLag {
    /// The offset of the fact that it takes next.
    pub position: i64,
    /// How many offsets of its input lie past it.
    pub lag_offsets: i64,
    /// When the last fact that it took was admitted, in microseconds since 1970.
    pub last_fact_us: Option<i64>,
}

impl StepLag {
    /// By how much it is behind, in milliseconds; 0 where nothing waits.
    pub fn lag_ms(&self, now_ms: i64) -> Option<i64> {
        match (self.lag_offsets, self.last_fact_us) {
            (0, _) => Some(0),
            (_, Some(last)) => Some((now_ms - last / 1_000).max(0)),
            _ => None,
        }
    }
}

/// What is known of a step.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct StepState {
    /// Its name.
    pub step: String,
    /// The topic whose facts it takes.
    pub from: String,
    /// The partitions of which this daemon makes facts.
    pub partitions: BTreeMap<i32, StepLag>,
    /// Why nothing is made any more.
    pub stopped: Option<String>,
    /// What went wrong last and is tried again.
    pub trouble: Option<String>,
    /// Whether it pauses, because facts wait to land.
    pub paused: bool,
    /// The facts that it took, since the daemon started.
    pub facts: u64,
    /// The records that it made of them.
    pub made: u64,
    /// The facts of which nothing was made because it failed over them.
    pub refused: u64,
    /// The batches in which it took them.
    pub batches: u64,
    /// How long it took over them, in microseconds.
    pub busy_us: u64,
    /// How often a program was begun again after it had failed.
    pub restarts: u64,
}

impl StepState {
    /// Adds what another daemon knows of the same step.
    pub fn add(&mut self, other: Self) {
        self.partitions.extend(other.partitions);
        self.stopped = self.stopped.take().or(other.stopped);
        self.trouble = self.trouble.take().or(other.trouble);
        self.paused |= other.paused;
        self.facts += other.facts;
        self.made += other.made;
        self.refused += other.refused;
        self.batches += other.batches;
        self.busy_us += other.busy_us;
        self.restarts += other.restarts;
    }

    /// How many offsets of its input it has not taken.
    pub fn lag_offsets(&self) -> i64 {
        self.partitions.values().map(|p| p.lag_offsets).sum()
    }

    /// By how much the partition that is furthest behind is, in milliseconds; 0 where nothing waits.
    pub fn lag_ms(&self, now_ms: i64) -> Option<i64> {
        let behind = self.partitions.values().filter(|p| p.lag_offsets > 0);
        behind
            .map(|p| p.lag_ms(now_ms))
            .try_fold(0, |most, lag| Some(most.max(lag?)))
    }
}

/// What a turn of a step ends with where it makes nothing.
#[derive(Debug)]
enum MakeError {
    /// It is tried again.
    Again(String),
    /// It is not, until a restart.
    Over(String),
    /// The daemon ends.
    Ending,
}

/// Who else takes in facts.
pub(crate) trait Other: Send + Sync {
    /// Of some partitions of a topic whose facts this daemon doesn't take in, those that it makes facts
    /// of all the same: the daemon that took them in is gone, or, of a source's, they are `stuck`, and
    /// of the daemons that are there it is this one's turn.
    fn left(
        &self,
        topic: &str,
        partitions: &[PartitionId],
        stuck: &BTreeSet<PartitionId>,
    ) -> BTreeSet<PartitionId>;
}

/// A step that runs.
#[derive(Debug)]
pub struct StepSource {
    state: Arc<Mutex<StepState>>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// Where a step stands between its topics.
pub(crate) struct Between<'a> {
    pub(crate) from: &'a Arc<TopicStream>,
    pub(crate) to: &'a Arc<TopicStream>,
    pub(crate) catalogue: &'a Arc<Catalogue>,
    pub(crate) others: Arc<dyn Other>,
    pub(crate) now_us: fn() -> i64,
    /// How long it is waited for others to make facts of what has landed.
    pub(crate) patience: Duration,
}

impl StepSource {
    /// Begins a step.
    ///
    /// # Errors
    /// `Unavailable` where there is no thread for it.
    pub(crate) fn start(
        options: &StepOptions,
        between: Between<'_>,
        failure: &Failure,
    ) -> Result<Self> {
        let settings = &options.settings;
        let Between { from, to, .. } = between;
        let state = Arc::new(Mutex::new(StepState {
            step: settings.name.clone(),
            from: from.name().to_owned(),
            ..StepState::default()
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let pool = Pool::new(&Parts {
            options,
            from: from.topic(),
            to: to.topic(),
            storage: from.log().table().storage(),
            now_us: between.now_us,
            stop: stop.clone(),
        });
        // Even if each of them is a dead letter, those of one batch are kept.
        let batch = pool.batch.min(MAX_DEAD_LETTERS / settings.most as usize);
        let most = i64::from(settings.most);
        let behind = Arc::new(Behind::new(from.clone(), most));
        to.upkeep().land_behind(behind.clone());
        let source = Source {
            step: settings.name.clone(),
            from: from.clone(),
            to: to.clone(),
            most,
            pool,
            input: Input::new(from.clone(), batch.max(1)),
            behind,
            catalogue: between.catalogue.clone(),
            share: Share::new((from, to), most, between.others, between.patience),
            state: state.clone(),
            stop: stop.clone(),
            runtime: tokio::runtime::Handle::current(),
        };
        let (step, failure) = (settings.name.clone(), failure.clone());
        let thread = std::thread::Builder::new()
            .name(format!("step-{step}"))
            .spawn(move || {
                let run = std::panic::AssertUnwindSafe(|| source.run());
                if let Err(panic) = std::panic::catch_unwind(run) {
                    failure.report(Reason::Defect(format!(
                        "the thread that runs step `{step}` panicked: {}",
                        panic_text(panic.as_ref())
                    )));
                }
            })
            .map_err(|e| Error::Unavailable(format!("can't start a thread: {e}")))?;
        Ok(Self {
            state,
            stop,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// What is known of it.
    pub fn state(&self) -> StepState {
        self.state.lock().clone()
    }

    /// Ends it, and its programs. What was made and has not landed stays with its topic.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.lock().take() {
            thread.join().ok();
        }
    }
}

impl Drop for StepSource {
    fn drop(&mut self) {
        // Its thread ends soon, and nobody is there to wait for it.
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What the offsets of a topic follow from that a step makes facts of.
fn identity(from: &str, most: i64) -> String {
    format!("made of topic {from}, at most {most} of each fact")
}
