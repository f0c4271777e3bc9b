//! A fact's place in the log: partitions, offsets, ranges of offsets and vectors of offsets.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A partition of a topic.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct PartitionId(pub i32);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A fact's place within a partition, counted from 0. Signed, because Delta has no unsigned
/// integers; never negative.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Offset(pub i64);

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A version of a Delta table.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct LogVersion(pub u64);

impl LogVersion {
    /// The version after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for LogVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The catalogue of what queries see, as they name it: `anabranch.public.pageviews`.
pub const CATALOG: &str = "anabranch";

/// The number of a generation of a view, counted from 1.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The half-open range of offsets `[start, end)` of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OffsetRange {
    /// The first offset of the range.
    pub start: Offset,
    /// The first offset after the range.
    pub end: Offset,
}

impl OffsetRange {
    /// The range `[start, end)`.
    pub fn new(start: Offset, end: Offset) -> Self {
        Self { start, end }
    }

    /// Whether the range holds no offset.
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// How many offsets the range holds.
    pub fn len(self) -> u64 {
        u64::try_from(self.end.0 - self.start.0).unwrap_or(0)
    }

    /// The offsets that both ranges hold.
    pub fn intersect(self, other: Self) -> Self {
        Self {
            start: self.start.max(other.start),
            end: self.end.min(other.end),
        }
    }

    /// Whether the ranges share an offset.
    pub fn overlaps(self, other: Self) -> bool {
        !self.intersect(other).is_empty()
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

/// A vector of offsets: for each partition the first offset that is not included. A partition that
/// is not named stands at 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offsets(BTreeMap<PartitionId, Offset>);

impl Offsets {
    /// The offset of a partition.
    pub fn get(&self, partition: PartitionId) -> Offset {
        self.0.get(&partition).copied().unwrap_or_default()
    }

    /// Sets the offset of a partition.
    pub fn set(&mut self, partition: PartitionId, offset: Offset) {
        self.0.insert(partition, offset);
    }

    /// Raises a partition to an offset, if it is not there yet.
    pub fn raise(&mut self, partition: PartitionId, offset: Offset) {
        let at = self.0.entry(partition).or_default();
        *at = (*at).max(offset);
    }

    /// Lowers a partition to an offset, if it is not below it; one that is not named is set.
    pub fn lower(&mut self, partition: PartitionId, offset: Offset) {
        let at = self.0.entry(partition).or_insert(offset);
        *at = (*at).min(offset);
    }

    /// The partitions that are named, with their offsets, in order.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, Offset)> + '_ {
        self.0.iter().map(|(&p, &o)| (p, o))
    }

    /// Whether every partition stands at or past where it stands in `other`.
    pub fn covers(&self, other: &Self) -> bool {
        other.iter().all(|(p, o)| self.get(p) >= o)
    }

    /// The ranges from `self` up to `end`, those that are not empty, in order of partition.
    pub fn ranges_to(&self, end: &Self) -> Vec<(PartitionId, OffsetRange)> {
        end.iter()
            .map(|(p, e)| (p, OffsetRange::new(self.get(p), e)))
            .filter(|(_, r)| !r.is_empty())
            .collect()
    }

    /// How many offsets lie between `self` and `end`.
    pub fn distance_to(&self, end: &Self) -> u64 {
        self.ranges_to(end).iter().map(|(_, r)| r.len()).sum()
    }
}

impl FromIterator<(PartitionId, Offset)> for Offsets {
    fn from_iter<I: IntoIterator<Item = (PartitionId, Offset)>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

impl fmt::Display for Offsets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (p, o)) in self.iter().enumerate() {
            write!(f, "{}{p}:{o}", if i == 0 { "" } else { " " })?;
        }
        if self.0.is_empty() {
            f.write_str("0")
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(list: &[(i32, i64)]) -> Offsets {
        list.iter()
            .map(|&(p, o)| (PartitionId(p), Offset(o)))
            .collect()
    }

    #[test]
    fn ranges_between_vectors() {
        let from = offsets(&[(0, 5), (2, 7)]);
        let to = offsets(&[(0, 5), (1, 3), (2, 9)]);
        let ranges = from.ranges_to(&to);
        assert_eq!(
            ranges,
            vec![
                (PartitionId(1), OffsetRange::new(Offset(0), Offset(3))),
                (PartitionId(2), OffsetRange::new(Offset(7), Offset(9))),
            ]
        );
        assert_eq!(from.distance_to(&to), 5);
        assert!(to.covers(&from) && !from.covers(&to));
    }

    #[test]
    fn half_open_ranges() {
        let r = |a, b| OffsetRange::new(Offset(a), Offset(b));
        assert!(!r(0, 5).overlaps(r(5, 9)));
        assert!(r(0, 6).overlaps(r(5, 9)));
        assert!(r(3, 3).is_empty());
    }
}
