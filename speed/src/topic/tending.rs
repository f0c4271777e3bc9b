//! Who puts other pieces in the place of a view's: adopts a boundary that has moved, merges pieces,
//! spills them where memory is short. What lands meanwhile is added beside.

use std::sync::Arc;
use std::time::Duration;

use anabranch_shared::{
    Backoff, DeltaPart, Error, ErrorKind, Master, MasterPin, Result, blocking, planted,
};
use futures::{StreamExt, stream};
use parking_lot::Mutex;

use super::memory::TopicMemory;
use crate::delta::fold_landed::Following;
use crate::delta::{StatePiece, ViewDelta, above_boundary, check_no_gap, is_of_view, merge_pieces};

/// How long the log is not followed after there was no room for it, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// So many views are followed at once, so that those that take long do not hold up the others. They
/// share the memory that one of them has alone.
pub(super) const VIEWS_AT_ONCE: usize = 2;

/// Pieces in memory that a view may have where memory is short.
const SHORT_OF_MEMORY_PIECES: usize = 3;

/// Whose turn it is to put other pieces in the place of a view's.
#[derive(Debug)]
pub(super) struct Tending {
    memory: Arc<TopicMemory>,
    turn: tokio::sync::Mutex<()>,
    /// When the log is followed again, where there was no room for it.
    pub(super) pause: Mutex<Backoff>,
}

impl Tending {
    pub(super) fn new(memory: Arc<TopicMemory>) -> Self {
        Self {
            memory,
            turn: tokio::sync::Mutex::default(),
            pause: Mutex::new(Backoff::new(FIRST_PAUSE, LONGEST_PAUSE)),
        }
    }

    /// Waits for the turn.
    pub(super) async fn turn(&self) -> TendingTurn<'_> {
        TendingTurn {
            of: self,
            _turn: self.turn.lock().await,
        }
    }

    /// The turn, unless somebody has it.
    pub(super) fn try_turn(&self) -> Option<TendingTurn<'_>> {
        let turn = self.turn.try_lock().ok()?;
        Some(TendingTurn {
            of: self,
            _turn: turn,
        })
    }

    /// Whether the log is not followed because there is no room.
    pub(super) fn is_paused(&self) -> bool {
        self.pause.lock().is_failing()
    }
}

/// The turn of one, who alone changes meanwhile what pieces there are.
#[derive(Debug)]
pub(super) struct TendingTurn<'a> {
    of: &'a Tending,
    _turn: tokio::sync::MutexGuard<'a, ()>,
}

impl TendingTurn<'_> {
    fn memory(&self) -> &TopicMemory {
        &self.of.memory
    }

    /// Adopts the boundaries of views, where they could be looked at, and merges their pieces.
    pub(super) async fn tend(
        &self,
        views: impl Iterator<Item = ((String, Arc<Master>), Result<bool>)>,
    ) -> Result<()> {
        let mut following = self.memory().following();
        following.fold.memory_bytes /= VIEWS_AT_ONCE;
        let tended = views.map(|((name, master), looked)| {
            let following = &following;
            async move { self.tend_one(&name, &master, looked, following).await }
        });
        let tended = stream::iter(tended.collect::<Vec<_>>()).buffer_unordered(VIEWS_AT_ONCE);
        let tended: Vec<Result<()>> = tended.collect().await;
        self.relieve().await;
        tended.into_iter().collect()
    }

    async fn tend_one(
        &self,
        name: &str,
        master: &Arc<Master>,
        looked: Result<bool>,
        following: &Following,
    ) -> Result<()> {
        let adopted = match looked {
            Ok(_) => self.adopt(name, master, following).await,
            Err(e) => Err(e),
        };
        match adopted {
            Ok(false) => {}
            // There may be room now.
            Ok(true) => self.of.pause.lock().succeeded(),
            Err(e) => {
                if e.kind() == ErrorKind::Unavailable {
                    self.of.pause.lock().succeeded();
                }
                if let Err(e) = self.give_up_or(name, e) {
                    tracing::warn!(view = %name, error = %e, "can't follow the boundary yet");
                }
            }
        }
        match self.merge(name, self.memory().options.most_pieces).await {
            Err(e) => self.give_up_or(name, e),
            Ok(()) => Ok(()),
        }
    }

    /// Stops a view whose SQL is at fault; any other error is handed on.
    fn give_up_or(&self, name: &str, e: Error) -> Result<()> {
        if !is_of_view(&e) {
            return Err(e);
        }
        let mut delta = self.memory().delta.lock();
        let removed = delta.views.get_mut(name).map(|view| view.fail(&e));
        drop(delta);
        drop(removed);
        Ok(())
    }

    /// Answers by a newer master view that was read, once the pieces reach from its boundary. Returns
    /// whether there was one.
    async fn adopt(&self, name: &str, master: &Arc<Master>, following: &Following) -> Result<bool> {
        let pin = master.pin();
        let (view, upto) = {
            let delta = self.memory().delta.lock();
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
        let log = &self.memory().log;
        let pieces = above_boundary(log, &view, &pin.boundary, &following).await?;
        fail::fail_point!("delta-before-adopt");
        fail::fail_point!(&format!("adopt-of-{name}"));
        self.exchange(name, &view, pieces, Some(pin));
        fail::fail_point!("delta-after-adopt");
        Ok(true)
    }

    /// Merges the smaller pieces of a view where it has more than `most` in memory.
    async fn merge(&self, name: &str, most: usize) -> Result<()> {
        let Some(view) = self.memory().delta.lock().views.get(name).cloned() else {
            return Ok(());
        };
        let (most_bytes, of) = (self.memory().eighth(), view.clone());
        if let Some(pieces) = blocking(move || merge_pieces(&of, most, most_bytes)).await? {
            self.exchange(name, &view, pieces, None);
        }
        Ok(())
    }

    /// Puts `pieces` in the place of all that a view had a moment ago, with the boundary that they
    /// are for. What has landed since then stays beside them.
    fn exchange(
        &self,
        name: &str,
        before: &ViewDelta,
        mut pieces: Vec<Arc<StatePiece>>,
        pin: Option<MasterPin>,
    ) {
        let mut delta = self.memory().delta.lock();
        let Some(view) = delta.views.get_mut(name) else {
            return;
        };
        if !Arc::ptr_eq(&view.master, &before.master) {
            return;
        }
        if planted("planted-kept-by-its-first-boundary") && name.contains('.') {
            if let Some(pin) = pin {
                view.pin = pin;
            }
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

    /// Where memory is short, merges pieces, whose keys may be the same, and then spills the
    /// largest ones.
    pub(super) async fn relieve(&self) {
        let memory = self.memory();
        let bounds = &memory.bounds;
        if bounds.excess(memory.used_bytes()) == 0 && !self.of.is_paused() {
            bounds.note_room();
        }
        for (name, _) in memory.masters() {
            if bounds.excess(memory.used_bytes()) > 0
                && let Err(e) = self.merge(&name, SHORT_OF_MEMORY_PIECES).await
            {
                // Whoever follows says so of a view that fails.
                tracing::debug!(view = %name, error = %e, "pieces can't be merged");
            }
        }
        while bounds.excess(memory.used_bytes()) > 0 && bounds.may_spill() {
            let Some((name, master, piece)) = self.largest_piece() else {
                break;
            };
            let (spill, worker) = (bounds.spill().clone(), piece.clone());
            let written = blocking(move || {
                let view = master.view();
                let parts = worker.parts.iter().map(|part| match part {
                    DeltaPart::Memory(states) => {
                        Ok(DeltaPart::Spilled(spill.write(view, states.clone())?))
                    }
                    spilled @ DeltaPart::Spilled(_) => Ok(spilled.clone()),
                });
                parts.collect::<Result<Vec<_>>>()
            });
            match written.await {
                Ok(parts) => {
                    bounds.note_room();
                    self.replace(&name, &piece, parts);
                }
                Err(e) => bounds.note_full(&e.to_string()),
            }
        }
    }

    /// The largest piece that is in memory, and its view.
    fn largest_piece(&self) -> Option<(String, Arc<Master>, Arc<StatePiece>)> {
        let least = self.memory().bounds.least_spilled_bytes().max(1);
        let delta = self.memory().delta.lock();
        let all = delta.views.iter().flat_map(|(name, view)| {
            let of_view = view.pieces.iter().filter(|p| p.bytes >= least);
            of_view.map(move |piece| (name, view, piece))
        });
        let (name, view, piece) = all.max_by_key(|(_, _, piece)| piece.bytes)?;
        Some((name.clone(), view.master.clone(), piece.clone()))
    }

    /// Puts a piece's spilled parts in its place, where it still is there: a view may have been
    /// dropped meanwhile.
    fn replace(&self, view: &str, piece: &Arc<StatePiece>, parts: Vec<DeltaPart>) {
        let spilled = StatePiece::new(piece.ranges.clone(), parts, piece.met.clone());
        // What takes its place is freed by the caller, who holds it too.
        let mut delta = self.memory().delta.lock();
        let Some(view) = delta.views.get_mut(view) else {
            return;
        };
        if let Some(at) = view.pieces.iter().position(|p| Arc::ptr_eq(p, piece)) {
            match planted("planted-spilled-piece-lost") {
                true => {
                    view.pieces.remove(at);
                }
                false => view.pieces[at] = spilled,
            }
        }
    }
}
