//! Checksums of a Parquet file of ours, because the format's own are neither written nor checked by
//! the engine.
//!
//! ```text
//! data    | each column chunk, in pieces of 1 MiB: a CRC-32C of each in the footer's metadata
//! tail    | page indexes and footer: where it begins, and its CRC-32C, in the file's entry in the
//!           table's log
//! ```
//!
//! So a column chunk is checked by its own pieces: nothing beside it has to be read.

use std::ops::Range;

use parquet::file::metadata::{KeyValue, ParquetMetaData, RowGroupMetaData};

/// The key of the footer's metadata that holds the checksums of the pieces, in order of row groups
/// and columns: eight hexadecimal digits each.
const PIECES: &str = "anabranch.crc32c";

/// Bytes of a piece; the last of a column chunk may have fewer.
const PIECE_BYTES: u64 = 1 << 20;

/// A part of a file, and what its checksum is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where it lies.
    pub(crate) bytes: Range<u64>,
    crc: u32,
}

impl Piece {
    /// Whether these are its bytes.
    pub(crate) fn holds(&self, bytes: &[u8]) -> bool {
        crc32c::crc32c(bytes) == self.crc
    }
}

/// The end of a file, as its entry in the table's log names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    /// Where it begins.
    pub(crate) start: u64,
    crc: u32,
}

impl Tail {
    /// The tail of a file that begins at `start`.
    pub(super) fn of(file: &[u8], start: usize) -> Self {
        let tail = file.get(start..).unwrap_or_default();
        Self {
            start: start as u64,
            crc: crc32c::crc32c(tail),
        }
    }

    /// As text, for the file's entry.
    pub(super) fn encode(self) -> String {
        format!("{} {:08x}", self.start, self.crc)
    }

    pub(super) fn decode(text: &str) -> Option<Self> {
        let (start, crc) = text.split_once(' ')?;
        Some(Self {
            start: start.parse().ok()?,
            crc: u32::from_str_radix(crc, 16).ok()?,
        })
    }

    /// Whether these are its bytes.
    pub(crate) fn holds(&self, bytes: &[u8]) -> bool {
        crc32c::crc32c(bytes) == self.crc
    }
}

/// The checksums of what was written so far, for the footer's metadata.
pub(super) fn of_data(data: &[u8], groups: &[RowGroupMetaData]) -> Option<KeyValue> {
    let mut text = String::new();
    for bytes in borders(groups)? {
        let (start, end) = (bytes.start.try_into().ok()?, bytes.end.try_into().ok()?);
        let piece: &[u8] = data.get::<Range<usize>>(start..end)?;
        text.push_str(&format!("{:08x}", crc32c::crc32c(piece)));
    }
    Some(KeyValue::new(PIECES.to_owned(), text))
}

/// The pieces of a file, ascending; `None` where its footer does not name each.
pub(crate) fn pieces(metadata: &ParquetMetaData) -> Option<Vec<Piece>> {
    let pairs = metadata.file_metadata().key_value_metadata()?;
    let text = pairs.iter().find(|p| p.key == PIECES)?.value.as_deref()?;
    let borders = borders(metadata.row_groups())?;
    if text.len() != borders.len() * 8 || !text.is_ascii() {
        return None;
    }
    let piece = |(index, bytes): (usize, Range<u64>)| {
        let digits = text.get(index * 8..index * 8 + 8)?;
        let crc = u32::from_str_radix(digits, 16).ok()?;
        Some(Piece { bytes, crc })
    };
    let pieces = borders.into_iter().enumerate().map(piece);
    let mut pieces = pieces.collect::<Option<Vec<_>>>()?;
    pieces.sort_unstable_by_key(|piece| piece.bytes.start);
    Some(pieces)
}

/// Where the pieces of a file lie, in order of row groups and columns.
fn borders(groups: &[RowGroupMetaData]) -> Option<Vec<Range<u64>>> {
    let mut borders = Vec::new();
    for column in groups.iter().flat_map(RowGroupMetaData::columns) {
        let first = column.dictionary_page_offset();
        let start = u64::try_from(first.unwrap_or(column.data_page_offset())).ok()?;
        let end = start.checked_add(u64::try_from(column.compressed_size()).ok()?)?;
        let mut at = start;
        while at < end {
            let next = end.min(at + PIECE_BYTES);
            borders.push(at..next);
            at = next;
        }
    }
    Some(borders)
}
