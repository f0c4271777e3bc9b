//! What a step reads: the facts of a topic, from where the facts end that were made of them, first out of
//! the log, and what has not landed out of the daemon's memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use anabranch_shared::{Offset, OffsetRange, Offsets, PartitionId, Result, fit_facts, planted};
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use datafusion::common::utils::memory::get_record_batch_memory_size;

use super::maker::offsets;
use crate::intake::payload::PlacedFacts;
use crate::topic::TopicStream;

/// Bytes of facts that a step is given at once, of those that it takes more than one.
const BATCH_BYTES: usize = 32 << 20;

/// Facts of one partition, in order.
#[derive(Debug)]
pub(super) struct Taken {
    /// In the topic's columns.
    pub(super) facts: RecordBatch,
    /// The offsets that they are all facts of.
    pub(super) range: OffsetRange,
}

/// A file of the log that is being read, batch by batch.
struct Reading {
    /// Where it goes on.
    next: Offset,
    /// Where its facts of the partition end.
    end: Offset,
    /// Facts that were read and not taken.
    ready: VecDeque<RecordBatch>,
    batches: Box<dyn Iterator<Item = Result<RecordBatch>> + Send>,
}

impl Reading {
    /// Reads on until there are so many batches with facts, or no more.
    fn read(&mut self, batches: usize) -> Result<()> {
        while self.ready.len() < batches
            && let Some(batch) = self.batches.next()
        {
            let batch = batch?;
            if batch.num_rows() > 0 {
                self.ready.push_back(batch);
            }
        }
        Ok(())
    }
}

/// The facts of a topic.
pub(super) struct Input {
    stream: Arc<TopicStream>,
    /// The most facts that are taken at once; at least 1.
    most: usize,
    /// Of each partition the file that is being read.
    reading: BTreeMap<PartitionId, Reading>,
}

/// Where a partition's facts are.
enum Where {
    /// There are none yet.
    Nowhere,
    /// In the log, up to an offset.
    Log(Offset),
    /// In memory.
    Memory(Vec<Arc<PlacedFacts>>),
}

impl Input {
    pub(super) fn new(stream: Arc<TopicStream>, most: usize) -> Self {
        Self {
            stream,
            most,
            reading: BTreeMap::new(),
        }
    }

    /// The facts of a partition from an offset on, as many as are taken at once; `None` where there are
    /// none yet.
    ///
    /// # Errors
    /// `Unavailable` where the storage does not answer.
    pub(super) async fn take(
        &mut self,
        partition: PartitionId,
        from: Offset,
    ) -> Result<Option<Taken>> {
        match self.place(partition, from) {
            Where::Nowhere => Ok(None),
            Where::Log(landed) => self.take_of_log(partition, from, landed).await.map(Some),
            Where::Memory(pieces) => {
                self.reading.remove(&partition);
                self.take_of_memory(&pieces, from).map(Some)
            }
        }
    }

    fn place(&self, partition: PartitionId, from: Offset) -> Where {
        self.stream.with_delta(|delta| {
            let landed = delta.upto.get(partition);
            if from < landed {
                return Where::Log(landed);
            }
            let mut facts = 0;
            let pieces = delta
                .unlanded
                .iter()
                .filter(|p| p.partition == partition && p.range.end > from);
            let enough = pieces.take_while(|piece| {
                let before = facts;
                facts += piece.facts.num_rows();
                before < self.most
            });
            match enough.cloned().collect::<Vec<_>>() {
                pieces if pieces.is_empty() => Where::Nowhere,
                pieces => Where::Memory(pieces),
            }
        })
    }

    fn take_of_memory(&self, pieces: &[Arc<PlacedFacts>], from: Offset) -> Result<Taken> {
        let log = self.stream.log();
        let (topic, schema) = log.declared();
        let reads = topic.late_reads();
        let mut facts = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let fitted = match piece.facts.schema_ref() == &schema {
                true => piece.facts.clone(),
                false => fit_facts(&schema, &reads, &piece.facts)?,
            };
            facts.push(from_offset(&fitted, from));
        }
        let facts = concat_batches(&schema, &facts)?;
        let end = pieces.last().map_or(from, |p| p.range.end);
        Ok(self.cut(facts, OffsetRange::new(from, end)))
    }

    async fn take_of_log(
        &mut self,
        partition: PartitionId,
        from: Offset,
        landed: Offset,
    ) -> Result<Taken> {
        let schema = self.stream.log().schema();
        // One that was begun with other fields is begun again.
        let goes_on = |r: &Reading| {
            let fits = r.ready.front().is_none_or(|b| *b.schema_ref() == schema);
            r.next == from && from < r.end && fits
        };
        let mut reading = match self.reading.remove(&partition).filter(goes_on) {
            Some(reading) => reading,
            None => self.open(partition, OffsetRange::new(from, landed)).await?,
        };
        reading.read(2)?;
        let facts = reading.ready.pop_front();
        let facts = facts.unwrap_or_else(|| RecordBatch::new_empty(schema));
        let following = reading
            .ready
            .front()
            .and_then(|b| offsets(b).first().copied());
        let end = following.map_or(reading.end, Offset);
        let (whole, rest) = (facts.num_rows(), facts.clone());
        let taken = self.cut(facts, OffsetRange::new(from, end));
        let rows = taken.facts.num_rows();
        if rows < whole {
            reading.ready.push_front(rest.slice(rows, whole - rows));
        }
        reading.next = taken.range.end;
        self.reading.insert(partition, reading);
        Ok(taken)
    }

    /// Opens the first file of a range of landed offsets.
    async fn open(&self, partition: PartitionId, range: OffsetRange) -> Result<Reading> {
        let log = self.stream.log();
        let (topic, schema) = log.declared();
        let of = |at: Offset| -> Offsets { [(partition, at)].into_iter().collect() };
        let mut reading = Reading {
            next: range.start,
            end: range.end,
            ready: VecDeque::new(),
            batches: Box::new(std::iter::empty()),
        };
        let files = log.files_between(&of(range.start), &of(range.end))?;
        if let Some(file) = files.first() {
            let of_partition = file.wanted.iter().filter(|(p, _)| *p == partition);
            let end = of_partition.map(|(_, range)| range.end).max();
            let end = end.filter(|_| !planted("planted-step-skips-files"));
            reading.end = end.unwrap_or(range.end);
            let batches = log.read_file(file, &schema, &topic.late_reads()).await?;
            reading.batches = Box::new(batches);
        }
        Ok(reading)
    }

    /// As many of some facts as are taken at once.
    fn cut(&self, facts: RecordBatch, range: OffsetRange) -> Taken {
        let rows = facts.num_rows();
        let bytes = get_record_batch_memory_size(&facts);
        let fit = match bytes > BATCH_BYTES {
            true => (rows.saturating_mul(BATCH_BYTES) / bytes).max(1),
            false => rows,
        };
        let most = self.most.min(fit);
        if rows <= most {
            return Taken { facts, range };
        }
        let facts = facts.slice(0, most);
        let end = offsets(&facts.slice(most - 1, 1))
            .first()
            .map_or(range.end, |o| Offset(o + 1));
        Taken {
            facts,
            range: OffsetRange::new(range.start, end),
        }
    }
}

/// The facts from an offset on, of some that are in order.
fn from_offset(facts: &RecordBatch, from: Offset) -> RecordBatch {
    let before = offsets(facts).partition_point(|offset| *offset < from.0);
    facts.slice(before, facts.num_rows() - before)
}
