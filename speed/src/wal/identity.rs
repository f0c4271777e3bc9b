//! The id of a WAL root, by which the catalogue knows whose a partition is.

use std::io::{self, IoSlice};
use std::path::Path;

use uuid::Uuid;

use super::files::FILE_MODE;
use super::{Files, SyncPoint, WalError};

const ID_FILE: &str = "ID";

/// Whose segments are: the WAL's id, nil where the root has none, and the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) id: Uuid,
    pub(super) topic: String,
}

impl Owner {
    /// The owner of the segments of `topic` below `root`.
    pub(super) fn read(root: &Path, topic: &str, files: &dyn Files) -> Result<Self, WalError> {
        let path = root.join(ID_FILE);
        let id = match files.read(&path) {
            Ok(bytes) => parse(&bytes)
                .ok_or_else(|| WalError::corrupt(&path, 0, "the id of this WAL is damaged"))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Uuid::nil(),
            Err(source) => return Err(WalError::io(&path, "read", source)),
        };
        Ok(Self {
            id,
            topic: topic.to_owned(),
        })
    }

    /// The checksum of id and topic.
    pub(super) fn crc(&self) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(self.id.as_bytes()), self.topic.as_bytes())
    }
}

/// The id of `root`; `None` where there is no WAL. Changes nothing.
///
/// # Errors
///
/// [`WalError::Corrupt`] if the id is damaged, or missing where there are segments;
/// [`WalError::Io`] if the file system refuses.
pub fn found_wal_id(root: &Path, files: &dyn Files) -> Result<Option<String>, WalError> {
    let path = root.join(ID_FILE);
    let bytes = match files.read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let is_wal = files
                .is_dir(root)
                .map_err(|source| WalError::io(root, "look up", source))?;
            return match is_wal && has_segments(root, files)? {
                true => Err(WalError::corrupt(&path, 0, "the id of this WAL is missing")),
                false => Ok(None),
            };
        }
        Err(source) => return Err(WalError::io(&path, "read", source)),
    };
    match parse(&bytes) {
        Some(id) => Ok(Some(id.to_string())),
        // Torn, so nobody was told of it.
        None if !has_segments(root, files)? => Ok(None),
        None => Err(WalError::corrupt(&path, 0, "the id of this WAL is damaged")),
    }
}

/// The id of `root`, made by `fresh` where there is none; durable on return. The caller holds the
/// [`super::WalLock`].
///
/// # Errors
///
/// [`WalError::Corrupt`] if the id is missing or damaged and there are segments: under another id
/// their records would be landed once more. [`WalError::Io`] if the file system refuses.
pub fn wal_id(
    root: &Path,
    files: &dyn Files,
    fresh: impl FnOnce() -> String,
) -> Result<String, WalError> {
    let path = root.join(ID_FILE);
    let (found, exists) = match files.read(&path) {
        Ok(bytes) => (parse(&bytes), true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => (None, false),
        Err(source) => return Err(WalError::io(&path, "read", source)),
    };
    if found.is_none() && has_segments(root, files)? {
        return Err(WalError::corrupt(
            &path,
            0,
            "the id of this WAL is missing or damaged, and it holds records; restore the file, or start with an empty folder (then what was not landed is lost)",
        ));
    }
    let mut file = match exists {
        true => files
            .open(&path)
            .map_err(|source| WalError::io(&path, "open", source))?,
        false => files
            .create(&path, FILE_MODE)
            .map_err(|source| WalError::io(&path, "create", source))?,
    };
    let id = match found {
        Some(id) => id.to_string(),
        None => {
            // Torn, so nobody was told of it.
            file.truncate(0)
                .map_err(|source| WalError::io(&path, "truncate", source))?;
            fresh()
        }
    };
    // Also what is there already is written and synced: who made it may have died before that.
    file.write_at(0, &mut [IoSlice::new(id.as_bytes())])
        .map_err(|source| WalError::io(&path, "write", source))?;
    file.sync(SyncPoint::Identity)
        .map_err(|source| WalError::io(&path, "sync", source))?;
    files
        .sync_dir(root, SyncPoint::IdentityEntry)
        .map_err(|source| WalError::io(root, "sync directory", source))?;
    Ok(id)
}

/// An id that is whole: a UUID.
fn parse(bytes: &[u8]) -> Option<Uuid> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    let id = Uuid::try_parse(text).ok()?;
    (id.to_string() == text).then_some(id)
}

fn has_segments(root: &Path, files: &dyn Files) -> Result<bool, WalError> {
    let list = |dir: &Path| {
        files
            .list(dir)
            .map_err(|source| WalError::io(dir, "list", source))
    };
    for name in list(root)? {
        let dir = root.join(name);
        let is_dir = files
            .is_dir(&dir)
            .map_err(|source| WalError::io(&dir, "look up", source))?;
        if is_dir && list(&dir)?.iter().any(|name| name.ends_with(".wal")) {
            return Ok(true);
        }
    }
    Ok(false)
}
