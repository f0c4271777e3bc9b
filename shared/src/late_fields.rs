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

mod scan;

use std::collections::BTreeMap;

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringViewArray, UInt32Array,
    new_null_array,
};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use datafusion::common::{HashMap, HashSet};
use jiter::{Jiter, Peek};
use memchr::memmem::Finder;
use parking_lot::Mutex;

use crate::convert::{Cell, Column, put_json, put_list_text};
use crate::settings::FieldReads;
use crate::topic::{EXTRA, LateReads};
use crate::{Error, Result, planted};

pub(crate) use scan::LateFields;

/// Values that did not fit, by field, in the reads of this process.
static MISFITS: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// For each field that was declared after some of its facts: how often a value in their `_extra` was
/// read that does not fit it, in this process. A value that is read again counts again.
pub fn misfits() -> BTreeMap<String, u64> {
    MISFITS.lock().clone()
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

/// The columns of fields that facts lack which have this `_extra`, if they have one.
pub(crate) fn late_columns(
    fields: &[FieldRef],
    reads: &LateReads,
    extra: Option<&ArrayRef>,
    rows: usize,
) -> Result<Vec<ArrayRef>> {
    let extra = extra.filter(|e| e.null_count() < rows && !planted("planted-extra-ignored"));
    let Some(extra) = extra.filter(|_| !fields.is_empty()) else {
        let absent = fields.iter().map(|f| new_null_array(f.data_type(), rows));
        return Ok(absent.collect());
    };
    let extra = match extra.data_type() {
        DataType::Utf8View => extra.clone(),
        _ => cast(extra, &DataType::Utf8View)?,
    };
    let objects = Objects::of(extra.as_string_view());
    let late = fields
        .iter()
        .map(|field| LateField::new(field, reads.of(field.name()), objects.found.len()));
    let mut late = late.collect::<Result<Vec<_>>>()?;
    for (object, facts) in &objects.found {
        read_object(object, *facts, &mut late);
    }
    let read = late.into_iter().map(LateField::finish);
    read.map(|column| Ok(take(&column?, &objects.of_rows, None)?))
        .collect()
}

/// Of so many objects at the beginning of a batch at most every second is another one where it is
/// worth while to look for those that come again.
const SAMPLED_OBJECTS: usize = 64;

/// The objects of a batch, each once where they come again and again: as a rule few fields that are
/// not declared have few values, and the file keeps a text once.
struct Objects<'a> {
    /// The objects, with the number of facts that have them.
    found: Vec<(&'a str, u64)>,
    /// For each fact which of them it has.
    of_rows: UInt32Array,
}

impl<'a> Objects<'a> {
    fn of(extra: &'a StringViewArray) -> Self {
        let valid = (0..extra.len()).filter(|row| extra.is_valid(*row));
        let sample: HashSet<u128> = valid
            .take(SAMPLED_OBJECTS)
            .map(|row| extra.views()[row])
            .collect();
        let repeat = sample.len() <= SAMPLED_OBJECTS / 2;
        let mut found: Vec<(&'a str, u64)> = Vec::new();
        let mut places: HashMap<u128, u32> = HashMap::new();
        let mut of_rows = Vec::with_capacity(extra.len());
        for row in 0..extra.len() {
            if extra.is_null(row) {
                of_rows.push(None);
                continue;
            }
            let new = u32::try_from(found.len()).unwrap_or(u32::MAX);
            // Where two views are the same so are the texts.
            let place = match repeat {
                true => *places.entry(extra.views()[row]).or_insert(new),
                false => new,
            };
            match found.get_mut(place as usize) {
                Some((_, facts)) => *facts += 1,
                None => found.push((extra.value(row), 1)),
            }
            of_rows.push(Some(place));
        }
        let of_rows = UInt32Array::from(of_rows);
        Self { found, of_rows }
    }
}

/// Reads the fields out of the `_extra` of some facts.
fn read_object(object: &str, facts: u64, late: &mut [LateField]) {
    let may_have = |field: &LateField| field.key.find(object.as_bytes()).is_some();
    if late.iter().any(may_have) && find_values(object, late).is_none() {
        // No JSON: not written by admission.
        late.iter_mut().for_each(|field| field.found = Found::Unfit);
    }
    late.iter_mut().for_each(|field| field.put(object, facts));
}

/// Notes where in an object the fields' values are; `None` where it is no JSON object.
fn find_values(object: &str, late: &mut [LateField]) -> Option<()> {
    let mut jiter = Jiter::new(object.as_bytes());
    let mut key = jiter.next_object().ok()?;
    while let Some(name) = key {
        let named = late.iter().position(|field| field.field.name() == name);
        let peek = jiter.peek().ok()?;
        let start = jiter.current_index();
        jiter.known_skip(peek).ok()?;
        if let Some(field) = named.and_then(|at| late.get_mut(at)) {
            field.found = match field.found {
                Found::Nothing => Found::Value(start, jiter.current_index()),
                _ => Found::Unfit,
            };
        }
        key = jiter.next_key().ok()?;
    }
    Some(())
}

/// What an object holds of a field.
#[derive(Clone, Copy)]
enum Found {
    Nothing,
    /// The value's bytes, half-open.
    Value(usize, usize),
    /// It is there twice, or can't be read.
    Unfit,
}

/// A field on its way from `_extra` into a column.
struct LateField {
    field: FieldRef,
    /// Finds the field's name in an object, as admission writes it: most that have it not are known
    /// by that.
    key: Finder<'static>,
    column: Column,
    /// What the object at hand holds of it.
    found: Found,
    rows: usize,
    misfits: u64,
}

impl LateField {
    fn new(field: &FieldRef, reads: FieldReads, rows: usize) -> Result<Self> {
        let name = field.name();
        let column = Column::new(field.data_type(), rows, reads).ok_or_else(|| {
            let data_type = field.data_type();
            Error::Internal(format!("field `{name}` has the type {data_type}"))
        })?;
        let key = serde_json::Value::from(name.as_str()).to_string();
        Ok(Self {
            field: field.clone(),
            key: Finder::new(key.as_bytes()).into_owned(),
            column,
            found: Found::Nothing,
            rows: 0,
            misfits: 0,
        })
    }

    /// Moves what was found in the `_extra` of some facts into the column, and ends the row.
    fn put(&mut self, object: &str, facts: u64) {
        self.rows = self.column.len() + 1;
        let put = match std::mem::replace(&mut self.found, Found::Nothing) {
            Found::Nothing => Some(()),
            Found::Unfit => None,
            Found::Value(start, end) => object
                .get(start..end)
                .and_then(|value| put_value(value, &mut self.column, self.rows)),
        };
        if put.is_none() {
            self.misfits += facts;
        }
        self.column.settle(self.rows);
    }

    fn finish(self) -> Result<ArrayRef> {
        if self.misfits > 0 {
            let mut misfits = MISFITS.lock();
            *misfits.entry(self.field.name().clone()).or_default() += self.misfits;
        }
        Ok(self.column.finish()?)
    }
}

/// Appends a JSON value as row `rows - 1` of a column; `None` where it does not fit.
fn put_value(value: &str, column: &mut Column, rows: usize) -> Option<()> {
    let mut jiter = Jiter::new(value.as_bytes());
    let peek = jiter.peek().ok()?;
    if put_json(&mut jiter, peek, column).is_ok() {
        return Some(());
    }
    // A list that failed midway has ended its row.
    if peek != Peek::String || column.len() >= rows {
        return None;
    }
    let mut jiter = Jiter::new(value.as_bytes());
    let text = jiter.known_str().ok()?;
    match (text, column.is_list()) {
        ("", _) => Some(()),
        (text, true) => put_list_text(text, column).ok(),
        (text, false) => column.put(Cell::Untyped(text)).ok(),
    }
}

#[cfg(test)]
mod tests;
