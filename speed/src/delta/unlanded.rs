//! Facts that are visible and have not landed, in the order in which they became visible. Owns
//! that order, and nothing of what is done with the facts.

use std::collections::VecDeque;
use std::sync::Arc;

use anabranch_shared::{PartitionId, planted};

use crate::intake::payload::PlacedFacts;

/// A queue of facts. Each piece has a number, one more than the piece before it; numbers are given
/// anew where a piece is taken out of the middle, so they hold for one epoch of the delta.
#[derive(Debug, Default)]
pub struct Unlanded {
    pieces: VecDeque<Arc<PlacedFacts>>,
    /// The number of the first piece.
    first: u64,
    facts: usize,
    bytes: usize,
}

impl Unlanded {
    /// Adds a piece.
    pub(crate) fn push(&mut self, piece: Arc<PlacedFacts>) {
        self.facts += piece.facts.num_rows();
        self.bytes += piece.bytes;
        self.pieces.push_back(piece);
    }

    /// The number of the first piece.
    pub(crate) fn start(&self) -> u64 {
        self.first
    }

    /// One more than the number of the last piece.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.pieces.len() as u64
    }

    /// The pieces, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<PlacedFacts>> {
        self.pieces.iter()
    }

    /// The pieces whose numbers are in `[from, to)`.
    pub(crate) fn between(&self, from: u64, to: u64) -> impl Iterator<Item = &Arc<PlacedFacts>> {
        let skipped = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let end = usize::try_from(to.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let taken = end.saturating_sub(skipped);
        self.pieces.iter().skip(skipped).take(taken)
    }

    /// Removes pieces that were the first ones a while ago. Returns those that were taken out
    /// meanwhile.
    pub(crate) fn remove_landed(&mut self, landed: &[Arc<PlacedFacts>]) -> Vec<Arc<PlacedFacts>> {
        let mut absent = Vec::new();
        for piece in landed {
            let is_it = |first: &mut Arc<PlacedFacts>| {
                Arc::ptr_eq(first, piece) || planted("planted-landed-by-count")
            };
            let Some(removed) = self.pieces.pop_front_if(is_it) else {
                absent.push(piece.clone());
                continue;
            };
            self.facts -= removed.facts.num_rows();
            self.bytes -= removed.bytes;
            self.first += 1;
        }
        absent
    }

    /// Removes the pieces for which `gone` holds, and gives them.
    pub(crate) fn remove_where(
        &mut self,
        gone: impl Fn(&PlacedFacts) -> bool,
    ) -> Vec<Arc<PlacedFacts>> {
        let mut removed = Vec::new();
        self.pieces.retain(|piece| {
            let keep = !gone(piece);
            if !keep {
                self.facts -= piece.facts.num_rows();
                self.bytes -= piece.bytes;
                removed.push(piece.clone());
            }
            keep
        });
        removed
    }

    /// Whether a partition has facts here.
    pub(crate) fn holds(&self, partition: PartitionId) -> bool {
        self.pieces.iter().any(|p| p.partition == partition)
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// How many facts.
    pub fn facts(&self) -> usize {
        self.facts
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
