//! Compares two answers as multisets of rows: exact values by equality, floating point within a
//! bound, rows in any order.

use std::collections::HashMap;

use anabranch_shared::Result;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use arrow::row::{OwnedRow, RowConverter, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// How far two floating point values may be apart, relative to their size and to the size of what
/// was summed up.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Relative to the larger of the two.
    pub relative: f64,
    /// Absolute: `1e-10 · Σ|terms|` where that is known.
    pub absolute: f64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self {
            relative: 1e-9,
            absolute: 1e-9,
        }
    }
}

/// What a comparison came to.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Rows of the expected answer.
    pub rows: usize,
    /// How many rows one side has and the other has not.
    pub differences: usize,
    /// Some of them, for people.
    pub examples: Vec<String>,
}

impl Comparison {
    /// Whether both answers are the same.
    pub fn is_equal(&self) -> bool {
        self.differences == 0
    }
}

/// How many differing rows are shown.
const EXAMPLES: usize = 10;

struct Rows {
    exact: Vec<OwnedRow>,
    floats: Vec<Vec<Option<f64>>>,
    shown: Vec<String>,
}

fn is_float(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Float16 | DataType::Float32 | DataType::Float64
    )
}

fn rows(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Rows> {
    let fields = schema.fields();
    let exact: Vec<usize> = (0..fields.len())
        .filter(|&i| !is_float(fields[i].data_type()))
        .collect();
    let float: Vec<usize> = (0..fields.len())
        .filter(|&i| is_float(fields[i].data_type()))
        .collect();
    let sort = exact
        .iter()
        .map(|&i| SortField::new(fields[i].data_type().clone()));
    let converter = RowConverter::new(sort.collect())?;
    let mut all = Rows {
        exact: Vec::new(),
        floats: Vec::new(),
        shown: Vec::new(),
    };
    for batch in batches {
        let columns = exact
            .iter()
            .map(|&i| cast(batch.column(i), fields[i].data_type()))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let converted = match columns.is_empty() {
            true => None,
            false => Some(converter.convert_columns(&columns)?),
        };
        let floats: Vec<ArrayRef> = float
            .iter()
            .map(|&i| cast(batch.column(i), &DataType::Float64))
            .collect::<std::result::Result<_, _>>()?;
        let options = FormatOptions::default().with_null("NULL");
        let formats = batch
            .columns()
            .iter()
            .map(|c| ArrayFormatter::try_new(c.as_ref(), &options))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            all.exact.push(match &converted {
                Some(c) => c.row(row).owned(),
                None => RowConverter::new(vec![SortField::new(DataType::Null)])?
                    .convert_columns(&[arrow::array::new_null_array(&DataType::Null, 1)])?
                    .row(0)
                    .owned(),
            });
            let value = |a: &ArrayRef| {
                let a = a.as_primitive::<Float64Type>();
                a.is_valid(row).then(|| a.value(row))
            };
            all.floats.push(floats.iter().map(value).collect());
            let cells = formats.iter().map(|f| f.value(row).to_string());
            all.shown.push(cells.collect::<Vec<_>>().join(" | "));
        }
    }
    Ok(all)
}

fn close(a: Option<f64>, b: Option<f64>, tolerance: Tolerance) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) if a.is_nan() || b.is_nan() => a.is_nan() && b.is_nan(),
        (Some(a), Some(b)) => {
            a == b
                || (a - b).abs() <= tolerance.absolute + tolerance.relative * a.abs().max(b.abs())
        }
        _ => false,
    }
}

/// Compares an answer with what it should be.
pub fn compare(
    schema: &SchemaRef,
    expected: &[RecordBatch],
    found: &[RecordBatch],
    tolerance: Tolerance,
) -> Result<Comparison> {
    let (expected, found) = (rows(schema, expected)?, rows(schema, found)?);
    let mut open: HashMap<&OwnedRow, Vec<usize>> = HashMap::new();
    for (i, row) in found.exact.iter().enumerate() {
        open.entry(row).or_default().push(i);
    }
    let mut comparison = Comparison {
        rows: expected.exact.len(),
        ..Default::default()
    };
    let mut differ = |text: String| {
        comparison.differences += 1;
        if comparison.examples.len() < EXAMPLES {
            comparison.examples.push(text);
        }
    };
    for (i, row) in expected.exact.iter().enumerate() {
        let matching = |j: &usize| {
            let pairs = expected.floats[i].iter().zip(&found.floats[*j]);
            pairs.clone().all(|(a, b)| close(*a, *b, tolerance))
        };
        let candidates = open.get_mut(row);
        let hit = candidates.and_then(|c| Some((c.iter().position(matching)?, c)));
        match hit {
            Some((at, candidates)) => {
                candidates.swap_remove(at);
            }
            None => differ(format!("missing: {}", expected.shown[i])),
        }
    }
    for i in open.into_values().flatten() {
        differ(format!("not expected: {}", found.shown[i]));
    }
    Ok(comparison)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn batch(rows: &[(i64, Option<f64>)]) -> (SchemaRef, RecordBatch) {
        let schema = Arc::new(Schema::new(vec![
            Field::new("k", DataType::Int64, true),
            Field::new("v", DataType::Float64, true),
        ]));
        let keys = Int64Array::from_iter_values(rows.iter().map(|r| r.0));
        let values = Float64Array::from_iter(rows.iter().map(|r| r.1));
        let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(keys), Arc::new(values)]);
        (schema, batch.unwrap())
    }

    fn differences(a: &[(i64, Option<f64>)], b: &[(i64, Option<f64>)]) -> usize {
        let (schema, a) = batch(a);
        let (_, b) = batch(b);
        compare(&schema, &[a], &[b], Tolerance::default())
            .unwrap()
            .differences
    }

    #[test]
    fn rows_in_any_order_are_the_same() {
        let a = [(1, Some(0.1)), (2, None), (2, Some(f64::NAN))];
        let b = [(2, Some(f64::NAN)), (1, Some(0.1 + 1e-12)), (2, None)];
        assert_eq!(differences(&a, &b), 0);
    }

    #[test]
    fn multiplicity_and_values_count() {
        assert_eq!(differences(&[(1, None), (1, None)], &[(1, None)]), 1);
        assert_eq!(differences(&[(1, Some(1.0))], &[(1, Some(1.001))]), 2);
        assert_eq!(differences(&[(1, Some(0.0))], &[(1, None)]), 2);
    }
}
