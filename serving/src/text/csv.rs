//! Owns CSV (RFC 4180, with `\n` as line end, which every reader takes and shell tools need).
//!
//! Arrow's own writer can't tell NULL from the empty string, hence this one.

use std::io::{self, Write};

use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::value::{Reader, plain, show};
use super::{from_arrow, json};

/// Writes rows, below the names of their columns where that is said.
///
/// # Errors
/// What `out` returns, and [`io::ErrorKind::Other`] for a type that has no text.
pub fn write(
    out: &mut dyn Write,
    schema: &SchemaRef,
    batches: &[RecordBatch],
    has_header: bool,
) -> io::Result<()> {
    if schema.fields().is_empty() {
        return Ok(());
    }
    if has_header {
        write_header(out, schema)?;
    }
    for batch in batches {
        write_batch(out, batch)?;
    }
    Ok(())
}

/// Writes the names of columns.
///
/// # Errors
/// What `out` returns.
pub fn write_header(out: &mut dyn Write, schema: &SchemaRef) -> io::Result<()> {
    let mut text = String::new();
    for (index, field) in schema.fields().iter().enumerate() {
        text.push_str(if index == 0 { "" } else { "," });
        push_field(&mut text, field.name());
    }
    text.push('\n');
    out.write_all(text.as_bytes())
}

/// Writes rows without the names of their columns.
///
/// # Errors
/// As [`write()`].
pub fn write_batch(out: &mut dyn Write, batch: &RecordBatch) -> io::Result<()> {
    let columns = batch
        .columns()
        .iter()
        .map(|column| {
            let column = plain(column);
            if column.data_type().is_nested() {
                json::texts(&column)
            } else {
                Ok(column)
            }
        })
        .collect::<io::Result<Vec<ArrayRef>>>()?;
    let mut shows = Vec::with_capacity(columns.len());
    for column in &columns {
        shows.push(show(column.as_ref(), Reader::Program).map_err(from_arrow)?);
    }
    let nulls: Vec<_> = columns
        .iter()
        .map(|column| column.logical_nulls())
        .collect();
    let mut line = String::new();
    let mut field = String::new();
    for row in 0..batch.num_rows() {
        line.clear();
        for (index, show) in shows.iter().enumerate() {
            line.push_str(if index == 0 { "" } else { "," });
            if nulls[index]
                .as_ref()
                .is_some_and(|nulls| nulls.is_null(row))
            {
                continue;
            }
            field.clear();
            show(row, &mut field);
            push_field(&mut line, &field);
        }
        line.push('\n');
        out.write_all(line.as_bytes())?;
    }
    Ok(())
}

/// A field that is a value, hence `""` where it is empty.
fn push_field(line: &mut String, field: &str) {
    if field.is_empty() || field.contains(['"', ',', '\n', '\r']) {
        line.push('"');
        line.push_str(&field.replace('"', "\"\""));
        line.push('"');
    } else {
        line.push_str(field);
    }
}
