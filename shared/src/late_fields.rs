//! Fields that were declared after facts were stored. Owns what such a field is in a fact as it is
//! read; every reader of facts goes through here.
//!
//! # The rule
//! Columns of facts are bound by name. In a declared field a fact has what is stored in the column of
//! that name. Where what is stored (a file, a record of the WAL, a batch in memory, another daemon's
//! answer) has no such column, the fact is older than the declaration, and the value is what its
//! `_extra` holds under the name, by the conversion of admission, with what the field's declaration
//! said of `epoch`, `timezone` and `from_text`. As `_extra` does not say where a
//! fact came from, a text that does not fit as a JSON string is taken as CSV's: `"5"` is a number.
//! The value is NULL where `_extra` has none; where it does not fit, and where the name is there
//! twice, it is NULL too, and counted.
//!
//! `_extra` itself stays as it is stored: a view that reads it goes on as before. Whoever writes facts
//! anew, as landing and compaction do, writes them as they are read, so that what has the column needs
//! no look at `_extra`. A declared field can't be removed and no type changes, so that a name means one
//! field for ever.

mod columns;
mod field;
mod scan;

use std::collections::BTreeMap;

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{FieldRef, SchemaRef};
use parking_lot::Mutex;

use self::columns::late_columns;
use crate::Result;
use crate::topic::{EXTRA, LateReads};

pub(crate) use scan::LateFields;

/// Values that did not fit, by field, in the reads of this process.
static MISFITS: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// For each field that was declared after some of its facts: how often a value in their `_extra` was
/// read that does not fit it, in this process. A value that is read again counts again.
pub fn misfits() -> BTreeMap<String, u64> {
    MISFITS.lock().clone()
}

fn count_misfits(field: &str, values: u64) {
    if values > 0 {
        *MISFITS.lock().entry(field.to_owned()).or_default() += values;
    }
}

/// Whether a field is one that `_extra` may hold: names of the log's own columns begin with `_`.
pub(crate) fn is_declared(name: &str) -> bool {
    !name.starts_with('_')
}

/// Facts in the columns of a schema, bound by name, as they are read: a declared field that was not
/// declared when they were stored is read from their `_extra`, as `reads` says. Columns that the
/// schema lacks are left out.
///
/// # Errors
/// `Invalid` where a column has another type than the schema says.
pub fn fit_facts(
    schema: &SchemaRef,
    reads: &LateReads,
    facts: &RecordBatch,
) -> Result<RecordBatch> {
    if facts.schema_ref() == schema {
        return Ok(facts.clone());
    }
    let rows = facts.num_rows();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let is_late = |f: &&FieldRef| is_declared(f.name()) && facts.column_by_name(f.name()).is_none();
    let late: Vec<FieldRef> = schema.fields().iter().filter(is_late).cloned().collect();
    let mut late = late_columns(&late, reads, facts.column_by_name(EXTRA), rows)?.into_iter();
    let columns = schema.fields().iter().map(|field| {
        let read = match facts.column_by_name(field.name()) {
            Some(stored) => Some(stored.clone()),
            None if is_declared(field.name()) => late.next(),
            None => None,
        };
        read.unwrap_or_else(|| new_null_array(field.data_type(), rows))
    });
    let columns = columns.collect();
    Ok(RecordBatch::try_new_with_options(
        schema.clone(),
        columns,
        &options,
    )?)
}

#[cfg(test)]
mod tests;
