//! The file system as durability rests on it, below the WAL and below a storage that is a folder: what
//! both ask of it, and the real one. Owns no order of operations; that is its callers'.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

/// So many bytes of a removed file are freed at once.
const FREED_BYTES: u64 = 4 << 20;

/// How long others may sync between.
const FREED_EVERY: Duration = Duration::from_millis(20);

/// Why a sync is done. Every sync names its reason, so that a test can take out one reason at a
/// time and show what it would lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SyncPoint {
    /// The entry of a directory in its parent, before anything is made inside it.
    Directory,
    /// The removal of files, before it is relied on.
    Removal,
    /// Of a storage: the entries that other processes have made, before anything is built on them.
    Found,
    /// Of a storage: the bytes of an object, before it has its name.
    Object,
    /// Of a storage: the name of an object, before its put is answered.
    ObjectEntry,
    /// Of a WAL: the id of a root, before a partition is claimed for it.
    Identity,
    /// Of a WAL: the entry of that id.
    IdentityEntry,
    /// Of a WAL: a topic's directory at opening, before its listing is relied on.
    Listing,
    /// Of a WAL: the header of a new segment, before older segments may go.
    SegmentHeader,
    /// Of a WAL: the entry of a new segment, before a record in it is acknowledged.
    SegmentEntry,
    /// Of a WAL: a group of records, before it is acknowledged.
    Group,
    /// Of a WAL: the last group at opening, before its records are handed out.
    Tail,
    /// Of a WAL: a segment cut back after a write that the disk had no space for.
    RollBack,
    /// Of a WAL: keys that are kept beside the segments, before those of their records are removed.
    Keys,
    /// Of a WAL: the entry of a file of keys, likewise.
    KeysEntry,
}

impl SyncPoint {
    /// The reasons of a storage.
    pub const OF_STORAGE: [Self; 5] = [
        Self::Directory,
        Self::Removal,
        Self::Found,
        Self::Object,
        Self::ObjectEntry,
    ];

    /// The reasons of a WAL.
    pub const OF_WAL: [Self; 12] = [
        Self::Directory,
        Self::Removal,
        Self::Identity,
        Self::IdentityEntry,
        Self::Listing,
        Self::SegmentHeader,
        Self::SegmentEntry,
        Self::Group,
        Self::Tail,
        Self::RollBack,
        Self::Keys,
        Self::KeysEntry,
    ];
}

/// A file system, so that tests can watch it, make it fail and lose its power.
///
/// # Contract
///
/// - Nothing is durable before the sync that covers it returns: a file's bytes and length by
///   [`OpenFile::sync`], entries made or removed in a directory by [`Files::sync_dir`].
/// - Errors keep the [`io::ErrorKind`]s of the standard library: `NotFound` for what is absent,
///   `AlreadyExists` for a name that is taken, `StorageFull` or `QuotaExceeded` for lack of space.
pub trait Files: fmt::Debug + Send + Sync {
    /// Whether `path` is a directory; `false` if it is absent.
    fn is_dir(&self, path: &Path) -> io::Result<bool>;
    /// Makes one directory with these rights, whose parent exists; succeeds if it is already there.
    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// The names in a directory, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// All bytes of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Makes an empty file with these rights for writing; an existing one is an error.
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn OpenFile>>;
    /// Opens an existing file for writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>>;
    /// Gives a file a second name; fails if that name exists.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames a file within its directory, replacing one of that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name; whoever has the file open, or knows another name of it, keeps it.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a large file that has no other name and that nobody else has open, without holding up
    /// others' syncs.
    fn discard(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, dir: &Path, point: SyncPoint) -> io::Result<()>;
}

/// A file that is open for writing.
pub trait OpenFile: fmt::Debug + Send {
    /// Writes all of `parts`, one after the other, from byte `position` on. After an error any of
    /// the bytes may have been written. `parts` is used up.
    fn write_at(&mut self, position: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()>;
    /// Cuts the file to `bytes`.
    fn truncate(&mut self, bytes: u64) -> io::Result<()>;
    /// Makes the file's bytes and length durable. After an error it is unknown which are, and a
    /// further sync doesn't tell.
    fn sync(&mut self, point: SyncPoint) -> io::Result<()>;
}

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFiles;

impl Files for RealFiles {
    fn is_dir(&self, path: &Path) -> io::Result<bool> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(metadata.is_dir()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        match DirBuilder::new().mode(mode).create(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            // The process's mask may have taken some of the rights.
            made => made.and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode))),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn OpenFile>> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(mode).open(path)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        let file = OpenOptions::new().write(true).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn discard(&self, path: &Path) -> io::Result<()> {
        let held = OpenOptions::new().write(true).open(path)?;
        fs::remove_file(path)?;
        let freeing = std::thread::Builder::new().name("free".to_owned());
        // Without a thread the file is closed here, which frees it at once.
        freeing.spawn(move || free(&held)).ok();
        Ok(())
    }

    fn sync_dir(&self, dir: &Path, _point: SyncPoint) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

/// Frees what a removed file holds, part by part. A file system that frees 64 MB at once may hold up
/// every sync meanwhile, for 70 ms on ext4 that discards.
fn free(removed: &File) {
    let mut bytes = removed.metadata().map_or(0, |m| m.len());
    while bytes > FREED_BYTES {
        bytes -= FREED_BYTES;
        // What can't be cut off goes when the file is closed.
        if removed.set_len(bytes).is_err() {
            return;
        }
        std::thread::sleep(FREED_EVERY);
    }
}

#[derive(Debug)]
struct RealFile(File);

impl OpenFile for RealFile {
    fn write_at(&mut self, position: u64, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.0.seek(SeekFrom::Start(position))?;
        // Drops empty parts at the front, which would make a write of 0 bytes look like an error.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match self.0.write_vectored(parts) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut parts, written),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn sync(&mut self, point: SyncPoint) -> io::Result<()> {
        fail::fail_point!("wal-sync-fails", point != SyncPoint::Object, |_| Err(
            io::Error::other("a fail point")
        ));
        match point {
            // The length is part of what `fdatasync` must keep, times are not.
            SyncPoint::Group | SyncPoint::Object => self.0.sync_data(),
            _ => self.0.sync_all(),
        }
    }
}

/// A directory that could not be made durably.
#[derive(Debug)]
pub struct DirError {
    /// The one of those to be made, or their parent, that failed.
    pub path: PathBuf,
    /// What was done to it.
    pub doing: &'static str,
    /// Why it failed.
    pub source: io::Error,
}

/// Makes `path` and what is missing above it, durably and with these rights.
///
/// A directory's entry is synced before anything is made inside it, so of those that exist only
/// the deepest can lack its sync; that one is synced again, in case its maker died before. Who may
/// not read the directory above did not make it there either.
///
/// # Errors
/// The first operation that failed.
pub fn ensure_dir(files: &dyn Files, path: &Path, mode: u32) -> Result<(), DirError> {
    let parent = match path.parent() {
        None => return Ok(()),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    let failed = |path: &Path, doing| {
        let path = path.to_owned();
        move |source| DirError {
            path,
            doing,
            source,
        }
    };
    let is_there = files.is_dir(path).map_err(failed(path, "look up"))?;
    if !is_there {
        ensure_dir(files, parent, mode)?;
        let created = files.create_dir(path, mode);
        created.map_err(failed(path, "create directory"))?;
    }
    match files.sync_dir(parent, SyncPoint::Directory) {
        Err(e) if is_there && e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced.map_err(failed(parent, "sync directory")),
    }
}
