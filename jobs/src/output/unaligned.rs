//! Owns an answer as values with a `|` between them, for scripts: values as in CSV, without quotes.

use std::io::{self, Write};

use anabranch_serving::text::value::Reader;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::{Expanded, Layout, table};

pub(super) fn write(
    out: &mut dyn Write,
    schema: &SchemaRef,
    batches: &[RecordBatch],
    layout: Layout,
) -> io::Result<()> {
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let is_list = layout.expanded == Expanded::On;
    if !is_list && !layout.tuples_only && !names.is_empty() {
        writeln!(out, "{}", names.join("|"))?;
    }
    let mut is_first = true;
    table::each_row(batches, Reader::Program, &mut |cells| {
        let value = |cell: &super::grid::Cell| match cell.is_null {
            true => String::new(),
            false => cell.text.clone(),
        };
        let values: Vec<String> = cells.iter().map(value).collect();
        if !is_list {
            return writeln!(out, "{}", values.join("|"));
        }
        if !is_first {
            writeln!(out)?;
        }
        is_first = false;
        let mut pairs = names.iter().zip(&values);
        pairs.try_for_each(|(name, value)| writeln!(out, "{name}|{value}"))
    })?;
    if layout.footer && !layout.tuples_only {
        writeln!(out, "({})", table::counted(batches))?;
    }
    Ok(())
}
