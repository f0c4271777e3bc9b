//! Reads everything of a storage and says what of it is damaged, missing or orphaned. Changes
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectMeta;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Serialize;

use crate::blocking::blocking;
use crate::damage::{damaged, lost};
use crate::parquet_bounds::check_footer;
use crate::storage::Storage;
use crate::table::parquet::read_file;
use crate::table::{AddFile, Table};
use crate::{Catalogue, Error, ErrorKind, Result};

/// Where the files of a Delta table's log lie.
const LOG_FOLDER: &str = "/_delta_log/";

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingKind {
    /// Its bytes are not those that were written.
    Damaged,
    /// Others name it, and it is not there.
    Missing,
    /// Nothing names it: what a writer left that was killed. It does no harm.
    Orphaned,
}

/// A file with which something is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// The file, by its path below the storage or in the file system.
    pub file: String,
    /// More about it, and what makes it whole again.
    pub what: String,
}

impl Finding {
    /// A file with which something is wrong.
    pub fn new(kind: FindingKind, file: impl ToString, what: impl ToString) -> Self {
        Self {
            kind,
            file: file.to_string(),
            what: what.to_string(),
        }
    }

    fn missing(path: &Path) -> Self {
        Self::new(FindingKind::Missing, path, lost(path))
    }
}

/// How far a check has come.
#[derive(Debug, Default)]
pub struct CheckProgress {
    /// Bytes that there are.
    pub all_bytes: AtomicU64,
    /// Bytes that were read.
    pub bytes: AtomicU64,
}

/// What a check has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// How many files there are.
    pub files: u64,
    /// Bytes that they have.
    pub bytes: u64,
    /// What is wrong, in order.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// Whether something is damaged or missing.
    pub fn is_damaged(&self) -> bool {
        let harms = |f: &Finding| f.kind != FindingKind::Orphaned;
        self.findings.iter().any(harms)
    }
}

/// The files of one table.
#[derive(Default)]
struct TableFiles {
    log: Vec<ObjectMeta>,
    data: Vec<ObjectMeta>,
}

/// Reads all files of a storage.
///
/// # Errors
/// `Unavailable` where the storage does not answer; what is damaged is in the report.
pub async fn check_storage(storage: &Storage, progress: &CheckProgress) -> Result<CheckReport> {
    let objects: Vec<ObjectMeta> = storage.store().list(None).try_collect().await?;
    let mut report = CheckReport {
        files: objects.len() as u64,
        bytes: objects.iter().map(|o| o.size).sum(),
        findings: Vec::new(),
    };
    progress.all_bytes.store(report.bytes, Ordering::Relaxed);
    let root = |o: &ObjectMeta| Some(o.location.as_ref().split_once(LOG_FOLDER)?.0.to_owned());
    let mut tables: BTreeMap<String, TableFiles> = BTreeMap::new();
    for root in objects.iter().filter_map(root) {
        tables.entry(root).or_default();
    }
    for object in objects {
        let path = object.location.as_ref();
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        if let Some(root) = root(&object) {
            tables.entry(root).or_default().log.push(object);
        } else if let Some(table) = tables.get_mut(parent) {
            table.data.push(object);
        } else {
            check_object(storage, &object, &mut report).await?;
            progress.bytes.fetch_add(object.size, Ordering::Relaxed);
        }
    }
    if let Err(e) = Catalogue::open(storage).await {
        note(&mut report, "catalogue", e)?;
    }
    for (root, files) in tables {
        check_table(storage, &root, &files, progress, &mut report).await?;
    }
    report.findings.sort();
    report.findings.dedup();
    Ok(report)
}

/// Takes damage into the report, where nothing of the same place is in it; another error ends the
/// check.
fn note(report: &mut CheckReport, place: &str, e: Error) -> Result<()> {
    if e.kind() != ErrorKind::Corrupt {
        return Err(e);
    }
    let known = |f: &Finding| f.kind != FindingKind::Orphaned && f.file.starts_with(place);
    if !report.findings.iter().any(known) {
        let finding = Finding::new(FindingKind::Damaged, place, e);
        report.findings.push(finding);
    }
    Ok(())
}

/// Checks a file that is of no table.
async fn check_object(
    storage: &Storage,
    object: &ObjectMeta,
    report: &mut CheckReport,
) -> Result<()> {
    let path = &object.location;
    let Some(bytes) = storage.get(path).await? else {
        return Ok(());
    };
    let entry = path.as_ref().strip_prefix("catalogue/");
    let number = entry.and_then(|name| name.strip_suffix(".json")?.parse().ok());
    let checked = match number {
        Some(number) => Catalogue::check_entry(&bytes, number, path),
        None if path.as_ref().ends_with(".json") => {
            serde_json::from_slice::<serde::de::IgnoredAny>(&bytes)
                .map(|_| ())
                .map_err(|e| damaged(path, format!("it is not JSON: {e}")))
        }
        None => Ok(()),
    };
    match checked {
        Ok(()) => Ok(()),
        Err(e) => note(report, path.as_ref(), e),
    }
}

async fn check_table(
    storage: &Storage,
    root: &str,
    files: &TableFiles,
    progress: &CheckProgress,
    report: &mut CheckReport,
) -> Result<()> {
    let mut entries = BTreeSet::new();
    let mut checkpoint = None;
    for object in &files.log {
        let path = &object.location;
        let name = path.filename().unwrap_or_default();
        let version = |suffix| name.strip_suffix(suffix)?.parse::<u64>().ok();
        entries.extend(version(".json"));
        checkpoint = checkpoint.max(version(".checkpoint.parquet"));
        if let Some(bytes) = storage.get(path).await?
            && let Err(e) = Table::check_log_file(&bytes, path)
        {
            note(report, path.as_ref(), e)?;
        }
        progress.bytes.fetch_add(object.size, Ordering::Relaxed);
    }
    let first = checkpoint.map_or(0, |version| version + 1);
    let absent = (first..entries.last().copied().unwrap_or(0)).filter(|v| !entries.contains(v));
    for version in absent {
        let path = Path::from(format!("{root}{LOG_FOLDER}{version:020}.json"));
        report.findings.push(Finding::missing(&path));
    }
    let table = match Table::open(storage, root).await {
        Ok(table) => table,
        // What it names is not known.
        Err(e) => return note(report, root, e),
    };
    let live: Vec<_> = table.with_state(|s| s.files.values().cloned().collect());
    for add in live {
        if let Err(e) = check_data_file(&table, &add).await {
            let path = table.file_path(&add.path);
            match e.kind() {
                ErrorKind::Corrupt if storage.get(&path).await?.is_none() => {
                    report.findings.push(Finding::missing(&path));
                }
                // It was replaced meanwhile.
                ErrorKind::Unavailable => {}
                _ => note(report, path.as_ref(), e)?,
            }
        }
        let size = u64::try_from(add.size).unwrap_or(0);
        progress.bytes.fetch_add(size, Ordering::Relaxed);
    }
    // What was written when the listing was made is named by now.
    table.refresh().await?;
    for object in &files.data {
        let name = object.location.filename().unwrap_or_default();
        let named = |s: &crate::table::TableState| {
            s.files.contains_key(name) || s.removed.contains_key(name)
        };
        if !table.with_state(named) {
            let what = "no entry of its table names it: a writer was killed, or is about to name it; `anabranch batch maintain` removes it once it is old enough";
            let finding = Finding::new(FindingKind::Orphaned, &object.location, what);
            report.findings.push(finding);
        }
    }
    Ok(())
}

/// Reads a file of a table; one without checksums is decoded.
async fn check_data_file(table: &Table, add: &AddFile) -> Result<()> {
    let body = read_file(table, add).await?;
    let path = table.file_path(&add.path);
    match add.tail(&path)? {
        Some(_) => Ok(()),
        None => blocking(move || decode(body, &path)).await,
    }
}

fn decode(body: Bytes, path: &Path) -> Result<()> {
    check_footer(&body).map_err(|e| damaged(path, e))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(body).map_err(|e| damaged(path, e))?;
    for batch in builder.build().map_err(|e| damaged(path, e))? {
        batch.map_err(|e| damaged(path, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
