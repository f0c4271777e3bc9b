//! How a topic's deltas follow what others have landed.

use std::sync::Arc;
use std::time::Instant;

use anabranch_shared::{Error, Master, MasterPin, Offsets, Result, planted};
use futures::{StreamExt, stream};

use super::UpkeepTurn;
use crate::delta::fold_landed::{Following, follow_log};
use crate::delta::{StatePiece, ViewDelta, above_boundary, is_of_view};
use crate::topic::memory::TopicMemory;
use crate::topic::tending::VIEWS_AT_ONCE;

/// What was made for one view of what others have landed.
struct Added {
    view: String,
    pieces: Result<Vec<Arc<StatePiece>>>,
    /// Where the pieces take the place of all former ones: from which master view on they reach.
    instead: Option<MasterPin>,
}

/// A vector of offsets, not below `low` anywhere.
pub(super) fn raised(offsets: &Offsets, low: &Offsets) -> Offsets {
    let mut raised = offsets.clone();
    let below = low.iter().filter(|(p, o)| offsets.get(*p) < *o);
    below.for_each(|(p, o)| raised.raise(p, o));
    raised
}

impl UpkeepTurn<'_> {
    fn memory(&self) -> &TopicMemory {
        &self.of.memory
    }

    /// How the log is followed for several views at once.
    fn following_some(&self) -> Following {
        let mut following = self.memory().following();
        following.fold.memory_bytes /= VIEWS_AT_ONCE;
        following
    }

    /// Follows the log unless there was no room for it a moment ago. Answers stay as they are
    /// while there is none.
    pub(super) async fn follow_where_room(&self) -> Result<()> {
        if !self.of.tending.pause.lock().is_due(Instant::now()) {
            return Ok(());
        }
        match self.follow_log().await {
            Err(Error::NoRoom(why)) => {
                self.of.tending.pause.lock().failed(Instant::now());
                self.memory().bounds.note_full(&why);
                Ok(())
            }
            followed => {
                followed?;
                self.of.tending.pause.lock().succeeded();
                Ok(())
            }
        }
    }

    /// Adds the states of what others have landed, and of what an earlier attempt has landed
    /// without getting its answer.
    pub(super) async fn follow_log(&self) -> Result<()> {
        if self.memory().log.refresh().await? {
            // Content that others have ingested is answered for as being there already.
            self.memory().log.table().storage().settle().await?;
        }
        let head = self.memory().log.head();
        let upto = self.memory().upto();
        let ranges = upto.ranges_to(&head);
        if ranges.is_empty() {
            return Ok(());
        }
        self.check_wal_is_ours(&head)?;
        let kept = raised(&upto, &self.memory().log.low());
        self.of.keys.note_followed(&kept, &head).await?;
        // Held where other pieces take the place of those that there are.
        let mut _tending = None;
        let added = match kept != upto && !planted("planted-removed-skipped") {
            true => {
                _tending = Some(self.of.tending.turn().await);
                self.fold_anew(&head).await?
            }
            false => match self.fold_followed(&kept, &head).await {
                Err(e @ Error::NoRoom(_)) => {
                    _tending = Some(self.of.tending.turn().await);
                    self.fold_from_boundaries(&kept, &head, e).await?
                }
                added => added?,
            },
        };
        self.add_followed(&head, added);
        self.of.tell_landed(&ranges);
        self.of.cut_wal(&ranges).await;
        Ok(())
    }

    /// For each view the states of all that its newest master view has not absorbed. Retention has
    /// removed facts that this daemon has not followed: every live master view holds them, and what
    /// this one answered by may not.
    async fn fold_anew(&self, head: &Offsets) -> Result<Vec<Added>> {
        let following = self.memory().following();
        let mut added = Vec::new();
        for (view, master) in self.memory().folding() {
            master.refresh().await?;
            let pin = master.pin();
            let pieces =
                follow_log(&self.memory().log, &master, &pin.boundary, head, &following).await;
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
        matches!(e, Error::BelowLow { .. }) && !master.boundary().covers(&self.memory().log.low())
    }

    /// Makes the states of `[upto, head)`. Nothing is kept of any view unless all were read: what
    /// is read again counts once.
    async fn fold_followed(&self, upto: &Offsets, head: &Offsets) -> Result<Vec<Added>> {
        let following = self.following_some();
        let views = self.memory().folding();
        let followed = views
            .iter()
            .map(|(_, master)| follow_log(&self.memory().log, master, upto, head, &following));
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

    /// As [`UpkeepTurn::fold_followed`], where there is no room for the states of all: those that
    /// a master view has absorbed meanwhile are not made. `why` is handed on where none has.
    async fn fold_from_boundaries(
        &self,
        upto: &Offsets,
        head: &Offsets,
        why: Error,
    ) -> Result<Vec<Added>> {
        let mut views = Vec::new();
        let mut any_moved = false;
        for (name, master) in self.memory().folding() {
            master.refresh().await?;
            let pin = master.pin();
            let Some(view) = self.memory().delta.lock().views.get(&name).cloned() else {
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
        let following = self.memory().following();
        let mut added = Vec::new();
        for (name, view, pin) in views {
            let mut from = upto.clone();
            pin.boundary.iter().for_each(|(p, at)| from.raise(p, at));
            let pieces = async {
                let mut pieces =
                    above_boundary(&self.memory().log, &view, &pin.boundary, &following).await?;
                pieces.extend(
                    follow_log(&self.memory().log, &view.master, &from, head, &following).await?,
                );
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
        let mut dedup = self.of.keys.of_lanes();
        let (mut replaced, mut failed) = (Vec::new(), Vec::new());
        let mut delta = self.memory().delta.lock();
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
            tracing::warn!(topic = %self.memory().name(), %partition, "another daemon has landed facts of the partition; going on from where they end");
        }
        self.of
            .keys
            .forget_removed(dedup.as_deref_mut(), &followed.removed);
        drop(dedup);
        drop((replaced, failed, followed.unneeded));
    }

    /// Only this daemon appends to the partition of its WAL.
    fn check_wal_is_ours(&self, head: &Offsets) -> Result<()> {
        let delta = self.memory().delta.lock();
        let (partition, end) = (self.memory().partition, head.get(self.memory().partition));
        let next = delta.lanes.get(&partition).copied().unwrap_or_default();
        if end > delta.upto.get(partition) && (end > next || delta.splits_piece(partition, end)) {
            return Err(Error::Conflict(format!(
                "topic `{}`: another process has landed in partition {partition}, which belongs to this daemon's WAL: is a copy of the `wal` folder in use?",
                self.memory().name()
            )));
        }
        Ok(())
    }

    /// Puts a view in the place of what was served by its name.
    pub(super) fn insert(&self, name: &str, view: ViewDelta) {
        let mut delta = self.memory().delta.lock();
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
