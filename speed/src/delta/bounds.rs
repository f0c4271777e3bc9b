//! The bounds that all topics of a daemon share: memory for facts and deltas, disk for deltas that
//! memory has no room for. Owns how much is used, and when that is too much.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_shared::{Result, Spill};
use parking_lot::Mutex;

use crate::options::DaemonOptions;

/// The folder of spilled states below that of the WALs: no topic can have its name.
const SPILL_DIR: &str = ".spill";

/// How long nothing is spilled after there was no room for it.
const SPILL_AGAIN: Duration = Duration::from_secs(5);

/// What a daemon may use, and uses.
#[derive(Debug)]
pub(crate) struct Bounds {
    memory_bytes: u64,
    spill_at_bytes: u64,
    spill: Arc<Spill>,
    /// Bytes of memory of each topic, when it was last looked at.
    used: Mutex<BTreeMap<String, u64>>,
    /// When there was no room on disk, and why.
    full: Mutex<Option<(Instant, String)>>,
}

impl Bounds {
    /// Takes the folder for spilled states, and empties it.
    pub(crate) fn open(options: &DaemonOptions) -> Result<Self> {
        Ok(Self {
            memory_bytes: options.memory_bytes,
            spill_at_bytes: options.spill_at_bytes,
            spill: Arc::new(Spill::open(
                &options.wal.join(SPILL_DIR),
                options.spill_bytes,
            )?),
            used: Mutex::default(),
            full: Mutex::default(),
        })
    }

    /// Notes what a topic uses of the memory. Returns what all use.
    pub(crate) fn note(&self, topic: &str, bytes: usize) -> u64 {
        let mut used = self.used.lock();
        match used.get_mut(topic) {
            Some(of_topic) => *of_topic = bytes as u64,
            None => {
                used.insert(topic.to_owned(), bytes as u64);
            }
        }
        used.values().sum()
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    pub(crate) fn spill(&self) -> &Arc<Spill> {
        &self.spill
    }

    /// How many bytes of memory are to be made free where so many are used: none up to
    /// `spill_at_bytes`, then enough that it takes a while until some are to be made free again.
    pub(crate) fn excess(&self, used: u64) -> u64 {
        match used > self.spill_at_bytes {
            true => used - self.spill_at_bytes / 2,
            false => 0,
        }
    }

    /// Smaller pieces stay in memory: a file costs each query something.
    pub(crate) fn least_spilled_bytes(&self) -> usize {
        usize::try_from(self.spill_at_bytes / 64).unwrap_or(usize::MAX)
    }

    /// Whether it is worth trying to spill.
    pub(crate) fn may_spill(&self) -> bool {
        let full = self.full.lock();
        full.as_ref()
            .is_none_or(|(at, _)| at.elapsed() >= SPILL_AGAIN)
    }

    /// Notes that there is room: something was spilled, or nothing has to be.
    pub(crate) fn note_room(&self) {
        if self.full.lock().take().is_some() {
            tracing::info!("there is room for deltas again");
        }
    }

    /// Notes that there was no room.
    pub(crate) fn note_full(&self, why: &str) {
        let before = self.full.lock().replace((Instant::now(), why.to_owned()));
        if before.is_none_or(|(_, before)| before != why) {
            tracing::warn!("deltas stay in memory, and facts are refused once it is full: {why}");
        }
    }

    /// Why nothing more can be spilled, if it was so when it was last tried.
    pub(crate) fn full(&self) -> Option<String> {
        self.full.lock().as_ref().map(|(_, why)| why.clone())
    }
}
