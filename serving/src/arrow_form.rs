//! Rows as an Arrow answer has them. Owns that it holds its rows and nothing else: the engine's text is
//! views into buffers of whatever it was read from.

use std::sync::Arc;

use anabranch_shared::{Error, Result};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};

/// The parameter of the content type with which views are asked for.
const VIEWS: &str = "views=true";

/// Bytes of text of one column that a batch of an answer holds at most: offsets have 31 bits.
const MOST_TEXT: u64 = 1 << 30;

/// How text and bytes stand in an Arrow answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Texts {
    /// As Utf8 and Binary, which every reader knows.
    Plain,
    /// As the engine has them.
    Views,
}

impl Texts {
    /// What a reader says that it takes: `…arrow.stream; views=true`.
    pub(crate) fn accepted(accept: &str) -> Self {
        let accept = accept.replace([' ', '"'], "");
        match accept.split([',', ';']).any(|part| part == VIEWS) {
            true => Self::Views,
            false => Self::Plain,
        }
    }
}

/// Rows of a schema in the form of an answer.
#[derive(Clone, Debug)]
pub(crate) struct ArrowForm {
    schema: SchemaRef,
    texts: Texts,
}

impl ArrowForm {
    pub(crate) fn new(schema: &SchemaRef, texts: Texts) -> Self {
        let schema = match texts {
            Texts::Plain => {
                let fields: Fields = schema.fields().iter().map(plain_field).collect();
                Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
            }
            Texts::Views => schema.clone(),
        };
        Self { schema, texts }
    }

    /// The columns of the answer.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The rows of a batch, in several where one does not hold their text.
    pub(crate) fn batches(&self, batch: &RecordBatch) -> Result<Vec<RecordBatch>> {
        let rows = batch.num_rows();
        let text = batch.columns().iter().map(text_bytes).max();
        if rows > 1 && text.is_some_and(|bytes| bytes > MOST_TEXT) {
            let half = rows / 2;
            let mut halves = self.batches(&batch.slice(0, half))?;
            halves.extend(self.batches(&batch.slice(half, rows - half))?);
            return Ok(halves);
        }
        let columns = batch.columns().iter().zip(self.schema.fields());
        let columns = columns.map(|(column, field)| match self.texts {
            Texts::Plain => as_plain(column, field.data_type()),
            Texts::Views => compacted(column),
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = self.schema.clone();
        Ok(vec![RecordBatch::try_new_with_options(
            schema, columns, &options,
        )?])
    }
}

/// A field whose text and bytes every reader knows.
fn plain_field(field: &FieldRef) -> FieldRef {
    let plain = plain_type(field.data_type());
    Arc::new(Field::clone(field).with_data_type(plain))
}

fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(item) => DataType::List(plain_field(item)),
        DataType::LargeList(item) => DataType::LargeList(plain_field(item)),
        DataType::FixedSizeList(item, n) => DataType::FixedSizeList(plain_field(item), *n),
        DataType::Map(entries, sorted) => DataType::Map(plain_field(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect()),
        other => other.clone(),
    }
}

/// The bytes of text that a column has in views, beyond what its rows are where it is nested.
fn text_bytes(column: &ArrayRef) -> u64 {
    // The length of a value is in the low bits of its view.
    let lengths = |views: &[u128]| views.iter().map(|view| u64::from(*view as u32)).sum();
    match column.data_type() {
        DataType::Utf8View => lengths(column.as_string_view().views()),
        DataType::BinaryView => lengths(column.as_binary_view().views()),
        data_type if plain_type(data_type) == *data_type => 0,
        _ => column.get_array_memory_size() as u64,
    }
}

/// A nested column with no more than its own rows.
fn own_rows(column: &ArrayRef) -> Result<ArrayRef> {
    let rows = u32::try_from(column.len()).map_err(|e| Error::Internal(e.to_string()))?;
    Ok(take(column, &UInt32Array::from_iter_values(0..rows), None)?)
}

fn as_plain(column: &ArrayRef, plain: &DataType) -> Result<ArrayRef> {
    match column.data_type() {
        same if same == plain => Ok(column.clone()),
        DataType::Utf8View | DataType::BinaryView => Ok(cast(column, plain)?),
        _ => Ok(cast(&own_rows(column)?, plain)?),
    }
}

/// A column whose views are into buffers of their own.
fn compacted(column: &ArrayRef) -> Result<ArrayRef> {
    match column.data_type() {
        DataType::Utf8View => Ok(Arc::new(column.as_string_view().gc())),
        DataType::BinaryView => Ok(Arc::new(column.as_binary_view().gc())),
        data_type => {
            let plain = plain_type(data_type);
            match plain == *data_type {
                true => Ok(column.clone()),
                false => Ok(cast(&as_plain(column, &plain)?, data_type)?),
            }
        }
    }
}
