//! Owns how the command prints: query answers as a table, CSV, JSON or NDJSON, and the helpers that
//! put sizes, durations and status rows into words. It decides nothing about where the text goes:
//! every function writes to the caller's `Write` or returns a `String`.

mod grid;
mod human;
mod layout;
mod plot;
mod record;
mod table;
mod unaligned;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::str::FromStr;

use anabranch_serving::text::{csv, from_arrow, json};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

pub use anabranch_serving::text::value::for_people;
pub use human::{
    human_bytes, human_count, human_duration, human_number, human_rate, key_value_table, rows_table,
};
pub use layout::{Expanded, Layout};
pub use plot::plot;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Aligned columns for reading, with a closing line that counts the rows.
    #[default]
    Table,
    /// RFC 4180 with a header, lines ended by `\n`. NULL is an empty field, the empty string is `""`.
    Csv,
    /// One JSON array of objects, one object a line.
    Json,
    /// One JSON object a line.
    Ndjson,
}

impl Format {
    /// All formats, in the order in which help lists them.
    pub const ALL: [Self; 4] = [Self::Table, Self::Csv, Self::Json, Self::Ndjson];

    /// The name that [`FromStr`] reads.
    pub fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Ndjson => "ndjson",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A format's name that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown format `{name}`: use `table`, `csv`, `json` or `ndjson`")]
pub struct UnknownFormat {
    /// The name as it was given.
    pub name: String,
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|format| format.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| UnknownFormat {
                name: name.to_owned(),
            })
    }
}

/// What the place that text goes to can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// Whether a person looks at it: only then are wide tables cut.
    pub terminal: bool,
    /// The terminal's width in columns; `None` where it is unknown, and nothing is cut.
    pub width: Option<u16>,
    /// Whether colours and dimmed text may be used.
    pub color: bool,
}

impl Style {
    /// The style of standard output.
    ///
    /// Colour is off when it is not a terminal, when `NO_COLOR` is set and not empty
    /// (<https://no-color.org>), or when `TERM` is `dumb`.
    pub fn detect() -> Self {
        Self::of(io::stdout().is_terminal(), &console::Term::stdout())
    }

    /// The style of standard error, by the rules of [`Style::detect`].
    pub fn detect_stderr() -> Self {
        Self::of(io::stderr().is_terminal(), &console::Term::stderr())
    }

    /// A style for files and pipes: no width, no colour.
    pub fn plain() -> Self {
        Self::default()
    }

    /// The same style for standard output's present width: people resize their terminals.
    pub fn resized(self) -> Self {
        if !self.terminal {
            return self;
        }
        let width = console::Term::stdout()
            .size_checked()
            .map(|(_, columns)| columns);
        Self {
            width: width.or(self.width),
            ..self
        }
    }

    fn of(terminal: bool, term: &console::Term) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let width = if terminal {
            term.size_checked().map(|(_, columns)| columns)
        } else {
            None
        };
        Self {
            terminal,
            width,
            color: terminal && !no_color && !dumb,
        }
    }

    /// `text`, dimmed where colour is on.
    pub fn dim(self, text: &str) -> String {
        self.paint(text, "2")
    }

    /// `text` in red where colour is on: for errors.
    pub fn red(self, text: &str) -> String {
        self.paint(text, "31")
    }

    /// `text` in yellow where colour is on: for notes that ask for attention.
    pub fn yellow(self, text: &str) -> String {
        self.paint(text, "33")
    }

    fn paint(self, text: &str, code: &str) -> String {
        if self.color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// The height of standard output's terminal in lines; `None` where it is none.
pub fn terminal_height() -> Option<u16> {
    console::Term::stdout()
        .size_checked()
        .map(|(lines, _)| lines)
}

/// Writes an answer's rows in the layout of commands, as [`write_answer`] does.
///
/// # Errors
///
/// Those of [`write_answer`].
pub fn write_batches(
    out: &mut dyn Write,
    schema: &SchemaRef,
    batches: &[RecordBatch],
    format: Format,
    style: Style,
) -> io::Result<()> {
    write_answer(out, schema, batches, format, style, Layout::default())
}

/// Writes an answer's rows.
///
/// The four formats agree on what a value is, apart from how `Table` makes it pleasant to read:
///
/// | value | `Table` | `Csv`, `Json`, `Ndjson` |
/// |---|---|---|
/// | NULL | `NULL`, dimmed | empty field; `null`, always present |
/// | timestamp | `2026-11-23 10:00:00 UTC` | RFC 3339, `2026-11-23T10:00:00Z` |
/// | float | shortest text that reads back the same | the same; in JSON `"NaN"`, `"Infinity"`, `"-Infinity"` are strings, so that nothing is lost |
/// | decimal, 64-bit integer | all digits | all digits, as a JSON number: read them with a parser that keeps them |
/// | binary | `\x0aff` | base64 with padding |
/// | list, struct, map | `[1, 2]`, `{a: 1}` | JSON (inside one CSV field) |
/// | control characters in text | escaped: a row stays a line | kept (`Csv`), escaped by JSON's rules |
///
/// Columns that share a name are told apart in JSON as `name`, `name_2`, …. In a table on a terminal,
/// text is cut with `…` to fit the width: first where all rows have the same, then the widest. Numbers
/// and times are never cut while there is room for another column, and columns that don't fit at all
/// are left out, which the closing line says. The layout is for tables; of `Csv` it says whether
/// there is a header.
///
/// # Errors
///
/// What `out` returns, and [`io::ErrorKind::Other`] for a type that the format can't write.
pub fn write_answer(
    out: &mut dyn Write,
    schema: &SchemaRef,
    batches: &[RecordBatch],
    format: Format,
    style: Style,
    layout: Layout,
) -> io::Result<()> {
    match format {
        Format::Table if !layout.aligned => unaligned::write(out, schema, batches, layout),
        Format::Table => table::write(out, schema, batches, style, layout),
        Format::Csv => csv::write(out, schema, batches, !layout.tuples_only),
        Format::Json => json::write_array(out, schema, batches),
        Format::Ndjson => json::write_lines(out, schema, batches),
    }
}

/// Makes success of the error that a reader which went away causes (`| head`).
///
/// # Errors
///
/// Every other error, unchanged.
pub fn quiet_broken_pipe(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
