//! Parquet from outside: what its footer and its pages state is checked before its reader takes memory
//! for it. Owns a walk over Thrift's compact protocol, which takes none.
//!
//! The format: <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>,
//! <https://github.com/apache/parquet-format>.

use std::io::{self, Read};

use bytes::Bytes;
use parquet::basic::Compression;
use parquet::file::metadata::ParquetMetaData;

/// The longest footer that is read, in bytes.
const FOOTER_BYTES: u64 = 256 << 20;

/// The most structures in the lists of a footer: each takes some hundred bytes in memory.
const STRUCTURES: u64 = 4 << 20;

/// How deep structures may lie in each other.
const DEPTH: u32 = 32;

/// What one page may come to, in bytes.
const PAGE_BYTES: u64 = 1 << 30;

/// What one page of each column may come to together, in bytes: so much is in memory at once.
const PAGES_BYTES: u64 = 4 << 30;

/// The longest header of a page that is read, in bytes.
const HEADER_BYTES: u64 = 1 << 20;

/// Bytes after a footer: its length, and the magic.
const TRAILER_BYTES: u64 = 8;

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it is damaged: {what}"))
}

/// Something that Parquet is read from.
pub trait ReadAt {
    /// How many bytes there are.
    ///
    /// # Errors
    /// What the system reports.
    fn len(&self) -> io::Result<u64>;

    /// Whether there are none.
    ///
    /// # Errors
    /// What the system reports.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Bytes from `start` on: so many, or as many as there are.
    ///
    /// # Errors
    /// What the system reports.
    fn read_at(&self, start: u64, bytes: u64) -> io::Result<Bytes>;
}

impl ReadAt for Bytes {
    fn len(&self) -> io::Result<u64> {
        Ok(self.as_ref().len() as u64)
    }

    fn read_at(&self, start: u64, bytes: u64) -> io::Result<Bytes> {
        let len = self.as_ref().len();
        let start = usize::try_from(start).unwrap_or(len).min(len);
        let bytes = usize::try_from(bytes).unwrap_or(len).min(len - start);
        Ok(self.slice(start..start + bytes))
    }
}

impl ReadAt for std::fs::File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, start: u64, bytes: u64) -> io::Result<Bytes> {
        let mut out = Vec::new();
        let mut at = start;
        // Memory is taken as bytes come.
        while (out.len() as u64) < bytes {
            let mut part = [0; 16 << 10];
            let more = (bytes - out.len() as u64).min(part.len() as u64) as usize;
            match rustix::io::pread(self, &mut part[..more], at)? {
                0 => break,
                read => {
                    out.extend_from_slice(&part[..read]);
                    at += read as u64;
                }
            }
        }
        Ok(out.into())
    }
}

/// Looks through a file's footer: what it states is within it.
///
/// # Errors
/// `InvalidData` where it is damaged; what the system reports.
pub fn check_footer(file: &impl ReadAt) -> io::Result<()> {
    let cut = || damaged("it is cut, or it is no Parquet file");
    let end = file.len()?.checked_sub(TRAILER_BYTES).ok_or_else(cut)?;
    let trailer = file.read_at(end, TRAILER_BYTES)?;
    let (length, magic) = trailer.split_first_chunk::<4>().ok_or_else(cut)?;
    let length = u64::from(u32::from_le_bytes(*length));
    let start = end.checked_sub(length).ok_or_else(cut)?;
    if magic != b"PAR1" || length > FOOTER_BYTES {
        return Err(cut());
    }
    let footer = file.read_at(start, length)?;
    Walk::new(&footer)
        .structure(DEPTH, &mut |_, _, _| {})
        .ok_or_else(|| damaged("its footer states more than it holds"))
}

/// Looks through the pages of a file whose footer was looked through: they lie within it, and come to
/// no more than fits into memory. Only gzip is taken apart for that: its reader goes to the end,
/// whatever length was stated.
///
/// # Errors
/// `InvalidData` where it is damaged or a page is too large; what the system reports.
pub fn check_pages(file: &impl ReadAt, metadata: &ParquetMetaData) -> io::Result<()> {
    let len = file.len()?;
    for group in metadata.row_groups() {
        let mut together = 0_u64;
        for column in group.columns() {
            let outside = || damaged("a column lies outside of the file");
            let start = match column.dictionary_page_offset() {
                Some(offset) => offset,
                None => column.data_page_offset(),
            };
            let start = u64::try_from(start).map_err(|_| outside())?;
            let bytes = u64::try_from(column.compressed_size()).map_err(|_| outside())?;
            let end = start.checked_add(bytes).filter(|end| *end <= len);
            let end = end.ok_or_else(outside)?;
            let largest = check_column(file, (start, end), column.compression())?;
            together = together.saturating_add(largest);
            if together > PAGES_BYTES {
                return Err(damaged(
                    "pages of its columns come to more than 4 GiB together; write smaller ones",
                ));
            }
        }
    }
    Ok(())
}

/// Bytes that the largest page of a column comes to.
fn check_column(
    file: &impl ReadAt,
    (mut at, end): (u64, u64),
    compression: Compression,
) -> io::Result<u64> {
    let mut largest = 0;
    while at < end {
        let mut length = 256;
        let page = loop {
            let header = file.read_at(at, length.min(end - at))?;
            match Page::read(&header) {
                Some(page) => break page,
                None if length < HEADER_BYTES.min(end - at) => length *= 16,
                None => return Err(damaged("a page has no header")),
            }
        };
        let body = at + page.header_bytes;
        let next = body.checked_add(page.compressed_bytes);
        let next = next.filter(|next| *next <= end);
        let next = next.ok_or_else(|| damaged("a page lies outside of its column"))?;
        if page.bytes > PAGE_BYTES {
            return Err(damaged(
                "a page comes to more than 1 GiB; write smaller ones",
            ));
        }
        if let Compression::GZIP(_) = compression {
            let packed = file.read_at(body, page.compressed_bytes)?;
            // Levels before the values are not compressed.
            let levels = usize::try_from(page.level_bytes).unwrap_or(usize::MAX);
            let packed = packed.get(levels..).unwrap_or_default();
            check_gzip(packed, page.bytes.saturating_sub(page.level_bytes))?;
        }
        largest = largest.max(page.bytes);
        at = next;
    }
    Ok(largest)
}

/// Refuses values that come to more than is stated of them.
fn check_gzip(packed: &[u8], stated: u64) -> io::Result<()> {
    let mut whole = flate2::read::MultiGzDecoder::new(packed).take(stated + 1);
    // What is not gzip is the reader's to refuse.
    match io::copy(&mut whole, &mut io::sink()) {
        Ok(found) if found > stated => Err(damaged("a page comes to more than it states")),
        _ => Ok(()),
    }
}

/// What a page's header states.
struct Page {
    header_bytes: u64,
    bytes: u64,
    compressed_bytes: u64,
    /// Bytes of levels before the values, in pages of the second version.
    level_bytes: u64,
}

impl Page {
    /// The header that some bytes begin with; `None` where they hold no whole one.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (mut sizes, mut levels) = ([None; 2], [0; 2]);
        let mut walk = Walk::new(bytes);
        walk.structure(DEPTH, &mut |within, field, value| {
            let value = u64::try_from(value).ok();
            match (within, field) {
                (None, 2) => sizes[0] = value,
                (None, 3) => sizes[1] = value,
                (Some(8), 5) => levels[0] = value.unwrap_or(0),
                (Some(8), 6) => levels[1] = value.unwrap_or(0),
                _ => {}
            }
        })?;
        Some(Self {
            header_bytes: (bytes.len() - walk.rest.len()) as u64,
            bytes: sizes[0]?,
            compressed_bytes: sizes[1]?,
            level_bytes: levels[0].saturating_add(levels[1]),
        })
    }
}

/// A walk over a structure of Thrift's compact protocol.
struct Walk<'a> {
    rest: &'a [u8],
    structures: u64,
}

const STOP: u8 = 0;
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;
const UUID: u8 = 13;

type Numbers<'a> = dyn FnMut(Option<i64>, i64, i64) + 'a;

impl<'a> Walk<'a> {
    fn new(rest: &'a [u8]) -> Self {
        Self {
            rest,
            structures: 0,
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    fn skip(&mut self, bytes: u64) -> Option<()> {
        self.rest = self.rest.get(usize::try_from(bytes).ok()?..)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Passes over a structure; `number` gets the fields of it, and of structures in it, that are
    /// numbers: within which of its fields, which, and the number.
    fn structure(&mut self, depth: u32, number: &mut Numbers<'_>) -> Option<()> {
        let mut field = 0;
        loop {
            let head = self.byte()?;
            if head == STOP {
                return Some(());
            }
            let (delta, kind) = (head >> 4, head & 0xf);
            field = match delta {
                0 => self.zigzag()?,
                delta => field.saturating_add(i64::from(delta)),
            };
            match kind {
                TRUE | FALSE => {}
                I16..=I64 => number(None, field, self.zigzag()?),
                STRUCT => {
                    let depth = self.deeper(depth)?;
                    self.structure(depth, &mut |within, inner, value| {
                        if within.is_none() {
                            number(Some(field), inner, value);
                        }
                    })?;
                }
                kind => self.value(kind, depth)?,
            }
        }
    }

    /// Passes over a value.
    fn value(&mut self, kind: u8, depth: u32) -> Option<()> {
        match kind {
            TRUE | FALSE | BYTE => self.skip(1),
            I16..=I64 => self.varint().map(|_| ()),
            DOUBLE => self.skip(8),
            UUID => self.skip(16),
            BINARY => {
                let bytes = self.varint()?;
                self.skip(bytes)
            }
            LIST | SET => {
                let head = self.byte()?;
                let count = match head >> 4 {
                    15 => self.varint()?,
                    count => u64::from(count),
                };
                self.values(count, &[head & 0xf], depth)
            }
            MAP => match self.varint()? {
                0 => Some(()),
                count => {
                    let kinds = self.byte()?;
                    self.values(count, &[kinds >> 4, kinds & 0xf], depth)
                }
            },
            STRUCT => {
                let depth = self.deeper(depth)?;
                self.structure(depth, &mut |_, _, _| {})
            }
            _ => None,
        }
    }

    /// One more structure within another.
    fn deeper(&mut self, depth: u32) -> Option<u32> {
        self.structures += 1;
        (self.structures <= STRUCTURES).then_some(())?;
        depth.checked_sub(1)
    }

    /// Passes over values, each of which takes a byte at least.
    fn values(&mut self, count: u64, kinds: &[u8], depth: u32) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        (count <= self.rest.len() as u64).then_some(())?;
        for _ in 0..count {
            for kind in kinds {
                self.value(*kind, depth)?;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
    use parquet::basic::{GzipLevel, ZstdLevel};
    use parquet::file::properties::WriterProperties;

    use super::*;

    fn written(compression: Compression) -> Result<Bytes, Box<dyn std::error::Error>> {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..5_000));
        let words = (0..5_000).map(|n| format!("word {}", n % 100));
        let words: ArrayRef = Arc::new(StringArray::from_iter_values(words));
        let batch = RecordBatch::try_from_iter([("id", ids), ("word", words)])?;
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_data_page_row_count_limit(1_000)
            .build();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?;
        writer.write(&batch)?;
        Ok(writer.into_inner()?.into())
    }

    fn check(body: &Bytes) -> Result<(), Box<dyn std::error::Error>> {
        check_footer(body)?;
        let metadata = ArrowReaderMetadata::load(body, ArrowReaderOptions::new())?;
        Ok(check_pages(body, metadata.metadata())?)
    }

    #[test]
    fn whole_files_pass() -> Result<(), Box<dyn std::error::Error>> {
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::LZ4_RAW,
            Compression::ZSTD(ZstdLevel::default()),
            Compression::GZIP(GzipLevel::default()),
        ] {
            check(&written(compression)?).map_err(|e| format!("{compression}: {e}"))?;
        }
        Ok(())
    }

    /// A footer that states a list of two thousand million row groups: its reader would take memory
    /// for them first.
    #[test]
    fn a_footer_states_no_more_than_it_holds() {
        let mut footer = vec![
            0x15, 0x04, // version 2
            0x19, 0x1c, 0x48, 0x01, b'r', 0x15, 0x00, 0x00, // one element of a schema
            0x16, 0x02, // one row
            0x19, 0xfc, // a list of structures, of a length that follows
        ];
        footer.extend([0xff, 0xff, 0xff, 0xff, 0x07]);
        footer.push(0);
        let mut file = b"PAR1".to_vec();
        file.extend(&footer);
        file.extend((footer.len() as u32).to_le_bytes());
        file.extend(b"PAR1");
        let refused = check_footer(&Bytes::from(file));
        assert!(refused.is_err_and(|e| e.to_string().contains("states more than it holds")));
    }

    #[test]
    fn a_page_of_gzip_is_no_larger_than_it_states() -> Result<(), Box<dyn std::error::Error>> {
        let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        io::Write::write_all(&mut bomb, &vec![0; 50_000_000])?;
        let bomb = bomb.finish()?;
        assert!(check_gzip(&bomb, 50_000_000).is_ok());
        assert!(check_gzip(&bomb, 49_999_999).is_err());
        Ok(())
    }
}
