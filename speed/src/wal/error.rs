//! What can go wrong with a WAL, grouped by what the caller or the operator does next.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a WAL could not be opened, appended to, cut or read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WalError {
    /// An acknowledged record may be missing or altered. Nothing was changed; a person decides
    /// whether to restore the file or to give up what it held.
    #[error(
        "`{}` is damaged at byte {position}: {detail}; restore the file from a copy, or move the \
         whole WAL folder away to give up the records that have not landed",
        path.display()
    )]
    Corrupt {
        /// The segment file, or the directory if a segment is missing.
        path: PathBuf,
        /// Where in the file, in bytes from its start.
        position: u64,
        /// What is wrong there.
        detail: String,
    },
    /// A write or sync failed before, so what is on disk is unknown. Open the WAL again.
    #[error(
        "`{}` takes no more records because an earlier write or sync failed; open it again after \
         checking the disk",
        path.display()
    )]
    Poisoned {
        /// The WAL's directory.
        path: PathBuf,
    },
    /// No room for the group; nothing of it was kept. Try again after a cut.
    #[error(
        "`{}` is full ({cause}; {used_bytes} bytes used, at most {limit_bytes}); wait for records \
         to land, or make room",
        path.display()
    )]
    Full {
        /// The WAL's directory.
        path: PathBuf,
        /// Bytes that the WAL has on disk.
        used_bytes: u64,
        /// Bytes that the WAL may have on disk.
        limit_bytes: u64,
        /// Which room ran out.
        cause: FullCause,
    },
    /// The record doesn't start where the one before it ends, or covers no offset: a mistake of
    /// the caller.
    #[error("record [{first}, {end}) can't follow in `{}`, whose next offset is {next}", path.display())]
    NotNext {
        /// The WAL's directory.
        path: PathBuf,
        /// The offset at which the record had to start.
        next: u64,
        /// The offset at which it starts.
        first: u64,
        /// The offset at which it ends.
        end: u64,
    },
    /// The group can never fit, however much is cut. Append it in smaller groups.
    #[error(
        "a group of {group_bytes} bytes never fits in `{}` (at most {limit_bytes}); send less at \
         once",
        path.display()
    )]
    TooLarge {
        /// The WAL's directory.
        path: PathBuf,
        /// The group's bytes, frame headers included.
        group_bytes: u64,
        /// The most bytes that a group may have here.
        limit_bytes: u64,
    },
    /// The topic can't be the name of a directory.
    #[error("topic `{topic}` can't name a directory; use letters, digits and `_`")]
    InvalidTopic {
        /// The topic.
        topic: String,
    },
    /// Another process holds the root.
    #[error("`{}` is in use by another process; stop it or use another directory", path.display())]
    Locked {
        /// The root directory.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("could not {operation} `{}`", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was attempted, as a verb.
        operation: &'static str,
        /// What the file system said.
        source: io::Error,
    },
}

impl WalError {
    pub(super) fn io(path: &Path, operation: &'static str, source: io::Error) -> Self {
        Self::Io {
            path: path.to_path_buf(),
            operation,
            source,
        }
    }

    pub(super) fn corrupt(path: &Path, position: u64, detail: impl Into<String>) -> Self {
        Self::Corrupt {
            path: path.to_path_buf(),
            position,
            detail: detail.into(),
        }
    }
}

/// Which room ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullCause {
    /// The WAL's own limit.
    Limit,
    /// The disk, or the user's quota on it.
    Disk,
}

impl fmt::Display for FullCause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Limit => "`max_bytes` reached",
            Self::Disk => "no space left on the disk",
        })
    }
}
