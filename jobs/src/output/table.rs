//! Owns an answer as a table for reading.

use std::io::{self, Write};

use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::grid::{self, Align, Cell, Column};
use super::human::human_count;
use super::value::{Reader, is_number, is_rigid, plain, push_escaped, show};
use super::{Style, from_arrow};

pub(super) fn write(
    out: &mut dyn Write,
    schema: &SchemaRef,
    batches: &[RecordBatch],
    style: Style,
) -> io::Result<()> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let counted = format!(
        "{} {}",
        human_count(rows as u64),
        if rows == 1 { "row" } else { "rows" }
    );
    let all = schema.fields().len();
    if all == 0 {
        return writeln!(out, "({counted})");
    }
    let columns: Vec<Column> = schema
        .fields()
        .iter()
        .map(|field| {
            let mut title = String::new();
            push_escaped(&mut title, field.name());
            let align = if is_number(field.data_type()) {
                Align::Right
            } else {
                Align::Left
            };
            Column {
                title,
                align,
                rigid: is_rigid(field.data_type()),
            }
        })
        .collect();
    let shown = grid::write(out, &columns, &|visit| each_row(batches, visit), style)?;
    if shown < all {
        writeln!(
            out,
            "({counted}; {shown} of {all} columns fit: `json` shows all)"
        )
    } else {
        writeln!(out, "({counted})")
    }
}

fn each_row(
    batches: &[RecordBatch],
    visit: &mut dyn FnMut(&[Cell]) -> io::Result<()>,
) -> io::Result<()> {
    for batch in batches {
        let columns: Vec<ArrayRef> = batch.columns().iter().map(plain).collect();
        let mut shows = Vec::with_capacity(columns.len());
        for column in &columns {
            shows.push(show(column.as_ref(), Reader::Person).map_err(from_arrow)?);
        }
        let nulls: Vec<_> = columns
            .iter()
            .map(|column| column.logical_nulls())
            .collect();
        let mut cells = vec![Cell::default(); columns.len()];
        for row in 0..batch.num_rows() {
            for ((cell, show), nulls) in cells.iter_mut().zip(&shows).zip(&nulls) {
                cell.text.clear();
                cell.is_null = nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
                if cell.is_null {
                    cell.text.push_str("NULL");
                } else {
                    show(row, &mut cell.text);
                }
            }
            visit(&cells)?;
        }
    }
    Ok(())
}
