//! How a topic keeps to the daemon's bounds: pieces are merged, then spilled; over the bound facts
//! are refused.

use std::sync::Arc;

use anabranch_shared::{DeltaPart, Error, Master, Result, blocking, planted};

use super::TopicStream;
use crate::delta::StatePiece;
use crate::delta::fold_landed::Following;

/// Pieces in memory that a view may have where memory is short.
const SHORT_OF_MEMORY_PIECES: usize = 3;

impl TopicStream {
    /// Bytes of memory that the daemon's facts and deltas take.
    pub(super) fn used_memory(&self) -> u64 {
        let own = self.delta.lock().size_bytes();
        self.bounds.note(self.name(), own)
    }

    /// Whether facts and deltas take all the memory that they may.
    pub(crate) fn is_full(&self) -> bool {
        self.used_memory() >= self.bounds.memory_bytes()
    }

    pub(super) fn check_memory(&self) -> Result<()> {
        let used = self.used_memory();
        if used < self.bounds.memory_bytes() {
            return Ok(());
        }
        let why = self
            .bounds
            .full()
            .map_or(String::new(), |why| format!("; {why}"));
        Err(Error::NoRoom(format!(
            "topic `{}`: {} MB of facts and deltas are in memory, the bound is {} MB (`memory` in `[daemon]`){why}; run `anabranch batch refresh`, or wait until facts have landed",
            self.name(),
            used / 1_000_000,
            self.bounds.memory_bytes() / 1_000_000
        )))
    }

    /// How the log is followed within the bounds.
    pub(crate) fn following(&self) -> Following {
        let used = usize::try_from(self.used_memory()).unwrap_or(usize::MAX);
        let bound = usize::try_from(self.bounds.memory_bytes()).unwrap_or(usize::MAX);
        let spill_at = usize::try_from(self.options.spill_at_bytes).unwrap_or(usize::MAX);
        Following {
            fold: self.fold_options(),
            memory_bytes: (spill_at / 4).min(spill_at.saturating_sub(used)),
            most_memory_bytes: bound.saturating_sub(used),
            memory_setting: "`memory` in `[daemon]`",
            spill: Some(self.bounds.spill().clone()),
            held: Arc::default(),
        }
    }

    /// How many bytes of pieces are merged at once.
    pub(super) fn merged_bytes(&self) -> usize {
        usize::try_from(self.options.memory_bytes / 8).unwrap_or(usize::MAX)
    }

    /// Where memory is short, merges pieces, whose keys may be the same, and then spills the
    /// largest ones. `tending` must be held, so that nobody else changes what pieces there are.
    pub(super) async fn relieve(&self) {
        if self.bounds.excess(self.used_memory()) == 0 && !self.is_paused() {
            self.bounds.note_room();
        }
        for (name, _) in self.masters() {
            if self.bounds.excess(self.used_memory()) > 0
                && let Err(e) = self.merge(&name, SHORT_OF_MEMORY_PIECES).await
            {
                // Whoever follows says so of a view that fails.
                tracing::debug!(view = %name, error = %e, "pieces can't be merged");
            }
        }
        while self.bounds.excess(self.used_memory()) > 0 && self.bounds.may_spill() {
            let Some((name, master, piece)) = self.largest_piece() else {
                break;
            };
            let (spill, worker) = (self.bounds.spill().clone(), piece.clone());
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
                    self.bounds.note_room();
                    self.replace(&name, &piece, parts);
                }
                Err(e) => self.bounds.note_full(&e.to_string()),
            }
        }
    }

    /// The largest piece that is in memory, and its view.
    fn largest_piece(&self) -> Option<(String, Arc<Master>, Arc<StatePiece>)> {
        let least = self.bounds.least_spilled_bytes().max(1);
        let delta = self.delta.lock();
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
        let spilled = StatePiece::new(piece.ranges.clone(), parts);
        // What takes its place is freed by the caller, who holds it too.
        let mut delta = self.delta.lock();
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
