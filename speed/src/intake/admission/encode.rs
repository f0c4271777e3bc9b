//! Rows of Arrow batches as JSON, for `_extra` and for the raw form of dead letters.
//!
//! A dead letter is admitted again from what is kept of it, so its JSON must come to the same: each value to the same
//! value of its field, and what was refused must be refused again. A declared field's value that was taken is written as
//! its field has it. One that was refused is written as it came, and where JSON would make a text of what was none,
//! as an object that names its type, such as `{"date":"2026-11-01"}`: no field takes an object.
//!
//! NaN and infinities are `"NaN"`, `"Infinity"` and `"-Infinity"`, bytes are base64.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayAccessor, ArrayRef, AsArray, RecordBatch, StringArray, UInt64Array, make_array,
};
use arrow::compute::{cast, take};
use arrow::datatypes::{
    DataType, Field, FieldRef, Float16Type, Float32Type, Float64Type, Schema, TimeUnit,
};
use arrow::error::ArrowError;
use arrow::json::WriterBuilder;
use arrow::json::writer::{
    Encoder, EncoderFactory, EncoderOptions, LineDelimited, NullableEncoder, make_encoder,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

/// Each of `rows` as a JSON object without its NULLs, to be admitted again. `fields` says which declared field each
/// column is, `admitted` holds what became of the declared fields' values: NULL where one was refused.
pub(super) fn dead_rows(
    batch: &RecordBatch,
    fields: &[Option<usize>],
    admitted: &[ArrayRef],
    rows: Vec<u64>,
) -> Result<Vec<Bytes>, ArrowError> {
    let mut objects = vec![String::from("{"); rows.len()];
    let rows = UInt64Array::from(rows);
    let schema = batch.schema_ref();
    for (column, (field, array)) in schema.fields().iter().zip(batch.columns()).enumerate() {
        let array = take(array, &rows, None)?;
        let is_twice = |field: usize| fields.iter().filter(|of| **of == Some(field)).count() > 1;
        let taken = match fields[column].filter(|field| !is_twice(*field)) {
            Some(field) => Some(take(&admitted[field], &rows, None)?),
            None => None,
        };
        let form = match fields[column] {
            Some(_) => Form::Named,
            None => Form::Plain,
        };
        let name = serde_json::Value::from(field.name().as_str()).to_string();
        let came = texts(&array, form)?;
        let became = match &taken {
            Some(taken) => texts(taken, Form::Plain)?,
            None => vec![None; objects.len()],
        };
        let keeps_text = taken
            .as_ref()
            .is_some_and(|taken| is_read_from_text(taken.data_type()));
        for ((object, came), became) in objects.iter_mut().zip(came).zip(became) {
            let value = match became {
                Some(_) if keeps_text && came.as_deref().is_some_and(is_plain_text) => came,
                Some(became) => Some(became),
                None => came,
            };
            if let Some(value) = value {
                object.push_str(if object.len() == 1 { "" } else { "," });
                object.push_str(&name);
                object.push(':');
                object.push_str(&value);
            }
        }
    }
    let whole = |object: String| Bytes::from(object + "}");
    Ok(objects.into_iter().map(whole).collect())
}

/// Each row as a JSON object without its NULLs, to be admitted to another topic.
pub(crate) fn raw_rows(batch: &RecordBatch) -> Result<Vec<Bytes>, ArrowError> {
    let rows = (0..batch.num_rows() as u64).collect();
    dead_rows(batch, &vec![None; batch.num_columns()], &[], rows)
}

/// Whether JSON has values of a type as texts, read as those of any other source are.
fn is_read_from_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8View
            | DataType::BinaryView
            | DataType::Date32
            | DataType::Timestamp(_, _)
            | DataType::Decimal128(_, _)
    )
}

/// Whether a JSON value is a text that no space surrounds: CSV's are trimmed, those of JSON are not.
fn is_plain_text(value: &str) -> bool {
    serde_json::from_str::<String>(value).is_ok_and(|text| text.trim() == text)
}

/// The values of a column as JSON; `None` for NULL.
fn texts(array: &ArrayRef, form: Form) -> Result<Vec<Option<String>>, ArrowError> {
    let array = unpacked(array)?;
    let field = Arc::new(Field::new("", array.data_type().clone(), true));
    let factory: Arc<dyn EncoderFactory> = Arc::new(Lossless(form));
    let options = EncoderOptions::default().with_encoder_factory(factory);
    let shown = match make_encoder(&field, &array, &options) {
        Ok(mut encoder) => {
            let mut text = |row| {
                let mut out = Vec::new();
                encoder.encode(row, &mut out);
                String::from_utf8(out).map_err(|error| ArrowError::JsonError(error.to_string()))
            };
            let valid = array.logical_nulls();
            let is_valid = |row: &usize| valid.as_ref().is_none_or(|valid| valid.is_valid(*row));
            let rows = (0..array.len()).map(|row| is_valid(&row).then(|| text(row)).transpose());
            return rows.collect();
        }
        Err(_) => Shown::new(array.as_ref(), form),
    };
    let text = |row| {
        let mut out = Vec::new();
        shown.push(row, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    };
    Ok((0..array.len())
        .map(|row| array.is_valid(row).then(|| text(row)))
        .collect())
}

/// Dictionaries and run-end encodings as plain arrays.
fn unpacked(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match array.data_type() {
        DataType::Dictionary(_, values) => unpacked(&cast(array, values)?),
        DataType::RunEndEncoded(_, values) => unpacked(&cast(array, values.data_type())?),
        _ => Ok(array.clone()),
    }
}

/// Every row as a JSON object without its NULLs.
pub(super) fn lines(batch: &RecordBatch) -> Result<Vec<String>, ArrowError> {
    if batch.num_columns() == 0 {
        return Ok(vec!["{}".to_owned(); batch.num_rows()]);
    }
    let batch = encodable(batch)?;
    let mut writer = WriterBuilder::new()
        .with_encoder_factory(Arc::new(Lossless(Form::Plain)))
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
    let factory: Arc<dyn EncoderFactory> = Arc::new(Lossless(Form::Plain));
    let options = EncoderOptions::default().with_encoder_factory(factory);
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

/// How values that JSON has no form for are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// As texts.
    Plain,
    /// As objects of one text, whose key is the type.
    Named,
}

/// Writes a text, as an object where it has a name.
fn push(out: &mut Vec<u8>, name: Option<&str>, text: &str) {
    let text = serde_json::Value::from(text).to_string();
    match name {
        None => out.extend_from_slice(text.as_bytes()),
        Some(name) => {
            let name = serde_json::Value::from(name);
            out.extend_from_slice(format!("{{{name}:{text}}}").as_bytes());
        }
    }
}

/// Encodes what JSON has no form for.
#[derive(Debug)]
struct Lossless(Form);

impl EncoderFactory for Lossless {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let form = self.0;
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Binary => Box::new(Base64(array.as_binary::<i32>(), form)),
            DataType::LargeBinary => Box::new(Base64(array.as_binary::<i64>(), form)),
            DataType::BinaryView => Box::new(Base64(array.as_binary_view(), form)),
            DataType::FixedSizeBinary(_) => Box::new(Base64(array.as_fixed_size_binary(), form)),
            DataType::Float16 => {
                let array = array.as_primitive::<Float16Type>();
                Box::new(Floats(move |row| array.value(row).to_f32(), form))
            }
            DataType::Float32 => {
                let array = array.as_primitive::<Float32Type>();
                Box::new(Floats(move |row| array.value(row), form))
            }
            DataType::Float64 => {
                let array = array.as_primitive::<Float64Type>();
                Box::new(Floats(move |row| array.value(row), form))
            }
            DataType::Timestamp(_, Some(_)) => Box::new(Shown::new(array, form)),
            DataType::Decimal256(_, _) if form == Form::Named => Box::new(Shown::new(array, form)),
            temporal if temporal.is_temporal() && form == Form::Named => {
                Box::new(Shown::new(array, form))
            }
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

/// Values as Arrow displays them.
struct Shown {
    texts: StringArray,
    name: Option<String>,
}

impl Shown {
    fn new(array: &dyn Array, form: Form) -> Self {
        let array = make_array(array.to_data());
        let array = in_utc(&array).unwrap_or(array);
        let name = match array.data_type() {
            DataType::Date32 | DataType::Date64 => "date".to_owned(),
            DataType::Timestamp(_, _) => "timestamp".to_owned(),
            DataType::Time32(_) | DataType::Time64(_) => "time".to_owned(),
            DataType::Duration(_) => "duration".to_owned(),
            DataType::Interval(_) => "interval".to_owned(),
            DataType::Decimal256(_, _) => "decimal".to_owned(),
            other => other.to_string(),
        };
        Self {
            texts: shown(&array),
            name: (form == Form::Named).then_some(name),
        }
    }

    fn push(&self, row: usize, out: &mut Vec<u8>) {
        push(out, self.name.as_deref(), self.texts.value(row));
    }
}

impl Encoder for Shown {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        self.push(row, out);
    }
}

struct Base64<A>(A, Form);

impl<'a, A: ArrayAccessor<Item = &'a [u8]>> Encoder for Base64<A> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let name = (self.1 == Form::Named).then_some("binary");
        push(out, name, &STANDARD.encode(self.0.value(row)));
    }
}

/// Floats, by their shortest text that reads back as the same.
struct Floats<F>(F, Form);

impl<N: Into<f64> + serde::Serialize + Copy, F: Fn(usize) -> N> Encoder for Floats<F> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let value = (self.0)(row);
        let name = (self.1 == Form::Named).then_some("double");
        let wide: f64 = value.into();
        match wide {
            wide if wide.is_nan() => push(out, name, "NaN"),
            f64::INFINITY => push(out, name, "Infinity"),
            f64::NEG_INFINITY => push(out, name, "-Infinity"),
            // Finite numbers are always written.
            _ => out.extend(serde_json::to_vec(&value).unwrap_or_default()),
        }
    }
}
