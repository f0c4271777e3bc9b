//! Typed rows from Parquet and from Arrow IPC.

use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;

use anabranch_shared::ipc::{IpcFile, IpcLimit, IpcStream, caught};
use anabranch_shared::parquet_bounds::{check_footer, check_pages};
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Fields, Schema, TimeUnit};
use arrow::error::ArrowError;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Type as PhysicalType;
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;

use super::stream::Stream;
use super::{CHUNK_BYTES, CHUNK_RECORDS, Chunk, ChunkData, ChunkReader, FileError, Position};

/// What one batch of a file may take, with its dictionaries.
const BATCH: IpcLimit = IpcLimit {
    bytes: 2 << 30,
    name: "the most of one batch of a file",
};

/// Reads Parquet row by row number: rows before a skip's target are passed over without decoding their pages.
pub(super) struct ParquetReader {
    state: State,
    position: Position,
    total_rows: u64,
    file_bytes: u64,
}

enum State {
    Opened(Box<ParquetRecordBatchReaderBuilder<File>>),
    Reading(ParquetRecordBatchReader),
    Ended,
}

impl ParquetReader {
    pub(super) fn open(file: File, position: Position) -> Result<Self, FileError> {
        let file_bytes = source_bytes(&file, &position)?;
        let load = || {
            check_footer(&file).map_err(stated)?;
            let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::default())?;
            check_pages(&file, metadata.metadata()).map_err(stated)?;
            with_int96_in_micros(metadata)
        };
        let metadata = whole(load).map_err(|source| parquet_error(&position, source))?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
        let groups = builder.metadata().row_groups();
        let sum = |of: fn(&RowGroupMetaData) -> i64| {
            let numbers = groups.iter().map(|group| of(group).max(0));
            numbers.fold(0, i64::saturating_add)
        };
        let decoded = sum(RowGroupMetaData::total_byte_size);
        let rows = sum(RowGroupMetaData::num_rows);
        let total_rows = u64::try_from(rows).unwrap_or(0);
        let row_bytes = usize::try_from(decoded.max(0) / rows.max(1)).unwrap_or(0) + 1;
        let builder = builder.with_batch_size((CHUNK_BYTES / row_bytes).clamp(1, CHUNK_RECORDS));
        Ok(Self {
            state: State::Opened(Box::new(builder)),
            position,
            total_rows,
            file_bytes,
        })
    }
}

/// What the check of lengths says.
fn stated(e: std::io::Error) -> ParquetError {
    match e.kind() {
        std::io::ErrorKind::InvalidData => ParquetError::General(e.to_string()),
        _ => ParquetError::External(Box::new(e)),
    }
}

/// Runs something that reads Parquet; where it panics the file is at fault.
fn whole<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    // Numbers of the footer are its reader's to believe.
    caught(|| Ok(read())).unwrap_or_else(|e| Err(e.into()))
}

/// INT96 as instants in microseconds. As nanoseconds, which is how they are read unless told otherwise, years outside
/// 1677 to 2262 would wrap around into others, before anybody could refuse them.
fn with_int96_in_micros(
    metadata: ArrowReaderMetadata,
) -> Result<ArrowReaderMetadata, ParquetError> {
    let leaves = metadata.parquet_schema().columns();
    let is_int96: Vec<bool> = leaves
        .iter()
        .map(|leaf| leaf.physical_type() == PhysicalType::INT96)
        .collect();
    if !is_int96.contains(&true) {
        return Ok(metadata);
    }
    let schema = metadata.schema();
    let mut leaves = is_int96.into_iter();
    let fields: Vec<FieldRef> = schema
        .fields()
        .iter()
        .map(|field| in_micros(field, &mut leaves))
        .collect();
    let schema = Schema::new_with_metadata(fields, schema.metadata().clone());
    let options = ArrowReaderOptions::new().with_schema(Arc::new(schema));
    ArrowReaderMetadata::try_new(metadata.metadata().clone(), options)
}

/// A field with its leaves that are INT96 in microseconds; `leaves` says of each leaf, in order, whether it is one.
fn in_micros(field: &FieldRef, leaves: &mut impl Iterator<Item = bool>) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::List(item) => DataType::List(in_micros(item, leaves)),
        DataType::LargeList(item) => DataType::LargeList(in_micros(item, leaves)),
        DataType::FixedSizeList(item, size) => {
            DataType::FixedSizeList(in_micros(item, leaves), *size)
        }
        DataType::Map(entries, sorted) => DataType::Map(in_micros(entries, leaves), *sorted),
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| in_micros(field, leaves));
            DataType::Struct(Fields::from_iter(fields.collect::<Vec<_>>()))
        }
        leaf => match leaves.next() {
            Some(true) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            _ => leaf.clone(),
        },
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}

/// The size of the source: of the stream that was spooled, or of the file itself.
fn source_bytes(file: &File, position: &Position) -> Result<u64, FileError> {
    match position.counter.get() {
        0 => Ok(file.metadata().map_err(|e| position.read_error(e))?.len()),
        spooled => Ok(spooled),
    }
}

fn parquet_error(position: &Position, source: ParquetError) -> FileError {
    let (file, record, byte) = (
        position.file.clone(),
        position.record,
        position.counter.get(),
    );
    FileError::Parquet {
        file,
        record,
        byte,
        source,
    }
}

impl ChunkReader for ParquetReader {
    fn next_chunk(&mut self) -> Result<Option<Chunk>, FileError> {
        loop {
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Opened(builder) => {
                    let reader = whole(|| builder.build())
                        .map_err(|source| parquet_error(&self.position, source))?;
                    self.state = State::Reading(reader);
                }
                State::Reading(mut reader) => {
                    let batch = whole(|| Ok(reader.next().transpose()?));
                    let Some(batch) = batch.map_err(|e| parquet_error(&self.position, e))? else {
                        return Ok(None);
                    };
                    self.state = State::Reading(reader);
                    let rows = batch.num_rows() as u64;
                    if rows > 0 {
                        let done =
                            (self.position.record + rows) as u128 * u128::from(self.file_bytes);
                        let share = done / u128::from(self.total_rows.max(1));
                        self.position
                            .counter
                            .set(u64::try_from(share).unwrap_or(self.file_bytes));
                        return Ok(Some(self.position.chunk(
                            ChunkData::Batch(batch),
                            Vec::new(),
                            rows,
                        )));
                    }
                }
                State::Ended => return Ok(None),
            }
        }
    }

    fn skip_hint(&mut self, record: u64) {
        let state = std::mem::replace(&mut self.state, State::Ended);
        self.state = match state {
            State::Opened(builder) => {
                let skipped = record.min(self.total_rows);
                self.position.record = skipped;
                State::Opened(Box::new(
                    builder.with_offset(usize::try_from(skipped).unwrap_or(usize::MAX)),
                ))
            }
            state => state,
        };
    }
}

/// Reads the batches of an Arrow IPC file or stream.
pub(super) struct IpcReader {
    batches: Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>,
    position: Position,
}

impl IpcReader {
    pub(super) fn open_stream(stream: Stream, position: Position) -> Result<Self, FileError> {
        let reader = IpcStream::open(BufReader::new(stream), BATCH);
        Ok(Self {
            batches: Box::new(reader.map_err(|e| position.arrow_error(e))?),
            position,
        })
    }

    pub(super) fn open_file(file: File, position: Position) -> Result<Self, FileError> {
        let bytes = source_bytes(&file, &position)?;
        let reader = IpcFile::open(BufReader::new(file), BATCH);
        let reader = reader.map_err(|e| position.arrow_error(e))?;
        let total = reader.len().max(1) as u64;
        let counter = position.counter.clone();
        // Batches are about equal in size, so their count measures progress well enough.
        let counted = reader.zip(1_u64..).map(move |(batch, nth)| {
            counter.set(bytes / total * nth);
            batch
        });
        Ok(Self {
            batches: Box::new(counted),
            position,
        })
    }
}

impl ChunkReader for IpcReader {
    fn next_chunk(&mut self) -> Result<Option<Chunk>, FileError> {
        loop {
            let batch = self.batches.next().transpose();
            let Some(batch) = batch.map_err(|e| self.position.arrow_error(e))? else {
                return Ok(None);
            };
            let rows = batch.num_rows() as u64;
            if rows > 0 {
                return Ok(Some(self.position.chunk(
                    ChunkData::Batch(batch),
                    Vec::new(),
                    rows,
                )));
            }
        }
    }
}
