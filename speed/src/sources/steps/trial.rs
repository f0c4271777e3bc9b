//! A step tried on facts, without landing anything: whether it makes the same of a fact whatever comes
//! before it, wherever batches end and however many processes there are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anabranch_shared::settings::StepRuns;
use anabranch_shared::{Error, Result, Storage, Topic};
use arrow::array::RecordBatch;

use super::maker::{Fault, Made, Records};
use super::pool::{Parts, Pool};
use crate::intake::admission::raw_rows;
use crate::options::StepOptions;

/// What a step made of each fact, by the fact's offset: records as JSON, or why there are none.
pub type Trial = BTreeMap<i64, std::result::Result<Vec<String>, String>>;

/// How a step is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrialOf {
    /// The most facts of a batch; at least 1.
    pub batch: usize,
    /// How many programs run at once; at least 1.
    pub processes: usize,
}

/// Tries a step on facts of one partition, which have the columns of their topic.
///
/// # Errors
/// `Invalid` where it can't begin, or fails over all facts.
pub fn try_step(
    options: &StepOptions,
    (from, to): (&Arc<Topic>, &Arc<Topic>),
    storage: &Storage,
    now_us: fn() -> i64,
    facts: &RecordBatch,
    how: TrialOf,
) -> Result<Trial> {
    let mut options = options.clone();
    if let StepRuns::Program(program) = &mut options.settings.runs {
        program.processes = how.processes;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut pool = Pool::new(&Parts {
        options: &options,
        from: from.clone(),
        to: to.clone(),
        storage,
        now_us,
        stop,
    });
    let mut trial = Trial::new();
    for start in (0..facts.num_rows()).step_by(how.batch.max(1)) {
        let rows = how.batch.max(1).min(facts.num_rows() - start);
        let made = pool
            .make(&facts.slice(start, rows))
            .map_err(|fault| match fault {
                Fault::Begin(why) | Fault::Facts(why) | Fault::Killed(why) => Error::Invalid(why),
                Fault::Ending => Error::Unavailable("it was stopped".into()),
            })?;
        add(&mut trial, made)?;
    }
    Ok(trial)
}

fn add(trial: &mut Trial, made: Made) -> Result<()> {
    let mut records = Vec::with_capacity(made.of.len());
    for part in made.records {
        match part {
            Records::Rows(rows) => {
                let rows = raw_rows(&rows)?;
                records.extend(rows.iter().map(|r| String::from_utf8_lossy(r).into_owned()));
            }
            Records::Lines(line) => {
                records.push(String::from_utf8_lossy(line.trim_ascii_end()).into_owned());
            }
        }
    }
    let mut placed: Vec<((i64, i64), String)> = made.of.into_iter().zip(records).collect();
    placed.sort_by_key(|(place, _)| *place);
    for ((offset, _), record) in placed {
        if let Ok(of) = trial.entry(offset).or_insert_with(|| Ok(Vec::new())) {
            of.push(record);
        }
    }
    for (offset, why) in made.refused {
        trial.insert(offset, Err(why));
    }
    Ok(())
}
