//! States at rest: how a row of states is stored in a Delta table, and read back exactly.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};

use crate::Result;
use crate::table::storage_type;

/// Casts that lose something are errors.
const EXACT: CastOptions<'static> = CastOptions {
    safe: false,
    format_options: arrow::util::display::FormatOptions::new(),
};

/// Stores rows of states and reads them back.
#[derive(Debug)]
pub struct StateCodec {
    state_schema: SchemaRef,
    storage_schema: SchemaRef,
    keys: usize,
}

impl StateCodec {
    /// The codec of a state schema whose first `keys` columns are keys.
    ///
    /// # Errors
    /// `Invalid` where a column's type can't be stored.
    pub(super) fn new(state_schema: SchemaRef, keys: usize) -> Result<Self> {
        let fields = state_schema
            .fields()
            .iter()
            .map(|f| Ok(Field::new(f.name(), storage_type(f.data_type())?, true)))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            storage_schema: Arc::new(Schema::new(fields)),
            state_schema,
            keys,
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
        convert(stored, &self.state_schema)
    }
}

fn convert(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(c, f)| cast(c, f.data_type()))
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        schema.clone(),
        columns,
        &options,
    )?)
}

fn cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    match array.data_type() == to {
        true => Ok(array.clone()),
        false => Ok(cast_with_options(array, to, &EXACT)?),
    }
}

/// Rows of states sorted by their first `keys` columns.
pub fn sort_by_keys(states: &RecordBatch, keys: usize) -> Result<RecordBatch> {
    if states.num_rows() < 2 || keys == 0 {
        return Ok(states.clone());
    }
    let schema = states.schema();
    let fields = &schema.fields()[..keys];
    let converter = RowConverter::new(
        fields
            .iter()
            .map(|f| SortField::new(f.data_type().clone()))
            .collect(),
    )?;
    let rows = converter.convert_columns(&states.columns()[..keys])?;
    let mut order: Vec<u32> = (0..u32::try_from(states.num_rows()).unwrap_or(u32::MAX)).collect();
    order.sort_unstable_by(|&a, &b| rows.row(a as usize).cmp(&rows.row(b as usize)));
    let order = arrow::array::UInt32Array::from(order);
    let columns = states
        .columns()
        .iter()
        .map(|c| take(c, &order, None))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(states.schema(), columns)?)
}
