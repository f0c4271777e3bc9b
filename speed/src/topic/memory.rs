//! What all parts of a topic share: its log, what is in memory of it, and how much that may be.

use std::sync::Arc;

use anabranch_shared::{
    Error, FoldOptions, FoldProgress, Generation, HeldMutex, Log, Master, Offsets, PartitionId,
    Result, planted,
};

use crate::delta::TopicDelta;
use crate::delta::bounds::Bounds;
use crate::delta::fold_landed::Following;
use crate::metrics::TopicGauges;
use crate::options::DaemonOptions;

/// One topic's log and memory.
#[derive(Debug)]
pub(crate) struct TopicMemory {
    /// The topic's log.
    pub(super) log: Arc<Log>,
    /// The partition of the daemon's WAL.
    pub(super) partition: PartitionId,
    /// The last lock that anybody takes who holds others.
    pub(super) delta: Arc<HeldMutex<TopicDelta>>,
    pub(super) options: DaemonOptions,
    pub(super) bounds: Arc<Bounds>,
    /// How new its facts are, and what its WAL takes.
    pub(super) gauges: Arc<TopicGauges>,
}

impl TopicMemory {
    /// The topic's name.
    pub(super) fn name(&self) -> &str {
        self.log.name()
    }

    /// The time, in microseconds since 1970.
    pub(super) fn now_us(&self) -> i64 {
        (self.options.now_us)()
    }

    /// Reads something off the memory. It should take no longer than a look: whoever acknowledges
    /// or asks waits meanwhile.
    pub(super) fn with_delta<T>(&self, read: impl FnOnce(&TopicDelta) -> T) -> T {
        read(&self.delta.lock())
    }

    /// Up to where the log is followed.
    pub(super) fn upto(&self) -> Offsets {
        self.delta.lock().upto.clone()
    }

    /// The generation of a view that answers.
    pub(super) fn served(&self, view: &str) -> Option<Generation> {
        self.with_delta(|d| Some(d.views.get(view)?.master.generation()))
    }

    /// Stops serving a view.
    pub(super) fn forget(&self, view: &str) {
        let removed = self.delta.lock().views.remove(view);
        drop(removed);
    }

    /// Serves a generation of a view under one more name, where it is served under another: its pieces
    /// are those of both. Returns whether it is.
    pub(super) fn serve_as(&self, view: &str, name: &str, generation: Generation) -> bool {
        let mut delta = self.delta.lock();
        let is_it = |v: &&crate::delta::ViewDelta| {
            let is_it = v.master.generation() == generation
                || planted("planted-generation-of-another-number");
            let is_of = v.master.view().name() == view && is_it;
            is_of && v.failed.is_none()
        };
        let Some(mut found) = delta.views.values().find(is_it).cloned() else {
            return false;
        };
        if planted("planted-pieces-lost-on-cut-over") {
            found.pieces.clear();
        }
        let before = delta.views.insert(name.to_owned(), found);
        drop(delta);
        drop(before);
        true
    }

    /// The views that are served.
    pub(super) fn masters(&self) -> Vec<(String, Arc<Master>)> {
        self.with_delta(|delta| {
            let of = |(n, v): (&String, &crate::delta::ViewDelta)| (n.clone(), v.master.clone());
            delta.views.iter().map(of).collect()
        })
    }

    /// The views for which states are kept: those that have not failed.
    pub(super) fn folding(&self) -> Vec<(String, Arc<Master>)> {
        let mut masters = self.masters();
        let delta = self.delta.lock();
        masters.retain(|(name, _)| delta.views.get(name).is_some_and(|v| v.failed.is_none()));
        masters
    }

    /// Bytes of memory that the daemon's facts and deltas take.
    pub(super) fn used_bytes(&self) -> u64 {
        let own = self.delta.lock().size_bytes();
        self.bounds.note(self.name(), own)
    }

    /// Whether facts and deltas take all the memory that they may.
    pub(super) fn is_full(&self) -> bool {
        self.used_bytes() >= self.bounds.memory_bytes()
    }

    /// An error where facts and deltas take all the memory that they may.
    pub(super) fn check(&self) -> Result<()> {
        let used = self.used_bytes();
        if used < self.bounds.memory_bytes() {
            return Ok(());
        }
        let why = self
            .bounds
            .full()
            .map_or(String::new(), |why| format!("; {why}"));
        Err(Error::NoRoom(format!(
            "topic `{}`: {} MB of facts and deltas are in memory, the bound is {} MB (`memory` in `[daemon]`){why}; run `anabranch batch refresh`, or wait until facts have landed",
            self.name(),
            used / 1_000_000,
            self.bounds.memory_bytes() / 1_000_000
        )))
    }

    /// How the log is followed within the bounds.
    pub(super) fn following(&self) -> Following {
        let used = usize::try_from(self.used_bytes()).unwrap_or(usize::MAX);
        let bound = usize::try_from(self.bounds.memory_bytes()).unwrap_or(usize::MAX);
        let spill_at = usize::try_from(self.options.spill_at_bytes).unwrap_or(usize::MAX);
        Following {
            fold: FoldOptions {
                threads: self.options.threads,
                memory_bytes: self.eighth(),
                stop: self.options.stop.clone(),
                progress: Arc::new(FoldProgress::default()),
            },
            memory_bytes: (spill_at / 4).min(spill_at.saturating_sub(used)),
            most_memory_bytes: bound.saturating_sub(used),
            memory_setting: "`memory` in `[daemon]`",
            spill: Some(self.bounds.spill().clone()),
            held: Arc::default(),
        }
    }

    /// How many bytes are folded, and how many bytes of pieces are merged, at once.
    pub(super) fn eighth(&self) -> usize {
        usize::try_from(self.options.memory_bytes / 8).unwrap_or(usize::MAX)
    }
}
