//! A late field: where an object has its value, and how that becomes a column's.

use arrow::array::ArrayRef;
use arrow::datatypes::FieldRef;
use jiter::{Jiter, Peek};
use memchr::memchr2;
use memchr::memmem::Finder;

use super::count_misfits;
use crate::convert::{Cell, Column, put_json, put_list_text};
use crate::settings::FieldReads;
use crate::{Error, Result};

/// Reads the fields out of the `_extra` of some facts that have the same.
pub(super) fn read_object(object: &str, facts: u64, late: &mut [LateField]) {
    let may_have = |field: &LateField| field.key.find(object.as_bytes()).is_some();
    if late.iter().any(may_have) && find_as_written(object, late).is_none() {
        late.iter_mut().for_each(|f| f.found = Found::Nothing);
        if find_values(object, late).is_none() {
            // No JSON: not written by admission.
            late.iter_mut().for_each(|f| f.found = Found::Unfit);
        }
    }
    late.iter_mut().for_each(|field| field.put(object, facts));
}

/// Notes where in an object the fields' values are; `None` where it is no JSON object.
fn find_values(object: &str, late: &mut [LateField]) -> Option<()> {
    let mut jiter = Jiter::new(object.as_bytes());
    let mut key = jiter.next_object().ok()?;
    while let Some(name) = key {
        let named = named(late, name);
        let peek = jiter.peek().ok()?;
        let start = jiter.current_index();
        jiter.known_skip(peek).ok()?;
        if let Some(field) = named.and_then(|at| late.get_mut(at)) {
            field.found(Found::Value(start, jiter.current_index()));
        }
        key = jiter.next_key().ok()?;
    }
    Some(())
}

/// As [`find_values`], of an object without spaces whose names and texts have nothing escaped, as
/// admission writes almost all: the next quote ends each. `None` where it may be otherwise.
fn find_as_written(object: &str, late: &mut [LateField]) -> Option<()> {
    let mut rest = object.strip_prefix('{')?;
    loop {
        let name = plain_text(&mut rest)?;
        let named = named(late, name);
        rest = rest.strip_prefix(':')?;
        let start = object.len() - rest.len();
        let found = match rest.starts_with('"') {
            true => {
                let text = plain_text(&mut rest)?;
                Found::Text(start + 1, start + 1 + text.len())
            }
            false => {
                let mut jiter = Jiter::new(rest.as_bytes());
                let peek = jiter.peek().ok()?;
                jiter.known_skip(peek).ok()?;
                let length = jiter.current_index();
                rest = rest.get(length..)?;
                Found::Value(start, start + length)
            }
        };
        if let Some(field) = named.and_then(|at| late.get_mut(at)) {
            field.found(found);
        }
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return (rest == "}").then_some(()),
        }
    }
}

/// Takes a JSON string that stands for itself.
fn plain_text<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let from = rest.strip_prefix('"')?;
    let end = memchr2(b'"', b'\\', from.as_bytes())?;
    let (text, after) = from.split_at_checked(end)?;
    *rest = after.strip_prefix('"')?;
    Some(text)
}

fn named(late: &[LateField], name: &str) -> Option<usize> {
    late.iter().position(|field| field.field.name() == name)
}

/// What an object holds of a field.
#[derive(Clone, Copy)]
enum Found {
    Nothing,
    /// The bytes of a text, without its quotes and with nothing escaped, half-open.
    Text(usize, usize),
    /// The bytes of a value, half-open.
    Value(usize, usize),
    /// It is there twice, or can't be read.
    Unfit,
}

/// A field on its way from `_extra` into a column.
pub(super) struct LateField {
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
    pub(super) fn new(field: &FieldRef, reads: FieldReads, rows: usize) -> Result<Self> {
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

    fn found(&mut self, found: Found) {
        self.found = match self.found {
            Found::Nothing => found,
            _ => Found::Unfit,
        };
    }

    /// Moves what was found in the `_extra` of some facts into the column, and ends the row.
    fn put(&mut self, object: &str, facts: u64) {
        self.rows += 1;
        let (column, rows) = (&mut self.column, self.rows);
        let put = match std::mem::replace(&mut self.found, Found::Nothing) {
            Found::Nothing => Some(()),
            Found::Unfit => None,
            Found::Text(start, end) => object
                .get(start..end)
                .and_then(|text| put_text(text, column)),
            Found::Value(start, end) => object
                .get(start..end)
                .and_then(|value| put_value(value, column)),
        };
        if put.is_none() {
            self.misfits += facts;
        }
        column.settle(rows);
    }

    /// Ends the row of a fact without `_extra`.
    pub(super) fn put_null(&mut self) {
        self.rows += 1;
        self.column.put_null();
    }

    pub(super) fn finish(self) -> Result<ArrayRef> {
        count_misfits(self.field.name(), self.misfits);
        Ok(self.column.finish()?)
    }
}

/// Appends a JSON value to a column; `None` where it does not fit.
fn put_value(value: &str, column: &mut Column) -> Option<()> {
    let mut jiter = Jiter::new(value.as_bytes());
    match jiter.peek().ok()? {
        Peek::String => put_text(jiter.known_str().ok()?, column),
        peek => put_json(&mut jiter, peek, column).ok(),
    }
}

/// As [`put_value`], of what a JSON string says.
fn put_text(text: &str, column: &mut Column) -> Option<()> {
    if column.put(Cell::Text(text)).is_ok() {
        return Some(());
    }
    match (text, column.is_list()) {
        ("", _) => Some(()),
        (text, true) => put_list_text(text, column).ok(),
        (text, false) => column.put(Cell::Untyped(text)).ok(),
    }
}
