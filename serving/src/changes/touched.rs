//! Which keys of a view may have other values under a later pin: those of the states that one pin has
//! and the other has not. More of them are no fault, since values are compared.

use std::collections::HashSet;
use std::sync::Arc;

use anabranch_shared::{DeltaPart, Error, Offsets, Result, ViewPin};
use arrow::array::{Array, RecordBatch};
use arrow::datatypes::DataType;
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{Expr, lit};

/// With more keys than this an answer is compared whole.
const MOST_KEYS: usize = 10_000;

fn is_same(a: &DeltaPart, b: &DeltaPart) -> bool {
    match (a, b) {
        (DeltaPart::Memory(a), DeltaPart::Memory(b)) => {
            let columns = a.columns().iter().zip(b.columns());
            a.num_columns() > 0 && columns.into_iter().all(|(a, b)| Arc::ptr_eq(a, b))
        }
        (DeltaPart::Spilled(a), DeltaPart::Spilled(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

/// The parts of one delta that another one has not.
fn parts_of<'a>(one: &'a ViewPin, other: &'a ViewPin) -> impl Iterator<Item = DeltaPart> + 'a {
    let own = one
        .delta
        .iter()
        .filter(|part| !other.delta.iter().any(|other| is_same(part, other)));
    own.cloned()
}

fn is_beyond(one: &Offsets, other: &Offsets) -> bool {
    one.iter()
        .any(|(partition, offset)| offset > other.get(partition))
}

/// What holds the states in which two pins of one generation differ.
pub(super) fn between(old: &ViewPin, new: &ViewPin) -> ViewPin {
    let mut delta: Vec<DeltaPart> = parts_of(new, old).collect();
    let mut files = Vec::new();
    // What was absorbed before it was seen in a delta.
    if is_beyond(&new.boundary, &old.head) {
        let is_new = |path: &str| old.files.iter().all(|file| file.path != path);
        files.extend(new.files.iter().filter(|file| is_new(&file.path)).cloned());
    }
    // Another daemon is away, and with it what it holds.
    if is_beyond(&old.head, &new.head) {
        delta.extend(parts_of(old, new));
    }
    ViewPin {
        files,
        delta,
        ..new.clone()
    }
}

/// A condition on keys that holds for these ones at least; none where there are too many for one.
///
/// # Errors
/// `Internal` where a key is no value.
pub(super) fn condition(keys: &[RecordBatch]) -> Result<Option<Expr>> {
    let rows: usize = keys.iter().map(RecordBatch::num_rows).sum();
    let Some(first) = keys.first() else {
        return Ok(Some(lit(false)));
    };
    if rows > MOST_KEYS {
        return Ok(None);
    }
    let mut all: Option<Expr> = None;
    for (at, field) in first.schema_ref().fields().iter().enumerate() {
        // Of these a list does not find each value, or there are no lists.
        let has_lists = !field.data_type().is_nested() && !field.data_type().is_floating();
        if !has_lists || matches!(field.data_type(), DataType::Null) {
            continue;
        }
        let (mut values, mut seen, mut has_null) = (Vec::new(), HashSet::new(), false);
        for batch in keys {
            let column = batch.column(at);
            for row in 0..batch.num_rows() {
                if column.is_null(row) {
                    has_null = true;
                    continue;
                }
                let value = ScalarValue::try_from_array(column, row)
                    .map_err(|e| Error::Internal(e.to_string()))?;
                if seen.insert(value.clone()) {
                    values.push(lit(value));
                }
            }
        }
        let column = Expr::Column(Column::new_unqualified(field.name()));
        let listed = match (values.is_empty(), has_null) {
            (true, _) => column.is_null(),
            (false, false) => column.in_list(values, false),
            (false, true) => column.clone().in_list(values, false).or(column.is_null()),
        };
        all = Some(match all {
            None => listed,
            Some(others) => others.and(listed),
        });
    }
    Ok(match (all, rows) {
        (_, 0) => Some(lit(false)),
        (all, _) => all,
    })
}
