//! States at rest: how a row of states is stored in a Delta table, and read back exactly.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};

use crate::fit::{fit, with_one_zero};
use crate::table::storage_type;
use crate::{Error, Result};

/// Stores rows of states and reads them back.
#[derive(Clone, Debug)]
pub struct StateCodec {
    state_schema: SchemaRef,
    storage_schema: SchemaRef,
    keys: usize,
    /// Columns that are sets of numbers of floating point: version 0.1.0 put zeroes of both signs
    /// into them.
    sets: Vec<usize>,
}

impl StateCodec {
    /// The codec of a state schema whose first `keys` columns are keys.
    ///
    /// # Errors
    /// `Invalid` where a column's type can't be stored.
    pub(super) fn new(state_schema: SchemaRef, keys: usize, sets: Vec<usize>) -> Result<Self> {
        let fields = state_schema
            .fields()
            .iter()
            .map(|f| Ok(Field::new(f.name(), storage_type(f.data_type())?, true)))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            storage_schema: Arc::new(Schema::new(fields)),
            state_schema,
            keys,
            sets,
        })
    }

    /// The schema of states in memory.
    pub fn state_schema(&self) -> &SchemaRef {
        &self.state_schema
    }

    /// The schema of states at rest.
    pub fn storage_schema(&self) -> &SchemaRef {
        &self.storage_schema
    }

    /// How many of the first columns are keys.
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// States as they are stored.
    pub fn encode(&self, states: &RecordBatch) -> Result<RecordBatch> {
        convert(states, &self.storage_schema)
    }

    /// States as they were before [`StateCodec::encode`].
    pub fn decode(&self, stored: &RecordBatch) -> Result<RecordBatch> {
        let states = convert(stored, &self.state_schema)?;
        if self.sets.is_empty() {
            return Ok(states);
        }
        let mut columns = states.columns().to_vec();
        for &set in &self.sets {
            columns[set] = with_one_zero(&columns[set])?;
        }
        Ok(RecordBatch::try_new(states.schema(), columns)?)
    }

    /// Whether a column is a set in which zero may have two signs at rest.
    pub(crate) fn is_set(&self, column: usize) -> bool {
        self.sets.contains(&column)
    }
}

/// A batch in the columns of another schema, place by place.
pub(crate) fn convert(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(c, f)| fit(c, f.data_type()))
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        schema.clone(),
        columns,
        &options,
    )?)
}

/// Rows of a batch of [`SortedStates`].
const SORTED_ROWS: usize = 16_384;

/// Rows of states in the order of their first columns, the keys. Given in batches, so that no
/// sorted copy of all of them lies beside them in memory.
#[derive(Debug)]
pub struct SortedStates {
    states: RecordBatch,
    /// `None` where they are sorted already.
    order: Option<UInt32Array>,
    given: usize,
}

impl SortedStates {
    /// Sorts states by their first `keys` columns.
    ///
    /// # Errors
    /// `Invalid` for more rows than 32 bits number, and for keys that have no order.
    pub fn new(states: RecordBatch, keys: usize) -> Result<Self> {
        let order = match states.num_rows() < 2 || keys == 0 {
            true => None,
            false => Some(order_by_keys(&states, keys)?),
        };
        Ok(Self {
            states,
            order,
            given: 0,
        })
    }
}

impl Iterator for SortedStates {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let left = self.states.num_rows() - self.given;
        if left == 0 {
            return None;
        }
        let rows = left.min(SORTED_ROWS);
        let batch = match &self.order {
            None => Ok(self.states.slice(self.given, rows)),
            Some(order) => {
                take_record_batch(&self.states, &order.slice(self.given, rows)).map_err(Into::into)
            }
        };
        self.given += rows;
        Some(batch)
    }
}

fn order_by_keys(states: &RecordBatch, keys: usize) -> Result<UInt32Array> {
    let rows = u32::try_from(states.num_rows()).map_err(|_| {
        Error::Invalid("too many states for one file; lower `memory` in `[batch]`".into())
    })?;
    let schema = states.schema();
    let fields = schema.fields().iter().take(keys);
    let fields = fields.map(|f| SortField::new(f.data_type().clone()));
    let converter = RowConverter::new(fields.collect())?;
    let values = converter.convert_columns(&states.columns()[..keys])?;
    let mut order: Vec<(u128, u32)> = (0..rows).map(|row| (0, row)).collect();
    sort_from(&values, &mut order, 0);
    Ok(order.into_iter().map(|(_, row)| row).collect())
}

/// Bytes of a row that are compared as one number.
const NUMBER_BYTES: usize = size_of::<u128>();

/// Rows that are equal up to here are compared as they are.
const NUMBERED_BYTES: usize = 8 * NUMBER_BYTES;

/// Sorts rows that are equal up to the byte `start`: by the next bytes as one number, then those
/// that are equal in these too by the bytes after them. Comparing whole rows would fetch two of them
/// from memory each time, which took a seventh of a rebuild.
fn sort_from(values: &Rows, order: &mut [(u128, u32)], start: usize) {
    let row = |row: u32| values.row(row as usize);
    if start == NUMBERED_BYTES {
        return order.sort_unstable_by(|&(_, a), &(_, b)| row(a).cmp(&row(b)));
    }
    let mut ended = true;
    for (number, at) in order.iter_mut() {
        let rest = row(*at).data().get(start..).unwrap_or_default();
        let mut next = [0; NUMBER_BYTES];
        let taken = rest.len().min(NUMBER_BYTES);
        next[..taken].copy_from_slice(&rest[..taken]);
        *number = u128::from_be_bytes(next);
        ended &= rest.len() <= NUMBER_BYTES;
    }
    order.sort_unstable_by_key(|(number, _)| *number);
    // No row is the beginning of another one, so rows that have ended here differ or are equal.
    if !ended {
        let equal = order.chunk_by_mut(|(a, _), (b, _)| a == b);
        let equal = equal.filter(|rows| rows.len() > 1);
        equal.for_each(|rows| sort_from(values, rows, start + NUMBER_BYTES));
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringViewArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    /// More rows than a batch has, with NULLs, are given once and in order.
    #[test]
    fn states_are_given_in_order() -> Result<()> {
        let rows = 2 * SORTED_ROWS as i64 + 7;
        let number = |i: i64| (i % 11 != 0).then_some((i * 7_919) % 1_000);
        let numbers = Int64Array::from_iter((0..rows).map(number));
        // Some are equal for longer than rows are compared by numbers, and some end within that.
        let text = |i: i64| match i % 3 {
            0 => format!("a text that is not inlined {}", i % 13),
            1 => format!("{}{}", "long ".repeat(40), i % 17),
            _ => "short\0".repeat((i % 30) as usize),
        };
        let texts = StringViewArray::from_iter((0..rows).map(|i| Some(text(i))));
        let ids = Int64Array::from_iter_values(0..rows);
        let states = RecordBatch::try_from_iter([
            ("k0", Arc::new(numbers) as ArrayRef),
            ("k1", Arc::new(texts)),
            ("id", Arc::new(ids)),
        ])?;
        let (mut seen, mut last) = (vec![false; rows as usize], None);
        for batch in SortedStates::new(states, 2)? {
            let batch = batch?;
            let (numbers, texts) = (batch.column(0), batch.column(1));
            let numbers = numbers.as_primitive::<Int64Type>();
            let texts = texts.as_string_view();
            let ids = batch.column(2).as_primitive::<Int64Type>();
            for (row, &id) in ids.values().iter().enumerate() {
                let key = (
                    numbers.is_valid(row).then(|| numbers.value(row)),
                    texts.value(row).to_owned(),
                );
                assert_eq!(key.0, number(id), "the row is torn");
                assert_eq!(key.1, text(id), "the row is torn");
                assert!(last.is_none_or(|l| l <= key), "{key:?} is out of order");
                assert!(
                    !std::mem::replace(&mut seen[id as usize], true),
                    "{id} is there twice"
                );
                last = Some(key);
            }
        }
        assert!(seen.iter().all(|s| *s), "rows were lost");
        Ok(())
    }
}
