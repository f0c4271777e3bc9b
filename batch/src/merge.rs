//! Keeps the runs of a master view few: merging costs a query about a microsecond a state, and
//! every file a request.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_shared::table::AddFile;
use anabranch_shared::view::Fold;
use anabranch_shared::{
    Log, Master, Met, OffsetRange, Offsets, PartitionId, Ranges, Result, blocking, planted,
};

use crate::build::{BatchOptions, SMALL_ROWS, give_up, stopped};

/// With fewer small files than this there is nothing to gain.
const FEWEST_FILES: usize = 8;

/// A file with more bytes than this is worth a request of its own.
const SMALL_BYTES: i64 = 16_000_000;

/// With rows of references of more versions than this, which the facts of its runs met, a file is not
/// merged further: each is read again where the view is verified. A rebuild brings all to the newest.
const MOST_VERSIONS: usize = 64;

/// Merges the small files of a master view into one, if there are many; where the log has edges,
/// those between two of them. Returns how many files were merged.
///
/// # Errors
/// `Conflict` when a rebuild replaced one of them meanwhile; nothing is changed then.
pub async fn merge_small_runs(
    master: &Arc<Master>,
    log: &Arc<Log>,
    options: &BatchOptions,
    now_ms: i64,
) -> Result<usize> {
    let pin = master.pin();
    // Edges that come later lie at or past the head of the version that these are read from.
    if !log.head().covers(&pin.boundary) {
        log.refresh().await?;
    }
    let edges = log.edges();
    let mut small: BTreeMap<Vec<bool>, Vec<Arc<AddFile>>> = BTreeMap::new();
    for file in pin.files {
        if file.size < SMALL_BYTES
            && file.rows().is_some_and(|rows| rows < SMALL_ROWS as u64)
            && file.met()?.versions() < MOST_VERSIONS
            && let Some(place) = between(file.ranges()?, &edges)
        {
            small.entry(place).or_default().push(file);
        }
    }
    let mut merged = 0;
    for files in small.into_values() {
        if files.len() >= FEWEST_FILES {
            merged += merge(master, files, options, now_ms).await?;
        }
    }
    Ok(merged)
}

/// Between which edges ranges lie: for each edge whether they are above it; `None` where they cross
/// one.
pub(crate) fn between(
    ranges: &[(PartitionId, OffsetRange)],
    edges: &[Offsets],
) -> Option<Vec<bool>> {
    let side = |edge: &Offsets| match ranges.iter().all(|(p, r)| r.start >= edge.get(*p)) {
        true => Some(true),
        false => (ranges.iter().all(|(p, r)| r.end <= edge.get(*p))).then_some(false),
    };
    edges.iter().map(side).collect()
}

/// Merges files into one, as many as the memory suffices for.
async fn merge(
    master: &Arc<Master>,
    small: Vec<Arc<AddFile>>,
    options: &BatchOptions,
    now_ms: i64,
) -> Result<usize> {
    let mut fold = Fold::new(master.view())?;
    let (mut ranges, mut met) = (Ranges::new(), Met::default());
    let mut merged = Vec::new();
    for file in small {
        stopped(options)?;
        let mut both = met.clone();
        both.extend(&file.met()?);
        if both.versions() > MOST_VERSIONS {
            break;
        }
        if !planted("planted-met-lost-in-merged-runs") {
            met = both;
        }
        let states = master.read(&file).await?;
        ranges.extend(file.ranges()?);
        merged.push(file);
        fold = blocking(move || {
            states.iter().try_for_each(|s| fold.states(s))?;
            Ok(fold)
        })
        .await?;
        if fold.size_bytes() as u64 > options.memory_bytes / 2 {
            break;
        }
    }
    if merged.len() < 2 {
        return Ok(0);
    }
    ranges.sort_by_key(|(p, r)| (*p, r.start));
    let worker = master.clone();
    let (unit, body) = blocking(move || worker.encode(fold.into_states()?, &ranges, &met)).await?;
    master.put(&unit, body).await?;
    let units = [unit];
    if let Err(e) = master.publish_merge(&merged, &units, now_ms).await {
        give_up(master, &units, &e).await;
        return Err(e);
    }
    Ok(merged.len())
}
