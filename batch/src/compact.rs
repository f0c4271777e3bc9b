//! Keeps the files of a log few: merges small files of neighbouring offsets into larger ones, group
//! by group, each in a commit of its own, so that it can be interrupted anywhere. Owns which files
//! are merged, and that a merged file holds exactly their rows in order of partition and offset.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_shared::table::AddFile;
use anabranch_shared::{
    EncodedFile, Error, FileEncoder, Log, LogTable, OffsetRange, Offsets, PartitionId, Ranges,
    Result, UpkeepTurn, blocking, newest_dead_letter,
};
use futures::StreamExt;

use self::rows::RowsInOrder;
use crate::merge::between;

mod rows;

/// With fewer small files than this, that together are still small, there is nothing to gain.
const FEWEST_FILES: usize = 8;

/// A week, in microseconds.
const WEEK_US: i64 = 7 * 24 * 60 * 60 * 1_000_000;

/// Files that are fetched ahead at most.
const MOST_AHEAD: u64 = 16;

/// How files of a log are merged.
#[derive(Clone, Debug)]
pub struct CompactOptions {
    /// Files with fewer bytes are merged.
    pub below_bytes: u64,
    /// About so many bytes a merged file has at most.
    pub to_bytes: u64,
    /// Set from outside to stop early.
    pub stop: Arc<AtomicBool>,
}

/// What a compaction came to, or would.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactReport {
    /// Files that were merged.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that hold their rows now.
    pub merged: u64,
}

impl CompactReport {
    /// Adds another report to this one.
    pub fn extend(&mut self, other: &Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.merged += other.merged;
    }

    fn count(&mut self, group: &[SmallFile]) {
        self.files += group.len() as u64;
        self.bytes += group.iter().map(|f| f.bytes).sum::<u64>();
        self.merged += 1;
    }
}

/// What would be merged now.
///
/// # Errors
/// `Corrupt` for a file that another writer added.
pub async fn find_compaction(log: &Log, options: &CompactOptions) -> Result<CompactReport> {
    let mut report = CompactReport::default();
    log.table().refresh().await?;
    for which in LogTable::ALL {
        log.table_of(which).refresh().await?;
        let found = log.upkeep_files(which)?;
        for group in groups(which, &found.files, &found.edges, options)? {
            report.count(&group);
        }
    }
    Ok(report)
}

/// Whether no files of a log would be merged, as far as it was read.
///
/// # Errors
/// `Corrupt` for a file that another writer added.
pub(crate) fn nothing_to_merge(log: &Log, options: &CompactOptions) -> Result<bool> {
    for which in LogTable::ALL {
        let found = log.upkeep_files(which)?;
        if !groups(which, &found.files, &found.edges, options)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Merges the small files of a topic's facts and dead letters.
///
/// # Errors
/// `Fenced` when another process does the same: what it did stays, what this one did before too.
pub async fn compact(
    log: &Log,
    options: &CompactOptions,
    now_ms: impl Fn() -> i64,
) -> Result<CompactReport> {
    let mut report = CompactReport::default();
    for which in LogTable::ALL {
        log.table().refresh().await?;
        log.table_of(which).refresh().await?;
        if which == LogTable::Facts {
            log.tell_of_dead_letters(now_ms()).await?;
        }
        let found = log.upkeep_files(which)?;
        let mut turn: UpkeepTurn = found.turn;
        for group in groups(which, &found.files, &found.edges, options)? {
            if options.stop.load(Ordering::Relaxed) {
                return Ok(report);
            }
            let merged = merge(log, which, &group, options).await?;
            let files: Vec<Arc<AddFile>> = group.iter().map(|f| f.add.clone()).collect();
            let replaced = log.replace_files(which, turn, &files, merged, now_ms());
            replaced.await?;
            turn = turn.next();
            report.count(&group);
        }
    }
    Ok(report)
}

/// A file that may be merged with others.
#[derive(Clone, Debug)]
struct SmallFile {
    add: Arc<AddFile>,
    bytes: u64,
    /// For each partition that it holds facts of, from where to where.
    spans: BTreeMap<PartitionId, OffsetRange>,
    /// Between which edges of the log it lies; `None` where it crosses one.
    place: Option<Vec<bool>>,
    /// Of dead letters the week in which its newest came: merged with later ones, old ones would
    /// stay as long as those.
    week: Option<i64>,
}

/// For each partition the least range that holds all of a file's. What lies between its ranges is
/// below the head and in no other file that is merged with it, so it holds no facts at all.
fn spans(add: &AddFile) -> Result<BTreeMap<PartitionId, OffsetRange>> {
    let mut spans: BTreeMap<PartitionId, OffsetRange> = BTreeMap::new();
    for (partition, range) in add.ranges()? {
        let span = spans.entry(*partition).or_insert(*range);
        *span = join(*span, *range);
    }
    Ok(spans)
}

fn join(a: OffsetRange, b: OffsetRange) -> OffsetRange {
    OffsetRange::new(a.start.min(b.start), a.end.max(b.end))
}

/// The groups of files that are merged: small ones, that in each of their partitions follow each
/// other with no other file between, and lie between the same edges.
fn groups(
    which: LogTable,
    files: &[Arc<AddFile>],
    edges: &[Offsets],
    options: &CompactOptions,
) -> Result<Vec<Vec<SmallFile>>> {
    let mut all = Vec::with_capacity(files.len());
    for add in files {
        let (spans, bytes) = (spans(add)?, u64::try_from(add.size).unwrap_or(0));
        let (add, place) = (add.clone(), between(add.ranges()?, edges));
        let came = match which {
            LogTable::Facts => None,
            LogTable::DeadLetters => newest_dead_letter(&add),
        };
        let week = came.map(|at_us| at_us.div_euclid(WEEK_US));
        all.push(SmallFile {
            add,
            bytes,
            spans,
            place,
            week,
        });
    }
    all.sort_by_key(|f| f.spans.iter().map(|(p, r)| (*p, r.start)).next());
    let neighbours = Neighbours::of(&all);
    let mut taken = vec![false; all.len()];
    let mut found = Vec::new();
    for first in 0..all.len() {
        if taken[first] || all[first].bytes >= options.below_bytes {
            continue;
        }
        let mut group = vec![first];
        let mut bytes = all[first].bytes;
        let mut last: BTreeMap<PartitionId, usize> = BTreeMap::new();
        last.extend(all[first].spans.keys().map(|p| (*p, first)));
        let place = all[first].place.as_ref();
        let free = |i: usize| {
            let small = !taken[i] && all[i].bytes < options.below_bytes;
            let same_week = all[i].week == all[first].week;
            small && same_week && place.is_some() && all[i].place.as_ref() == place
        };
        while let Some(next) = neighbours.next(&all, &last, free) {
            let size = all[next].bytes;
            if bytes + size > options.to_bytes {
                break;
            }
            group.push(next);
            bytes += size;
            last.extend(all[next].spans.keys().map(|p| (*p, next)));
        }
        // Those left out are looked at again, as the first of a group.
        let group = worth_merging(&group, &all, options);
        group.iter().for_each(|i| taken[*i] = true);
        if !group.is_empty() {
            found.push(group.iter().map(|i| all[*i].clone()).collect());
        }
    }
    Ok(found)
}

/// What of a group is merged. A group that stays small is left until it has grown, and a file that
/// is larger than all after it together is left to them, so that each fact is written a number of
/// times that only grows with the logarithm of their number.
fn worth_merging<'a>(
    group: &'a [usize],
    all: &[SmallFile],
    options: &CompactOptions,
) -> &'a [usize] {
    let bytes = |part: &[usize]| part.iter().map(|i| all[*i].bytes).sum::<u64>();
    let mut rest = group;
    if rest.len() > 1 && bytes(rest) >= options.below_bytes {
        return rest;
    }
    while let [first, after @ ..] = rest
        && rest.len() >= FEWEST_FILES
    {
        if all[*first].bytes <= bytes(after) {
            return rest;
        }
        rest = after;
    }
    &[]
}

/// For each partition its files, by where they start.
struct Neighbours(BTreeMap<PartitionId, Vec<usize>>);

impl Neighbours {
    fn of(all: &[SmallFile]) -> Self {
        let mut files: BTreeMap<PartitionId, Vec<usize>> = BTreeMap::new();
        for (i, file) in all.iter().enumerate() {
            for partition in file.spans.keys() {
                files.entry(*partition).or_default().push(i);
            }
        }
        for (partition, files) in &mut files {
            files.sort_by_key(|i| all[*i].spans.get(partition).map(|r| r.start));
        }
        Self(files)
    }

    /// The position of a file among those of a partition.
    fn position(&self, all: &[SmallFile], partition: PartitionId, file: usize) -> Option<usize> {
        let files = self.0.get(&partition)?;
        let start = all[file].spans.get(&partition)?.start;
        let at = files.partition_point(|i| {
            let of = all[*i].spans.get(&partition);
            of.is_some_and(|r| r.start < start)
        });
        (files.get(at) == Some(&file)).then_some(at)
    }

    /// A file that follows a group: in each partition that both hold, right after `last`, the
    /// group's last file there.
    fn next(
        &self,
        all: &[SmallFile],
        last: &BTreeMap<PartitionId, usize>,
        free: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let follows = |partition: PartitionId, before: usize, file: usize| {
            let at = self.position(all, partition, file);
            let after = self.position(all, partition, before).map(|at| at + 1);
            let end = all[before].spans.get(&partition).map(|r| r.end);
            let start = all[file].spans.get(&partition).map(|r| r.start);
            at.is_some() && at == after && end <= start
        };
        let fits = |file: usize| {
            let mut partitions = all[file].spans.keys();
            partitions.all(|p| last.get(p).is_none_or(|before| follows(*p, *before, file)))
        };
        // Where a file begins a partition, those before it there come first: they could not follow.
        let earlier = |file: usize| {
            let mut new = all[file].spans.keys().filter(|p| !last.contains_key(p));
            new.find_map(|p| {
                let at = self.position(all, *p, file)?.checked_sub(1)?;
                let before = *self.0.get(p)?.get(at)?;
                free(before).then_some(before)
            })
        };
        last.iter().find_map(|(partition, before)| {
            let at = self.position(all, *partition, *before)?;
            let mut file = *self.0.get(partition)?.get(at + 1)?;
            // Each step goes back, and there are no more steps back than files.
            for _ in 0..all.len() {
                let Some(before) = earlier(file) else { break };
                file = before;
            }
            (free(file) && fits(file)).then_some(file)
        })
    }
}

/// Writes the rows of a group's files as one file.
async fn merge(
    log: &Log,
    which: LogTable,
    group: &[SmallFile],
    options: &CompactOptions,
) -> Result<EncodedFile> {
    let mut ranges: BTreeMap<PartitionId, OffsetRange> = BTreeMap::new();
    for (partition, range) in group.iter().flat_map(|f| &f.spans) {
        let span = ranges.entry(*partition).or_insert(*range);
        *span = join(*span, *range);
    }
    let schema = log.schema_of(which);
    let name = log.table().storage().new_file_name();
    let encoder = FileEncoder::new(name, &schema, 0)?;
    let mut rows = RowsInOrder::new(encoder, schema, log.topic().late_reads());
    let largest = group.iter().map(|f| f.bytes).max().unwrap_or(0).max(1);
    let ahead = usize::try_from((options.to_bytes / largest).clamp(1, MOST_AHEAD)).unwrap_or(1);
    // One pass over its files for each partition: they hold each partition's facts in order, and
    // those of several partitions as they came in.
    for partition in ranges.keys() {
        let mut files: Vec<&SmallFile> = group.iter().collect();
        files.retain(|f| f.spans.contains_key(partition));
        files.sort_by_key(|f| f.spans.get(partition).map(|r| r.start));
        let fetch = |file: &SmallFile| {
            let add = file.add.clone();
            let first = file.spans.keys().next() == Some(partition);
            let alone = file.spans.len() == 1;
            async move { (log.file_bytes(which, &add).await, first, alone) }
        };
        let fetches: Vec<_> = files.into_iter().map(fetch).collect();
        let mut fetched = futures::stream::iter(fetches).buffered(ahead);
        while let Some((bytes, first, alone)) = fetched.next().await {
            let (bytes, only) = (bytes?, (!alone).then_some(*partition));
            rows = blocking(move || {
                if first {
                    rows.announce(&bytes)?;
                }
                rows.take(bytes, only)?;
                Ok(rows)
            })
            .await?;
        }
    }
    let ranges: Ranges = ranges.into_iter().collect();
    let names: Vec<String> = group.iter().map(|f| f.add.path.clone()).collect();
    let root = log.table_of(which).root().clone();
    blocking(move || {
        let mut merged = rows.finish().map_err(|e| match e {
            Error::Corrupt(why) => Error::Corrupt(format!(
                "`{root}`: {why}; nothing was changed; the files are: {}",
                names.join(", ")
            )),
            e => e,
        })?;
        merged.add.set_ranges(&ranges)?;
        Ok(merged)
    })
    .await
}

#[cfg(test)]
mod tests;
