//! Admission: input records become typed facts of their topic, or dead letters with a reason.
//!
//! Owns the verdict on every record and nothing else: it doesn't number, store or deduplicate facts. A verdict depends
//! on the record and the topic alone, never on the records around it.
//!
//! # Semantics
//! - Field names match exactly, those of columns in any case; a name that begins with `_` is undeclared. What each type
//!   takes is the table in `shared/src/convert/column.rs`.
//! - A record that names a declared field twice is a dead letter: neither value is the right one to drop. Undeclared
//!   fields are kept as they came, repeated ones included.
//! - NULL and absence are the same, and a dead letter where the field is not null.
//! - Timestamps and dates outside the years 1678 to 2261 are dead letters in every field, because a view may turn them
//!   into nanoseconds.
//! - Of several faults in one record the first that was met is the reason.

mod batch;
mod chunk;
mod encode;
mod json;
mod outcome;
mod reason;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use anabranch_shared::convert::Column;
use anabranch_shared::settings::{FieldReads, FieldSettings, UnknownFields};
use anabranch_shared::{EXTRA, ErrorKind};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use thiserror::Error;

pub use chunk::{Chunk, ChunkData};
pub(crate) use encode::raw_rows;
pub(crate) use json::{BYTE_ORDER_MARK, is_blank, lines, oversized, push_line};
pub(crate) use outcome::keep_rows;

/// How much of an oversized record a dead letter keeps, in bytes.
pub const RAW_BYTES: usize = 64 * 1024;

/// More dead letters than this aren't kept of one input: it is refused whole, because they would take many times its
/// size in memory. Chunks of files hold fewer records.
pub const MAX_DEAD_LETTERS: usize = 100_000;

/// A record of JSON on one line, as it was kept of a source whose records may break theirs.
pub fn one_line(record: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(record.len());
    push_line(&mut line, record);
    line.into()
}

/// What came of a run of input records. Facts and dead letters together account for each of them exactly once.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// The facts: the declared fields, then `_extra` (`Utf8View`, nullable).
    pub facts: RecordBatch,
    /// For each fact the index of its input record, ascending.
    pub records: Vec<u64>,
    /// The others, ascending by record.
    pub dead: Vec<DeadLetter>,
    /// How many records the input held.
    pub record_count: u64,
    /// How many of the facts carried undeclared fields, kept or not.
    pub unknown_fields: u64,
}

impl Admitted {
    /// Why not all of it became facts, where that is so.
    pub fn refusal(&self) -> Option<String> {
        let first = self.dead.first()?;
        let place = match first.line {
            Some(line) => format!("record {}, line {line}", first.record),
            None => format!("record {}", first.record),
        };
        Some(format!(
            "{} of {} records can't become facts; the first is {place}: {}",
            self.dead.len(),
            self.record_count,
            first.reason
        ))
    }
}

/// An input record that could not become a fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its index in the input, from 0.
    pub record: u64,
    /// The line of the input on which it begins, from 1; `None` where the input has no lines.
    pub line: Option<u64>,
    /// The field at fault, where it is one field's.
    pub field: Option<String>,
    /// Why, for a person.
    pub reason: String,
    /// The record as it came: a line without its end, or a row as a JSON object. An oversized record is cut to
    /// [`RAW_BYTES`].
    pub raw: Bytes,
}

impl DeadLetter {
    /// Whether a field that is there twice is at fault.
    pub(crate) fn is_twice(&self) -> bool {
        let field = self.field.as_deref();
        field.is_some_and(|field| reason::Fault::twice(field).reason == self.reason)
    }
}

/// Why a topic's schema can't be admitted to, why an input is refused whole, or a defect of admission itself. Never a
/// fault of one record.
#[derive(Debug, Error)]
pub enum AdmissionError {
    /// A field's type isn't one of the canonical ones: fix the caller.
    #[error("field `{field}` has the type {data_type}, which is not a canonical type of a topic")]
    UnsupportedType {
        /// The field.
        field: String,
        /// Its Arrow type.
        data_type: DataType,
    },
    /// Names that begin with `_` belong to the log.
    #[error("field `{field}` begins with `_`, which is reserved: rename it")]
    ReservedName {
        /// The field.
        field: String,
    },
    /// The event time must be declared.
    #[error(
        "event time `{field}` is not a declared field of the topic: declare it as `timestamp` or `date`"
    )]
    NoEventTime {
        /// The field that was named as the event time.
        field: String,
    },
    /// The same name is declared twice.
    #[error("field `{field}` is declared twice: remove one")]
    DeclaredTwice {
        /// The field.
        field: String,
    },
    /// The input is of another kind than it should be, most likely.
    #[error(
        "more than {MAX_DEAD_LETTERS} of the records can't become facts, and nothing was admitted; the first is record {record}: {reason}; correct them, or send them in parts"
    )]
    TooManyDead {
        /// The first that can't, from 0.
        record: u64,
        /// Why it can't.
        reason: String,
    },
    /// Arrow refused what admission had built; the input is not at fault.
    #[error("could not build a batch of facts: {source}")]
    Build {
        /// Arrow's error.
        source: ArrowError,
    },
}

impl AdmissionError {
    /// What the operator does about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Build { .. } => ErrorKind::Internal,
            _ => ErrorKind::Invalid,
        }
    }
}

/// Admits the records of one topic. Immutable and cheap to share.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The declared fields, then `_extra`.
    schema: SchemaRef,
    declared: usize,
    by_name: HashMap<String, usize>,
    /// The same by names in lower case, where no two fields share one.
    by_lower_name: HashMap<String, Option<usize>>,
    /// How each declared field is read.
    reads: Vec<FieldReads>,
    unknown: UnknownFields,
    max_record_bytes: usize,
}

impl Admission {
    /// Admission to a topic with the canonical `schema` of its declared fields. Lines longer than `max_record_bytes`
    /// are dead letters; batches arrive parsed, so that limit doesn't apply to them.
    ///
    /// # Errors
    /// If the schema isn't one that a topic can have.
    pub fn new(
        schema: &SchemaRef,
        event_time: &str,
        unknown: UnknownFields,
        max_record_bytes: usize,
    ) -> Result<Self, AdmissionError> {
        let mut by_name = HashMap::new();
        for (index, field) in schema.fields().iter().enumerate() {
            let name = field.name().clone();
            if name.starts_with('_') {
                return Err(AdmissionError::ReservedName { field: name });
            }
            if Column::new(field.data_type(), 0, FieldReads::default()).is_none() {
                return Err(AdmissionError::UnsupportedType {
                    field: name,
                    data_type: field.data_type().clone(),
                });
            }
            if by_name.insert(name.clone(), index).is_some() {
                return Err(AdmissionError::DeclaredTwice { field: name });
            }
        }
        let is_time = |index: &usize| {
            matches!(
                schema.field(*index).data_type(),
                DataType::Timestamp(_, _) | DataType::Date32
            )
        };
        if !by_name.get(event_time).is_some_and(is_time) {
            return Err(AdmissionError::NoEventTime {
                field: event_time.to_owned(),
            });
        }
        let mut by_lower_name: HashMap<String, Option<usize>> = HashMap::new();
        for (name, index) in &by_name {
            let lower = by_lower_name.entry(name.to_lowercase());
            lower
                .and_modify(|twin| *twin = None)
                .or_insert(Some(*index));
        }
        let mut fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(EXTRA, DataType::Utf8View, true)));
        let declared = schema.fields().len();
        let schema = Arc::new(Schema::new(fields));
        Ok(Self {
            schema,
            declared,
            by_name,
            by_lower_name,
            reads: vec![FieldReads::default(); declared],
            unknown,
            max_record_bytes,
        })
    }

    /// The same, with fields read as a project's settings say; a field that those lack is read as by default.
    #[must_use]
    pub fn reading(mut self, settings: &[FieldSettings]) -> Self {
        for field in settings {
            if let Some(index) = self.field_named(&field.name) {
                self.reads[index] = field.reads;
            }
        }
        self
    }

    /// The schema of the facts: the declared fields, then `_extra`.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Admits newline-separated JSON objects. `\r\n` ends a line too, blank lines are not records, and the last line
    /// may lack its end.
    ///
    /// # Errors
    /// Where there are more than [`MAX_DEAD_LETTERS`], and on a defect of admission; bad records are dead letters.
    pub fn ndjson(&self, bytes: &Bytes) -> Result<Admitted, AdmissionError> {
        json::admit(self, bytes)
    }

    /// Admits the rows of a typed batch, columns matched by name, each value cast where nothing is lost.
    ///
    /// # Errors
    /// As [`Self::ndjson`].
    pub fn batch(&self, batch: &RecordBatch) -> Result<Admitted, AdmissionError> {
        batch::admit(self, batch, batch::Source::Typed)
    }

    /// Admits the rows of a batch of strings that stand for values of any type, as in CSV. An empty string is one in a
    /// field of text or bytes, and NULL in others.
    ///
    /// # Errors
    /// As [`Self::ndjson`].
    pub fn text_batch(&self, batch: &RecordBatch) -> Result<Admitted, AdmissionError> {
        batch::admit(self, batch, batch::Source::Untyped)
    }

    /// Admits a chunk of a file, with the records that its reader gave up on. Indices count from the chunk's first
    /// record.
    ///
    /// # Errors
    /// As [`Self::ndjson`].
    pub fn chunk(&self, chunk: &Chunk) -> Result<Admitted, AdmissionError> {
        let mut admitted = match &chunk.data {
            ChunkData::Ndjson(bytes) => self.ndjson(bytes)?,
            ChunkData::Batch(batch) => self.batch(batch)?,
            ChunkData::Text(batch, _) => self.text_batch(batch)?,
        };
        for dead in &mut admitted.dead {
            dead.line = match &chunk.data {
                ChunkData::Ndjson(_) if chunk.first_line == 0 => None,
                ChunkData::Ndjson(_) => dead.line.map(|line| line + chunk.first_line - 1),
                ChunkData::Batch(_) => None,
                ChunkData::Text(_, lines) => usize::try_from(dead.record)
                    .ok()
                    .and_then(|row| lines.get(row).copied()),
            };
        }
        outcome::interleave(&mut admitted, &chunk.dead);
        Ok(admitted)
    }

    /// What was admitted of consecutive parts of one input, as of the whole of it.
    ///
    /// # Errors
    /// As [`Self::ndjson`].
    pub fn joined(&self, parts: Vec<Admitted>) -> Result<Admitted, AdmissionError> {
        outcome::joined(&self.schema, parts)
    }

    /// Bytes of memory that a fact takes at least, whatever of its fields a record has.
    pub fn row_bytes(&self) -> u64 {
        let of = |field: &FieldRef| match field.data_type() {
            DataType::Boolean => 1,
            DataType::List(_) => size_of::<i32>(),
            // Text and bytes are views.
            other => other.primitive_width().unwrap_or(size_of::<u128>()),
        };
        self.schema.fields().iter().map(of).sum::<usize>() as u64
    }

    /// Lines longer than this are dead letters.
    pub fn max_record_bytes(&self) -> usize {
        self.max_record_bytes
    }

    fn fields(&self) -> &[FieldRef] {
        &self.schema.fields()[..self.declared]
    }

    fn field_named(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The declared field that each column of a batch is. Names in another case are its too, where no column has just
    /// its name: no two fields differ in case alone, and columns of files are named by people and tools that don't
    /// mind it.
    fn fields_of(&self, batch: &Schema) -> Vec<Option<usize>> {
        let names = || batch.fields().iter().map(|field| field.name());
        let exact: Vec<Option<usize>> = names().map(|name| self.field_named(name)).collect();
        let of = |(name, found): (&String, &Option<usize>)| {
            let in_lower = || *self.by_lower_name.get(&name.to_lowercase())?;
            found.or_else(|| in_lower().filter(|field| !exact.contains(&Some(*field))))
        };
        names().zip(&exact).map(of).collect()
    }

    /// Empty columns of the declared fields; all their types were checked when admission was made.
    fn columns(&self, rows: usize) -> Vec<Column> {
        self.fields()
            .iter()
            .zip(&self.reads)
            .filter_map(|(field, reads)| Column::new(field.data_type(), rows, *reads))
            .collect()
    }
}
