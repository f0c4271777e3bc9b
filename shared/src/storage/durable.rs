//! What makes a folder durable: the file operations below it, and the order in which they are done.
//! Owns that order; knows nothing of objects.
//!
//! 1. A folder's entry is synced before anything is made inside it.
//! 2. What other processes were found to have made is synced before anything that may build on it
//!    is visible. They may have died, or not yet have come to their own sync.
//! 3. A file is written under a staged name and synced before it is linked (put-if-absent) or
//!    renamed into place, so that an object is whole wherever it is found.
//! 4. The folder that holds it is synced before the put is answered.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use object_store::PutMode;
use parking_lot::Mutex;

use crate::Ids;
use crate::files::{Files, SyncPoint, ensure_dir};

/// Rights of a folder that holds files of these rights: who may read them may enter it.
fn folder_mode(mode: u32) -> u32 {
    mode | (mode & 0o444) >> 2
}

/// A folder whose puts and removals are durable when they return. Everything blocks.
#[derive(Debug)]
pub(super) struct DurableFiles {
    root: PathBuf,
    /// Rights of the files that are made in it.
    mode: u32,
    files: Arc<dyn Files>,
    /// Folders whose entries this process has synced.
    synced: Mutex<HashSet<PathBuf>>,
    /// Folders in which entries of others were found and not yet synced.
    found: Mutex<BTreeSet<PathBuf>>,
    /// Held while those are synced: nobody may go on before that is done.
    settling: Mutex<()>,
}

impl DurableFiles {
    /// A folder, created if it is absent, whose files get these rights.
    pub(super) fn open(root: &Path, files: Arc<dyn Files>, mode: u32) -> io::Result<Self> {
        let exists = files.is_dir(root)?;
        if !exists {
            ensure_dir(files.as_ref(), root, folder_mode(mode)).map_err(|e| e.source)?;
        }
        let root = root.canonicalize()?;
        let synced = (!exists).then(|| root.clone()).into_iter().collect();
        Ok(Self {
            root,
            mode,
            files,
            synced: Mutex::new(synced),
            found: Mutex::default(),
            settling: Mutex::default(),
        })
    }

    /// Rights of the files that are made in it.
    pub(super) fn mode(&self) -> u32 {
        self.mode
    }

    /// Where the folder is.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Notes that entries of others were found in a folder.
    pub(super) fn note_found(&self, dir: PathBuf) {
        self.found.lock().insert(dir);
    }

    /// Makes durable what others were found to have made.
    pub(super) fn settle(&self) -> io::Result<()> {
        let _guard = self.settling.lock();
        let dirs = std::mem::take(&mut *self.found.lock());
        let mut left = dirs.iter();
        while let Some(dir) = left.next() {
            match self.files.sync_dir(dir, SyncPoint::Found) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    let mut found = self.found.lock();
                    found.insert(dir.clone());
                    found.extend(left.cloned());
                    return Err(e);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes an object, a file of these rights; with [`PutMode::Create`] fails if there is one of
    /// that name.
    pub(super) fn put(
        &self,
        path: &Path,
        parts: &[Bytes],
        mode: &PutMode,
        rights: u32,
    ) -> io::Result<()> {
        let dir = path.parent().unwrap_or(path);
        self.ensure_dir(dir)?;
        self.settle()?;
        let files = self.files.as_ref();
        let staged = staged(path);
        let placed = (|| {
            let mut file = files.create(&staged, rights)?;
            let mut parts: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
            file.write_at(0, &mut parts)?;
            file.sync(SyncPoint::Object)?;
            match mode {
                PutMode::Create => files.link(&staged, path),
                _ => files.rename(&staged, path),
            }
        })();
        if placed.is_err() || matches!(mode, PutMode::Create) {
            // The second name of a linked file, or what is left of a failed write: both are
            // garbage, and a file that can't be removed does no harm.
            files.remove(&staged).ok();
        }
        placed?;
        files.sync_dir(dir, SyncPoint::ObjectEntry)
    }

    /// Removes objects, in order. Fails at the first that can't be removed; those before it are
    /// removed for good.
    pub(super) fn remove(&self, paths: &[PathBuf]) -> Result<(), (PathBuf, io::Error)> {
        let mut dirs = BTreeSet::new();
        let mut removed = Ok(());
        for path in paths {
            if let Err(e) = self.files.remove(path) {
                removed = Err((path.clone(), e));
                break;
            }
            dirs.extend(path.parent());
        }
        for dir in dirs {
            let synced = self.files.sync_dir(dir, SyncPoint::Removal);
            synced.map_err(|e| (dir.to_path_buf(), e))?;
        }
        removed
    }

    /// Makes a folder of this one, and those above it, durably. Also one that is there already is
    /// synced once: its maker may have died before it came to that.
    fn ensure_dir(&self, dir: &Path) -> io::Result<()> {
        let files = self.files.as_ref();
        if self.synced.lock().contains(dir) && files.is_dir(dir)? {
            return Ok(());
        }
        let parent = match dir.parent() {
            Some(parent) if dir != self.root => {
                self.ensure_dir(parent)?;
                parent
            }
            Some(parent) => parent,
            None => return Ok(()),
        };
        files.create_dir(dir, folder_mode(self.mode))?;
        match dir == self.root {
            true => sync_if_readable(files, parent)?,
            false => files.sync_dir(parent, SyncPoint::Directory)?,
        }
        self.synced.lock().insert(dir.to_path_buf());
        Ok(())
    }
}

/// Makes the entries of a folder above the storage durable. Who may not read it did not make the
/// storage in it either.
fn sync_if_readable(files: &dyn Files, dir: &Path) -> io::Result<()> {
    match files.sync_dir(dir, SyncPoint::Directory) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

/// A name beside `path` that the inner store's listings leave out (they skip `#` and digits).
fn staged(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("#{}", Ids::default().fresh().as_u128()));
    name.into()
}
