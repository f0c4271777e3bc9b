//! Where tests keep their files, and where they find what is not part of the repository.

use std::path::{Path, PathBuf};

use anabranch_shared::Storage;
use tempfile::TempDir;

use crate::skip::skipped;

/// A folder of its own, in memory where the system has such a place: durability is tested
/// elsewhere, and fsyncs on a real disk would take most of the time.
pub fn folder() -> anyhow::Result<TempDir> {
    let memory = Path::new("/dev/shm");
    Ok(match memory.is_dir() {
        true => tempfile::tempdir_in(memory)?,
        false => tempfile::tempdir()?,
    })
}

/// A storage in a folder of its own.
pub fn storage() -> anyhow::Result<(TempDir, Storage)> {
    let dir = folder()?;
    let storage = Storage::folder(dir.path())?;
    Ok((dir, storage))
}

/// The data that is shared between projects and not part of the repository; `None`, said aloud,
/// where it is absent. It lies in `../shared/data` from the repository, or where `ANABRANCH_SHARED_DATA` says.
pub fn shared_data(name: &str) -> Option<PathBuf> {
    let beside = match std::env::var_os("ANABRANCH_SHARED_DATA") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
    };
    let beside = beside.join(name);
    match beside.exists() {
        true => Some(beside),
        false => {
            skipped(format!("the data `{name}` is not beside the repository"));
            None
        }
    }
}
