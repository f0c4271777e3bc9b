//! What a query sees of a topic: one head, one boundary for each view, one list of pieces; and what
//! another daemon is given of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use std::sync::atomic::Ordering;

use anabranch_shared::{
    Error, Offset, Offsets, PartitionId, ReadMode, Result, Topic, TopicPin, ViewPin, blocking,
    planted,
};
use bytes::Bytes;

use super::TopicStream;
use crate::delta::{TopicDelta, check_no_gap, fold_unlanded};
use crate::peers::{
    DeltaRequest, Gathering, Own, Peer, Peers, Pinned, Snapshot, TopicParts, answer, is_same,
};

/// Landed facts are kept for other daemons as long as one has asked in this time, in milliseconds.
const ASKED_MS: i64 = 60_000;

/// Up to where a pin reaches.
struct Moment {
    head: Offsets,
    /// The partitions that this daemon fills, and up to where.
    lanes: BTreeMap<PartitionId, Offset>,
    /// The number up to which pieces of facts are below the head.
    target: u64,
}

impl TopicStream {
    /// Pins the topic and some of its views at one head, with what `peers` hold of it.
    pub(crate) async fn pin(
        self: &Arc<Self>,
        views: &[String],
        mode: ReadMode,
        parts: TopicParts,
        peers: Option<&dyn Peers>,
    ) -> Result<Pinned> {
        // What is not absorbed is not asked for in batch mode.
        let folded = if mode == ReadMode::Merged { views } else { &[] };
        let read = |delta: &TopicDelta, at: &Moment| {
            let (topic, pinned) = self.pinned(delta, views, &at.head, at.target, mode)?;
            let own = Own {
                upto: delta.upto.clone(),
                lanes: at.lanes.clone(),
                unlanded: delta.unlanded.between(0, at.target).cloned().collect(),
                views: (pinned.keys())
                    .filter_map(|name| {
                        let view = delta.views.get(name)?;
                        let landed = view.pieces.iter().map(|p| p.parts.len()).sum();
                        Some((name.clone(), (view.master.clone(), landed)))
                    })
                    .collect(),
            };
            let notes = Vec::new();
            Ok((
                Pinned {
                    topic,
                    views: pinned,
                    notes,
                },
                own,
            ))
        };
        let (mut pinned, own) = self.settled(folded, read).await?;
        self.add_files(&mut pinned.topic, &own.upto, parts)?;
        let peers = peers.map(|p| p.of(self.name())).unwrap_or_default();
        if mode == ReadMode::Batch || peers.is_empty() {
            return Ok(pinned);
        }
        let gathered = self.gather(&peers, &own, parts, &mut pinned).await;
        if !matches!(gathered, Err(Error::BelowLow { .. })) {
            return gathered.map(|()| pinned);
        }
        // Retention has removed what was to be read up to where a peer's facts begin: the master
        // views have it.
        self.follow().await?;
        let (mut pinned, own) = self.settled(folded, read).await?;
        self.add_files(&mut pinned.topic, &own.upto, parts)?;
        self.gather(&peers, &own, parts, &mut pinned).await?;
        Ok(pinned)
    }

    /// Adds to a pin what other daemons hold.
    async fn gather(
        &self,
        peers: &[Arc<dyn Peer>],
        own: &Own,
        parts: TopicParts,
        pinned: &mut Pinned,
    ) -> Result<()> {
        let gathering = Gathering {
            log: &self.log,
            memory_bytes: self.options.memory_bytes,
            following: &|| self.following(),
            answered: &self.answered,
        };
        gathering.gather(peers, own, parts, pinned).await
    }

    /// What is held that has not landed, for another daemon's query. `notes` go with it.
    pub(crate) async fn answer_peer(
        self: &Arc<Self>,
        request: DeltaRequest,
        notes: Vec<String>,
    ) -> Result<Bytes> {
        let served = request.views.iter().filter(|wanted| {
            self.with_delta(|d| {
                let view = d.views.get(&wanted.name);
                view.is_some_and(|v| v.failed.is_none() && is_same(v.master.view(), wanted))
            })
        });
        let served: Vec<String> = served.map(|v| v.name.clone()).collect();
        let snapshot = self.snapshot(&served, self.options.now_ms()).await?;
        let (topic, schema) = self.log.declared();
        blocking(move || answer(&snapshot, &request, notes, (&topic, &schema))).await
    }

    /// What another daemon may ask for, with the states of some views.
    async fn snapshot(self: &Arc<Self>, views: &[String], now_ms: i64) -> Result<Snapshot> {
        self.asked_at_ms.store(now_ms, Ordering::Relaxed);
        let read = |delta: &TopicDelta, at: &Moment| {
            let states = |name: &String| {
                let view = delta.views.get(name)?;
                // One that has failed or was replaced meanwhile is folded anew.
                let whole = view.failed.is_none() && view.folded == at.target;
                whole.then(|| (name.clone(), (view.master.clone(), view.unlanded.clone())))
            };
            Ok(Snapshot {
                upto: delta.upto.clone(),
                lanes: at.lanes.clone(),
                lately: delta.lately.iter().cloned().collect(),
                unlanded: delta.unlanded.between(0, at.target).cloned().collect(),
                views: views.iter().filter_map(states).collect(),
            })
        };
        self.settled(views, read).await
    }

    /// Whether other daemons ask for what this one holds.
    pub(super) fn is_asked(&self) -> bool {
        let asked_at = self.asked_at_ms.load(Ordering::Relaxed);
        self.options.now_ms().saturating_sub(asked_at) <= ASKED_MS
    }

    /// Reads the delta at one moment, at which the states of some views reach to the head.
    async fn settled<T>(
        self: &Arc<Self>,
        views: &[String],
        read: impl Fn(&TopicDelta, &Moment) -> Result<T>,
    ) -> Result<T> {
        self.give_way.note();
        let _guard = self.pinning.lock().await;
        loop {
            let (at, epoch) = {
                let delta = self.delta.lock();
                let at = Moment {
                    head: delta.head(),
                    lanes: delta.lanes.clone(),
                    target: delta.unlanded.end(),
                };
                (at, delta.epoch)
            };
            for name in views {
                let (worker, name, target) = (self.clone(), name.clone(), at.target);
                blocking(move || fold_unlanded(&worker.delta, &name, target)).await?;
            }
            let delta = self.delta.lock();
            if delta.epoch == epoch {
                return read(&delta, &at);
            }
        }
    }

    fn pinned(
        &self,
        delta: &TopicDelta,
        views: &[String],
        head: &Offsets,
        target: u64,
        mode: ReadMode,
    ) -> Result<(TopicPin, BTreeMap<String, ViewPin>)> {
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
            if mode == ReadMode::Merged && view.folded != target {
                return Err(Error::Internal(format!(
                    "view `{name}`: facts up to number {} of {target} are in its states",
                    view.folded
                )));
            }
            let mut pin = ViewPin {
                view: view.master.view().clone(),
                generation: view.master.generation(),
                boundary: view.pin.boundary.clone(),
                head: head.clone(),
                root: view.master.table().root().clone(),
                files: view.pin.files.clone(),
                delta: view.states(),
            };
            if planted("planted-piece-dropped-before-its-query") {
                pin.delta.pop();
            }
            pinned.insert(name.clone(), pin);
        }
        let recent: Vec<_> = delta.unlanded.between(0, target).collect();
        let topic = TopicPin {
            topic: Topic::clone(&self.topic()),
            head: head.clone(),
            root: self.log.table().root().clone(),
            files: Vec::new(),
            memory: recent.iter().map(|p| p.facts.clone()).collect(),
            dead_root: self.log.dead_letters().root().clone(),
            dead_files: Vec::new(),
            low: Offsets::default(),
            dead_memory: recent.iter().filter_map(|p| p.dead.clone()).collect(),
        };
        Ok((topic, pinned))
    }

    /// Adds the files of what had landed at a pin's moment, as far as a query reads them. Of a log of
    /// many files that takes long, so it is not done under the delta's lock; what lands, is merged or
    /// is removed meanwhile changes which files those are, not the facts below `upto` that they hold.
    fn add_files(&self, pin: &mut TopicPin, upto: &Offsets, parts: TopicParts) -> Result<()> {
        if !parts.facts && !parts.dead_letters {
            return Ok(());
        }
        let (low, files) = self.log.kept_files(upto)?;
        if parts.dead_letters {
            pin.dead_files = self.log.dead_letter_files_between(&low, upto)?;
        }
        (pin.low, pin.files) = (low, files);
        pin.leave_removed_out()
    }
}
