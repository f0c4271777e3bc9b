//! What differs between two answers of a view: by its keys where its rows have them, else by whole rows.

use std::collections::HashMap;

use anabranch_shared::{Error, Result};
use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};

use crate::text::json::write_lines;

/// How a row differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    /// It is new.
    Added,
    /// Its values are others.
    Changed,
    /// It is there no more.
    Removed,
}

impl Op {
    fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

/// A row that differs, by its places in the former answer and in the new one.
type Differing = (Op, Option<u32>, Option<u32>);

/// Some columns of rows as bytes, which are alike where their values are.
fn coded(rows: &RecordBatch, places: &[usize]) -> Result<Vec<Vec<u8>>> {
    if places.is_empty() {
        return Ok(vec![Vec::new(); rows.num_rows()]);
    }
    let columns: Vec<_> = places.iter().map(|at| rows.column(*at).clone()).collect();
    let fields = columns
        .iter()
        .map(|c| SortField::new(c.data_type().clone()));
    let fields: Vec<_> = fields.collect();
    if !RowConverter::supports_fields(&fields) {
        let texts = lines(&rows.project(places)?)?;
        return Ok(texts.into_iter().map(String::into_bytes).collect());
    }
    let coded = RowConverter::new(fields)?.convert_columns(&columns)?;
    Ok(coded.iter().map(|row| row.as_ref().to_vec()).collect())
}

/// The rows that differ; of which columns a row's key is, where rows have one.
fn differing(
    old: &RecordBatch,
    new: &RecordBatch,
    key: Option<&[usize]>,
) -> Result<Vec<Differing>> {
    let all: Vec<usize> = (0..new.num_columns()).collect();
    let (of_old, of_new) = (coded(old, &all)?, coded(new, &all)?);
    let places = |rows: &[Vec<u8>]| {
        u32::try_from(rows.len()).map_err(|_| Error::Invalid("an answer is too large".to_owned()))
    };
    let (olds, news) = (places(&of_old)?, places(&of_new)?);
    let mut differing = Vec::new();
    let Some(key) = key else {
        let mut left: HashMap<&[u8], Vec<u32>> = HashMap::new();
        for (place, row) in (0..olds).zip(&of_old) {
            left.entry(row).or_default().push(place);
        }
        for (place, row) in (0..news).zip(&of_new) {
            match left.get_mut(row.as_slice()).and_then(Vec::pop) {
                Some(_) => {}
                None => differing.push((Op::Added, None, Some(place))),
            }
        }
        let mut gone: Vec<u32> = left.into_values().flatten().collect();
        gone.sort_unstable();
        differing.extend(
            gone.into_iter()
                .map(|place| (Op::Removed, Some(place), None)),
        );
        return Ok(differing);
    };
    let (old_keys, new_keys) = (coded(old, key)?, coded(new, key)?);
    let mut left: HashMap<&[u8], u32> = (0..olds)
        .zip(&old_keys)
        .map(|(place, key)| (key.as_slice(), place))
        .collect();
    for (place, key) in (0..news).zip(&new_keys) {
        match left.remove(key.as_slice()) {
            None => differing.push((Op::Added, None, Some(place))),
            Some(before) if of_old[before as usize] == of_new[place as usize] => {}
            Some(before) => differing.push((Op::Changed, Some(before), Some(place))),
        }
    }
    let mut gone: Vec<u32> = left.into_values().collect();
    gone.sort_unstable();
    differing.extend(
        gone.into_iter()
            .map(|place| (Op::Removed, Some(place), None)),
    );
    Ok(differing)
}

/// Rows as JSON objects.
///
/// # Errors
/// `Invalid` for a type that has no text.
pub(crate) fn lines(rows: &RecordBatch) -> Result<Vec<String>> {
    let mut bytes = Vec::new();
    write_lines(&mut bytes, rows.schema_ref(), std::slice::from_ref(rows))
        .map_err(|e| Error::Invalid(format!("a row can't be written as JSON: {e}")))?;
    let text = String::from_utf8(bytes).map_err(|e| Error::Internal(e.to_string()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn chosen(rows: &RecordBatch, places: impl Iterator<Item = Option<u32>>) -> Result<Vec<String>> {
    let places: Vec<u32> = places.flatten().collect();
    lines(&take_record_batch(rows, &UInt32Array::from(places))?)
}

/// The events of what differs: `{"op": …, "old": …, "new": …}`.
///
/// # Errors
/// Those of [`lines`].
pub(super) fn events(
    old: &RecordBatch,
    new: &RecordBatch,
    key: Option<&[usize]>,
) -> Result<Vec<String>> {
    let differing = differing(old, new, key)?;
    let mut olds = chosen(old, differing.iter().map(|(_, old, _)| *old))?.into_iter();
    let mut news = chosen(new, differing.iter().map(|(.., new)| *new))?.into_iter();
    let object = |place: Option<u32>, rows: &mut std::vec::IntoIter<String>| match place {
        None => "null".to_owned(),
        Some(_) => rows.next().unwrap_or_default(),
    };
    let events = differing.iter().map(|(op, before, after)| {
        let (before, after) = (object(*before, &mut olds), object(*after, &mut news));
        format!(r#"{{"op":"{}","old":{before},"new":{after}}}"#, op.name())
    });
    Ok(events.collect())
}

/// No rows, of the columns of an answer.
pub(super) fn nothing(schema: &SchemaRef) -> RecordBatch {
    RecordBatch::new_empty(schema.clone())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};

    use super::*;

    fn rows(rows: &[(Option<&str>, i64, f64)]) -> RecordBatch {
        let columns: Vec<(&str, ArrayRef, bool)> = vec![
            (
                "k",
                Arc::new(rows.iter().map(|r| r.0).collect::<StringArray>()),
                true,
            ),
            (
                "n",
                Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1))),
                true,
            ),
            (
                "x",
                Arc::new(Float64Array::from_iter_values(rows.iter().map(|r| r.2))),
                true,
            ),
        ];
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    }

    #[test]
    fn rows_differ_by_their_keys() {
        let old = rows(&[
            (Some("a"), 1, 0.5),
            (None, 2, f64::NAN),
            (Some("c"), 3, 1.0),
        ]);
        let new = rows(&[
            (Some("b"), 1, 0.5),
            (None, 2, f64::NAN),
            (Some("c"), 4, 1.0),
        ]);
        let found = events(&old, &new, Some(&[0])).unwrap();
        let expected = [
            r#"{"op":"added","old":null,"new":{"k":"b","n":1,"x":0.5}}"#,
            r#"{"op":"changed","old":{"k":"c","n":3,"x":1.0},"new":{"k":"c","n":4,"x":1.0}}"#,
            r#"{"op":"removed","old":{"k":"a","n":1,"x":0.5},"new":null}"#,
        ];
        assert_eq!(found, expected);
        let empty = nothing(new.schema_ref());
        assert_eq!(events(&empty, &new, Some(&[0])).unwrap().len(), 3);
        assert_eq!(
            events(&new, &new, Some(&[0])).unwrap(),
            Vec::<String>::new()
        );
    }

    #[test]
    fn rows_without_keys_differ_as_a_whole() {
        let old = rows(&[(None, 1, 0.0), (None, 1, 0.0), (Some("a"), 2, 0.0)]);
        let new = rows(&[(Some("a"), 2, 0.0), (None, 1, 0.0), (Some("a"), 2, 0.0)]);
        let found = events(&old, &new, None).unwrap();
        let expected = [
            r#"{"op":"added","old":null,"new":{"k":"a","n":2,"x":0.0}}"#,
            r#"{"op":"removed","old":{"k":null,"n":1,"x":0.0},"new":null}"#,
        ];
        assert_eq!(found, expected);
    }
}
