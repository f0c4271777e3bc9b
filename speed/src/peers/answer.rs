//! What this daemon gives to another that asks what it holds of a topic: facts that have not
//! landed, those that have landed a moment ago and that the asker has not followed yet, and their
//! states.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_shared::view::{Definition, View, fold_facts};
use anabranch_shared::{Master, Offset, OffsetRange, Offsets, PartitionId, Result, Topic};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;

use super::wire::{SentStates, encode};
use super::{DeltaRequest, PeerDelta, WantedView, past};
use crate::intake::payload::PlacedFacts;

/// What a topic's daemon holds, at one moment.
pub(crate) struct Snapshot {
    /// For each partition up to where it knows facts to have landed.
    pub(crate) upto: Offsets,
    /// The partitions that it fills, and up to where.
    pub(crate) lanes: BTreeMap<PartitionId, Offset>,
    /// Facts that have landed a moment ago.
    pub(crate) recently_landed: Vec<Arc<PlacedFacts>>,
    /// Facts that have not landed.
    pub(crate) unlanded: Vec<Arc<PlacedFacts>>,
    /// Views, with the states of `unlanded`.
    pub(crate) views: BTreeMap<String, (Arc<Master>, Vec<RecordBatch>)>,
}

/// What is given of a snapshot to a daemon that asks, encoded. Heavy: for threads that may block.
pub(crate) fn answer(
    snapshot: &Snapshot,
    request: &DeltaRequest,
    notes: Vec<String>,
    declared: (&Topic, &SchemaRef),
) -> Result<Bytes> {
    let (topic, schema) = declared;
    let taken = Taken::of(snapshot, request)?;
    let states = request.views.iter().map(|v| taken.states(snapshot, v));
    let states = states.collect::<Result<Vec<_>>>()?;
    let chosen = taken.landed.into_iter().chain(taken.unlanded);
    let (facts, dead): (Vec<_>, Vec<_>) = chosen.unzip();
    let delta = PeerDelta {
        lanes: taken.lanes,
        facts: if request.facts { facts } else { Vec::new() },
        dead: if request.dead_letters {
            dead.into_iter().flatten().collect()
        } else {
            Vec::new()
        },
        notes,
        ..PeerDelta::default()
    };
    encode(&delta, &states, (schema, &topic.late_reads()))
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
            for piece in snapshot
                .recently_landed
                .iter()
                .rev()
                .filter(|f| f.partition == *p)
            {
                if piece.range.end == start {
                    start = piece.range.start;
                }
            }
            let start = start.max(request.from.get(*p));
            lanes.insert(*p, OffsetRange::new(start.min(*end), *end));
        }
        let rows = |piece: &Arc<PlacedFacts>| -> Result<Option<Rows>> {
            match lanes.get(&piece.partition) {
                Some(range) => past(piece, range.start),
                None => Ok(None),
            }
        };
        let rows = |pieces: &[Arc<PlacedFacts>]| -> Result<Vec<Rows>> {
            pieces.iter().filter_map(|p| rows(p).transpose()).collect()
        };
        // Those that have landed before the chain of landed pieces begins end before its start.
        let landed = rows(&snapshot.recently_landed)?;
        let unlanded = rows(&snapshot.unlanded)?;
        let is_whole = |piece: &Arc<PlacedFacts>| {
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
                let name = wanted.name.clone();
                Ok(SentStates { name, view, states })
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
                let name = wanted.name.clone();
                Ok(SentStates { name, view, states })
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
