//! Appending: one group, one write, one sync; and what to do when the disk refuses.

use std::io::IoSlice;
use std::time::Instant;

use super::frame::{FRAME_HEADER_BYTES, FrameHeader, MAX_GROUP_BYTES, segment_header_bytes};
use super::{Condition, FullCause, Record, SyncPoint, Wal, WalError, is_no_space};

impl Wal {
    /// Appends `records` as one group, with one write and one sync. On success all are durable.
    ///
    /// # Errors
    ///
    /// [`WalError::Full`], [`WalError::NotNext`] and [`WalError::TooLarge`] leave nothing of the
    /// group behind and the WAL usable. After [`WalError::Io`] from a write or a sync the group may
    /// or may not be found by the next open, and every further call is [`WalError::Poisoned`].
    pub fn append(&mut self, records: &[Record]) -> Result<(), WalError> {
        self.check_usable()?;
        let Some(last) = records.last() else {
            return Ok(());
        };
        self.check_contiguous(records)?;
        self.make_room(group_bytes(records))?;
        let position = self.active.bytes;
        let written = self.write_group(records)?;
        self.active.bytes = position + written;
        self.next = last.end;
        self.synced.note(self.files.as_ref(), self.next);
        self.condition = Condition::Ready;
        Ok(())
    }

    fn check_contiguous(&self, records: &[Record]) -> Result<(), WalError> {
        let mut next = self.next;
        for record in records {
            if record.first != next || record.end <= record.first {
                return Err(WalError::NotNext {
                    path: self.dir.clone(),
                    next,
                    first: record.first,
                    end: record.end,
                });
            }
            next = record.end;
        }
        Ok(())
    }

    /// Refuses a group that doesn't fit in the WAL and rolls if it doesn't fit in the segment.
    fn make_room(&mut self, group_bytes: u64) -> Result<(), WalError> {
        let header_bytes = segment_header_bytes(&self.owner.topic) as u64;
        // An emptied WAL still holds a header; what doesn't fit beside it never will.
        let limit_bytes = MAX_GROUP_BYTES.min(self.options.max_bytes.saturating_sub(header_bytes));
        if group_bytes > limit_bytes {
            return Err(WalError::TooLarge {
                path: self.dir.clone(),
                group_bytes,
                limit_bytes,
            });
        }
        let has_records = self.active.start < self.next;
        let rolls = has_records && self.active.bytes + group_bytes > self.options.segment_bytes;
        let added_bytes = group_bytes + if rolls { header_bytes } else { 0 };
        if self.bytes() + added_bytes > self.options.max_bytes {
            return Err(self.full(FullCause::Limit));
        }
        if rolls { self.roll() } else { Ok(()) }
    }

    /// Writes and syncs one group at the end of the active segment; returns its bytes.
    fn write_group(&mut self, records: &[Record]) -> Result<u64, WalError> {
        let position = self.active.bytes;
        self.headers.clear();
        let mut back = 0_u64;
        for record in records {
            // `make_room` holds groups to `MAX_GROUP_BYTES`, so both fit.
            let header = FrameHeader {
                len: record.payload.len() as u32,
                back: back as u32,
                first: record.first,
                end: record.end,
                payload_crc: crc32c::crc32c(&record.payload),
            };
            self.headers
                .extend_from_slice(&header.encode(self.active.start, position + back));
            back += (FRAME_HEADER_BYTES + record.payload.len()) as u64;
        }
        let mut parts = Vec::with_capacity(records.len() * 2);
        for (header, record) in self.headers.chunks_exact(FRAME_HEADER_BYTES).zip(records) {
            parts.push(IoSlice::new(header));
            parts.push(IoSlice::new(&record.payload));
        }
        let file = self.active.file(self.files.as_ref())?;
        if let Err(source) = file.write_at(position, &mut parts) {
            return Err(if is_no_space(&source) {
                self.roll_back(position)
            } else {
                self.poison(self.active.path.clone(), "write", source)
            });
        }
        fail::fail_point!("wal-before-fsync");
        let begun = Instant::now();
        match file.sync(SyncPoint::Group) {
            Ok(()) => {
                let took = begun.elapsed().as_secs_f64();
                self.options.sync_times.observe(took);
                Ok(back)
            }
            Err(source) => Err(self.poison(self.active.path.clone(), "sync", source)),
        }
    }

    /// Takes a group that the disk had no space for off the active segment again.
    fn roll_back(&mut self, position: u64) -> WalError {
        let rolled_back = match self.active.file(self.files.as_ref()) {
            Ok(file) => file
                .truncate(position)
                .and_then(|()| file.sync(SyncPoint::RollBack)),
            Err(e) => {
                self.condition = Condition::Poisoned;
                return e;
            }
        };
        match rolled_back {
            Ok(()) => self.full(FullCause::Disk),
            Err(source) => self.poison(self.active.path.clone(), "truncate", source),
        }
    }
}

fn group_bytes(records: &[Record]) -> u64 {
    records
        .iter()
        .map(|record| (FRAME_HEADER_BYTES + record.payload.len()) as u64)
        .sum()
}
