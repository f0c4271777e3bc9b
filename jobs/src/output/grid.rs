//! Owns the drawing of a bordered table: which columns fit, how wide they are, and the lines.
//!
//! Rows are visited twice, once to measure and once to write, so that an answer of any length needs
//! no second copy of itself as text.

use std::io::{self, Write};

use super::Style;

/// No text column is cut below this many terminal columns; columns are left out instead.
const NARROWEST: usize = 8;

/// One column's heading and how it may be treated.
pub(super) struct Column {
    pub(super) title: String,
    pub(super) align: Align,
    /// Whether values must not be cut (a cut number is another number).
    pub(super) rigid: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// One cell; its text has no line breaks.
#[derive(Debug, Clone, Default)]
pub(super) struct Cell {
    pub(super) text: String,
    /// Whether it stands for the absence of a value, and is dimmed.
    pub(super) is_null: bool,
}

/// Calls its argument with each row, in the same order on every call.
pub(super) type Rows<'a> = dyn Fn(&mut dyn FnMut(&[Cell]) -> io::Result<()>) -> io::Result<()> + 'a;

/// Draws the table; returns how many columns it shows.
pub(super) fn write(
    out: &mut dyn Write,
    columns: &[Column],
    rows: &Rows<'_>,
    style: Style,
) -> io::Result<usize> {
    let mut values = vec![0; columns.len()];
    rows(&mut |cells| {
        for (width, cell) in values.iter_mut().zip(cells) {
            *width = (*width).max(text_width(&cell.text));
        }
        Ok(())
    })?;
    let wanted: Vec<Wanted> = columns
        .iter()
        .zip(&values)
        .map(|(column, values)| Wanted {
            title: text_width(&column.title),
            values: *values,
            rigid: column.rigid,
        })
        .collect();
    let available = if style.terminal {
        style.width.map(usize::from)
    } else {
        None
    };
    let widths = fit(&wanted, available);
    let shown = &columns[..widths.len()];

    rule(out, &widths, ["┌", "┬", "┐"])?;
    let titles: Vec<Cell> = shown
        .iter()
        .map(|column| Cell {
            text: column.title.clone(),
            is_null: false,
        })
        .collect();
    line(out, shown, &widths, &titles, style)?;
    rule(out, &widths, ["├", "┼", "┤"])?;
    rows(&mut |cells| line(out, shown, &widths, cells, style))?;
    rule(out, &widths, ["└", "┴", "┘"])?;
    Ok(widths.len())
}

/// What a column would take, in terminal columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) title: usize,
    pub(super) values: usize,
    pub(super) rigid: bool,
}

impl Wanted {
    fn natural(self) -> usize {
        self.title.max(self.values)
    }

    fn least(self) -> usize {
        if self.rigid {
            self.values.max(self.title.min(NARROWEST))
        } else {
            self.natural().min(NARROWEST)
        }
    }
}

/// The widths of the columns that are shown: the first ones, at least one of them.
///
/// Where not everything fits, all columns share one greatest width (as high as fits), which rigid
/// columns may exceed by what their values need.
pub(super) fn fit(wanted: &[Wanted], available: Option<usize>) -> Vec<usize> {
    let natural: Vec<usize> = wanted.iter().map(|column| column.natural()).collect();
    let Some(available) = available else {
        return natural;
    };
    if framed(&natural) <= available {
        return natural;
    }
    let mut shown = wanted.len();
    let least = |shown: usize| -> Vec<usize> {
        wanted[..shown]
            .iter()
            .map(|column| column.least())
            .collect()
    };
    while shown > 1 && framed(&least(shown)) > available {
        shown -= 1;
    }
    let capped = |cap: usize| -> Vec<usize> {
        wanted[..shown]
            .iter()
            .map(|column| column.natural().min(cap.max(column.least())))
            .collect()
    };
    if framed(&least(shown)) > available {
        return vec![available.saturating_sub(4).max(1)];
    }
    // The frame's width grows with the cap, so the highest cap that fits is found by halving.
    let (mut fits, mut exceeds) = (0, available + 1);
    while exceeds - fits > 1 {
        let middle = fits + (exceeds - fits) / 2;
        if framed(&capped(middle)) <= available {
            fits = middle
        } else {
            exceeds = middle
        }
    }
    capped(fits)
}

/// The width of a line: each column has a border and a space on either side.
fn framed(widths: &[usize]) -> usize {
    widths.iter().map(|width| width + 3).sum::<usize>() + 1
}

fn rule(out: &mut dyn Write, widths: &[usize], [left, middle, right]: [&str; 3]) -> io::Result<()> {
    let mut text = String::from(left);
    for (index, width) in widths.iter().enumerate() {
        text.push_str(if index == 0 { "" } else { middle });
        text.push_str(&"─".repeat(width + 2));
    }
    text.push_str(right);
    text.push('\n');
    out.write_all(text.as_bytes())
}

fn line(
    out: &mut dyn Write,
    columns: &[Column],
    widths: &[usize],
    cells: &[Cell],
    style: Style,
) -> io::Result<()> {
    let mut text = String::from("│");
    for ((column, width), cell) in columns.iter().zip(widths).zip(cells) {
        let (shown, taken) = cut(&cell.text, *width);
        let padding = " ".repeat(width.saturating_sub(taken));
        let shown = if cell.is_null {
            style.dim(&shown)
        } else {
            shown
        };
        text.push(' ');
        match column.align {
            Align::Left => {
                text.push_str(&shown);
                text.push_str(&padding);
            }
            Align::Right => {
                text.push_str(&padding);
                text.push_str(&shown);
            }
        }
        text.push_str(" │");
    }
    text.push('\n');
    out.write_all(text.as_bytes())
}

/// `text` within `width` terminal columns, ended by `…` where it is cut, and the columns it takes.
///
/// The longest prefix that fits is taken by the width of the prefix, not the sum of its characters:
/// so marks and joined emoji stay with what they belong to.
pub(super) fn cut(text: &str, width: usize) -> (String, usize) {
    let full = text_width(text);
    if full <= width {
        return (text.to_owned(), full);
    }
    let room = width.saturating_sub(1);
    let mut end = 0;
    let mut taken = 0;
    for (index, c) in text.char_indices() {
        let next = index + c.len_utf8();
        let prefix = text_width(&text[..next]);
        if prefix > room {
            break;
        }
        (end, taken) = (next, prefix);
    }
    (format!("{}…", &text[..end]), taken + 1)
}

/// The terminal columns that `text` takes; colours take none.
pub(super) fn text_width(text: &str) -> usize {
    if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return text.len();
    }
    console::measure_text_width(text)
}
