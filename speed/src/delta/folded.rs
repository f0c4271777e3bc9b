//! What a view has folded of the facts that have not landed. Owns of which of them it has states,
//! and which states are merged; knows nothing of how they are made.

use std::sync::Arc;

use anabranch_shared::{ReferencesAt, planted};
use arrow::array::RecordBatch;
use datafusion::common::utils::memory::get_record_batch_memory_size;

/// The states of pieces of facts that follow each other in the queue of what has not landed.
#[derive(Debug)]
pub struct Run {
    /// The number of the first piece.
    pub(crate) from: u64,
    /// One more than the number of the last piece.
    pub(crate) to: u64,
    /// The states.
    pub(crate) states: RecordBatch,
    /// Bytes of memory.
    bytes: usize,
}

impl Run {
    pub(crate) fn new((from, to): (u64, u64), states: RecordBatch) -> Arc<Self> {
        Arc::new(Self {
            from,
            to,
            bytes: get_record_batch_memory_size(&states),
            states,
        })
    }
}

/// The runs of a view.
///
/// Invariant: they are in the order of their numbers, none is empty, none reaches into another.
#[derive(Clone, Debug, Default)]
pub struct Folded {
    runs: Vec<Arc<Run>>,
    /// Up to where the references are that the facts of all runs met.
    at: ReferencesAt,
}

impl Folded {
    /// The states.
    pub(crate) fn states(&self) -> impl Iterator<Item = &RecordBatch> {
        self.runs.iter().map(|run| &run.states)
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        self.runs.iter().map(|run| run.bytes).sum()
    }

    /// The first numbers of `[start, end)` of which there are no states; those on both sides of
    /// `cut` are given one after the other, because they land apart.
    pub(crate) fn gap(&self, start: u64, end: u64, cut: u64) -> Option<(u64, u64)> {
        let (mut from, mut to) = (start, end);
        for run in &self.runs {
            if run.from > from {
                to = to.min(run.from);
                break;
            }
            from = from.max(run.to);
        }
        if from < cut {
            to = to.min(cut);
        }
        (from < to).then_some((from, to))
    }

    /// Up to which number there are states, where they begin at `start` and leave nothing out.
    pub(crate) fn whole(&self, start: u64) -> Option<u64> {
        let end = self.runs.last().map_or(start, |run| run.to.max(start));
        self.gap(start, end, start).is_none().then_some(end)
    }

    /// Up to where the references are that the facts met.
    pub(crate) fn at(&self) -> &ReferencesAt {
        &self.at
    }

    /// Begins anew where facts meet other rows of references from now on. Returns what is not needed any
    /// more.
    pub(crate) fn meet(&mut self, at: &ReferencesAt) -> Vec<Arc<Run>> {
        if self.at == *at {
            return Vec::new();
        }
        self.at = at.clone();
        match planted("planted-rows-of-before-kept") {
            true => Vec::new(),
            false => self.take(),
        }
    }

    /// Adds a run, unless there are states of some of it.
    pub(crate) fn add(&mut self, run: Arc<Run>) {
        let at = self.runs.partition_point(|r| r.from < run.from);
        let before = at.checked_sub(1).and_then(|at| self.runs.get(at));
        let follows = before.is_none_or(|before| before.to <= run.from);
        if run.from < run.to && follows && self.runs.get(at).is_none_or(|r| run.to <= r.from) {
            self.runs.insert(at, run);
        }
    }

    /// Takes out the runs of which some pieces are below a number: they have landed.
    pub(crate) fn remove_below(&mut self, start: u64) -> Vec<Arc<Run>> {
        let gone = self.runs.partition_point(|run| run.from < start);
        self.runs.drain(..gone).collect()
    }

    /// Takes all out.
    pub(crate) fn take(&mut self) -> Vec<Arc<Run>> {
        std::mem::take(&mut self.runs)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.runs.len()
    }

    /// Those that are to be merged where there are more than `most`: the last ones, as long as none
    /// of them is much larger than those after it together, so that few states are merged again and
    /// again, and at least so many that about half of `most` are left. None is merged over `cut`.
    pub(crate) fn to_merge(&self, most: usize, cut: u64) -> Vec<Arc<Run>> {
        if self.runs.len() <= most {
            return Vec::new();
        }
        let at_cut = self.runs.partition_point(|run| run.from < cut);
        let (before, after) = self.runs.split_at(at_cut);
        let runs = if after.len() >= before.len() {
            after
        } else {
            before
        };
        let Some(mut at) = runs.len().checked_sub(1) else {
            return Vec::new();
        };
        let rows = |at: usize| runs[at].states.num_rows();
        let mut merged = rows(at);
        while at > 0
            && runs[at - 1].to == runs[at].from
            && (at > most / 2 || rows(at - 1) <= merged * 2)
        {
            at -= 1;
            merged += rows(at);
        }
        match runs.len() - at {
            1 => Vec::new(),
            _ => runs[at..].to_vec(),
        }
    }

    /// Puts a run in the place of those that it was merged from, where all of them are still here.
    /// Returns those that are not needed any more.
    pub(crate) fn replace(&mut self, merged: &[Arc<Run>], run: Arc<Run>) -> Vec<Arc<Run>> {
        let first = merged.first().map_or(run.from, |first| first.from);
        let at = self.runs.partition_point(|r| r.from < first);
        let found = self.runs.get(at..at + merged.len());
        let same = |(a, b): (&Arc<Run>, &Arc<Run>)| Arc::ptr_eq(a, b);
        match found {
            Some(found) if found.iter().zip(merged).all(same) => {
                self.runs.splice(at..at + merged.len(), [run]).collect()
            }
            _ => vec![run],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch};

    use super::*;

    /// A run of as many states as it has pieces.
    fn run(from: u64, to: u64) -> Arc<Run> {
        let column = Int64Array::from_iter_values(0..(to - from).cast_signed());
        let states = RecordBatch::try_from_iter([("a", Arc::new(column) as _)]);
        Run::new((from, to), states.unwrap_or_else(|e| unreachable!("{e}")))
    }

    fn folded(runs: &[(u64, u64)]) -> Folded {
        let mut folded = Folded::default();
        runs.iter()
            .for_each(|(from, to)| folded.add(run(*from, *to)));
        folded
    }

    fn numbers(runs: &[Arc<Run>]) -> Vec<(u64, u64)> {
        runs.iter().map(|run| (run.from, run.to)).collect()
    }

    #[test]
    fn gaps_are_found_in_order() {
        let folded = folded(&[(12, 15), (10, 12), (20, 22)]);
        assert_eq!(folded.gap(10, 30, 0), Some((15, 20)));
        assert_eq!(folded.gap(20, 30, 0), Some((22, 30)));
        assert_eq!(folded.gap(20, 30, 25), Some((22, 25)));
        assert_eq!(folded.gap(5, 30, 7), Some((5, 7)));
        assert_eq!(folded.gap(7, 30, 7), Some((7, 10)));
        assert_eq!(folded.gap(10, 15, 0), None);
        assert_eq!((folded.whole(10), folded.whole(20)), (None, Some(22)));
        assert_eq!(Folded::default().whole(7), Some(7));
    }

    #[test]
    fn nothing_is_there_twice() {
        let mut folded = folded(&[(10, 12), (15, 20)]);
        for (from, to) in [(11, 13), (9, 11), (12, 16), (10, 12), (14, 14), (19, 25)] {
            folded.add(run(from, to));
        }
        assert_eq!(numbers(&folded.runs), [(10, 12), (15, 20)]);
        folded.add(run(12, 15));
        assert_eq!(folded.whole(10), Some(20));
    }

    /// What lies wholly past what has landed stays.
    #[test]
    fn runs_that_have_not_landed_stay() {
        let mut folded = folded(&[(0, 4), (4, 9), (9, 12)]);
        let gone = folded.remove_below(6);
        assert_eq!(numbers(&gone), [(0, 4), (4, 9)]);
        assert_eq!(folded.gap(6, 12, 0), Some((6, 9)));
    }

    #[test]
    fn small_runs_are_merged_and_large_ones_left() {
        let sizes = [1_000, 300, 2, 2, 2, 2, 2, 2, 2];
        let mut from = 0;
        let mut folded = Folded::default();
        for size in sizes {
            assert!(folded.to_merge(8, 0).is_empty());
            folded.add(run(from, from + size));
            from += size;
        }
        let small = folded.to_merge(8, 0);
        assert_eq!(small.len(), 7);
        assert_eq!(folded.to_merge(8, 1_304).len(), 5, "over the cut");
        let merged = run(1_300, from);
        assert_eq!(folded.replace(&small, merged.clone()).len(), 7);
        assert_eq!(
            numbers(&folded.runs),
            [(0, 1_000), (1_000, 1_300), (1_300, from)]
        );
        // Some of them have landed meanwhile.
        let left = folded.replace(&small, merged);
        assert_eq!((left.len(), folded.whole(0)), (1, Some(from)));
    }
}
