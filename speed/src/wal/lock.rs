//! The lock that keeps a WAL's root to one process.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::files::{FILE_MODE, ensure_dir};
use anabranch_shared::files::RealFiles;

use super::WalError;

const LOCK_FILE: &str = "LOCK";

/// Exclusive use of the directory that holds the WALs of a daemon's topics.
///
/// An advisory `flock` on the file `LOCK`, released when this is dropped or its process dies. The
/// file stays, because removing it would let two processes lock two files of the same name.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct WalLock {
    root: PathBuf,
    _file: File,
}

impl WalLock {
    /// Locks `root`, making it if absent, without waiting.
    ///
    /// # Errors
    ///
    /// [`WalError::Locked`] if another process, or another lock in this one, holds it;
    /// [`WalError::Io`] if the file system refuses.
    pub fn acquire(root: &Path) -> Result<Self, WalError> {
        ensure_dir(&RealFiles, root)?;
        let path = root.join(LOCK_FILE);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(&path)
            .map_err(|source| WalError::io(&path, "open", source))?;
        match file.try_lock() {
            Ok(()) => Ok(Self {
                root: root.to_path_buf(),
                _file: file,
            }),
            Err(TryLockError::WouldBlock) => Err(WalError::Locked {
                path: root.to_path_buf(),
            }),
            Err(TryLockError::Error(source)) => Err(WalError::io(&path, "lock", source)),
        }
    }

    /// The directory that is locked.
    pub fn root(&self) -> &Path {
        &self.root
    }
}
