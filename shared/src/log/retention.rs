//! Retention of a log: up to where its facts were removed, `low`, and the marks up to which they
//! may be removed next. Owns the commits that mark and remove; when and up to which mark is the
//! batch layer's.
//!
//! | position (`txn` action) | says |
//! |---|---|
//! | `low/PARTITION` | the first offset that was not removed |
//! | `retention/at` | when `low` was marked, in milliseconds since 1970: older facts are gone |
//! | `retention/facts` | how many facts went with removed files |
//! | `mark/SLOT/PARTITION` | a mark: where the log ended |
//! | `mark/SLOT/at` | when it was made, in milliseconds since 1970 |
//!
//! Marks lie in the log's own commits because they must be of one version with the head: whoever
//! reads both at a version knows all marks below that head for ever, since later ones lie at or
//! past it. So a run that ends at or below a head and is cut at the marks of its version crosses no
//! mark, whenever that is made, and every mark is an edge of all runs that are made by this rule.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::common::ScalarValue;

use super::upkeep::{UpkeepTurn, is_below};
use super::{FactsFile, INGEST_APP, Log, dead_letter_schema, files_in};
use crate::planted;
use crate::table::positions;
use crate::table::{
    APPEND_ONLY, Action, AddFile, Commit, RemoveFile, SCHEMA_MAY_CHANGE, TableDefinition,
    TableState, Txn,
};
use crate::{Error, Offset, OffsetRange, Offsets, PartitionId, Result};

const LOW_APP: &str = "low/";
const AT_APP: &str = "retention/at";
const FACTS_APP: &str = "retention/facts";
const MARK_APP: &str = "mark/";

/// So many marks are kept at most: a `txn` action is never removed, so their names are used again.
const MARKS: u32 = 32;

/// A vector of offsets at which the log ended once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// When it was made, in milliseconds since 1970: the facts below it were landed before.
    pub at_ms: i64,
    /// Where the log ended.
    pub end: Offsets,
    /// Which of its names it has.
    pub slot: u32,
}

/// What was removed of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemovedFacts {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their rows.
    pub rows: u64,
}

impl RemovedFacts {
    fn of<'a>(files: impl Iterator<Item = &'a Arc<AddFile>>) -> Self {
        files.fold(Self::default(), |sum, f| Self {
            files: sum.files + 1,
            bytes: sum.bytes + u64::try_from(f.size).unwrap_or(0),
            rows: sum.rows + f.rows().unwrap_or(0),
        })
    }
}

/// For each partition the first offset that retention has not removed, by a table's state.
pub(super) fn low(state: &TableState) -> Offsets {
    lows(state.txns.iter().map(|(app, version)| (app, *version)))
}

fn lows<'a>(txns: impl Iterator<Item = (&'a String, i64)>) -> Offsets {
    let low = |(app, version): (&String, i64)| {
        let partition = app.strip_prefix(LOW_APP)?.parse().ok()?;
        Some((PartitionId(partition), Offset(version)))
    };
    txns.filter_map(low).collect()
}

/// The marks above `low`, the lowest first.
fn marks(state: &TableState) -> Vec<Mark> {
    let mut slots: BTreeMap<u32, (i64, Offsets)> = BTreeMap::new();
    for (app, version) in &state.txns {
        let Some((slot, what)) = app.strip_prefix(MARK_APP).and_then(|m| m.split_once('/')) else {
            continue;
        };
        let Ok(slot) = slot.parse() else { continue };
        let (at_ms, end) = slots.entry(slot).or_default();
        match what.parse() {
            Ok(partition) => end.set(PartitionId(partition), Offset(*version)),
            Err(_) => *at_ms = *version,
        }
    }
    let low = low(state);
    let above = slots.into_iter().filter(|(_, (_, end))| !low.covers(end));
    let mut marks: Vec<Mark> = above
        .map(|(slot, (at_ms, end))| Mark { at_ms, end, slot })
        .collect();
    // Each of two marks lies at or past the other in all partitions.
    marks.sort_by_key(|m| Offsets::default().distance_to(&m.end));
    marks
}

/// Whether a commit of another writer removes no more than lies below the `low` that it sets.
pub(super) fn removes_below_low(state: &TableState, actions: &[Action]) -> bool {
    let txns = actions.iter().filter_map(|a| match a {
        Action::Txn(txn) => Some((&txn.app_id, txn.version)),
        _ => None,
    });
    let raised = lows(txns);
    let head = positions(state);
    let forward = raised.covers(&low(state)) && head.covers(&raised);
    let removed = actions.iter().filter_map(|a| match a {
        Action::Remove(remove) => Some(remove),
        _ => None,
    });
    let below = |remove: &RemoveFile| {
        let file = state.files.get(&remove.path);
        file.is_some_and(|f| is_below(f, &raised).unwrap_or(false))
    };
    forward && removed.into_iter().all(below)
}

/// Refuses ranges that begin below `low`: the answer would be smaller than asked for.
pub(super) fn check_kept(
    topic: &str,
    state: &TableState,
    ranges: &[(PartitionId, OffsetRange)],
) -> Result<()> {
    let low = low(state);
    let gone = |(p, r): &&(PartitionId, OffsetRange)| !r.is_empty() && r.start < low.get(*p);
    match ranges.iter().find(gone) {
        Some((partition, range)) if !planted("planted-removed-read-as-empty") => {
            Err(Error::BelowLow {
                topic: topic.to_owned(),
                partition: *partition,
                range: *range,
                low: low.get(*partition),
            })
        }
        _ => Ok(()),
    }
}

impl Log {
    /// For each partition the first offset that retention has not removed.
    pub fn low(&self) -> Offsets {
        self.table.with_state(low)
    }

    /// How many facts went with files that retention has removed.
    pub fn removed_facts(&self) -> u64 {
        let facts = self.table.with_state(|s| s.txn(FACTS_APP));
        u64::try_from(facts).unwrap_or(0)
    }

    /// The time up to which all facts below `low` had landed, in milliseconds since 1970; `None`
    /// where nothing was removed.
    pub fn removed_before_ms(&self) -> Option<i64> {
        let at = self.table.with_state(|s| s.txn(AT_APP));
        (at > 0).then_some(at)
    }

    /// The marks above `low`, the lowest first.
    pub fn marks(&self) -> Vec<Mark> {
        self.table.with_state(marks)
    }

    /// The vectors of offsets that no run and no merged file may cross, so that retention can go up
    /// to them and a rebuild can start at them: `low`, then the marks above it.
    pub fn edges(&self) -> Vec<Offsets> {
        if planted("planted-marks-crossed") {
            return Vec::new();
        }
        self.table.with_state(|state| {
            let low = low(state);
            let low = (low != Offsets::default()).then_some(low);
            let marks = marks(state).into_iter().map(|m| m.end);
            low.into_iter().chain(marks).collect()
        })
    }

    /// `low`, and the files of the facts from there to `to`, of one version.
    pub fn kept_files(&self, to: &Offsets) -> Result<(Offsets, Vec<FactsFile>)> {
        self.table.with_state(|state| {
            let low = low(state);
            let files = files_in(state, &low.ranges_to(to))?;
            Ok((low, files))
        })
    }

    /// The bytes of the files that are not wholly below a vector of offsets.
    pub fn bytes_above(&self, end: &Offsets) -> Result<u64> {
        self.table.with_state(|state| {
            let mut bytes = 0;
            for add in state.files.values() {
                if !is_below(add, end)? {
                    bytes += u64::try_from(add.size).unwrap_or(0);
                }
            }
            Ok(bytes)
        })
    }

    /// What would go if `low` were raised, of the facts and of the dead letters: of these also what
    /// came before a time in microseconds since 1970.
    pub fn removable(
        &self,
        low: &Offsets,
        before_us: Option<i64>,
    ) -> Result<(RemovedFacts, RemovedFacts)> {
        let facts = self.table.with_state(|s| below(s, low))?;
        let head = self.head();
        let dead = self
            .dead
            .with_state(|s| dead_to_go(s, low, &head, before_us))?;
        Ok((
            RemovedFacts::of(facts.iter()),
            RemovedFacts::of(dead.iter()),
        ))
    }

    /// Marks where the log ends.
    ///
    /// # Errors
    /// `Fenced` when another process has done upkeep since the log was looked at.
    pub async fn mark(&self, now_ms: i64) -> Result<()> {
        let turn = self.table.with_state(UpkeepTurn::of);
        let commit = self.table.commit(now_ms, |state| {
            turn.check(&self.table, state)?;
            let marks = marks(state);
            let slot = free_slot(&marks);
            // The clock may have been set back: a later mark is never the older one.
            let at_ms = marks.last().map_or(now_ms, |m| m.at_ms.max(now_ms));
            let end = positions(state);
            let mut txns = vec![turn.end(), Txn::new(format!("{MARK_APP}{slot}/at"), at_ms)];
            txns.extend(
                end.iter()
                    .map(|(p, o)| Txn::new(format!("{MARK_APP}{slot}/{p}"), o.0)),
            );
            Ok(Commit {
                txns,
                operation: "MARK",
                data_change: false,
                ..Default::default()
            })
        });
        commit.await.map(|_| ())
    }

    /// Removes the facts below `low` in one commit: the files that lie wholly below it go, and of
    /// those that it cuts through nobody reads the rest. `at_ms` is when `low` was marked.
    ///
    /// # Errors
    /// `Fenced` when another process has done upkeep since the log was looked at: nothing is
    /// changed then. `Conflict` where `low` is not between the former one and the head.
    pub async fn remove_below(
        &self,
        low_raised: &Offsets,
        at_ms: Option<i64>,
        now_ms: i64,
    ) -> Result<RemovedFacts> {
        let turn = self.table.with_state(UpkeepTurn::of);
        let mut removed = RemovedFacts::default();
        fail::fail_point!("retain-before-commit");
        let commit = self.table.commit(now_ms, |state| {
            turn.check(&self.table, state)?;
            if !low_raised.covers(&low(state)) || !positions(state).covers(low_raised) {
                return Err(Error::Conflict(format!(
                    "topic `{}`: facts below [{low_raised}] can't be removed, those below [{}] are gone and the log ends at [{}]",
                    self.name(),
                    low(state),
                    positions(state)
                )));
            }
            let files = below(state, low_raised)?;
            removed = RemovedFacts::of(files.iter());
            let facts = state.txn(FACTS_APP);
            let facts = facts.saturating_add(i64::try_from(removed.rows).unwrap_or(i64::MAX));
            let mut txns = vec![turn.end(), Txn::new(FACTS_APP, facts)];
            txns.extend(at_ms.map(|at| Txn::new(AT_APP, at)));
            let low = low_raised.iter();
            txns.extend(low.map(|(p, o)| Txn::new(format!("{LOW_APP}{p}"), o.0)));
            Ok(Commit {
                definition: not_append_only(state, &self.schema())?,
                removes: files.iter().map(|f| remove(f)).collect(),
                txns,
                operation: "DELETE",
                data_change: true,
                ..Default::default()
            })
        });
        commit.await?;
        fail::fail_point!("retain-after-commit");
        Ok(removed)
    }

    /// Removes the dead letters below `low`, and those that came before a time in microseconds since
    /// 1970, where there are whole files of them.
    ///
    /// # Errors
    /// As [`Log::remove_below`].
    pub async fn remove_dead_letters(
        &self,
        before_us: Option<i64>,
        now_ms: i64,
    ) -> Result<RemovedFacts> {
        let (low, head) = (self.low(), self.head());
        let to_go = |state: &TableState| dead_to_go(state, &low, &head, before_us);
        let turn = self.dead.with_state(UpkeepTurn::of);
        let mut removed = RemovedFacts::default();
        if self.dead.with_state(to_go)?.is_empty() {
            return Ok(removed);
        }
        let commit = self.dead.commit(now_ms, |state| {
            turn.check(&self.dead, state)?;
            let files = to_go(state)?;
            removed = RemovedFacts::of(files.iter());
            Ok(Commit {
                removes: files.iter().map(|f| remove(f)).collect(),
                txns: vec![turn.end()],
                operation: "DELETE",
                data_change: true,
                ..Default::default()
            })
        });
        commit.await?;
        self.tell_of_dead_letters(now_ms).await?;
        Ok(removed)
    }
}

impl Log {
    /// How many ingested files are remembered that were last added to before a time, in milliseconds
    /// since 1970, and of how many that time is not known.
    pub fn ingested_before(&self, before_ms: i64) -> (usize, usize) {
        self.table.with_state(|state| {
            let (old, unknown) = old_ingested(state, before_ms);
            (old.len(), unknown.len())
        })
    }

    /// Forgets the ingested files that were last added to before a time, in milliseconds since 1970:
    /// what is ingested of them after that is landed again. Those of unknown time count from now on.
    /// Returns how many were forgotten.
    ///
    /// # Errors
    /// `Fenced` when another process has done upkeep since the log was looked at.
    pub async fn forget_ingested(&self, before_ms: i64, now_ms: i64) -> Result<u64> {
        let turn = self.table.with_state(UpkeepTurn::of);
        let mut forgotten = 0;
        if self.ingested_before(before_ms) == (0, 0) {
            return Ok(forgotten);
        }
        let commit = self.table.commit(now_ms, |state| {
            turn.check(&self.table, state)?;
            let (old, unknown) = old_ingested(state, before_ms);
            forgotten = old.len() as u64;
            let mut txns = vec![turn.end()];
            txns.extend(old.into_iter().map(|app| Txn::new(app, 0)));
            txns.extend(unknown.into_iter().map(|app| {
                let records = state.txn(&app);
                Txn::new(app, records)
            }));
            Ok(Commit {
                txns,
                operation: "FORGET INGESTED",
                data_change: false,
                ..Default::default()
            })
        });
        commit.await?;
        Ok(forgotten)
    }
}

/// The names of the ingested files that were last added to before a time, and of those of which that
/// is not known.
fn old_ingested(state: &TableState, before_ms: i64) -> (Vec<String>, Vec<String>) {
    let (mut old, mut unknown) = (Vec::new(), Vec::new());
    for app in state.txns.keys().filter(|app| app.starts_with(INGEST_APP)) {
        match state.txn_times.get(app) {
            Some(at_ms) if *at_ms < before_ms => old.push(app.clone()),
            Some(_) => {}
            None => unknown.push(app.clone()),
        }
    }
    (old, unknown)
}

/// A slot for one more mark. Where all are taken, that of the mark which is nearest to the one
/// before it: runs may cross it from then on, and it is no mark any more.
fn free_slot(marks: &[Mark]) -> u32 {
    let taken = |slot: &u32| marks.iter().any(|m| m.slot == *slot);
    let free = (0..MARKS).find(|slot| !taken(slot));
    let nearest = || {
        let pairs = marks.windows(2);
        let nearest = pairs.min_by_key(|pair| pair[1].at_ms - pair[0].at_ms);
        nearest.map_or(0, |pair| pair[1].slot)
    };
    free.unwrap_or_else(nearest)
}

/// What a table is that retention removes from, where it still says that nothing is ever removed.
fn not_append_only(
    state: &TableState,
    schema: &arrow::datatypes::SchemaRef,
) -> Result<Option<TableDefinition>> {
    if state
        .configuration
        .get(APPEND_ONLY)
        .is_none_or(|v| v != "true")
    {
        return Ok(None);
    }
    if state.has_unknown_columns(schema)? {
        return Err(Error::Conflict(
            "the topic was declared with more fields since this process started; start it again"
                .into(),
        ));
    }
    let mut configuration: HashMap<String, String> = state.configuration.clone();
    configuration.insert(APPEND_ONLY.to_owned(), "false".to_owned());
    configuration.insert(SCHEMA_MAY_CHANGE.to_owned(), "true".to_owned());
    let schema = schema.clone();
    Ok(Some(TableDefinition {
        schema,
        configuration,
    }))
}

/// The files that lie wholly below a vector of offsets.
fn below(state: &TableState, low: &Offsets) -> Result<Vec<Arc<AddFile>>> {
    let mut found = Vec::new();
    for add in state.files.values() {
        if is_below(add, low)? {
            found.push(add.clone());
        }
    }
    Ok(found)
}

/// The files of dead letters that go: those below `low`, and those of which the newest came before a
/// time, where nobody can replace them any more.
fn dead_to_go(
    state: &TableState,
    low: &Offsets,
    head: &Offsets,
    before_us: Option<i64>,
) -> Result<Vec<Arc<AddFile>>> {
    let mut found = below(state, low)?;
    if let Some(before_us) = before_us {
        let mut old = below(state, head)?;
        old.retain(|add| newest_dead_letter(add).is_some_and(|at| at < before_us));
        let known = found.len();
        for add in old {
            if !found[..known].iter().any(|one| one.path == add.path) {
                found.push(add);
            }
        }
    }
    Ok(found)
}

/// When the newest dead letter of a file came, in microseconds since 1970, by the file's statistics.
pub fn newest_dead_letter(add: &AddFile) -> Option<i64> {
    let schema = dead_letter_schema();
    let index = schema.index_of("received_at").ok()?;
    let statistics = add.statistics(&schema);
    let newest = statistics.column_statistics.get(index)?;
    match newest.max_value.get_value()? {
        ScalarValue::TimestampMicrosecond(at, _) => *at,
        _ => None,
    }
}

fn remove(file: &AddFile) -> RemoveFile {
    RemoveFile {
        path: file.path.clone(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
