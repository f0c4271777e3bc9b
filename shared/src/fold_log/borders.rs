//! Where the facts of a file may be divided so that both parts are of whole ranges of offsets: behind
//! a batch after which no partition has an offset below one that it had before. Files of the log hold
//! facts as they came in, mostly in order of their offsets.

use std::collections::BTreeMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, Schema};

use crate::log::FactsFile;
use crate::master::Ranges;
use crate::topic::{LateReads, OFFSET, PARTITION, place_fields};
use crate::{Error, Offset, OffsetRange, PartitionId, Result};

/// For each partition an offset.
type Ends = BTreeMap<PartitionId, i64>;

/// The places between the batches of a file.
#[derive(Debug, Default)]
pub(super) struct Borders {
    /// For each batch the offset past the last one of each partition up to it, where the file may be
    /// divided behind it.
    ends: Vec<Option<Ends>>,
}

impl Borders {
    /// Reads the places of a file's facts out of its bytes.
    ///
    /// # Errors
    /// `Corrupt` for bytes that are no facts.
    pub(super) fn read(file: &FactsFile, body: bytes::Bytes, reads: &LateReads) -> Result<Self> {
        let place = Schema::new(place_fields().to_vec());
        let batches = file.read(body, &place.into(), reads)?;
        let spans = batches.map(|batch| spans(&batch?));
        Ok(Self::of(&spans.collect::<Result<Vec<_>>>()?))
    }

    /// The borders of batches, of each of which the least and the greatest offset are known.
    fn of(batches: &[BTreeMap<PartitionId, (i64, i64)>]) -> Self {
        let mut least_after: Vec<Ends> = Vec::with_capacity(batches.len());
        let mut least = Ends::new();
        for spans in batches.iter().rev() {
            least_after.push(least.clone());
            for (partition, (low, _)) in spans {
                let held = least.entry(*partition).or_insert(*low);
                *held = (*held).min(*low);
            }
        }
        let mut ends = Ends::new();
        let divide = |(spans, after): (&BTreeMap<_, (i64, i64)>, Ends)| {
            for (partition, (_, high)) in spans {
                let end = ends.entry(*partition).or_insert(*high + 1);
                *end = (*end).max(*high + 1);
            }
            let divides = |(p, end): (&PartitionId, &i64)| after.get(p).is_none_or(|a| end <= a);
            ends.iter().all(divides).then(|| ends.clone())
        };
        let after = least_after.into_iter().rev();
        Self {
            ends: batches.iter().zip(after).map(divide).collect(),
        }
    }

    /// Divides the ranges that are left of a file behind a batch: what comes before is taken out of
    /// them. `None` where it can't be divided there.
    pub(super) fn cut_after(&self, batch: usize, left: &mut Ranges) -> Option<Ranges> {
        let ends = self.ends.get(batch)?.as_ref()?;
        let (mut before, mut after) = (Ranges::new(), Ranges::new());
        for (partition, range) in left.drain(..) {
            // Of a partition that had none so far, all is left.
            let end = ends.get(&partition).map_or(range.start, |e| Offset(*e));
            let end = end.clamp(range.start, range.end);
            let parts = [
                (&mut before, OffsetRange::new(range.start, end)),
                (&mut after, OffsetRange::new(end, range.end)),
            ];
            for (part, range) in parts.into_iter().filter(|(_, r)| !r.is_empty()) {
                part.push((partition, range));
            }
        }
        *left = after;
        Some(before)
    }
}

/// For each partition of a batch its least and its greatest offset.
fn spans(batch: &RecordBatch) -> Result<BTreeMap<PartitionId, (i64, i64)>> {
    let column = |name: &str| {
        let found = batch.column_by_name(name);
        found.ok_or_else(|| Error::Internal(format!("a batch of facts without `{name}`")))
    };
    let partitions = column(PARTITION)?.as_primitive::<Int32Type>().values();
    let offsets = column(OFFSET)?.as_primitive::<Int64Type>().values();
    let mut spans: BTreeMap<PartitionId, (i64, i64)> = BTreeMap::new();
    let mut places = partitions.iter().zip(offsets).peekable();
    // Facts of one partition mostly come together.
    while let Some((&partition, &first)) = places.next() {
        let (mut low, mut high) = (first, first);
        while let Some((_, &offset)) = places.next_if(|(p, _)| **p == partition) {
            (low, high) = (low.min(offset), high.max(offset));
        }
        let span = spans.entry(PartitionId(partition)).or_insert((low, high));
        *span = (span.0.min(low), span.1.max(high));
    }
    Ok(spans)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[(i32, i64, i64)]) -> Ranges {
        let range = |&(p, a, b)| (PartitionId(p), OffsetRange::new(Offset(a), Offset(b)));
        list.iter().map(range).collect()
    }

    fn borders(batches: &[&[(i32, i64, i64)]]) -> Borders {
        let spans = |batch: &&[(i32, i64, i64)]| {
            let spans = batch
                .iter()
                .map(|&(p, low, high)| (PartitionId(p), (low, high)));
            spans.collect()
        };
        Borders::of(&batches.iter().map(spans).collect::<Vec<_>>())
    }

    #[test]
    fn ranges_are_divided_behind_batches_in_order() {
        let borders = borders(&[
            &[(0, 0, 9)],
            &[(0, 10, 15), (1, 3, 4)],
            &[(1, 9, 20), (2, 0, 0)],
        ]);
        let mut left = ranges(&[(0, 0, 30), (1, 0, 30), (2, 0, 30)]);
        assert_eq!(borders.cut_after(0, &mut left), Some(ranges(&[(0, 0, 10)])));
        let before = borders.cut_after(1, &mut left);
        assert_eq!(before, Some(ranges(&[(0, 10, 16), (1, 0, 5)])));
        assert_eq!(left, ranges(&[(0, 16, 30), (1, 5, 30), (2, 0, 30)]));
        let before = borders.cut_after(2, &mut left);
        assert_eq!(before, Some(ranges(&[(1, 5, 21), (2, 0, 1)])));
        assert_eq!(borders.cut_after(3, &mut left), None);
    }

    /// Two facts of one partition in the wrong order keep what is between them together.
    #[test]
    fn ranges_stay_whole_where_offsets_are_out_of_order() {
        let borders = borders(&[
            &[(0, 0, 9), (1, 0, 9)],
            &[(0, 10, 30), (1, 10, 12)],
            &[(0, 25, 29), (1, 13, 14)],
            &[(1, 15, 15)],
        ]);
        let mut left = ranges(&[(0, 0, 31), (1, 0, 4), (1, 6, 16)]);
        let all = left.clone();
        assert_eq!(borders.cut_after(1, &mut left), None);
        assert_eq!(left, all);
        let before = borders.cut_after(2, &mut left);
        let expected = ranges(&[(0, 0, 31), (1, 0, 4), (1, 6, 15)]);
        assert_eq!((before, left), (Some(expected), ranges(&[(1, 15, 16)])));
    }
}
