//! What makes a step's facts, as many at once as the step has processes. Owns how facts are divided
//! among them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anabranch_shared::settings::{StepProtocol, StepRuns};
use anabranch_shared::{Storage, Topic};
use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};

use super::arrow::ArrowMaker;
use super::maker::{Fault, Made, Maker, Tried};
use super::process::Program;
use super::sql::{self, Select, SqlMaker};
use super::storm::StormMaker;
use crate::options::StepOptions;

/// What a step is made from.
pub(super) struct Parts<'a> {
    pub(super) options: &'a StepOptions,
    pub(super) from: Arc<Topic>,
    pub(super) to: Arc<Topic>,
    pub(super) storage: &'a Storage,
    pub(super) now_us: fn() -> i64,
    /// Set when it is to end.
    pub(super) stop: Arc<AtomicBool>,
}

/// The makers of a step.
#[derive(Debug)]
pub(super) struct Pool {
    makers: Vec<Tried>,
    group_by: Vec<String>,
    /// The most facts that are to be given at once.
    pub(super) batch: usize,
}

impl Pool {
    /// Those that a step says; none begins before it is needed.
    pub(super) fn new(parts: &Parts<'_>) -> Self {
        let settings = &parts.options.settings;
        let makers = |count: usize, made: &dyn Fn() -> Box<dyn Maker>| {
            let makers = (0..count.max(1)).map(|_| Tried::new(made()));
            makers.collect()
        };
        match &settings.runs {
            StepRuns::Sql(text) => Self {
                makers: makers(1, &|| {
                    Box::new(SqlMaker::new(Select {
                        step: settings.name.clone(),
                        text: text.clone(),
                        topic: parts.from.clone(),
                        to: parts.to.clone(),
                        references: parts.options.references.clone(),
                        storage: parts.storage.clone(),
                        now_us: parts.now_us,
                        runtime: tokio::runtime::Handle::current(),
                    }))
                }),
                group_by: Vec::new(),
                batch: sql::BATCH,
            },
            StepRuns::Program(program) => {
                let run = || Program {
                    step: settings.name.clone(),
                    settings: program.clone(),
                    dir: PathBuf::clone(&parts.options.dir),
                    python: parts.options.python.clone(),
                    stop: parts.stop.clone(),
                };
                let (from, to) = (&parts.from, &parts.to);
                let maker: &dyn Fn() -> Box<dyn Maker> = match program.protocol {
                    StepProtocol::Arrow => {
                        &|| Box::new(ArrowMaker::new(run(), &from.name, to.clone()))
                    }
                    StepProtocol::Storm => &|| Box::new(StormMaker::new(run(), from, to.clone())),
                };
                Self {
                    makers: makers(program.processes, maker),
                    group_by: program.group_by.clone(),
                    batch: program.batch,
                }
            }
        }
    }

    /// How often programs were begun again after they had failed.
    pub(super) fn restarts(&self) -> u64 {
        self.makers.iter().map(Tried::restarts).sum()
    }

    /// What is made of facts of one partition.
    ///
    /// # Errors
    /// As [`Tried::make`], of the first that fails.
    pub(super) fn make(&mut self, facts: &RecordBatch) -> Result<Made, Fault> {
        let parts = divided(facts, self.makers.len(), &self.group_by);
        let parts = parts.map_err(|e| Fault::Begin(e.to_string()))?;
        let made: Vec<Result<Made, Fault>> = std::thread::scope(|scope| {
            let work = self.makers.iter_mut().zip(&parts);
            let work = work.filter(|(_, part)| part.num_rows() > 0);
            let threads: Vec<_> = work
                .map(|(maker, part)| scope.spawn(move || maker.make(part)))
                .collect();
            let joined = threads.into_iter().map(|thread| {
                let joined = thread.join();
                joined.unwrap_or_else(|_| Err(Fault::Begin("its thread panicked".into())))
            });
            joined.collect()
        });
        let mut all = Made::default();
        for made in made {
            all.append(made?);
        }
        Ok(all)
    }
}

/// Facts divided among `parts`, each in order: those that are alike in `group_by` together.
fn divided(
    facts: &RecordBatch,
    parts: usize,
    group_by: &[String],
) -> Result<Vec<RecordBatch>, ArrowError> {
    if parts <= 1 {
        return Ok(vec![facts.clone()]);
    }
    let rows = facts.num_rows();
    if group_by.is_empty() {
        let edge = |part: usize| part * rows / parts;
        let part = |part| facts.slice(edge(part), edge(part + 1) - edge(part));
        return Ok((0..parts).map(part).collect());
    }
    let columns = group_by
        .iter()
        .filter_map(|name| facts.column_by_name(name).cloned());
    let columns: Vec<_> = columns.collect();
    let fields = columns
        .iter()
        .map(|c| SortField::new(c.data_type().clone()));
    let keys = RowConverter::new(fields.collect())?.convert_columns(&columns)?;
    let part_of = |key: arrow::row::Row<'_>| crc32c::crc32c(key.as_ref()) as usize % parts;
    let part_of: Vec<usize> = keys.iter().map(part_of).collect();
    let of_part = |part: usize| {
        let rows = (0_u32..).zip(&part_of).filter(|(_, of)| **of == part);
        let rows: UInt32Array = rows.map(|(row, _)| row).collect();
        take_record_batch(facts, &rows)
    };
    (0..parts).map(of_part).collect()
}
