//! The stored form of segments and frames: bytes in and out, no files.

/// The most bytes that one group may take in the file, frame headers included. A stored length
/// beyond it is garbage, whatever its checksum says.
pub const MAX_GROUP_BYTES: u64 = 1 << 30;

pub(super) const SEGMENT_HEADER_BYTES: usize = 24;
pub(super) const FRAME_HEADER_BYTES: usize = 32;

const MAGIC: [u8; 8] = *b"ANBRWAL1";
const VERSION: u32 = 1;
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

pub(super) fn segment_header(start: u64) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..20].copy_from_slice(&start.to_le_bytes());
    let crc = crc32c::crc32c(&header[..20]);
    header[20..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// What the first bytes of a segment are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderOutcome {
    Whole,
    /// What a crash between making the file and syncing its header can leave: nothing follows, and
    /// each byte is right, zero or missing.
    Torn,
    Bad {
        detail: String,
    },
}

/// Judges the header of the segment that is named after `start`.
pub(super) fn check_segment_header(bytes: &[u8], start: u64) -> HeaderOutcome {
    let expected = segment_header(start);
    if bytes.starts_with(&expected) {
        return HeaderOutcome::Whole;
    }
    let unwritten = bytes
        .iter()
        .zip(&expected)
        .all(|(byte, right)| byte == right || *byte == 0);
    if unwritten && bytes.len() <= SEGMENT_HEADER_BYTES {
        return HeaderOutcome::Torn;
    }
    let detail = match parse_segment_header(bytes) {
        None => "the segment has no header with a right checksum".to_owned(),
        Some((version, _)) if version != VERSION => {
            format!("the segment has format {version}, and this version reads format {VERSION}")
        }
        Some((_, stored)) => format!("the segment says that it starts at offset {stored}"),
    };
    HeaderOutcome::Bad { detail }
}

fn parse_segment_header(bytes: &[u8]) -> Option<(u32, u64)> {
    let covered = bytes.get(..20)?;
    let (magic, rest) = bytes.split_first_chunk::<8>()?;
    let (version, rest) = rest.split_first_chunk()?;
    let (start, rest) = rest.split_first_chunk()?;
    let (crc, _) = rest.split_first_chunk()?;
    (*magic == MAGIC && u32::from_le_bytes(*crc) == crc32c::crc32c(covered))
        .then(|| (u32::from_le_bytes(*version), u64::from_le_bytes(*start)))
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
            && u64::from(header.back) + SEGMENT_HEADER_BYTES as u64 <= position
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
