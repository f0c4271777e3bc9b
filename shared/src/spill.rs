//! States of deltas that are on local disk instead of in memory: the folder that holds them, its
//! bound, and how a query reads them. A file is a cache of the log, so nothing of it is fsynced.
//!
//! A file is Parquet in the form of a master view's (states at rest, sorted by keys), so that it
//! is read, and left out by filters on keys, as those are. It lives as long as anybody holds its
//! [`SpilledStates`]: a delta, or a query that has pinned them.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use datafusion::common::utils::memory::get_record_batch_memory_size;

use crate::table::AddFile;
use crate::table::parquet::FileEncoder;
use crate::view::{SortedStates, View};
use crate::{Error, Result};

/// How the names of files of spilled states end.
const EXTENSION: &str = "parquet";

/// Rights of the files and of their folder: they are read by the process alone that writes them.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Some of a delta's states.
#[derive(Clone, Debug)]
pub enum DeltaPart {
    /// In memory.
    Memory(RecordBatch),
    /// In a file.
    Spilled(Arc<SpilledStates>),
}

impl From<RecordBatch> for DeltaPart {
    fn from(states: RecordBatch) -> Self {
        Self::Memory(states)
    }
}

impl DeltaPart {
    /// How many states.
    pub fn rows(&self) -> u64 {
        match self {
            Self::Memory(states) => states.num_rows() as u64,
            Self::Spilled(file) => file.rows,
        }
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> usize {
        match self {
            Self::Memory(states) => get_record_batch_memory_size(states),
            Self::Spilled(_) => 0,
        }
    }

    /// Bytes of disk.
    pub fn spilled_bytes(&self) -> u64 {
        match self {
            Self::Memory(_) => 0,
            Self::Spilled(file) => file.size_bytes(),
        }
    }
}

/// The parts in memory, and those on disk.
pub fn split_parts(parts: &[DeltaPart]) -> (Vec<RecordBatch>, Vec<Arc<SpilledStates>>) {
    let (mut memory, mut spilled) = (Vec::new(), Vec::new());
    for part in parts {
        match part {
            DeltaPart::Memory(states) => memory.push(states.clone()),
            DeltaPart::Spilled(file) => spilled.push(file.clone()),
        }
    }
    (memory, spilled)
}

/// States in a file, which is removed when this is dropped.
#[derive(Debug)]
pub struct SpilledStates {
    path: PathBuf,
    add: Arc<AddFile>,
    rows: u64,
    folder: Arc<Folder>,
}

/// The folder of spilled states; removed once nobody needs it.
#[derive(Debug)]
struct Folder {
    dir: PathBuf,
    /// Bytes that its files take.
    used: AtomicU64,
}

impl Drop for Folder {
    fn drop(&mut self) {
        // It may never have been made.
        std::fs::remove_dir(&self.dir).ok();
    }
}

impl Drop for SpilledStates {
    fn drop(&mut self) {
        remove(&self.path);
        self.folder
            .used
            .fetch_sub(self.size_bytes(), Ordering::Relaxed);
    }
}

impl SpilledStates {
    /// The file's size in bytes.
    pub fn size_bytes(&self) -> u64 {
        u64::try_from(self.add.size).unwrap_or(0)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is known of the file's content.
    pub(crate) fn add(&self) -> &Arc<AddFile> {
        &self.add
    }
}

/// A folder of spilled states.
///
/// Invariant: its files take no more than `bound_bytes`, and `folder.used` is what they take.
#[derive(Debug)]
pub struct Spill {
    folder: Arc<Folder>,
    bound_bytes: u64,
    next: AtomicU64,
}

impl Spill {
    /// Takes a folder, and empties it: what is in it was left by a process that did not end well.
    /// It is made when it is first needed. With a bound of 0 nothing is ever spilled.
    ///
    /// # Errors
    /// `Io` where files can't be removed.
    pub fn open(dir: &Path, bound_bytes: u64) -> Result<Self> {
        empty(dir)?;
        let folder = Folder {
            // The engine takes absolute paths only.
            dir: std::path::absolute(dir).map_err(|e| Error::io(dir, e))?,
            used: AtomicU64::new(0),
        };
        Ok(Self {
            folder: Arc::new(folder),
            bound_bytes,
            next: AtomicU64::new(0),
        })
    }

    /// Removes all files, because nobody will read them any more.
    ///
    /// # Errors
    /// `Io` where files can't be removed.
    pub fn clear(&self) -> Result<()> {
        empty(&self.folder.dir)
    }

    /// Bytes that files may take.
    pub fn bound_bytes(&self) -> u64 {
        self.bound_bytes
    }

    /// Bytes that files take.
    pub fn used_bytes(&self) -> u64 {
        self.folder.used.load(Ordering::Relaxed)
    }

    /// Writes states of a view. Blocks: call it from a thread that may compute.
    ///
    /// # Errors
    /// `NoRoom` where the bound is reached or the disk refuses: nothing is left of the file then.
    pub fn write(&self, view: &View, states: RecordBatch) -> Result<Arc<SpilledStates>> {
        if self.used_bytes() >= self.bound_bytes {
            return Err(self.full());
        }
        let codec = view.codec();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{number:08}.{EXTENSION}");
        let mut file = FileEncoder::new(name.clone(), codec.storage_schema(), codec.keys())?;
        for sorted in SortedStates::new(states, codec.keys())? {
            file.write(&codec.encode(&sorted?)?)?;
        }
        let rows = file.rows() as u64;
        let encoded = file.finish()?;
        let bytes = encoded.body.len() as u64;
        self.take(bytes)?;
        let dir = &self.folder.dir;
        let path = dir.join(name);
        let written = (|| {
            let mut folders = DirBuilder::new();
            folders.recursive(true).mode(FOLDER_MODE).create(dir)?;
            let mut options = OpenOptions::new();
            options
                .write(true)
                .create(true)
                .truncate(true)
                .mode(FILE_MODE);
            options.open(&path)?.write_all(&encoded.body)
        })();
        if let Err(e) = written {
            self.folder.used.fetch_sub(bytes, Ordering::Relaxed);
            remove(&path);
            return Err(Error::NoRoom(format!(
                "deltas can't be spilled to `{}`: {e}; make room on that disk",
                dir.display()
            )));
        }
        Ok(Arc::new(SpilledStates {
            path,
            add: Arc::new(encoded.add),
            rows,
            folder: self.folder.clone(),
        }))
    }

    fn take(&self, bytes: u64) -> Result<()> {
        let fits = |used: u64| {
            let after = used.checked_add(bytes)?;
            (after <= self.bound_bytes).then_some(after)
        };
        let order = Ordering::Relaxed;
        let taken = self.folder.used.fetch_update(order, order, fits);
        taken.map(|_| ()).map_err(|_| self.full())
    }

    fn full(&self) -> Error {
        Error::NoRoom(match self.bound_bytes {
            0 => "deltas are not spilled to disk (`spill` in `[daemon]`)".to_owned(),
            bound => format!(
                "{} MB of deltas are spilled to disk, the bound is {} MB (`spill` in `[daemon]`)",
                self.used_bytes() / 1_000_000,
                bound / 1_000_000
            ),
        })
    }
}

/// Removes the files of spilled states from a folder, which may be a disk of its own.
fn empty(dir: &Path) -> Result<()> {
    let found = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|e| Error::io(dir, e))?,
    };
    for file in found {
        let path = file.map_err(|e| Error::io(dir, e))?.path();
        if path.extension().is_some_and(|e| e == EXTENSION) {
            std::fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
        }
    }
    Ok(())
}

/// Removes a file, if it is there.
fn remove(path: &Path) {
    if let Err(e) = std::fs::remove_file(path)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), error = %e, "a file of spilled states stays until the next start");
    }
}
