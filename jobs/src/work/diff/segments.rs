//! Which values of a key explain a difference: those that are over-represented among the rows that
//! differ.

use std::collections::HashMap;

use anabranch_shared::Result;
use arrow::array::{Array, ArrayRef};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde::Serialize;

/// Values of one key that are counted; a key with more explains nothing.
const MOST_VALUES: usize = 50_000;

/// A segment is told whose rows differ so much more often than all do.
const LEAST_LIFT: f64 = 1.5;

/// The least part of all rows that differ which a segment has: a few rows among hundreds explain nothing.
const LEAST_SHARE: f64 = 0.02;

/// How many are told.
const TOLD: usize = 8;

/// Rows that have one value of a key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Segment {
    /// The key; of a time its day.
    pub key: String,
    /// The value.
    pub value: String,
    /// How many of its rows differ.
    pub differing: u64,
    /// How many it has.
    pub rows: u64,
    /// Its part of all rows that differ.
    pub share: f64,
    /// How much more often its rows differ than all do.
    pub lift: f64,
}

/// The counts of one key: by value how many rows differ, and how many there are.
#[derive(Debug)]
struct Values {
    key: String,
    counts: Option<HashMap<String, [u64; 2]>>,
}

/// The counts of all keys.
#[derive(Debug)]
pub(super) struct Segments(Vec<Values>);

impl Segments {
    pub(super) fn new(keys: &[String]) -> Self {
        let of = |key: &String| Values {
            key: key.clone(),
            counts: Some(HashMap::new()),
        };
        Self(keys.iter().map(of).collect())
    }

    /// Counts rows whose keys are given.
    pub(super) fn note(
        &mut self,
        keys: &[ArrayRef],
        rows: impl Iterator<Item = u32> + Clone,
        differ: bool,
    ) -> Result<()> {
        let options = FormatOptions::default().with_null("NULL");
        for (values, column) in self.0.iter_mut().zip(keys) {
            let Some(counts) = &mut values.counts else {
                continue;
            };
            let column = match column.data_type() {
                DataType::Timestamp(..) => cast(column, &DataType::Date32)?,
                _ => column.clone(),
            };
            let formatter = ArrayFormatter::try_new(&column, &options)?;
            for row in rows.clone() {
                let text = match column.is_valid(row as usize) {
                    true => formatter.value(row as usize).try_to_string()?,
                    false => "NULL".to_owned(),
                };
                let count = counts.entry(text).or_default();
                count[0] += u64::from(differ);
                count[1] += 1;
            }
            if counts.len() > MOST_VALUES {
                values.counts = None;
            }
        }
        Ok(())
    }

    /// The segments that explain `differing` of `all` rows, those with most of them first.
    pub(super) fn explain(&self, differing: u64, all: u64) -> Vec<Segment> {
        if differing == 0 || all == 0 {
            return Vec::new();
        }
        let usual = differing as f64 / all as f64;
        let mut found = Vec::new();
        for values in &self.0 {
            for (value, [of_it, rows]) in values.counts.iter().flatten() {
                let lift = *of_it as f64 / *rows as f64 / usual;
                let share = *of_it as f64 / differing as f64;
                if lift < LEAST_LIFT || share < LEAST_SHARE {
                    continue;
                }
                found.push(Segment {
                    key: values.key.clone(),
                    value: value.clone(),
                    differing: *of_it,
                    rows: *rows,
                    share,
                    lift,
                });
            }
        }
        found.sort_by(|a, b| {
            let by_rows = b.differing.cmp(&a.differing);
            by_rows
                .then(b.lift.total_cmp(&a.lift))
                .then_with(|| (&a.key, &a.value).cmp(&(&b.key, &b.value)))
        });
        found.truncate(TOLD);
        found
    }
}
