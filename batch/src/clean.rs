//! Clean-up of the storage: removes files that no table needs any more, so that it does not grow
//! with every rebuild. Owns which files those are.
//!
//! | a file | goes |
//! |---|---|
//! | that a table names | never |
//! | that a commit removed | `grace` after that commit: a query may have pinned it before |
//! | of ours that no commit names | `orphan_grace` after it was written: a build may be about to commit it |
//! | of a generation that answered | `grace` after the cut-over, and after anything was written there |
//! | of a generation that was never cut over to | `orphan_grace` after anything was written there |
//! | that a killed put had staged in a folder | `orphan_grace` after it was written |
//! | of a table's log, below a checkpoint | `grace` after the checkpoint was written, ten minutes at least: readers may follow from before it |
//!
//! Ages are those of the storage, judged against its own clock. As a clock may be wrong, a file goes
//! only where it has been seen as needless for the same time by a clock that nobody sets: a first run
//! notes it, a later one removes it (`seen.rs`). Storage is listed before the tables are read, so
//! whatever was committed by then is known to be needed.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_shared::table::{ENTRIES_STAY_MS, Table, TableState};
use anabranch_shared::{
    Catalogue, Entry, Error, Export, Generation, Master, Result, Storage, layout,
};
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use object_store::path::Path;

use crate::seen::{Seen, UpkeepTime};

/// Tables and views that are cleaned at once.
const AT_ONCE: usize = 16;

/// Objects that are removed at once.
const REMOVED_AT_ONCE: usize = 16;

/// How clean-up runs.
#[derive(Clone, Debug)]
pub struct CleanOptions {
    /// How long replaced files stay, in milliseconds.
    pub grace_ms: i64,
    /// How long files stay that no commit names, in milliseconds.
    pub orphan_grace_ms: i64,
    /// Commits of a table between two checkpoints.
    pub checkpoint_every: u64,
    /// When it runs.
    pub time: UpkeepTime,
    /// Whether files are removed, or only found.
    pub action: CleanAction,
}

/// What is done to files that nothing needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CleanAction {
    /// They are removed.
    Remove,
    /// They are only counted.
    Find,
}

/// Why a file is not needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CleanReason {
    /// A commit replaced it.
    Replaced,
    /// No commit names it.
    Orphan,
    /// Its generation does not answer any more, or its view was dropped.
    Generation,
    /// A killed put left it.
    Staged,
    /// It is an entry or a checkpoint of a table's log, and a later checkpoint holds what it says.
    Entry,
}

impl CleanReason {
    /// The reason in a word, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Replaced => "replaced",
            Self::Orphan => "orphan",
            Self::Generation => "old generation",
            Self::Staged => "staged",
            Self::Entry => "log entry",
        }
    }
}

/// How many files there were, and of how many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a clean-up removed, or found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanReport {
    /// By reason.
    pub reasons: BTreeMap<CleanReason, Cleaned>,
}

impl CleanReport {
    fn count(&mut self, reason: CleanReason, bytes: u64) {
        let known = self.reasons.entry(reason).or_default();
        known.files += 1;
        known.bytes += bytes;
    }

    /// All reasons together.
    pub fn total(&self) -> Cleaned {
        let mut total = Cleaned::default();
        for cleaned in self.reasons.values() {
            total.files += cleaned.files;
            total.bytes += cleaned.bytes;
        }
        total
    }

    /// Adds another report to this one.
    pub fn extend(&mut self, other: &Self) {
        for (reason, cleaned) in &other.reasons {
            let known = self.reasons.entry(*reason).or_default();
            known.files += cleaned.files;
            known.bytes += cleaned.bytes;
        }
    }
}

/// Cleans a whole storage: the topics' tables, all views, and `others`, further tables by where
/// they lie.
///
/// # Errors
/// `Corrupt` for a table whose log has a gap: nothing of that table is removed.
pub async fn clean_storage(
    storage: &Storage,
    catalogue: &Catalogue,
    others: &[Path],
    options: &CleanOptions,
) -> Result<CleanReport> {
    let mut report = CleanReport::default();
    catalogue.refresh().await?;
    let mut tables = others.to_vec();
    for topic in catalogue.current().topics.keys() {
        let own = [layout::log(topic), layout::dead_letters(topic)];
        tables.extend(own.map(Path::from));
    }
    let tables = tables.iter();
    let cleaning = tables.map(|table| clean_table(storage, table, options));
    report.extend(&all_cleaned(cleaning).await?);
    let (_, views) = storage.list_level(&Path::from(layout::VIEWS)).await?;
    let views = views.iter().filter_map(Path::filename);
    let listing: Vec<_> = views.map(|view| list_view(storage, view)).collect();
    let listing = stream::iter(listing).buffered(AT_ONCE);
    let listed: Vec<ListedView> = listing.try_collect().await?;
    // Read after the listing: a generation that was listed is known to the catalogue by now.
    let entries = entries_of(catalogue, options).await?;
    let cleaning = listed
        .iter()
        .map(|listed| clean_listed(storage, catalogue, listed, &entries, options));
    report.extend(&all_cleaned(cleaning).await?);
    clean_staged(storage, options, &mut report).await?;
    Ok(report)
}

async fn clean_staged(
    storage: &Storage,
    options: &CleanOptions,
    report: &mut CleanReport,
) -> Result<()> {
    let mut seen = Seen::read(storage, "staged", &options.time).await?;
    let before_ms = options.time.now_ms - options.orphan_grace_ms;
    let mut staged = storage.staged_files().await?;
    staged.retain(|file| {
        let path = file.path.display().to_string();
        seen.for_ms(&path, options.orphan_grace_ms) && file.modified_ms <= before_ms
    });
    for file in &staged {
        report.count(CleanReason::Staged, file.size_bytes);
        seen.forget(&file.path.display().to_string());
    }
    if options.action == CleanAction::Remove {
        storage.remove_staged(staged).await?;
        seen.write(storage).await?;
    }
    Ok(())
}

/// Cleans what belongs to one view: its live master view, its export and its old generations.
///
/// # Errors
/// As [`clean_storage`].
pub async fn clean_view(
    storage: &Storage,
    catalogue: &Catalogue,
    view: &str,
    options: &CleanOptions,
) -> Result<CleanReport> {
    let listed = list_view(storage, view).await?;
    // Read after the listing: a generation that was listed is known to the catalogue by now.
    catalogue.refresh().await?;
    let mut entries = vec![catalogue.current()];
    let mut numbers = listed.below.iter().filter_map(generation_of);
    // Of a view whose only generation answers the former entries would tell nothing.
    if !numbers.all(|number| answers(&entries, view, number)) {
        entries = entries_of(catalogue, options).await?;
    }
    clean_listed(storage, catalogue, &listed, &entries, options).await
}

/// The generation whose folder a path is.
fn generation_of(path: &Path) -> Option<Generation> {
    let number = path.filename()?.strip_prefix('g')?.parse().ok()?;
    Some(Generation(number))
}

/// What was cleaned, a bounded number at once; where one fails the others are cleaned all the same.
async fn all_cleaned<W: Future<Output = Result<CleanReport>>>(
    cleaning: impl Iterator<Item = W>,
) -> Result<CleanReport> {
    let cleaning: Vec<W> = cleaning.collect();
    let mut cleaning = stream::iter(cleaning).buffered(AT_ONCE);
    let (mut report, mut failed) = (CleanReport::default(), None);
    while let Some(cleaned) = cleaning.next().await {
        match cleaned {
            Ok(cleaned) => report.extend(&cleaned),
            Err(e) => drop(failed.get_or_insert(e)),
        }
    }
    failed.map_or(Ok(report), Err)
}

/// A view, and what lies below its folder.
struct ListedView {
    name: String,
    below: Vec<Path>,
}

async fn list_view(storage: &Storage, view: &str) -> Result<ListedView> {
    let folder = Path::from(layout::view(view));
    let (_, below) = storage.list_level(&folder).await?;
    let name = view.to_owned();
    Ok(ListedView { name, below })
}

/// The catalogue's entries since the grace began.
async fn entries_of(catalogue: &Catalogue, options: &CleanOptions) -> Result<Vec<Arc<Entry>>> {
    let since_ms = options.time.now_ms - options.grace_ms;
    catalogue.entries_since(since_ms).await
}

async fn clean_listed(
    storage: &Storage,
    catalogue: &Catalogue,
    listed: &ListedView,
    entries: &[Arc<Entry>],
    options: &CleanOptions,
) -> Result<CleanReport> {
    let mut report = CleanReport::default();
    let view = listed.name.as_str();
    let mut seen = Seen::read(storage, &layout::view(view), &options.time).await?;
    for path in &listed.below {
        let Some(generation) = generation_of(path) else {
            continue;
        };
        let standing = match standing(entries, view, generation) {
            GenerationStanding::Needed => {
                if !answers(entries, view, generation) {
                    // It counts from when it was replaced on.
                    seen.for_ms(path.as_ref(), options.grace_ms);
                }
                let root = Master::root(view, generation);
                match clean_table(storage, &root, options).await {
                    Ok(cleaned) => report.extend(&cleaned),
                    // It goes as a whole, once its grace is over.
                    Err(Error::Corrupt(why)) if !answers(entries, view, generation) => {
                        tracing::warn!(%view, %generation, %why, "a former generation is damaged");
                    }
                    Err(e) => return Err(e),
                }
                continue;
            }
            GenerationStanding::Unknown => continue,
            // Many views may have been cleaned since the entries were read.
            _ => standing(&entries_of(catalogue, options).await?, view, generation),
        };
        if let GenerationStanding::Needed | GenerationStanding::Unknown = standing {
            continue;
        }
        report.extend(&remove_generation(storage, path, standing, &mut seen, options).await?);
    }
    if options.action == CleanAction::Remove {
        seen.write(storage).await?;
    }
    report.extend(&clean_table(storage, &Export::root(view), options).await?);
    Ok(report)
}

/// Whether a generation answers by the newest of the catalogue's entries, or may come to.
fn answers(entries: &[Arc<Entry>], view: &str, generation: Generation) -> bool {
    entries
        .last()
        .is_some_and(|newest| plays_a_part(newest, view, generation))
}

/// Whether a generation answers by an entry of the catalogue, is built beside the one that does, or is
/// kept for a roll-back.
fn plays_a_part(entry: &Entry, view: &str, generation: Generation) -> bool {
    let known = entry.views.get(view);
    known.is_some_and(|known| known.roles().any(|(_, of)| of.generation == generation))
}

/// How a generation stands to the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GenerationStanding {
    /// It answers, or did within the grace.
    Needed,
    /// It will never answer (again).
    Over,
    /// It is being built, or its build died.
    Unfinished,
    /// The catalogue has never heard of it: it is not ours to remove.
    Unknown,
}

/// How a generation stands to the catalogue, whose entries since the grace began are given, the
/// current one last.
fn standing(entries: &[Arc<Entry>], view: &str, generation: Generation) -> GenerationStanding {
    let live = |e: &Arc<Entry>| Some(e.views.get(view)?.live.as_ref()?.generation);
    if entries.iter().any(|e| plays_a_part(e, view, generation)) {
        return GenerationStanding::Needed;
    }
    let Some(current) = entries.last() else {
        return GenerationStanding::Unknown;
    };
    if let Some(known) = current.views.get(view) {
        // A cut-over names the generation that it replaces, so an earlier one can't win any more.
        if live(current).is_some_and(|live| generation < live) {
            return GenerationStanding::Over;
        }
        return match generation <= known.last_generation {
            true => GenerationStanding::Unfinished,
            false => GenerationStanding::Unknown,
        };
    }
    match current.dropped.get(view) {
        Some(last) if generation <= *last => GenerationStanding::Over,
        _ => GenerationStanding::Unknown,
    }
}

/// Removes all of a generation that is over or unfinished, unless somebody has written to it within
/// its grace.
async fn remove_generation(
    storage: &Storage,
    root: &Path,
    standing: GenerationStanding,
    seen: &mut Seen,
    options: &CleanOptions,
) -> Result<CleanReport> {
    let mut report = CleanReport::default();
    let mut objects = storage.list_below(root).await?;
    let newest = objects.iter().map(modified_ms).max().unwrap_or(i64::MAX);
    let (what, grace_ms) = match standing {
        GenerationStanding::Over => (root.to_string(), options.grace_ms),
        // Whoever writes there goes on with it, so that it is seen anew.
        _ => (format!("{root} as of {newest}"), options.orphan_grace_ms),
    };
    let long = seen.for_ms(&what, grace_ms);
    if newest > options.time.now_ms - grace_ms || !long {
        return Ok(report);
    }
    seen.forget(&what);
    // The table's log goes last, so that what an interruption leaves is still a table.
    objects.sort_by_key(|o| o.location.as_ref().contains("/_delta_log/"));
    for object in &objects {
        report.count(CleanReason::Generation, object.size);
    }
    remove(storage, objects.into_iter().map(|o| o.location), options).await?;
    if options.action == CleanAction::Remove {
        Seen::forget_all(storage, root.as_ref()).await?;
    }
    Ok(report)
}

fn modified_ms(object: &ObjectMeta) -> i64 {
    object.last_modified.timestamp_millis()
}

/// Cleans one table: its data files, and its log, which gets a checkpoint where one is due.
///
/// # Errors
/// `Corrupt` where the table's log has a gap: then it is not known what is needed.
pub async fn clean_table(
    storage: &Storage,
    root: &Path,
    options: &CleanOptions,
) -> Result<CleanReport> {
    let mut report = CleanReport::default();
    let (objects, _) = storage.list_level(root).await?;
    let table = Table::open(storage, root.clone()).await?;
    check_no_gap(storage, &table).await?;
    let mut seen = Seen::read(storage, root.as_ref(), &options.time).await?;
    let unneeded: Vec<(CleanReason, ObjectMeta)> = table.with_state(|state| {
        let unneeded = objects.into_iter().filter_map(|object| {
            let name = object.location.filename().filter(|n| is_ours(n))?;
            let needless = decide(state, name, modified_ms(&object))?;
            let grace_ms = match needless.reason {
                CleanReason::Orphan => options.orphan_grace_ms,
                _ => options.grace_ms,
            };
            let long = seen.for_ms(name, grace_ms);
            let old = needless.since_ms <= options.time.now_ms - grace_ms;
            if !long || !old {
                return None;
            }
            seen.forget(name);
            Some((needless.reason, object))
        });
        unneeded.collect()
    });
    for (reason, object) in &unneeded {
        report.count(*reason, object.size);
    }
    let paths = unneeded.into_iter().map(|(_, object)| object.location);
    remove(storage, paths, options).await?;
    clean_entries(storage, &table, options, &mut seen, &mut report).await?;
    if options.action == CleanAction::Remove {
        seen.write(storage).await?;
    }
    let commits = |s: &TableState| {
        let since = s.checkpoint.map_or(0, |c| c.0 + 1);
        s.version.map_or(0, |v| v.0 + 1 - since)
    };
    let due = table.with_state(commits) >= options.checkpoint_every.max(1);
    if due && options.action == CleanAction::Remove {
        table.write_checkpoint().await?;
    }
    Ok(report)
}

/// Removes what a table's log says before a checkpoint that is old enough.
async fn clean_entries(
    storage: &Storage,
    table: &Table,
    options: &CleanOptions,
    seen: &mut Seen,
    report: &mut CleanReport,
) -> Result<()> {
    // Readers begin at the checkpoint that the hint names, which may not be the newest.
    let Some(hinted) = table.newest_checkpoint().await? else {
        return Ok(());
    };
    let log = Path::from(format!("{}/_delta_log", table.root()));
    let mut objects = storage.list_below(&log).await?;
    let grace_ms = options.grace_ms.max(ENTRIES_STAY_MS);
    let before_ms = options.time.now_ms - grace_ms;
    let mut old = |o: &ObjectMeta| {
        let name = o.location.filename()?;
        let version = checkpoint_version(name)?;
        let long = seen.for_ms(name, grace_ms);
        (version <= hinted.0 && modified_ms(o) <= before_ms && long).then_some(version)
    };
    let Some(kept) = objects.iter().filter_map(&mut old).max() else {
        return Ok(());
    };
    let needless = |o: &ObjectMeta| {
        let version = o.location.filename().and_then(entry_version);
        version.is_some_and(|v| v < kept)
    };
    objects.retain(needless);
    // The oldest first, so that what an interruption leaves has no gap.
    objects.sort_by(|a, b| a.location.cmp(&b.location));
    for object in &objects {
        report.count(CleanReason::Entry, object.size);
    }
    remove(storage, objects.into_iter().map(|o| o.location), options).await
}

/// Brings the table to its newest version, and refuses one whose log goes on past a gap: then it is
/// not known what is needed.
async fn check_no_gap(storage: &Storage, table: &Table) -> Result<()> {
    let version = |s: &TableState| s.version;
    let log = Path::from(format!("{}/_delta_log", table.root()));
    let later = match table.with_state(version) {
        Some(known) => {
            let known = Path::from(format!("{log}/{:020}.json", known.0));
            storage.list_after(&log, &known).await?
        }
        None => storage.list_below(&log).await?,
    };
    table.refresh().await?;
    let names = later.iter().filter_map(|e| e.location.filename());
    let newest = names.filter_map(entry_version).max();
    if newest <= table.with_state(version).map(|v| v.0) {
        return Ok(());
    }
    Err(Error::Corrupt(format!(
        "`{}`: its log goes on to version {} past a gap; nothing of it is cleaned up",
        table.root(),
        newest.unwrap_or_default(),
    )))
}

/// Whether a file has a name that this software gives; others' files are left alone.
fn is_ours(name: &str) -> bool {
    name.strip_prefix("part-")
        .and_then(|n| n.strip_suffix(".parquet"))
        .is_some_and(uuid_like)
}

fn uuid_like(id: &str) -> bool {
    let dashes = [8, 13, 18, 23];
    id.len() == 36
        && id
            .bytes()
            .enumerate()
            .all(|(i, b)| match dashes.contains(&i) {
                true => b == b'-',
                false => b.is_ascii_hexdigit(),
            })
}

/// The version of an entry or a checkpoint of a Delta log.
fn entry_version(name: &str) -> Option<u64> {
    let (version, kind) = name.split_once('.')?;
    match kind == "json" || kind.starts_with("checkpoint") {
        true => version.parse().ok(),
        false => None,
    }
}

/// The version of a checkpoint that is one file.
fn checkpoint_version(name: &str) -> Option<u64> {
    name.strip_suffix(".checkpoint.parquet")?.parse().ok()
}

/// Why a file is not needed, and since when by what the storage says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Needless {
    reason: CleanReason,
    /// In milliseconds since 1970.
    since_ms: i64,
}

/// Whether a file of a table is not needed any more.
fn decide(state: &TableState, name: &str, modified_ms: i64) -> Option<Needless> {
    if state.files.contains_key(name) {
        return None;
    }
    let (reason, since_ms) = match state.removed.get(name) {
        Some(removed_ms) => (CleanReason::Replaced, *removed_ms),
        None => (CleanReason::Orphan, modified_ms),
    };
    Some(Needless { reason, since_ms })
}

async fn remove(
    storage: &Storage,
    paths: impl Iterator<Item = Path>,
    options: &CleanOptions,
) -> Result<()> {
    if options.action == CleanAction::Find {
        return Ok(());
    }
    let paths: Vec<Path> = paths.collect();
    for some in paths.chunks(REMOVED_AT_ONCE) {
        futures::future::try_join_all(some.iter().map(|path| storage.delete(path))).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
