//! Pieces: states of some ranges of landed offsets. Immutable once made.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use anabranch_shared::{DeltaPart, Error, Met, Offsets, Ranges, Result, panic_text};

/// States of some ranges of landed offsets.
#[derive(Clone, Debug)]
pub struct StatePiece {
    /// The ranges.
    pub ranges: Ranges,
    /// The states.
    pub parts: Vec<DeltaPart>,
    /// Which rows of references the facts met.
    pub met: Met,
    /// How many states.
    pub rows: u64,
    /// Bytes of memory.
    pub bytes: usize,
    /// Bytes of disk.
    pub spilled_bytes: u64,
}

impl StatePiece {
    pub(crate) fn new(ranges: Ranges, parts: Vec<DeltaPart>, met: Met) -> Arc<Self> {
        Arc::new(Self {
            ranges,
            met,
            rows: parts.iter().map(DeltaPart::rows).sum(),
            bytes: parts.iter().map(DeltaPart::memory_bytes).sum(),
            spilled_bytes: parts.iter().map(DeltaPart::spilled_bytes).sum(),
            parts,
        })
    }

    /// Whether all of it is in memory.
    pub(super) fn is_in_memory(&self) -> bool {
        self.spilled_bytes == 0
    }

    pub(super) fn is_below(&self, boundary: &Offsets) -> bool {
        self.ranges.iter().all(|(p, r)| r.end <= boundary.get(*p))
    }

    pub(super) fn is_above(&self, boundary: &Offsets) -> bool {
        self.ranges.iter().all(|(p, r)| r.start >= boundary.get(*p))
    }
}

/// Does some work of one view. Where it panics that is an error of the view's own: what is done for
/// others beside it goes on.
pub(crate) fn of_view<T>(view: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(Error::Internal(format!(
            "view `{view}`: its computation panicked: {}",
            panic_text(panic.as_ref())
        )))
    })
}
