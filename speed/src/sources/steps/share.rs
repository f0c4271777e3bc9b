//! Which partitions a daemon makes facts of, where several run a step. Whoever lands makes it so, and is
//! fenced where another was first: who makes what is a matter of work alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_shared::{Offset, PartitionId};

use super::Other;
use crate::topic::TopicStream;

/// How often it is looked what nobody else makes.
const LOOK_AROUND: Duration = Duration::from_millis(500);

/// A daemon's share of a step's partitions.
pub(super) struct Share {
    from: Arc<TopicStream>,
    to: Arc<TopicStream>,
    most: i64,
    others: Arc<dyn Other>,
    /// With nothing landed for so long of what has landed to be made facts of, nobody makes them.
    patience: Duration,
    /// Of each partition with such facts up to where what was made has landed, and since when.
    waiting: BTreeMap<PartitionId, (Offset, Instant)>,
    looked: Option<(Instant, BTreeSet<PartitionId>)>,
}

impl Share {
    pub(super) fn new(
        (from, to): (&Arc<TopicStream>, &Arc<TopicStream>),
        most: i64,
        others: Arc<dyn Other>,
        patience: Duration,
    ) -> Self {
        Self {
            from: from.clone(),
            to: to.clone(),
            most,
            others,
            patience,
            waiting: BTreeMap::new(),
            looked: None,
        }
    }

    /// The partitions whose facts this daemon takes in itself, and its share of those of which nobody
    /// does any more.
    pub(super) fn partitions(&mut self) -> BTreeSet<PartitionId> {
        let (own, others) = self.from.with_delta(|d| {
            let own: BTreeSet<PartitionId> = d.lanes.keys().copied().collect();
            let all: Vec<PartitionId> = d.upto.iter().map(|(p, _)| p).collect();
            (own, all)
        });
        let due = self.looked.as_ref();
        if due.is_none_or(|(at, _)| at.elapsed() >= LOOK_AROUND.min(self.patience)) {
            let mut others = others;
            others.retain(|p| !own.contains(p));
            let stuck = self.stuck(&others);
            let left = self.others.left(self.from.name(), &others, &stuck);
            self.looked = Some((Instant::now(), left));
        }
        let left = self
            .looked
            .iter()
            .flat_map(|(_, left)| left.iter().copied());
        own.iter().copied().chain(left).collect()
    }

    /// Those of which facts have landed that are made of nobody.
    fn stuck(&mut self, partitions: &[PartitionId]) -> BTreeSet<PartitionId> {
        let landed = self.from.with_delta(|d| d.upto.clone());
        let made = self.to.with_delta(|d| d.upto.clone());
        let now = Instant::now();
        let is_behind = |p: &PartitionId| made.get(*p).0 < landed.get(*p).0 * self.most;
        self.waiting
            .retain(|p, _| partitions.contains(p) && is_behind(p));
        let mut stuck = BTreeSet::new();
        for partition in partitions.iter().filter(|p| is_behind(p)) {
            let at = made.get(*partition);
            let (known, since) = self.waiting.entry(*partition).or_insert((at, now));
            // Once it is this daemon's, it is until all has landed.
            let own = self
                .looked
                .as_ref()
                .is_some_and(|(_, l)| l.contains(partition));
            if *known != at && !own {
                (*known, *since) = (at, now);
            }
            if since.elapsed() >= self.patience {
                stuck.insert(*partition);
            }
        }
        stuck
    }
}
