//! Rows of Arrow batches as JSON, for `_extra` and for the raw form of dead letters.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayAccessor, ArrayRef, AsArray, RecordBatch, StringArray, UInt64Array, make_array,
};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit};
use arrow::error::ArrowError;
use arrow::json::WriterBuilder;
use arrow::json::writer::{
    Encoder, EncoderFactory, EncoderOptions, LineDelimited, NullableEncoder, make_encoder,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Each of `rows` as a JSON object without its NULLs; bytes are base64, so that the object can be admitted again.
pub(super) fn rows(batch: &RecordBatch, rows: Vec<u64>) -> Result<Vec<String>, ArrowError> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    lines(&take_record_batch(batch, &UInt64Array::from(rows))?)
}

/// Every row as a JSON object without its NULLs.
pub(super) fn lines(batch: &RecordBatch) -> Result<Vec<String>, ArrowError> {
    if batch.num_columns() == 0 {
        return Ok(vec!["{}".to_owned(); batch.num_rows()]);
    }
    let batch = encodable(batch)?;
    let mut writer = WriterBuilder::new()
        .with_encoder_factory(Arc::new(Base64))
        .build::<_, LineDelimited>(Vec::new());
    writer.write(&batch)?;
    writer.finish()?;
    let text = String::from_utf8(writer.into_inner())
        .map_err(|error| ArrowError::JsonError(error.to_string()))?;
    // Line ends inside strings are escaped, so every one left ends a row.
    Ok(text.lines().map(str::to_owned).collect())
}

/// Columns of types that JSON has no form for are shown as text.
fn encodable(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let options = EncoderOptions::default().with_encoder_factory(Arc::new(Base64));
    let mut fields = Vec::new();
    let mut arrays = Vec::new();
    for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let array = in_utc(array)?;
        let field = Arc::new(Field::new(field.name(), array.data_type().clone(), true));
        if make_encoder(&field, &array, &options).is_ok() {
            fields.push(field);
            arrays.push(array);
        } else {
            fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
            arrays.push(Arc::new(shown(&array)));
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
}

/// The same instants under an offset: names of zones need a table that may not be compiled in.
fn in_utc(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match array.data_type() {
        DataType::Timestamp(unit, Some(_)) => cast_zone(array, *unit),
        _ => Ok(array.clone()),
    }
}

fn cast_zone(array: &ArrayRef, unit: TimeUnit) -> Result<ArrayRef, ArrowError> {
    let data = array
        .to_data()
        .into_builder()
        .data_type(DataType::Timestamp(unit, Some("+00:00".into())));
    Ok(make_array(data.build()?))
}

/// Values as Arrow displays them, or their type where it can't.
fn shown(array: &ArrayRef) -> StringArray {
    let options = FormatOptions::default().with_display_error(true);
    let formatter = ArrayFormatter::try_new(array, &options).ok();
    let show = |row| match &formatter {
        Some(formatter) => formatter.value(row).to_string(),
        None => format!("a value of Arrow type {}", array.data_type()),
    };
    (0..array.len())
        .map(|row| array.is_valid(row).then(|| show(row)))
        .collect()
}

#[derive(Debug)]
struct Base64;

impl EncoderFactory for Base64 {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Binary => Box::new(Bytes(array.as_binary::<i32>())),
            DataType::LargeBinary => Box::new(Bytes(array.as_binary::<i64>())),
            DataType::BinaryView => Box::new(Bytes(array.as_binary_view())),
            DataType::FixedSizeBinary(_) => Box::new(Bytes(array.as_fixed_size_binary())),
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

struct Bytes<A>(A);

impl<'a, A: ArrayAccessor<Item = &'a [u8]>> Encoder for Bytes<A> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(STANDARD.encode(self.0.value(row)).as_bytes());
        out.push(b'"');
    }
}
