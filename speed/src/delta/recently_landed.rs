//! Facts that have landed a moment ago. Owns how long they are kept: until the other daemons have
//! followed the log, so that what one has landed is not read from the storage by each query that
//! another answers meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::intake::payload::FactPiece;

/// How long they are kept, in milliseconds: a few times as long as it takes to follow.
const KEEP_MS: i64 = 2_000;

/// Facts that have landed, oldest first.
#[derive(Debug, Default)]
pub struct Lately {
    pieces: VecDeque<(i64, Arc<FactPiece>)>,
    bytes: usize,
}

impl Lately {
    /// Adds facts that have landed, in order; the oldest go where there are more than `most_bytes`.
    pub(crate) fn add(&mut self, pieces: Vec<Arc<FactPiece>>, now_ms: i64, most_bytes: usize) {
        for piece in pieces {
            self.bytes += piece.bytes;
            self.pieces.push_back((now_ms, piece));
        }
        while self.bytes > most_bytes {
            self.remove_first();
        }
    }

    /// Removes what others have followed by now.
    pub(crate) fn expire(&mut self, now_ms: i64) {
        // A clock that was set back must not keep them.
        let old = |at: i64| now_ms - at > KEEP_MS || at > now_ms;
        while self.pieces.front().is_some_and(|(at, _)| old(*at)) {
            self.remove_first();
        }
    }

    fn remove_first(&mut self) {
        if let Some((_, piece)) = self.pieces.pop_front() {
            self.bytes -= piece.bytes;
        }
    }

    /// The pieces, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<FactPiece>> {
        self.pieces.iter().map(|(_, piece)| piece)
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
