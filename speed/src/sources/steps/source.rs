//! The thread that runs a step: which partitions it makes facts of, from where on, and at which offsets
//! what was made becomes visible.
//!
//! Where it goes on is the lane of the topic that it makes facts of: there is no other note of it. What
//! it makes of facts that have not landed is visible at once, and lands once those have. Where any of
//! these were taken back (another daemon has landed in their partition), all that was made and has not
//! landed is made anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anabranch_shared::{
    Backoff, Catalogue, Error, ErrorKind, INGESTED_AT, Offset, OffsetRange, PartitionId, Result,
    planted,
};
use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::TimestampMicrosecondType;
use bytes::Bytes;
use parking_lot::Mutex;

use super::input::{Input, Taken};
use super::maker::{Fault, Made, Records, of_topic, offsets};
use super::pool::Pool;
use super::share::Share;
use super::{MakeError, StepState, identity};
use crate::intake::admission::{Admission, Admitted, DeadLetter, RAW_BYTES, raw_rows};
use crate::intake::payload::{Place, PlacedFacts};
use crate::topic::{Behind, TopicStream};

/// How long to wait for facts where there are none.
const POLL: Duration = Duration::from_millis(5);

/// How long to wait before something that failed is tried again, at first and at most.
const RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// A step that runs.
pub(super) struct Source {
    pub(super) step: String,
    pub(super) from: Arc<TopicStream>,
    pub(super) to: Arc<TopicStream>,
    pub(super) most: i64,
    pub(super) pool: Pool,
    pub(super) input: Input,
    pub(super) behind: Arc<Behind>,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) share: Share,
    pub(super) state: Arc<Mutex<StepState>>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) runtime: tokio::runtime::Handle,
}

impl Source {
    /// Makes facts until it is told to stop.
    pub(super) fn run(mut self) {
        let mut backoff = Backoff::new(RETRY, LONGEST_RETRY);
        while !self.stopping() {
            let turn = self.turn();
            self.note(&turn);
            match turn {
                Ok(true) => backoff.succeeded(),
                Ok(false) => {
                    backoff.succeeded();
                    std::thread::sleep(POLL);
                }
                Err(MakeError::Ending) => break,
                Err(MakeError::Again(_)) => {
                    let until = Instant::now() + backoff.failed(Instant::now());
                    while !self.stopping() && Instant::now() < until {
                        std::thread::sleep(POLL);
                    }
                }
                Err(MakeError::Over(_)) => {
                    while !self.stopping() {
                        std::thread::sleep(POLL);
                    }
                }
            }
        }
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Notes how a turn went; the same trouble is logged once.
    fn note(&self, turn: &std::result::Result<bool, MakeError>) {
        let mut state = self.state.lock();
        state.restarts = self.pool.restarts();
        let (step, topic) = (self.step.as_str(), self.to.name());
        match turn {
            Ok(_) => {
                if state.trouble.take().is_some() {
                    tracing::info!(step, topic, "the step goes on");
                }
            }
            Err(MakeError::Again(why)) => {
                if state.trouble.as_ref() != Some(why) {
                    tracing::warn!(step, topic, error = %why, "the step makes nothing; it is tried again");
                    state.trouble = Some(why.clone());
                }
            }
            Err(MakeError::Over(why)) => {
                tracing::error!(step, topic, error = %why, "the step has stopped");
                state.stopped = Some(why.clone());
            }
            Err(MakeError::Ending) => {}
        }
    }

    /// Makes some facts of each partition. Returns whether there were any.
    fn turn(&mut self) -> std::result::Result<bool, MakeError> {
        self.follow_back();
        let full = self.to.is_full();
        let mut state = self.state.lock();
        if state.paused != full {
            state.paused = full;
            let (step, topic) = (self.step.as_str(), self.to.name());
            match full {
                true => tracing::warn!(
                    step,
                    topic,
                    "the step pauses: the memory for facts and deltas is full (`memory` in `[daemon]`)"
                ),
                false => tracing::info!(step, topic, "the step goes on"),
            }
        }
        drop(state);
        if full {
            return Ok(false);
        }
        let mut any = false;
        for partition in self.partitions() {
            if self.stopping() {
                return Err(MakeError::Ending);
            }
            any |= self.make_some(partition)?;
        }
        Ok(any)
    }

    /// Makes all anew that has not landed, where facts that it was made of were taken back.
    fn follow_back(&self) {
        let numbering = self.from.with_delta(|d| d.numbering);
        if self.behind.is_synced(numbering) {
            return;
        }
        if !planted("planted-step-keeps-what-was-made") {
            self.leave(&self.held());
        }
        self.behind.sync(numbering);
    }

    fn leave(&self, partitions: &[PartitionId]) {
        self.to.upkeep().leave_lanes(partitions);
        let mut state = self.state.lock();
        state
            .partitions
            .retain(|p, _| !partitions.contains(&PartitionId(*p)));
    }

    /// The partitions that this daemon makes facts of. Others that it had are given up.
    fn partitions(&mut self) -> BTreeSet<PartitionId> {
        let mine = self.share.partitions();
        let held = self.held();
        let given_up: Vec<PartitionId> = held.into_iter().filter(|p| !mine.contains(p)).collect();
        if !given_up.is_empty() {
            self.leave(&given_up);
        }
        mine
    }

    fn held(&self) -> Vec<PartitionId> {
        let state = self.state.lock();
        state.partitions.keys().copied().map(PartitionId).collect()
    }

    /// Makes some facts of a partition. Returns whether there were any to make facts of.
    fn make_some(&mut self, partition: PartitionId) -> std::result::Result<bool, MakeError> {
        let head = self.from.with_delta(|d| d.head().get(partition));
        if head == Offset(0) {
            return Ok(false);
        }
        let at = match self.to.with_delta(|d| d.lanes.get(&partition).copied()) {
            Some(at) if self.state.lock().partitions.contains_key(&partition.0) => at,
            _ => self.begin(partition)?,
        };
        if at.0 % self.most != 0 {
            return Err(MakeError::Over(format!(
                "topic `{}`: its partition {partition} goes on at offset {at}, which is no multiple of {} (`most` in `[steps.{}]`)",
                self.to.name(),
                self.most,
                self.step
            )));
        }
        let from = Offset(at.0 / self.most);
        let low = self.from.log().low().get(partition);
        if from < low {
            return self.pass_over(partition, OffsetRange::new(from, low));
        }
        let taken = self.runtime.block_on(self.input.take(partition, from));
        let Some(taken) = taken.map_err(of_storage)? else {
            self.note_position(partition, from, None);
            return Ok(false);
        };
        if taken.range.is_empty() {
            return Err(MakeError::Over(format!(
                "nothing was read of partition {partition} of `{}` from offset {from} on",
                self.from.name()
            )));
        }
        let made = self.make(&taken.facts)?;
        let last = last_time(&taken.facts);
        let range = self.range(taken.range)?;
        let pushed = self
            .push(partition, range, made, &taken)
            .map_err(of_storage)?;
        if pushed {
            self.note_position(partition, taken.range.end, last);
        }
        Ok(true)
    }

    /// The offsets of what is made of facts.
    fn range(&self, of: OffsetRange) -> std::result::Result<OffsetRange, MakeError> {
        let first = of.start.0.checked_mul(self.most);
        let end = of.end.0.checked_mul(self.most);
        match (first, end) {
            (Some(first), Some(end)) => Ok(OffsetRange::new(Offset(first), Offset(end))),
            _ => Err(MakeError::Over(format!(
                "topic `{}`: offset {} times {} (`most` in `[steps.{}]`) is past what a log can hold; make the facts of a new topic, with a smaller `most`",
                self.to.name(),
                of.end,
                self.most,
                self.step
            ))),
        }
    }

    /// Passes over facts that retention had removed before the step could read them.
    fn pass_over(
        &self,
        partition: PartitionId,
        gone: OffsetRange,
    ) -> std::result::Result<bool, MakeError> {
        let lost = gone.start > Offset(0);
        if lost {
            tracing::error!(step = self.step, %partition, start = %gone.start, end = %gone.end, "retention has removed facts before the step had read them; the gap is recorded");
        }
        let range = self.range(gone)?;
        let piece = PlacedFacts::empty(&self.to.topic(), partition, range, lost);
        self.to.writer().push(piece);
        Ok(true)
    }

    /// Takes the lane of a partition. Returns where it goes on.
    fn begin(&self, partition: PartitionId) -> std::result::Result<Offset, MakeError> {
        let topic = self.to.name();
        let identity = identity(self.from.name(), self.most);
        let begun = self.runtime.block_on(async {
            let other = self.catalogue.note_source_id(topic, &identity, None).await?;
            if let Some(other) = other {
                return Err(Error::Conflict(format!(
                    "topic `{topic}` holds facts that were made otherwise ({other}), and `[steps.{}]` says {identity}: their offsets don't fit together; set `from` and `most` as they were, or make the facts of a new topic",
                    self.step
                )));
            }
            self.catalogue.claim_for_source(topic, &[partition]).await?;
            self.to.upkeep().take_lanes(&[partition]).await
        });
        let lanes = begun.map_err(of_storage)?;
        let at = lanes.first().map(|(_, at)| *at).unwrap_or_default();
        self.note_position(partition, Offset(at.0 / self.most), None);
        Ok(at)
    }

    fn note_position(&self, partition: PartitionId, next: Offset, last_us: Option<i64>) {
        let head = self.from.with_delta(|d| d.head().get(partition));
        let mut state = self.state.lock();
        let known = state.partitions.entry(partition.0).or_default();
        known.position = next.0;
        known.lag_offsets = (head.0 - next.0).max(0);
        known.last_fact_us = last_us.or(known.last_fact_us);
    }

    /// What is made of facts, by as many as there are.
    fn make(&mut self, facts: &RecordBatch) -> std::result::Result<Made, MakeError> {
        if facts.num_rows() == 0 {
            return Ok(Made::default());
        }
        let begun = Instant::now();
        let made = self.pool.make(facts).map_err(|fault| match fault {
            Fault::Ending => MakeError::Ending,
            Fault::Begin(why) | Fault::Facts(why) | Fault::Killed(why) => MakeError::Again(why),
        })?;
        let mut state = self.state.lock();
        state.batches += 1;
        state.facts += facts.num_rows() as u64;
        state.busy_us += u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(made)
    }

    /// Makes visible what was made. Returns `false`, and does nothing, where the lane has moved.
    fn push(
        &self,
        partition: PartitionId,
        range: OffsetRange,
        made: Made,
        taken: &Taken,
    ) -> Result<bool> {
        let source = format!("step:{}", self.step);
        let (topic, schema) = self.to.log().declared();
        let place = Place {
            topic: &topic,
            schema: &schema,
            partition,
            range,
            received_at_us: self.to.now_us(),
            source: Some(&source),
        };
        let Placed {
            admitted,
            offsets,
            refused,
        } = self.placed(&made, &taken.facts)?;
        let admission = admitted.record_count;
        let piece = |admitted: Admitted| {
            let at = |record: &u64| {
                let at = usize::try_from(*record).ok().and_then(|r| offsets.get(r));
                at.copied()
                    .ok_or_else(|| Error::Internal(format!("record {record} was not made")))
            };
            let of: Vec<i64> = admitted.records.iter().map(at).collect::<Result<_>>()?;
            let mut dead: Vec<(i64, DeadLetter)> = refused;
            for mut letter in admitted.dead {
                letter.line = None;
                dead.push((at(&letter.record)?, letter));
            }
            dead.sort_by_key(|(offset, _)| *offset);
            let letters: Vec<(i64, &DeadLetter)> = dead.iter().map(|(o, l)| (*o, l)).collect();
            PlacedFacts::placed(&place, &admitted.facts, of, &letters)
        };
        let pushed = self
            .to
            .writer()
            .push_new(admitted, place.received_at_us, piece)?;
        if pushed {
            self.state.lock().made += admission;
        }
        Ok(pushed)
    }

    /// What was made, admitted to its topic, with the offset of each record, and what is refused.
    fn placed(&self, made: &Made, facts: &RecordBatch) -> Result<Placed> {
        let admission = self.to.writer().admission();
        let mut refused: BTreeMap<i64, String> = BTreeMap::new();
        for (offset, why) in &made.refused {
            refused.entry(*offset).or_insert_with(|| why.clone());
        }
        let mut seen = BTreeSet::new();
        for (offset, ordinal) in &made.of {
            if *ordinal < 0 || *ordinal >= self.most {
                refused.entry(*offset).or_insert_with(|| format!(
                    "it makes more than {} facts of it; raise `most` in `[steps.{}]`, for a new topic",
                    self.most, self.step
                ));
            } else if !seen.insert((*offset, *ordinal)) {
                refused
                    .entry(*offset)
                    .or_insert_with(|| format!("it makes two facts of the number {ordinal} of it"));
            }
        }
        // In the order of their offsets.
        let mut order: Vec<usize> = (0..made.of.len())
            .filter(|r| !refused.contains_key(&made.of[*r].0))
            .collect();
        order.sort_by_key(|record| made.of[*record]);
        let admitted = admit(&admission, &made.records, &order)?;
        if admitted.record_count != order.len() as u64 {
            return Err(Error::Internal(format!(
                "{} records were admitted as {}",
                order.len(),
                admitted.record_count
            )));
        }
        let at = |record: &usize| made.of[*record].0 * self.most + made.of[*record].1;
        let offsets = order.iter().map(at).collect();
        let letters = self.letters(refused, facts)?;
        Ok(Placed {
            admitted,
            offsets,
            refused: letters,
        })
    }

    /// The dead letters of facts of which nothing is made, at the first of their offsets.
    fn letters(
        &self,
        refused: BTreeMap<i64, String>,
        facts: &RecordBatch,
    ) -> Result<Vec<(i64, DeadLetter)>> {
        if refused.is_empty() {
            return Ok(Vec::new());
        }
        self.state.lock().refused += refused.len() as u64;
        let known = offsets(facts);
        let mut letters = Vec::with_capacity(refused.len());
        for (offset, why) in refused {
            let raw = match known.binary_search(&offset) {
                Ok(row) => raw_rows(&of_topic(&facts.slice(row, 1))?)?
                    .into_iter()
                    .next(),
                Err(_) => None,
            };
            let raw = raw.unwrap_or_default();
            let letter = DeadLetter {
                record: 0,
                line: None,
                field: None,
                reason: format!(
                    "step `{}`, fact {offset} of `{}`: {why}",
                    self.step,
                    self.from.name()
                ),
                raw: raw.slice(..raw.len().min(RAW_BYTES)),
            };
            letters.push((offset * self.most, letter));
        }
        Ok(letters)
    }
}

/// What was made, ready to be put at its place.
struct Placed {
    admitted: Admitted,
    /// For each record its offset.
    offsets: Vec<i64>,
    refused: Vec<(i64, DeadLetter)>,
}

/// Admits records in an order.
fn admit(admission: &Admission, records: &[Records], order: &[usize]) -> Result<Admitted> {
    let bad = |e: crate::intake::admission::AdmissionError| Error::of_kind(e.kind(), e.to_string());
    if records.iter().any(|r| matches!(r, Records::Lines(_))) {
        let lines: Vec<&[u8]> = records
            .iter()
            .filter_map(|r| match r {
                Records::Lines(line) => Some(line.as_slice()),
                Records::Rows(_) => None,
            })
            .collect();
        let ordered = order.iter().filter_map(|r| lines.get(*r).copied());
        let ordered = Bytes::from(ordered.collect::<Vec<_>>().concat());
        return admission.ndjson(&ordered).map_err(bad);
    }
    let rows: Vec<&RecordBatch> = records
        .iter()
        .filter_map(|r| match r {
            Records::Rows(rows) => Some(rows),
            Records::Lines(_) => None,
        })
        .collect();
    let Some(first) = rows.first() else {
        return admission.ndjson(&Bytes::new()).map_err(bad);
    };
    let rows = concat_batches(&first.schema(), rows)?;
    let in_order = order.len() == rows.num_rows() && order.is_sorted();
    let rows = match in_order {
        true => rows,
        false => {
            let order: Vec<u64> = order.iter().map(|r| *r as u64).collect();
            super::arrow::in_order(&rows, &order)?
        }
    };
    admission.batch(&rows).map_err(bad)
}

/// When the last of some facts was admitted, in microseconds since 1970.
fn last_time(facts: &RecordBatch) -> Option<i64> {
    let times = facts.column_by_name(INGESTED_AT)?;
    let times = times.as_primitive_opt::<TimestampMicrosecondType>()?;
    times.values().last().copied()
}

/// What can be tried again, and what is over.
fn of_storage(e: Error) -> MakeError {
    match e.kind() {
        ErrorKind::Conflict | ErrorKind::Internal => MakeError::Over(e.to_string()),
        _ => MakeError::Again(e.to_string()),
    }
}
