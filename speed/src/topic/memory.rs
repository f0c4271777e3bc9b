//! What all parts of a topic share: its log, what is in memory of it, and how much that may be.

use std::sync::Arc;

use anabranch_shared::{
    Error, FoldOptions, FoldProgress, Generation, HeldMutex, Log, Master, Offsets, PartitionId,
    Result, planted,
};

use crate::delta::bounds::Bounds;
use crate::delta::fold_landed::Following;
use crate::delta::{TopicDelta, ViewDelta};
use crate::metrics::TopicGauges;
use crate::options::DaemonOptions;

/// A generation of a view, and the name that it is to be served under.
#[derive(Clone, Debug)]
pub(crate) struct ServedAs {
    pub(crate) view: String,
    pub(crate) name: String,
    pub(crate) generation: Generation,
}

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

    /// Serves generations of views under further names, as far as they are served under others: the
    /// pieces are those of both. All at once, because one may take the name of another. Nobody may make
    /// pieces for the names meanwhile.
    pub(super) fn serve_as(&self, wanted: &[ServedAs]) {
        let mut delta = self.delta.lock();
        let of = |wanted: &ServedAs| {
            let is_it = |v: &&ViewDelta| {
                v.master.generation() == wanted.generation
                    && v.master.view().name() == wanted.view
                    && v.failed.is_none()
            };
            let mut found = delta.views.values().find(is_it)?.clone();
            if planted("planted-pieces-lost-on-cut-over") {
                found.pieces.clear();
            }
            if planted("planted-boundary-of-the-former")
                && let Some(former) = delta.views.get(&wanted.name)
            {
                found.pin = former.pin.clone();
            }
            Some((wanted.name.clone(), found))
        };
        let found: Vec<(String, ViewDelta)> = wanted.iter().filter_map(of).collect();
        let mut before = Vec::new();
        for (name, view) in found {
            let generation = view.master.generation();
            tracing::info!(view = %name, %generation, "serving");
            before.push(delta.views.insert(name, view));
        }
        drop(delta);
        drop(before);
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
