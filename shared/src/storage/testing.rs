//! A layer of file operations that keeps account of what is durable, and loses power. What it is
//! told it also does in a real folder, so that the store can be read; a power loss puts that folder
//! into a state that the disk could be in.
//!
//! It is stricter than a real one: without a sync nothing is durable, and at a power loss any part
//! of what wasn't synced may survive without the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{FolderFiles, FolderSync, RealFolderFiles};

/// The unit in bytes in which an unsynced file survives a power loss or doesn't.
const SECTOR_BYTES: usize = 64;

/// What survives a power loss beside what was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Survivors {
    /// Nothing.
    Synced,
    /// A part chosen by this seed.
    Some(u64),
}

/// Which syncs do nothing and say that they succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skip {
    Nothing,
    /// Those for a reason.
    Reason(FolderSync),
    /// The n-th ever, counted from 0.
    Nth(usize),
}

/// The file operations; clones share one disk. Everything is below `base`, which is durable.
#[derive(Clone, Debug)]
pub(crate) struct RecordingFiles {
    base: PathBuf,
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug)]
struct Disk {
    operations: usize,
    syncs: Vec<FolderSync>,
    files: Vec<File>,
    /// By path: the number of a file, or none for a folder.
    entries: BTreeMap<PathBuf, Option<usize>>,
    durable: BTreeMap<PathBuf, Option<usize>>,
    unsynced: Vec<Change>,
    skip: Skip,
    power_fails_at: Option<usize>,
}

#[derive(Debug)]
struct File {
    bytes: Vec<u8>,
    durable: bool,
}

/// A change of a folder's entries, which survives as a whole or not.
#[derive(Clone, Debug)]
enum Change {
    Made(PathBuf, Option<usize>),
    Removed(PathBuf),
    Renamed(PathBuf, PathBuf, usize),
}

impl Change {
    fn apply(&self, entries: &mut BTreeMap<PathBuf, Option<usize>>) {
        match self {
            Self::Made(path, entry) => {
                entries.insert(path.clone(), *entry);
            }
            Self::Removed(path) => {
                entries.remove(path);
            }
            Self::Renamed(from, to, file) => {
                entries.remove(from);
                entries.insert(to.clone(), Some(*file));
            }
        }
    }

    fn dir(&self) -> Option<&Path> {
        let (Self::Made(path, _) | Self::Removed(path) | Self::Renamed(_, path, _)) = self;
        path.parent()
    }
}

impl Disk {
    /// Counts an operation; its outcome is heard only if the power does not fail in it.
    fn begin(&mut self) -> io::Result<Heard> {
        let index = self.operations;
        self.operations += 1;
        match self.power_fails_at {
            Some(at) if index > at => Err(power_failed()),
            Some(at) => Ok(Heard(index < at)),
            None => Ok(Heard(true)),
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.entries);
        self.unsynced.push(change);
    }

    fn is_skipped(&mut self, reason: FolderSync) -> bool {
        self.syncs.push(reason);
        match self.skip {
            Skip::Nothing => false,
            Skip::Reason(skipped) => skipped == reason,
            Skip::Nth(nth) => nth + 1 == self.syncs.len(),
        }
    }

    fn sync_dir(&mut self, dir: &Path) {
        let (synced, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.unsynced)
            .into_iter()
            .partition(|change| change.dir() == Some(dir));
        synced.iter().for_each(|c| c.apply(&mut self.durable));
        self.unsynced = left;
    }

    fn file(&self, path: &Path) -> io::Result<usize> {
        let entry = self.entries.get(path).copied().flatten();
        entry.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Whether the caller hears of an operation.
struct Heard(bool);

impl Heard {
    fn end(self) -> io::Result<()> {
        match self.0 {
            true => Ok(()),
            false => Err(power_failed()),
        }
    }
}

fn power_failed() -> io::Error {
    io::Error::other("the power failed")
}

impl RecordingFiles {
    /// A disk whose only folder is `base`.
    pub(crate) fn new(base: &Path, skip: Skip) -> Self {
        let disk = Disk {
            operations: 0,
            syncs: Vec::new(),
            files: Vec::new(),
            entries: BTreeMap::new(),
            durable: BTreeMap::new(),
            unsynced: Vec::new(),
            skip,
            power_fails_at: None,
        };
        Self {
            base: base.to_path_buf(),
            disk: Arc::new(Mutex::new(disk)),
        }
    }

    /// How many operations there were.
    pub(crate) fn operations(&self) -> usize {
        self.disk.lock().operations
    }

    /// The reasons of all syncs so far.
    pub(crate) fn syncs(&self) -> Vec<FolderSync> {
        self.disk.lock().syncs.clone()
    }

    /// Cuts the power at the n-th operation ever, counted from 0: that one fails though it has its
    /// effect, later ones fail without.
    pub(crate) fn fail_power_at(&self, nth: usize) {
        self.disk.lock().power_fails_at = Some(nth);
    }

    /// As if the process had been killed: what it did is there, synced or not.
    pub(crate) fn restart(&self) {
        self.disk.lock().power_fails_at = None;
    }

    /// Drops what wasn't synced, except for the survivors.
    pub(crate) fn lose_power(&self, survivors: Survivors) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let mut coin = Coin::new(survivors);
        for change in std::mem::take(&mut disk.unsynced) {
            if coin.survives() {
                change.apply(&mut disk.durable);
            }
        }
        for file in disk.files.iter_mut().filter(|f| !f.durable) {
            // The length may survive without the bytes, which are zero then.
            let bytes = std::mem::take(&mut file.bytes);
            if coin.survives() {
                file.bytes = vec![0; bytes.len()];
                let sectors = bytes.chunks(SECTOR_BYTES);
                for (kept, written) in file.bytes.chunks_mut(SECTOR_BYTES).zip(sectors) {
                    if coin.survives() {
                        kept.copy_from_slice(written);
                    }
                }
            }
            file.durable = true;
        }
        for entry in fs::read_dir(&self.base)? {
            fs::remove_dir_all(entry?.path())?;
        }
        // In order, so folders come before what is inside them.
        let mut reachable = BTreeMap::new();
        for (path, entry) in std::mem::take(&mut disk.durable) {
            let parent = path.parent().unwrap_or(&path);
            if parent != self.base && reachable.get(parent) != Some(&None) {
                continue;
            }
            match entry.and_then(|id| disk.files.get(id)) {
                None => fs::create_dir(&path)?,
                Some(file) => fs::write(&path, &file.bytes)?,
            }
            reachable.insert(path, entry);
        }
        disk.entries = reachable.clone();
        disk.durable = reachable;
        disk.power_fails_at = None;
        Ok(())
    }
}

impl FolderFiles for RecordingFiles {
    fn is_dir(&self, path: &Path) -> bool {
        RealFolderFiles.is_dir(path)
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let heard = disk.begin()?;
        RealFolderFiles.create_dir(path, mode)?;
        if path.starts_with(&self.base) && !disk.entries.contains_key(path) {
            disk.change(Change::Made(path.to_path_buf(), None));
        }
        heard.end()
    }

    fn write(&self, path: &Path, parts: &[Bytes], mode: u32) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let heard = disk.begin()?;
        RealFolderFiles.write(path, parts, mode)?;
        let id = disk.files.len();
        disk.files.push(File {
            bytes: parts.concat(),
            durable: false,
        });
        disk.change(Change::Made(path.to_path_buf(), Some(id)));
        heard.end()
    }

    fn sync_file(&self, path: &Path, reason: FolderSync) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.begin()?.end()?;
        let id = disk.file(path)?;
        if !disk.is_skipped(reason)
            && let Some(file) = disk.files.get_mut(id)
        {
            file.durable = true;
        }
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let heard = disk.begin()?;
        RealFolderFiles.link(from, to)?;
        let id = disk.file(from)?;
        disk.change(Change::Made(to.to_path_buf(), Some(id)));
        heard.end()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let heard = disk.begin()?;
        RealFolderFiles.rename(from, to)?;
        let id = disk.file(from)?;
        disk.change(Change::Renamed(from.to_path_buf(), to.to_path_buf(), id));
        heard.end()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let heard = disk.begin()?;
        RealFolderFiles.remove(path)?;
        disk.change(Change::Removed(path.to_path_buf()));
        heard.end()
    }

    fn sync_dir(&self, path: &Path, reason: FolderSync) -> io::Result<()> {
        if !path.starts_with(&self.base) {
            return Ok(());
        }
        let mut disk = self.disk.lock();
        disk.begin()?.end()?;
        if !disk.is_skipped(reason) {
            disk.sync_dir(path);
        }
        Ok(())
    }
}

/// Decides what survives, by SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
/// Generators, 2014).
struct Coin {
    state: Option<u64>,
    /// Of 4 tosses, how many let survive.
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

/// The reasons in a list of syncs.
pub(crate) fn reasons(syncs: &[FolderSync]) -> BTreeSet<FolderSync> {
    syncs.iter().copied().collect()
}
