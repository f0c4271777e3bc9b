//! Master views: the states of a view for the offsets below its boundary, as files of a Delta
//! table. Owns how runs are published; the boundary lives in this table's own commits and nowhere
//! else, and never decreases.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use object_store::path::Path;

use crate::blocking::blocking;
use crate::layout;
use crate::planted;
use crate::reference::Met;
use crate::storage::Storage;
use crate::table::parquet::{FileEncoder, read_file, read_parquet};
use crate::table::{AddFile, Commit, RemoveFile, Table, TableState};
use crate::table::{check_start, position_txns, positions};
use crate::topic::LateReads;
use crate::view::{Difference, Fold, SortedStates, StatesTaken, View, convert};
use crate::{Error, Generation, LogVersion, Offset, OffsetRange, Offsets, PartitionId, Result};

mod leaf;
#[cfg(test)]
mod tests;

pub use leaf::MasterLeaf;

/// The table property that names the format of the states.
const STATE_FORMAT: &str = "anabranch.stateFormat";

/// The ranges of a file or a run.
pub type Ranges = Vec<(PartitionId, OffsetRange)>;

/// States that are written but not yet published.
#[derive(Clone, Debug)]
pub struct Unit {
    add: AddFile,
    /// How many states.
    pub rows: u64,
}

impl Unit {
    /// Bytes at rest.
    pub fn size_bytes(&self) -> u64 {
        u64::try_from(self.add.size).unwrap_or(0)
    }
}

/// What a query sees of a master view: a boundary and the files below it.
#[derive(Clone, Debug, Default)]
pub struct MasterPin {
    /// For each partition the first offset that is not absorbed.
    pub boundary: Offsets,
    /// The files of states.
    pub files: Vec<Arc<AddFile>>,
    /// The version of the table that holds them.
    pub version: Option<LogVersion>,
}

impl MasterPin {
    /// Whether the master view reaches to a vector of offsets, and no run crosses it.
    ///
    /// # Errors
    /// `Corrupt` for a file that another writer added.
    pub fn is_edge(&self, at: &Offsets) -> Result<bool> {
        for file in &self.files {
            if side(file.ranges()?, at) == Side::Across && !planted("planted-marks-crossed") {
                return Ok(false);
            }
        }
        Ok(self.boundary.covers(at))
    }

    /// Those of a master view's files that are not below a vector of offsets.
    ///
    /// # Errors
    /// `Conflict` where a run crosses it.
    pub fn files_from(files: &[Arc<AddFile>], low: &Offsets) -> Result<Vec<Arc<AddFile>>> {
        Self::on_side(files, low, Side::Above)
    }

    /// Those of a master view's files that are below a vector of offsets.
    ///
    /// # Errors
    /// `Conflict` where a run crosses it.
    fn files_below(files: &[Arc<AddFile>], low: &Offsets) -> Result<Vec<Arc<AddFile>>> {
        Self::on_side(files, low, Side::Below)
    }

    /// Those of the files that lie below a vector of offsets, and the ranges below it of which they have
    /// nothing.
    ///
    /// # Errors
    /// `Corrupt` for a file that another writer added.
    pub fn below(&self, at: &Offsets) -> Result<(Vec<Arc<AddFile>>, Ranges)> {
        let mut kept = Vec::new();
        let mut left: Ranges = Vec::new();
        for file in &self.files {
            match side(file.ranges()?, at) {
                Side::Below => kept.push(file.clone()),
                Side::Across if planted("planted-past-reaches-on") => kept.push(file.clone()),
                Side::Across => left.extend(file.ranges()?),
                Side::Above => {}
            }
        }
        // Facts that are in a file which is left out are not to be in one that stays.
        loop {
            let before = kept.len();
            let mut stays = Vec::with_capacity(before);
            for file in kept {
                let ranges = file.ranges()?;
                match ranges.iter().any(|(p, r)| meets(&left, *p, *r)) {
                    true => left.extend(ranges),
                    false => stays.push(file),
                }
            }
            kept = stays;
            if kept.len() == before {
                break;
            }
        }
        left.extend(self.boundary.ranges_to(at));
        let cut = left.iter().map(|(p, r)| {
            let end = r.end.min(at.get(*p));
            (*p, OffsetRange::new(r.start.min(end), end))
        });
        Ok((kept, united(cut.filter(|(_, r)| !r.is_empty()).collect())))
    }

    fn on_side(files: &[Arc<AddFile>], low: &Offsets, wanted: Side) -> Result<Vec<Arc<AddFile>>> {
        let mut kept = Vec::new();
        for file in files {
            match side(file.ranges()?, low) {
                Side::Across => {
                    return Err(Error::Conflict(format!(
                        "file `{}` of a master view crosses [{low}], below which retention has removed the facts",
                        file.path
                    )));
                }
                found if found == wanted => kept.push(file.clone()),
                _ => {}
            }
        }
        Ok(kept)
    }
}

/// The master view of one generation.
#[derive(Debug)]
pub struct Master {
    view: Arc<View>,
    generation: Generation,
    table: Table,
    /// The columns that states get in this table.
    stored: SchemaRef,
}

impl Master {
    /// Where the table of a generation lies.
    pub fn root(view: &str, generation: Generation) -> Path {
        layout::generation(view, generation)
    }

    /// Opens the master view of a generation, created where it does not exist.
    ///
    /// # Errors
    /// `Conflict` when its states are of another format than this version makes.
    pub async fn open(
        storage: &Storage,
        view: &Arc<View>,
        generation: Generation,
        now_ms: i64,
    ) -> Result<Self> {
        let format = &view.definition().state_format;
        let configuration = HashMap::from([(STATE_FORMAT.to_owned(), format.clone())]);
        let root = Self::root(view.name(), generation);
        let schema = view.stored_schema(format)?;
        let table = Table::open_or_create(storage, root, &schema, configuration, now_ms).await?;
        let found = table.with_state(|s| s.configuration.get(STATE_FORMAT).cloned());
        let stored = match &found {
            Some(found) if view.reads_format(found) => view.stored_schema(found)?,
            Some(_) if planted("planted-other-format") => schema,
            found => {
                return Err(Error::Conflict(format!(
                    "view `{0}`: its stored states are of the format `{1}`, this version makes `{2}`; run `anabranch batch rebuild {0}`",
                    view.name(),
                    found.as_deref().unwrap_or("unknown"),
                    view.makes_format()
                )));
            }
        };
        Ok(Self {
            view: view.clone(),
            generation,
            table,
            stored,
        })
    }

    /// The boundary and the files of a generation, of whatever format its states are.
    pub async fn look(storage: &Storage, view: &str, generation: Generation) -> Result<MasterPin> {
        let table = Table::open(storage, Self::root(view, generation)).await?;
        Ok(table.with_state(pin_of))
    }

    /// The view.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// The generation.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The Delta table of states.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Reads what others have published. Returns whether there was something.
    pub async fn refresh(&self) -> Result<bool> {
        self.table.refresh().await
    }

    /// The boundary and the files below it, of one version.
    pub fn pin(&self) -> MasterPin {
        self.table.with_state(pin_of)
    }

    /// For each partition the first offset that is not absorbed.
    pub fn boundary(&self) -> Offsets {
        self.table.with_state(positions)
    }

    /// Writes states as a file that [`Master::publish_refresh`] or [`Master::publish_rebuild`] can
    /// make part of the view. Blocks: call it from a thread that may compute.
    /// `met` says which rows of references the facts met that they are of.
    pub fn encode(
        &self,
        states: RecordBatch,
        ranges: &Ranges,
        met: &Met,
    ) -> Result<(Unit, bytes::Bytes)> {
        let name = self.table.storage().new_file_name();
        encode(name, &self.view, &self.stored, states, (ranges, met))
    }

    /// Puts the bytes of a unit into the storage.
    pub async fn put(&self, unit: &Unit, body: bytes::Bytes) -> Result<()> {
        self.table
            .storage()
            .put(&self.table.file_path(&unit.add.path), body)
            .await
    }

    /// Makes units to be published of the states of another generation, and says up to where they reach:
    /// of all its states, or of those below a vector of offsets.
    ///
    /// # Errors
    /// `Conflict` where they can't be made of those, or where a file crosses the offsets.
    pub async fn units_of(
        &self,
        other: &Self,
        below: Option<&Offsets>,
    ) -> Result<(Vec<Unit>, Offsets)> {
        let way = self.way_from(other, below.is_some())?;
        let pin = other.pin();
        let (files, mut boundary) = match below {
            None => (pin.files, pin.boundary),
            Some(low) => (MasterPin::files_below(&pin.files, low)?, low.clone()),
        };
        let mut units = Vec::with_capacity(files.len());
        let lost = usize::from(planted("planted-copied-file-lost"));
        for file in files.iter().skip(lost) {
            let made = match &way {
                Way::Copied => self.copied(other, file).await,
                Way::Taken(taken) => self.taken(other, file, taken).await,
            };
            match made {
                Ok(unit) => units.push(unit),
                Err(e) => {
                    self.discard(&units).await;
                    return Err(e);
                }
            }
        }
        if planted("planted-copied-to-a-lower-boundary") {
            let lower = boundary
                .iter()
                .map(|(p, o)| (p, Offset(o.0.saturating_sub(1))));
            boundary = lower.collect();
        }
        Ok((units, boundary))
    }

    /// How states of another generation become this one's. They may lack columns where that is all that
    /// is left of the facts.
    fn way_from(&self, other: &Self, may_lack: bool) -> Result<Way> {
        let (own, others) = (self.view.definition(), other.view.definition());
        let same = match other.view.difference(&self.view)? {
            Difference::States(_) => planted("planted-copy-of-another-definition"),
            _ => true,
        };
        if same && self.stored == other.stored && own.state_format == others.state_format {
            return Ok(Way::Copied);
        }
        let taken = self.view.states_taken(&other.view)?;
        let taken = taken.filter(|taken| may_lack || taken.lacks().is_empty());
        taken.map(Way::Taken).ok_or_else(|| {
            Error::Conflict(format!(
                "view `{}`: generation {} makes other states than generation {}, which can't be made of those",
                self.view.name(),
                self.generation,
                other.generation
            ))
        })
    }

    /// A copy of a file of another generation.
    async fn copied(&self, other: &Self, file: &Arc<AddFile>) -> Result<Unit> {
        let mut add = AddFile::clone(file);
        add.path = self.table.storage().new_file_name();
        let (from, to) = (
            other.table.file_path(&file.path),
            self.table.file_path(&add.path),
        );
        self.table.storage().copy(&from, &to).await?;
        let rows = add.rows().unwrap_or_default();
        Ok(Unit { add, rows })
    }

    /// What a file of another generation is under this one's keys and columns.
    async fn taken(&self, other: &Self, file: &Arc<AddFile>, taken: &StatesTaken) -> Result<Unit> {
        let states = other.read(file).await?;
        let (taken, view) = (taken.clone(), self.view.clone());
        let folded = blocking(move || {
            let mut fold = Fold::new(&view)?;
            for batch in &states {
                fold.states(&taken.of(batch)?)?;
            }
            fold.into_states()
        });
        let states = folded.await?;
        let (ranges, met) = (file.ranges()?.to_vec(), file.met()?);
        let (view, stored) = (self.view.clone(), self.stored.clone());
        let name = self.table.storage().new_file_name();
        let encoded = blocking(move || encode(name, &view, &stored, states, (&ranges, &met)));
        let (unit, body) = encoded.await?;
        self.put(&unit, body).await?;
        Ok(unit)
    }

    /// Removes units that were not published.
    pub async fn discard(&self, units: &[Unit]) {
        let names = units.iter().map(|u| u.add.path.as_str());
        self.table.discard(names).await;
    }

    /// Publishes one more run, of exactly these ranges.
    ///
    /// # Errors
    /// `Fenced` when a range does not start at the boundary: somebody else has absorbed it.
    pub async fn publish_refresh(
        &self,
        ranges: &Ranges,
        units: &[Unit],
        now_ms: i64,
    ) -> Result<LogVersion> {
        fail::fail_point!("publish-before-commit");
        self.table.widen(&self.stored, now_ms).await?;
        let commit = self.table.commit(now_ms, |state| {
            check_start(self.table.root(), state, ranges)?;
            Ok(Commit {
                adds: units.iter().map(|u| u.add.clone()).collect(),
                txns: position_txns(ranges),
                operation: "REFRESH",
                data_change: true,
                ..Default::default()
            })
        });
        let version = commit.await?;
        fail::fail_point!("publish-after-commit");
        Ok(version)
    }

    /// Where runs that cross `end` end, if there are any: a rebuild up to `end` can't replace them,
    /// one up to there can.
    pub async fn crossing(&self, end: &Offsets) -> Result<Option<Offsets>> {
        self.refresh().await?;
        self.table.with_state(|state| {
            let mut further = end.clone();
            for add in state.files.values() {
                let ranges = add.ranges()?;
                let below = ranges.iter().any(|(p, r)| r.start < further.get(*p));
                let above = ranges.iter().any(|(p, r)| r.end > further.get(*p));
                if below && above {
                    ranges.iter().for_each(|(p, r)| further.raise(*p, r.end));
                }
            }
            Ok((further != *end).then_some(further))
        })
    }

    /// Publishes the states of `[low, end)` anew: replaces the runs there and keeps earlier and
    /// later ones, in one commit. The boundary becomes `end` where it was below it.
    ///
    /// # Errors
    /// `Conflict` when a run crosses `low`, or one that others have published crosses `end`.
    pub async fn publish_rebuild(
        &self,
        low: &Offsets,
        end: &Offsets,
        units: &[Unit],
        now_ms: i64,
    ) -> Result<LogVersion> {
        fail::fail_point!("publish-before-commit");
        if planted("planted-files-removed-at-once") {
            for file in self.pin().files {
                self.table
                    .storage()
                    .delete(&self.table.file_path(&file.path))
                    .await?;
            }
        }
        self.table.widen(&self.stored, now_ms).await?;
        let commit = self.table.commit(now_ms, |state| {
            let removes = replaced(state, low, end, self.view.name())?;
            let mut boundary = positions(state);
            end.iter().for_each(|(p, o)| boundary.raise(p, o));
            let ranges: Ranges = boundary
                .iter()
                .map(|(p, o)| (p, OffsetRange::new(o, o)))
                .collect();
            Ok(Commit {
                adds: units.iter().map(|u| u.add.clone()).collect(),
                removes,
                txns: position_txns(&ranges),
                operation: "REBUILD",
                data_change: true,
                ..Default::default()
            })
        });
        let version = commit.await?;
        fail::fail_point!("publish-after-commit");
        Ok(version)
    }

    /// Replaces some files by the merge of their states; the boundary stays.
    ///
    /// # Errors
    /// `Conflict` when one of the files is gone.
    pub async fn publish_merge(
        &self,
        merged: &[Arc<AddFile>],
        units: &[Unit],
        now_ms: i64,
    ) -> Result<LogVersion> {
        self.table.widen(&self.stored, now_ms).await?;
        let commit = self.table.commit(now_ms, |state| {
            if let Some(gone) = merged.iter().find(|f| !state.files.contains_key(&f.path)) {
                return Err(Error::Conflict(format!(
                    "view `{}`: file `{}` was replaced while it was merged",
                    self.view.name(),
                    gone.path
                )));
            }
            let remove = |f: &Arc<AddFile>| RemoveFile {
                path: f.path.clone(),
                ..Default::default()
            };
            Ok(Commit {
                adds: units.iter().map(|u| u.add.clone()).collect(),
                removes: merged.iter().map(remove).collect(),
                operation: "OPTIMIZE",
                data_change: false,
                ..Default::default()
            })
        });
        commit.await
    }

    /// Reads the states of a file.
    pub async fn read(&self, file: &AddFile) -> Result<Vec<RecordBatch>> {
        let body = read_file(&self.table, file).await?;
        let view = self.view.clone();
        blocking(move || {
            let codec = view.codec();
            read_parquet(body, codec.storage_schema(), &LateReads::default())?
                .map(|b| codec.decode(&b?))
                .collect()
        })
        .await
    }
}

/// States as a file of that name that holds the columns of `stored`.
fn encode(
    name: String,
    view: &View,
    stored: &SchemaRef,
    states: RecordBatch,
    (ranges, met): (&Ranges, &Met),
) -> Result<(Unit, bytes::Bytes)> {
    let codec = view.codec();
    let mut file = FileEncoder::new(name, stored, codec.keys())?;
    for sorted in SortedStates::new(states, codec.keys())? {
        let mut sorted = sorted?;
        if planted("planted-null-key-lost") && codec.keys() > 0 {
            let present = arrow::compute::is_not_null(sorted.column(0))?;
            sorted = arrow::compute::filter_record_batch(&sorted, &present)?;
        }
        file.write(&convert(&sorted, stored)?)?;
    }
    let rows = file.rows() as u64;
    let encoded = file.finish()?;
    let mut add = encoded.add;
    add.set_ranges(ranges)?;
    add.set_met(met)?;
    Ok((Unit { add, rows }, encoded.body))
}

/// How states of one generation become those of another.
enum Way {
    /// They are the same, and so are their files.
    Copied,
    /// They are made of them.
    Taken(StatesTaken),
}

fn pin_of(state: &TableState) -> MasterPin {
    MasterPin {
        boundary: positions(state),
        files: state.files.values().cloned().collect(),
        version: state.version,
    }
}

/// Where ranges lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Below,
    Above,
    Across,
}

/// Where ranges lie as seen from a vector of offsets.
fn side(ranges: &[(PartitionId, OffsetRange)], at: &Offsets) -> Side {
    if ranges.iter().all(|(p, r)| r.start >= at.get(*p)) {
        Side::Above
    } else if ranges.iter().all(|(p, r)| r.end <= at.get(*p)) {
        Side::Below
    } else {
        Side::Across
    }
}

fn meets(ranges: &Ranges, partition: PartitionId, range: OffsetRange) -> bool {
    let mut all = ranges.iter();
    all.any(|(p, r)| *p == partition && r.overlaps(range))
}

/// The same offsets, as few ranges, in order.
fn united(mut ranges: Ranges) -> Ranges {
    ranges.sort_by_key(|(p, r)| (*p, r.start));
    let mut all: Ranges = Vec::with_capacity(ranges.len());
    for (partition, range) in ranges {
        match all.last_mut() {
            Some((p, last)) if *p == partition && range.start <= last.end => {
                last.end = last.end.max(range.end);
            }
            _ => all.push((partition, range)),
        }
    }
    all
}

/// The files that a rebuild of `[low, end)` replaces.
fn replaced(
    state: &TableState,
    low: &Offsets,
    end: &Offsets,
    view: &str,
) -> Result<Vec<RemoveFile>> {
    let mut removes = Vec::new();
    for add in state.files.values() {
        let ranges = add.ranges()?;
        match side(ranges, low) {
            Side::Above => {}
            _ if planted("planted-rebuild-drops-removed") => {}
            Side::Below => continue,
            Side::Across => {
                return Err(Error::Conflict(format!(
                    "view `{view}`: file `{}` crosses [{low}], below which retention has removed the facts, so that it can't be folded again; nothing was changed",
                    add.path
                )));
            }
        }
        let below = |(p, r): &(PartitionId, OffsetRange)| r.end <= end.get(*p);
        let above = |(p, r): &(PartitionId, OffsetRange)| r.start >= end.get(*p);
        if ranges.iter().all(below) || planted("planted-rebuild-over-refresh") {
            removes.push(RemoveFile {
                path: add.path.clone(),
                ..Default::default()
            });
        } else if !ranges.iter().all(above) {
            return Err(Error::Conflict(format!(
                "view `{view}`: file `{}` crosses the rebuilt offsets {end}: runs were merged meanwhile; run the rebuild again",
                add.path
            )));
        }
    }
    Ok(removes)
}
