//! Which groups of an aggregation hold something, and at which place an accumulator has them, that
//! knows only those.

use anabranch_shared::planted;
use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::compute::kernels::zip::zip;
use arrow::compute::take;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::EmitTo;

/// The places of groups.
///
/// Invariant: the places that are taken are `0..taken`, each by one group.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// For each group its place, if it holds something; `None` while each group's place is its own
    /// number, as it is where no row was left out.
    of_groups: Option<Vec<Option<usize>>>,
    pub(super) taken: usize,
}

/// Groups that are taken out.
#[derive(Debug)]
pub(super) struct Out {
    /// Their places.
    pub(super) places: Vec<Option<usize>>,
    /// How many of them hold something.
    pub(super) first: usize,
}

impl Places {
    /// Whether each group's place is its own number.
    pub(super) fn are_groups(&self) -> bool {
        self.of_groups.is_none()
    }

    /// More groups, all of which hold something.
    pub(super) fn add_groups(&mut self, groups: usize) {
        self.taken = self.taken.max(groups);
    }

    /// More groups, of which it is not known yet whether they hold something.
    pub(super) fn know(&mut self, groups: usize) {
        if self.are_groups() && groups <= self.taken {
            return;
        }
        let taken = self.taken;
        let of_groups = self
            .of_groups
            .get_or_insert_with(|| (0..taken).map(Some).collect());
        if of_groups.len() < groups {
            of_groups.resize(groups, None);
        }
    }

    /// The places of groups which hold something from now on.
    pub(super) fn of(&mut self, ids: impl Iterator<Item = usize>, groups: usize) -> Vec<usize> {
        self.know(groups);
        let Some(of_groups) = &mut self.of_groups else {
            return ids.collect();
        };
        let places = ids.map(|id| {
            *of_groups[id].get_or_insert_with(|| {
                self.taken += 1;
                self.taken - 1
            })
        });
        places.collect()
    }

    /// Takes groups out. The places of the others are as if the accumulator had given up its first
    /// ones, where those are all that were taken out; else they wait for [`Places::renumber`].
    pub(super) fn take_out(&mut self, emit: EmitTo) -> Out {
        let places: Vec<Option<usize>> = match (&mut self.of_groups, emit) {
            (None, EmitTo::All) => (0..self.taken).map(Some).collect(),
            (None, EmitTo::First(n)) => (0..n).map(Some).collect(),
            (Some(of_groups), emit) => emit.take_needed(of_groups),
        };
        let first = places.iter().flatten().count();
        let out = Out { places, first };
        self.taken -= first;
        if matches!(emit, EmitTo::All) {
            *self = Self::default();
        } else if out.are_first() {
            let left = self.of_groups.iter_mut().flatten().flatten();
            left.for_each(|place| *place -= first);
        }
        out
    }

    /// Gives places anew, of which those that are left are these, in order.
    pub(super) fn renumber(&mut self, left: &[usize]) {
        let places = self.of_groups.iter_mut().flatten().flatten();
        places.for_each(|place| *place = left.partition_point(|l| l < place));
    }

    pub(super) fn size_bytes(&self) -> usize {
        let places = self.of_groups.as_ref().map_or(0, Vec::capacity);
        places * size_of::<Option<usize>>()
    }
}

impl Out {
    /// Whether they are at the first places, in whichever order.
    pub(super) fn are_first(&self) -> bool {
        self.places.iter().flatten().all(|&p| p < self.first)
    }

    /// What an accumulator gave, row by row the first places, as rows of the groups; `nothing` for
    /// those that hold nothing.
    pub(super) fn spread(
        &self,
        given: Vec<ArrayRef>,
        nothing: &[ScalarValue],
    ) -> Result<Vec<ArrayRef>> {
        let in_order = self
            .places
            .iter()
            .copied()
            .eq((0..self.places.len()).map(Some));
        if in_order && !given.is_empty() {
            return Ok(given);
        }
        if self.first == 0 {
            let rows = self.places.len();
            return nothing.iter().map(|n| n.to_array_of_size(rows)).collect();
        }
        let rows = self.places.iter().map(|place| place.map(|p| p as u64));
        let rows = UInt64Array::from_iter(rows);
        let holds: BooleanArray = self.places.iter().map(|p| Some(p.is_some())).collect();
        let spread = given.iter().zip(nothing).map(|(column, nothing)| {
            if planted("planted-combine-of-nothing") {
                let first =
                    UInt64Array::from_iter_values(rows.iter().map(Option::unwrap_or_default));
                return Ok(take(column, &first, None)?);
            }
            let column = take(column, &rows, None)?;
            match nothing.is_null() || holds.false_count() == 0 {
                true => Ok(column),
                false => Ok(zip(&holds, &column, &nothing.to_scalar()?)?),
            }
        });
        spread.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Array;

    /// However groups come to hold something, those that are taken out are at their places.
    #[test]
    fn groups_keep_their_places() {
        let mut places = Places::default();
        places.add_groups(3);
        assert!(places.are_groups());
        assert_eq!(places.of([4, 1, 4].into_iter(), 6), [3, 1, 3]);
        assert_eq!(places.of([5, 3].into_iter(), 6), [4, 5]);
        let out = places.take_out(EmitTo::First(3));
        assert_eq!(
            (out.places.as_slice(), out.are_first()),
            (&[Some(0), Some(1), Some(2)][..], true)
        );
        // Group 3 came last, so 4 and 5 lie before it.
        let out = places.take_out(EmitTo::First(1));
        assert_eq!(
            (out.places.as_slice(), out.are_first()),
            (&[Some(2)][..], false)
        );
        places.renumber(&[0, 1]);
        assert_eq!(places.of([1, 0, 2].into_iter(), 3), [1, 0, 2]);
        let out = places.take_out(EmitTo::All);
        assert_eq!(out.places, [Some(0), Some(1), Some(2)]);
        assert!(places.are_groups() && places.taken == 0);
    }

    #[test]
    fn groups_of_nothing_are_filled() -> Result<()> {
        let out = Out {
            places: vec![Some(1), None, Some(0)],
            first: 2,
        };
        let given: ArrayRef = std::sync::Arc::new(UInt64Array::from(vec![10, 20]));
        let filled = out.spread(vec![given], &[ScalarValue::UInt64(Some(7))])?;
        let expected = UInt64Array::from(vec![20, 7, 10]);
        assert_eq!(filled[0].as_ref(), &expected as &dyn Array);
        Ok(())
    }
}
