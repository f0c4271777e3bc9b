//! How commands print: for people or for programs, each thing at once; a closed pipe is no error.

use std::io::Write;

use anabranch_shared::{Error, Result};
use arrow::array::RecordBatch;
use serde::Serialize;

use crate::output::{Format, Style, quiet_broken_pipe, write_batches};

/// Where and how a command prints.
#[derive(Clone, Copy, Debug)]
pub struct Printing {
    /// The form.
    pub format: Format,
    /// What standard output can show.
    pub style: Style,
}

impl Printing {
    /// Whether a person reads it.
    pub(crate) fn is_for_people(self) -> bool {
        self.format == Format::Table
    }

    /// Prints a text as it is.
    pub(crate) fn text(self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        quiet_broken_pipe(written).map_err(|e| Error::io("standard output", e))
    }

    /// Prints a value as a line of JSON.
    pub(crate) fn json(self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value).map_err(|e| Error::Internal(e.to_string()))?;
        self.text(&format!("{text}\n"))
    }

    /// Prints a text for people, or a value for programs.
    pub(crate) fn either(
        self,
        text: impl FnOnce() -> String,
        value: &impl Serialize,
    ) -> Result<()> {
        if self.is_for_people() {
            self.text(&text())
        } else {
            self.json(value)
        }
    }

    /// Prints rows.
    pub(crate) fn rows(self, rows: &RecordBatch) -> Result<()> {
        let mut out = std::io::stdout();
        let rows = std::slice::from_ref(rows);
        let written = write_batches(&mut out, &rows[0].schema(), rows, self.format, self.style);
        quiet_broken_pipe(written).map_err(|e| Error::io("standard output", e))
    }
}
