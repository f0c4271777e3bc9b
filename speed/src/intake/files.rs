//! Files to chunks of numbered records: NDJSON, CSV, Parquet and Arrow IPC, plain, gzipped or in zstd.
//!
//! Owns reading and numbering; verdicts on records are admission's, except on those that can't be handed over at all
//! (a line too long to hold, a CSV row with the wrong number of fields).
//!
//! Numbers depend on the content alone: record N of a file is the same record in every reading, wherever chunks begin,
//! so an interrupted ingest resumes with [`Chunks::skip_to`].

mod array;
mod arrow_files;
mod csv;
mod gzip;
mod hashed;
mod ndjson;
mod source;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::str::FromStr;

use anabranch_shared::ErrorKind;
use anabranch_shared::ipc::plain_bytes;
use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use bytes::Bytes;
use parquet::errors::ParquetError;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::intake::admission::{Admission, Chunk, ChunkData, DeadLetter, lines};
pub(crate) use array::{begins_array, lines_of_array};
pub use hashed::{ContentDigest, Hashed};
pub use source::{Compression, Format, Source};

/// A chunk holds about this many bytes of input, unless a single record is longer.
pub(crate) const CHUNK_BYTES: usize = 8 * 1024 * 1024;
/// A chunk holds at most this many records.
pub(crate) const CHUNK_RECORDS: usize = 65_536;

/// How to read a file.
#[derive(Debug, Clone)]
pub struct Options {
    /// The format, where the file's name doesn't tell it or tells it wrong.
    pub format: Option<Format>,
    /// Longer records of NDJSON and CSV are dead letters, and aren't held in memory whole.
    pub max_record_bytes: usize,
    /// What stands between the fields of CSV; `None` for a comma, or a tab where the format is TSV.
    pub separator: Option<Separator>,
}

/// What stands between the fields of CSV: one byte that is neither a quote nor the end of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Separator(u8);

impl FromStr for Separator {
    type Err = String;

    /// One character of ASCII, or a name of one.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.as_bytes() {
            b"tab" | b"\\t" => Ok(Self(b'\t')),
            b"comma" => Ok(Self(b',')),
            b"semicolon" => Ok(Self(b';')),
            [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n') => Ok(Self(*byte)),
            _ => Err(format!(
                "`{}` is no separator: use one character, such as `;`, or `tab`",
                text.escape_debug()
            )),
        }
    }
}

/// Why a file can't be read, or can't be read further.
#[derive(Debug, Error)]
pub enum FileError {
    /// Check the path and its permissions.
    #[error("can't open `{file}`: {source}")]
    Open {
        /// The file.
        file: String,
        /// The system's error.
        source: io::Error,
    },
    /// Name the format.
    #[error(
        "can't tell the format of `{file}` from its name: pass `--input-format` with `ndjson`, `csv`, `tsv`, `parquet` or `arrow`"
    )]
    UnknownFormat {
        /// The file.
        file: String,
    },
    /// The file is truncated or damaged, or the disk failed. Everything before `record` has been yielded.
    #[error("reading `{file}` failed at record {record}, after {byte} bytes of the file: {source}")]
    Read {
        /// The file.
        file: String,
        /// The first record that wasn't read.
        record: u64,
        /// How many bytes of the source had been read, before decompression.
        byte: u64,
        /// The error, e.g. an unexpected end.
        source: io::Error,
    },
    /// The file isn't valid Arrow IPC, from `record` on.
    #[error(
        "`{file}` is not readable as arrow ipc at record {record}, after {byte} bytes of the file: {source}"
    )]
    Arrow {
        /// The file.
        file: String,
        /// The first record that wasn't read.
        record: u64,
        /// How many bytes of the source had been read, before decompression.
        byte: u64,
        /// Arrow's error.
        source: ArrowError,
    },
    /// The file isn't valid Parquet, from `record` on; a truncated one has no footer, so none of it can be read.
    #[error(
        "`{file}` is not readable as parquet at record {record}, after {byte} bytes of the file: {source}"
    )]
    Parquet {
        /// The file.
        file: String,
        /// The first record that wasn't read.
        record: u64,
        /// The share of the file that the rows before make up, in bytes.
        byte: u64,
        /// The Parquet reader's error.
        source: ParquetError,
    },
    /// Correct the first line.
    #[error("the header of `{file}` {problem}")]
    Header {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl FileError {
    /// What the operator does about it. A damaged file is invalid input; what the system reports may pass.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                ErrorKind::NotFound
            }
            Self::Open { .. } => ErrorKind::Unavailable,
            Self::Read { source, .. } if source.raw_os_error().is_some() => ErrorKind::Unavailable,
            _ => ErrorKind::Invalid,
        }
    }
}

/// Opens a file or a stream for reading from its first record.
///
/// # Errors
/// If it can't be opened, its format is unknown, or its beginning isn't what its format demands.
pub fn open(source: Source, options: &Options) -> Result<Chunks, FileError> {
    source::open(source, options)
}

/// Reads CSV out of memory, without looking for compression.
pub(crate) fn csv_of_body(
    body: Bytes,
    format: Format,
    separator: Option<Separator>,
    admission: &Admission,
) -> Result<Chunks, FileError> {
    source::csv_of_body(body, format, separator, admission.max_record_bytes())
}

/// The SHA-256 of everything that `reader` still holds.
///
/// # Errors
/// If reading fails.
pub fn sha256_of(reader: &mut impl Read) -> io::Result<[u8; 32]> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(digest.finalize().into()),
            Ok(read) => digest.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// One format's reader.
trait ChunkReader: Send {
    /// The next chunk, of at least one record, or `None` at a proper end.
    fn next_chunk(&mut self) -> Result<Option<Chunk>, FileError>;

    /// Promises that no record before `record` is wanted. A reader that can't jump may go on yielding them.
    fn skip_hint(&mut self, _record: u64) {}
}

/// The chunks of a file, in order. Ends after the first error.
pub struct Chunks {
    reader: Box<dyn ChunkReader>,
    skip_to: u64,
    ended: bool,
    /// Pieces of a chunk too large to hand out at once.
    pending: VecDeque<Chunk>,
}

impl Chunks {
    fn new(reader: Box<dyn ChunkReader>) -> Self {
        Self {
            reader,
            skip_to: 0,
            ended: false,
            pending: VecDeque::new(),
        }
    }

    /// Passes over the records before `record`, so that the next chunk begins with it. Going back is not possible:
    /// records that have been yielded stay so.
    pub fn skip_to(&mut self, record: u64) {
        self.skip_to = self.skip_to.max(record);
        self.reader.skip_hint(self.skip_to);
    }
}

impl Iterator for Chunks {
    type Item = Result<Chunk, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let chunk = match self.pending.pop_front() {
                Some(chunk) => chunk,
                None if self.ended => return None,
                None => match self.reader.next_chunk() {
                    Ok(Some(chunk)) => {
                        self.pending.extend(split(chunk));
                        continue;
                    }
                    outcome => {
                        self.ended = true;
                        return outcome.transpose();
                    }
                },
            };
            if let Some(chunk) = without_first(chunk, self.skip_to) {
                return Some(Ok(chunk));
            }
        }
    }
}

/// Typed batches come in the size of their file; the other readers keep to the limits themselves.
fn split(chunk: Chunk) -> Vec<Chunk> {
    let ChunkData::Batch(batch) = &chunk.data else {
        return vec![chunk];
    };
    let slice = |(start, rows): (usize, usize)| {
        let batch = batch.slice(start, rows);
        Chunk {
            first_record: chunk.first_record + start as u64,
            first_line: chunk.first_line,
            record_count: batch.num_rows() as u64,
            data: ChunkData::Batch(batch),
            dead: Vec::new(),
            bytes_read: chunk.bytes_read,
        }
    };
    let mut parts = Vec::new();
    parts_of(batch, 0..batch.num_rows(), &mut parts);
    parts.into_iter().map(slice).collect()
}

/// The rows of a batch in parts that take no more than a chunk, or are one row. Dictionaries and run
/// ends count as what they come to: a few bytes may stand for many rows.
fn parts_of(batch: &RecordBatch, rows: Range<usize>, parts: &mut Vec<(usize, usize)>) {
    let count = rows.len();
    let fits = |rows: &Range<usize>| {
        let part = batch.slice(rows.start, rows.len());
        plain_bytes(&part, CHUNK_BYTES as u64).is_some()
    };
    if count <= 1 || (count <= CHUNK_RECORDS && fits(&rows)) {
        parts.push((rows.start, count));
        return;
    }
    let middle = rows.start + count / 2;
    parts_of(batch, rows.start..middle, parts);
    parts_of(batch, middle..rows.end, parts);
}

/// What of `chunk` lies at `record` or after.
fn without_first(mut chunk: Chunk, record: u64) -> Option<Chunk> {
    let skipped = record.saturating_sub(chunk.first_record);
    if skipped == 0 {
        return Some(chunk);
    }
    if skipped >= chunk.record_count {
        return None;
    }
    let dead_before = chunk
        .dead
        .iter()
        .filter(|dead| dead.record < skipped)
        .count();
    let rows_before = skipped as usize - dead_before;
    chunk.dead.drain(..dead_before);
    for dead in &mut chunk.dead {
        dead.record -= skipped;
    }
    let tail = |batch: &RecordBatch| batch.slice(rows_before, batch.num_rows() - rows_before);
    chunk.data = match &chunk.data {
        ChunkData::Batch(batch) => ChunkData::Batch(tail(batch)),
        ChunkData::Text(batch, lines) => {
            ChunkData::Text(tail(batch), lines[rows_before..].to_vec())
        }
        ChunkData::Ndjson(bytes) => {
            let start = lines(bytes)
                .nth(rows_before)
                .map_or(bytes.len(), |line| line.start);
            if chunk.first_line > 0 {
                chunk.first_line += line_ends(&bytes[..start]);
            }
            ChunkData::Ndjson(bytes.slice(start..))
        }
    };
    chunk.first_record += skipped;
    chunk.record_count -= skipped;
    Some(chunk)
}

/// How many lines end in `bytes`.
fn line_ends(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

/// Where a file's name and position stand when an error has to say so.
struct Position {
    file: String,
    record: u64,
    counter: stream::Counter,
}

impl Position {
    fn read_error(&self, source: io::Error) -> FileError {
        let (file, record, byte) = (self.file.clone(), self.record, self.counter.get());
        FileError::Read {
            file,
            record,
            byte,
            source,
        }
    }

    fn arrow_error(&self, source: ArrowError) -> FileError {
        let (file, record, byte) = (self.file.clone(), self.record, self.counter.get());
        match source {
            ArrowError::IoError(_, source) => FileError::Read {
                file,
                record,
                byte,
                source,
            },
            source => FileError::Arrow {
                file,
                record,
                byte,
                source,
            },
        }
    }

    /// The next `record_count` records as a chunk.
    fn chunk(&mut self, data: ChunkData, dead: Vec<DeadLetter>, record_count: u64) -> Chunk {
        let first_record = self.record;
        self.record += record_count;
        Chunk {
            first_record,
            first_line: 1,
            record_count,
            data,
            dead,
            bytes_read: self.counter.get(),
        }
    }
}

impl std::fmt::Debug for Chunks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunks")
            .field("skip_to", &self.skip_to)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
