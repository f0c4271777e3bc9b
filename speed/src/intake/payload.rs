//! What one admitted request is in the WAL, and in memory once its offsets are known.
//!
//! ```text
//!   version u8 = 3 │ header length u32 LE │ header JSON │ facts, an Arrow IPC stream
//! ```
//!
//! Text and bytes are stored as `Utf8` and `Binary`: as views each value would take 12 bytes more,
//! and what goes to the WAL's disk bounds how much is taken in.
//!
//! The facts are stored without their place: the record's own range gives it. A record of the
//! input takes one offset, in order, whether it became a fact or a dead letter, or is a duplicate,
//! whose offset stays unused. Version 2 is the same with views, version 1 that without duplicates.

use std::sync::Arc;

use anabranch_shared::ipc::{CheckedStream, IpcLimit, caught};
use anabranch_shared::{
    Error, Offset, OffsetRange, PartitionId, Result, Topic, dead_letter_schema, fit_facts, planted,
    timestamp_type,
};
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, BooleanArray, Int32Array, Int64Array, RecordBatch,
    RecordBatchOptions, StringViewArray, TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use datafusion::common::utils::memory::get_record_batch_memory_size;
use serde::{Deserialize, Serialize};

use crate::intake::admission::{Admitted, DeadLetter, keep_rows};
use crate::intake::idempotency::{KeptAnswer, KeptRequest, RequestKey};

#[cfg(test)]
mod tests;

const VERSION: u8 = 3;

/// What a payload may take that was checked before it was written: as much as four groups of the WAL.
pub(crate) const REPLAYED: IpcLimit = IpcLimit {
    bytes: 4 * crate::wal::MAX_GROUP_BYTES,
    name: "the most of one payload",
};

/// The oldest version that is read.
const OLDEST_VERSION: u8 = 1;

/// One admitted request, before it has offsets.
#[derive(Clone, Debug)]
pub struct Payload {
    /// When it was admitted, in microseconds since 1970.
    pub received_at_us: i64,
    /// How many records it had.
    pub records: u64,
    /// The ingested file that it is of, and how many of that file's records it ends at.
    pub ingest: Option<(String, u64)>,
    /// Where it came from, for its dead letters.
    pub source: Option<String>,
    /// The declared fields and `_extra` of its facts.
    pub facts: RecordBatch,
    /// The records that did not become facts.
    pub dead: Vec<DeadLetter>,
    /// The records that are duplicates of others, ascending.
    pub duplicates: Vec<u64>,
    /// What its request is known by, where it may be repeated.
    pub request: Option<RequestKey>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    received_at_us: i64,
    records: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ingest: Option<(String, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    dead: Vec<DeadHeader>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    duplicates: Vec<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<RequestKey>,
}

fn damaged(what: &str) -> Error {
    Error::Corrupt(format!("a WAL record's payload: {what}"))
}

impl Header {
    /// The header of a stored payload, and its facts as they are stored.
    fn split(bytes: &[u8]) -> Result<(Self, &[u8])> {
        let (version, rest) = bytes.split_first().ok_or_else(|| damaged("is empty"))?;
        if !(OLDEST_VERSION..=VERSION).contains(version) {
            return Err(Error::Conflict(format!(
                "a WAL record is of format {version}, this version reads {OLDEST_VERSION} to {VERSION}; use the version that wrote it"
            )));
        }
        let (length, rest) = rest
            .split_first_chunk::<4>()
            .ok_or_else(|| damaged("is cut"))?;
        let length = u32::from_le_bytes(*length) as usize;
        let header = rest
            .get(..length)
            .ok_or_else(|| damaged("is cut in its header"))?;
        let header: Header = serde_json::from_slice(header).map_err(|e| damaged(&e.to_string()))?;
        Ok((header, &rest[length..]))
    }
}

#[derive(Serialize, Deserialize)]
struct DeadHeader {
    record: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    field: Option<String>,
    reason: String,
    raw: String,
}

/// Facts and dead letters of one range of offsets.
#[derive(Clone, Debug)]
pub struct PlacedFacts {
    /// The partition.
    pub partition: PartitionId,
    /// The range, also where it holds no fact.
    pub range: OffsetRange,
    /// The facts, in the topic's schema.
    pub facts: RecordBatch,
    /// The dead letters, in the schema of dead letters.
    pub dead: Option<RecordBatch>,
    /// The ingested file that it is of, and how many of that file's records it ends at.
    pub ingest: Option<(String, u64)>,
    /// Whether the facts of the range are lost: their source had removed them.
    pub gap: bool,
    /// Bytes of memory.
    pub bytes: usize,
}

impl Payload {
    /// The payload of an admitted request. Records that are neither facts nor dead letters any
    /// more are its duplicates.
    pub fn new(
        admitted: Admitted,
        received_at_us: i64,
        ingest: Option<(String, u64)>,
        source: Option<String>,
    ) -> Self {
        let Admitted {
            facts,
            records,
            dead,
            record_count,
            ..
        } = admitted;
        let mut duplicates = Vec::new();
        if (records.len() + dead.len()) as u64 != record_count {
            let mut facts = records.iter().copied().peekable();
            let mut dead = dead.iter().map(|d| d.record).peekable();
            duplicates.extend(
                (0..record_count)
                    .filter(|r| facts.next_if_eq(r).is_none() && dead.next_if_eq(r).is_none()),
            );
        }
        Self {
            received_at_us,
            records: record_count,
            ingest,
            source,
            facts,
            dead,
            duplicates,
            request: None,
        }
    }

    /// The records that became facts, ascending.
    fn fact_records(&self) -> impl Iterator<Item = u64> + '_ {
        let mut dead = self.dead.iter().map(|d| d.record).peekable();
        let mut duplicates = self.duplicates.iter().copied().peekable();
        (0..self.records).filter(move |r| {
            // Both are asked: each must come past its own.
            let is_dead = dead.next_if_eq(r).is_some();
            let is_duplicate = duplicates.next_if_eq(r).is_some();
            !is_dead && !is_duplicate
        })
    }

    /// Keeps of the facts those that `wanted` says; the others are duplicates from now on.
    ///
    /// # Errors
    /// Where `wanted` is not as long as the facts, which is a defect.
    pub fn keep(&mut self, wanted: &BooleanArray) -> Result<()> {
        let facts = keep_rows(&self.facts, wanted)?;
        let of_wanted = self.fact_records().zip(wanted.values());
        let gone: Vec<u64> = of_wanted
            .filter(|(_, keep)| !keep)
            .map(|(r, _)| r)
            .collect();
        self.facts = facts;
        self.duplicates.extend(gone);
        self.duplicates.sort_unstable();
        Ok(())
    }

    /// As it is stored.
    pub fn encode(&self) -> Result<Bytes> {
        let dead = self.dead.iter().map(|d| DeadHeader {
            record: d.record,
            line: d.line,
            field: d.field.clone(),
            reason: d.reason.clone(),
            raw: STANDARD.encode(&d.raw),
        });
        let header = Header {
            received_at_us: self.received_at_us,
            records: self.records,
            ingest: self.ingest.clone(),
            source: self.source.clone(),
            dead: dead.collect(),
            duplicates: self.duplicates.clone(),
            request: self.request.clone(),
        };
        let header = serde_json::to_vec(&header).map_err(|e| Error::Internal(e.to_string()))?;
        let facts = retyped(&self.facts, stored_type)?;
        let mut out =
            Vec::with_capacity(get_record_batch_memory_size(&facts) + header.len() + 1024);
        out.push(VERSION);
        let length = u32::try_from(header.len())
            .map_err(|_| Error::Invalid("too many dead letters in one request".into()))?;
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&header);
        let mut writer = StreamWriter::try_new(&mut out, &facts.schema())?;
        writer.write(&facts)?;
        writer.finish()?;
        drop(writer);
        Ok(out.into())
    }

    /// From how it is stored; `limit` is what it may take in memory.
    ///
    /// # Errors
    /// `Corrupt` where it is damaged or too large, `Conflict` where it is of a later version.
    pub fn decode(bytes: &[u8], limit: IpcLimit) -> Result<Self> {
        let (header, facts) = Header::split(bytes)?;
        let not_facts = |e: ArrowError| damaged(&e.to_string());
        // Of its own, so that the facts don't keep a whole segment in memory, and are aligned.
        let facts = Bytes::copy_from_slice(facts);
        let read = CheckedStream::new(facts, limit).and_then(CheckedStream::read);
        let mut batches = read.map_err(not_facts)?.batches.into_iter();
        let facts = match (batches.next(), batches.next()) {
            (Some(facts), None) => facts,
            _ => return Err(damaged("holds no batch, or more than one")),
        };
        let facts = caught(|| retyped(&facts, admitted_type)).map_err(not_facts)?;
        let dead = header
            .dead
            .into_iter()
            .map(|d| {
                let raw = STANDARD
                    .decode(&d.raw)
                    .map_err(|e| damaged(&e.to_string()))?;
                Ok(DeadLetter {
                    record: d.record,
                    line: d.line,
                    field: d.field,
                    reason: d.reason,
                    raw: raw.into(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            received_at_us: header.received_at_us,
            records: header.records,
            ingest: header.ingest,
            source: header.source,
            facts,
            dead,
            duplicates: header.duplicates,
            request: header.request,
        })
    }

    /// The request that a stored payload is of, with its answer, where it may be repeated.
    pub(crate) fn kept_request(
        bytes: &Bytes,
        partition: PartitionId,
        start: Offset,
    ) -> Result<Option<KeptRequest>> {
        let (header, _) = Header::split(bytes)?;
        let (dead, duplicates) = (header.dead.len() as u64, header.duplicates.len() as u64);
        let records = i64::try_from(header.records).unwrap_or(i64::MAX);
        let answer = KeptAnswer {
            partition,
            start,
            end: Offset(start.0.saturating_add(records)),
            facts: header.records.saturating_sub(dead + duplicates),
            dead_letters: dead,
            duplicates,
        };
        Ok(header.request.map(|request| KeptRequest {
            request,
            at_us: header.received_at_us,
            answer,
        }))
    }

    /// Takes a payload that was admitted elsewhere, by the fields that were known there.
    ///
    /// # Errors
    /// `Unavailable` where it has a field that is not known here yet, which would be lost.
    pub(crate) fn take_fields_of(&mut self, topic: &Topic, schema: &SchemaRef) -> Result<()> {
        let mut fields = self.facts.schema_ref().fields().iter();
        let unknown = fields.find(|f| schema.field_with_name(f.name()).is_err());
        if let Some(unknown) = unknown {
            return Err(Error::Unavailable(format!(
                "topic `{}`: field `{}` was declared a moment ago, and this daemon does not know it yet; try again",
                topic.name,
                unknown.name()
            )));
        }
        self.facts = fit_facts(schema, &topic.late_reads(), &self.facts)?;
        Ok(())
    }

    /// Whether the payload says the same in all its parts, and fits the topic. Admission's do; one that came over the
    /// network may not.
    ///
    /// # Errors
    /// `Invalid`, with what doesn't fit.
    pub fn check(&self, topic: &Topic, ingest_from: Option<u64>) -> Result<()> {
        let bad = |what: &str| Err(Error::Invalid(format!("the payload {what}")));
        let (facts, dead) = (self.facts.num_rows(), self.dead.len());
        if self.records != (facts + dead + self.duplicates.len()) as u64 {
            return bad("does not account for each of its records once");
        }
        let places = self.dead.windows(2).all(|w| w[0].record < w[1].record);
        if !places || self.dead.last().is_some_and(|d| d.record >= self.records) {
            return bad("names dead letters out of order or twice");
        }
        let rising = self.duplicates.windows(2).all(|w| w[0] < w[1]);
        let apart = |d: &DeadLetter| self.duplicates.binary_search(&d.record).is_err();
        let last = self.duplicates.last();
        if !rising || last.is_some_and(|r| *r >= self.records) || !self.dead.iter().all(apart) {
            return bad("names duplicates out of order, twice or that are dead letters");
        }
        if let (Some((_, upto)), Some(from)) = (&self.ingest, ingest_from)
            && (from.checked_add(self.records) != Some(*upto) || i64::try_from(*upto).is_err())
        {
            return bad("does not end in its file where its records do");
        }
        match self.at(topic, &topic.schema(), PartitionId(0), Offset(0)) {
            Ok(_) => Ok(()),
            Err(e) => bad(&format!("does not fit topic `{}`: {e}", topic.name)),
        }
    }

    /// The facts and dead letters at their place. `schema` is the topic's.
    pub fn at(
        &self,
        topic: &Topic,
        schema: &SchemaRef,
        partition: PartitionId,
        first: Offset,
    ) -> Result<PlacedFacts> {
        let rows = self.facts.num_rows();
        let records = i64::try_from(self.records).unwrap_or(i64::MAX);
        let no_holes = self.dead.is_empty() && self.duplicates.is_empty();
        let dense = no_holes || planted("planted-dead-letter-counted");
        let offsets: Vec<i64> = match dense {
            true => (first.0..).take(rows).collect(),
            false => {
                let alive = self.fact_records();
                alive.map(|r| first.0 + r as i64).collect()
            }
        };
        if offsets.len() != rows {
            return Err(Error::Internal(format!(
                "{} records with {} dead letters and {} duplicates gave {rows} facts",
                self.records,
                self.dead.len(),
                self.duplicates.len()
            )));
        }
        let place = Place {
            topic,
            schema,
            partition,
            range: OffsetRange::new(first, Offset(first.0 + records)),
            received_at_us: self.received_at_us,
            source: self.source.as_deref(),
        };
        let letters = self.dead.iter().map(|d| (first.0 + d.record as i64, d));
        let dead: Vec<_> = letters.collect();
        let mut piece = PlacedFacts::placed(&place, &self.facts, offsets, &dead)?;
        piece.ingest = self.ingest.clone();
        Ok(piece)
    }
}

/// The type in which a column is stored.
fn stored_type(column: &ArrayRef) -> DataType {
    // Short values lie in their views.
    let fits = |longer: usize| i32::try_from(longer + column.len() * size_of::<u128>()).is_ok();
    match column.data_type() {
        DataType::Utf8View if fits(column.as_string_view().total_buffer_bytes_used()) => {
            DataType::Utf8
        }
        DataType::BinaryView if fits(column.as_binary_view().total_buffer_bytes_used()) => {
            DataType::Binary
        }
        other => other.clone(),
    }
}

/// The type of a stored column in a topic's schema.
fn admitted_type(column: &ArrayRef) -> DataType {
    match column.data_type() {
        DataType::Utf8 => DataType::Utf8View,
        DataType::Binary => DataType::BinaryView,
        other => other.clone(),
    }
}

/// Facts with their columns in other types.
fn retyped(
    facts: &RecordBatch,
    wanted: impl Fn(&ArrayRef) -> DataType,
) -> std::result::Result<RecordBatch, ArrowError> {
    let schema = facts.schema();
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (field, column) in schema.fields().iter().zip(facts.columns()) {
        let wanted = wanted(column);
        columns.push(cast(column, &wanted)?);
        fields.push(field.as_ref().clone().with_data_type(wanted));
    }
    let rows = RecordBatchOptions::new().with_row_count(Some(facts.num_rows()));
    let schema = Arc::new(Schema::new(fields));
    RecordBatch::try_new_with_options(schema, columns, &rows)
}

/// Where a piece of facts is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) topic: &'a Topic,
    /// The topic's schema: made once, as it takes about as long as all else of a small piece.
    pub(crate) schema: &'a SchemaRef,
    pub(crate) partition: PartitionId,
    pub(crate) range: OffsetRange,
    /// When its records were admitted, in microseconds since 1970.
    pub(crate) received_at_us: i64,
    /// Where they came from, for dead letters.
    pub(crate) source: Option<&'a str>,
}

impl PlacedFacts {
    /// Whether an offset of its partition is inside it.
    pub(crate) fn splits_at(&self, at: Offset) -> bool {
        self.range.start < at && at < self.range.end
    }

    /// Facts, and dead letters, at their offsets.
    pub(crate) fn placed(
        place: &Place<'_>,
        facts: &RecordBatch,
        offsets: Vec<i64>,
        dead: &[(i64, &DeadLetter)],
    ) -> Result<Self> {
        let mut columns = fitted(facts, place)?;
        let rows = facts.num_rows();
        columns.push(Arc::new(Int32Array::from(vec![place.partition.0; rows])));
        columns.push(Arc::new(Int64Array::from(offsets)));
        columns.push(Arc::new(
            TimestampMicrosecondArray::from(vec![place.received_at_us; rows]).with_timezone("UTC"),
        ));
        let facts = RecordBatch::try_new(place.schema.clone(), columns)?;
        let dead = dead_batch(place, dead)?;
        // The columns of one Arrow message share its memory: each buffer is counted once.
        let bytes = get_record_batch_memory_size(&facts)
            + dead.as_ref().map_or(0, get_record_batch_memory_size);
        Ok(Self {
            partition: place.partition,
            range: place.range,
            facts,
            dead,
            ingest: None,
            gap: false,
            bytes,
        })
    }

    /// A range without facts: offsets that are passed over, or, as a gap, whose facts are lost.
    pub(crate) fn empty(
        topic: &Topic,
        partition: PartitionId,
        range: OffsetRange,
        gap: bool,
    ) -> Self {
        Self {
            partition,
            range,
            facts: RecordBatch::new_empty(topic.schema()),
            dead: None,
            ingest: None,
            gap,
            bytes: 0,
        }
    }
}

fn dead_batch(place: &Place<'_>, letters: &[(i64, &DeadLetter)]) -> Result<Option<RecordBatch>> {
    if letters.is_empty() {
        return Ok(None);
    }
    let rows = letters.len();
    let dead = || letters.iter().map(|(_, d)| d);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringViewArray::from_iter_values(
            dead().map(|_| &place.topic.name),
        )),
        Arc::new(Int32Array::from(vec![place.partition.0; rows])),
        Arc::new(Int64Array::from_iter_values(
            letters.iter().map(|(o, _)| *o),
        )),
        Arc::new(
            TimestampMicrosecondArray::from(vec![place.received_at_us; rows])
                .with_data_type(timestamp_type()),
        ),
        Arc::new(StringViewArray::from_iter(dead().map(|_| place.source))),
        Arc::new(Int64Array::from_iter(
            dead().map(|d| d.line.and_then(|line| i64::try_from(line).ok())),
        )),
        Arc::new(StringViewArray::from_iter_values(dead().map(|d| &d.reason))),
        Arc::new(StringViewArray::from_iter(
            dead().map(|d| d.field.as_deref()),
        )),
        Arc::new(BinaryViewArray::from_iter_values(dead().map(|d| &d.raw))),
    ];
    Ok(Some(RecordBatch::try_new(dead_letter_schema(), columns)?))
}

/// How many columns follow the declared fields and `_extra`: the place, and the time of admission.
const PLACE_COLUMNS: usize = 3;

/// The declared fields and `_extra`, also where a field was declared after the facts were stored.
fn fitted(facts: &RecordBatch, place: &Place<'_>) -> Result<Vec<ArrayRef>> {
    let wanted = place.schema.fields();
    let wanted = &wanted[..wanted.len().saturating_sub(PLACE_COLUMNS)];
    if facts.schema_ref().fields()[..] == *wanted {
        return Ok(facts.columns().to_vec());
    }
    let schema = Arc::new(Schema::new(wanted.to_vec()));
    let facts = fit_facts(&schema, &place.topic.late_reads(), facts)?;
    Ok(facts.columns().to_vec())
}
