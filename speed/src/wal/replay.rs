//! Reading a WAL back: from files to records, and telling a torn tail from damage.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::frame::{
    FRAME_HEADER_BYTES, FrameHeader, HeaderOutcome, NameOutcome, SegmentHeader,
    check_segment_header, parse_name, segment_name,
};
use super::identity::Owner;
use super::synced::synced_end;
use super::{Files, Record, WalError, WalExtent};

/// How often a reader beside a writer starts over when a segment vanishes or looks damaged.
const READ_ATTEMPTS: usize = 10;

/// A segment as found on disk, without its records.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    /// Its header, as it is stored or, where it is torn, as it was to be.
    pub(super) header: SegmentHeader,
    pub(super) start: u64,
    pub(super) end: u64,
    /// Bytes up to the end of the last whole frame; 0 if not even the header is whole.
    pub(super) whole_bytes: u64,
    /// Bytes of the torn tail after them.
    pub(super) torn_bytes: u64,
    /// The whole frames of the last group; empty if there is no record.
    pub(super) last_group: Bytes,
}

/// Where a segment stands, which decides whether its tail may be torn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Earlier,
    Last,
}

/// Reads all segments of `dir` in order and hands each record to `each`.
pub(super) fn replay(
    files: &dyn Files,
    dir: &Path,
    owner: &Owner,
    each: &mut dyn FnMut(Record),
) -> Result<Vec<Segment>, WalError> {
    // Before the segments: beside a writer they may go further than what was noted.
    let synced = synced_end(files, dir, owner);
    let starts = list_starts(files, dir)?;
    let mut segments = Vec::<Segment>::with_capacity(starts.len());
    for (index, start) in starts.iter().enumerate() {
        let path = dir.join(segment_name(*start));
        let place = if index + 1 == starts.len() {
            Place::Last
        } else {
            Place::Earlier
        };
        let mut number = None;
        if let Some(before) = segments.last_mut() {
            if before.end != *start {
                let detail = format!(
                    "it starts at offset {start}, and the segment before it ends at {}",
                    before.end
                );
                return Err(WalError::corrupt(&path, 0, detail));
            }
            // Only the last segment's last group is ever needed; this one would keep its file's
            // bytes in memory.
            before.last_group = Bytes::new();
            number = before
                .header
                .is_numbered()
                .then(|| before.header.sequence + 1);
        }
        let bytes = files
            .read(&path)
            .map_err(|source| WalError::io(&path, "read", source))?;
        let segment = decode((path, *start, number), owner, &bytes.into(), place, each)?;
        if number.is_some_and(|number| segment.header.sequence != number) {
            let detail = format!(
                "the segment has the number {}, and stands where number {} should",
                segment.header.sequence,
                number.unwrap_or_default()
            );
            return Err(WalError::corrupt(&segment.path, 0, detail));
        }
        segments.push(segment);
    }
    let (end, last) = match segments.last() {
        Some(last) => (last.end, last.path.as_path()),
        None => (0, dir),
    };
    match end < synced {
        true => Err(WalError::corrupt(
            last,
            segments.last().map_or(0, |s| s.whole_bytes),
            format!(
                "records end at offset {end} there, and were acknowledged up to {synced}: they were lost or damaged"
            ),
        )),
        false => Ok(segments),
    }
}

fn list_starts(files: &dyn Files, dir: &Path) -> Result<Vec<u64>, WalError> {
    let names = files
        .list(dir)
        .map_err(|source| WalError::io(dir, "list", source))?;
    let mut starts = Vec::with_capacity(names.len());
    for name in names {
        match parse_name(&name) {
            NameOutcome::Segment { start } => starts.push(start),
            NameOutcome::Malformed => {
                let detail = "no segment has such a name";
                return Err(WalError::corrupt(&dir.join(name), 0, detail));
            }
            NameOutcome::Other => {}
        }
    }
    starts.sort_unstable();
    Ok(starts)
}

/// Reads one segment, whose number is known where the one before it has one; payloads share
/// `bytes`.
fn decode(
    (path, start, number): (PathBuf, u64, Option<u64>),
    owner: &Owner,
    bytes: &Bytes,
    place: Place,
    each: &mut dyn FnMut(Record),
) -> Result<Segment, WalError> {
    let header = match (check_segment_header(bytes, start, owner), place) {
        (HeaderOutcome::Whole(header), _) => header,
        (HeaderOutcome::Torn, Place::Last) => {
            let torn_bytes = bytes.len() as u64;
            let last_group = Bytes::new();
            return Ok(Segment {
                path,
                header: SegmentHeader::new(start, number.unwrap_or_default(), owner),
                start,
                end: start,
                whole_bytes: 0,
                torn_bytes,
                last_group,
            });
        }
        (HeaderOutcome::Torn, Place::Earlier) => {
            return Err(WalError::corrupt(&path, 0, "the segment has no header"));
        }
        (HeaderOutcome::Bad { detail }, _) => return Err(WalError::corrupt(&path, 0, detail)),
    };
    let mut position = header.bytes.len();
    let mut group_at = position;
    let mut next = start;
    while position < bytes.len() {
        let Some((header, payload)) = whole_frame(bytes, start, position) else {
            check_torn(&path, start, bytes, position, place)?;
            break;
        };
        // No underflow: decoding a header checks that its group begins inside the segment.
        let starts_at = position - header.back as usize;
        if header.back == 0 {
            group_at = position;
        }
        if header.first != next || starts_at != group_at {
            let detail = format!(
                "a record [{}, {}) stands where offset {next} should follow",
                header.first, header.end
            );
            return Err(WalError::corrupt(&path, position as u64, detail));
        }
        position += FRAME_HEADER_BYTES + payload.len();
        next = header.end;
        each(Record {
            first: header.first,
            end: header.end,
            payload,
        });
    }
    Ok(Segment {
        path,
        header,
        start,
        end: next,
        whole_bytes: position as u64,
        torn_bytes: (bytes.len() - position) as u64,
        last_group: bytes.slice(group_at..position),
    })
}

fn whole_frame(bytes: &Bytes, start: u64, position: usize) -> Option<(FrameHeader, Bytes)> {
    let header = FrameHeader::decode(bytes.get(position..)?, start, position as u64)?;
    let payload_at = position + FRAME_HEADER_BYTES;
    let payload_end = payload_at.checked_add(header.len as usize)?;
    let payload = bytes.get(payload_at..payload_end)?;
    (crc32c::crc32c(payload) == header.payload_crc)
        .then(|| (header, bytes.slice(payload_at..payload_end)))
}

/// Decides that the frame at `position`, which isn't whole, is the beginning of a torn tail.
///
/// Looks at every later byte for the header of a frame whose group begins after `position`; one
/// such header, even if its payload is torn, proves that the bad frame had been synced before.
fn check_torn(
    path: &Path,
    start: u64,
    bytes: &[u8],
    position: usize,
    place: Place,
) -> Result<(), WalError> {
    if place == Place::Earlier {
        let detail =
            "the record there has a wrong checksum or is cut short, and later segments exist";
        return Err(WalError::corrupt(path, position as u64, detail));
    }
    for at in position + 1..bytes.len() {
        let Some(header) = FrameHeader::decode(&bytes[at..], start, at as u64) else {
            continue;
        };
        if at - header.back as usize > position {
            let detail = format!(
                "the record there has a wrong checksum, and a later one [{}, {}) follows at byte {at}",
                header.first, header.end
            );
            return Err(WalError::corrupt(path, position as u64, detail));
        }
    }
    Ok(())
}

/// Reads the records of a WAL that another process may own.
pub(super) fn read_only(
    files: &dyn Files,
    dir: &Path,
    owner: &Owner,
) -> Result<Vec<Record>, WalError> {
    let read = beside_a_writer(dir, || {
        let mut records = Vec::new();
        replay(files, dir, owner, &mut |record| records.push(record))?;
        Ok(records)
    });
    Ok(read?.unwrap_or_default())
}

/// What a WAL that another process may own holds, all of which is read.
pub(super) fn look(files: &dyn Files, dir: &Path, owner: &Owner) -> Result<WalExtent, WalError> {
    let segments = beside_a_writer(dir, || replay(files, dir, owner, &mut |_| {}))?;
    let segments = segments.unwrap_or_default();
    Ok(WalExtent {
        segments: segments.len() as u64,
        bytes: segments.iter().map(|s| s.whole_bytes + s.torn_bytes).sum(),
        start: segments.first().map_or(0, |s| s.start),
        end: segments.last().map_or(0, |s| s.end),
    })
}

/// Reads, and reads again where a writer may have changed something meanwhile; `None` where there
/// is no directory.
fn beside_a_writer<T>(
    dir: &Path,
    mut read: impl FnMut() -> Result<T, WalError>,
) -> Result<Option<T>, WalError> {
    let mut attempt = 1;
    loop {
        let error = match read() {
            Ok(read) => return Ok(Some(read)),
            Err(error) => error,
        };
        let changed_meanwhile = match &error {
            WalError::Io { path, source, .. } if source.kind() == io::ErrorKind::NotFound => {
                if path == dir {
                    return Ok(None);
                }
                true
            }
            WalError::Corrupt { .. } => true,
            _ => false,
        };
        if !changed_meanwhile || attempt == READ_ATTEMPTS {
            return Err(error);
        }
        attempt += 1;
    }
}
