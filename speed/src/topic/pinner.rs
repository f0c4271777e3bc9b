//! What a query sees of a topic: one head, one boundary for each view, one list of pieces; and what
//! another daemon is given of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_shared::{
    Error, GiveWay, LockHolds, Offset, Offsets, PartitionId, ReadMode, Result, Topic, TopicPin,
    ViewPin, blocking, planted,
};
use bytes::Bytes;
use parking_lot::Mutex;

use super::memory::TopicMemory;
use super::upkeep::{Asked, Upkeep};
use crate::delta::{TopicDelta, check_no_gap, fold_unlanded, merge_unlanded};
use crate::peers::{
    DeltaRequest, Gathering, OwnHoldings, Peer, Peers, Pinned, Snapshot, TopicParts, answer,
};

/// No more facts than this are folded while other queries wait for their pins, as a rule: it takes
/// about a millisecond.
const FOLDED_AT_ONCE: usize = 1_000;

/// How often a query folds ahead of its pin, and comes again where there is much to fold once more.
const TIMES_AHEAD: usize = 3;

/// With more runs of unlanded states than this some are merged, also where more pieces are kept.
const MOST_RUNS: usize = 8;

/// Turns at work on a view's unlanded facts that several queries need and one does.
#[derive(Debug, Default)]
pub(super) struct FoldingTurns {
    folding: tokio::sync::Mutex<()>,
    merging: tokio::sync::Mutex<()>,
}

/// Up to where a pin reaches.
struct Reach {
    head: Offsets,
    /// The partitions that this daemon fills, and up to where.
    lanes: BTreeMap<PartitionId, Offset>,
    /// The number up to which pieces of facts are below the head.
    target: u64,
}

impl Reach {
    /// The moment up to which the states of all of some views reach, where they reach to one and
    /// the same: at least to `target`, of a numbering that still holds. Without views it is now.
    fn of(delta: &TopicDelta, views: &[String], (numbering, target): (u64, u64)) -> Option<Self> {
        let start = delta.unlanded.start();
        let views = views.iter().filter_map(|name| delta.views.get(name));
        let mut ends = views
            .filter(|view| view.failed.is_none())
            .map(|view| view.unlanded.whole(start));
        let end = match ends.next() {
            Some(end) => end?,
            None => delta.unlanded.end(),
        };
        let is_one = ends.all(|other| other == Some(end));
        if !is_one || numbering != delta.numbering || end < target {
            return None;
        }
        // Of each partition the pieces follow each other, so those up to a number end where the
        // first one after it starts.
        let mut lanes = delta.lanes.clone();
        for piece in delta.unlanded.between(end, u64::MAX) {
            if let Some(next) = lanes.get_mut(&piece.partition) {
                *next = piece.range.start.min(*next);
            }
        }
        let mut head = delta.upto.clone();
        lanes.iter().for_each(|(p, next)| head.raise(*p, *next));
        Some(Self {
            head,
            lanes,
            target: end,
        })
    }
}

/// What pins a topic for queries, its own daemon's and others'.
#[derive(Debug)]
pub(crate) struct TopicPinner {
    memory: Arc<TopicMemory>,
    /// What follows the log where a pin needs more of it.
    upkeep: Arc<Upkeep>,
    /// Held by whoever folds much of a view's unlanded facts, or merges their states.
    folding: Mutex<BTreeMap<String, Arc<FoldingTurns>>>,
    /// Held by whoever chooses a pin, so that all views of one query end at one head.
    pinning: tokio::sync::Mutex<()>,
    pinning_holds: Arc<LockHolds>,
    /// Told of each query, so that landings give way.
    give_way: GiveWay,
    /// Up to where answers with what other daemons hold have gone: no later one is to go less far
    /// without a look at the log.
    answered: Mutex<Offsets>,
    /// When another daemon last asked.
    asked: Arc<Asked>,
}

impl TopicPinner {
    pub(super) fn new(memory: &Arc<TopicMemory>, upkeep: &Arc<Upkeep>, give_way: &GiveWay) -> Self {
        Self {
            memory: memory.clone(),
            upkeep: upkeep.clone(),
            folding: Mutex::default(),
            pinning: tokio::sync::Mutex::default(),
            pinning_holds: LockHolds::new("pinning"),
            give_way: give_way.clone(),
            answered: Mutex::default(),
            asked: upkeep.asked().clone(),
        }
    }

    /// How long others had to wait who choose a pin.
    pub(super) fn holds(&self) -> Arc<LockHolds> {
        self.pinning_holds.clone()
    }

    /// Pins the topic and some of its views at one head, with what `peers` hold of it.
    pub(crate) async fn pin(
        &self,
        views: &[String],
        mode: ReadMode,
        parts: TopicParts,
        peers: Option<&dyn Peers>,
    ) -> Result<Pinned> {
        // What is not absorbed is not asked for in batch mode.
        let folded = if mode == ReadMode::Merged { views } else { &[] };
        let peers = peers.map(|p| p.of(self.memory.name())).unwrap_or_default();
        let asks = mode == ReadMode::Merged && !peers.is_empty();
        let takes_facts = parts.facts || parts.dead_letters || asks;
        let read = |delta: &TopicDelta, at: &Reach| {
            let pinned = pinned(delta, views, at, mode)?;
            let unlanded = delta.unlanded.between(0, at.target);
            let own = OwnHoldings {
                upto: delta.upto.clone(),
                lanes: at.lanes.clone(),
                unlanded: match takes_facts {
                    true => unlanded.cloned().collect(),
                    false => Vec::new(),
                },
                views: (pinned.keys())
                    .filter_map(|name| {
                        let view = delta.views.get(name)?;
                        let landed = view.pieces.iter().map(|p| p.parts.len()).sum();
                        Some((name.clone(), (view.master.clone(), landed)))
                    })
                    .collect(),
            };
            Ok((at.head.clone(), pinned, own))
        };
        let (head, views, own) = self.settled(folded, read).await?;
        let mut pinned = self.with_facts(head, views, &own, parts)?;
        if !asks {
            return Ok(pinned);
        }
        let gathered = self.gather(&peers, &own, parts, &mut pinned).await;
        if !matches!(gathered, Err(Error::BelowLow { .. })) {
            return gathered.map(|()| pinned);
        }
        // Retention has removed what was to be read up to where a peer's facts begin: the master
        // views have it.
        self.upkeep.follow().await?;
        let (head, views, own) = self.settled(folded, read).await?;
        let mut pinned = self.with_facts(head, views, &own, parts)?;
        self.gather(&peers, &own, parts, &mut pinned).await?;
        Ok(pinned)
    }

    /// Adds to a pin what other daemons hold.
    async fn gather(
        &self,
        peers: &[Arc<dyn Peer>],
        own: &OwnHoldings,
        parts: TopicParts,
        pinned: &mut Pinned,
    ) -> Result<()> {
        let gathering = Gathering {
            log: &self.memory.log,
            memory_bytes: self.memory.options.memory_bytes,
            following: &|| self.memory.following(),
            answered: &self.answered,
        };
        gathering.gather(peers, own, parts, pinned).await
    }

    /// What is held that has not landed, for another daemon's query. `notes` go with it.
    pub(crate) async fn answer_peer(
        &self,
        request: DeltaRequest,
        notes: Vec<String>,
    ) -> Result<Bytes> {
        let served = request.views.iter().filter(|wanted| {
            self.memory.with_delta(|d| {
                let view = d.views.get(&wanted.name);
                view.filter(|v| v.failed.is_none()).is_some_and(|v| {
                    let own = v.master.view().definition();
                    own.makes_same_states(&wanted.definition)
                })
            })
        });
        let served: Vec<String> = served.map(|v| v.name.clone()).collect();
        let snapshot = self.snapshot(&served, self.memory.options.now_ms()).await?;
        let (topic, schema) = self.memory.log.declared();
        blocking(move || answer(&snapshot, &request, notes, (&topic, &schema))).await
    }

    /// What another daemon may ask for, with the states of some views.
    async fn snapshot(&self, views: &[String], now_ms: i64) -> Result<Snapshot> {
        self.asked.note(now_ms);
        let read = |delta: &TopicDelta, at: &Reach| {
            let states = |name: &String| {
                let view = delta.views.get(name)?;
                // One that has failed is folded anew.
                let states = || view.unlanded.states().cloned().collect();
                let whole = view.failed.is_none();
                whole.then(|| (name.clone(), (view.master.clone(), states())))
            };
            Ok(Snapshot {
                upto: delta.upto.clone(),
                lanes: at.lanes.clone(),
                recently_landed: delta.recently_landed.iter().cloned().collect(),
                unlanded: delta.unlanded.between(0, at.target).cloned().collect(),
                views: views.iter().filter_map(states).collect(),
            })
        };
        self.settled(views, read).await
    }

    /// Reads the delta at one moment, at which the states of some views reach to the head as it was
    /// when this began, or further.
    async fn settled<T>(
        &self,
        views: &[String],
        read: impl Fn(&TopicDelta, &Reach) -> Result<T>,
    ) -> Result<T> {
        self.give_way.note();
        let mut times = 0;
        let settled = 'ahead: loop {
            for name in views {
                self.fold_ahead(name).await?;
            }
            let _guard = self.pinning.lock().await;
            let _hold = self.pinning_holds.begin();
            loop {
                let (reaches, late) = {
                    let delta = self.memory.delta.lock();
                    let reaches = (delta.numbering, delta.unlanded.end());
                    let late: Vec<(String, bool)> = behind(&delta, views).collect();
                    (reaches, late)
                };
                if times < TIMES_AHEAD && late.iter().any(|(_, far)| *far) {
                    times += 1;
                    continue 'ahead;
                }
                for (name, _) in late {
                    self.fold_to(&name, reaches.1).await?;
                }
                let delta = self.memory.delta.lock();
                if let Some(at) = Reach::of(&delta, views, reaches) {
                    break 'ahead read(&delta, &at);
                }
            }
        };
        for name in views {
            self.merge_folded(name).await?;
        }
        settled
    }

    fn turns(&self, view: &str) -> Arc<FoldingTurns> {
        let mut turns = self.folding.lock();
        match turns.get(view) {
            Some(turns) => turns.clone(),
            None => turns.entry(view.to_owned()).or_default().clone(),
        }
    }

    async fn fold_to(&self, view: &str, target: u64) -> Result<()> {
        let (delta, view) = (self.memory.delta.clone(), view.to_owned());
        let folded = blocking(move || {
            fold_unlanded(&delta, &view, target);
            Ok(())
        });
        folded.await
    }

    /// Folds what is more than a few unlanded facts, while other queries go on. Those that need the
    /// same states wait for them.
    async fn fold_ahead(&self, view: &str) -> Result<()> {
        let far = |delta: &TopicDelta| {
            let views = std::slice::from_ref(&view);
            let far = behind(delta, views).any(|(_, far)| far);
            far.then(|| delta.unlanded.end())
        };
        if self.memory.with_delta(far).is_none() {
            return Ok(());
        }
        let turns = self.turns(view);
        let _turn = turns.folding.lock().await;
        for _ in 0..TIMES_AHEAD {
            let Some(target) = self.memory.with_delta(far) else {
                break;
            };
            self.fold_to(view, target).await?;
        }
        Ok(())
    }

    /// Merges states of unlanded facts where they are many, unless that is being done.
    async fn merge_folded(&self, view: &str) -> Result<()> {
        let most = self.memory.options.most_pieces.clamp(2, MOST_RUNS);
        let many = |delta: &TopicDelta| {
            let view = delta.views.get(view);
            view.is_some_and(|view| view.unlanded.count() > most)
        };
        if !self.memory.with_delta(many) {
            return Ok(());
        }
        let turns = self.turns(view);
        let Ok(_turn) = turns.merging.try_lock() else {
            return Ok(());
        };
        let (delta, view) = (self.memory.delta.clone(), view.to_owned());
        let merged = blocking(move || {
            merge_unlanded(&delta, &view, most);
            Ok(())
        });
        merged.await
    }

    /// Adds to what was pinned of views the facts of that moment, as far as a query reads them. Of a
    /// log of many files and of many requests that takes long, so it is not done under the delta's
    /// lock; what lands, is merged or is removed meanwhile changes which files those are, not the
    /// facts below `upto` that they hold.
    fn with_facts(
        &self,
        head: Offsets,
        views: BTreeMap<String, ViewPin>,
        own: &OwnHoldings,
        parts: TopicParts,
    ) -> Result<Pinned> {
        let mut topic = TopicPin {
            topic: Topic::clone(&self.memory.log.topic()),
            head,
            root: self.memory.log.table().root().clone(),
            files: Vec::new(),
            memory: Vec::new(),
            dead_root: self.memory.log.dead_letters().root().clone(),
            dead_files: Vec::new(),
            low: Offsets::default(),
            dead_memory: Vec::new(),
        };
        if parts.facts || parts.dead_letters {
            topic.memory = own.unlanded.iter().map(|p| p.facts.clone()).collect();
            let dead = own.unlanded.iter().filter_map(|p| p.dead.clone());
            topic.dead_memory = dead.collect();
            let (low, files) = self.memory.log.kept_files(&own.upto)?;
            if parts.dead_letters {
                topic.dead_files = self.memory.log.dead_letter_files_between(&low, &own.upto)?;
            }
            (topic.low, topic.files) = (low, files);
            topic.leave_removed_out()?;
        }
        Ok(Pinned {
            topic,
            views,
            notes: Vec::new(),
        })
    }
}

/// What a query sees of some views at a moment.
fn pinned(
    delta: &TopicDelta,
    views: &[String],
    at: &Reach,
    mode: ReadMode,
) -> Result<BTreeMap<String, ViewPin>> {
    let mut pinned = BTreeMap::new();
    for name in views {
        let Some(view) = delta.views.get(name) else {
            continue;
        };
        if let Some(failed) = &view.failed
            && mode == ReadMode::Merged
        {
            return Err(match view.superseded {
                true => Error::Unavailable(failed.clone()),
                false => Error::Invalid(failed.clone()),
            });
        }
        check_no_gap(name, view, &delta.upto)?;
        let folded = view.unlanded.whole(delta.unlanded.start());
        if mode == ReadMode::Merged && folded != Some(at.target) {
            return Err(Error::Internal(format!(
                "view `{name}`: facts up to number {folded:?} of {} are in its states",
                at.target
            )));
        }
        let mut pin = ViewPin {
            view: view.master.view().clone(),
            generation: view.master.generation(),
            boundary: view.pin.boundary.clone(),
            head: at.head.clone(),
            root: view.master.table().root().clone(),
            files: view.pin.files.clone(),
            delta: view.states(),
            met: view.met(at.lanes.iter().map(|(p, end)| (*p, *end)), &delta.upto),
        };
        if planted("planted-piece-dropped-before-its-query") {
            pin.delta.pop();
        }
        pinned.insert(name.clone(), pin);
    }
    Ok(pinned)
}

/// Which of some views have not folded all unlanded facts, and whether those are more than a few.
fn behind<'a>(
    delta: &'a TopicDelta,
    views: &'a [impl AsRef<str>],
) -> impl Iterator<Item = (String, bool)> + 'a {
    let (start, end) = (delta.unlanded.start(), delta.unlanded.end());
    views.iter().filter_map(move |name| {
        let name = name.as_ref();
        let view = delta.views.get(name).filter(|v| v.failed.is_none())?;
        let (from, to) = view.unlanded.gap(start, end, start)?;
        let mut facts = 0;
        let far = delta.unlanded.between(from, to).any(|piece| {
            facts += piece.facts.num_rows();
            facts > FOLDED_AT_ONCE
        });
        Some((name.to_owned(), far))
    })
}
