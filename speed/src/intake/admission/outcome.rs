//! Accounting: which records became facts and which dead letters, and the batch that is left when holes are removed.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, RecordBatch};
use arrow::compute::{FilterBuilder, concat_batches};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;

use super::reason::Fault;
use super::{Admission, AdmissionError, Admitted, DeadLetter, MAX_DEAD_LETTERS};

/// The verdicts so far, in the order of the records. Each record is one row of the columns; those of dead letters are
/// holes.
#[derive(Default)]
pub(super) struct Rows {
    records: Vec<u64>,
    dead: Vec<DeadLetter>,
    unknown_fields: u64,
}

impl Rows {
    fn count(&self) -> u64 {
        (self.records.len() + self.dead.len()) as u64
    }

    pub(super) fn fact(&mut self, carried_unknown: bool) {
        self.records.push(self.count());
        self.unknown_fields += u64::from(carried_unknown);
    }

    pub(super) fn dead(&mut self, fault: Fault, raw: Bytes, line: Option<u64>) {
        let Fault { field, reason } = fault;
        self.dead.push(DeadLetter {
            record: self.count(),
            line,
            field,
            reason,
            raw,
        });
    }

    /// # Errors
    /// `TooManyDead` where the input is of another kind than it should be, most likely.
    pub(super) fn check_dead(&self) -> Result<(), AdmissionError> {
        too_many(&self.dead)
    }

    /// Takes the holes out of `arrays`, which are the declared columns and `_extra`.
    pub(super) fn finish(
        self,
        admission: &Admission,
        arrays: Vec<ArrayRef>,
    ) -> Result<Admitted, AdmissionError> {
        let build = |source| AdmissionError::Build { source };
        let record_count = self.count();
        let arrays = if self.dead.is_empty() {
            arrays
        } else {
            self.without_holes(&arrays).map_err(build)?
        };
        let facts = RecordBatch::try_new(admission.schema.clone(), arrays).map_err(build)?;
        let Self {
            records,
            dead,
            unknown_fields,
        } = self;
        Ok(Admitted {
            facts,
            records,
            dead,
            record_count,
            unknown_fields,
        })
    }

    fn without_holes(&self, arrays: &[ArrayRef]) -> Result<Vec<ArrayRef>, ArrowError> {
        let mut alive = BooleanBufferBuilder::new(self.records.len() + self.dead.len());
        alive.append_n(self.records.len() + self.dead.len(), true);
        for dead in &self.dead {
            alive.set_bit(dead.record as usize, false);
        }
        keep(arrays, &BooleanArray::new(alive.finish(), None))
    }
}

fn too_many(dead: &[DeadLetter]) -> Result<(), AdmissionError> {
    match dead.first() {
        Some(first) if dead.len() > MAX_DEAD_LETTERS => Err(AdmissionError::TooManyDead {
            record: first.record,
            reason: first.reason.clone(),
        }),
        _ => Ok(()),
    }
}

/// The rows of `arrays` that `wanted` says, which has no nulls.
fn keep(arrays: &[ArrayRef], wanted: &BooleanArray) -> Result<Vec<ArrayRef>, ArrowError> {
    let kept = wanted.true_count();
    let filter = FilterBuilder::new(wanted).optimize().build();
    // Filtering leaves the text of views where it was, so what the others wrote would be stored too.
    let many_gone = wanted.len() - kept > kept / 8;
    let keep = |array: &ArrayRef| {
        let kept = filter.filter(array)?;
        let kept: ArrayRef = match kept.data_type() {
            DataType::Utf8View if many_gone => Arc::new(kept.as_string_view().gc()),
            DataType::BinaryView if many_gone => Arc::new(kept.as_binary_view().gc()),
            _ => kept,
        };
        Ok(kept)
    };
    arrays.iter().map(keep).collect()
}

/// The rows of a batch of facts that `wanted` says, which has no nulls.
///
/// # Errors
/// Where `wanted` is not as long as the batch, which is a defect.
pub(crate) fn keep_rows(
    facts: &RecordBatch,
    wanted: &BooleanArray,
) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_new(facts.schema(), keep(facts.columns(), wanted)?)
}

/// Puts dead letters that were decided before admission into their places: `earlier` holds positions in the whole,
/// ascending, and `admitted` counts only the other records.
pub(super) fn interleave(admitted: &mut Admitted, earlier: &[DeadLetter]) {
    if earlier.is_empty() {
        return;
    }
    admitted.record_count += earlier.len() as u64;
    shift(admitted.records.iter_mut(), earlier);
    shift(
        admitted.dead.iter_mut().map(|dead| &mut dead.record),
        earlier,
    );
    admitted.dead.extend_from_slice(earlier);
    admitted.dead.sort_by_key(|dead| dead.record);
}

/// What was admitted of consecutive parts of one input, as of the whole of it.
pub(super) fn joined(schema: &SchemaRef, parts: Vec<Admitted>) -> Result<Admitted, AdmissionError> {
    let build = |source| AdmissionError::Build { source };
    let facts = concat_batches(schema, parts.iter().map(|part| &part.facts)).map_err(build)?;
    let mut whole = Admitted {
        facts,
        records: Vec::new(),
        dead: Vec::new(),
        record_count: 0,
        unknown_fields: 0,
    };
    for part in parts {
        let before = whole.record_count;
        let records = part.records.into_iter().map(|record| record + before);
        whole.records.extend(records);
        whole
            .dead
            .extend(part.dead.into_iter().map(|dead| DeadLetter {
                record: dead.record + before,
                ..dead
            }));
        whole.record_count += part.record_count;
        whole.unknown_fields += part.unknown_fields;
    }
    too_many(&whole.dead)?;
    Ok(whole)
}

fn shift<'a>(records: impl Iterator<Item = &'a mut u64>, earlier: &[DeadLetter]) {
    let mut before = 0;
    for record in records {
        while earlier
            .get(before)
            .is_some_and(|dead| dead.record <= *record + before as u64)
        {
            before += 1;
        }
        *record += before as u64;
    }
}
