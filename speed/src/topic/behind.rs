//! A topic whose facts are made of another's: up to where these have landed, as far as nothing was
//! taken back that they were made of.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anabranch_shared::{Offset, Offsets, planted};

use super::TopicStream;

/// What a topic lands behind.
#[derive(Debug)]
pub(crate) struct Behind {
    from: Arc<TopicStream>,
    /// How many offsets the facts take that are made of one.
    most: i64,
    /// How often facts were taken back of which what was made is not held any more.
    synced: AtomicU64,
}

impl Behind {
    pub(crate) fn new(from: Arc<TopicStream>, most: i64) -> Self {
        let synced = AtomicU64::new(from.with_delta(|d| d.numbering));
        Self { from, most, synced }
    }

    /// Whether nothing is held that was made of facts which were taken back: those that land in their
    /// place may be others.
    pub(crate) fn is_synced(&self, numbering: u64) -> bool {
        self.synced.load(Ordering::Acquire) == numbering
    }

    /// Nothing is held that was made before facts were taken back for the last time.
    pub(crate) fn sync(&self, numbering: u64) {
        self.synced.store(numbering, Ordering::Release);
    }

    /// Up to where facts may land.
    pub(super) fn landable(&self) -> Offsets {
        let (numbering, landed, head) = self
            .from
            .with_delta(|d| (d.numbering, d.upto.clone(), d.head()));
        if !self.is_synced(numbering) && !planted("planted-step-of-facts-taken-back") {
            return Offsets::default();
        }
        let upto = match planted("planted-step-lands-first") {
            true => head,
            false => landed,
        };
        let scaled = |(p, at): (_, Offset)| (p, Offset(at.0.saturating_mul(self.most)));
        upto.iter().map(scaled).collect()
    }
}
