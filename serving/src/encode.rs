//! Answers as bytes: Arrow IPC stream, JSON array or NDJSON, written batch by batch. Owns how much
//! memory an answer takes until it is sent.

use std::sync::Arc;

use anabranch_shared::{Error, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::{JsonArray, LineDelimited, Writer, WriterBuilder};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};

/// The content type of an Arrow IPC stream.
pub(crate) const ARROW: &str = "application/vnd.apache.arrow.stream";
/// The content type of JSON objects, one a line.
pub(crate) const NDJSON: &str = "application/x-ndjson";
/// The content type of a JSON array.
pub(crate) const JSON: &str = "application/json";

enum Format {
    Arrow(Box<StreamWriter<Vec<u8>>>),
    Lines(Writer<Vec<u8>, LineDelimited>),
    Array(Writer<Vec<u8>, JsonArray>),
}

/// An answer on its way to bytes. What it takes counts as the queries' memory until it is dropped.
pub(crate) struct Encoder {
    format: Format,
    reserved: MemoryReservation,
}

impl Encoder {
    pub(crate) fn new(
        schema: &SchemaRef,
        content_type: &str,
        pool: &Arc<dyn MemoryPool>,
    ) -> Result<Self> {
        let json = || WriterBuilder::new().with_explicit_nulls(true);
        let format = match content_type {
            ARROW => Format::Arrow(Box::new(StreamWriter::try_new(Vec::new(), schema)?)),
            NDJSON => Format::Lines(json().build(Vec::new())),
            _ => Format::Array(json().build(Vec::new())),
        };
        let reserved = MemoryConsumer::new("answer").register(pool);
        Ok(Self { format, reserved })
    }

    /// Adds rows.
    ///
    /// # Errors
    /// `Unavailable` where the answer is larger than the memory for queries.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let bytes = match &mut self.format {
            Format::Arrow(writer) => {
                writer.write(batch)?;
                writer.get_ref().capacity()
            }
            Format::Lines(writer) => {
                writer.write(batch)?;
                writer.get_ref().capacity()
            }
            Format::Array(writer) => {
                writer.write(batch)?;
                writer.get_ref().capacity()
            }
        };
        self.reserved.try_resize(bytes).map_err(|_| {
            Error::NoRoom(format!(
                "the answer has no room in memory, {} MB of it are there so far (`memory` in `[query]`); narrow the query, or ask for it in parts",
                bytes / 1_000_000
            ))
        })
    }

    /// The whole answer.
    pub(crate) fn finish(self) -> Result<Vec<u8>> {
        Ok(match self.format {
            Format::Arrow(writer) => writer.into_inner()?,
            Format::Lines(mut writer) => {
                writer.finish()?;
                writer.into_inner()
            }
            Format::Array(mut writer) => {
                writer.finish()?;
                match writer.into_inner() {
                    none if none.is_empty() => b"[]".to_vec(),
                    some => some,
                }
            }
        })
    }
}
