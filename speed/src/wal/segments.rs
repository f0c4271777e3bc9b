//! The coming and going of segments: making, reopening, rolling and cutting them.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use super::files::FILE_MODE;
use super::frame::{SegmentHeader, segment_name};
use super::replay::Segment;
use super::{Active, Condition, Files, FullCause, Sealed, SyncPoint, Wal, WalError, is_no_space};

/// How much an active segment whose records are all cut must hold to be worth a new file, as a
/// fraction of the smaller of segment size and limit.
const WORTH_ROLLING_DIVISOR: u64 = 16;

impl Wal {
    /// Whether [`Wal::cut`] would remove a segment.
    pub fn would_cut(&self, below: u64) -> bool {
        self.sealed
            .front()
            .is_some_and(|oldest| oldest.end <= below)
            || self.would_roll(below)
    }

    /// Whether the active segment's records are all cut, and their bytes worth a new file.
    fn would_roll(&self, below: u64) -> bool {
        let has_records = self.active.start < self.next;
        let worth = self.options.segment_bytes.min(self.options.max_bytes) / WORTH_ROLLING_DIVISOR;
        // A full WAL must be freed however little its active segment holds, or it stays full.
        let frees = self.condition == Condition::Full || self.active.bytes >= worth;
        has_records && self.next <= below && frees
    }

    /// Removes the segments whose records all end at or below `below`; the position stays, also
    /// if no record does. The active segment is rolled first if that frees enough to be worth it.
    ///
    /// # Errors
    ///
    /// [`WalError::Io`] or [`WalError::Full`] (no space for a new segment's header); segments
    /// removed so far stay removed. [`WalError::Poisoned`] as for [`Wal::append`].
    pub fn cut(&mut self, below: u64) -> Result<(), WalError> {
        self.check_usable()?;
        self.remove_sealed(below)?;
        if self.would_roll(below) {
            self.roll()?;
            fail::fail_point!("wal-after-roll");
            self.remove_sealed(below)?;
        }
        Ok(())
    }

    /// Seals the active segment, which must have records, and starts the next one.
    pub(super) fn roll(&mut self) -> Result<(), WalError> {
        debug_assert!(
            self.active.start < self.next,
            "a segment without records keeps its name"
        );
        let header = SegmentHeader::new(self.next, self.active.sequence + 1, &self.owner);
        let active = match create_segment(self.files.as_ref(), &self.dir, self.next, &header) {
            Ok(active) => active,
            Err(failure) => return Err(self.roll_failed(failure)),
        };
        let sealed = std::mem::replace(&mut self.active, active);
        self.sealed.push_back(Sealed {
            path: sealed.path,
            start: sealed.start,
            end: self.next,
            bytes: sealed.bytes,
        });
        self.condition = Condition::Ready;
        Ok(())
    }

    fn roll_failed(&mut self, failure: CreateFailure) -> WalError {
        match failure.left {
            // Nothing was made: the next append may try again.
            Left::Nothing if is_no_space(&failure.source) => self.full(FullCause::Disk),
            Left::Nothing => WalError::io(&failure.path, failure.operation, failure.source),
            // The file must be gone for good, because the active segment grows past its name.
            Left::Unwritten if is_no_space(&failure.source) => match self.remove(&failure.path) {
                Ok(()) => self.full(FullCause::Disk),
                Err(error) => {
                    self.condition = Condition::Poisoned;
                    error
                }
            },
            Left::Unwritten | Left::Unsynced => {
                self.poison(failure.path, failure.operation, failure.source)
            }
        }
    }

    fn remove_sealed(&mut self, below: u64) -> Result<(), WalError> {
        while let Some(oldest) = self.sealed.front().filter(|oldest| oldest.end <= below) {
            let path = oldest.path.clone();
            // Synced one by one: of several removals a power loss may undo any, and the older
            // segment coming back without the newer one would be a gap.
            self.remove(&path)?;
            self.sealed.pop_front();
            fail::fail_point!("wal-in-cut");
        }
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> Result<(), WalError> {
        match self.files.discard(path) {
            // Somebody has removed it by hand; all that it held has landed.
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), "a segment of the WAL was gone before it was removed");
            }
            removed => removed.map_err(|source| WalError::io(path, "remove", source))?,
        }
        self.files
            .sync_dir(&self.dir, SyncPoint::Removal)
            .map_err(|source| self.poison(self.dir.clone(), "sync directory", source))
    }
}

/// What a failed attempt to make a segment leaves in the directory.
enum Left {
    Nothing,
    Unwritten,
    Unsynced,
}

pub(super) struct CreateFailure {
    left: Left,
    pub(super) path: PathBuf,
    pub(super) operation: &'static str,
    pub(super) source: io::Error,
}

/// Makes a segment whose header and directory entry are durable on return, so that records in it
/// count as soon as they are synced, and the position as soon as older segments are removed.
pub(super) fn create_segment(
    files: &dyn Files,
    dir: &Path,
    start: u64,
    header: &SegmentHeader,
) -> Result<Active, CreateFailure> {
    let path = dir.join(segment_name(start));
    let failure = |left, path: &Path, operation| {
        let path = path.to_path_buf();
        move |source| CreateFailure {
            left,
            path,
            operation,
            source,
        }
    };
    let mut file =
        files
            .create(&path, FILE_MODE)
            .map_err(failure(Left::Nothing, &path, "create"))?;
    file.write_at(0, &mut [IoSlice::new(&header.bytes)])
        .map_err(failure(Left::Unwritten, &path, "write header"))?;
    file.sync(SyncPoint::SegmentHeader)
        .map_err(failure(Left::Unsynced, &path, "sync"))?;
    files
        .sync_dir(dir, SyncPoint::SegmentEntry)
        .map_err(failure(Left::Unsynced, dir, "sync directory"))?;
    Ok(Active {
        path,
        start,
        sequence: header.sequence,
        bytes: header.bytes.len() as u64,
        file: Some(file),
    })
}

/// Opens the last segment for appending, cuts its torn tail and makes durable what is left.
///
/// The last group is written again before the sync: after a failed sync the kernel may hold its
/// pages as clean though the disk never got them, and then a sync alone would do nothing.
pub(super) fn reopen_last(files: &dyn Files, last: Segment) -> Result<Active, WalError> {
    let Segment {
        path,
        header,
        start,
        whole_bytes,
        torn_bytes,
        last_group,
        ..
    } = last;
    let mut file = files
        .open(&path)
        .map_err(|source| WalError::io(&path, "open", source))?;
    if torn_bytes > 0 {
        file.truncate(whole_bytes)
            .map_err(|source| WalError::io(&path, "truncate", source))?;
    }
    let rewritten: &[u8] = if last_group.is_empty() {
        &header.bytes
    } else {
        &last_group
    };
    let bytes = whole_bytes.max(header.bytes.len() as u64);
    let position = if last_group.is_empty() {
        0
    } else {
        whole_bytes - last_group.len() as u64
    };
    file.write_at(position, &mut [IoSlice::new(rewritten)])
        .map_err(|source| WalError::io(&path, "write", source))?;
    file.sync(SyncPoint::Tail)
        .map_err(|source| WalError::io(&path, "sync", source))?;
    Ok(Active {
        path,
        start,
        sequence: header.sequence,
        bytes,
        file: Some(file),
    })
}
