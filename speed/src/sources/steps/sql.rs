//! A step that is SQL: no process runs, and its rows are made here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_shared::view::RowWise;
use anabranch_shared::{Error, ErrorKind, OFFSET, Reference, Storage, Topic, with_references};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;

use super::maker::{Fault, Made, Maker, Records, lacks, of_topic};

/// The most facts that are taken at once.
pub(super) const BATCH: usize = 65_536;

/// How often it is looked what has landed of references.
const MEET_EVERY: Duration = Duration::from_secs(10);

/// What a SELECT is planned by.
pub(super) struct Select {
    pub(super) step: String,
    pub(super) text: String,
    pub(super) topic: Arc<Topic>,
    /// The topic whose facts it makes.
    pub(super) to: Arc<Topic>,
    /// The references that it may join.
    pub(super) references: Vec<Reference>,
    pub(super) storage: Storage,
    pub(super) now_us: fn() -> i64,
    pub(super) runtime: tokio::runtime::Handle,
}

/// A SELECT, planned when it is needed.
pub(super) struct SqlMaker {
    select: Select,
    planned: Option<RowWise>,
    /// When it was last looked what has landed of references.
    met: Option<Instant>,
}

impl SqlMaker {
    pub(super) fn new(select: Select) -> Self {
        Self {
            select,
            planned: None,
            met: None,
        }
    }

    fn planned(&mut self) -> Result<&RowWise, Error> {
        let Select {
            step,
            text,
            topic,
            to,
            references,
            storage,
            now_us,
            runtime,
        } = &self.select;
        let planned = match self.planned.take() {
            Some(planned) => planned,
            None => RowWise::compile(step, text, topic, references)?,
        };
        if let Some(why) = lacks(planned.schema(), to) {
            return Err(Error::Invalid(format!("step `{step}`: {why}")));
        }
        let planned = self.planned.insert(planned);
        let is_due = self.met.is_none_or(|met| met.elapsed() >= MEET_EVERY);
        if !planned.view().references().is_empty() && is_due {
            let now_ms = now_us() / 1_000;
            runtime.block_on(with_references(storage, planned.view(), now_ms))?;
            self.met = Some(Instant::now());
        }
        Ok(planned)
    }
}

impl Maker for SqlMaker {
    fn make(&mut self, facts: &RecordBatch) -> Result<Made, Fault> {
        let runtime = self.select.runtime.clone();
        let planned = self.planned().map_err(|e| Fault::Begin(e.to_string()))?;
        let rows = runtime
            .block_on(planned.rows(facts))
            .map_err(|e| match e.kind() {
                ErrorKind::Unavailable => Fault::Begin(e.to_string()),
                _ => Fault::Facts(e.to_string()),
            })?;
        let of = rows.column_by_name(OFFSET);
        let of = of.and_then(|of| of.as_primitive_opt::<Int64Type>());
        let of = of.ok_or_else(|| Fault::Begin("its rows have no places".into()))?;
        let mut made = Made::default();
        let mut counted: BTreeMap<i64, i64> = BTreeMap::new();
        for offset in of.values() {
            let next = counted.entry(*offset).or_default();
            made.of.push((*offset, *next));
            *next += 1;
        }
        let rows = of_topic(&rows).map_err(|e| Fault::Begin(e.to_string()))?;
        made.records.push(Records::Rows(rows));
        Ok(made)
    }
}
