//! `anabranch check`: reads a whole storage and this machine's WAL, and lists what is damaged, missing
//! or orphaned. Writes nothing, and needs no daemon; one may run.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anabranch_shared::files::RealFiles;
use anabranch_shared::settings::{Project, ViewSettings};
use anabranch_shared::view::unnamed_columns;
use anabranch_shared::{
    Catalogue, CheckProgress, CheckReport, Error, ErrorKind, Finding, FindingKind, Log,
    PartitionId, Result, Storage, blocking, check_storage, counted,
};
use anabranch_speed::wal::{KeyLog, Wal, WalError, WalExtent};

use super::{LINE_EVERY, SHOW_EVERY, progress_bar};
use crate::commands::printing::Printing;
use crate::output::{human_bytes, human_count, rows_table};
use crate::reader::presence::wal_id;

/// How often a WAL is looked at again that does not fit the log: a daemon may land meanwhile.
const WAL_TRIES: usize = 5;

/// Checks all that a project has stored, and shows how far it is.
///
/// # Errors
/// Those of the settings, and `Unavailable` where the storage does not answer.
pub async fn check(dir: &Path, terminal: bool) -> Result<CheckReport> {
    let project = Project::load(dir)?;
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let storage = Storage::open(&project.storage, &project.dir, variables)?;
    let progress = Arc::new(CheckProgress::default());
    let shown = tokio::spawn(show(progress.clone(), terminal));
    let checked = check_storage(&storage, &progress).await;
    shown.abort();
    let mut report = checked?;
    check_wal(&storage, &project.daemon.wal, &mut report).await?;
    report.findings.sort();
    Ok(report)
}

/// Shows how far a check is, until it is aborted.
async fn show(progress: Arc<CheckProgress>, terminal: bool) {
    let bar = progress_bar("{bytes} of {total_bytes} {wide_bar}", terminal);
    for look in 1_u32.. {
        tokio::time::sleep(SHOW_EVERY).await;
        let all = progress.all_bytes.load(Ordering::Relaxed);
        let read = progress.bytes.load(Ordering::Relaxed);
        bar.set_length(all);
        bar.set_position(read);
        if !terminal && look.is_multiple_of(LINE_EVERY) {
            tracing::info!("{} of {} read", human_bytes(read), human_bytes(all));
        }
    }
}

async fn check_wal(storage: &Storage, root: &Path, report: &mut CheckReport) -> Result<()> {
    let id = match wal_id(root) {
        Ok(id) => id,
        Err(e) => {
            let finding = Finding::new(FindingKind::Damaged, root.join("ID").display(), e);
            report.findings.push(finding);
            return Ok(());
        }
    };
    // Where the catalogue is damaged the report says so already.
    let catalogue = Catalogue::open(storage).await.ok();
    let entry = catalogue.map(|c| c.current());
    let claimed = |topic: &str| -> Option<PartitionId> {
        let partitions = &entry.as_ref()?.topics.get(topic)?.partitions;
        let owned = |owner: &String| Some(owner) == id.as_ref();
        let mut all = partitions.iter();
        all.find(|(_, owner)| owned(owner)).map(|(p, _)| *p)
    };
    let mut topics = folders(root)?;
    let known = entry.iter().flat_map(|e| e.topics.keys());
    topics.extend(known.filter(|t| claimed(t).is_some()).cloned());
    for topic in topics {
        let partition = claimed(&topic);
        check_topic(storage, root, &topic, partition, report).await?;
    }
    Ok(())
}

/// The names of the folders in one that need not exist.
fn folders(root: &Path) -> Result<BTreeSet<String>> {
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(e) => return Err(Error::io(root, e)),
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io(root, e))?;
        if entry.path().is_dir() {
            names.extend(entry.file_name().into_string().ok());
        }
    }
    Ok(names)
}

async fn check_topic(
    storage: &Storage,
    root: &Path,
    topic: &str,
    partition: Option<PartitionId>,
    report: &mut CheckReport,
) -> Result<()> {
    let dir = root.join(topic);
    let mut unfit = None;
    for _ in 0..WAL_TRIES {
        let (at, name) = (root.to_path_buf(), topic.to_owned());
        let looked = blocking(move || Ok(look(&at, &name))).await?;
        let extent = match looked {
            Ok(extent) => extent,
            Err(e) => {
                report.findings.push(damage(&dir, &e)?);
                return Ok(());
            }
        };
        let Some(partition) = partition else {
            return Ok(());
        };
        // Where the log is damaged the report says so already.
        let Ok((landed, synced)) = Log::look(storage, topic, partition).await else {
            return Ok(());
        };
        unfit = why_unfit(&extent, landed.0, synced.0);
        if unfit.is_none() {
            report.files += extent.segments;
            report.bytes += extent.bytes;
            return Ok(());
        }
    }
    let missing = |what| Finding::new(FindingKind::Missing, dir.display(), what);
    report.findings.extend(unfit.map(missing));
    Ok(())
}

/// Reads the segments of a topic, and the keys beside them.
fn look(root: &Path, topic: &str) -> std::result::Result<WalExtent, WalError> {
    let extent = Wal::look(root, topic, &RealFiles)?;
    if extent.segments > 0 {
        KeyLog::open(root, topic, Arc::new(RealFiles), &mut |_| {})?;
    }
    Ok(extent)
}

fn damage(dir: &Path, e: &WalError) -> Result<Finding> {
    match e {
        WalError::Corrupt { path, .. } => Ok(Finding::new(FindingKind::Damaged, path.display(), e)),
        _ => Err(Error::Unavailable(format!("{}: {e}", dir.display()))),
    }
}

/// Why the segments of a partition's WAL don't go on where its log ends, if they don't.
fn why_unfit(extent: &WalExtent, landed: i64, synced: i64) -> Option<String> {
    let at = |offset: u64| i64::try_from(offset).unwrap_or(i64::MAX);
    let (start, end) = (at(extent.start), at(extent.end));
    let lost = |what: String| {
        Some(format!(
            "{what}: segments were lost; restore them from a copy, or move the whole WAL folder away to give up the records that have not landed"
        ))
    };
    match () {
        () if extent.segments == 0 => {
            lost("a partition belongs to it, and no segment is there".into())
        }
        () if start > landed => lost(format!(
            "it starts at offset {start}, and the log ends at {landed}"
        )),
        () if end < landed.max(synced) => lost(format!(
            "it ends at offset {end}, and had reached {} when facts last landed",
            landed.max(synced)
        )),
        () => None,
    }
}

/// What of the views' SQL is right and will surprise: columns that only their formula names.
///
/// # Errors
/// Those of the settings.
fn notes(dir: &Path) -> Result<Vec<String>> {
    let project = Project::load(dir)?;
    let of_view = |view: &ViewSettings| {
        let name = view.name.clone();
        let note = move |column: String| {
            format!(
                "view `{name}`: the column `{column}` has no name of its own; write `{column} AS …`, and run `anabranch batch rebuild {name}`"
            )
        };
        unnamed_columns(&view.sql_text).into_iter().map(note)
    };
    Ok(project.views.iter().flat_map(of_view).collect())
}

/// A report for people.
pub fn text(report: &CheckReport) -> String {
    let read = format!(
        "{} read, {}",
        counted(report.files, "file", "files"),
        human_bytes(report.bytes)
    );
    if report.findings.is_empty() {
        return format!("{read}: all whole\n");
    }
    let kind = |kind| match kind {
        FindingKind::Damaged => "damaged",
        FindingKind::Missing => "missing",
        FindingKind::Orphaned => "orphaned",
    };
    let count = |wanted| report.findings.iter().filter(|f| f.kind == wanted).count();
    let counts = [
        FindingKind::Damaged,
        FindingKind::Missing,
        FindingKind::Orphaned,
    ]
    .map(|k| format!("{} {}", human_count(count(k) as u64), kind(k)));
    let rows = report
        .findings
        .iter()
        .map(|f| vec![kind(f.kind).to_owned(), f.file.clone(), f.what.clone()]);
    let table = rows_table(&["", "file", "what"], rows.collect());
    format!("{table}{read}: {}\n", counts.join(", "))
}

/// A report for programs.
pub fn json(report: &CheckReport) -> serde_json::Value {
    serde_json::json!({
        "files": report.files, "bytes": report.bytes, "findings": report.findings,
    })
}

/// Checks, and says what was found.
pub(crate) async fn run(project: &Path, printing: Printing) -> Result<u8> {
    let report = check(project, std::io::stderr().is_terminal()).await?;
    let notes = notes(project)?;
    let with_notes = || {
        let told = notes.iter().map(|note| format!("note: {note}\n"));
        text(&report) + &told.collect::<String>()
    };
    let mut value = json(&report);
    value["notes"] = notes.clone().into();
    printing.either(with_notes, &value)?;
    Ok(if report.is_damaged() {
        ErrorKind::Corrupt.exit_code()
    } else {
        0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wal_goes_on_where_its_log_ends() {
        let extent = |segments, start, end| WalExtent {
            segments,
            bytes: 0,
            start,
            end,
        };
        assert_eq!(why_unfit(&extent(1, 0, 0), 0, 0), None);
        assert_eq!(why_unfit(&extent(2, 5, 20), 10, 15), None);
        let unfit = [
            (extent(0, 0, 0), 0, 0),
            (extent(1, 11, 20), 10, 15),
            (extent(1, 5, 9), 10, 10),
            (extent(1, 5, 14), 10, 15),
        ];
        for (extent, landed, synced) in unfit {
            assert!(why_unfit(&extent, landed, synced).is_some(), "{extent:?}");
        }
    }
}
