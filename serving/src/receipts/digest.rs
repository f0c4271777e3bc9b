//! What the rows of an answer come to, in whatever order they are: how many there are, a digest of all,
//! and sums of what floating point rounds, because a sum that is made in another order is another one in
//! its last digits.

use std::collections::BTreeMap;

use anabranch_shared::{Claims, Error, FloatSum, Result};
use arrow::array::{Array, ArrayRef, AsArray, Int8Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, SchemaRef};
use arrow::row::{RowConverter, SortField};
use sha2::{Digest as _, Sha256};

use crate::text::json;

/// By so much of the magnitude of their values sums may differ.
const TOLERANCE: f64 = 1e-9;

/// A digest of rows, so far.
#[derive(Debug)]
pub(super) struct Digest {
    converter: RowConverter,
    columns: Vec<(String, String)>,
    /// Sums of floating-point values and of their magnitudes, by the place of their column.
    floats: BTreeMap<usize, (f64, f64)>,
    rows: u64,
    /// The sum of the rows' digests, by its lanes.
    lanes: [u64; 4],
}

impl Digest {
    pub(super) fn new(schema: &SchemaRef) -> Result<Self> {
        let fields = schema.fields().iter();
        let exact = fields.clone().map(|f| SortField::new(exact_type(f)));
        // Rows of no columns are counted.
        let place = SortField::new(DataType::Int8);
        let exact = exact.chain([place]).collect();
        let floats = fields.clone().enumerate();
        let floats = floats.filter(|(_, f)| f.data_type().is_floating());
        Ok(Self {
            converter: RowConverter::new(exact)?,
            columns: fields.map(|f| (f.name().clone(), type_of(f))).collect(),
            floats: floats.map(|(at, _)| (at, (0.0, 0.0))).collect(),
            rows: 0,
            lanes: [0; 4],
        })
    }

    /// Adds rows.
    pub(super) fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut exact = batch
            .columns()
            .iter()
            .map(exact)
            .collect::<Result<Vec<_>>>()?;
        let rows = batch.num_rows();
        exact.push(std::sync::Arc::new(Int8Array::from(vec![0; rows])));
        let exact = self.converter.convert_columns(&exact)?;
        let floats = self.floats.keys();
        let floats = floats.map(|at| Ok((*at, cast(batch.column(*at), &DataType::Float64)?)));
        let floats = floats.collect::<Result<Vec<_>>>()?;
        for (row, bytes) in exact.iter().enumerate() {
            let digest: [u8; 32] = Sha256::digest(bytes.as_ref()).into();
            let mut lanes = [0; 4];
            for (lane, part) in lanes.iter_mut().zip(digest.as_chunks::<8>().0) {
                *lane = u64::from_le_bytes(*part);
            }
            for (sum, lane) in self.lanes.iter_mut().zip(lanes) {
                *sum = sum.wrapping_add(lane);
            }
            // From 1 to 2, in steps that a float has.
            let factor = 1.0 + (lanes[0] >> 12) as f64 / (1u64 << 52) as f64;
            for (at, values) in &floats {
                let values = values.as_primitive::<Float64Type>();
                let value = values.value(row);
                if let Some((sum, size)) = self.floats.get_mut(at)
                    && values.is_valid(row)
                    && value.is_finite()
                {
                    *sum += value * factor;
                    *size += value.abs() * factor;
                }
            }
        }
        self.rows += rows as u64;
        Ok(())
    }

    /// Says in a receipt what there is.
    pub(super) fn told(self, claims: &mut Claims) {
        let bytes = self.lanes.iter().flat_map(|lane| lane.to_le_bytes());
        claims.digest = hex::encode(bytes.collect::<Vec<u8>>());
        claims.rows = self.rows;
        let shown = |(at, (sum, size)): (usize, (f64, f64))| {
            let sum = FloatSum {
                sum: sum.to_string(),
                size: size.to_string(),
            };
            (at.to_string(), sum)
        };
        claims.floats = self.floats.into_iter().map(shown).collect();
        claims.columns = self.columns;
    }
}

/// The type of a column, whichever way its texts are laid out.
fn type_of(field: &Field) -> String {
    match field.data_type() {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, of) => return type_of(&Field::new("", of.as_ref().clone(), true)),
        other => other.clone(),
    }
    .to_string()
}

/// As what type a column is digested.
fn exact_type(field: &Field) -> DataType {
    match field.data_type() {
        of if of.is_floating() => DataType::Int8,
        of if of.is_nested() => DataType::Utf8,
        of => of.clone(),
    }
}

/// What of a column is digested: of floating point which values are no numbers, of what is nested its
/// text, else the values.
fn exact(column: &ArrayRef) -> Result<ArrayRef> {
    let of = column.data_type();
    if of.is_nested() {
        return json::texts(column).map_err(|e| Error::Internal(e.to_string()));
    }
    if !of.is_floating() {
        return Ok(column.clone());
    }
    let values = cast(column, &DataType::Float64)?;
    let kinds = values.as_primitive::<Float64Type>().iter();
    let kinds = kinds.map(|value| {
        value.map(|value| match value {
            _ if value.is_nan() => 1,
            f64::INFINITY => 2,
            f64::NEG_INFINITY => 3,
            _ => 0,
        })
    });
    Ok(std::sync::Arc::new(kinds.collect::<Int8Array>()))
}

/// In what two answers differ.
pub(super) fn differences(then: &Claims, now: &Claims) -> Vec<String> {
    let mut found = Vec::new();
    if then.columns != now.columns {
        let shown = |claims: &Claims| {
            let columns = claims.columns.iter();
            let columns: Vec<_> = columns.map(|(name, of)| format!("{name} {of}")).collect();
            columns.join(", ")
        };
        found.push(format!(
            "its columns were ({}) and are ({})",
            shown(then),
            shown(now)
        ));
        return found;
    }
    if then.rows != now.rows {
        found.push(format!("it had {} rows and has {}", then.rows, now.rows));
    }
    if then.digest != now.digest && then.rows == now.rows {
        found.push("some rows have other values".to_owned());
    }
    if !found.is_empty() {
        return found;
    }
    for (at, sum) in &then.floats {
        let name = at.parse().ok().and_then(|at: usize| then.columns.get(at));
        let name = name.map_or(at.as_str(), |(name, _)| name.as_str());
        if !now.floats.get(at).is_some_and(|now| is_near(sum, now)) {
            found.push(format!(
                "values of `{name}`, which are floating point, differ by more than rounding does"
            ));
        }
    }
    found
}

fn is_near(one: &FloatSum, other: &FloatSum) -> bool {
    let number = |text: &str| text.parse::<f64>().unwrap_or(f64::NAN);
    let size = number(&one.size).max(number(&other.size));
    // Sums that overflow are told apart by their texts alone.
    one == other || (number(&one.sum) - number(&other.sum)).abs() <= TOLERANCE * size
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, StringArray, StringViewArray};
    use arrow::datatypes::Schema;

    use super::*;

    fn empty() -> Claims {
        Claims {
            sql: String::new(),
            values: vec![],
            search_path: String::new(),
            asked_at: chrono::DateTime::UNIX_EPOCH,
            user: None,
            heads: anabranch_shared::Heads::default(),
            views: BTreeMap::new(),
            rows: 0,
            columns: vec![],
            digest: String::new(),
            floats: BTreeMap::new(),
        }
    }

    fn told(batches: &[RecordBatch]) -> Result<Claims> {
        let mut claims = empty();
        let schema = batches.first().map(RecordBatch::schema);
        let mut digest = Digest::new(&schema.unwrap_or_else(|| Arc::new(Schema::empty())))?;
        for batch in batches {
            digest.add(batch)?;
        }
        digest.told(&mut claims);
        Ok(claims)
    }

    fn rows(names: &[&str], counts: &[i64], means: &[f64]) -> Result<RecordBatch> {
        let names: ArrayRef = Arc::new(StringArray::from(names.to_vec()));
        let counts: ArrayRef = Arc::new(Int64Array::from(counts.to_vec()));
        let means: ArrayRef = Arc::new(Float64Array::from(means.to_vec()));
        let columns = [("name", names), ("n", counts), ("mean", means)];
        Ok(RecordBatch::try_from_iter(columns)?)
    }

    #[test]
    fn the_order_of_rows_and_batches_does_not_count() -> Result<()> {
        let whole = rows(&["a", "b", "c"], &[1, 2, 3], &[0.1, f64::NAN, 1e30])?;
        let parts = [whole.slice(2, 1), whole.slice(0, 1), whole.slice(1, 1)];
        let (one, other) = (told(std::slice::from_ref(&whole))?, told(&parts)?);
        assert_eq!(one.rows, 3);
        assert_eq!(differences(&one, &other), Vec::<String>::new());
        // Nor how texts are laid out.
        let names = whole.column(0).as_string::<i32>();
        let mut columns = whole.columns().to_vec();
        columns[0] = Arc::new(names.iter().collect::<StringViewArray>());
        let named = ["name", "n", "mean"].into_iter().zip(columns);
        let views = RecordBatch::try_from_iter(named)?;
        assert_eq!(differences(&one, &told(&[views])?), Vec::<String>::new());
        Ok(())
    }

    #[test]
    fn every_difference_counts_but_rounding() -> Result<()> {
        let one = told(&[rows(&["a", "b"], &[1, 2], &[0.1 + 0.2, 4.0])?])?;
        let same = told(&[rows(&["a", "b"], &[1, 2], &[0.3, 4.0])?])?;
        assert_eq!(differences(&one, &same), Vec::<String>::new());
        for (other, part) in [
            (rows(&["a", "c"], &[1, 2], &[0.3, 4.0])?, "other values"),
            (rows(&["b", "a"], &[1, 2], &[0.3, 4.0])?, "other values"),
            (rows(&["a", "b"], &[1, 2], &[4.0, 0.3])?, "`mean`"),
            (rows(&["a", "b"], &[1, 2], &[0.3001, 4.0])?, "`mean`"),
            (
                rows(&["a", "b"], &[1, 2], &[f64::NAN, 4.0])?,
                "other values",
            ),
            (rows(&["a"], &[1], &[0.3])?, "2 rows and has 1"),
            (rows(&[], &[], &[])?, "2 rows and has 0"),
        ] {
            let found = differences(&one, &told(&[other])?);
            assert!(found.len() == 1 && found[0].contains(part), "{found:?}");
        }
        let fewer = rows(&["a", "b"], &[1, 2], &[0.3, 4.0])?.project(&[0, 1])?;
        let found = differences(&one, &told(&[fewer])?);
        assert!(found.iter().any(|f| f.starts_with("its columns were")));
        Ok(())
    }
}
