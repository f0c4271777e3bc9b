//! Facts that have landed a moment ago. Owns how long they are kept: until the other daemons have
//! followed the log, so that what one has landed is not read from the storage by each query that
//! another answers meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::intake::payload::PlacedFacts;

/// How long they are kept, in milliseconds: a few times as long as it takes to follow.
const KEEP_MS: i64 = 2_000;

/// Facts that have landed, oldest first.
#[derive(Debug, Default)]
pub struct RecentlyLanded {
    pieces: VecDeque<(i64, Arc<PlacedFacts>)>,
    bytes: usize,
}

impl RecentlyLanded {
    /// Adds facts that have landed, in order; the oldest go where there are more than `most_bytes`,
    /// and are returned.
    #[must_use = "it takes long to free many"]
    pub(crate) fn add(
        &mut self,
        pieces: Vec<Arc<PlacedFacts>>,
        now_ms: i64,
        most_bytes: usize,
    ) -> Vec<Arc<PlacedFacts>> {
        for piece in pieces {
            self.bytes += piece.bytes;
            self.pieces.push_back((now_ms, piece));
        }
        let mut removed = Vec::new();
        while self.bytes > most_bytes {
            removed.extend(self.remove_first());
        }
        removed
    }

    /// Removes what others have followed by now, and returns it.
    #[must_use = "it takes long to free many"]
    pub(crate) fn expire(&mut self, now_ms: i64) -> Vec<Arc<PlacedFacts>> {
        // A clock that was set back must not keep them.
        let old = |at: i64| now_ms - at > KEEP_MS || at > now_ms;
        let mut removed = Vec::new();
        while self.pieces.front().is_some_and(|(at, _)| old(*at)) {
            removed.extend(self.remove_first());
        }
        removed
    }

    fn remove_first(&mut self) -> Option<Arc<PlacedFacts>> {
        let (_, piece) = self.pieces.pop_front()?;
        self.bytes -= piece.bytes;
        Some(piece)
    }

    /// The pieces, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<PlacedFacts>> {
        self.pieces.iter().map(|(_, piece)| piece)
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
