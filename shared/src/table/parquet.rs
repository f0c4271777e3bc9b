//! Parquet files of the log and of master views: written with the statistics that Delta readers
//! prune by and checksums, and read back in exact types.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Timelike};
use datafusion::common::hash_utils::{QualityRandomState, create_hashes};
use datafusion::common::stats::Precision;
use datafusion::common::utils::memory::get_record_batch_memory_size;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use serde_json::{Map, Value, json};

use self::sums::Tail;
use crate::damage::{damaged, lost};
use crate::fit::fit;
use crate::late_fields::{fit_facts, is_declared};
use crate::parquet_bounds::check_footer;
use crate::steady::uptime_ms;
use crate::table::{AddFile, Table};
use crate::topic::{EXTRA, LateReads, OFFSET, PARTITION};
use crate::{Error, OffsetRange, PartitionId, Result, planted};

pub(crate) mod sums;

/// Rows of a row group: small enough that a query skips most of a file.
const ROW_GROUP_ROWS: usize = 131_072;

/// Rows of a page of a sorted file: whoever asks for one row decodes so many.
const SORTED_PAGE_ROWS: usize = 4_096;

/// Rows by which it is decided how columns are encoded, and of how many parts of the first ones
/// they are.
const SAMPLE_ROWS: usize = 4_096;
const SAMPLE_PARTS: usize = 16;

/// Batches are not joined that take more bytes together: few of them, and large values.
const JOINED_BYTES: usize = 64 << 20;

/// Rows of a batch that a file is read in.
const READ_ROWS: usize = 8_192;

/// How many of the first columns get statistics in the table's log.
const STATISTICS_COLUMNS: usize = 32;

/// The tag of a file that names where its tail begins, and its checksum.
const TAIL_TAG: &str = "anabranch.tail";

/// The bytes of a file.
pub type FileBytes = Bytes;

/// A Parquet file in memory, and what the table's log says of it.
#[derive(Debug)]
pub struct EncodedFile {
    /// The file's bytes.
    pub body: Bytes,
    /// The file's entry in the table's log, still without tags.
    pub add: AddFile,
}

/// Writes batches as a Parquet file. `sorted_by` is how many of the first columns they are sorted
/// by.
pub fn encode_parquet(
    name: String,
    schema: &SchemaRef,
    batches: &[RecordBatch],
    sorted_by: usize,
) -> Result<EncodedFile> {
    let mut encoder = FileEncoder::new(name, schema, sorted_by)?;
    for batch in batches {
        encoder.write(batch)?;
    }
    encoder.finish()
}

/// Writes a Parquet file into memory, batch by batch.
pub struct FileEncoder {
    name: String,
    schema: SchemaRef,
    sorted_by: usize,
    /// Batches that were not given to the writer yet. The first ones decide how columns are
    /// encoded.
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
    writer: Option<ArrowWriter<Vec<u8>>>,
    rows: usize,
    /// For each column how many values are null.
    nulls: Vec<usize>,
}

impl FileEncoder {
    /// An encoder of no rows yet. `sorted_by` is how many of the first columns the batches are
    /// sorted by.
    pub fn new(name: String, schema: &SchemaRef, sorted_by: usize) -> Result<Self> {
        Ok(Self {
            name,
            sorted_by,
            waiting: Vec::new(),
            waiting_rows: 0,
            writer: None,
            rows: 0,
            nulls: vec![0; schema.fields().len()],
            schema: schema.clone(),
        })
    }

    /// Adds a batch of the file's schema.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows();
        for (nulls, column) in self.nulls.iter_mut().zip(batch.columns()) {
            *nulls += column.null_count();
        }
        self.waiting.push(batch.clone());
        self.waiting_rows += batch.num_rows();
        match self.waiting_rows >= SAMPLE_ROWS {
            true => self.write_waiting().map(|_| ()),
            false => Ok(()),
        }
    }

    /// Gives the waiting batches to the writer, as one: each takes it as long as some hundred rows.
    fn write_waiting(&mut self) -> Result<&mut ArrowWriter<Vec<u8>>> {
        self.waiting_rows = 0;
        let batches = std::mem::take(&mut self.waiting);
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.begin(&batches)?,
        };
        let writer = self.writer.insert(writer);
        let bytes = || {
            batches
                .iter()
                .map(get_record_batch_memory_size)
                .sum::<usize>()
        };
        match batches.len() > 1 && bytes() <= JOINED_BYTES {
            true => writer.write(&concat_batches(&self.schema, &batches)?)?,
            false => batches.iter().try_for_each(|batch| writer.write(batch))?,
        }
        Ok(writer)
    }

    /// Begins the file, which has `first` as its first batches.
    fn begin(&self, first: &[RecordBatch]) -> Result<ArrowWriter<Vec<u8>>> {
        let sorting = (0..self.sorted_by).filter_map(|i| {
            Some(SortingColumn {
                column_idx: i32::try_from(i).ok()?,
                descending: false,
                nulls_first: true,
            })
        });
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_sorting_columns((self.sorted_by > 0).then(|| sorting.collect()))
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_created_by(concat!("anabranch ", env!("CARGO_PKG_VERSION")).to_owned());
        if self.sorted_by > 0 {
            properties = properties.set_data_page_row_count_limit(SORTED_PAGE_ROWS);
            // Nobody looks for rows by other columns.
            for field in self.schema.fields().iter().skip(self.sorted_by) {
                let path = ColumnPath::new(vec![field.name().clone()]);
                properties =
                    properties.set_column_statistics_enabled(path, EnabledStatistics::Chunk);
            }
        }
        // Sorted values repeat where the sample does not show it.
        for index in self.sorted_by..self.schema.fields().len() {
            if hardly_repeats(first, index)? {
                let field = self.schema.field(index);
                let path = ColumnPath::new(vec![field.name().clone()]);
                properties = properties.set_column_dictionary_enabled(path.clone(), false);
                if is_integer(field.data_type()) {
                    properties =
                        properties.set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
                }
            }
        }
        let (schema, properties) = (self.schema.clone(), properties.build());
        Ok(ArrowWriter::try_new(Vec::new(), schema, Some(properties))?)
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// About how many bytes the file has so far.
    pub fn size_bytes(&self) -> usize {
        let written = |w: &ArrowWriter<Vec<u8>>| w.bytes_written() + w.in_progress_size();
        self.writer.as_ref().map_or(0, written)
    }

    /// The whole file.
    pub fn finish(mut self) -> Result<EncodedFile> {
        let writer = self.write_waiting()?;
        writer.flush()?;
        writer.sync().map_err(|e| Error::Internal(e.to_string()))?;
        let tail_start = writer.inner().len();
        let sums = sums::of_data(writer.inner(), writer.flushed_row_groups());
        sums.into_iter()
            .for_each(|sums| writer.append_key_value_metadata(sums));
        // The writer itself forgets its row groups when it ends.
        let metadata = writer.finish()?;
        let body = Bytes::from(std::mem::take(writer.inner_mut()));
        let tail = Tail::of(&body, tail_start);
        let stats = statistics_json(metadata.row_groups(), &self.schema, self.rows, &self.nulls)?;
        let size = i64::try_from(body.len()).unwrap_or(i64::MAX);
        let mut add = AddFile {
            path: self.name,
            size,
            stats: Some(stats),
            made: Some(uptime_ms()),
            ..Default::default()
        };
        add.set_tag(TAIL_TAG, tail.encode());
        Ok(EncodedFile { body, add })
    }
}

/// Whether hardly a value of a column comes twice, so that a dictionary of them is of no use and
/// takes longer than writing them.
fn hardly_repeats(first: &[RecordBatch], column: usize) -> Result<bool> {
    let rows: usize = first.iter().map(RecordBatch::num_rows).sum();
    // Parts of all that is there: neighbours may repeat, or not, more than others do.
    let part = SAMPLE_ROWS / SAMPLE_PARTS;
    let step = (rows / SAMPLE_PARTS).max(part);
    let state = QualityRandomState::with_seed(0);
    let (mut seen, mut sampled, mut hashes) = (HashSet::new(), 0, Vec::new());
    let mut before = 0;
    for batch in first {
        let values = batch.column(column);
        if values.data_type().is_nested() {
            return Ok(false);
        }
        let end = before + batch.num_rows();
        for start in (before / step * step..end).step_by(step) {
            let (from, to) = (start.max(before), (start + part).min(end));
            if from >= to {
                continue;
            }
            let values = values.slice(from - before, to - from);
            hashes.clear();
            hashes.resize(values.len(), 0);
            create_hashes([&values], &state, &mut hashes)?;
            seen.extend(hashes.iter().copied());
            sampled += values.len();
        }
        before = end;
    }
    Ok(sampled >= SAMPLE_PARTS && seen.len() * 5 > sampled * 4)
}

fn is_integer(data_type: &DataType) -> bool {
    use DataType::{Date32, Int32, Int64, Timestamp};
    matches!(data_type, Int32 | Int64 | Date32 | Timestamp(..))
}

/// Statistics in the form of the Delta protocol ("Per-file Statistics").
fn statistics_json(
    groups: &[parquet::file::metadata::RowGroupMetaData],
    schema: &SchemaRef,
    rows: usize,
    null_counts: &[usize],
) -> Result<String> {
    let (mut min, mut max, mut nulls) = (Map::new(), Map::new(), Map::new());
    for (index, field) in schema.fields().iter().enumerate().take(STATISTICS_COLUMNS) {
        nulls.insert(field.name().clone(), json!(null_counts.get(index)));
        let bounds = groups.iter().map(|g| {
            let leaf = g
                .columns()
                .iter()
                .find(|c| c.column_path().parts() == [field.name().as_str()])?;
            Some(leaf.statistics().cloned())
        });
        let Some(bounds) = bounds.collect::<Option<Vec<_>>>() else {
            continue;
        };
        if let Some((low, high)) = bounds_of(field.data_type(), &bounds) {
            min.insert(field.name().clone(), low);
            max.insert(field.name().clone(), high);
        }
    }
    let stats = json!({
        "numRecords": rows, "minValues": min, "maxValues": max, "nullCount": nulls,
    });
    Ok(stats.to_string())
}

type ParquetBounds = Option<parquet::file::statistics::Statistics>;

/// The least and greatest value over row groups, where they are known for all of them.
fn bounds_of(data_type: &DataType, groups: &[ParquetBounds]) -> Option<(Value, Value)> {
    use parquet::file::statistics::Statistics as S;
    let mut integers: Option<(i64, i64)> = None;
    let mut texts: Option<(Vec<u8>, Vec<u8>)> = None;
    for group in groups {
        let group = group.as_ref()?;
        match group {
            S::Int32(s) => widen(
                &mut integers,
                i64::from(*s.min_opt()?),
                i64::from(*s.max_opt()?),
            ),
            S::Int64(s) => widen(&mut integers, *s.min_opt()?, *s.max_opt()?),
            S::ByteArray(s) => {
                widen(
                    &mut texts,
                    s.min_opt()?.data().to_vec(),
                    s.max_opt()?.data().to_vec(),
                );
            }
            _ => return None,
        }
    }
    match data_type {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
            integers.map(|(a, b)| (json!(a), json!(b)))
        }
        DataType::Date32 => {
            let (a, b) = integers?;
            let day = |d: i64| {
                Some(json!(
                    DateTime::from_timestamp(d.checked_mul(86_400)?, 0)?
                        .format("%F")
                        .to_string()
                ))
            };
            Some((day(a)?, day(b)?))
        }
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
            let (a, b) = integers?;
            Some((timestamp_json(a)?, timestamp_json(b)?))
        }
        DataType::Utf8 | DataType::Utf8View => {
            let (a, b) = texts?;
            Some((
                json!(String::from_utf8(a).ok()?),
                json!(String::from_utf8(b).ok()?),
            ))
        }
        _ => None,
    }
}

fn widen<T: Ord>(bounds: &mut Option<(T, T)>, low: T, high: T) {
    *bounds = Some(match bounds.take() {
        None => (low, high),
        Some((a, b)) => (a.min(low), b.max(high)),
    });
}

fn timestamp_json(micros: i64) -> Option<Value> {
    let at = DateTime::from_timestamp_micros(micros)?;
    debug_assert!(at.nanosecond() % 1_000 == 0);
    Some(json!(at.to_rfc3339_opts(SecondsFormat::Micros, true)))
}

impl AddFile {
    /// Where the file's tail begins, and its checksum; `None` for a file without checksums, such as
    /// those of version 0.1.0 and of other engines.
    ///
    /// # Errors
    /// `Corrupt` for an entry that can't be read. `path` is the file's.
    pub(crate) fn tail(&self, path: &Path) -> Result<Option<Tail>> {
        let Some(text) = self.tag(TAIL_TAG) else {
            return Ok(None);
        };
        match Tail::decode(text) {
            Some(tail) => Ok(Some(tail)),
            None => Err(damaged(path, format!("its checksum `{text}` is none"))),
        }
    }

    /// Checks that these are the file's bytes. `path` is the file's.
    ///
    /// # Errors
    /// `Corrupt` where they are not.
    pub fn check_body(&self, path: &Path, body: &Bytes) -> Result<()> {
        if planted("planted-damage-read") {
            return Ok(());
        }
        if u64::try_from(self.size) != Ok(body.len() as u64) {
            return Err(wrong_size(path, body.len() as u64, self.size));
        }
        let Some(tail) = self.tail(path)? else {
            return Ok(());
        };
        let part = |bytes: std::ops::Range<u64>| {
            let (start, end) = (bytes.start.try_into().ok()?, bytes.end.try_into().ok()?);
            body.get::<std::ops::Range<usize>>(start..end)
        };
        if !part(tail.start..body.len() as u64).is_some_and(|bytes| tail.holds(bytes)) {
            return Err(wrong_bytes(path));
        }
        check_footer(body).map_err(|e| damaged(path, e))?;
        let metadata = ArrowReaderMetadata::load(body, ArrowReaderOptions::new())
            .map_err(|e| damaged(path, e))?;
        let pieces = sums::pieces(metadata.metadata()).ok_or_else(|| wrong_bytes(path))?;
        let holds = |piece: &sums::Piece| part(piece.bytes.clone()).is_some_and(|b| piece.holds(b));
        match pieces.iter().all(holds) {
            true => Ok(()),
            false => Err(wrong_bytes(path)),
        }
    }

    /// The file's statistics as the engine wants them, for a table of this schema.
    pub fn statistics(&self, schema: &Schema) -> Arc<Statistics> {
        let mut last = self.statistics.0.lock();
        match last.as_ref() {
            // They are by position, and a table's columns become more.
            Some((fields, statistics)) if fields == schema.fields() => statistics.clone(),
            _ => {
                let statistics = Arc::new(parse_statistics(self, schema));
                *last = Some((schema.fields().clone(), statistics.clone()));
                statistics
            }
        }
    }
}

/// A file has not the length that its entry names.
pub(crate) fn wrong_size(path: &Path, found: u64, named: i64) -> Error {
    damaged(
        path,
        format!("it has {found} bytes, and its table names {named}"),
    )
}

/// A file's bytes have not the checksums that were written with them.
pub(crate) fn wrong_bytes(path: &Path) -> Error {
    damaged(path, "its bytes are not those that were written")
}

/// The bytes of a file of a table, checked.
///
/// # Errors
/// `Unavailable` where the file is gone because it was replaced meanwhile, `Corrupt` where it is
/// damaged, or missing.
pub async fn read_file(table: &Table, add: &AddFile) -> Result<Bytes> {
    let path = table.file_path(&add.path);
    let Some(body) = table.storage().get(&path).await? else {
        table.refresh().await?;
        return Err(
            match table.with_state(|s| s.files.contains_key(&add.path)) {
                true => lost(&path),
                false => Error::Unavailable(format!(
                    "`{path}` was removed while it was needed (its table was compacted); try again"
                )),
            },
        );
    };
    add.check_body(&path, &body)?;
    Ok(body)
}

fn parse_statistics(add: &AddFile, schema: &Schema) -> Statistics {
    let mut statistics = Statistics::new_unknown(schema);
    let Some(Ok(json)) = add.stats.as_deref().map(serde_json::from_str::<Value>) else {
        return statistics;
    };
    if let Some(rows) = json["numRecords"]
        .as_u64()
        .and_then(|r| usize::try_from(r).ok())
    {
        statistics.num_rows = Precision::Exact(rows);
    }
    statistics.total_byte_size = Precision::Inexact(usize::try_from(add.size).unwrap_or(0));
    for (field, column) in schema
        .fields()
        .iter()
        .zip(&mut statistics.column_statistics)
    {
        let bound = |which: &str| {
            parse_bound(&json[which][field.name()], field)
                .map_or(Precision::Absent, Precision::Inexact)
        };
        let nulls = json["nullCount"][field.name()]
            .as_u64()
            .and_then(|n| usize::try_from(n).ok());
        *column = ColumnStatistics {
            min_value: bound("minValues"),
            max_value: bound("maxValues"),
            null_count: nulls.map_or(Precision::Absent, Precision::Exact),
            ..ColumnStatistics::new_unknown()
        };
    }
    statistics
}

fn parse_bound(value: &Value, field: &Field) -> Option<ScalarValue> {
    let integer = value.as_i64();
    Some(match field.data_type() {
        DataType::Int8 => ScalarValue::Int8(Some(integer?.try_into().ok()?)),
        DataType::Int16 => ScalarValue::Int16(Some(integer?.try_into().ok()?)),
        DataType::Int32 => ScalarValue::Int32(Some(integer?.try_into().ok()?)),
        DataType::Int64 => ScalarValue::Int64(Some(integer?)),
        DataType::Date32 => {
            let at =
                DateTime::parse_from_rfc3339(&format!("{}T00:00:00Z", value.as_str()?)).ok()?;
            ScalarValue::Date32(Some((at.timestamp().div_euclid(86_400)).try_into().ok()?))
        }
        DataType::Timestamp(TimeUnit::Microsecond, tz) => {
            let at = DateTime::parse_from_rfc3339(value.as_str()?).ok()?;
            ScalarValue::TimestampMicrosecond(Some(at.timestamp_micros()), tz.clone())
        }
        DataType::Utf8 => ScalarValue::Utf8(Some(value.as_str()?.to_owned())),
        DataType::Utf8View => ScalarValue::Utf8View(Some(value.as_str()?.to_owned())),
        _ => return None,
    })
}

/// A Parquet file's footer, once it is known to state no more than it holds.
fn bounded_metadata(body: &Bytes) -> Result<ArrowReaderMetadata> {
    check_footer(body).map_err(|e| ParquetError::General(e.to_string()))?;
    Ok(ArrowReaderMetadata::load(body, ArrowReaderOptions::new())?)
}

/// The names of a Parquet file's columns, and how many rows it has.
pub fn parquet_footer(body: &Bytes) -> Result<(Vec<String>, u64)> {
    let metadata = bounded_metadata(body)?;
    let columns = metadata.schema().fields().iter().map(|f| f.name().clone());
    let rows = metadata.metadata().file_metadata().num_rows();
    Ok((columns.collect(), u64::try_from(rows).unwrap_or(0)))
}

/// Reads the columns of `wanted` from a Parquet file, bound by name. A column that the file lacks is a
/// field that was declared since, see `late_fields`, or null.
pub fn read_parquet(
    body: Bytes,
    wanted: &SchemaRef,
    reads: &LateReads,
) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    let plain = bounded_metadata(&body)?;
    let stored = plain.schema();
    let has = |name: &str| stored.field_with_name(name).is_ok();
    let is_late = |f: &Arc<Field>| is_declared(f.name()) && !has(f.name());
    let mut read: Vec<&str> = wanted.fields().iter().map(|f| f.name().as_str()).collect();
    if wanted.fields().iter().any(is_late) && !read.contains(&EXTRA) {
        read.push(EXTRA);
    }
    // Strings and bytes are read as views straight away; other types are cast afterwards.
    let hinted: Vec<Field> = stored
        .fields()
        .iter()
        .map(|f| {
            let wanted = wanted.field_with_name(f.name()).map(Field::data_type);
            match (wanted, f.name().as_str()) {
                (Ok(t @ (DataType::Utf8View | DataType::BinaryView)), _) => {
                    f.as_ref().clone().with_data_type(t.clone())
                }
                (Err(_), EXTRA) => f.as_ref().clone().with_data_type(DataType::Utf8View),
                _ => f.as_ref().clone(),
            }
        })
        .collect();
    let roots: Vec<usize> = read
        .iter()
        .filter_map(|name| stored.index_of(name).ok())
        .collect();
    let options = ArrowReaderOptions::new().with_schema(Arc::new(Schema::new(hinted)));
    let metadata = ArrowReaderMetadata::try_new(plain.metadata().clone(), options)?;
    let mask = ProjectionMask::roots(metadata.parquet_schema(), roots);
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(body, metadata)
        .with_projection(mask)
        .with_batch_size(READ_ROWS)
        .build()?;
    let (wanted, reads) = (wanted.clone(), reads.clone());
    Ok(reader.map(move |batch| conform(&batch?, &wanted, &reads)))
}

/// Rows of a file in the columns of a schema, in its types.
fn conform(batch: &RecordBatch, wanted: &SchemaRef, reads: &LateReads) -> Result<RecordBatch> {
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let data_type = match wanted.field_with_name(field.name()) {
            Ok(wanted) => wanted.data_type(),
            Err(_) => field.data_type(),
        };
        columns.push(match column.data_type() == data_type {
            true => column.clone(),
            false => fit(column, data_type)?,
        });
        fields.push(field.as_ref().clone().with_data_type(data_type.clone()));
    }
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let schema = Arc::new(Schema::new(fields));
    fit_facts(
        wanted,
        reads,
        &RecordBatch::try_new_with_options(schema, columns, &rows)?,
    )
}

/// Keeps the facts that lie in one of the ranges. The batch has the columns of a fact's place.
pub fn keep_ranges(
    batch: &RecordBatch,
    ranges: &[(PartitionId, OffsetRange)],
) -> Result<RecordBatch> {
    let column = |name: &str| {
        batch
            .column_by_name(name)
            .ok_or_else(|| Error::Internal(format!("a batch of facts without `{name}`")))
    };
    let partitions = column(PARTITION)?;
    let partitions = arrow::array::AsArray::as_primitive::<Int32Type>(partitions.as_ref());
    let offsets = column(OFFSET)?;
    let offsets = arrow::array::AsArray::as_primitive::<Int64Type>(offsets.as_ref());
    let keep: BooleanArray = partitions
        .values()
        .iter()
        .zip(offsets.values())
        .map(|(&p, &o)| {
            Some(
                ranges
                    .iter()
                    .any(|(q, r)| q.0 == p && r.start.0 <= o && o < r.end.0),
            )
        })
        .collect();
    match keep.true_count() == batch.num_rows() {
        true => Ok(batch.clone()),
        false => Ok(filter_record_batch(batch, &keep)?),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, StringViewArray};

    use super::*;

    /// However the rows come, in few batches or many.
    #[test]
    fn only_what_repeats_has_a_dictionary() -> Result<()> {
        let rows = 20_000;
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values((0..rows).map(|n| n * 7_919)));
        let names = (0..rows).map(|n| format!("a name of some length {n}"));
        let names: ArrayRef = Arc::new(StringViewArray::from_iter_values(names));
        let words = (0..rows).map(|n| format!("a word of some length {}", n * n % 1_009));
        let words: ArrayRef = Arc::new(StringViewArray::from_iter_values(words));
        let columns = [("id", ids), ("name", names), ("word", words)];
        let batch = RecordBatch::try_from_iter(columns)?;
        let count = batch.num_rows();
        for size in [count, 10_000, 1_000, 7] {
            let starts = (0..count).step_by(size);
            let batches: Vec<_> = starts
                .map(|at| batch.slice(at, size.min(count - at)))
                .collect();
            let file = encode_parquet("f".into(), &batch.schema(), &batches, 0)?;
            let metadata = ArrowReaderMetadata::load(&file.body, ArrowReaderOptions::new())?;
            let group = metadata.metadata().row_group(0);
            let dictionaries: Vec<bool> = group
                .columns()
                .iter()
                .map(|c| c.dictionary_page_offset().is_some())
                .collect();
            assert_eq!(dictionaries, [false, false, true], "batches of {size}");
            let read = read_parquet(file.body, &batch.schema(), &LateReads::default())?
                .collect::<Result<Vec<_>>>()?;
            let read = arrow::compute::concat_batches(&batch.schema(), &read)?;
            assert_eq!(read, batch);
        }
        Ok(())
    }
}
