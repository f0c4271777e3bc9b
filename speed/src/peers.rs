//! Answers over the deltas of all daemons of a topic, under one pin: which daemon each partition's
//! unlanded facts are taken from, what of the log closes the gap up to them, and what is said of a
//! daemon that does not answer. How daemons are reached is the caller's, as a [`Peer`].
//!
//! A pin begins with what this daemon holds, which does not change any more; the others are asked
//! for what they hold from where its landed facts end. One that has landed more than this daemon
//! has followed says so, and the rest is read from the log, up to exactly there.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_shared::view::{Definition, fold_facts};
use anabranch_shared::{
    Error, Log, Master, Met, Offset, OffsetRange, Offsets, PartitionId, Ranges, Result, TopicPin,
    ViewPin, blocking, planted,
};
use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::delta::fold_landed::{Following, follow_log};
use crate::delta::fold_pieces;
use crate::intake::payload::PlacedFacts;

mod answer;
mod choice;
mod wire;

pub(crate) use answer::{Snapshot, answer};
use choice::{Choice, Holder, Lanes, choose, head_of};
pub(crate) use wire::{PeerDelta, encode};

/// How often the daemons are asked anew because two of them hold one partition.
const TRIES: usize = 6;

/// What a daemon is asked for: what it holds of a topic that has not landed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeltaRequest {
    /// The id of the WAL of the daemon that is meant.
    pub wal: String,
    /// The topic.
    pub topic: String,
    /// For each partition where what is asked for begins: the landed facts that the asker has.
    pub from: Offsets,
    /// The views whose states are wanted.
    pub views: Vec<WantedView>,
    /// Whether the facts are wanted.
    pub facts: bool,
    /// Whether the dead letters are wanted.
    pub dead_letters: bool,
    /// Partitions of which nothing is wanted, because another daemon gives it.
    #[serde(default)]
    pub except: Vec<PartitionId>,
}

/// A view whose states are wanted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WantedView {
    /// Its name.
    pub name: String,
    /// What it computes. A generation that computes the same makes the same states.
    pub definition: Definition,
}

/// What became of a question to another daemon.
#[derive(Debug)]
pub enum PeerReply {
    /// Its answer, as [`crate::Daemon::delta`] gives it.
    Answer(Bytes),
    /// It does not answer.
    Silent,
    /// It has landed everything and ended.
    Left,
}

/// Another daemon of the same storage.
#[async_trait]
pub trait Peer: Send + Sync + std::fmt::Debug {
    /// Where it is, for people.
    fn name(&self) -> String;

    /// The id of its WAL.
    fn wal(&self) -> String;

    /// The partitions of a topic that it fills, as far as is known.
    fn partitions(&self, topic: &str) -> Vec<PartitionId>;

    /// Remembers which partitions of a topic it fills.
    fn fills(&self, topic: &str, partitions: Vec<PartitionId>);

    /// Asks it.
    ///
    /// # Errors
    /// What the daemon says why it can't answer, such as a view whose SQL fails on a fact.
    async fn ask(&self, request: &DeltaRequest) -> Result<PeerReply>;

    /// For people: that its facts from an offset of a partition on may be missing.
    fn missing_note(&self, topic: &str, partition: PartitionId, landed: Offset) -> String;
}

/// The other daemons of the same storage.
pub trait Peers: Send + Sync + std::fmt::Debug {
    /// Those that may fill partitions of a topic. Asked by every query, so it reads memory alone.
    fn of(&self, topic: &str) -> Vec<Arc<dyn Peer>>;
}

/// What of a topic a query reads, besides views.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TopicParts {
    pub(crate) facts: bool,
    pub(crate) dead_letters: bool,
}

/// What this daemon holds, at the moment of a pin.
#[derive(Debug)]
pub(crate) struct OwnHoldings {
    /// For each partition up to where landed facts are in the pin.
    pub(crate) upto: Offsets,
    /// For each partition that this daemon fills, where its unlanded facts end.
    pub(crate) lanes: BTreeMap<PartitionId, Offset>,
    /// Those facts.
    pub(crate) unlanded: Vec<Arc<PlacedFacts>>,
    /// The views, and how many of the pin's states are of landed facts.
    pub(crate) views: BTreeMap<String, (Arc<Master>, usize)>,
}

/// One topic's part of a pin.
#[derive(Debug)]
pub(crate) struct Pinned {
    pub(crate) topic: TopicPin,
    pub(crate) views: BTreeMap<String, ViewPin>,
    /// What the reader should know.
    pub(crate) notes: Vec<String>,
}

/// What came of asking a daemon.
#[derive(Debug)]
enum Asked {
    Held(Box<PeerDelta>),
    Silent,
    Left,
}

impl Asked {
    fn lanes(&self) -> Option<&Lanes> {
        match self {
            Self::Held(held) => Some(&held.lanes),
            _ => None,
        }
    }
}

/// What gathers a topic's facts from other daemons: something that follows the topic's log.
pub(crate) struct Gathering<'a> {
    /// The log.
    pub(crate) log: &'a Arc<Log>,
    /// The most bytes that an answer of another daemon may take in memory.
    pub(crate) memory_bytes: u64,
    /// How the log is followed, anew for each view.
    pub(crate) following: &'a (dyn Fn() -> Following + Sync),
    /// How far the answers reached that were given so far.
    pub(crate) answered: &'a Mutex<Offsets>,
}

impl Gathering<'_> {
    fn name(&self) -> &str {
        self.log.name()
    }

    /// Adds to a pin what other daemons hold.
    pub(crate) async fn gather(
        &self,
        peers: &[Arc<dyn Peer>],
        own: &OwnHoldings,
        parts: TopicParts,
        pinned: &mut Pinned,
    ) -> Result<()> {
        let wanted = |(name, (master, _)): (&String, &(Arc<Master>, usize))| WantedView {
            name: name.clone(),
            definition: master.view().definition().clone(),
        };
        let request = DeltaRequest {
            wal: String::new(),
            topic: self.name().to_owned(),
            from: own.upto.clone(),
            // What facts meet of references is this pin's to say, so their states are made here.
            views: own.views.iter().filter(|v| !meets(v)).map(wanted).collect(),
            facts: parts.facts || own.views.iter().any(|v| meets(&v)),
            dead_letters: parts.dead_letters,
            except: Vec::new(),
        };
        let asked = peers.iter().map(|p| self.ask(p, request.clone(), own));
        let mut asked = futures::future::try_join_all(asked).await?;
        let mut excepts = vec![Vec::new(); peers.len()];
        let mut landed = own.upto.clone();
        let mut looked = false;
        for _ in 0..TRIES {
            let lanes: Vec<_> = asked.iter().map(Asked::lanes).collect();
            let choices = choose(&own.upto, &own.lanes, &lanes, &landed);
            let left = asked.iter().any(|a| matches!(a, Asked::Left));
            if !looked && (left || self.is_less_than_answered(&own.upto, &choices)) {
                // What somebody held that holds it no more may have landed.
                self.look_at_log().await?;
                landed = self.log.head();
                looked = true;
                continue;
            }
            let mut again = false;
            for (i, held) in asked.iter_mut().enumerate() {
                let lost = lost_lanes(held, i, &choices, &own.upto);
                if !lost.is_empty() && !planted("planted-overlap-counted-twice") {
                    excepts[i].extend(lost);
                    let request = DeltaRequest {
                        except: excepts[i].clone(),
                        ..request.clone()
                    };
                    *held = self.ask(&peers[i], request, own).await?;
                    again = true;
                }
            }
            if !again {
                self.note_answered(&own.upto, &choices, looked);
                return self.join(peers, asked, own, &choices, parts, pinned).await;
            }
        }
        Err(Error::Unavailable(format!(
            "topic `{}`: daemons hold the same partitions and go on changing which; try again",
            self.name()
        )))
    }

    async fn ask(
        &self,
        peer: &Arc<dyn Peer>,
        request: DeltaRequest,
        own: &OwnHoldings,
    ) -> Result<Asked> {
        let request = DeltaRequest {
            wal: peer.wal(),
            ..request
        };
        let body = match peer.ask(&request).await? {
            PeerReply::Answer(body) => body,
            PeerReply::Silent => return Ok(Asked::Silent),
            PeerReply::Left => return Ok(Asked::Left),
        };
        let (name, limit) = (peer.name(), self.memory_bytes);
        let named =
            |(name, (m, _)): (&String, &(Arc<Master>, usize))| (name.clone(), m.view().clone());
        let views = own.views.iter().filter(|v| !meets(v)).map(named).collect();
        let topic = self.log.topic();
        let held = blocking(move || PeerDelta::decode(&body, &name, &topic, views, limit)).await?;
        if request.except.is_empty() {
            peer.fills(&request.topic, held.lanes.keys().copied().collect());
        }
        Ok(Asked::Held(Box::new(held)))
    }

    /// Whether an answer was given that went further.
    fn is_less_than_answered(
        &self,
        upto: &Offsets,
        choices: &BTreeMap<PartitionId, Choice>,
    ) -> bool {
        !head_of(upto, choices).covers(&self.answered.lock())
    }

    fn note_answered(&self, upto: &Offsets, choices: &BTreeMap<PartitionId, Choice>, looked: bool) {
        let mut answered = self.answered.lock();
        for (p, end) in head_of(upto, choices).iter() {
            match looked {
                // What is gone from sight is not looked for by each query anew.
                true => answered.set(p, end),
                false => answered.raise(p, end),
            }
        }
    }

    /// Reads what others have landed, without making it part of the deltas.
    async fn look_at_log(&self) -> Result<()> {
        if self.log.refresh().await? {
            self.log.table().storage().settle().await?;
        }
        Ok(())
    }

    /// Puts together what was chosen.
    async fn join(
        &self,
        peers: &[Arc<dyn Peer>],
        asked: Vec<Asked>,
        own: &OwnHoldings,
        choices: &BTreeMap<PartitionId, Choice>,
        parts: TopicParts,
        pinned: &mut Pinned,
    ) -> Result<()> {
        self.drop_lost_own(own, choices, pinned).await?;
        let landed = self.follow_up_to_held(own, choices, parts, pinned).await?;
        let head = head_of(&own.upto, choices);
        pinned.topic.head = head.clone();
        pinned
            .views
            .values_mut()
            .for_each(|v| v.head = head.clone());
        let topic = self.name();
        let lanes = asked.iter().filter_map(Asked::lanes);
        let answered: Vec<PartitionId> = lanes.flat_map(|l| l.keys().copied()).collect();
        for (peer, asked) in peers.iter().zip(asked) {
            let held = match asked {
                Asked::Held(held) => *held,
                Asked::Left => continue,
                Asked::Silent => {
                    // A partition that somebody else fills now is not his any more.
                    let his = peer
                        .partitions(topic)
                        .into_iter()
                        .filter(|p| !own.lanes.contains_key(p) && !answered.contains(p));
                    let note = |p| peer.missing_note(topic, p, landed.get(p));
                    pinned.notes.extend(his.map(note));
                    continue;
                }
            };
            self.fold_held(own, &held, pinned).await?;
            for (name, states) in held.states {
                if let Some(view) = pinned.views.get_mut(&name) {
                    view.delta.push(states.into());
                }
            }
            if parts.facts {
                pinned.topic.memory.extend(held.facts);
            }
            pinned.topic.dead_memory.extend(held.dead);
            let notes = held.notes.into_iter();
            pinned
                .notes
                .extend(notes.map(|n| format!("the daemon at {}: {n}", peer.name())));
        }
        pinned.topic.leave_removed_out()
    }

    /// Adds the states of another daemon's facts to views whose facts meet references.
    async fn fold_held(
        &self,
        own: &OwnHoldings,
        held: &PeerDelta,
        pinned: &mut Pinned,
    ) -> Result<()> {
        for (name, (master, _)) in own.views.iter().filter(meets) {
            let Some(view) = pinned
                .views
                .get_mut(name)
                .filter(|_| !held.facts.is_empty())
            else {
                continue;
            };
            let (bound, facts) = (master.view().now()?, held.facts.clone());
            let ranges: Ranges = held.lanes.iter().map(|(p, r)| (*p, *r)).collect();
            view.met.extend(&Met::of(&ranges, bound.at()));
            let states = blocking(move || fold_facts(&bound, &facts)).await?;
            view.delta.push(states.into());
        }
        Ok(())
    }

    /// Leaves out what this daemon holds of partitions that are taken from others.
    async fn drop_lost_own(
        &self,
        own: &OwnHoldings,
        choices: &BTreeMap<PartitionId, Choice>,
        pinned: &mut Pinned,
    ) -> Result<()> {
        let is_kept = |p: &&Arc<PlacedFacts>| {
            let choice = choices.get(&p.partition);
            choice.is_none_or(|c| c.holder == Holder::Own)
        };
        let kept: Vec<Arc<PlacedFacts>> = own.unlanded.iter().filter(is_kept).cloned().collect();
        if kept.len() == own.unlanded.len() || planted("planted-overlap-counted-twice") {
            return Ok(());
        }
        pinned.topic.memory = kept.iter().map(|p| p.facts.clone()).collect();
        pinned.topic.dead_memory = kept.iter().filter_map(|p| p.dead.clone()).collect();
        for (name, (master, landed)) in &own.views {
            if let Some(view) = pinned.views.get_mut(name) {
                let (of, kept) = (master.view().now()?, kept.clone());
                let ranges = kept.iter().map(|p| (p.partition, p.range));
                view.met
                    .extend(&Met::of(&ranges.collect::<Ranges>(), of.at()));
                view.delta.truncate(*landed);
                let states = blocking(move || fold_pieces(&of, &kept)).await?;
                view.delta.push(states.into());
            }
        }
        Ok(())
    }

    /// Adds the landed facts between those of the pin and those that others hold. Returns up to
    /// where the pin's landed facts reach.
    async fn follow_up_to_held(
        &self,
        own: &OwnHoldings,
        choices: &BTreeMap<PartitionId, Choice>,
        parts: TopicParts,
        pinned: &mut Pinned,
    ) -> Result<Offsets> {
        let mut landed = own.upto.clone();
        for (p, choice) in choices {
            landed.raise(*p, choice.range.start);
        }
        if own.upto.covers(&landed) || planted("planted-hole-not-followed") {
            return Ok(landed);
        }
        self.look_at_log().await?;
        for (name, (master, _)) in &own.views {
            let following = (self.following)();
            let pieces = follow_log(self.log, master, &own.upto, &landed, &following).await?;
            if let Some(view) = pinned.views.get_mut(name) {
                pieces.iter().for_each(|p| view.met.extend(&p.met));
                view.delta
                    .extend(pieces.iter().flat_map(|p| p.parts.clone()));
            }
        }
        if parts.facts || parts.dead_letters {
            if !self.log.head().covers(&landed) {
                return Err(Error::Unavailable(format!(
                    "topic `{}`: another daemon has landed up to [{landed}], the log ends at [{}]; try again",
                    self.name(),
                    self.log.head()
                )));
            }
            let (low, files) = self.log.kept_files(&landed)?;
            pinned.topic.files = files;
            pinned.topic.dead_files = self.log.dead_letter_files_between(&low, &landed)?;
            pinned.topic.low = low;
        }
        Ok(landed)
    }
}

/// Whether the facts of a view meet references.
fn meets((_, (master, _)): &(&String, &(Arc<Master>, usize))) -> bool {
    !master.view().references().is_empty()
}

/// The partitions of which a daemon has given something that is taken from another.
fn lost_lanes(
    asked: &Asked,
    number: usize,
    choices: &BTreeMap<PartitionId, Choice>,
    upto: &Offsets,
) -> Vec<PartitionId> {
    let lanes = asked.lanes().into_iter().flatten();
    let lost = lanes.filter(|(p, range)| {
        let taken = choices.get(p).map(|c| c.holder);
        range.end > upto.get(**p) && !range.is_empty() && taken != Some(Holder::Peer(number))
    });
    lost.map(|(p, _)| *p).collect()
}

/// What of a piece lies at or past an offset.
fn past(piece: &PlacedFacts, from: Offset) -> Result<Option<(RecordBatch, Option<RecordBatch>)>> {
    if piece.range.start >= from || planted("planted-peer-facts-not-cut") {
        return Ok(Some((piece.facts.clone(), piece.dead.clone())));
    }
    if piece.range.end <= from {
        return Ok(None);
    }
    let range = [(piece.partition, OffsetRange::new(from, piece.range.end))];
    let facts = anabranch_shared::keep_ranges(&piece.facts, &range)?;
    let dead = piece.dead.as_ref();
    let dead = dead
        .map(|d| anabranch_shared::keep_ranges(d, &range))
        .transpose()?;
    Ok(Some((facts, dead)))
}
