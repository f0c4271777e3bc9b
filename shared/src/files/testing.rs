//! A file system in memory that records what is done to it, loses power, and fails on demand. On
//! demand it also does all of it in a real folder, so that others can read it there; a power loss puts
//! that folder into a state that the disk could be in.
//!
//! It is stricter than a real one: without a sync nothing is durable, and at a power loss any
//! part of what wasn't synced may survive without the rest.

mod disk;

use std::fs;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Files, OpenFile, RealFiles, SyncPoint};
use disk::{Change, Disk, Entry, Node, not_found};

/// Something that was asked of the file system and changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A directory was made.
    CreateDir(PathBuf),
    /// A file was made.
    Create(PathBuf),
    /// Bytes were written.
    Write {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        position: u64,
        /// How many.
        bytes: u64,
    },
    /// A file was cut to a length in bytes.
    Truncate(PathBuf, u64),
    /// A file was synced.
    Sync(PathBuf, SyncPoint),
    /// A file was given a second name.
    Link(PathBuf, PathBuf),
    /// A file was given another name.
    Rename(PathBuf, PathBuf),
    /// A file was removed.
    Remove(PathBuf),
    /// A directory was synced.
    SyncDir(PathBuf, SyncPoint),
}

/// What fails once, with an I/O error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next sync for this reason. As on Linux, what it should have made durable counts as
    /// clean afterwards: it can be read, but no later sync makes it durable.
    Sync(SyncPoint),
    /// The next write, after half of its bytes.
    Write,
    /// The next truncation.
    Truncate,
    /// The next removal.
    Remove,
}

/// What survives a power loss beside what was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survivors {
    /// Nothing.
    Synced,
    /// A part chosen by this seed.
    Some(u64),
}

/// The file system; clones share it. Its root exists and is durable.
#[derive(Clone, Debug)]
pub struct RecordingFiles {
    disk: Arc<Mutex<Disk>>,
    /// The real folder that is kept alike.
    mirror: Option<PathBuf>,
}

impl Default for RecordingFiles {
    fn default() -> Self {
        Self::new()
    }
}

impl RecordingFiles {
    /// An empty file system whose root is `/`.
    pub fn new() -> Self {
        Self {
            disk: Arc::new(Mutex::new(Disk::new("/"))),
            mirror: None,
        }
    }

    /// An empty file system whose root is a real folder, which is emptied.
    pub fn mirrored(folder: &Path) -> Self {
        let files = Self {
            disk: Arc::new(Mutex::new(Disk::new(folder))),
            mirror: Some(folder.to_owned()),
        };
        files.lose_power(Survivors::Synced);
        files
    }

    /// What was asked so far, in order, whether or not it succeeded.
    pub fn operations(&self) -> Vec<Operation> {
        self.disk.lock().operations.clone()
    }

    /// The reasons of all syncs so far, in order.
    pub fn syncs(&self) -> Vec<SyncPoint> {
        self.disk.lock().syncs().collect()
    }

    /// From now on syncs for this reason do nothing and say that they succeeded.
    pub fn skip(&self, point: SyncPoint) {
        self.disk.lock().skipped.insert(point);
    }

    /// The `nth` sync ever, counted from 0, does nothing and says that it succeeded.
    pub fn skip_nth(&self, nth: usize) {
        self.disk.lock().skipped_nth = Some(nth);
    }

    /// Fails one operation.
    pub fn fail_next(&self, fault: Fault) {
        self.disk.lock().faults.push(fault);
    }

    /// Limits the bytes of all files together; a write past it stores what fits and fails with
    /// `StorageFull`. `None` takes the limit away.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk.lock().capacity_bytes = bytes;
    }

    /// Cuts the power at the `nth` operation ever, counted from 0: that one fails though it may
    /// have an effect, later ones fail without. Lasts until [`RecordingFiles::lose_power`] or
    /// [`RecordingFiles::restart`].
    pub fn fail_power_at(&self, nth: usize) {
        self.disk.lock().power_fails_at = Some(nth);
    }

    /// Drops what wasn't synced, except for the survivors. Files that are open must not be used
    /// any more.
    pub fn lose_power(&self, survivors: Survivors) {
        let mut disk = self.disk.lock();
        disk.lose_power(survivors);
        #[expect(clippy::expect_used, reason = "a test's own folder")]
        if let Some(folder) = &self.mirror {
            make_anew(folder, &disk).expect("the folder is made anew");
        }
    }

    /// As if the process had been killed: everything done so far is there, synced or not.
    pub fn restart(&self) {
        self.disk.lock().power_fails_at = None;
    }

    /// Changes a stored file, durably, as a failing disk does.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such file.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let node = disk.node_at(path)?;
        change(&mut node.bytes);
        node.durable = node.bytes.clone();
        node.unsynced.clear();
        Ok(())
    }

    /// Does the same in the real folder.
    fn also<T>(&self, act: impl FnOnce(&RealFiles) -> io::Result<T>) -> io::Result<Option<T>> {
        self.mirror.as_ref().map(|_| act(&RealFiles)).transpose()
    }

    /// Whether a path is none of this file system's: it is a real one above the folder.
    fn is_outside(&self, path: &Path) -> bool {
        self.mirror
            .as_ref()
            .is_some_and(|folder| !path.starts_with(folder))
    }

    fn handle(&self, id: u64, path: &Path, real: Option<Box<dyn OpenFile>>) -> RecordingFile {
        RecordingFile {
            disk: Arc::clone(&self.disk),
            id,
            path: path.to_path_buf(),
            real,
        }
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let verdict = disk.begin(Operation::Remove(path.to_path_buf()))?;
        disk.take_fault(Fault::Remove)?;
        disk.node_at(path)?;
        self.also(|real| real.remove(path))?;
        disk.change([(path, None)]);
        verdict.heard()
    }
}

/// Puts what a disk holds into a real folder, and nothing else.
fn make_anew(folder: &Path, disk: &Disk) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        fs::remove_dir_all(entry?.path())?;
    }
    // In order, so directories come before what is inside them.
    for (path, entry) in &disk.entries {
        match entry {
            Entry::Dir => fs::create_dir(path)?,
            Entry::File(id) => fs::write(path, disk.nodes.get(id).map_or(&[][..], |n| &n.bytes))?,
        }
    }
    Ok(())
}

impl Files for RecordingFiles {
    fn is_dir(&self, path: &Path) -> io::Result<bool> {
        if self.is_outside(path) {
            return RealFiles.is_dir(path);
        }
        let disk = self.disk.lock();
        Ok(path == disk.root || disk.entries.get(path) == Some(&Entry::Dir))
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let verdict = disk.begin(Operation::CreateDir(path.to_path_buf()))?;
        self.also(|real| real.create_dir(path, mode))?;
        if !disk.entries.contains_key(path) {
            disk.change([(path, Some(Entry::Dir))]);
        }
        verdict.heard()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if !self.is_dir(dir)? {
            return Err(not_found());
        }
        let disk = self.disk.lock();
        let inside = disk
            .entries
            .keys()
            .filter(|path| path.parent() == Some(dir));
        Ok(inside
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(self.disk.lock().node_at(path)?.bytes.clone())
    }

    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn OpenFile>> {
        let mut disk = self.disk.lock();
        let verdict = disk.begin(Operation::Create(path.to_path_buf()))?;
        if disk.entries.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let real = self.also(|real| real.create(path, mode))?;
        let id = disk.nodes.len() as u64;
        disk.nodes.insert(id, Node::default());
        disk.change([(path, Some(Entry::File(id)))]);
        verdict.heard()?;
        Ok(Box::new(self.handle(id, path, real)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        let id = self.disk.lock().file_at(path)?;
        let real = self.also(|real| real.open(path))?;
        Ok(Box::new(self.handle(id, path, real)))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let verdict = disk.begin(Operation::Link(from.to_owned(), to.to_owned()))?;
        let id = disk.file_at(from)?;
        if disk.entries.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.also(|real| real.link(from, to))?;
        disk.change([(to, Some(Entry::File(id)))]);
        verdict.heard()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let verdict = disk.begin(Operation::Rename(from.to_owned(), to.to_owned()))?;
        let id = disk.file_at(from)?;
        self.also(|real| real.rename(from, to))?;
        disk.change([(from, None), (to, Some(Entry::File(id)))]);
        verdict.heard()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.unlink(path)
    }

    fn discard(&self, path: &Path) -> io::Result<()> {
        self.unlink(path)
    }

    fn sync_dir(&self, dir: &Path, point: SyncPoint) -> io::Result<()> {
        if self.is_outside(dir) {
            return Ok(());
        }
        let mut disk = self.disk.lock();
        disk.begin(Operation::SyncDir(dir.to_path_buf(), point))?
            .heard()?;
        disk.take_fault(Fault::Sync(point))?;
        if !disk.is_skipped(point) {
            disk.sync_dir(dir);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct RecordingFile {
    disk: Arc<Mutex<Disk>>,
    id: u64,
    path: PathBuf,
    /// The same file in the real folder.
    real: Option<Box<dyn OpenFile>>,
}

impl RecordingFile {
    fn change(&self, disk: &mut Disk, change: Change) -> io::Result<()> {
        disk.nodes
            .get_mut(&self.id)
            .ok_or_else(not_found)?
            .change(change);
        Ok(())
    }
}

impl OpenFile for RecordingFile {
    fn write_at(&mut self, position: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut bytes = parts
            .iter()
            .flat_map(|part| part.iter().copied())
            .collect::<Vec<_>>();
        let disk = Arc::clone(&self.disk);
        let mut disk = disk.lock();
        let verdict = disk.begin(Operation::Write {
            path: self.path.clone(),
            position,
            bytes: bytes.len() as u64,
        })?;
        let at = usize::try_from(position).map_err(io::Error::other)?;
        let mut outcome = disk.take_fault(Fault::Write);
        if outcome.is_err() {
            bytes.truncate(bytes.len() / 2);
        }
        let node_bytes = disk.nodes.get(&self.id).ok_or_else(not_found)?.bytes.len();
        let fits = disk
            .room_bytes()
            .saturating_add(node_bytes.saturating_sub(at));
        if bytes.len() > fits {
            bytes.truncate(fits);
            outcome = Err(io::ErrorKind::StorageFull.into());
        }
        if let Some(real) = &mut self.real {
            real.write_at(position, &mut [IoSlice::new(&bytes)])?;
        }
        self.change(
            &mut disk,
            Change::Write {
                position: at,
                bytes,
            },
        )?;
        outcome.and_then(|()| verdict.heard())
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        let disk = Arc::clone(&self.disk);
        let mut disk = disk.lock();
        let verdict = disk.begin(Operation::Truncate(self.path.clone(), bytes))?;
        disk.take_fault(Fault::Truncate)?;
        if let Some(real) = &mut self.real {
            real.truncate(bytes)?;
        }
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        self.change(&mut disk, Change::Truncate(bytes))?;
        verdict.heard()
    }

    fn sync(&mut self, point: SyncPoint) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.begin(Operation::Sync(self.path.clone(), point))?
            .heard()?;
        let outcome = disk.take_fault(Fault::Sync(point));
        let is_skipped = disk.is_skipped(point);
        let node = disk.nodes.get_mut(&self.id).ok_or_else(not_found)?;
        if outcome.is_err() {
            node.unsynced.clear();
        } else if !is_skipped {
            node.sync();
        }
        outcome
    }
}
