//! Owns JSON and NDJSON: Arrow's writer, with the leaves replaced that it would lose or that could
//! break the syntax (NaN and infinities, binary, times out of the calendar, maps and unions).

use std::io::{self, Write};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::writer::{
    Encoder, EncoderFactory, EncoderOptions, JsonFormat, LineDelimited, NullableEncoder, Writer,
    WriterBuilder, make_encoder,
};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::from_arrow;
use super::value::{Reader, Show, show};
use crate::naming::distinct_names;

/// Writes one array of objects, each on a line of its own.
///
/// # Errors
/// What `out` returns, and [`io::ErrorKind::Other`] for a type that has no text.
pub fn write_array(
    out: &mut dyn Write,
    schema: &SchemaRef,
    batches: &[RecordBatch],
) -> io::Result<()> {
    write::<ObjectPerLine>(out, schema, batches)
}

/// Writes one object a line.
///
/// # Errors
/// As [`write_array`].
pub fn write_lines(
    out: &mut dyn Write,
    schema: &SchemaRef,
    batches: &[RecordBatch],
) -> io::Result<()> {
    write::<LineDelimited>(out, schema, batches)
}

fn write<F: JsonFormat>(
    out: &mut dyn Write,
    schema: &SchemaRef,
    batches: &[RecordBatch],
) -> io::Result<()> {
    let schema = columns_of(schema);
    let mut writer: Writer<_, F> = writer(out);
    for batch in batches {
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = batch.columns().to_vec();
        let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options)
            .map_err(from_arrow)?;
        writer.write(&batch).map_err(from_arrow)?;
    }
    writer.finish().map_err(from_arrow)
}

/// What writes rows whose columns have different names.
pub fn writer<W: Write, F: JsonFormat>(out: W) -> Writer<W, F> {
    WriterBuilder::new()
        .with_explicit_nulls(true)
        .with_encoder_factory(Arc::new(Leaves))
        .build(out)
}

/// One JSON array with each object on a line of its own, so that line tools and diffs still work.
#[derive(Debug, Default)]
struct ObjectPerLine;

impl JsonFormat for ObjectPerLine {
    fn start_stream<W: Write>(&self, writer: &mut W) -> Result<(), ArrowError> {
        Ok(writer.write_all(b"[")?)
    }

    fn start_row<W: Write>(&self, writer: &mut W, is_first_row: bool) -> Result<(), ArrowError> {
        Ok(writer.write_all(if is_first_row { b"\n" } else { b",\n" })?)
    }

    fn end_stream<W: Write>(&self, writer: &mut W) -> Result<(), ArrowError> {
        Ok(writer.write_all(b"\n]\n")?)
    }
}

/// The schema whose names differ. Nullability is dropped, because nothing here depends on it.
fn columns_of(schema: &SchemaRef) -> SchemaRef {
    let distinct = distinct_names(schema);
    let fields = distinct.fields().iter();
    let fields = fields.map(|f| Field::new(f.name(), f.data_type().clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The JSON text of every value of a nested column, NULL where the value is.
///
/// # Errors
/// [`io::ErrorKind::Other`] for a type that has no text.
pub fn texts(column: &ArrayRef) -> io::Result<ArrayRef> {
    let field: FieldRef = Arc::new(Field::new("value", column.data_type().clone(), true));
    let options = EncoderOptions::default()
        .with_explicit_nulls(true)
        .with_encoder_factory(Arc::new(Leaves));
    let mut encoder = make_encoder(&field, column.as_ref(), &options).map_err(from_arrow)?;
    let mut values = Vec::with_capacity(column.len());
    for row in 0..column.len() {
        if column.is_null(row) {
            values.push(None);
            continue;
        }
        let mut bytes = Vec::new();
        encoder.encode(row, &mut bytes);
        values.push(Some(String::from_utf8(bytes).map_err(io::Error::other)?));
    }
    Ok(Arc::new(StringArray::from(values)))
}

#[derive(Debug)]
struct Leaves;

impl EncoderFactory for Leaves {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let data_type = array.data_type();
        let kind = match data_type {
            DataType::Float16 | DataType::Float32 | DataType::Float64 => LeafKind::Float,
            DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_)
            | DataType::Union(_, _) => LeafKind::Text,
            // JSON knows only text as key; other maps are text as a whole.
            DataType::Map(entries, _) if !has_text_keys(entries) => LeafKind::Text,
            other if other.is_temporal() => LeafKind::Text,
            _ => return Ok(None),
        };
        let leaf = Leaf {
            show: show(array, Reader::Program)?,
            kind,
            text: String::new(),
        };
        Ok(Some(NullableEncoder::new(
            Box::new(leaf),
            array.logical_nulls(),
        )))
    }
}

fn has_text_keys(entries: &Field) -> bool {
    let DataType::Struct(fields) = entries.data_type() else {
        return false;
    };
    fields.first().is_some_and(|key| {
        matches!(
            key.data_type(),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
        )
    })
}

#[derive(Clone, Copy, PartialEq)]
enum LeafKind {
    /// A number, unless it is NaN or infinite.
    Float,
    Text,
}

struct Leaf<'a> {
    show: Show<'a>,
    kind: LeafKind,
    text: String,
}

impl Encoder for Leaf<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        self.text.clear();
        (self.show)(row, &mut self.text);
        if self.kind == LeafKind::Float && !self.text.ends_with(['N', 'y']) {
            out.extend_from_slice(self.text.as_bytes());
        } else {
            push_string(out, &self.text);
        }
    }
}

/// A JSON string, RFC 8259 section 7.
fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..=0x1f => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}
