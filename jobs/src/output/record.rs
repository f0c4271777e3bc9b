//! Owns an answer as lists for reading: each row below a line that counts it, a column a line, nothing
//! cut.

use std::io::{self, Write};

use super::Style;
use super::grid::{Column, Rows, Wanted, text_width};

/// Draws the lists.
pub(super) fn write(
    out: &mut dyn Write,
    columns: &[Column],
    wanted: &[Wanted],
    rows: &Rows<'_>,
    style: Style,
    has_heads: bool,
) -> io::Result<()> {
    let title = wanted.iter().map(|column| column.title).max().unwrap_or(0);
    let values = wanted.iter().map(|column| column.values).max().unwrap_or(0);
    let most = style
        .width
        .filter(|_| style.terminal)
        .map_or(usize::MAX, usize::from);
    let width = (title + 3 + values).min(most);
    let mut number = 0_u64;
    rows(&mut |cells| {
        number += 1;
        let mut text = match has_heads {
            true => head(number, width),
            // A blank line between rows tells them apart.
            false if number > 1 => "\n".to_owned(),
            false => String::new(),
        };
        for (column, cell) in columns.iter().zip(cells) {
            let padding = " ".repeat(title.saturating_sub(text_width(&column.title)));
            let value = match cell.is_null {
                true => style.dim(&cell.text),
                false => cell.text.clone(),
            };
            let line = format!("{}{padding} │ {value}", column.title);
            text.push_str(line.trim_end());
            text.push('\n');
        }
        out.write_all(text.as_bytes())
    })
}

fn head(number: u64, width: usize) -> String {
    let text = format!("─[ row {number} ]");
    let rest = "─".repeat(width.saturating_sub(text_width(&text)));
    format!("{text}{rest}\n")
}
