//! Compares two answers as multisets of rows: exact values by equality, floating point within a
//! bound, rows in any order. Rows are dealt into buckets by a hash of their exact values, and buckets
//! go to temporary files when they take more memory than allowed.

use std::collections::HashMap;

use anabranch_shared::{Error, Result, counted};
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use arrow::row::{RowConverter, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde::{Deserialize, Serialize};

use self::bucket::{Bucket, Stored};

mod bucket;

/// How many buckets there are: so many times more than the bound of memory can be compared.
const BUCKETS: usize = 64;

/// How far two floating point values may be apart, relative to their size and to the size of what
/// was summed up.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Relative to the larger of the two.
    pub relative: f64,
    /// Absolute: `1e-10 · Σ|terms|` where that is known.
    pub absolute: f64,
}

/// What of Σ|terms| a sum of floating point may be off by.
const OF_TERMS: f64 = 1e-10;

impl Tolerance {
    /// The tolerance of a sum whose terms have this size together.
    fn of(self, terms: Option<f64>) -> Self {
        let absolute = self.absolute + OF_TERMS * terms.unwrap_or(0.0);
        Self { absolute, ..self }
    }
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
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Comparison {
    /// Rows of the expected answer.
    pub rows: usize,
    /// How many rows differ: one that has other values than it should counts once.
    pub differences: usize,
    /// Some of them, for people.
    pub examples: Vec<String>,
    /// The names of the columns.
    #[serde(default)]
    pub columns: Vec<String>,
    /// The same rows as `examples`, for programs.
    #[serde(default)]
    pub differing: Vec<Difference>,
    /// Whether rows went to temporary files because they took more memory than allowed.
    pub spilled: bool,
}

impl Comparison {
    /// Whether both answers are the same.
    pub fn is_equal(&self) -> bool {
        self.differences == 0
    }

    /// It in a few words: `1,000 rows compared, 2 differ`, with more about the rows after `compared`.
    pub fn summary(&self, more: &str) -> String {
        let rows = counted(self.rows as u64, "row", "rows");
        let differ = counted(self.differences as u64, "differs", "differ");
        format!("{rows} compared{more}, {differ}")
    }
}

/// A row that differs, its values as text in the order of the columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// What it should be; none where there should be no such row.
    pub expected: Option<Vec<String>>,
    /// What it is; none where it is missing.
    pub found: Option<Vec<String>>,
}

impl Difference {
    fn set(&mut self, side: Side, row: Vec<String>) {
        match side {
            Side::Expected => self.expected = Some(row),
            Side::Found => self.found = Some(row),
        }
    }

    /// It for people, by the names of its columns, of which the first `keys` tell which row it is.
    fn text(&self, columns: &[String], keys: &[usize]) -> String {
        let named = |row: &[String], at: usize| {
            let name = columns.get(at).map_or("", String::as_str);
            let value = row.get(at).map_or("", String::as_str);
            format!("{name} = {value}")
        };
        let all = |row: &[String]| {
            let cells = (0..row.len()).map(|at| named(row, at));
            cells.collect::<Vec<_>>().join(", ")
        };
        match (&self.expected, &self.found) {
            (Some(expected), Some(found)) => {
                let of = keys.iter().map(|at| named(expected, *at));
                let of = of.collect::<Vec<_>>().join(", ");
                let cells = expected.iter().zip(found).enumerate();
                let differing = cells.filter(|(_, (a, b))| a != b).map(|(at, (a, b))| {
                    let name = columns.get(at).map_or("", String::as_str);
                    format!("{name} is {b}, should be {a}")
                });
                let differing = differing.collect::<Vec<_>>().join("; ");
                match of.is_empty() {
                    true => differing,
                    false => format!("{of}: {differing}"),
                }
            }
            (Some(row), None) => format!("missing: {}", all(row)),
            (None, Some(row)) => format!("not expected: {}", all(row)),
            (None, None) => String::new(),
        }
    }
}

/// Keys of differing rows that are remembered, to count each row once.
const KEYS_REMEMBERED: usize = 1_000_000;

/// How many differing rows are shown.
const EXAMPLES: usize = 10;

/// Whose rows they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What the answer should be.
    Expected,
    /// What it is.
    Found,
}

/// Takes the rows of two answers, in any order, and compares them.
#[derive(Debug)]
pub struct Comparer {
    schema: SchemaRef,
    /// The columns compared by equality, and those compared within a bound.
    exact: Vec<usize>,
    float: Vec<usize>,
    /// For each of the latter the column of an expected row that holds its Σ|terms|.
    terms: Vec<Option<usize>>,
    converter: RowConverter,
    tolerance: Tolerance,
    memory_bytes: usize,
    held: usize,
    expected: Vec<Bucket>,
    found: Vec<Bucket>,
    /// The columns that tell which row it is; none where no two rows are one.
    keys: Option<Vec<usize>>,
    /// The keys of rows that differ, and of the first of them which example it is.
    differing: HashMap<Vec<String>, Option<usize>>,
    comparison: Comparison,
}

fn is_float(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Float16 | DataType::Float32 | DataType::Float64
    )
}

impl Comparer {
    /// A comparer of answers with this schema. Beyond `memory_bytes` rows go to temporary files.
    ///
    /// # Errors
    /// For a type whose values can't be compared.
    pub fn new(schema: &SchemaRef, tolerance: Tolerance, memory_bytes: usize) -> Result<Self> {
        let fields = schema.fields();
        let (float, exact): (Vec<usize>, Vec<usize>) =
            (0..fields.len()).partition(|&i| is_float(fields[i].data_type()));
        let sort = exact
            .iter()
            .map(|&i| SortField::new(fields[i].data_type().clone()));
        Ok(Self {
            converter: RowConverter::new(sort.collect())?,
            schema: schema.clone(),
            exact,
            terms: vec![None; float.len()],
            float,
            tolerance,
            memory_bytes,
            held: 0,
            expected: (0..BUCKETS).map(|_| Bucket::default()).collect(),
            found: (0..BUCKETS).map(|_| Bucket::default()).collect(),
            keys: None,
            differing: HashMap::new(),
            comparison: Comparison {
                columns: fields.iter().map(|f| f.name().clone()).collect(),
                ..Comparison::default()
            },
        })
    }

    /// The same, where the expected rows have more columns than the schema: `terms` says for each
    /// column of the schema which of them holds its Σ|terms|.
    #[must_use]
    pub fn with_terms(self, terms: &[Option<usize>]) -> Self {
        let of = |at: &usize| terms.get(*at).copied().flatten();
        Self {
            terms: self.float.iter().map(of).collect(),
            ..self
        }
    }

    /// The same, where some columns tell which row it is: a row that has other values on the two sides
    /// is one difference.
    #[must_use]
    pub fn with_keys(self, keys: Option<Vec<usize>>) -> Self {
        Self { keys, ..self }
    }

    /// Adds rows to one side.
    ///
    /// # Errors
    /// `Unavailable` where a temporary file can't be written.
    pub fn push(&mut self, side: Side, batch: &RecordBatch) -> Result<()> {
        let exact = self
            .exact
            .iter()
            .map(|&i| cast(batch.column(i), self.schema.field(i).data_type()))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let rows = match exact.is_empty() {
            true => None,
            false => Some(self.converter.convert_columns(&exact)?),
        };
        let floats: Vec<ArrayRef> = self
            .float
            .iter()
            .map(|&i| cast(batch.column(i), &DataType::Float64))
            .collect::<std::result::Result<_, _>>()?;
        let terms: Vec<Option<ArrayRef>> = self
            .terms
            .iter()
            .map(|at| match (side, at) {
                (Side::Expected, Some(at)) => {
                    Ok(Some(cast(batch.column(*at), &DataType::Float64)?))
                }
                _ => Ok(None),
            })
            .collect::<std::result::Result<_, arrow::error::ArrowError>>()?;
        let buckets = match side {
            Side::Expected => {
                self.comparison.rows += batch.num_rows();
                &mut self.expected
            }
            Side::Found => &mut self.found,
        };
        for at in 0..batch.num_rows() {
            let row = rows.as_ref().map(|r| r.row(at));
            let exact = row.as_ref().map_or(&[][..], |r| r.as_ref());
            let value = |a: &ArrayRef| {
                let a = a.as_primitive::<Float64Type>();
                a.is_valid(at).then(|| a.value(at))
            };
            let terms = terms.iter().map(|a| a.as_ref().and_then(value));
            let values = floats.iter().map(value).chain(terms);
            let bucket = &mut buckets[bucket::number(exact, BUCKETS)];
            self.held += bucket.push(exact, values);
        }
        if self.held > self.memory_bytes {
            self.comparison.spilled = true;
            for bucket in self.expected.iter_mut().chain(&mut self.found) {
                bucket.spill()?;
            }
            self.held = 0;
        }
        Ok(())
    }

    /// Compares one more bucket; `None` when that was the last.
    ///
    /// # Errors
    /// `Unavailable` where a bucket alone takes more memory than allowed.
    pub fn compare_next(&mut self) -> Result<Option<()>> {
        let (Some(expected), Some(found)) = (self.expected.pop(), self.found.pop()) else {
            return Ok(None);
        };
        let size = expected.size_bytes() + found.size_bytes();
        if self.comparison.spilled && size > self.memory_bytes as u64 {
            return Err(Error::Unavailable(format!(
                "too many rows are alike to compare them in {} bytes of memory; raise `memory` in `[batch]`, or compare a part with `--sample`",
                self.memory_bytes
            )));
        }
        let (expected, found) = (expected.read()?, found.read()?);
        // Each has its terms behind all of them.
        let floats = 2 * self.float.len();
        let found: Vec<Stored> = bucket::rows(&found, floats).collect();
        let mut open: HashMap<&[u8], Vec<usize>> = HashMap::with_capacity(found.len());
        for (i, row) in found.iter().enumerate() {
            open.entry(row.exact).or_default().push(i);
        }
        for row in bucket::rows(&expected, floats) {
            let matching = |&j: &usize| {
                let terms = row.floats().skip(self.float.len());
                let pairs = row.floats().zip(found[j].floats());
                let mut pairs = pairs.zip(terms);
                pairs.all(|((a, b), terms)| close(a, b, self.tolerance.of(terms)))
            };
            let hit = open
                .get_mut(row.exact)
                .and_then(|c| Some((c.iter().position(matching)?, c)));
            match hit {
                Some((at, candidates)) => {
                    candidates.swap_remove(at);
                }
                None => self.differ(Side::Expected, &row)?,
            }
        }
        for i in open.into_values().flatten() {
            self.differ(Side::Found, &found[i])?;
        }
        Ok(Some(()))
    }

    /// The comparison of all rows.
    ///
    /// # Errors
    /// As [`Comparer::compare_next`].
    pub fn finish(mut self) -> Result<Comparison> {
        while self.compare_next()?.is_some() {}
        let keys = self.keys.unwrap_or_default();
        let mut comparison = self.comparison;
        let differing = comparison.differing.iter();
        let texts = differing.map(|d| d.text(&comparison.columns, &keys));
        comparison.examples = texts.collect();
        Ok(comparison)
    }

    fn differ(&mut self, side: Side, row: &Stored) -> Result<()> {
        let is_new = match &self.keys {
            None => true,
            // The other side's row of the key was met, or so many that they are counted apart.
            Some(keys) if self.differing.len() < KEYS_REMEMBERED => {
                let cells = self.shown(row)?;
                let key: Vec<String> = keys.iter().map(|at| cells[*at].clone()).collect();
                match self.differing.get(&key) {
                    Some(example) => {
                        if let Some(example) = *example {
                            self.comparison.differing[example].set(side, cells);
                        }
                        return Ok(());
                    }
                    None => {
                        let at = self.comparison.differing.len();
                        self.differing.insert(key, (at < EXAMPLES).then_some(at));
                        true
                    }
                }
            }
            Some(_) => side == Side::Expected,
        };
        self.comparison.differences += usize::from(is_new);
        if is_new && self.comparison.differing.len() < EXAMPLES {
            let mut difference = Difference::default();
            difference.set(side, self.shown(row)?);
            self.comparison.differing.push(difference);
        }
        Ok(())
    }

    /// A row's values, for people.
    fn shown(&self, row: &Stored) -> Result<Vec<String>> {
        let mut columns: Vec<Option<ArrayRef>> = vec![None; self.schema.fields().len()];
        if !self.exact.is_empty() {
            let parser = self.converter.parser();
            let exact = self.converter.convert_rows([parser.parse(row.exact)])?;
            for (&i, column) in self.exact.iter().zip(exact) {
                columns[i] = Some(column);
            }
        }
        for (&i, value) in self.float.iter().zip(row.floats()) {
            columns[i] = Some(std::sync::Arc::new(Float64Array::from(vec![value])));
        }
        let options = FormatOptions::default().with_null("NULL");
        columns
            .iter()
            .flatten()
            .map(|c| Ok(ArrayFormatter::try_new(c, &options)?.value(0).to_string()))
            .collect()
    }
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

/// Compares an answer with what it should be, in memory.
pub fn compare(
    schema: &SchemaRef,
    expected: &[RecordBatch],
    found: &[RecordBatch],
    tolerance: Tolerance,
) -> Result<Comparison> {
    let mut comparer = Comparer::new(schema, tolerance, usize::MAX)?;
    for batch in expected {
        comparer.push(Side::Expected, batch)?;
    }
    for batch in found {
        comparer.push(Side::Found, batch)?;
    }
    comparer.finish()
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

    /// Terms that cancel out leave an error that is large beside their sum.
    #[test]
    fn sums_are_compared_by_the_size_of_their_terms() {
        let expected = |terms: f64| {
            let (schema, sums) = batch(&[(1, Some(0.25)), (2, Some(1e16))]);
            let mut columns = sums.columns().to_vec();
            columns.push(Arc::new(Float64Array::from(vec![terms, 1e16])));
            let mut fields = schema.fields().to_vec();
            fields.push(Arc::new(Field::new("terms", DataType::Float64, true)));
            RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
        };
        let (schema, found) = batch(&[(1, Some(0.125)), (2, Some(1e16))]);
        let differences = |terms: f64| {
            let comparer = Comparer::new(&schema, Tolerance::default(), usize::MAX).unwrap();
            let mut comparer = comparer.with_terms(&[None, Some(2)]);
            comparer.push(Side::Expected, &expected(terms)).unwrap();
            comparer.push(Side::Found, &found).unwrap();
            comparer.finish().unwrap().differences
        };
        assert_eq!((differences(2e9), differences(1e3)), (0, 2));
    }

    /// Also where the two rows of a key lie in different buckets, and where one side has more keys.
    #[test]
    fn a_row_with_other_values_is_one_difference() {
        let schema = Arc::new(Schema::new(vec![
            Field::new("k", DataType::Int64, true),
            Field::new("n", DataType::Int64, true),
            Field::new("v", DataType::Float64, true),
        ]));
        let batch = |rows: &[(i64, i64, f64)]| {
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.0))),
                Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1))),
                Arc::new(Float64Array::from_iter_values(rows.iter().map(|r| r.2))),
            ];
            RecordBatch::try_new(schema.clone(), columns).unwrap()
        };
        let comparer = Comparer::new(&schema, Tolerance::default(), usize::MAX).unwrap();
        let mut comparer = comparer.with_keys(Some(vec![0]));
        let expected = [(1, 10, 0.5), (2, 20, 0.5), (3, 30, 0.5), (4, 40, 0.5)];
        let found = [(1, 11, 0.5), (2, 20, 0.75), (3, 30, 0.5), (5, 50, 0.5)];
        comparer.push(Side::Expected, &batch(&expected)).unwrap();
        comparer.push(Side::Found, &batch(&found)).unwrap();
        let comparison = comparer.finish().unwrap();
        assert_eq!(comparison.differences, 4);
        let mut examples = comparison.examples.clone();
        examples.sort();
        assert_eq!(
            examples,
            [
                "k = 1: n is 11, should be 10",
                "k = 2: v is 0.75, should be 0.5",
                "missing: k = 4, n = 40, v = 0.5",
                "not expected: k = 5, n = 50, v = 0.5",
            ]
        );
        let row = |row: [&str; 3]| Some(row.map(str::to_owned).to_vec());
        assert!(comparison.differing.contains(&Difference {
            expected: row(["1", "10", "0.5"]),
            found: row(["1", "11", "0.5"]),
        }));
    }

    #[test]
    fn multiplicity_and_values_count() {
        assert_eq!(differences(&[(1, None), (1, None)], &[(1, None)]), 1);
        assert_eq!(differences(&[(1, Some(1.0))], &[(1, Some(1.001))]), 2);
        assert_eq!(differences(&[(1, Some(0.0))], &[(1, None)]), 2);
    }

    /// The same rows with a bound so small that they go to files batch by batch.
    #[test]
    fn rows_in_files_compare_as_rows_in_memory() {
        let rows: Vec<(i64, Option<f64>)> = (0..5_000)
            .map(|i| (i % 1_000, Some(f64::from(i as i32))))
            .collect();
        let mut others = rows.clone();
        others.reverse();
        others[7].1 = None;
        others.push((3, Some(0.5)));
        let (schema, a) = batch(&rows);
        let (_, b) = batch(&others);
        let run = |memory_bytes| {
            let mut comparer = Comparer::new(&schema, Tolerance::default(), memory_bytes).unwrap();
            for at in (0..a.num_rows()).step_by(500) {
                comparer.push(Side::Expected, &a.slice(at, 500)).unwrap();
                comparer.push(Side::Found, &b.slice(at, 500)).unwrap();
            }
            comparer.push(Side::Found, &b.slice(5_000, 1)).unwrap();
            comparer.finish()
        };
        let (spilled, held) = (run(20_000).unwrap(), run(usize::MAX).unwrap());
        assert!(spilled.spilled && !held.spilled);
        for comparison in [&spilled, &held] {
            assert_eq!((comparison.rows, comparison.differences), (5_000, 3));
            let shown = &comparison.examples;
            assert!(
                shown.contains(&"not expected: k = 3, v = 0.5".to_owned()),
                "{shown:?}"
            );
        }
        let refused = run(100).unwrap_err().to_string();
        assert!(refused.contains("`--sample`"), "{refused}");
    }
}
