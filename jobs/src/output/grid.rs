//! Owns the drawing of a bordered table: which columns fit, how wide they are, and the lines.
//!
//! Rows are visited twice, once to measure and once to write, so that an answer of any length needs
//! no second copy of itself as text.

use std::cmp::Ordering;
use std::io::{self, Write};

use super::Style;

/// No column whose rows are all the same is cut below this many terminal columns.
const NARROWEST: usize = 8;

/// No title is cut below this many: those of most columns are no longer.
const TITLE: usize = 12;

/// No other text column is cut below this many; columns are left out instead.
const READABLE: usize = 20;

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

/// Looks at all rows: what each column would take.
pub(super) fn measure(columns: &[Column], rows: &Rows<'_>) -> io::Result<Vec<Wanted>> {
    let wanted = columns.iter().map(|column| Wanted {
        title: text_width(&column.title),
        values: 0,
        rigid: column.rigid,
        same: true,
    });
    let mut wanted: Vec<Wanted> = wanted.collect();
    let mut first: Option<Vec<String>> = None;
    let mut count = 0_u64;
    rows(&mut |cells| {
        count += 1;
        for (column, cell) in wanted.iter_mut().zip(cells) {
            column.values = column.values.max(text_width(&cell.text));
        }
        match &first {
            None => first = Some(cells.iter().map(|cell| cell.text.clone()).collect()),
            Some(first) => {
                for ((column, cell), first) in wanted.iter_mut().zip(cells).zip(first) {
                    column.same &= cell.text == *first;
                }
            }
        }
        Ok(())
    })?;
    // One row says nothing of others.
    wanted
        .iter_mut()
        .for_each(|column| column.same &= count > 1);
    Ok(wanted)
}

/// Whether the whole table fits.
pub(super) fn fits(wanted: &[Wanted], style: Style) -> bool {
    let natural: Vec<usize> = wanted.iter().map(|column| column.natural()).collect();
    available(style).is_none_or(|available| framed(&natural) <= available)
}

/// The terminal columns that there are, where that is known.
fn available(style: Style) -> Option<usize> {
    match style.terminal {
        true => style.width.map(usize::from),
        false => None,
    }
}

/// Draws the table; returns how many columns it shows.
pub(super) fn write(
    out: &mut dyn Write,
    columns: &[Column],
    wanted: &[Wanted],
    rows: &Rows<'_>,
    style: Style,
) -> io::Result<usize> {
    let widths = fit(wanted, available(style));
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

/// Writes the rows alone, without heading or frame; nothing is left out or cut.
pub(super) fn write_plain(
    out: &mut dyn Write,
    columns: &[Column],
    wanted: &[Wanted],
    rows: &Rows<'_>,
    style: Style,
) -> io::Result<()> {
    rows(&mut |cells| {
        let mut text = String::new();
        for (index, ((column, wanted), cell)) in columns.iter().zip(wanted).zip(cells).enumerate() {
            text.push_str(if index == 0 { " " } else { " | " });
            push_cell(&mut text, column.align, wanted.values, cell, style);
        }
        writeln!(out, "{}", text.trim_end())
    })
}

/// What a column would take, in terminal columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) title: usize,
    pub(super) values: usize,
    pub(super) rigid: bool,
    /// Whether all rows, of several, have the same: it is told by any part of it.
    pub(super) same: bool,
}

impl Wanted {
    fn natural(self) -> usize {
        self.title.max(self.values)
    }

    fn least(self) -> usize {
        match (self.rigid, self.same) {
            (true, _) => self.values.max(self.title.min(TITLE)),
            (false, true) => self.natural().min(NARROWEST),
            (false, false) => self.natural().min(READABLE),
        }
    }

    /// Columns of a lower turn give way before those of a higher one do.
    fn turn(self) -> u8 {
        match (self.rigid, self.same) {
            (false, true) => 0,
            // By a title that is wider than its values.
            (true, _) => 1,
            (false, false) => 2,
        }
    }
}

/// The widths of the columns that are shown: the first ones, at least one of them.
///
/// Where not everything fits, columns give way turn by turn: those whose rows are all the same, then
/// titles, then the widest texts. The columns of one turn share one greatest width, as high as fits.
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
    if framed(&least(shown)) > available {
        return vec![available.saturating_sub(4).max(1)];
    }
    for turn in 0..2 {
        let capped = |cap| capped(&wanted[..shown], turn, cap);
        if framed(&capped(0)) <= available {
            return highest(capped, available);
        }
    }
    highest(|cap| capped(&wanted[..shown], 2, cap), available)
}

/// The widths where columns of earlier turns take the least, and those of this one at most `cap`.
fn capped(wanted: &[Wanted], turn: u8, cap: usize) -> Vec<usize> {
    let width = |column: &Wanted| match column.turn().cmp(&turn) {
        Ordering::Less => column.least(),
        Ordering::Equal => column.natural().min(cap.max(column.least())),
        Ordering::Greater => column.natural(),
    };
    wanted.iter().map(width).collect()
}

/// The widths at the highest cap that fits.
fn highest(capped: impl Fn(usize) -> Vec<usize>, available: usize) -> Vec<usize> {
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
        text.push(' ');
        push_cell(&mut text, column.align, *width, cell, style);
        text.push_str(" │");
    }
    text.push('\n');
    out.write_all(text.as_bytes())
}

/// A cell in its width.
fn push_cell(text: &mut String, align: Align, width: usize, cell: &Cell, style: Style) {
    let (shown, taken) = cut(&cell.text, width);
    let padding = " ".repeat(width.saturating_sub(taken));
    let shown = match cell.is_null {
        true => style.dim(&shown),
        false => shown,
    };
    match align {
        Align::Left => {
            text.push_str(&shown);
            text.push_str(&padding);
        }
        Align::Right => {
            text.push_str(&padding);
            text.push_str(&shown);
        }
    }
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
