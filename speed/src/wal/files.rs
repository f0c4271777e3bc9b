//! The file layer below the WAL: what it asks of a file system, and the real one.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::WalError;

/// So many bytes of a removed file are freed at once.
const FREED_BYTES: u64 = 4 << 20;

/// How long others may sync between.
const FREED_EVERY: Duration = Duration::from_millis(20);

/// Rights of the files and folders that are made: facts that have not landed are their owner's.
pub(super) const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Why a sync is done. Every sync names its reason, so that a test can take out one reason at a
/// time and show what it would lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SyncPoint {
    /// The id of a root, before a partition is claimed for it.
    Identity,
    /// The entry of that id.
    IdentityEntry,
    /// The entry of a directory in its parent, before anything is made inside it.
    Directory,
    /// A topic's directory at opening, before its listing is relied on.
    Listing,
    /// The header of a new segment, before older segments may go.
    SegmentHeader,
    /// The entry of a new segment, before a record in it is acknowledged.
    SegmentEntry,
    /// A group of records, before it is acknowledged.
    Group,
    /// The last group at opening, before its records are handed out.
    Tail,
    /// A segment cut back after a write that the disk had no space for.
    RollBack,
    /// The removal of a segment, before the next one may be removed.
    Removal,
    /// Keys that are kept beside the segments, before those of their records are removed.
    Keys,
    /// The entry of a file of keys, likewise.
    KeysEntry,
}

impl SyncPoint {
    /// Every reason.
    pub const ALL: [Self; 12] = [
        Self::Identity,
        Self::IdentityEntry,
        Self::Directory,
        Self::Listing,
        Self::SegmentHeader,
        Self::SegmentEntry,
        Self::Group,
        Self::Tail,
        Self::RollBack,
        Self::Removal,
        Self::Keys,
        Self::KeysEntry,
    ];
}

/// The file system as the WAL uses it.
///
/// # Contract
///
/// - Nothing is durable before the sync that covers it returns: a file's bytes and length by
///   [`WalFile::sync`], entries made or removed in a directory by [`WalFiles::sync_dir`].
/// - Errors keep the [`io::ErrorKind`]s of the standard library: `NotFound` for what is absent,
///   `StorageFull` or `QuotaExceeded` for lack of space.
pub trait WalFiles: fmt::Debug + Send + Sync {
    /// Whether `path` is a directory; `false` if it is absent.
    fn is_dir(&self, path: &Path) -> io::Result<bool>;
    /// Makes one directory, whose parent exists; succeeds if it is already there.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// All bytes of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Makes an empty file for writing; an existing one is an error.
    fn create(&self, path: &Path) -> io::Result<Box<dyn WalFile>>;
    /// Opens an existing file for writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn WalFile>>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, dir: &Path, point: SyncPoint) -> io::Result<()>;
}

/// A file that is open for writing.
pub trait WalFile: fmt::Debug + Send {
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

impl WalFiles for RealFiles {
    fn is_dir(&self, path: &Path) -> io::Result<bool> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(metadata.is_dir()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match fs::DirBuilder::new().mode(FOLDER_MODE).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            outcome => outcome,
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

    fn create(&self, path: &Path) -> io::Result<Box<dyn WalFile>> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(FILE_MODE);
        let file = options.open(path)?;
        Ok(Box::new(RealFile { file }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn WalFile>> {
        let file = OpenOptions::new().write(true).open(path)?;
        Ok(Box::new(RealFile { file }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let held = OpenOptions::new().write(true).open(path)?;
        fs::remove_file(path)?;
        let freeing = std::thread::Builder::new().name("wal-free".to_owned());
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
struct RealFile {
    file: File,
}

impl WalFile for RealFile {
    fn write_at(&mut self, position: u64, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(position))?;
        // Drops empty parts at the front, which would make a write of 0 bytes look like an error.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match self.file.write_vectored(parts) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut parts, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn sync(&mut self, point: SyncPoint) -> io::Result<()> {
        fail::fail_point!("wal-sync-fails", |_| Err(io::Error::other("a fail point")));
        match point {
            // The length is part of what `fdatasync` must keep, times are not.
            SyncPoint::Group => self.file.sync_data(),
            _ => self.file.sync_all(),
        }
    }
}

/// The directory of a topic's segments.
pub(super) fn topic_dir(root: &Path, topic: &str) -> Result<PathBuf, WalError> {
    let mut components = Path::new(topic).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(name)), None) if name == topic => Ok(root.join(topic)),
        _ => Err(WalError::InvalidTopic {
            topic: topic.to_owned(),
        }),
    }
}

/// Makes `path` and what is missing above it, durably.
///
/// A directory's entry is synced before anything is made inside it, so of those that exist only
/// the deepest can lack its sync; that one is synced again, in case its maker died before.
pub(super) fn ensure_dir(files: &dyn WalFiles, path: &Path) -> Result<(), WalError> {
    let parent = match path.parent() {
        None => return Ok(()),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    if !files
        .is_dir(path)
        .map_err(|source| WalError::io(path, "look up", source))?
    {
        ensure_dir(files, parent)?;
        files
            .create_dir(path)
            .map_err(|source| WalError::io(path, "create directory", source))?;
    }
    files
        .sync_dir(parent, SyncPoint::Directory)
        .map_err(|source| WalError::io(parent, "sync directory", source))
}
