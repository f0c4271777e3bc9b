//! Which views a daemon wants to have refreshed, because their deltas take too much of its bounds.

use std::collections::BTreeMap;

use anabranch_shared::Offsets;

/// With more than this share of the memory in landed deltas a refresh is asked for: before any
/// are spilled.
const MEMORY_SHARE: f64 = 0.5;

/// With more than this share of the disk for spilled deltas a refresh is asked for.
const SPILL_SHARE: f64 = 0.25;

/// Views whose deltas have at least this share of the largest one's bytes are asked for with it.
const LARGE_SHARE: f64 = 0.5;

/// A view that is wanted to be refreshed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Bytes of its delta in memory and on disk; 0 where there was no room for it.
    pub bytes: u64,
    /// The boundary from which on it is; none where there was no room for it.
    pub boundary: Option<Offsets>,
}

/// What the deltas of a daemon take of its bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeltaUse {
    /// Bytes of memory of landed states.
    pub landed_bytes: u64,
    /// Bytes of memory of facts and deltas.
    pub memory_bytes: u64,
    /// Bytes that facts and deltas may take in memory.
    pub memory_bound_bytes: u64,
    /// Bytes of disk.
    pub spilled_bytes: u64,
    /// Bytes of disk that they may take; 0 where nothing is spilled.
    pub spill_bound_bytes: u64,
    /// Whether something had to wait for room.
    pub waits: bool,
}

impl DeltaUse {
    fn is_pressed(&self) -> bool {
        let over = |used: u64, bound: u64, share: f64| used as f64 > bound as f64 * share;
        let spills = self.spill_bound_bytes > 0;
        self.waits
            || over(self.landed_bytes, self.memory_bound_bytes, MEMORY_SHARE)
            || (spills && over(self.spilled_bytes, self.spill_bound_bytes, SPILL_SHARE))
    }
}

/// The views to refresh: those that hold the most where a bound is near, and those that were
/// asked for `before` until their boundaries have moved.
pub(crate) fn decide(
    before: &BTreeMap<String, Wanted>,
    views: &BTreeMap<String, Wanted>,
    used: &DeltaUse,
) -> BTreeMap<String, Wanted> {
    let largest = views.values().map(|v| v.bytes).max().unwrap_or(0);
    let is_large = |v: &Wanted| v.bytes > 0 && v.bytes as f64 >= largest as f64 * LARGE_SHARE;
    let is_asked = |(name, view): &(&String, &Wanted)| {
        let before = before.get(*name);
        view.boundary.is_none()
            || before.is_some_and(|b| b.boundary == view.boundary && view.bytes > 0)
            || (used.is_pressed() && is_large(view))
    };
    let asked = views.iter().filter(is_asked);
    asked
        .map(|(name, view)| (name.clone(), view.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use anabranch_shared::{Offset, PartitionId};

    use super::*;

    fn views(of: &[(&str, u64, Option<i64>)]) -> BTreeMap<String, Wanted> {
        let one = |&(name, bytes, boundary): &(&str, u64, Option<i64>)| {
            let boundary = boundary.map(|at| [(PartitionId(0), Offset(at))].into_iter().collect());
            (name.to_owned(), Wanted { bytes, boundary })
        };
        of.iter().map(one).collect()
    }

    #[test]
    fn the_largest_are_asked_for_until_they_are_refreshed() {
        let mut used = DeltaUse {
            landed_bytes: 40,
            memory_bound_bytes: 100,
            spill_bound_bytes: 100,
            ..Default::default()
        };
        let all = views(&[("a", 30, Some(1)), ("b", 20, Some(1)), ("c", 10, Some(1))]);
        assert!(decide(&BTreeMap::new(), &all, &used).is_empty());
        used.landed_bytes = 51;
        let asked = decide(&BTreeMap::new(), &all, &used);
        assert_eq!(asked, views(&[("a", 30, Some(1)), ("b", 20, Some(1))]));
        // Spilled meanwhile: they are still wanted, until the boundary of one has moved.
        used.landed_bytes = 10;
        let later = views(&[("a", 30, Some(2)), ("b", 20, Some(1)), ("c", 10, Some(1))]);
        let asked = decide(&asked, &later, &used);
        assert_eq!(asked, views(&[("b", 20, Some(1))]));
        used.spilled_bytes = 26;
        let asked = decide(&asked, &later, &used);
        assert_eq!(asked, views(&[("a", 30, Some(2)), ("b", 20, Some(1))]));
    }

    #[test]
    fn a_view_without_room_is_asked_for() {
        let used = DeltaUse::default();
        let all = views(&[("a", 30, Some(1)), ("b", 0, None)]);
        let asked = decide(&BTreeMap::new(), &all, &used);
        assert_eq!(asked, views(&[("b", 0, None)]));
    }
}
