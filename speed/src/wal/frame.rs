//! The stored form of segments and frames: bytes in and out, no files.

use uuid::Uuid;

use super::identity::Owner;

/// The most bytes that one group may take in the file, frame headers included. A stored length
/// beyond it is garbage, whatever its checksum says.
pub const MAX_GROUP_BYTES: u64 = 1 << 30;

/// Bytes of the header of a segment of version 1; later ones have more.
const OLDEST_HEADER_BYTES: usize = 24;
/// Where the number of a segment stands in its header.
const SEQUENCE_AT: usize = 20;
pub(super) const FRAME_HEADER_BYTES: usize = 32;

const MAGIC: [u8; 8] = *b"ANBRWAL1";
const VERSION: u32 = 2;
const SUFFIX: &str = ".wal";
const START_DIGITS: usize = 20;

pub(super) fn segment_name(start: u64) -> String {
    format!("{start:020}{SUFFIX}")
}

/// What a name in a topic's directory says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NameOutcome {
    Segment {
        start: u64,
    },
    /// Looks like a segment, but no segment is called so.
    Malformed,
    Other,
}

pub(super) fn parse_name(name: &str) -> NameOutcome {
    let Some(digits) = name.strip_suffix(SUFFIX) else {
        return NameOutcome::Other;
    };
    let plain = digits.len() == START_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse() {
        Ok(start) if plain => NameOutcome::Segment { start },
        _ => NameOutcome::Malformed,
    }
}

/// What a segment of this version says of itself, besides the offset that it starts at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// The segment's number: one more than that of the segment before it.
    pub(super) sequence: u64,
    /// The header as it is stored.
    pub(super) bytes: Vec<u8>,
}

impl SegmentHeader {
    /// The header of a new segment.
    pub(super) fn new(start: u64, sequence: u64, owner: &Owner) -> Self {
        let mut bytes = Vec::with_capacity(segment_header_bytes(&owner.topic));
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&start.to_le_bytes());
        bytes.extend_from_slice(&sequence.to_le_bytes());
        bytes.extend_from_slice(owner.id.as_bytes());
        // A directory's name has at most 255 bytes.
        bytes.extend_from_slice(&(owner.topic.len() as u16).to_le_bytes());
        bytes.extend_from_slice(owner.topic.as_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        Self { sequence, bytes }
    }

    /// The header of a segment of version 1, which says no more than where it starts.
    fn of_version_1(start: u64) -> Self {
        let mut bytes = Vec::with_capacity(OLDEST_HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&1_u32.to_le_bytes());
        bytes.extend_from_slice(&start.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        Self { sequence: 0, bytes }
    }

    /// Whether the segment has a number.
    pub(super) fn is_numbered(&self) -> bool {
        self.bytes.len() > OLDEST_HEADER_BYTES
    }
}

/// Bytes of the header of a topic's new segment.
pub(super) fn segment_header_bytes(topic: &str) -> usize {
    SEQUENCE_AT + 8 + 16 + 2 + topic.len() + 4
}

/// What the first bytes of a segment are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderOutcome {
    Whole(SegmentHeader),
    /// What a crash between making the file and syncing its header can leave: nothing follows, and
    /// each byte is right, zero or missing.
    Torn,
    Bad {
        detail: String,
    },
}

/// Judges the header of the segment that is named after `start`.
pub(super) fn check_segment_header(bytes: &[u8], start: u64, owner: &Owner) -> HeaderOutcome {
    let oldest = SegmentHeader::of_version_1(start);
    if bytes.starts_with(&oldest.bytes) {
        return HeaderOutcome::Whole(oldest);
    }
    let sequence = bytes.get(SEQUENCE_AT..).and_then(|rest| rest.first_chunk());
    let sequence = sequence.map_or(0, |number| u64::from_le_bytes(*number));
    let expected = SegmentHeader::new(start, sequence, owner);
    if bytes.starts_with(&expected.bytes) {
        return HeaderOutcome::Whole(expected);
    }
    if is_torn(bytes, &oldest.bytes) || is_torn(bytes, &expected.bytes) {
        return HeaderOutcome::Torn;
    }
    HeaderOutcome::Bad {
        detail: what_it_says(bytes, start),
    }
}

/// Whether these bytes can be a header that was not wholly written. What depends on the number,
/// which may itself be torn, can be anything.
fn is_torn(bytes: &[u8], expected: &[u8]) -> bool {
    let numbered = expected.len() > OLDEST_HEADER_BYTES;
    let open = |at: usize| {
        let number = (SEQUENCE_AT..SEQUENCE_AT + 8).contains(&at);
        numbered && (number || at + 4 >= expected.len())
    };
    let mut pairs = bytes.iter().zip(expected).enumerate();
    let fits = pairs.all(|(at, (byte, right))| byte == right || *byte == 0 || open(at));
    fits && bytes.len() <= expected.len()
}

/// What a header that is not the expected one says.
fn what_it_says(bytes: &[u8], start: u64) -> String {
    let number = |at: usize| {
        let eight = bytes.get(at..)?.first_chunk()?;
        Some(u64::from_le_bytes(*eight))
    };
    let version = bytes.get(8..).and_then(|rest| rest.first_chunk());
    let version = version.map_or(0, |four| u32::from_le_bytes(*four));
    let end = match version {
        1 => Some(OLDEST_HEADER_BYTES),
        _ => bytes.get(SEQUENCE_AT + 24..).and_then(|rest| {
            let length: [u8; 2] = *rest.first_chunk()?;
            Some(SEQUENCE_AT + 26 + usize::from(u16::from_le_bytes(length)) + 4)
        }),
    };
    let whole = end.and_then(|end| bytes.get(..end)).filter(|header| {
        let (covered, crc) = header.split_at(header.len() - 4);
        bytes.starts_with(&MAGIC) && crc == crc32c::crc32c(covered).to_le_bytes()
    });
    match (whole, number(12)) {
        _ if bytes.starts_with(&MAGIC) && version > VERSION => format!(
            "the segment has format {version}, and this version reads up to format {VERSION}"
        ),
        (Some(_), Some(stored)) if stored != start => {
            format!("the segment says that it starts at offset {stored}")
        }
        (Some(header), _) if version == VERSION => {
            let id = header.get(SEQUENCE_AT + 8..SEQUENCE_AT + 24);
            let id = id.and_then(|id| Uuid::from_slice(id).ok());
            let topic = header.get(SEQUENCE_AT + 26..header.len() - 4);
            format!(
                "the segment is of topic `{}` of the WAL {}",
                String::from_utf8_lossy(topic.unwrap_or_default()),
                id.unwrap_or_default()
            )
        }
        _ => "the segment has no header with a right checksum".to_owned(),
    }
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) len: u32,
    pub(super) back: u32,
    pub(super) first: u64,
    pub(super) end: u64,
    pub(super) payload_crc: u32,
}

impl FrameHeader {
    /// The header as stored at byte `position` of the segment that starts at offset `start`.
    pub(super) fn encode(&self, start: u64, position: u64) -> [u8; FRAME_HEADER_BYTES] {
        let mut header = [0; FRAME_HEADER_BYTES];
        header[..4].copy_from_slice(&self.len.to_le_bytes());
        header[4..8].copy_from_slice(&self.back.to_le_bytes());
        header[8..16].copy_from_slice(&self.first.to_le_bytes());
        header[16..24].copy_from_slice(&self.end.to_le_bytes());
        header[24..28].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = placed_crc(start, position, &header[..28]);
        header[28..].copy_from_slice(&crc.to_le_bytes());
        header
    }

    /// The header that `bytes` begin with, if one does that was written to this place.
    pub(super) fn decode(bytes: &[u8], start: u64, position: u64) -> Option<Self> {
        let covered = bytes.get(..28)?;
        let (len, rest) = bytes.split_first_chunk()?;
        let (back, rest) = rest.split_first_chunk()?;
        let (first, rest) = rest.split_first_chunk()?;
        let (end, rest) = rest.split_first_chunk()?;
        let (payload_crc, rest) = rest.split_first_chunk()?;
        let (crc, _) = rest.split_first_chunk()?;
        let header = Self {
            len: u32::from_le_bytes(*len),
            back: u32::from_le_bytes(*back),
            first: u64::from_le_bytes(*first),
            end: u64::from_le_bytes(*end),
            payload_crc: u32::from_le_bytes(*payload_crc),
        };
        // Cheap checks first: the search for a later frame comes here for every byte.
        let plausible = u64::from(header.len) <= MAX_GROUP_BYTES
            && u64::from(header.back) + OLDEST_HEADER_BYTES as u64 <= position
            && header.first >= start
            && header.first < header.end;
        (plausible && u32::from_le_bytes(*crc) == placed_crc(start, position, covered))
            .then_some(header)
    }
}

fn placed_crc(start: u64, position: u64, covered: &[u8]) -> u32 {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&start.to_le_bytes());
    place[8..].copy_from_slice(&position.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), covered)
}
