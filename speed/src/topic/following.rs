//! How a topic's deltas follow what others do: landings, moved boundaries, cut-overs.

use std::sync::Arc;
use std::time::Instant;

use anabranch_shared::{Error, ErrorKind, Master, MasterPin, Offsets, Result, blocking, planted};

use super::TopicStream;
use crate::delta::fold_landed::follow_log;
use crate::delta::{StatePiece, ViewDelta, above_boundary, check_no_gap, is_of_view, merge_pieces};

/// What was made for one view of what others have landed.
struct Added {
    view: String,
    pieces: Result<Vec<Arc<StatePiece>>>,
    /// Where the pieces take the place of all former ones: from which master view on they reach.
    instead: Option<MasterPin>,
}

/// A vector of offsets, not below `low` anywhere.
fn raised(offsets: &Offsets, low: &Offsets) -> Offsets {
    let mut raised = offsets.clone();
    let below = low.iter().filter(|(p, o)| offsets.get(*p) < *o);
    below.for_each(|(p, o)| raised.raise(p, o));
    raised
}

impl TopicStream {
    /// Follows what others have landed, and the boundaries that others have moved.
    pub async fn follow(&self) -> Result<()> {
        let _guard = self.upkeep.lock().await;
        self.delta.lock().lately.expire(self.options.now_ms());
        self.follow_where_room().await?;
        for (name, master) in self.masters() {
            match self.adopt(&name, &master).await {
                Ok(false) => {}
                // There may be room now.
                Ok(true) => self.pause.lock().succeeded(),
                Err(e) => {
                    if e.kind() == ErrorKind::Unavailable {
                        self.pause.lock().succeeded();
                    }
                    if let Err(e) = self.give_up_or(&name, e) {
                        tracing::warn!(view = %name, error = %e, "can't follow the boundary yet");
                    }
                }
            }
            if let Err(e) = self.merge(&name, self.options.most_pieces).await {
                self.give_up_or(&name, e)?;
            }
        }
        self.relieve().await;
        Ok(())
    }

    /// Follows the log unless there was no room for it a moment ago. Answers stay as they are
    /// while there is none.
    async fn follow_where_room(&self) -> Result<()> {
        if !self.pause.lock().is_due(Instant::now()) {
            return Ok(());
        }
        match self.follow_log().await {
            Err(Error::NoRoom(why)) => {
                self.pause.lock().failed(Instant::now());
                self.bounds.note_full(&why);
                Ok(())
            }
            followed => {
                followed?;
                self.pause.lock().succeeded();
                Ok(())
            }
        }
    }

    /// Whether the log is not followed because there is no room.
    pub(crate) fn is_paused(&self) -> bool {
        self.pause.lock().is_failing()
    }

    /// Adds the states of what others have landed, and of what an earlier attempt has landed
    /// without getting its answer. `upkeep` must be held.
    pub(super) async fn follow_log(&self) -> Result<()> {
        if self.log.refresh().await? {
            // Content that others have ingested is answered for as being there already.
            self.log.table().storage().settle().await?;
        }
        let head = self.log.head();
        let upto = self.upto();
        let ranges = upto.ranges_to(&head);
        if ranges.is_empty() {
            return Ok(());
        }
        self.check_wal_is_ours(&head)?;
        let kept = raised(&upto, &self.log.low());
        self.note_followed(&kept, &head).await?;
        let added = match kept != upto && !planted("planted-removed-skipped") {
            true => self.fold_anew(&head).await?,
            false => match self.fold_followed(&kept, &head).await {
                Err(e @ Error::NoRoom(_)) => self.fold_from_boundaries(&kept, &head, e).await?,
                added => added?,
            },
        };
        self.add_followed(&head, added);
        self.tell_landed(&ranges);
        self.cut_wal(&ranges).await;
        Ok(())
    }

    /// For each view the states of all that its newest master view has not absorbed. Retention has
    /// removed facts that this daemon has not followed: every live master view holds them, and what
    /// this one answered by may not.
    async fn fold_anew(&self, head: &Offsets) -> Result<Vec<Added>> {
        let following = self.following();
        let mut added = Vec::new();
        for (view, master) in self.folding() {
            master.refresh().await?;
            let pin = master.pin();
            let pieces = follow_log(&self.log, &master, &pin.boundary, head, &following).await;
            let pieces = match pieces {
                Err(e) if self.is_superseded(&master, &e) => Err(e),
                pieces => unless_of_storage(pieces)?,
            };
            let instead = pieces.is_ok().then_some(pin);
            added.push(Added {
                view,
                pieces,
                instead,
            });
        }
        Ok(added)
    }

    /// Whether retention has removed what a view needs: then its generation is none that answers any
    /// more, and the next one is about to be served.
    fn is_superseded(&self, master: &Master, e: &Error) -> bool {
        matches!(e, Error::BelowLow { .. }) && !master.boundary().covers(&self.log.low())
    }

    /// Makes the states of `[upto, head)`. Nothing is kept of any view unless all were read: what
    /// is read again counts once.
    async fn fold_followed(&self, upto: &Offsets, head: &Offsets) -> Result<Vec<Added>> {
        let following = self.following();
        let mut added = Vec::new();
        for (view, master) in self.folding() {
            let pieces = follow_log(&self.log, &master, upto, head, &following).await;
            added.push(Added {
                view,
                pieces: unless_of_storage(pieces)?,
                instead: None,
            });
        }
        Ok(added)
    }

    /// As [`TopicStream::fold_followed`], where there is no room for the states of all: those that
    /// a master view has absorbed meanwhile are not made. `why` is handed on where none has.
    async fn fold_from_boundaries(
        &self,
        upto: &Offsets,
        head: &Offsets,
        why: Error,
    ) -> Result<Vec<Added>> {
        let mut views = Vec::new();
        let mut any_moved = false;
        for (name, master) in self.folding() {
            master.refresh().await?;
            let pin = master.pin();
            let Some(view) = self.delta.lock().views.get(&name).cloned() else {
                continue;
            };
            if !head.covers(&pin.boundary) {
                return Err(why);
            }
            any_moved |= pin.version != view.pin.version;
            views.push((name, view, pin));
        }
        if !any_moved {
            return Err(why);
        }
        let following = self.following();
        let mut added = Vec::new();
        for (name, view, pin) in views {
            let mut from = upto.clone();
            pin.boundary.iter().for_each(|(p, at)| from.raise(p, at));
            let pieces = async {
                let mut pieces =
                    above_boundary(&self.log, &view, &pin.boundary, &following).await?;
                pieces.extend(follow_log(&self.log, &view.master, &from, head, &following).await?);
                Ok(pieces)
            };
            added.push(Added {
                view: name,
                pieces: unless_of_storage(pieces.await)?,
                instead: Some(pin),
            });
        }
        Ok(added)
    }

    /// Makes what was followed part of the deltas.
    fn add_followed(&self, head: &Offsets, added: Vec<Added>) {
        // Nobody may come between the facts and their keys, and no await either, where this may
        // end: a key that outlives its facts makes them duplicates when they come again.
        let mut dedup = self.dedup_of_lanes();
        let mut delta = self.delta.lock();
        for of_view in added {
            let Some(view) = delta.views.get_mut(&of_view.view) else {
                continue;
            };
            if let Some(pin) = of_view.instead {
                view.pin = pin;
                view.pieces.clear();
            }
            match of_view.pieces {
                Ok(pieces) => view.pieces.extend(pieces),
                Err(e) => {
                    view.superseded = matches!(e, Error::BelowLow { .. });
                    view.fail(&e);
                }
            }
        }
        let followed = delta.followed(head);
        drop(delta);
        for partition in followed.back {
            tracing::warn!(topic = %self.name(), %partition, "another daemon has landed facts of the partition; going on from where they end");
        }
        self.forget_removed(dedup.as_deref_mut(), &followed.removed);
    }

    /// Only this daemon appends to the partition of its WAL.
    fn check_wal_is_ours(&self, head: &Offsets) -> Result<()> {
        let delta = self.delta.lock();
        let (partition, end) = (self.partition, head.get(self.partition));
        let next = delta.lanes.get(&partition).copied().unwrap_or_default();
        if end > delta.upto.get(partition) && (end > next || delta.splits_piece(partition, end)) {
            return Err(Error::Conflict(format!(
                "topic `{}`: another process has landed in partition {partition}, which belongs to this daemon's WAL: is a copy of the `wal` folder in use?",
                self.name()
            )));
        }
        Ok(())
    }

    /// Stops a view whose SQL is at fault; any other error is handed on.
    fn give_up_or(&self, name: &str, e: Error) -> Result<()> {
        if !is_of_view(&e) {
            return Err(e);
        }
        if let Some(view) = self.delta.lock().views.get_mut(name) {
            view.fail(&e);
        }
        Ok(())
    }

    /// Answers by a newer master view, once the pieces reach from its boundary. Returns whether
    /// there was one.
    async fn adopt(&self, name: &str, master: &Arc<Master>) -> Result<bool> {
        master.refresh().await?;
        let pin = master.pin();
        let Some(view) = self.delta.lock().views.get(name).cloned() else {
            return Ok(false);
        };
        if view.pin.version == pin.version {
            return Ok(false);
        }
        check_no_gap(
            name,
            &ViewDelta {
                pin: pin.clone(),
                ..view.clone()
            },
            &self.upto(),
        )?;
        let mut following = self.following();
        // What goes makes room for what is made anew of the pieces that the boundary cuts through.
        let gone = view.bytes_not_above(&pin.boundary);
        following.most_memory_bytes = following.most_memory_bytes.saturating_add(gone);
        let pieces = above_boundary(&self.log, &view, &pin.boundary, &following).await?;
        fail::fail_point!("delta-before-adopt");
        if let Some(view) = self.delta.lock().views.get_mut(name) {
            if planted("planted-stale-snapshot") {
                view.pin.boundary = pin.boundary;
            } else {
                view.pin = pin;
            }
            view.pieces = pieces;
        }
        fail::fail_point!("delta-after-adopt");
        Ok(true)
    }

    /// Merges the smaller pieces of a view where it has more than `most` in memory.
    pub(super) async fn merge(&self, name: &str, most: usize) -> Result<()> {
        let Some(view) = self.delta.lock().views.get(name).cloned() else {
            return Ok(());
        };
        let most_bytes = self.merged_bytes();
        if let Some(pieces) = blocking(move || merge_pieces(&view, most, most_bytes)).await?
            && let Some(view) = self.delta.lock().views.get_mut(name)
        {
            view.pieces = pieces;
        }
        Ok(())
    }

    fn upto(&self) -> Offsets {
        self.delta.lock().upto.clone()
    }

    /// Serves a generation of a view, once its pieces reach without a gap from its boundary.
    pub(crate) async fn serve(&self, master: Arc<Master>) -> Result<()> {
        let _guard = self.upkeep.lock().await;
        let name = master.view().name().to_owned();
        let pin = master.pin();
        let upto = self.upto();
        let following = self.following();
        let folded = follow_log(&self.log, &master, &pin.boundary, &upto, &following);
        let (pieces, failed) = match folded.await {
            Ok(pieces) => (pieces, None),
            Err(e) if is_of_view(&e) => {
                tracing::error!(view = %name, error = %e, "the view does not answer");
                (Vec::new(), Some(e.to_string()))
            }
            Err(e) => return Err(e),
        };
        let view = ViewDelta {
            master,
            pin,
            pieces,
            unlanded: Vec::new(),
            folded: 0,
            failed,
            superseded: false,
        };
        check_no_gap(&name, &view, &upto)?;
        self.insert(&name, view);
        self.relieve().await;
        Ok(())
    }

    fn insert(&self, name: &str, mut view: ViewDelta) {
        let mut delta = self.delta.lock();
        view.folded = delta.unlanded.start();
        // A pin that is being chosen has folded what has not landed into the view before this one.
        delta.epoch += 1;
        let before = delta.views.insert(name.to_owned(), view);
        if planted("planted-generations-mixed")
            && let (Some(before), Some(now)) = (before, delta.views.get_mut(name))
        {
            (now.pin, now.pieces) = (before.pin, before.pieces);
        }
    }
}

/// Errors of a view's own stay with the view; any other ends the work.
fn unless_of_storage<T>(made: Result<T>) -> Result<Result<T>> {
    match made {
        Err(e) if !is_of_view(&e) => Err(e),
        made => Ok(made),
    }
}
