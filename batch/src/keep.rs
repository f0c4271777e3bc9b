//! Keeps a table small to which a row is added now and then, such as the history of jobs: rows go
//! that are older than they are to be kept, small files are merged, and the table gets a checkpoint
//! where one is due. Owns when; what the rows are is the caller's.
//!
//! Each is a commit of its own that names the files it replaces, and is refused where one of them is
//! gone: then another process has done the same.

use std::sync::Arc;

use anabranch_shared::table::{AddFile, Commit, RemoveFile, Table, TableState};
use anabranch_shared::{
    Error, LateReads, Result, blocking, encode_parquet, read_file, read_parquet,
};
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch, sort_to_indices, take_record_batch};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use datafusion::common::ScalarValue;
use futures::stream::{self, StreamExt, TryStreamExt};

/// Files with so many rows are large enough.
const ENOUGH_ROWS: u64 = 100_000;

/// Files that are read at once.
const READ_AT_ONCE: usize = 16;

/// What a table is kept by.
#[derive(Clone, Debug)]
pub struct KeepRule {
    /// Its columns.
    pub schema: SchemaRef,
    /// The column with the time of a row.
    pub time: &'static str,
    /// Rows of an earlier time go, in microseconds since 1970; none where absent.
    pub before_us: Option<i64>,
    /// With fewer small files than this nothing is merged; at least 2.
    pub fewest_files: usize,
    /// Commits between two checkpoints.
    pub checkpoint_every: u64,
}

/// What keeping a table small came to, or would.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepReport {
    /// Files that were merged.
    pub merged: u64,
    /// Rows that were removed.
    pub removed: u64,
}

impl KeepReport {
    /// Adds another report to this one.
    pub fn extend(&mut self, other: &Self) {
        self.merged += other.merged;
        self.removed += other.removed;
    }
}

/// Whether there is something to do.
pub fn is_to_keep(table: &Table, rule: &KeepRule) -> bool {
    !chosen(table, rule).is_empty()
}

/// Removes old rows and merges small files, as far as this table is to be kept small.
///
/// # Errors
/// `Unavailable` where the storage does not answer: what was done stays.
pub async fn keep_small(table: &Table, rule: &KeepRule, now_ms: i64) -> Result<KeepReport> {
    table.refresh().await?;
    let mut report = KeepReport::default();
    for group in chosen(table, rule) {
        match replace(table, rule, &group, now_ms).await {
            Ok(done) => report.extend(&done),
            // Another process was as quick.
            Err(Error::Conflict(_)) => break,
            Err(e) => return Err(e),
        }
    }
    let commits = |s: &TableState| {
        let since = s.checkpoint.map_or(0, |c| c.0 + 1);
        s.version.map_or(0, |v| v.0 + 1 - since)
    };
    if table.with_state(commits) >= rule.checkpoint_every.max(1) {
        table.write_checkpoint().await?;
    }
    Ok(report)
}

/// The first and the last time of a file's rows, by its statistics.
fn times(add: &AddFile, rule: &KeepRule) -> Option<(i64, i64)> {
    let index = rule.schema.index_of(rule.time).ok()?;
    let statistics = add.statistics(&rule.schema);
    let column = statistics.column_statistics.get(index)?;
    let at = |value: Option<&ScalarValue>| match value? {
        ScalarValue::TimestampMicrosecond(at, _) => *at,
        _ => None,
    };
    let (first, last) = (column.min_value.get_value(), column.max_value.get_value());
    Some((at(first)?, at(last)?))
}

/// The groups of files that are replaced, each by one: of small ones where there are enough of
/// them, and each alone that holds old rows besides.
fn chosen(table: &Table, rule: &KeepRule) -> Vec<Vec<Arc<AddFile>>> {
    let mut files: Vec<Arc<AddFile>> = table.with_state(|s| s.files.values().cloned().collect());
    files.sort_by_cached_key(|f| times(f, rule));
    let is_old = |f: &Arc<AddFile>| {
        let first = times(f, rule).map(|(first, _)| first);
        // A day is let pass, so that a large file is not written anew for each row.
        let day_us = 86_400_000_000;
        rule.before_us
            .zip(first)
            .is_some_and(|(before, first)| first < before.saturating_sub(day_us))
    };
    let is_small = |f: &Arc<AddFile>| f.rows().unwrap_or(0) < ENOUGH_ROWS;
    let (small, large): (Vec<_>, Vec<_>) = files.into_iter().partition(is_small);
    let mut groups: Vec<Vec<Arc<AddFile>>> = Vec::new();
    if small.len() >= rule.fewest_files.max(2) || small.iter().any(is_old) {
        let mut rows = 0;
        for file in small {
            let more = file.rows().unwrap_or(0);
            match groups.last_mut() {
                Some(group) if rows + more <= ENOUGH_ROWS * 2 => group.push(file),
                _ => {
                    rows = 0;
                    groups.push(vec![file]);
                }
            }
            rows += more;
        }
        groups.retain(|group| group.len() > 1 || group.iter().any(is_old));
    }
    groups.extend(large.into_iter().filter(is_old).map(|file| vec![file]));
    groups
}

/// Replaces files by one with their rows that stay, in the order of their times.
async fn replace(
    table: &Table,
    rule: &KeepRule,
    group: &[Arc<AddFile>],
    now_ms: i64,
) -> Result<KeepReport> {
    let bodies: Vec<_> = group.iter().map(|add| read_file(table, add)).collect();
    let bodies = stream::iter(bodies).buffered(READ_AT_ONCE);
    let bodies: Vec<_> = bodies.try_collect().await?;
    let (schema, time, before_us) = (rule.schema.clone(), rule.time, rule.before_us);
    let name = table.storage().new_file_name();
    let (file, rows, kept) = blocking(move || {
        let mut batches = Vec::new();
        for body in bodies {
            for batch in read_parquet(body, &schema, &LateReads::default())? {
                batches.push(batch?);
            }
        }
        let all = concat_batches(&schema, &batches)?;
        let kept = in_order(&keep_from(&all, time, before_us)?, time)?;
        let counts = (all.num_rows() as u64, kept.num_rows() as u64);
        let file = match kept.num_rows() {
            0 => None,
            _ => Some(encode_parquet(name, &schema, &[kept], 0)?),
        };
        Ok((file, counts.0, counts.1))
    })
    .await?;
    if let Some(file) = &file {
        let path = table.file_path(&file.add.path);
        table.storage().put(&path, file.body.clone()).await?;
    }
    let add = file.map(|file| file.add);
    let committed = table.commit(now_ms, |state| {
        let gone = group.iter().find(|f| !state.files.contains_key(&f.path));
        if let Some(gone) = gone {
            let (root, path) = (table.root(), &gone.path);
            let text = format!("`{root}`: file `{path}` was replaced while it was merged");
            return Err(Error::Conflict(text));
        }
        let remove = |f: &Arc<AddFile>| RemoveFile {
            path: f.path.clone(),
            ..Default::default()
        };
        Ok(Commit {
            adds: add.iter().cloned().collect(),
            removes: group.iter().map(remove).collect(),
            operation: if kept == rows { "OPTIMIZE" } else { "DELETE" },
            data_change: kept != rows,
            ..Default::default()
        })
    });
    if let Err(e) = committed.await {
        if matches!(e, Error::Conflict(_)) {
            table.discard(add.iter().map(|a| a.path.as_str())).await;
        }
        return Err(e);
    }
    Ok(KeepReport {
        merged: group.len() as u64,
        removed: rows - kept,
    })
}

/// The rows whose time is not before another.
fn keep_from(rows: &RecordBatch, time: &str, before_us: Option<i64>) -> Result<RecordBatch> {
    let Some(before_us) = before_us else {
        return Ok(rows.clone());
    };
    let column = rows.column_by_name(time);
    let times = column.and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
    let Some(times) = times else {
        return Err(Error::Internal(format!("no time in column `{time}`")));
    };
    let stays = |at: Option<i64>| Some(at.is_none_or(|at| at >= before_us));
    let stays: BooleanArray = times.iter().map(stays).collect();
    Ok(filter_record_batch(rows, &stays)?)
}

fn in_order(rows: &RecordBatch, time: &str) -> Result<RecordBatch> {
    let Some(times) = rows.column_by_name(time) else {
        return Ok(rows.clone());
    };
    let order = sort_to_indices(times, None, None)?;
    Ok(take_record_batch(rows, &order)?)
}

#[cfg(test)]
mod tests;
