//! What makes facts of facts: a program that runs beside, or SQL. Owns what is asked of either, and
//! what becomes of facts over which it fails: the one at fault is found by halving.

use anabranch_shared::{OFFSET, Topic};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, Schema};
use arrow::error::ArrowError;

/// So many facts in a row are refused before the step itself is taken to be at fault.
const MOST_IN_A_ROW: usize = 8;

/// So often facts are given again over which somebody killed it, before they are taken to be at fault.
const MOST_KILLED: usize = 5;

/// So many others are tried before that is believed.
const PROBES: usize = 8;

/// Something that makes facts of facts.
pub(super) trait Maker: Send {
    /// What it makes of some facts of one partition, in the columns of their topic.
    fn make(&mut self, facts: &RecordBatch) -> Result<Made, Fault>;

    /// How often it was begun again after it had failed.
    fn restarts(&self) -> u64 {
        0
    }
}

/// What was made of some facts.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// The records, some of which may become no facts.
    pub(super) records: Vec<Records>,
    /// For each record the offset of the fact that it was made of, and its number among that fact's.
    pub(super) of: Vec<(i64, i64)>,
    /// Facts of which nothing is made, by their offsets, and why.
    pub(super) refused: Vec<(i64, String)>,
}

/// Records as they were made.
#[derive(Debug)]
pub(super) enum Records {
    /// Rows of Arrow.
    Rows(RecordBatch),
    /// Objects of JSON, one a line.
    Lines(Vec<u8>),
}

/// Why nothing was made.
#[derive(Debug)]
pub(super) enum Fault {
    /// It could not begin: no fact is at fault.
    Begin(String),
    /// It failed over the facts that it was given.
    Facts(String),
    /// Somebody has killed it over the facts that it was given.
    Killed(String),
    /// It is to end.
    Ending,
}

impl Made {
    /// Adds what was made of other facts.
    pub(super) fn append(&mut self, mut other: Self) {
        self.records.append(&mut other.records);
        self.of.append(&mut other.of);
        self.refused.append(&mut other.refused);
    }
}

/// A maker, and how it has fared.
pub(super) struct Tried {
    maker: Box<dyn Maker>,
    /// Facts that were refused since something was made.
    in_a_row: usize,
}

impl Tried {
    pub(super) fn new(maker: Box<dyn Maker>) -> Self {
        Self { maker, in_a_row: 0 }
    }

    pub(super) fn restarts(&self) -> u64 {
        self.maker.restarts()
    }

    /// What is made of facts. Where the maker fails over one, which is tried twice, that one is
    /// refused and the others are not.
    ///
    /// # Errors
    /// Where it can't begin, or fails over so many facts that it is at fault itself: nothing is kept
    /// then, and all may be tried again.
    pub(super) fn make(&mut self, facts: &RecordBatch) -> Result<Made, Fault> {
        let mut made = Made::default();
        self.add(facts, 0..facts.num_rows(), &mut made)?;
        Ok(made)
    }

    fn add(
        &mut self,
        facts: &RecordBatch,
        rows: std::ops::Range<usize>,
        made: &mut Made,
    ) -> Result<(), Fault> {
        if rows.is_empty() {
            return Ok(());
        }
        let (mut failed, mut killed) = (0, 0);
        let why = loop {
            let why = match self.maker.make(&facts.slice(rows.start, rows.len())) {
                Ok(more) => {
                    self.in_a_row = 0;
                    made.append(more);
                    return Ok(());
                }
                Err(Fault::Killed(_)) if killed < MOST_KILLED => {
                    killed += 1;
                    continue;
                }
                Err(Fault::Facts(why) | Fault::Killed(why)) => why,
                Err(other) => return Err(other),
            };
            failed += 1;
            if rows.len() > 1 || failed == 2 {
                break why;
            }
        };
        if rows.len() > 1 {
            let middle = rows.start + rows.len() / 2;
            self.add(facts, rows.start..middle, made)?;
            return self.add(facts, middle..rows.end, made);
        }
        self.in_a_row += 1;
        if self.in_a_row > MOST_IN_A_ROW && !self.makes_any(facts, rows.end)? {
            return Err(Fault::Begin(format!(
                "it fails over each of {} facts in a row: {why}",
                self.in_a_row
            )));
        }
        made.refused.push((offset(facts, rows.start), why));
        Ok(())
    }

    /// Whether it makes anything of some of the facts from `first` on, each alone.
    fn makes_any(&mut self, facts: &RecordBatch, first: usize) -> Result<bool, Fault> {
        let left = facts.num_rows() - first;
        let step = (left / PROBES).max(1);
        for row in (first..facts.num_rows()).step_by(step).take(PROBES) {
            match self.maker.make(&facts.slice(row, 1)) {
                Ok(_) => {
                    self.in_a_row = 0;
                    return Ok(true);
                }
                Err(Fault::Facts(_) | Fault::Killed(_)) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(false)
    }
}

impl std::fmt::Debug for Tried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tried")
            .field("in_a_row", &self.in_a_row)
            .finish_non_exhaustive()
    }
}

/// The offsets of facts.
pub(super) fn offsets(facts: &RecordBatch) -> Vec<i64> {
    let column = facts.column_by_name(OFFSET);
    let column = column.and_then(|c| c.as_primitive_opt::<Int64Type>());
    column.map(|c| c.values().to_vec()).unwrap_or_default()
}

/// Rows without the columns of the log's own: those that say of which fact they are made, and others that
/// came with it.
pub(super) fn of_topic(rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = rows.schema();
    let columns = (0..rows.num_columns()).filter(|c| !schema.field(*c).name().starts_with('_'));
    rows.project(&columns.collect::<Vec<_>>())
}

/// What records with some columns lack to be facts of a topic.
pub(super) fn lacks(columns: &Schema, to: &Topic) -> Option<String> {
    let mut needed = to.fields.iter().filter(|f| !f.nullable);
    let lacks = needed.find(|f| columns.field_with_name(&f.name).is_err())?;
    Some(format!(
        "what it makes has no column `{}`, which topic `{}` can't be without",
        lacks.name, to.name
    ))
}

fn offset(facts: &RecordBatch, row: usize) -> i64 {
    offsets(&facts.slice(row, 1)).first().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests;
