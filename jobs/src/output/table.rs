//! Owns an answer as a table for reading.

use std::io::{self, Write};

use anabranch_serving::text::value::{Reader, is_number, is_rigid, plain, push_escaped, show};
use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::grid::{self, Align, Cell, Column};
use super::human::human_count;
use super::{Expanded, Layout, Style, from_arrow, json, record};

pub(super) fn write(
    out: &mut dyn Write,
    schema: &SchemaRef,
    batches: &[RecordBatch],
    style: Style,
    layout: Layout,
) -> io::Result<()> {
    let counted = counted(batches);
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
    let rows =
        |visit: &mut dyn FnMut(&[Cell]) -> io::Result<()>| each_row(batches, Reader::Person, visit);
    let wanted = grid::measure(&columns, &rows)?;
    let is_list = match layout.expanded {
        Expanded::On => true,
        Expanded::Off => false,
        Expanded::Auto => !grid::fits(&wanted, style),
    };
    let shown = match (is_list, layout.tuples_only) {
        (true, tuples_only) => {
            record::write(out, &columns, &wanted, &rows, style, !tuples_only)?;
            all
        }
        (false, true) => {
            grid::write_plain(out, &columns, &wanted, &rows, style)?;
            all
        }
        (false, false) => grid::write(out, &columns, &wanted, &rows, style)?,
    };
    match (shown < all, layout.footer && !layout.tuples_only) {
        (true, has_footer) => {
            let counted = match has_footer {
                true => format!("{counted}; "),
                false => String::new(),
            };
            let shows_all = layout.shows_all;
            writeln!(out, "({counted}{shown} of {all} columns fit: {shows_all})")
        }
        (false, true) => writeln!(out, "({counted})"),
        (false, false) => Ok(()),
    }
}

/// How many rows there are.
pub(super) fn counted(batches: &[RecordBatch]) -> String {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let unit = if rows == 1 { "row" } else { "rows" };
    format!("{} {unit}", human_count(rows as u64))
}

pub(super) fn each_row(
    batches: &[RecordBatch],
    reader: Reader,
    visit: &mut dyn FnMut(&[Cell]) -> io::Result<()>,
) -> io::Result<()> {
    for batch in batches {
        let columns = batch.columns().iter().map(|column| {
            let column = plain(column);
            // A program reads lists and structs as JSON.
            match reader == Reader::Program && column.data_type().is_nested() {
                true => json::texts(&column),
                false => Ok(column),
            }
        });
        let columns = columns.collect::<io::Result<Vec<ArrayRef>>>()?;
        let mut shows = Vec::with_capacity(columns.len());
        for column in &columns {
            shows.push(show(column.as_ref(), reader).map_err(from_arrow)?);
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
