//! CSV with a header, as chunks of text columns. A row that doesn't fit the header costs itself only.
//!
//! A field between separators with nothing in it is NULL, one of two quotes is the empty text: so what is written by
//! `--format csv` comes back as it was. Spaces around names in the header are not part of them.

use std::collections::HashSet;
use std::io::{self, Read};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringViewBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use csv_core::ReadRecordResult;

use super::stream::Stream;
use super::{
    CHUNK_BYTES, CHUNK_RECORDS, Chunk, ChunkData, ChunkReader, FileError, Position, line_ends,
};
use crate::intake::admission::{DeadLetter, RAW_BYTES, oversized};

const READ_BYTES: usize = 256 * 1024;

pub(super) struct CsvReader {
    rows: Rows,
    position: Position,
    schema: SchemaRef,
    /// The error that ended the stream, until the rows before it have been yielded.
    failed: Option<io::Error>,
    ended: bool,
}

impl CsvReader {
    pub(super) fn open(
        stream: Stream,
        position: Position,
        max_record_bytes: usize,
        separator: u8,
    ) -> Result<Self, FileError> {
        let mut rows = Rows::new(stream, max_record_bytes, separator);
        let header = |problem: String| FileError::Header {
            file: position.file.clone(),
            problem,
        };
        let outcome = rows.next().map_err(|e| position.read_error(e))?;
        let mut fields = Vec::new();
        match outcome {
            RowOutcome::End => {}
            RowOutcome::Oversized => {
                return Err(header(format!("is longer than {max_record_bytes} bytes")));
            }
            RowOutcome::Row => {
                let mut seen = HashSet::new();
                let names = rows
                    .fields()
                    .ok_or_else(|| header("is not valid utf-8".to_owned()))?;
                for name in names {
                    let name = name.trim();
                    if !seen.insert(name) {
                        return Err(header(format!("names `{name}` twice: rename one")));
                    }
                    fields.push(Field::new(name, DataType::Utf8View, true));
                }
                if let [only] = &fields[..]
                    && let Some(problem) = other_separator(only.name(), separator)
                {
                    return Err(header(problem));
                }
            }
        }
        let ended = outcome == RowOutcome::End;
        Ok(Self {
            rows,
            position,
            schema: Arc::new(Schema::new(fields)),
            failed: None,
            ended,
        })
    }

    /// The current row's values, or why it has none.
    fn values(&self) -> Result<Vec<Option<&str>>, String> {
        let (found, expected) = (self.rows.field_count, self.schema.fields().len());
        if found != expected {
            return Err(format!("row has {found} fields, the header has {expected}"));
        }
        let fields = self.rows.fields();
        let fields = fields.ok_or_else(|| "record is not valid utf-8".to_owned())?;
        if !fields.contains(&"") {
            return Ok(fields.into_iter().map(Some).collect());
        }
        let quoted = self.rows.quoted();
        Ok(fields
            .into_iter()
            .zip(quoted)
            .map(|(field, quoted)| (quoted || !field.is_empty()).then_some(field))
            .collect())
    }

    fn batch(
        &self,
        columns: Vec<StringViewBuilder>,
        rows: usize,
    ) -> Result<RecordBatch, FileError> {
        let arrays = columns
            .into_iter()
            .map(|mut column| Arc::new(column.finish()) as ArrayRef)
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options);
        batch.map_err(|e| self.position.arrow_error(e))
    }
}

impl ChunkReader for CsvReader {
    fn next_chunk(&mut self) -> Result<Option<Chunk>, FileError> {
        let mut columns: Vec<_> = self
            .schema
            .fields()
            .iter()
            .map(|_| StringViewBuilder::new())
            .collect();
        let mut dead: Vec<DeadLetter> = Vec::new();
        let mut lines = Vec::new();
        let (mut rows, mut bytes) = (0, 0);
        while !self.ended && rows + dead.len() < CHUNK_RECORDS && bytes < CHUNK_BYTES as u64 {
            let record = (rows + dead.len()) as u64;
            match self.rows.next() {
                Ok(RowOutcome::Row) => match self.values() {
                    Ok(values) => {
                        rows += 1;
                        lines.push(self.rows.line);
                        columns
                            .iter_mut()
                            .zip(values)
                            .for_each(|(column, value)| column.append_option(value));
                    }
                    Err(reason) => {
                        dead.push(DeadLetter {
                            record,
                            line: Some(self.rows.line),
                            field: None,
                            reason,
                            raw: self.rows.raw(),
                        });
                    }
                },
                Ok(RowOutcome::Oversized) => {
                    dead.push(oversized(
                        record,
                        self.rows.line,
                        &self.rows.raw,
                        self.rows.size_bytes,
                        self.rows.max_record_bytes,
                    ));
                }
                Ok(RowOutcome::End) => self.ended = true,
                Err(error) => {
                    self.failed = Some(error);
                    self.ended = true;
                }
            }
            bytes += self.rows.size_bytes;
        }
        if rows + dead.len() > 0 {
            let data = ChunkData::Text(self.batch(columns, rows)?, lines);
            let records = (rows + dead.len()) as u64;
            return Ok(Some(self.position.chunk(data, dead, records)));
        }
        self.failed
            .take()
            .map_or(Ok(None), |error| Err(self.position.read_error(error)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowOutcome {
    Row,
    /// Longer than the limit; `raw` holds its head.
    Oversized,
    End,
}

/// What is wrong with a header of one name, where that holds another separator than `separator`.
fn other_separator(name: &str, separator: u8) -> Option<String> {
    let others = [
        (b';', "a semicolon", "`;`"),
        (b'\t', "a tab", "`tab`"),
        (b'|', "a bar", "`|`"),
        (b',', "a comma", "`,`"),
    ];
    let found = others
        .iter()
        .find(|(byte, _, _)| *byte != separator && name.as_bytes().contains(byte))?;
    let (_, what, written) = found;
    Some(format!(
        "is one name with {what} in it: where that separates the fields, say so with `--separator` or, over HTTP, `?separator=`, as {written}"
    ))
}

/// The rows of a stream, one at a time, in memory bounded by the longest row allowed.
struct Rows {
    stream: Stream,
    core: csv_core::Reader,
    separator: u8,
    max_record_bytes: usize,
    input: Vec<u8>,
    /// What of `input` is read but not parsed.
    start: usize,
    end: usize,
    /// The current row's values one after the other, and where each ends.
    values: Vec<u8>,
    ends: Vec<usize>,
    field_count: usize,
    /// The current row as it stands in the file, or its head where it is longer than it may be.
    raw: Vec<u8>,
    /// The current row's length in the file, without its line end.
    size_bytes: u64,
    /// The line of the file on which the current row begins, from 1.
    line: u64,
    /// The line of the file that is being read.
    reading_line: u64,
}

impl Rows {
    fn new(stream: Stream, max_record_bytes: usize, separator: u8) -> Self {
        Self {
            stream,
            core: csv_core::ReaderBuilder::new().delimiter(separator).build(),
            separator,
            max_record_bytes,
            input: vec![0; READ_BYTES],
            start: 0,
            end: 0,
            values: vec![0; 4096],
            ends: vec![0; 64],
            field_count: 0,
            raw: Vec::new(),
            size_bytes: 0,
            line: 1,
            reading_line: 1,
        }
    }

    fn next(&mut self) -> io::Result<RowOutcome> {
        self.raw.clear();
        self.size_bytes = 0;
        let (mut written, mut ended) = (0, 0);
        let mut last = 0;
        loop {
            if self.start == self.end {
                self.refill()?;
            }
            let input = &self.input[self.start..self.end];
            let (result, taken, put, fields) =
                self.core
                    .read_record(input, &mut self.values[written..], &mut self.ends[ended..]);
            last = input[..taken].last().copied().unwrap_or(last);
            let taken_from = self.start;
            self.start += taken;
            self.keep_raw(taken_from..self.start);
            written += put;
            ended += fields;
            let too_long = self.size_bytes > self.max_record_bytes as u64 + 1;
            match result {
                ReadRecordResult::InputEmpty => {}
                // What an oversized row says is lost anyway, so its buffers go round.
                ReadRecordResult::OutputFull if too_long => written = 0,
                ReadRecordResult::OutputEndsFull if too_long => ended = 0,
                ReadRecordResult::OutputFull => self.values.resize(self.values.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::End => return Ok(RowOutcome::End),
                ReadRecordResult::Record => {
                    self.field_count = ended;
                    if matches!(last, b'\r' | b'\n') {
                        self.size_bytes = self.size_bytes.saturating_sub(1);
                        self.raw
                            .truncate(usize::try_from(self.size_bytes).unwrap_or(usize::MAX));
                    }
                    let oversized = self.size_bytes > self.max_record_bytes as u64;
                    return Ok(if oversized {
                        RowOutcome::Oversized
                    } else {
                        RowOutcome::Row
                    });
                }
            }
        }
    }

    fn refill(&mut self) -> io::Result<()> {
        self.start = 0;
        self.end = 0;
        loop {
            match self.stream.read(&mut self.input) {
                Ok(read) => {
                    self.end = read;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Line ends before a row are the end of the one before, or blank lines.
    fn keep_raw(&mut self, taken: std::ops::Range<usize>) {
        let mut taken = &self.input[taken];
        if self.size_bytes == 0 {
            while let [end @ (b'\r' | b'\n'), rest @ ..] = taken {
                self.reading_line += u64::from(*end == b'\n');
                taken = rest;
            }
            self.line = self.reading_line;
        }
        self.reading_line += line_ends(taken);
        self.size_bytes += taken.len() as u64;
        let most = RAW_BYTES.max(self.max_record_bytes);
        let room = most.saturating_add(1).saturating_sub(self.raw.len());
        self.raw.extend_from_slice(&taken[..taken.len().min(room)]);
    }

    fn raw(&self) -> Bytes {
        Bytes::copy_from_slice(&self.raw[..self.raw.len().min(RAW_BYTES)])
    }

    /// Whether each of the current row's values begins with a quote, which its reader does not tell.
    fn quoted(&self) -> Vec<bool> {
        let mut quoted = Vec::with_capacity(self.field_count);
        let mut bytes = self.raw.iter().copied().peekable();
        loop {
            let is_quoted = bytes.next_if_eq(&b'"').is_some();
            quoted.push(is_quoted);
            if is_quoted {
                // Two quotes are one in the value.
                while let Some(byte) = bytes.next() {
                    if byte == b'"' && bytes.next_if_eq(&b'"').is_none() {
                        break;
                    }
                }
            }
            if !bytes.by_ref().any(|byte| byte == self.separator) {
                return quoted;
            }
        }
    }

    /// The current row's values, unless one isn't UTF-8.
    fn fields(&self) -> Option<Vec<&str>> {
        let mut start = 0;
        let value = |end: &usize| {
            let value = std::str::from_utf8(&self.values[start..*end]).ok();
            start = *end;
            value
        };
        self.ends[..self.field_count].iter().map(value).collect()
    }
}
