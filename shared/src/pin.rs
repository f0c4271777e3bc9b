//! What a query reads: one head for each topic, one generation and boundary for each view, one
//! list of pieces. Whoever holds the delta chooses the pin; a query reads only what is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use object_store::path::Path;

use crate::log::{FactsFile, admissions};
use crate::moment::Moment;
use crate::reference::{Met, Reference};
use crate::spill::DeltaPart;
use crate::table::AddFile;
use crate::table::parquet::keep_ranges;
use crate::view::View;
use crate::{Error, Generation, Offset, OffsetRange, Offsets, Result, Topic};

/// What a query takes of a view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// Master view and delta: everything that was acknowledged.
    #[default]
    Merged,
    /// The master view alone, up to its boundary.
    Batch,
}

/// A topic as a query sees it.
#[derive(Clone, Debug)]
pub struct TopicPin {
    /// The topic.
    pub topic: Topic,
    /// For each partition the first offset that retention has not removed.
    pub low: Offsets,
    /// For each partition the first offset that the query does not see.
    pub head: Offsets,
    /// The table of facts in the storage.
    pub root: Path,
    /// Its files from `low` to the head.
    pub files: Vec<FactsFile>,
    /// Facts between what has landed and the head, in the topic's schema.
    pub memory: Vec<RecordBatch>,
    /// The table of dead letters in the storage.
    pub dead_root: Path,
    /// Its files from `low` to the head.
    pub dead_files: Vec<FactsFile>,
    /// Dead letters between what has landed and the head.
    pub dead_memory: Vec<RecordBatch>,
}

impl Pin {
    /// Whether a relation is in it.
    pub fn has(&self, name: &str) -> bool {
        self.views.contains_key(name)
            || self.topics.contains_key(name)
            || self.plain.contains_key(name)
            || self.references.contains_key(name)
    }
}

impl TopicPin {
    /// When the newest fact was admitted, in microseconds since 1970, to about a millisecond.
    ///
    /// # Errors
    /// `Internal` for facts in memory without their times.
    pub fn newest_admitted(&self) -> Result<Option<i64>> {
        let schema = self.topic.schema();
        let files = self.files.iter();
        let mut newest = files.filter_map(|f| f.newest_admitted(&schema)).max();
        for batch in &self.memory {
            let admitted = admissions(batch)?.into_iter().map(|(_, _, at)| at);
            newest = newest.max(admitted.max());
        }
        Ok(newest)
    }

    /// Leaves out of memory what lies below `low`: retention may have removed facts that a daemon
    /// has landed a moment ago and still holds, for others or because it does not know yet.
    pub fn leave_removed_out(&mut self) -> Result<()> {
        if self.low == Offsets::default() {
            return Ok(());
        }
        let kept = |p| (p, OffsetRange::new(self.low.get(p), Offset(i64::MAX)));
        let kept: Vec<_> = self.head.iter().map(|(p, _)| kept(p)).collect();
        for batch in self.memory.iter_mut().chain(&mut self.dead_memory) {
            *batch = keep_ranges(batch, &kept)?;
        }
        Ok(())
    }
}

/// A view as a query sees it.
#[derive(Clone, Debug)]
pub struct ViewPin {
    /// The view.
    pub view: Arc<View>,
    /// The generation that answers.
    pub generation: Generation,
    /// For each partition the first offset that the master view has not absorbed.
    pub boundary: Offsets,
    /// For each partition the first offset that the query does not see.
    pub head: Offsets,
    /// The table of the master view in the storage.
    pub root: Path,
    /// The master view's files.
    pub files: Vec<Arc<AddFile>>,
    /// The states of the offsets from the boundary to the head.
    pub delta: Vec<DeltaPart>,
    /// Which rows of references the facts of those offsets met.
    pub met: Met,
}

impl ViewPin {
    /// Which rows of references the facts met that are in the states: those of the master view too.
    ///
    /// # Errors
    /// `Corrupt` where a file does not say so.
    pub fn all_met(&self) -> Result<Met> {
        let mut met = self.met.clone();
        for file in &self.files {
            met.extend(&file.met()?);
        }
        Ok(met)
    }
}

/// A table that is neither topic nor view, such as the history of jobs.
#[derive(Clone, Debug)]
pub struct PlainPin {
    /// The table's schema.
    pub schema: SchemaRef,
    /// Where it lies in the storage.
    pub root: Path,
    /// Its files.
    pub files: Vec<Arc<AddFile>>,
}

/// A reference as a query sees it.
#[derive(Clone, Debug)]
pub struct ReferencePin {
    /// The reference.
    pub reference: Reference,
    /// Its topic.
    pub topic: TopicPin,
}

/// All that one query reads.
#[derive(Clone, Debug, Default)]
pub struct Pin {
    /// The topics.
    pub topics: BTreeMap<String, TopicPin>,
    /// The views.
    pub views: BTreeMap<String, ViewPin>,
    /// References.
    pub references: BTreeMap<String, ReferencePin>,
    /// Other tables.
    pub plain: BTreeMap<String, PlainPin>,
    /// What the reader should know, such as an edited view that still answers by its old
    /// definition.
    pub notes: Vec<String>,
    /// Relations that could not be pinned.
    pub failing: BTreeSet<String>,
}

/// A relation that can be queried.
#[derive(Clone, Debug)]
pub struct Relation {
    /// Its name.
    pub name: String,
    /// `topic`, `view`, `reference` or `table`.
    pub kind: &'static str,
    /// Its columns.
    pub schema: SchemaRef,
    /// The view, where it is one.
    pub view: Option<Arc<View>>,
}

/// Chooses pins.
#[async_trait]
pub trait Pinner: Send + Sync + std::fmt::Debug {
    /// What can be queried.
    async fn relations(&self) -> Result<Vec<Relation>>;

    /// Pins the relations of these names; a name that is not known is left out.
    ///
    /// # Errors
    /// `Unavailable` when there is a gap between a boundary and the pieces, never a smaller answer.
    async fn pin(&self, names: &[String], mode: ReadMode) -> Result<Pin>;

    /// Pins the relations of these names as they were at a moment that has passed.
    ///
    /// # Errors
    /// `Invalid` where the moment is to come or what was there then is not there any more, `Unavailable`
    /// where facts of then have not landed yet.
    async fn pin_at(&self, names: &[String], moment: &Moment) -> Result<Pin> {
        Err(Error::Invalid(format!(
            "`{}` can't be read here as of {moment}",
            names.join("`, `")
        )))
    }

    /// The relations that can't be pinned now, and why.
    fn failing(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}
