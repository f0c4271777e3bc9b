//! The state of the file system in memory: what is there, what is durable, and what becomes of it
//! when the power fails.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use super::{Fault, Operation, Survivors};
use crate::files::SyncPoint;

/// The unit in bytes in which an unsynced write survives a power loss or doesn't. Small, so that
/// small tests tear records too.
const SECTOR_BYTES: usize = 16;

#[derive(Debug)]
pub(super) struct Disk {
    pub(super) root: PathBuf,
    pub(super) operations: Vec<Operation>,
    pub(super) nodes: HashMap<u64, Node>,
    pub(super) entries: BTreeMap<PathBuf, Entry>,
    pub(super) durable_entries: BTreeMap<PathBuf, Entry>,
    /// Changes of one directory's entries, each of which survives as a whole or not.
    pub(super) unsynced_entries: Vec<Vec<(PathBuf, Option<Entry>)>>,
    pub(super) skipped: BTreeSet<SyncPoint>,
    pub(super) skipped_nth: Option<usize>,
    pub(super) faults: Vec<Fault>,
    pub(super) capacity_bytes: Option<u64>,
    pub(super) power_fails_at: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Dir,
    File(u64),
}

#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) bytes: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) unsynced: Vec<Change>,
}

#[derive(Debug)]
pub(super) enum Change {
    Write { position: usize, bytes: Vec<u8> },
    Truncate(usize),
}

/// What becomes of an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Done,
    /// The power fails during it: it may have an effect, but nobody hears of it.
    Unheard,
}

impl Disk {
    pub(super) fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            operations: Vec::new(),
            nodes: HashMap::new(),
            entries: BTreeMap::new(),
            durable_entries: BTreeMap::new(),
            unsynced_entries: Vec::new(),
            skipped: BTreeSet::new(),
            skipped_nth: None,
            faults: Vec::new(),
            capacity_bytes: None,
            power_fails_at: None,
        }
    }

    pub(super) fn file_at(&self, path: &Path) -> io::Result<u64> {
        match self.entries.get(path) {
            Some(Entry::File(id)) => Ok(*id),
            _ => Err(not_found()),
        }
    }

    pub(super) fn node_at(&mut self, path: &Path) -> io::Result<&mut Node> {
        let id = self.file_at(path)?;
        self.nodes.get_mut(&id).ok_or_else(not_found)
    }

    /// The reasons of all syncs so far.
    pub(super) fn syncs(&self) -> impl Iterator<Item = SyncPoint> {
        self.operations.iter().filter_map(|done| match done {
            Operation::Sync(_, point) | Operation::SyncDir(_, point) => Some(*point),
            _ => None,
        })
    }

    /// Whether the sync that was begun last does nothing.
    pub(super) fn is_skipped(&self, point: SyncPoint) -> bool {
        let is_nth = || {
            self.skipped_nth
                .is_some_and(|nth| nth + 1 == self.syncs().count())
        };
        self.skipped.contains(&point) || is_nth()
    }

    pub(super) fn begin(&mut self, operation: Operation) -> io::Result<Verdict> {
        let index = self.operations.len();
        self.operations.push(operation);
        match self.power_fails_at {
            Some(nth) if index > nth => Err(power_failed()),
            Some(nth) if index == nth => Ok(Verdict::Unheard),
            _ => Ok(Verdict::Done),
        }
    }

    pub(super) fn take_fault(&mut self, fault: Fault) -> io::Result<()> {
        match self.faults.iter().position(|planned| *planned == fault) {
            None => Ok(()),
            Some(index) => {
                self.faults.remove(index);
                Err(io::Error::other("injected"))
            }
        }
    }

    /// Changes entries of one directory, which survives as a whole or not.
    pub(super) fn change<const N: usize>(&mut self, changes: [(&Path, Option<Entry>); N]) {
        let changes = changes.map(|(path, entry)| (path.to_path_buf(), entry));
        apply(&mut self.entries, &changes);
        self.unsynced_entries.push(changes.into());
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) {
        let is_in_it = |change: &Vec<(PathBuf, Option<Entry>)>| {
            change.iter().any(|(path, _)| path.parent() == Some(dir))
        };
        let unsynced = std::mem::take(&mut self.unsynced_entries);
        let (synced, left): (Vec<_>, Vec<_>) = unsynced.into_iter().partition(is_in_it);
        for change in synced {
            apply(&mut self.durable_entries, &change);
        }
        self.unsynced_entries = left;
    }

    /// Bytes that the disk still has room for.
    pub(super) fn room_bytes(&self) -> usize {
        let Some(capacity_bytes) = self.capacity_bytes else {
            return usize::MAX;
        };
        let files = self.entries.values().filter_map(|entry| match entry {
            Entry::File(id) => self.nodes.get(id),
            Entry::Dir => None,
        });
        let used_bytes = files.map(|node| node.bytes.len()).sum::<usize>();
        usize::try_from(capacity_bytes)
            .unwrap_or(usize::MAX)
            .saturating_sub(used_bytes)
    }

    pub(super) fn lose_power(&mut self, survivors: Survivors) {
        let mut coin = Coin::new(survivors);
        for change in std::mem::take(&mut self.unsynced_entries) {
            if coin.survives() {
                apply(&mut self.durable_entries, &change);
            }
        }
        // In order, so parents come before what is inside them.
        let mut reachable = BTreeMap::new();
        for (path, entry) in std::mem::take(&mut self.durable_entries) {
            let parent = path.parent().unwrap_or(&self.root);
            if parent == self.root || reachable.get(parent) == Some(&Entry::Dir) {
                reachable.insert(path, entry);
            }
        }
        // By id, so that a seed always chooses alike.
        let mut ids = self.nodes.keys().copied().collect::<Vec<_>>();
        ids.sort_unstable();
        for id in ids {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.lose_power(&mut coin);
            }
        }
        self.entries = reachable.clone();
        self.durable_entries = reachable;
        self.power_fails_at = None;
        self.faults.clear();
    }
}

impl Node {
    pub(super) fn change(&mut self, change: Change) {
        change.apply(&mut self.bytes);
        self.unsynced.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    fn lose_power(&mut self, coin: &mut Coin) {
        for change in self.unsynced.drain(..) {
            match change {
                Change::Truncate(bytes) => {
                    if coin.survives() {
                        Change::Truncate(bytes).apply(&mut self.durable);
                    }
                }
                Change::Write { position, bytes } => {
                    // The new length may survive without the bytes, which are zero then.
                    if coin.survives() && self.durable.len() < position + bytes.len() {
                        self.durable.resize(position + bytes.len(), 0);
                    }
                    for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                        if coin.survives() {
                            let position = position + index * SECTOR_BYTES;
                            let bytes = sector.to_vec();
                            Change::Write { position, bytes }.apply(&mut self.durable);
                        }
                    }
                }
            }
        }
        self.bytes = self.durable.clone();
    }
}

impl Change {
    fn apply(&self, target: &mut Vec<u8>) {
        match self {
            Self::Truncate(bytes) => target.truncate(*bytes),
            Self::Write { position, bytes } => {
                let end = position + bytes.len();
                if target.len() < end {
                    target.resize(end, 0);
                }
                target[*position..end].copy_from_slice(bytes);
            }
        }
    }
}

/// Decides what survives, by SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
/// Generators, 2014).
struct Coin {
    state: Option<u64>,
    /// Of 4 tosses, how many let survive; drawn per seed, so that some losses are nearly total
    /// and some nearly none.
    odds: u64,
}

impl Coin {
    fn new(survivors: Survivors) -> Self {
        match survivors {
            Survivors::Synced => Self {
                state: None,
                odds: 0,
            },
            Survivors::Some(seed) => Self {
                state: Some(seed),
                odds: 1 + seed % 3,
            },
        }
    }

    fn survives(&mut self) -> bool {
        let Some(state) = &mut self.state else {
            return false;
        };
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % 4 < self.odds
    }
}

impl Verdict {
    pub(super) fn heard(self) -> io::Result<()> {
        match self {
            Self::Done => Ok(()),
            Self::Unheard => Err(power_failed()),
        }
    }
}

fn apply(entries: &mut BTreeMap<PathBuf, Entry>, change: &[(PathBuf, Option<Entry>)]) {
    for (path, entry) in change {
        match entry {
            Some(entry) => entries.insert(path.clone(), *entry),
            None => entries.remove(path),
        };
    }
}

pub(super) fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn power_failed() -> io::Error {
    io::Error::other("the power failed")
}
