//! The write-ahead log of one topic: what an acknowledgement with `ack = "wal"` rests on.
//!
//! Owns the segment files of one topic: appending groups of records, rolling and cutting segments,
//! and giving every record back after a crash. It does not know what a payload holds, which
//! offsets have landed (the caller cuts), or who may write (the caller holds a [`WalLock`]).
//! Everything is synchronous; the caller gives it a thread of its own.
//!
//! # Layout on disk
//!
//! ```text
//! <root>/LOCK                            held by the daemon that owns the root
//! <root>/ID                              by which the catalogue knows whose a partition is
//! <root>/<topic>/{start:020}.wal         one segment; `start` is its first offset
//! <root>/<topic>/SYNCED                  how far it was synced: see `wal/synced.rs`
//! <root>/<topic>/{number:020}.keys       what must outlive segments: see `wal/keys.rs`
//!
//! segment   | magic 8 "ANBRWAL1" | version u32 | start u64 | number u64 | WAL's id 16 |
//!           | bytes of topic u16 | topic | crc u32 |  frame  |  frame  | ...
//!             number: one more than that of the segment before it
//!             crc:    CRC-32C of all before it
//!             version 1 has neither number nor id nor topic
//!
//! frame     | len u32 | back u32 | first u64 | end u64 | payload crc u32 | crc u32 | payload |
//!             len:  bytes of payload, at most 1 GiB
//!             back: bytes from the first frame of this frame's group to this frame
//!             crc:  CRC-32C of the segment's start, the frame's position in the file (both u64,
//!                   not stored) and the 28 bytes before it
//! ```
//!
//! All integers are little-endian. A frame's checksum counts its place, so neither a frame that
//! travels inside a payload nor what a reused disk block still holds passes for a record.
//!
//! # Torn or damaged
//!
//! A group is written at once and synced before the next one is begun, so a crash can spoil only
//! the last group of the last segment; but the disk may keep any of that group's pages and lose
//! others. Hence `back`: a bad frame is a *torn tail* when no frame of a *later* group follows it,
//! and is then cut off with all that follows. If one does follow, the bad frame had been
//! acknowledged; that, and anything wrong elsewhere, is [`WalError::Corrupt`], as is an end below
//! what `SYNCED` notes. Only where the power was lost, and the note with it, damage done to the
//! very last group can't be told from a torn write.

mod append;
mod claim;
mod error;
mod files;
mod frame;
mod identity;
mod keys;
mod lock;
mod replay;
mod segments;
mod synced;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_shared::files::{Files, OpenFile, SyncPoint};
use anabranch_shared::metrics::wait_times;
use bytes::Bytes;
use prometheus_client::metrics::histogram::Histogram;

pub use claim::{Claim, check_claim};
pub use error::{FullCause, WalError};
pub use frame::MAX_GROUP_BYTES;
pub use identity::{found_wal_id, wal_id};
pub use keys::KeyLog;
pub use lock::WalLock;

use files::{ensure_dir, topic_dir};
use frame::SegmentHeader;
use identity::Owner;
use segments::{create_segment, reopen_last};
use synced::Synced;

/// A range of offsets and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The first offset that the record covers; equals `end` of the record before it.
    pub first: u64,
    /// The offset after the last one that the record covers; more than `first`.
    pub end: u64,
    /// What the caller stored. A replayed payload keeps its whole segment's bytes in memory.
    pub payload: Bytes,
}

/// Sizes of a WAL, and where a new one starts.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// Size in bytes past which a group goes to a new segment; a larger group gets its own.
    pub segment_bytes: u64,
    /// Bytes on disk that the WAL may reach; appends past it are refused with [`WalError::Full`].
    pub max_bytes: u64,
    /// The offset at which a WAL without any segment starts; ignored when there are segments.
    pub start: u64,
    /// Where the syncs of groups are timed.
    pub sync_times: Histogram,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            max_bytes: 4 << 30,
            start: 0,
            sync_times: wait_times(),
        }
    }
}

/// What a WAL holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalExtent {
    /// How many segments there are.
    pub segments: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// The first offset kept.
    pub start: u64,
    /// The offset after the last one.
    pub end: u64,
}

/// The write-ahead log of one topic.
///
/// # Invariants
///
/// - Each segment starts where the one before it ends, `sealed` oldest first, then `active`.
/// - Every byte of `sealed`, and of `active` below its `bytes`, has been synced, and so has
///   every segment's directory entry; nothing is written while that isn't so.
/// - `active` has no records exactly if its `start` equals `next`.
#[derive(Debug)]
pub struct Wal {
    dir: PathBuf,
    files: Arc<dyn Files>,
    options: WalOptions,
    owner: Owner,
    synced: Synced,
    sealed: VecDeque<Sealed>,
    active: Active,
    next: u64,
    truncated_bytes: u64,
    condition: Condition,
    /// Frame headers of the group being written, kept for its capacity.
    headers: Vec<u8>,
}

#[derive(Debug)]
struct Sealed {
    path: PathBuf,
    start: u64,
    end: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Active {
    path: PathBuf,
    start: u64,
    sequence: u64,
    bytes: u64,
    /// Open while something is appended now and then: see [`Wal::close_files`].
    file: Option<Box<dyn OpenFile>>,
}

impl Active {
    /// Its file, opened where it was closed. Where that fails nothing of the segment has changed.
    fn file(&mut self, files: &dyn Files) -> Result<&mut Box<dyn OpenFile>, WalError> {
        let open = match self.file.take() {
            Some(open) => open,
            None => files
                .open(&self.path)
                .map_err(|source| WalError::io(&self.path, "open", source))?,
        };
        Ok(self.file.insert(open))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Ready,
    /// The last append was refused for lack of room: the next cut frees whatever it can.
    Full,
    /// A write or sync failed: what is on disk is unknown until the WAL is opened again.
    Poisoned,
}

impl Wal {
    /// Opens the WAL of `topic` below the directory `root`, making both if absent, and returns it
    /// with all its records in order.
    ///
    /// A torn tail is cut off (see [`Wal::truncated_bytes`]). All records returned are durable,
    /// also those that a killed process wrote and never synced. After a power loss records
    /// below a former cut may be among them. The caller holds the [`WalLock`] of `root`.
    ///
    /// # Errors
    ///
    /// [`WalError::Corrupt`] if an acknowledged record may be missing or altered;
    /// [`WalError::Io`] if the file system refuses.
    pub fn open(
        root: &Path,
        topic: &str,
        options: WalOptions,
        files: Arc<dyn Files>,
    ) -> Result<(Self, Vec<Record>), WalError> {
        let mut records = Vec::new();
        let wal = Self::open_each(root, topic, options, files, &mut |record| {
            records.push(record)
        })?;
        Ok((wal, records))
    }

    /// As [`Wal::open`], but hands the records to `each` one by one, so that a long WAL need not
    /// fit in memory. What `each` got counts only if the call succeeds.
    ///
    /// # Errors
    ///
    /// Those of [`Wal::open`].
    pub fn open_each(
        root: &Path,
        topic: &str,
        options: WalOptions,
        files: Arc<dyn Files>,
        each: &mut dyn FnMut(Record),
    ) -> Result<Self, WalError> {
        let dir = topic_dir(root, topic)?;
        ensure_dir(files.as_ref(), &dir)?;
        // A process that died may have left entries made or removed but not synced; what the
        // listing shows must hold before anything builds on it.
        files
            .sync_dir(&dir, SyncPoint::Listing)
            .map_err(|source| WalError::io(&dir, "sync directory", source))?;
        let owner = Owner::read(root, topic, files.as_ref())?;
        let mut segments = replay::replay(files.as_ref(), &dir, &owner, each)?;
        let (active, next, truncated_bytes) = match segments.pop() {
            None => {
                let header = SegmentHeader::new(options.start, 0, &owner);
                let active = create_segment(files.as_ref(), &dir, options.start, &header).map_err(
                    |failure| WalError::io(&failure.path, failure.operation, failure.source),
                )?;
                (active, options.start, 0)
            }
            Some(last) => {
                if last.whole_bytes == 0 && segments.is_empty() && last.start != options.start {
                    return Err(WalError::corrupt(
                        &last.path,
                        0,
                        "the only segment has no header, so records before it may be missing",
                    ));
                }
                let next = last.end;
                let torn_bytes = last.torn_bytes;
                (reopen_last(files.as_ref(), last)?, next, torn_bytes)
            }
        };
        let sealed = segments
            .into_iter()
            .map(|segment| Sealed {
                path: segment.path,
                start: segment.start,
                end: segment.end,
                bytes: segment.whole_bytes,
            })
            .collect();
        let mut synced = Synced::open(files.as_ref(), &dir, &owner);
        synced.note(files.as_ref(), next);
        Ok(Self {
            dir,
            files,
            options,
            owner,
            synced,
            sealed,
            active,
            next,
            truncated_bytes,
            condition: Condition::Ready,
            headers: Vec::new(),
        })
    }

    /// Reads the records of a WAL that another process may be appending to and cutting.
    ///
    /// Changes nothing. A torn tail is left out; a group that is written but not yet synced may
    /// be included. A topic that has no WAL has no records.
    ///
    /// # Errors
    ///
    /// Those of [`Wal::open`]; damage is reported only once it is seen repeatedly, because a file
    /// read while it is rolled or cut can look damaged.
    pub fn read_only(root: &Path, topic: &str, files: &dyn Files) -> Result<Vec<Record>, WalError> {
        let owner = Owner::read(root, topic, files)?;
        replay::read_only(files, &topic_dir(root, topic)?, &owner)
    }

    /// Reads all of a WAL that another process may be appending to and cutting, and says what it
    /// holds.
    ///
    /// # Errors
    ///
    /// Those of [`Wal::read_only`].
    pub fn look(root: &Path, topic: &str, files: &dyn Files) -> Result<WalExtent, WalError> {
        let owner = Owner::read(root, topic, files)?;
        replay::look(files, &topic_dir(root, topic)?, &owner)
    }

    /// The offset that the next record must start at.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The first offset kept; equals [`Wal::next`] if no record is.
    pub fn start(&self) -> u64 {
        self.sealed
            .front()
            .map_or(self.active.start, |oldest| oldest.start)
    }

    /// Size on disk in bytes, headers included.
    pub fn bytes(&self) -> u64 {
        self.sealed.iter().map(|segment| segment.bytes).sum::<u64>() + self.active.bytes
    }

    /// Bytes of a torn tail that opening cut off; 0 after a clean stop.
    pub fn truncated_bytes(&self) -> u64 {
        self.truncated_bytes
    }

    /// Closes the WAL's files until something is appended again: all that they hold is synced. So a
    /// daemon of many topics needs few descriptors.
    pub fn close_files(&mut self) {
        self.active.file = None;
        self.synced.close();
    }

    /// Whether files of the WAL are open.
    pub fn has_open_files(&self) -> bool {
        self.active.file.is_some() || self.synced.is_open()
    }

    /// Whether a write or a sync failed, so that nothing can be appended until the WAL is opened
    /// again.
    pub fn is_poisoned(&self) -> bool {
        self.condition == Condition::Poisoned
    }

    fn check_usable(&self) -> Result<(), WalError> {
        match self.condition {
            Condition::Poisoned => Err(WalError::Poisoned {
                path: self.dir.clone(),
            }),
            Condition::Ready | Condition::Full => Ok(()),
        }
    }

    fn poison(&mut self, path: PathBuf, operation: &'static str, source: io::Error) -> WalError {
        self.condition = Condition::Poisoned;
        WalError::Io {
            path,
            operation,
            source,
        }
    }

    fn full(&mut self, cause: FullCause) -> WalError {
        self.condition = Condition::Full;
        WalError::Full {
            path: self.dir.clone(),
            used_bytes: self.bytes(),
            limit_bytes: self.options.max_bytes,
            cause,
        }
    }
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
