//! Keeps the runs of a master view few: merging costs a query about a microsecond a state, and
//! every file a request.

use std::sync::Arc;

use anabranch_shared::table::AddFile;
use anabranch_shared::view::Fold;
use anabranch_shared::{Master, Ranges, Result, blocking};

use crate::build::{BatchOptions, give_up, stopped};

/// With fewer small files than this there is nothing to gain.
const FEWEST_FILES: usize = 8;

/// A file with more states than this is not small.
const SMALL_ROWS: u64 = 500_000;

/// Merges the small files of a master view into one, if there are many. Returns how many files
/// were merged.
///
/// # Errors
/// `Conflict` when a rebuild replaced one of them meanwhile; nothing is changed then.
pub async fn merge_small_runs(
    master: &Arc<Master>,
    options: &BatchOptions,
    now_ms: i64,
) -> Result<usize> {
    let small: Vec<Arc<AddFile>> = master
        .pin()
        .files
        .into_iter()
        .filter(|f| f.rows().is_some_and(|rows| rows < SMALL_ROWS))
        .collect();
    if small.len() < FEWEST_FILES {
        return Ok(0);
    }
    let mut fold = Fold::new(master.view())?;
    let mut ranges = Ranges::new();
    let mut merged = Vec::new();
    for file in small {
        stopped(options)?;
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
    ranges.sort_by_key(|(p, r)| (*p, r.start));
    let worker = master.clone();
    let (unit, body) = blocking(move || worker.encode(fold.into_states()?, &ranges)).await?;
    master.put(&unit, body).await?;
    let units = [unit];
    if let Err(e) = master.publish_merge(&merged, &units, now_ms).await {
        give_up(master, &units, &e).await;
        return Err(e);
    }
    Ok(merged.len())
}
