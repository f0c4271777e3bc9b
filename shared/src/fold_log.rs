//! Folds ranges of the log into states, on several threads and within a bound of memory. Owns how
//! the work is divided; where states go is the caller's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use self::borders::Borders;
use crate::log::{FactsFile, Log};
use crate::master::Ranges;
use crate::view::{Fold, View, fold_facts};
use crate::{Error, Offsets, Result, planted};

mod borders;

/// A thread takes this part of its share of the facts that are left: large chunks first, of facts
/// that came together, and at last single files, so that the threads finish together.
const CHUNKS_PER_SHARE: u64 = 2;

/// How a fold of the log runs.
#[derive(Clone, Debug)]
pub struct FoldOptions {
    /// How many threads fold.
    pub threads: usize,
    /// Bytes of memory that all threads' unfinished states may take; a thread over its share hands
    /// over what it has.
    pub memory_bytes: usize,
    /// Set from outside to stop early.
    pub stop: Arc<AtomicBool>,
    /// What was done so far.
    pub progress: Arc<FoldProgress>,
}

/// How far a fold is.
#[derive(Debug, Default)]
pub struct FoldProgress {
    /// Facts that are to be read.
    pub facts_total: AtomicU64,
    /// Facts that were read.
    pub facts: AtomicU64,
    /// Bytes of files that were read.
    pub bytes: AtomicU64,
    /// States that were handed over.
    pub states: AtomicU64,
    /// The most bytes that the unfinished states of one thread took, by their own count.
    pub most_held: AtomicU64,
}

/// Folds the facts of `[from, to)`. `emit` gets each batch of states with the ranges of offsets
/// that it is of; it is called from threads that may block. A thread whose states take their share of
/// memory hands them over also in the middle of a file: up to a row behind which no fact of the file
/// has an offset below those before it.
///
/// # Errors
/// `Expression`, with the fact's place, where the view's SQL fails; `Conflict` when stopped;
/// `Unavailable` when the log does not reach to `to`.
pub async fn fold_log(
    log: &Arc<Log>,
    view: &Arc<View>,
    from: &Offsets,
    to: &Offsets,
    options: &FoldOptions,
    emit: impl Fn(RecordBatch, Ranges) -> Result<()> + Send + Sync + 'static,
) -> Result<()> {
    fold_files(log, view, (from, to), options, HandOver::InPlace, emit).await
}

/// As [`fold_log`], for who does not ask of which offsets a batch of states is: states are handed
/// over as soon as they take their share of memory, wherever that is.
///
/// # Errors
/// As [`fold_log`].
pub async fn fold_log_unplaced(
    log: &Arc<Log>,
    view: &Arc<View>,
    from: &Offsets,
    to: &Offsets,
    options: &FoldOptions,
    emit: impl Fn(RecordBatch) -> Result<()> + Send + Sync + 'static,
) -> Result<()> {
    let emit = move |states, _: Ranges| emit(states);
    fold_files(log, view, (from, to), options, HandOver::Anywhere, emit).await
}

/// When a thread over its share of memory hands over what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HandOver {
    /// At the next border of offsets, so that the states are of whole ranges.
    InPlace,
    /// At once.
    Anywhere,
}

async fn fold_files(
    log: &Arc<Log>,
    view: &Arc<View>,
    (from, to): (&Offsets, &Offsets),
    options: &FoldOptions,
    hand_over: HandOver,
    emit: impl Fn(RecordBatch, Ranges) -> Result<()> + Send + Sync + 'static,
) -> Result<()> {
    // Others land, and publish what they landed: without this their facts would be left out.
    if !log.head().covers(to) {
        log.refresh().await?;
    }
    if !log.head().covers(to) {
        return Err(Error::Unavailable(format!(
            "topic `{}`: facts up to [{to}] are wanted, the log ends at [{}]; try again",
            log.name(),
            log.head()
        )));
    }
    let files = log.files_between(from, to)?;
    let threads = options.threads.clamp(1, files.len().max(1));
    let queue = Queue::new(files, threads);
    options
        .progress
        .facts_total
        .fetch_add(queue.rows, Ordering::Relaxed);
    let queue = Arc::new(Mutex::new(queue));
    let emit = Arc::new(emit);
    let workers = (0..threads).map(|_| {
        let worker = Worker {
            log: log.clone(),
            view: view.clone(),
            queue: queue.clone(),
            fold_bytes: options.memory_bytes / threads,
            hand_over,
            options: options.clone(),
            runtime: Handle::current(),
        };
        let emit = emit.clone();
        tokio::task::spawn_blocking(move || worker.run(emit.as_ref()))
    });
    let mut outcome = Ok(());
    for worker in workers.collect::<Vec<_>>() {
        let ended = worker
            .await
            .unwrap_or_else(|e| Err(Error::Internal(format!("a thread ended: {e}"))));
        if ended.is_err() && outcome.is_ok() {
            // The others stop at their next batch; their own errors say only that.
            queue.lock().files.clear();
            outcome = ended;
        }
    }
    outcome
}

/// The files that no thread has taken yet, in their order.
struct Queue {
    files: VecDeque<FactsFile>,
    /// How many facts they hold.
    rows: u64,
    threads: u64,
}

impl Queue {
    fn new(files: Vec<FactsFile>, threads: usize) -> Self {
        Self {
            rows: files.iter().map(rows).sum(),
            files: files.into(),
            threads: threads as u64,
        }
    }

    /// The next files for one thread; none when all are taken.
    fn take(&mut self) -> Vec<FactsFile> {
        let wanted = self.rows.div_ceil(self.threads * CHUNKS_PER_SHARE);
        let (mut chunk, mut held) = (Vec::new(), 0);
        while (chunk.is_empty() || held < wanted)
            && let Some(file) = self.files.pop_front()
        {
            held += rows(&file);
            chunk.push(file);
        }
        self.rows -= held;
        chunk
    }
}

fn rows(file: &FactsFile) -> u64 {
    file.add.rows().unwrap_or(1)
}

struct Worker {
    log: Arc<Log>,
    view: Arc<View>,
    queue: Arc<Mutex<Queue>>,
    fold_bytes: usize,
    hand_over: HandOver,
    options: FoldOptions,
    runtime: Handle,
}

/// What a thread has folded and not handed over.
struct Unfinished {
    fold: Fold,
    /// Of which offsets it is; of a file that is being read, without what was folded of it since the
    /// last border.
    ranges: Ranges,
}

impl Worker {
    fn run(&self, emit: &dyn Fn(RecordBatch, Ranges) -> Result<()>) -> Result<()> {
        let mut unfinished = Unfinished {
            fold: Fold::new(&self.view)?,
            ranges: Ranges::new(),
        };
        loop {
            let chunk = self.queue.lock().take();
            if chunk.is_empty() {
                break;
            }
            for file in chunk {
                self.fold_file(&file, &mut unfinished, emit)?;
                if self.is_full(&unfinished) {
                    self.hand_over(&mut unfinished, emit)?;
                }
            }
        }
        self.hand_over(&mut unfinished, emit)
    }

    /// Whether a thread's states take more than its share of memory.
    fn is_full(&self, unfinished: &Unfinished) -> bool {
        let held = unfinished.fold.size_bytes();
        let most = &self.options.progress.most_held;
        most.fetch_max(held as u64, Ordering::Relaxed);
        held > self.fold_bytes
    }

    fn hand_over(
        &self,
        unfinished: &mut Unfinished,
        emit: &dyn Fn(RecordBatch, Ranges) -> Result<()>,
    ) -> Result<()> {
        // Facts that met references and made no state: what they met has to be known all the same.
        let is_noted = self.hand_over == HandOver::InPlace
            && !self.view.at().is_empty()
            && !unfinished.ranges.is_empty()
            && !planted("planted-met-not-noted");
        if unfinished.fold.is_empty() && !is_noted {
            return Ok(());
        }
        let full = std::mem::replace(&mut unfinished.fold, Fold::new(&self.view)?);
        let ranges = std::mem::take(&mut unfinished.ranges);
        let states = full.into_states()?;
        self.options
            .progress
            .states
            .fetch_add(states.num_rows() as u64, Ordering::Relaxed);
        emit(states, join_ranges(ranges))
    }

    fn fold_file(
        &self,
        file: &FactsFile,
        unfinished: &mut Unfinished,
        emit: &dyn Fn(RecordBatch, Ranges) -> Result<()>,
    ) -> Result<()> {
        let body = match self.runtime.block_on(self.log.fetch_file(file)) {
            Err(Error::Unavailable(why)) => {
                return self.fold_replacement(file, why, unfinished, emit);
            }
            read => read?,
        };
        let (schema, reads) = (self.view.fact_schema(), self.view.late_reads());
        // Read once they are needed: few files are so large.
        let mut borders: Option<Borders> = None;
        let mut left = file.wanted.clone();
        for (number, batch) in file.read(body.clone(), schema, reads)?.enumerate() {
            if self.options.stop.load(Ordering::Relaxed) {
                return Err(Error::Conflict("stopped; nothing was changed".into()));
            }
            let batch = batch?;
            let folded = unfinished.fold.facts(&batch);
            folded.map_err(|e| self.locate(file, e))?;
            self.options
                .progress
                .facts
                .fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
            if !self.is_full(unfinished) {
                continue;
            }
            match self.hand_over {
                HandOver::Anywhere => self.hand_over(unfinished, emit)?,
                HandOver::InPlace => {
                    let borders = match &mut borders {
                        Some(borders) => borders,
                        none => none.insert(Borders::read(file, body.clone(), reads)?),
                    };
                    if let Some(before) = borders.cut_after(number, &mut left) {
                        unfinished.ranges.extend(before);
                        self.hand_over(unfinished, emit)?;
                    }
                }
            }
        }
        unfinished.ranges.extend(left);
        let size = u64::try_from(file.add.size).unwrap_or(0);
        self.options
            .progress
            .bytes
            .fetch_add(size, Ordering::Relaxed);
        Ok(())
    }

    /// Folds what a file held that is gone: it was merged with others since the fold began, which
    /// took longer than replaced files stay.
    fn fold_replacement(
        &self,
        file: &FactsFile,
        why: String,
        unfinished: &mut Unfinished,
        emit: &dyn Fn(RecordBatch, Ranges) -> Result<()>,
    ) -> Result<()> {
        self.runtime.block_on(self.log.refresh())?;
        let files = self.log.files_of(&file.wanted)?;
        if files.iter().any(|f| f.add.path == file.add.path) {
            return Err(Error::Unavailable(why));
        }
        files
            .iter()
            .try_for_each(|f| self.fold_file(f, unfinished, emit))
    }

    /// The error with the place of the fact that causes it, found by reading the file again.
    fn locate(&self, file: &FactsFile, error: Error) -> Error {
        let all = self.view.topic().schema();
        let again = self
            .runtime
            .block_on(self.log.read_file(file, &all, self.view.late_reads()))
            .and_then(|batches| {
                let batches = batches.collect::<Result<Vec<_>>>()?;
                fold_facts(&self.view, &batches).map(|_| ())
            });
        match again {
            Err(e @ Error::Expression { .. }) => e,
            _ => error,
        }
    }
}

/// The same ranges, those that touch joined.
pub fn join_ranges(mut ranges: Ranges) -> Ranges {
    ranges.sort_by_key(|(p, r)| (*p, r.start));
    let mut joined = Ranges::new();
    for (p, r) in ranges {
        match joined.last_mut() {
            Some((q, last)) if *q == p && last.end == r.start => last.end = r.end,
            _ => joined.push((p, r)),
        }
    }
    joined
}
