//! How a topic's deltas follow what others do: landings, moved boundaries, cut-overs.

use std::sync::Arc;
use std::time::Instant;

use anabranch_shared::{Error, ErrorKind, Master, MasterPin, Offsets, Result, blocking, planted};
use futures::{StreamExt, stream};

use super::TopicStream;
use crate::delta::fold_landed::{Following, follow_log};
use crate::delta::{
    Folded, StatePiece, ViewDelta, above_boundary, check_no_gap, is_of_view, merge_pieces,
};

/// So many views are followed at once, so that those that take long do not hold up the others. They
/// share the memory that one of them has alone.
const VIEWS_AT_ONCE: usize = 2;

/// Of so many views it is looked at once whether their boundaries have moved.
const LOOKS_AT_ONCE: usize = 16;

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
        let expired = self.delta.lock().lately.expire(self.options.now_ms());
        drop(expired);
        {
            let _guard = self.upkeep.lock().await;
            self.follow_where_room().await?;
        }
        let masters = self.masters();
        let looks = masters.iter().map(|(_, master)| master.refresh());
        let looks = stream::iter(looks.collect::<Vec<_>>()).buffered(LOOKS_AT_ONCE);
        let looked: Vec<Result<bool>> = looks.collect().await;
        let _guard = self.tending.lock().await;
        let following = self.following_some();
        let views = masters.iter().zip(looked);
        let tended = views.map(|((name, master), looked)| {
            let looked = looked.map(|_| ());
            self.tend(name, master, looked, &following)
        });
        let tended = stream::iter(tended.collect::<Vec<_>>()).buffer_unordered(VIEWS_AT_ONCE);
        let tended: Vec<Result<()>> = tended.collect().await;
        self.relieve().await;
        tended.into_iter().collect()
    }

    /// Adopts a view's boundary, where it could be looked at, and merges its pieces. `tending` must
    /// be held.
    async fn tend(
        &self,
        name: &str,
        master: &Arc<Master>,
        looked: Result<()>,
        following: &Following,
    ) -> Result<()> {
        let adopted = match looked {
            Ok(()) => self.adopt(name, master, following).await,
            Err(e) => Err(e),
        };
        match adopted {
            Ok(false) => {}
            // There may be room now.
            Ok(true) => self.pause.lock().succeeded(),
            Err(e) => {
                if e.kind() == ErrorKind::Unavailable {
                    self.pause.lock().succeeded();
                }
                if let Err(e) = self.give_up_or(name, e) {
                    tracing::warn!(view = %name, error = %e, "can't follow the boundary yet");
                }
            }
        }
        match self.merge(name, self.options.most_pieces).await {
            Err(e) => self.give_up_or(name, e),
            Ok(()) => Ok(()),
        }
    }

    /// How the log is followed for several views at once.
    fn following_some(&self) -> Following {
        let mut following = self.following();
        following.fold.memory_bytes /= VIEWS_AT_ONCE;
        following
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
        // Held where other pieces take the place of those that there are.
        let mut _tending = None;
        let added = match kept != upto && !planted("planted-removed-skipped") {
            true => {
                _tending = Some(self.tending.lock().await);
                self.fold_anew(&head).await?
            }
            false => match self.fold_followed(&kept, &head).await {
                Err(e @ Error::NoRoom(_)) => {
                    _tending = Some(self.tending.lock().await);
                    self.fold_from_boundaries(&kept, &head, e).await?
                }
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
        let following = self.following_some();
        let views = self.folding();
        let followed = views
            .iter()
            .map(|(_, master)| follow_log(&self.log, master, upto, head, &following));
        // Also where one fails the others are waited for: none is dropped half-way.
        let followed = stream::iter(followed.collect::<Vec<_>>()).buffered(VIEWS_AT_ONCE);
        let followed: Vec<_> = followed.collect().await;
        let added = views.into_iter().zip(followed);
        added
            .map(|((view, _), pieces)| {
                Ok(Added {
                    view,
                    pieces: unless_of_storage(pieces)?,
                    instead: None,
                })
            })
            .collect()
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
        let (mut replaced, mut failed) = (Vec::new(), Vec::new());
        let mut delta = self.delta.lock();
        for of_view in added {
            let Some(view) = delta.views.get_mut(&of_view.view) else {
                continue;
            };
            if let Some(pin) = of_view.instead {
                view.pin = pin;
                replaced.push(std::mem::take(&mut view.pieces));
            }
            match of_view.pieces {
                _ if view.failed.is_some() => {}
                Ok(pieces) => view.pieces.extend(pieces),
                Err(e) => {
                    view.superseded = matches!(e, Error::BelowLow { .. });
                    failed.push(view.fail(&e));
                }
            }
        }
        let followed = delta.followed(head);
        drop(delta);
        for partition in followed.back {
            tracing::warn!(topic = %self.name(), %partition, "another daemon has landed facts of the partition; going on from where they end");
        }
        self.forget_removed(dedup.as_deref_mut(), &followed.removed);
        drop(dedup);
        drop((replaced, failed, followed.unneeded));
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
        let mut delta = self.delta.lock();
        let removed = delta.views.get_mut(name).map(|view| view.fail(&e));
        drop(delta);
        drop(removed);
        Ok(())
    }

    /// Answers by a newer master view that was read, once the pieces reach from its boundary. Returns
    /// whether there was one. `tending` must be held.
    async fn adopt(&self, name: &str, master: &Arc<Master>, following: &Following) -> Result<bool> {
        let pin = master.pin();
        let (view, upto) = {
            let delta = self.delta.lock();
            let Some(view) = delta.views.get(name).cloned() else {
                return Ok(false);
            };
            (view, delta.upto.clone())
        };
        if view.pin.version == pin.version || !Arc::ptr_eq(&view.master, master) {
            return Ok(false);
        }
        check_no_gap(
            name,
            &ViewDelta {
                pin: pin.clone(),
                ..view.clone()
            },
            &upto,
        )?;
        let mut following = following.clone();
        // What goes makes room for what is made anew of the pieces that the boundary cuts through.
        let gone = view.bytes_not_above(&pin.boundary);
        following.most_memory_bytes = following.most_memory_bytes.saturating_add(gone);
        let pieces = above_boundary(&self.log, &view, &pin.boundary, &following).await?;
        fail::fail_point!("delta-before-adopt");
        fail::fail_point!(&format!("adopt-of-{name}"));
        self.exchange(&view, pieces, Some(pin));
        fail::fail_point!("delta-after-adopt");
        Ok(true)
    }

    /// Merges the smaller pieces of a view where it has more than `most` in memory. `tending` must
    /// be held.
    pub(super) async fn merge(&self, name: &str, most: usize) -> Result<()> {
        let Some(view) = self.delta.lock().views.get(name).cloned() else {
            return Ok(());
        };
        let (most_bytes, of) = (self.merged_bytes(), view.clone());
        if let Some(pieces) = blocking(move || merge_pieces(&of, most, most_bytes)).await? {
            self.exchange(&view, pieces, None);
        }
        Ok(())
    }

    /// Puts `pieces` in the place of all that a view had a moment ago, with the boundary that they
    /// are for. What has landed since then stays beside them.
    fn exchange(
        &self,
        before: &ViewDelta,
        mut pieces: Vec<Arc<StatePiece>>,
        pin: Option<MasterPin>,
    ) {
        let mut delta = self.delta.lock();
        let Some(view) = delta.views.get_mut(before.master.view().name()) else {
            return;
        };
        if !Arc::ptr_eq(&view.master, &before.master) {
            return;
        }
        match pin {
            Some(pin) if planted("planted-stale-snapshot") => view.pin.boundary = pin.boundary,
            Some(pin) => view.pin = pin,
            None => {}
        }
        if view.failed.is_some() {
            return;
        }
        let is_new = |p: &&Arc<StatePiece>| !before.pieces.iter().any(|b| Arc::ptr_eq(b, p));
        pieces.extend(view.pieces.iter().filter(is_new).cloned());
        let replaced = std::mem::replace(&mut view.pieces, pieces);
        drop(delta);
        drop(replaced);
    }

    fn upto(&self) -> Offsets {
        self.delta.lock().upto.clone()
    }

    /// Serves a generation of a view, once its pieces reach without a gap from its boundary. Most of
    /// what it has to read is read before others wait for that.
    pub(crate) async fn serve(&self, master: Arc<Master>) -> Result<()> {
        let name = master.view().name().to_owned();
        let pin = master.pin();
        let followed = self.upto();
        let following = self.following();
        let mut folded = follow_log(&self.log, &master, &pin.boundary, &followed, &following).await;
        let guard = self.upkeep.lock().await;
        let upto = self.upto();
        if let Ok(pieces) = &mut folded {
            let from = raised(&followed, &pin.boundary);
            match follow_log(&self.log, &master, &from, &upto, &following).await {
                Ok(more) => pieces.extend(more),
                Err(e) => folded = Err(e),
            }
        }
        let (pieces, failed) = match folded {
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
            unlanded: Folded::default(),
            failed,
            superseded: false,
        };
        check_no_gap(&name, &view, &upto)?;
        self.insert(&name, view);
        drop(guard);
        let _guard = self.tending.lock().await;
        self.relieve().await;
        Ok(())
    }

    fn insert(&self, name: &str, view: ViewDelta) {
        let mut delta = self.delta.lock();
        let mut before = delta.views.insert(name.to_owned(), view);
        if planted("planted-generations-mixed")
            && let (Some(before), Some(now)) = (before.take(), delta.views.get_mut(name))
        {
            (now.pin, now.pieces) = (before.pin, before.pieces);
        }
        drop(delta);
        drop(before);
    }
}

/// Errors of a view's own stay with the view; any other ends the work.
fn unless_of_storage<T>(made: Result<T>) -> Result<Result<T>> {
    match made {
        Err(e) if !is_of_view(&e) => Err(e),
        made => Ok(made),
    }
}
