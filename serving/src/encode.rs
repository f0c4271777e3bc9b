//! Answers as bytes: Arrow IPC stream, JSON array, NDJSON, CSV or Parquet, written batch by batch and
//! taken as they come. Owns how much memory an answer takes until it is sent.

use std::io::{self, Write};
use std::sync::Arc;

use anabranch_shared::{Error, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::{JsonArray, LineDelimited, Writer};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;

use crate::arrow_form::{ArrowForm, Texts};
use crate::naming::{distinct_names, under};
use crate::text::{csv, json};

/// The content type of an Arrow IPC stream.
pub(crate) const ARROW: &str = "application/vnd.apache.arrow.stream";
/// The content type of JSON objects, one a line.
pub(crate) const NDJSON: &str = "application/x-ndjson";
/// The content type of a JSON array.
pub(crate) const JSON: &str = "application/json";
/// The content type of CSV.
pub(crate) const CSV: &str = "text/csv";
/// The content type of a Parquet file.
pub(crate) const PARQUET: &str = "application/vnd.apache.parquet";

/// Bytes that were written and not taken yet.
#[derive(Clone, Debug, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock())
    }

    fn bytes(&self) -> usize {
        self.0.lock().capacity()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An Arrow answer, and how its rows stand in it.
struct ArrowAnswer {
    writer: StreamWriter<Sink>,
    form: ArrowForm,
}

impl ArrowAnswer {
    fn new(schema: &SchemaRef, texts: Texts, sink: Sink) -> Result<Self> {
        let form = ArrowForm::new(schema, texts);
        let writer = StreamWriter::try_new(sink, form.schema())?;
        Ok(Self { writer, form })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        for batch in self.form.batches(batch)? {
            self.writer.write(&batch)?;
        }
        Ok(())
    }
}

enum Format {
    Arrow(Box<ArrowAnswer>),
    Lines(Writer<Sink, LineDelimited>),
    Array(Writer<Sink, JsonArray>),
    Csv,
    /// Columns of other names than the engine's, of types that a Parquet file has.
    Parquet(Box<ArrowWriter<Sink>>),
}

/// An answer on its way to bytes. What it takes counts as the queries' memory until it is dropped.
pub(crate) struct Encoder {
    format: Format,
    sink: Sink,
    /// The columns of JSON objects and of files, where names of the answer repeat.
    distinct: Option<SchemaRef>,
    reserved: MemoryReservation,
    /// Whether some of it was taken.
    has_begun: bool,
}

impl Encoder {
    pub(crate) fn new(
        schema: &SchemaRef,
        content_type: &str,
        texts: Texts,
        pool: &Arc<dyn MemoryPool>,
    ) -> Result<Self> {
        let mut sink = Sink::default();
        let distinct = distinct_names(schema);
        let format = match content_type {
            ARROW => Format::Arrow(Box::new(ArrowAnswer::new(schema, texts, sink.clone())?)),
            NDJSON => Format::Lines(json::writer(sink.clone())),
            CSV => {
                let written = csv::write_header(&mut sink, schema);
                written.map_err(|e| Error::io("an answer", e))?;
                Format::Csv
            }
            PARQUET => {
                let writer = ArrowWriter::try_new(sink.clone(), distinct.clone(), None)?;
                Format::Parquet(Box::new(writer))
            }
            _ => Format::Array(json::writer(sink.clone())),
        };
        let reserved = MemoryConsumer::new("answer").register(pool);
        Ok(Self {
            format,
            sink,
            distinct: (!Arc::ptr_eq(&distinct, schema)).then_some(distinct),
            reserved,
            has_begun: false,
        })
    }

    /// Adds rows. Whether memory has room for them: where not, what is ready is to be taken at once.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<bool> {
        match &mut self.format {
            Format::Arrow(answer) => answer.write(batch)?,
            Format::Lines(writer) => writer.write(&told_apart(&self.distinct, batch)?)?,
            Format::Array(writer) => writer.write(&told_apart(&self.distinct, batch)?)?,
            Format::Csv => csv::write_batch(&mut self.sink, batch)
                .map_err(|e| Error::Invalid(format!("the answer can't be written as CSV: {e}")))?,
            Format::Parquet(writer) => writer.write(&told_apart(&self.distinct, batch)?)?,
        }
        let bytes = self.bytes();
        let has_room = self.reserved.try_resize(bytes).is_ok();
        if let (Format::Parquet(writer), false) = (&mut self.format, has_room) {
            // Ends the row group, which else waits for more rows.
            writer.flush()?;
        }
        Ok(has_room)
    }

    /// What is held in memory.
    fn bytes(&self) -> usize {
        let waiting = match &self.format {
            Format::Parquet(writer) => writer.memory_size(),
            _ => 0,
        };
        self.sink.bytes() + waiting
    }

    /// How many bytes can be taken.
    pub(crate) fn ready(&self) -> usize {
        self.sink.0.lock().len()
    }

    /// What there is so far, once.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.has_begun = true;
        let taken = self.sink.take();
        // What is left is less than what was there.
        let left = self.bytes();
        self.reserved.try_resize(left).ok();
        taken
    }

    /// The rest of the answer.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        match &mut self.format {
            Format::Arrow(answer) => answer.writer.finish()?,
            Format::Lines(writer) => writer.finish()?,
            Format::Array(writer) => {
                writer.finish()?;
                if !self.has_begun && self.ready() == 0 {
                    return Ok(b"[]".to_vec());
                }
            }
            Format::Csv => {}
            Format::Parquet(writer) => {
                writer.finish()?;
            }
        }
        Ok(self.sink.take())
    }
}

/// A batch whose columns have different names.
fn told_apart(distinct: &Option<SchemaRef>, batch: &RecordBatch) -> Result<RecordBatch> {
    match distinct {
        Some(schema) => Ok(under(schema, batch)?),
        None => Ok(batch.clone()),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Array, ArrayRef, Int64Array, ListArray, MapArray, StringViewArray, StructArray,
    };
    use arrow::buffer::OffsetBuffer;
    use arrow::compute::cast;
    use arrow::datatypes::{DataType, Field, Fields, Schema};
    use arrow::ipc::reader::StreamReader;
    use arrow::util::pretty::pretty_format_batches;
    use bytes::Bytes;
    use datafusion::execution::memory_pool::{GreedyMemoryPool, UnboundedMemoryPool};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

    use super::*;

    const ROWS: usize = 8_192;

    /// Text of 100 bytes a row: plain, and in lists, structs and maps.
    fn whole() -> Result<RecordBatch> {
        let texts = |kind: &str| -> ArrayRef {
            let all = (0..ROWS).map(|row| Some(format!("{kind} {row:0>100}")));
            Arc::new(all.collect::<StringViewArray>())
        };
        let offsets = OffsetBuffer::from_repeated_length(1, ROWS);
        let field = |name: &str, nullable| Field::new(name, DataType::Utf8View, nullable);
        let item = Arc::new(field("item", true));
        let list = ListArray::try_new(item, offsets.clone(), texts("list"), None)?;
        let fields = Fields::from(vec![field("key", false), field("value", true)]);
        let columns = vec![texts("key"), texts("value")];
        let entries = StructArray::try_new(fields, columns, None)?;
        let entry = Field::new("entries", entries.data_type().clone(), false);
        let map = MapArray::try_new(Arc::new(entry), offsets, entries.clone(), None, false)?;
        Ok(RecordBatch::try_from_iter([
            ("text", texts("text")),
            ("bytes", cast(&texts("bytes"), &DataType::BinaryView)?),
            ("list", Arc::new(list) as ArrayRef),
            ("pair", Arc::new(entries) as ArrayRef),
            ("map", Arc::new(map) as ArrayRef),
        ])?)
    }

    fn sent(rows: &RecordBatch, texts: Texts) -> Result<Vec<u8>> {
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        let mut encoder = Encoder::new(rows.schema_ref(), ARROW, texts, &pool)?;
        encoder.write(rows)?;
        encoder.finish()
    }

    #[test]
    fn arrow_answers_hold_their_rows_alone() -> Result<()> {
        let whole = whole()?;
        let few = whole.slice(4_000, 2);
        let has_views = |schema: &Schema| format!("{schema:?}").contains("View");
        for texts in [Texts::Plain, Texts::Views] {
            let bytes = sent(&few, texts)?;
            assert!(bytes.len() < 8_000, "{texts:?}: {} bytes", bytes.len());
            let read = StreamReader::try_new(bytes.as_slice(), None)?;
            assert_eq!(has_views(&read.schema()), texts == Texts::Views);
            let read = read.collect::<std::result::Result<Vec<_>, _>>()?;
            let shown = |rows: &[RecordBatch]| pretty_format_batches(rows).map(|t| t.to_string());
            assert_eq!(shown(&read)?, shown(std::slice::from_ref(&few))?);
        }
        // What is sent of a whole batch is read back as it was.
        let bytes = sent(&whole, Texts::Views)?;
        let mut read = StreamReader::try_new(bytes.as_slice(), None)?;
        assert_eq!(read.next().transpose()?, Some(whole));
        Ok(())
    }

    #[test]
    fn what_has_no_room_is_taken_first() -> Result<()> {
        let rows = whole()?;
        for kind in [ARROW, NDJSON, JSON, CSV, PARQUET] {
            let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(100_000));
            let mut encoder = Encoder::new(rows.schema_ref(), kind, Texts::Plain, &pool)?;
            let mut taken = Vec::new();
            for _ in 0..3 {
                assert!(!encoder.write(&rows)?, "{kind}");
                let ready = encoder.ready();
                taken.extend(encoder.take());
                assert!(
                    ready > 100_000 && pool.reserved() < 10_000,
                    "{kind}: {ready}"
                );
            }
            taken.extend(encoder.finish()?);
            if kind == PARQUET {
                let read = ParquetRecordBatchReader::try_new(Bytes::from(taken), ROWS)?;
                assert_eq!(
                    read.map(|b| b.map_or(0, |b| b.num_rows())).sum::<usize>(),
                    3 * ROWS
                );
            }
        }
        Ok(())
    }

    #[test]
    fn objects_hold_each_name_once() -> Result<()> {
        let one = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
        let fields = ["count", "count"].map(|name| Field::new(name, DataType::Int64, true));
        let schema = Arc::new(Schema::new(fields.to_vec()));
        let rows = RecordBatch::try_new(schema.clone(), vec![one(), one()])?;
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        for (kind, expected) in [
            (JSON, r#"[{"count":1,"count_2":1}]"#),
            (NDJSON, "{\"count\":1,\"count_2\":1}\n"),
        ] {
            let mut encoder = Encoder::new(&schema, kind, Texts::Plain, &pool)?;
            encoder.write(&rows)?;
            assert_eq!(String::from_utf8_lossy(&encoder.finish()?), expected);
        }
        // A stream of Arrow holds them as they are.
        let bytes = sent(&rows, Texts::Plain)?;
        let read = StreamReader::try_new(bytes.as_slice(), None)?;
        assert_eq!(read.schema(), schema);
        Ok(())
    }

    #[test]
    fn views_are_sent_to_who_asks_for_them() {
        for (accept, texts) in [
            (ARROW, Texts::Plain),
            (
                "application/vnd.apache.arrow.stream; views=true",
                Texts::Views,
            ),
            (
                "application/vnd.apache.arrow.stream;views=true, */*",
                Texts::Views,
            ),
            (
                "application/vnd.apache.arrow.stream;views=false",
                Texts::Plain,
            ),
            ("application/json", Texts::Plain),
        ] {
            assert_eq!(Texts::accepted(accept), texts, "{accept}");
        }
    }
}
