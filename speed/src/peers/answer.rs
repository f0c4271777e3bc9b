//! What this daemon gives to another that asks what it holds of a topic: facts that have not
//! landed, those that have landed a moment ago and that the asker has not followed yet, and their
//! states.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_shared::view::{Definition, View, fold_facts};
use anabranch_shared::{
    Error, Master, Offset, OffsetRange, Offsets, PartitionId, Result, blocking,
};
use arrow::array::RecordBatch;
use bytes::Bytes;

use super::wire::{SentStates, encode};
use super::{DeltaRequest, PeerDelta, WantedView, past};
use crate::daemon::Daemon;
use crate::intake::payload::FactPiece;
use crate::topic::TopicStream;

/// What a topic's daemon holds, at one moment.
pub(crate) struct Snapshot {
    /// For each partition up to where it knows facts to have landed.
    pub(crate) upto: Offsets,
    /// The partitions that it fills, and up to where.
    pub(crate) lanes: BTreeMap<PartitionId, Offset>,
    /// Facts that have landed a moment ago.
    pub(crate) lately: Vec<Arc<FactPiece>>,
    /// Facts that have not landed.
    pub(crate) unlanded: Vec<Arc<FactPiece>>,
    /// Views, with the states of `unlanded`.
    pub(crate) views: BTreeMap<String, (Arc<Master>, Vec<RecordBatch>)>,
}

/// Whether two definitions make the same states.
fn makes_the_same(a: &Definition, b: &Definition) -> bool {
    a.sql == b.sql
        && a.settings == b.settings
        && a.state_format == b.state_format
        && a.topic.name == b.topic.name
}

impl Daemon {
    /// What this daemon holds of a topic that has not landed, for another daemon's query.
    ///
    /// # Errors
    /// `NotFound` for a topic that it has not; `Invalid` where a view's SQL fails on a fact.
    pub async fn delta(&self, request: DeltaRequest) -> Result<Bytes> {
        let topic = &request.topic;
        let stream = self.topics().get(topic).cloned();
        let stream = stream.ok_or_else(|| Error::NotFound(format!("no topic `{topic}`")))?;
        let stopped = self.sources().get(topic).and_then(|s| s.state().stopped);
        let note = |why| format!("newer facts are missing: {why}");
        stream
            .held(request, stopped.map(note).into_iter().collect())
            .await
    }
}

impl TopicStream {
    async fn held(self: &Arc<Self>, request: DeltaRequest, notes: Vec<String>) -> Result<Bytes> {
        let now_ms = self.now_us() / 1_000;
        let same = |wanted: &&WantedView| {
            self.with_delta(|d| {
                d.views.get(&wanted.name).is_some_and(|v| {
                    let own = v.master.view().definition();
                    v.failed.is_none() && makes_the_same(own, &wanted.definition)
                })
            })
        };
        let served = request.views.iter().filter(same);
        let served: Vec<String> = served.map(|v| v.name.clone()).collect();
        let snapshot = self.snapshot(&served, now_ms).await?;
        let (topic, schema) = self.log().declared();
        let reads = topic.late_reads();
        blocking(move || {
            let taken = Taken::of(&snapshot, &request)?;
            let states = request.views.iter().map(|v| taken.states(&snapshot, v));
            let states = states.collect::<Result<Vec<_>>>()?;
            let chosen = taken.landed.into_iter().chain(taken.unlanded);
            let (facts, dead): (Vec<_>, Vec<_>) = chosen.unzip();
            let delta = PeerDelta {
                lanes: taken.lanes,
                facts: if request.facts { facts } else { Vec::new() },
                dead: match request.dead_letters {
                    true => dead.into_iter().flatten().collect(),
                    false => Vec::new(),
                },
                notes,
                ..PeerDelta::default()
            };
            encode(&delta, &states, (&schema, &reads))
        })
        .await
    }
}

/// Facts, with the dead letters among them.
type Rows = (RecordBatch, Option<RecordBatch>);

/// What of a snapshot is given.
struct Taken {
    lanes: BTreeMap<PartitionId, OffsetRange>,
    landed: Vec<Rows>,
    unlanded: Vec<Rows>,
    /// Whether `unlanded` is all that has not landed.
    whole: bool,
}

impl Taken {
    fn of(snapshot: &Snapshot, request: &DeltaRequest) -> Result<Self> {
        let mut lanes = BTreeMap::new();
        for (p, end) in &snapshot.lanes {
            if request.except.contains(p) {
                continue;
            }
            // What was kept of landed facts counts as far as it reaches to the others.
            let mut start = snapshot.upto.get(*p);
            for piece in snapshot.lately.iter().rev().filter(|f| f.partition == *p) {
                if piece.range.end == start {
                    start = piece.range.start;
                }
            }
            let start = start.max(request.from.get(*p));
            lanes.insert(*p, OffsetRange::new(start.min(*end), *end));
        }
        let rows = |piece: &Arc<FactPiece>| -> Result<Option<Rows>> {
            match lanes.get(&piece.partition) {
                Some(range) => past(piece, range.start),
                None => Ok(None),
            }
        };
        let rows = |pieces: &[Arc<FactPiece>]| -> Result<Vec<Rows>> {
            pieces.iter().filter_map(|p| rows(p).transpose()).collect()
        };
        // Those that have landed before the chain of landed pieces begins end before its start.
        let landed = rows(&snapshot.lately)?;
        let unlanded = rows(&snapshot.unlanded)?;
        let is_whole = |piece: &Arc<FactPiece>| {
            let lane = lanes.get(&piece.partition);
            lane.is_some_and(|range| piece.range.start >= range.start)
        };
        let whole = snapshot.unlanded.iter().all(is_whole);
        Ok(Self {
            landed,
            unlanded,
            whole,
            lanes,
        })
    }

    /// The states of a view.
    fn states(&self, snapshot: &Snapshot, wanted: &WantedView) -> Result<SentStates> {
        let landed = self.landed.iter().map(|(facts, _)| facts.clone());
        let unlanded = self.unlanded.iter().map(|(facts, _)| facts.clone());
        match snapshot.views.get(&wanted.name) {
            Some((master, kept)) if self.whole => {
                let view = master.view().clone();
                let mut states = kept.clone();
                states.extend(folded(&view, landed)?);
                Ok(SentStates { view, states })
            }
            served => {
                let view = match served {
                    Some((master, _)) => master.view().clone(),
                    None => {
                        let Definition { sql, topic, .. } = &wanted.definition;
                        let view = View::compile(&wanted.name, sql, topic)?;
                        Arc::new(view.in_format_of(&wanted.definition))
                    }
                };
                let states = folded(&view, landed.chain(unlanded))?;
                let states = states.into_iter().collect();
                Ok(SentStates { view, states })
            }
        }
    }
}

/// The states of facts, where there are some.
fn folded(
    view: &Arc<View>,
    facts: impl Iterator<Item = RecordBatch>,
) -> Result<Option<RecordBatch>> {
    let facts: Vec<RecordBatch> = facts.collect();
    match facts.is_empty() {
        true => Ok(None),
        false => fold_facts(view, &facts).map(Some),
    }
}
