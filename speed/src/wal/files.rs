//! Where the files of a WAL lie, and whose they are.

use std::path::{Component, Path, PathBuf};

use anabranch_shared::files::{self, Files};

use super::WalError;

/// Rights of the files and folders that are made: facts that have not landed are their owner's.
pub(super) const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

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
pub(super) fn ensure_dir(files: &dyn Files, path: &Path) -> Result<(), WalError> {
    files::ensure_dir(files, path, FOLDER_MODE)
        .map_err(|e| WalError::io(&e.path, e.doing, e.source))
}
