//! Rebuild and refresh: folds ranges of the log into states and publishes them as runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_shared::view::{Fold, View};
use anabranch_shared::{
    Error, ErrorKind, FoldOptions, FoldProgress, Log, Master, Met, Offset, Offsets, Ranges,
    ReferencesAt, Result, Unit, blocking, fold_log, planted, with_references, with_references_at,
};
use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tokio::runtime::Handle;

/// States below this many are merged before they are written, so that a view with few keys is one
/// file, and files with fewer are merged once there are many.
pub(crate) const SMALL_ROWS: usize = 200_000;

/// The share of the memory bound that unfinished states may take, by their own count. They take
/// about twice that: the count leaves out what the allocator adds to many small sketches, and
/// finished states, their sorting and the file lie beside them. The rest is for the table's state
/// and for what the allocator holds back.
const FOLD_SHARE: u64 = 8;

/// The share of the memory bound that finished states may take which wait to be merged because
/// they are few.
const SMALL_SHARE: u64 = 16;

/// The share of the memory bound that the bytes of the log's files may take which are being read.
const FILES_SHARE: u64 = 2;

/// How a build runs.
#[derive(Clone, Debug)]
pub struct BatchOptions {
    /// How many threads fold.
    pub threads: usize,
    /// Bytes of memory that the build may take, about.
    pub memory_bytes: u64,
    /// Set from outside to stop early.
    pub stop: Arc<AtomicBool>,
    /// What was done so far.
    pub progress: Arc<FoldProgress>,
    /// Facts of these ranges meet the rows of references that they met there, where the view joins those:
    /// a generation that is compared with another differs by what it computes alone.
    pub like: Arc<Met>,
}

/// What a build came to.
#[derive(Clone, Debug, Default)]
pub struct BatchOutcome {
    /// Facts that were read.
    pub facts: u64,
    /// States that were published.
    pub states: u64,
    /// Bytes of the published files.
    pub bytes: u64,
    /// The boundary after it.
    pub boundary: Offsets,
    /// From where on a rebuild has read the log: what retention has removed is kept as it was.
    pub from: Offsets,
}

/// Builds the states of everything from `low` to the boundary again, and of everything up to `end`
/// where the boundary is below it, and publishes them in one commit. Runs below `low`, and those
/// that others publish meanwhile, are kept.
///
/// # Errors
/// As [`fold_log`]; nothing is changed then.
pub async fn rebuild(
    master: &Arc<Master>,
    log: &Arc<Log>,
    end: &Offsets,
    options: &BatchOptions,
    now_ms: impl Fn() -> i64,
) -> Result<BatchOutcome> {
    let low = log.low();
    let (mut start, mut end) = (low.clone(), end.clone());
    // A head that was read before others raised `low`.
    low.iter().for_each(|(p, o)| end.raise(p, o));
    let mut units = Vec::new();
    loop {
        let step = async {
            units.extend(build(master, log, &start, &end, options, now_ms()).await?);
            publish_or_extend(master, &low, &end, &units, now_ms()).await
        };
        match step.await {
            Ok(None) => {
                return Ok(BatchOutcome {
                    from: low,
                    ..outcome(&units, master.boundary(), options)
                });
            }
            Ok(Some(further)) => start = std::mem::replace(&mut end, further),
            Err(e) => {
                give_up(master, &units, &e).await;
                return Err(e);
            }
        }
    }
}

/// Publishes a rebuild of `[low, end)`; where a run that others published meanwhile crosses `end`,
/// returns that run's end instead, up to which the rebuild must go on.
async fn publish_or_extend(
    master: &Arc<Master>,
    low: &Offsets,
    end: &Offsets,
    units: &[Unit],
    now_ms: i64,
) -> Result<Option<Offsets>> {
    if let Some(further) = master.crossing(end).await? {
        return Ok(Some(further));
    }
    match master.publish_rebuild(low, end, units, now_ms).await {
        Ok(_) => Ok(None),
        Err(conflict @ Error::Conflict(_)) => match master.crossing(end).await? {
            Some(further) => Ok(Some(further)),
            None => Err(conflict),
        },
        Err(e) => Err(e),
    }
}

/// Absorbs the facts from the boundary to `end` as one more run. Where another process absorbs some
/// of them meanwhile, begins again from the boundary that it left.
///
/// # Errors
/// As [`fold_log`]; nothing is changed then.
pub async fn refresh(
    master: &Arc<Master>,
    log: &Arc<Log>,
    end: &Offsets,
    options: &BatchOptions,
    now_ms: impl Fn() -> i64,
) -> Result<BatchOutcome> {
    loop {
        let boundary = master.boundary();
        let ranges = boundary.ranges_to(end);
        if ranges.is_empty() {
            return Ok(BatchOutcome {
                boundary,
                ..Default::default()
            });
        }
        let mut from = boundary.clone();
        for (p, range) in &ranges {
            if planted("planted-boundary-offset-lost") {
                from.set(*p, Offset(range.start.0 + 1));
            }
            if planted("planted-boundary-offset-doubled") && range.start.0 > 0 {
                from.set(*p, Offset(range.start.0 - 1));
            }
        }
        let units = build(master, log, &from, end, options, now_ms()).await?;
        match master.publish_refresh(&ranges, &units, now_ms()).await {
            Ok(_) => return Ok(outcome(&units, master.boundary(), options)),
            Err(Error::Fenced { .. }) => master.discard(&units).await,
            Err(e) => {
                give_up(master, &units, &e).await;
                return Err(e);
            }
        }
    }
}

/// Removes the units of a publication that failed, unless it may be there all the same: the storage
/// did not say, and then the clean-up finds out later what no commit names.
pub(crate) async fn give_up(master: &Master, units: &[Unit], error: &Error) {
    if error.kind() != ErrorKind::Unavailable {
        master.discard(units).await;
    }
}

fn outcome(units: &[Unit], boundary: Offsets, options: &BatchOptions) -> BatchOutcome {
    BatchOutcome {
        facts: options.progress.facts.load(Ordering::Relaxed),
        states: units.iter().map(|u| u.rows).sum(),
        bytes: units.iter().map(Unit::size_bytes).sum(),
        boundary,
        ..Default::default()
    }
}

/// Batches of few states, which are merged before they are written.
#[derive(Default)]
struct Small {
    batches: Vec<(RecordBatch, Ranges)>,
    bytes: u64,
}

/// What the threads of a build have made so far.
#[derive(Default)]
struct Made {
    units: Vec<Unit>,
    small: Small,
}

/// Where the threads of a build write.
#[derive(Clone)]
struct Writer {
    master: Arc<Master>,
    made: Arc<Mutex<Made>>,
    small_bytes: u64,
    runtime: Handle,
    /// Up to where the references are that the facts meet.
    at: ReferencesAt,
}

impl Writer {
    /// Writes states, or keeps them until there are more. Blocks.
    fn take(&self, states: RecordBatch, ranges: Ranges) -> Result<()> {
        let bytes = states.get_array_memory_size() as u64;
        // Where memory is short, few states are many: merging them would hardly make fewer files.
        if states.num_rows() >= SMALL_ROWS || bytes >= self.small_bytes / 4 {
            return self.write(states, &ranges);
        }
        let full = {
            let mut made = self.made.lock();
            made.small.bytes += bytes;
            made.small.batches.push((states, ranges));
            let full = made.small.bytes > self.small_bytes;
            full.then(|| std::mem::take(&mut made.small))
        };
        match full {
            Some(small) => self.write_small(small),
            None => Ok(()),
        }
    }

    fn write(&self, states: RecordBatch, ranges: &Ranges) -> Result<()> {
        let met = Met::of(ranges, &self.at);
        let (unit, body) = self.master.encode(states, ranges, &met)?;
        self.runtime.block_on(self.master.put(&unit, body))?;
        self.made.lock().units.push(unit);
        Ok(())
    }

    /// Merges small batches of states into one file.
    fn write_small(&self, small: Small) -> Result<()> {
        let mut fold = Fold::new(self.master.view())?;
        let mut ranges = Ranges::new();
        for (states, of) in small.batches {
            fold.states(&states)?;
            ranges.extend(of);
        }
        if ranges.is_empty() {
            return Ok(());
        }
        ranges.sort_by_key(|(p, r)| (*p, r.start));
        self.write(fold.into_states()?, &ranges)
    }
}

/// Folds `[from, to)` into units, none of which crosses an edge of the log.
async fn build(
    master: &Arc<Master>,
    log: &Arc<Log>,
    from: &Offsets,
    to: &Offsets,
    options: &BatchOptions,
    now_ms: i64,
) -> Result<Vec<Unit>> {
    // Edges that come later lie at or past the head of the version that these are read from.
    if !log.head().covers(to) {
        log.refresh().await?;
    }
    let mut units = Vec::new();
    let mut alike = Vec::new();
    for (from, to) in parts(from, to, &log.edges()) {
        alike.extend(met_alike(master, (&from, &to), &options.like, now_ms).await?);
    }
    for (view, from, to) in alike {
        match build_part(master, log, &view, (&from, &to), options).await {
            Ok(made) => units.extend(made),
            Err(e) => {
                master.discard(&units).await;
                return Err(e);
            }
        }
    }
    Ok(units)
}

/// The parts of `[from, to)` of which all facts meet the same rows of references: those that `like` says,
/// the newest elsewhere.
async fn met_alike(
    master: &Arc<Master>,
    (from, to): (&Offsets, &Offsets),
    like: &Met,
    now_ms: i64,
) -> Result<Vec<(Arc<View>, Offsets, Offsets)>> {
    let storage = master.table().storage();
    let newest = with_references(storage, master.view(), now_ms).await?;
    let mut parts = Vec::new();
    for (at, from, to) in like.divide(from, to) {
        let view = match at {
            Some(_) if planted("planted-candidate-meets-newest") => newest.clone(),
            Some(at) if !newest.references().is_empty() => {
                Arc::new(with_references_at(storage, master.view(), at, now_ms).await?)
            }
            _ => newest.clone(),
        };
        parts.push((view, from, to));
    }
    Ok(parts)
}

/// Divides `[from, to)` at edges, each of which lies at or past the one before it.
fn parts(from: &Offsets, to: &Offsets, edges: &[Offsets]) -> Vec<(Offsets, Offsets)> {
    let mut start = from.clone();
    let mut parts = Vec::new();
    for edge in edges {
        let end = to.iter().map(|(p, t)| (p, t.min(edge.get(p))));
        let end: Offsets = end.collect();
        if !start.ranges_to(&end).is_empty() {
            parts.push((start.clone(), end.clone()));
        }
        end.iter().for_each(|(p, o)| start.raise(p, o));
    }
    if parts.is_empty() || !start.ranges_to(to).is_empty() {
        parts.push((start, to.clone()));
    }
    parts
}

async fn build_part(
    master: &Arc<Master>,
    log: &Arc<Log>,
    view: &Arc<View>,
    (from, to): (&Offsets, &Offsets),
    options: &BatchOptions,
) -> Result<Vec<Unit>> {
    let files = log.files_between(from, to)?;
    let fold = FoldOptions {
        threads: threads(options, files.iter().map(|file| file.add.size).max()),
        memory_bytes: usize::try_from(options.memory_bytes / FOLD_SHARE).unwrap_or(usize::MAX),
        stop: options.stop.clone(),
        progress: options.progress.clone(),
    };
    let writer = Writer {
        master: master.clone(),
        made: Arc::default(),
        small_bytes: options.memory_bytes / SMALL_SHARE,
        runtime: Handle::current(),
        at: view.at().clone(),
    };
    let emit = {
        let writer = writer.clone();
        move |states, ranges| writer.take(states, ranges)
    };
    let written = match fold_log(log, view, from, to, &fold, emit).await {
        Ok(()) => {
            let writer = writer.clone();
            blocking(move || {
                let small = std::mem::take(&mut writer.made.lock().small);
                writer.write_small(small)
            })
            .await
        }
        Err(e) => Err(e),
    };
    let units = std::mem::take(&mut writer.made.lock().units);
    match written {
        Ok(()) => Ok(units),
        Err(e) => {
            master.discard(&units).await;
            Err(e)
        }
    }
}

/// How many threads fold files of this size at most: each has one of them in memory.
fn threads(options: &BatchOptions, largest_file: Option<i64>) -> usize {
    let largest = u64::try_from(largest_file.unwrap_or(0)).unwrap_or(0).max(1);
    let at_once = options.memory_bytes / FILES_SHARE / largest;
    let at_once = usize::try_from(at_once).unwrap_or(usize::MAX);
    options.threads.min(at_once).max(1)
}

/// A stop that was asked for.
pub(crate) fn stopped(options: &BatchOptions) -> Result<()> {
    match options.stop.load(Ordering::Relaxed) {
        true => Err(Error::Conflict("stopped; nothing was changed".into())),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use anabranch_shared::PartitionId;

    use super::*;

    fn at(list: &[(i32, i64)]) -> Offsets {
        list.iter()
            .map(|&(p, o)| (PartitionId(p), Offset(o)))
            .collect()
    }

    /// The ranges of the parts, as partition, start and end.
    fn divided(from: &Offsets, to: &Offsets, edges: &[Offsets]) -> Vec<Vec<(i32, i64, i64)>> {
        let ranges = |(start, end): &(Offsets, Offsets)| {
            let ranges = start.ranges_to(end).into_iter();
            ranges.map(|(p, r)| (p.0, r.start.0, r.end.0)).collect()
        };
        parts(from, to, edges).iter().map(ranges).collect()
    }

    #[test]
    fn as_many_files_are_read_at_once_as_fit() {
        let options = BatchOptions {
            like: Default::default(),
            threads: 8,
            memory_bytes: 1_000_000,
            stop: Arc::default(),
            progress: Arc::default(),
        };
        let of = |largest| threads(&options, largest);
        assert_eq!(of(None), 8);
        assert_eq!(of(Some(10_000)), 8);
        assert_eq!(of(Some(200_000)), 2);
        // One is read all the same.
        assert_eq!(of(Some(2_000_000)), 1);
    }

    #[test]
    fn a_range_is_divided_at_the_edges_in_it() {
        let edges = [
            at(&[(0, 5)]),
            at(&[(0, 9), (1, 4)]),
            at(&[(0, 20), (1, 4)]),
            at(&[(0, 90), (1, 90)]),
        ];
        // The first edge lies before the range, the last one past it.
        let found = divided(&at(&[(0, 7)]), &at(&[(0, 30), (1, 6)]), &edges);
        let expected = [
            vec![(0, 7, 9), (1, 0, 4)],
            vec![(0, 9, 20)],
            vec![(0, 20, 30), (1, 4, 6)],
        ];
        assert_eq!(found, expected);
        assert_eq!(divided(&at(&[]), &at(&[(0, 3)]), &[]), [[(0, 0, 3)]]);
        // What begins past an edge in one partition is divided in the other alone.
        let found = divided(&at(&[(0, 10)]), &at(&[(0, 12), (1, 8)]), &edges[1..2]);
        assert_eq!(found, [vec![(1, 0, 4)], vec![(0, 10, 12), (1, 4, 8)]]);
    }
}
