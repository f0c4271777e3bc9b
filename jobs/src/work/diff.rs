//! Compares two answers row by row: by their keys where they have any, which are the grain. Tells which
//! rows only one has, in which columns the others differ, by how much totals change, and which values of
//! the keys are over-represented among the rows that differ.
//!
//! Rows are dealt into buckets by their keys; beyond the bound of memory buckets go to temporary files,
//! and one at a time is compared.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anabranch_shared::view::{Exactness, Role, View, compact};
use anabranch_shared::{Error, Result, counted};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch, UInt32Array,
};
use arrow::compute::{cast, concat_batches, take, take_record_batch};
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde::Serialize;

use self::bucket::Bucket;
pub use self::rows::RowsFile;
pub use self::segments::Segment;
use self::segments::Segments;
use crate::output::human_count;

mod bucket;
mod rows;
mod segments;

/// How many buckets there are.
const BUCKETS: usize = 64;

/// How many rows of a kind are shown.
const SAMPLES: usize = 5;

/// Floating point values differ that are further apart than this, relative to the larger of them.
const RELATIVE: f64 = 1e-9;

/// Values of a digest differ that are further apart than this, relative to the larger of them: its
/// value depends, within its error, on the order in which states were merged.
const OF_DIGEST: f64 = 0.01;

/// Which of two answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that is compared with: as it was.
    A,
    /// The one that is compared: as it would be.
    B,
}

/// What a column came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ColumnDiff {
    /// Its name.
    pub name: String,
    /// Rows of both in which it differs.
    pub changed: u64,
    /// Its total over all rows of A, where it has one.
    pub total_a: Option<f64>,
    /// Its total over all rows of B, where it has one.
    pub total_b: Option<f64>,
    /// How it was compared, where not by equality.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared: Option<&'static str>,
}

impl ColumnDiff {
    /// By how much the total changed, as a share of A's.
    pub fn total_changed(&self) -> Option<f64> {
        let (a, b) = (self.total_a?, self.total_b?);
        match (a, b) {
            (0.0, 0.0) => Some(0.0),
            (0.0, _) => None,
            _ => Some((b - a) / a.abs()),
        }
    }
}

/// A value that changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The row, as the values of its keys.
    pub key: Vec<String>,
    /// The column.
    pub column: String,
    /// Its value in A.
    pub a: String,
    /// Its value in B.
    pub b: String,
    /// By how much it changed, where it is a number.
    pub by: Option<f64>,
}

/// What two answers differ in.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Diff {
    /// The columns that tell rows apart; none where rows are compared as a whole.
    pub keys: Vec<String>,
    /// Rows of A.
    pub rows_a: u64,
    /// Rows of B.
    pub rows_b: u64,
    /// Rows that B lacks.
    pub only_a: u64,
    /// Rows that A lacks.
    pub only_b: u64,
    /// Rows of both that differ in some column.
    pub changed: u64,
    /// Columns of both but for the keys.
    pub columns: Vec<ColumnDiff>,
    /// Columns that B lacks.
    pub columns_only_a: Vec<String>,
    /// Columns that A lacks.
    pub columns_only_b: Vec<String>,
    /// The largest changes of numbers.
    pub largest: Vec<Change>,
    /// Values of keys that are over-represented among the rows that differ.
    pub segments: Vec<Segment>,
    /// Some rows that B lacks.
    pub samples_only_a: Vec<Vec<String>>,
    /// Some rows that A lacks.
    pub samples_only_b: Vec<Vec<String>>,
    /// Some values that changed.
    pub samples_changed: Vec<Change>,
    /// Whether rows went to temporary files because they took more memory than allowed.
    pub spilled: bool,
}

impl Diff {
    /// Whether both answers are the same in what both have.
    pub fn is_equal(&self) -> bool {
        self.only_a == 0 && self.only_b == 0 && self.changed == 0
    }

    /// Rows of both.
    pub fn rows_of_both(&self) -> u64 {
        self.rows_a - self.only_a
    }

    /// It in a few words.
    pub fn summary(&self) -> String {
        if self.is_equal() {
            return format!("{}, none differs", counted(self.rows_b, "row", "rows"));
        }
        format!(
            "{} before, {} after: {} changed, {} lost, {} new",
            counted(self.rows_a, "row", "rows"),
            human_count(self.rows_b),
            human_count(self.changed),
            human_count(self.only_a),
            human_count(self.only_b)
        )
    }
}

/// How a column is compared.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Closeness {
    /// By equality.
    Equal,
    /// As floating point, within this share of the larger value.
    Within(f64),
}

/// A column of both answers.
#[derive(Debug)]
struct Compared {
    name: String,
    /// Its places in A and B.
    at: [usize; 2],
    closeness: Closeness,
    is_number: bool,
}

/// Takes the rows of two answers, in any order, and compares them.
#[derive(Debug)]
pub struct Differ {
    /// The keys' places in A and B.
    keys: Vec<[usize; 2]>,
    compared: Vec<Compared>,
    schemas: [SchemaRef; 2],
    converter: RowConverter,
    buckets: [Vec<Bucket>; 2],
    memory_bytes: usize,
    held: usize,
    segments: Segments,
    /// Takes the rows that differ.
    rows: Option<Arc<RowsFile>>,
    diff: Diff,
}

/// The names of the columns of a view's answer that tell its rows apart; none where they don't.
pub fn keys_of(view: &View) -> Vec<String> {
    let schema = view.schema();
    let named = view.roles().into_iter().zip(schema.fields());
    let keys = named.filter(|(role, _)| *role == Role::Key);
    let keys: Vec<String> = keys.map(|(_, field)| field.name().clone()).collect();
    match keys.len() == view.key_count() && view.aggregate().is_some() {
        true => keys,
        false => Vec::new(),
    }
}

/// The names of columns whose values are within the error of a digest.
fn digests(view: &View) -> Vec<String> {
    let schema = view.schema();
    let named = view.roles().into_iter().zip(schema.fields());
    let is_digest = |role: &Role| {
        matches!(role, Role::Aggregate { exactness: Exactness::Approximate, function, .. }
            if function != "approx_distinct")
    };
    let all = named.filter(|(role, _)| is_digest(role));
    all.map(|(_, field)| field.name().clone()).collect()
}

impl Differ {
    /// A differ of the answers of two views. Beyond `memory_bytes` rows go to temporary files.
    ///
    /// # Errors
    /// For a type whose values can't be compared.
    pub fn new(
        a: (&View, &SchemaRef),
        b: (&View, &SchemaRef),
        keys: &[String],
        memory_bytes: usize,
    ) -> Result<Self> {
        let ((view_a, schema_a), (view_b, schema_b)) = (a, b);
        let digests: Vec<String> = digests(view_a).into_iter().chain(digests(view_b)).collect();
        let place = |name: &String| {
            let places = (schema_a.index_of(name), schema_b.index_of(name));
            match places {
                (Ok(a), Ok(b)) => Ok([a, b]),
                _ => Err(Error::Internal(format!("no key `{name}` in both answers"))),
            }
        };
        let keys_at: Vec<[usize; 2]> = keys.iter().map(place).collect::<Result<_>>()?;
        let mut compared = Vec::new();
        for (at, field) in schema_a.fields().iter().enumerate() {
            let name = field.name();
            let Ok(other) = schema_b.index_of(name) else {
                continue;
            };
            if keys.contains(name) {
                continue;
            }
            let types = [field.data_type(), schema_b.field(other).data_type()];
            let closeness = if digests.contains(name) {
                Closeness::Within(OF_DIGEST)
            } else if types.iter().any(|t| t.is_floating()) && types.iter().all(|t| t.is_numeric())
            {
                Closeness::Within(RELATIVE)
            } else {
                Closeness::Equal
            };
            compared.push(Compared {
                name: name.clone(),
                at: [at, other],
                closeness,
                is_number: types.iter().all(|t| t.is_numeric()),
            });
        }
        let lacking = |of: &SchemaRef, other: &SchemaRef| {
            let fields = of.fields().iter().map(|f| f.name());
            let lacking = fields.filter(|name| other.index_of(name).is_err());
            lacking.cloned().collect::<Vec<_>>()
        };
        // Without keys a row is told apart by all that both have.
        let keys_at = match keys.is_empty() && view_a.aggregate().is_none() {
            true => compared.iter().map(|c| c.at).collect(),
            false => keys_at,
        };
        let sort = keys_at
            .iter()
            .map(|[a, _]| SortField::new(schema_a.field(*a).data_type().clone()));
        let columns = compared.iter().map(|c| ColumnDiff {
            name: c.name.clone(),
            compared: match c.closeness {
                Closeness::Equal => None,
                Closeness::Within(RELATIVE) => Some("within 1e-9"),
                Closeness::Within(_) => Some("within 1%"),
            },
            ..ColumnDiff::default()
        });
        let diff = Diff {
            keys: keys.to_vec(),
            columns: columns.collect(),
            columns_only_a: lacking(schema_a, schema_b),
            columns_only_b: lacking(schema_b, schema_a),
            ..Diff::default()
        };
        let buckets = || (0..BUCKETS).map(|_| Bucket::default()).collect();
        Ok(Self {
            converter: RowConverter::new(sort.collect())?,
            segments: Segments::new(keys),
            keys: keys_at,
            compared,
            schemas: [schema_a.clone(), schema_b.clone()],
            buckets: [buckets(), buckets()],
            memory_bytes,
            held: 0,
            rows: None,
            diff,
        })
    }

    /// The same, which writes all rows that differ to a file.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn with_rows(mut self, rows: Option<Arc<RowsFile>>) -> Result<Self> {
        let nothing = [0, 1].map(|side: usize| RecordBatch::new_empty(self.schemas[side].clone()));
        if let Some(file) = &rows {
            let [a, b] = &nothing;
            file.write(&self.differing_rows(a, b, &Matched::default(), &[])?)?;
        }
        self.rows = rows;
        Ok(self)
    }

    /// Adds rows to one side.
    ///
    /// # Errors
    /// `Unavailable` where a temporary file can't be written.
    pub fn push(&mut self, side: Side, batch: &RecordBatch) -> Result<()> {
        let rows = batch.num_rows();
        match side {
            Side::A => self.diff.rows_a += rows as u64,
            Side::B => self.diff.rows_b += rows as u64,
        }
        let keys = self.key_rows(side, batch)?;
        let mut places: Vec<Vec<u32>> = vec![Vec::new(); BUCKETS];
        for at in 0..rows {
            let bytes = keys.as_ref().map_or(&[][..], |k| k.row(at).data());
            let place = bucket::number(bytes, BUCKETS);
            places[place].push(u32::try_from(at).unwrap_or(u32::MAX));
        }
        for (bucket, places) in self.buckets[side as usize].iter_mut().zip(places) {
            if !places.is_empty() {
                let rows = take_record_batch(batch, &UInt32Array::from(places))?;
                // Rows that are taken share the texts of all others, and would be written with them.
                self.held += bucket.push(compact(rows)?);
            }
        }
        if self.held > self.memory_bytes {
            self.diff.spilled = true;
            for bucket in self.buckets.iter_mut().flatten() {
                bucket.spill()?;
            }
            self.held = 0;
        }
        Ok(())
    }

    /// The keys of rows, as bytes that are equal where the keys are; none where there are no keys.
    fn key_rows(&mut self, side: Side, batch: &RecordBatch) -> Result<Option<Rows>> {
        if self.keys.is_empty() {
            return Ok(None);
        }
        let columns = self.keys.iter().map(|at| {
            let column = batch.column(at[side as usize]);
            // Both sides as A has them.
            Ok(cast(column, self.schemas[0].field(at[0]).data_type())?)
        });
        let columns: Vec<ArrayRef> = columns.collect::<Result<_>>()?;
        Ok(Some(self.converter.convert_columns(&columns)?))
    }

    /// Compares one more bucket; `None` when that was the last.
    ///
    /// # Errors
    /// `Unavailable` where a bucket alone takes more memory than allowed.
    pub fn compare_next(&mut self) -> Result<Option<()>> {
        let (Some(a), Some(b)) = (self.buckets[0].pop(), self.buckets[1].pop()) else {
            return Ok(None);
        };
        if self.diff.spilled && a.size_bytes() + b.size_bytes() > self.memory_bytes {
            return Err(Error::Unavailable(format!(
                "too many rows are alike to compare them in {} bytes of memory; raise `memory` in `[build]`, or compare a part with `--where`",
                self.memory_bytes
            )));
        }
        let a = concat_batches(&self.schemas[0], &a.read(&self.schemas[0])?)?;
        let b = concat_batches(&self.schemas[1], &b.read(&self.schemas[1])?)?;
        let matched = self.matched(&a, &b)?;
        self.note_only(Side::A, &a, &matched.only_a)?;
        self.note_only(Side::B, &b, &matched.only_b)?;
        let changed = self.note_both(&a, &b, &matched)?;
        if let Some(file) = &self.rows {
            let rows = self.differing_rows(&a, &b, &matched, &changed)?;
            if rows.num_rows() > 0 {
                file.write(&rows)?;
            }
        }
        self.totals(Side::A, &a)?;
        self.totals(Side::B, &b)?;
        Ok(Some(()))
    }

    /// The difference of all rows.
    ///
    /// # Errors
    /// As [`Differ::compare_next`].
    pub fn finish(mut self) -> Result<Diff> {
        while self.compare_next()?.is_some() {}
        let differing = self.diff.changed + self.diff.only_a + self.diff.only_b;
        let all = self.diff.rows_a + self.diff.only_b;
        self.diff.segments = self.segments.explain(differing, all);
        let size = |c: &Change| c.by.unwrap_or(0.0).abs();
        self.diff
            .largest
            .sort_by(|x, y| size(y).total_cmp(&size(x)));
        self.diff.largest.truncate(SAMPLES);
        Ok(self.diff)
    }

    fn matched(&mut self, a: &RecordBatch, b: &RecordBatch) -> Result<Matched> {
        let (keys_a, keys_b) = (self.key_rows(Side::A, a)?, self.key_rows(Side::B, b)?);
        let bytes = |keys: &'_ Option<Rows>, at: usize| -> Vec<u8> {
            keys.as_ref()
                .map_or(Vec::new(), |k| k.row(at).data().to_vec())
        };
        // Of rows that are alike as many match as both have.
        let mut open: HashMap<Vec<u8>, Vec<u32>> = HashMap::with_capacity(a.num_rows());
        for at in (0..a.num_rows()).rev() {
            let place = u32::try_from(at).unwrap_or(u32::MAX);
            open.entry(bytes(&keys_a, at)).or_default().push(place);
        }
        let mut matched = Matched::default();
        for at in 0..b.num_rows() {
            let place = u32::try_from(at).unwrap_or(u32::MAX);
            match open.get_mut(&bytes(&keys_b, at)).and_then(Vec::pop) {
                Some(of_a) => matched.both.push([of_a, place]),
                None => matched.only_b.push(place),
            }
        }
        matched.only_a = open.into_values().flatten().collect();
        matched.only_a.sort_unstable();
        Ok(matched)
    }

    fn note_only(&mut self, side: Side, rows: &RecordBatch, places: &[u32]) -> Result<()> {
        let (count, samples) = match side {
            Side::A => (&mut self.diff.only_a, &mut self.diff.samples_only_a),
            Side::B => (&mut self.diff.only_b, &mut self.diff.samples_only_b),
        };
        *count += places.len() as u64;
        for place in places.iter().take(SAMPLES.saturating_sub(samples.len())) {
            let cells = rows.columns().iter().map(|c| shown(c, *place as usize));
            samples.push(cells.collect::<Result<_>>()?);
        }
        let keys = self.key_columns(side, rows);
        self.segments.note(&keys, places.iter().copied(), true)
    }

    fn key_columns(&self, side: Side, rows: &RecordBatch) -> Vec<ArrayRef> {
        let named = self.diff.keys.len();
        let keys = self.keys.iter().take(named);
        keys.map(|at| rows.column(at[side as usize]).clone())
            .collect()
    }

    /// Notes the differences of rows that both have. Returns which of them differ.
    fn note_both(
        &mut self,
        a: &RecordBatch,
        b: &RecordBatch,
        matched: &Matched,
    ) -> Result<Vec<bool>> {
        let places = |side: Side| -> UInt32Array {
            matched
                .both
                .iter()
                .map(|pair| pair[side as usize])
                .collect::<Vec<_>>()
                .into()
        };
        let (of_a, of_b) = (places(Side::A), places(Side::B));
        let mut changed = vec![false; matched.both.len()];
        let compared = std::mem::take(&mut self.compared);
        for (nth, column) in compared.iter().enumerate() {
            let one = take(a.column(column.at[0]), &of_a, None)?;
            let other = take(b.column(column.at[1]), &of_b, None)?;
            let differs = differs(&one, &other, column.closeness)?;
            let numbers = column
                .is_number
                .then(|| Ok::<_, Error>([number(&one)?, number(&other)?]));
            let numbers = numbers.transpose()?;
            let place = |row: usize| of_a.value(row) as usize;
            for row in (0..differs.len()).filter(|row| differs.value(*row)) {
                changed[row] = true;
                self.diff.columns[nth].changed += 1;
                let by = numbers.as_ref().map(|[x, y]| value(y, row) - value(x, row));
                let is_large = by.is_some_and(|by| self.is_large(by));
                let wants = self.diff.samples_changed.len() < SAMPLES;
                if !is_large && !wants {
                    continue;
                }
                let key = self
                    .keys
                    .iter()
                    .map(|at| shown(a.column(at[0]), place(row)));
                let change = Change {
                    key: key.collect::<Result<_>>()?,
                    column: column.name.clone(),
                    a: shown(&one, row)?,
                    b: shown(&other, row)?,
                    by,
                };
                if is_large {
                    self.diff.largest.push(change.clone());
                    self.keep_largest();
                }
                if wants {
                    self.diff.samples_changed.push(change);
                }
            }
        }
        self.compared = compared;
        let keys = self.key_columns(Side::A, a);
        for of in [true, false] {
            let rows = changed.iter().zip(of_a.values().iter());
            let rows = rows
                .filter(|(changed, _)| **changed == of)
                .map(|(_, place)| *place);
            self.segments.note(&keys, rows, of)?;
        }
        self.diff.changed += changed.iter().filter(|c| **c).count() as u64;
        Ok(changed)
    }

    fn is_large(&self, by: f64) -> bool {
        let least = self
            .diff
            .largest
            .iter()
            .filter_map(|c| c.by)
            .map(f64::abs)
            .reduce(f64::min);
        self.diff.largest.len() < SAMPLES || least.is_none_or(|least| by.abs() > least)
    }

    fn keep_largest(&mut self) {
        if self.diff.largest.len() > SAMPLES {
            let size = |c: &Change| c.by.unwrap_or(0.0).abs();
            let all = self.diff.largest.iter().enumerate();
            let least = all.min_by(|(_, x), (_, y)| size(x).total_cmp(&size(y)));
            if let Some((at, _)) = least {
                self.diff.largest.swap_remove(at);
            }
        }
    }

    fn totals(&mut self, side: Side, rows: &RecordBatch) -> Result<()> {
        for (nth, column) in self
            .compared
            .iter()
            .enumerate()
            .filter(|(_, c)| c.is_number)
        {
            let values = number(rows.column(column.at[side as usize]))?;
            let sum: f64 = values.iter().flatten().sum();
            let of = &mut self.diff.columns[nth];
            let total = match side {
                Side::A => &mut of.total_a,
                Side::B => &mut of.total_b,
            };
            *total = Some(total.unwrap_or(0.0) + sum);
        }
        Ok(())
    }
}

/// Which rows of a bucket are those of which.
#[derive(Debug, Default)]
struct Matched {
    both: Vec<[u32; 2]>,
    only_a: Vec<u32>,
    only_b: Vec<u32>,
}

fn number(column: &ArrayRef) -> Result<Float64Array> {
    Ok(cast(column, &DataType::Float64)?
        .as_primitive::<Float64Type>()
        .clone())
}

fn value(numbers: &Float64Array, at: usize) -> f64 {
    match numbers.is_valid(at) {
        true => numbers.value(at),
        false => 0.0,
    }
}

/// In which rows two columns differ.
fn differs(a: &ArrayRef, b: &ArrayRef, closeness: Closeness) -> Result<BooleanArray> {
    if let Closeness::Within(share) = closeness {
        let (a, b) = (number(a)?, number(b)?);
        let rows = a.iter().zip(b.iter());
        return Ok(rows.map(|(a, b)| Some(!is_close(a, b, share))).collect());
    }
    let b = match a.data_type() == b.data_type() {
        true => b.clone(),
        // A narrower or a wider type of the same value is the same value.
        false => match cast(b, a.data_type()) {
            Ok(b) => b,
            Err(_) => return Ok(BooleanArray::from(vec![true; a.len()])),
        },
    };
    let fields = vec![SortField::new(a.data_type().clone())];
    let converter = RowConverter::new(fields)?;
    let (a, b) = (
        converter.convert_columns(std::slice::from_ref(a))?,
        converter.convert_columns(&[b])?,
    );
    Ok((0..a.num_rows())
        .map(|at| Some(a.row(at) != b.row(at)))
        .collect())
}

fn is_close(a: Option<f64>, b: Option<f64>, share: f64) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => {
            let same = a == b || (a.is_nan() && b.is_nan());
            same || (a - b).abs() <= share * a.abs().max(b.abs())
        }
        (None, None) => true,
        _ => false,
    }
}

/// A value, for people.
fn shown(column: &ArrayRef, at: usize) -> Result<String> {
    let options = FormatOptions::default().with_null("NULL");
    let formatter = ArrayFormatter::try_new(column, &options)?;
    Ok(formatter.value(at).try_to_string()?)
}

/// By the names of columns what their totals came to.
pub fn by_name(diff: &Diff) -> BTreeMap<&str, &ColumnDiff> {
    diff.columns.iter().map(|c| (c.name.as_str(), c)).collect()
}

#[cfg(test)]
mod tests;
