//! The keys that a topic has seen: made from its log and WAL at start, and from what others land.

use std::sync::Arc;

use anabranch_shared::{HeldGuard, HeldMutex, LockHolds, Log, Offsets, Result, blocking};
use parking_lot::Mutex;

use super::memory::TopicMemory;
use crate::intake::dedup::{Dedup, DedupStatus, read_keys};
use crate::intake::payload::PlacedFacts;
use crate::options::{DaemonOptions, TopicOptions};

/// The keys of the facts in the log and of those that have not landed; none where the topic does
/// not look for duplicates.
pub(super) async fn open_keys(
    log: &Log,
    settings: &TopicOptions,
    unlanded: &[PlacedFacts],
    options: &DaemonOptions,
) -> Result<Option<Arc<HeldMutex<Dedup>>>> {
    let Some(settings) = &settings.dedup else {
        return Ok(None);
    };
    let mut dedup = Dedup::from_log(log, settings, (options.now_us)()).await?;
    for piece in unlanded {
        dedup.note(&piece.facts)?;
    }
    Ok(Some(Arc::new(HeldMutex::new("dedup", dedup))))
}

/// The keys that a topic has seen, where duplicates are looked for.
#[derive(Debug)]
pub(super) struct Keys {
    memory: Arc<TopicMemory>,
    seen: Option<Arc<HeldMutex<Dedup>>>,
    status: Mutex<DedupStatus>,
}

impl Keys {
    pub(super) fn new(memory: Arc<TopicMemory>, seen: Option<Arc<HeldMutex<Dedup>>>) -> Self {
        Self {
            memory,
            seen,
            status: Mutex::default(),
        }
    }

    /// How it stands with them. While a group is written, how it stood when it was last asked.
    pub(super) fn status(&self) -> Option<DedupStatus> {
        let seen = self.seen.as_ref()?;
        let mut last = self.status.lock();
        if let Some(seen) = seen.try_lock() {
            *last = seen.status(self.memory.now_us());
        }
        Some(*last)
    }

    /// How long they were held.
    pub(super) fn holds(&self) -> Option<Arc<LockHolds>> {
        self.seen.as_ref().map(|seen| seen.holds().clone())
    }

    /// The keys. A thread that waits for them does so while a group is written.
    pub(super) fn lock(&self) -> Option<HeldGuard<'_, Dedup>> {
        self.seen.as_ref().map(|seen| seen.lock())
    }

    /// The keys, where some of them may be of facts that are to be read again.
    pub(super) fn of_lanes(&self) -> Option<HeldGuard<'_, Dedup>> {
        let own = self.memory.partition;
        let others = self
            .memory
            .with_delta(|d| d.lanes.keys().any(|p| *p != own));
        if others { self.lock() } else { None }
    }

    /// Remembers the keys of what others have landed between two heads.
    pub(super) async fn note_followed(&self, from: &Offsets, to: &Offsets) -> Result<()> {
        let Some(seen) = &self.seen else {
            return Ok(());
        };
        let log = &self.memory.log;
        let files = log.files_between(from, to)?;
        let files = files.into_iter().map(|file| file.add).collect();
        let (key, from_us) = {
            let seen = seen.lock();
            let from_us = seen.remembers_from_us(self.memory.now_us());
            (seen.key().to_owned(), from_us)
        };
        let mut landed = Vec::new();
        read_keys(log, &key, files, from_us, |facts| {
            landed.push(facts);
            Ok(())
        })
        .await?;
        let seen = seen.clone();
        // The lock is held while a group is written.
        blocking(move || landed.iter().try_for_each(|facts| seen.lock().note(facts))).await
    }

    /// Remembers the keys of facts that have landed although they were given up, and with them
    /// their keys.
    pub(super) async fn remember(&self, landed: Vec<Arc<PlacedFacts>>) -> Result<()> {
        let Some(seen) = self.seen.clone().filter(|_| !landed.is_empty()) else {
            return Ok(());
        };
        // The lock is held while a group is written.
        blocking(move || landed.iter().try_for_each(|p| seen.lock().note(&p.facts))).await
    }

    /// Forgets the keys of facts that this daemon does not hold any more, but for those that have
    /// landed: where they come again they are new.
    pub(super) fn forget_removed(&self, seen: Option<&mut Dedup>, removed: &[Arc<PlacedFacts>]) {
        let Some(seen) = seen else { return };
        let own = self.memory.partition;
        for piece in removed.iter().filter(|p| p.partition != own) {
            if let Err(e) = seen.forget(&piece.facts) {
                tracing::error!(topic = %self.memory.name(), error = %e, "keys of facts that are to be read again are still remembered");
            }
        }
    }
}
