//! Values and rows as text, the same at every door and in the command: CSV, JSON, NDJSON, and the text
//! of one value.

pub mod csv;
pub mod json;
pub mod value;

use std::io;

use arrow::error::ArrowError;

/// Keeps the kind of an I/O error that went through Arrow: a broken pipe must stay one.
pub fn from_arrow(error: ArrowError) -> io::Error {
    match error {
        ArrowError::IoError(_, source) => source,
        other => io::Error::other(other),
    }
}
