//! What a source is: its format, its compression, and the streams and temporary files that the readers need.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bytes::Bytes;

use super::array;
use super::arrow_files::{IpcReader, ParquetReader};
use super::csv::CsvReader;
use super::gzip::Gunzip;
use super::ndjson::NdjsonReader;
use super::stream::{Counted, Counter, Stream};
use super::{Chunks, FileError, Options, Position, Separator};
use crate::intake::admission::BYTE_ORDER_MARK;

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const IPC_FILE_MAGIC: &[u8] = b"ARROW1";
const READ_BYTES: usize = 256 * 1024;

/// The longest window of zstd, as a power of two: 2 GiB, which are taken where a file was packed with it.
const LONGEST_WINDOW_LOG: u32 = 31;

/// Where records come from.
pub enum Source {
    /// A local file.
    Path(PathBuf),
    /// A local file that goes by another name, such as the URL that it was downloaded from. The name tells its format.
    Named {
        /// What to call it.
        name: String,
        /// Where it is.
        path: PathBuf,
    },
    /// Any stream, such as standard input. Compression is recognized; the format must be given, unless `name` ends in
    /// one's extension.
    Reader {
        /// What to call it in messages.
        name: String,
        /// The stream.
        reader: Box<dyn Read + Send>,
    },
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Source").field(&self.name()).finish()
    }
}

impl Source {
    fn name(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Named { name, .. } | Self::Reader { name, .. } => name.clone(),
        }
    }
}

/// A format of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JSON object a line, or an array of objects: `.ndjson`, `.jsonl`, `.json`.
    Ndjson,
    /// Comma-separated values whose first row names the fields: `.csv`.
    Csv,
    /// The same with tabs between them: `.tsv`.
    Tsv,
    /// Apache Parquet: `.parquet`.
    Parquet,
    /// Arrow IPC, file or stream, told apart by content: `.arrow`, `.arrows`, `.ipc`, `.feather`.
    Arrow,
}

impl FromStr for Format {
    type Err = String;

    /// A format by its name or by an extension.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "ndjson" | "jsonl" | "json" => Ok(Self::Ndjson),
            "csv" => Ok(Self::Csv),
            "tsv" => Ok(Self::Tsv),
            "parquet" => Ok(Self::Parquet),
            "arrow" | "arrows" | "ipc" | "feather" => Ok(Self::Arrow),
            _ => Err(format!(
                "`{text}` is not a format: use `ndjson`, `csv`, `tsv`, `parquet` or `arrow`"
            )),
        }
    }
}

/// How a whole file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// gzip, of any number of members.
    Gzip,
    /// Zstandard, of any number of frames.
    Zstd,
}

/// The format and the compression that a file's name states.
pub(super) fn by_name(name: &str) -> (Option<Format>, Option<Compression>) {
    let path = Path::new(name);
    let extension = |path: &Path| {
        path.extension()
            .and_then(|e| e.to_str())
            .map(str::to_ascii_lowercase)
    };
    let (stem, compression) = match extension(path).as_deref() {
        Some("gz") => (path.with_extension(""), Some(Compression::Gzip)),
        Some("zst") => (path.with_extension(""), Some(Compression::Zstd)),
        _ => (path.to_owned(), None),
    };
    (extension(&stem).and_then(|e| e.parse().ok()), compression)
}

pub(super) fn open(source: Source, options: &Options) -> Result<Chunks, FileError> {
    let file = source.name();
    let (named_format, named_compression) = by_name(&file);
    let Some(format) = options.format.or(named_format) else {
        return Err(FileError::UnknownFormat { file });
    };
    let position = Position {
        file,
        record: 0,
        counter: Counter::default(),
    };
    let open_error = |source| FileError::Open {
        file: position.file.clone(),
        source,
    };
    let raw: Stream = match source {
        Source::Reader { reader, .. } => reader,
        Source::Path(path) | Source::Named { path, .. } => {
            let mut opened = File::open(path).map_err(open_error)?;
            if matches!(format, Format::Parquet | Format::Arrow) && named_compression.is_none() {
                if format == Format::Parquet {
                    return Ok(Chunks::new(Box::new(ParquetReader::open(
                        opened, position,
                    )?)));
                }
                let head = head(&mut opened, IPC_FILE_MAGIC.len()).map_err(open_error)?;
                opened.rewind().map_err(open_error)?;
                if head == IPC_FILE_MAGIC {
                    return Ok(Chunks::new(Box::new(IpcReader::open_file(
                        opened, position,
                    )?)));
                }
            }
            Box::new(opened)
        }
    };
    let mut stream = decompressed(raw, named_compression, &position)?;
    Ok(Chunks::new(match format {
        Format::Ndjson => {
            let stream = without_mark(stream, &position)?;
            let (stream, shape) = array::opened(stream).map_err(|e| position.read_error(e))?;
            let limit = options.max_record_bytes;
            Box::new(NdjsonReader::new(stream, position, limit, shape))
        }
        Format::Csv | Format::Tsv => {
            let separator = separator(format, options.separator);
            csv(stream, position, options.max_record_bytes, separator)?
        }
        Format::Parquet => Box::new(ParquetReader::open(spooled(stream, &position)?, position)?),
        Format::Arrow => {
            let head =
                head(&mut stream, IPC_FILE_MAGIC.len()).map_err(|e| position.read_error(e))?;
            let is_file = head == IPC_FILE_MAGIC;
            let stream: Stream = Box::new(Cursor::new(head).chain(stream));
            if is_file {
                Box::new(IpcReader::open_file(spooled(stream, &position)?, position)?)
            } else {
                Box::new(IpcReader::open_stream(stream, position)?)
            }
        }
    }))
}

/// What stands between the fields of a kind of CSV.
fn separator(format: Format, named: Option<Separator>) -> u8 {
    match (named, format) {
        (Some(separator), _) => separator.0,
        (None, Format::Tsv) => b'\t',
        (None, _) => b',',
    }
}

fn csv(
    stream: Stream,
    position: Position,
    max_record_bytes: usize,
    separator: u8,
) -> Result<Box<CsvReader>, FileError> {
    let stream = without_mark(stream, &position)?;
    CsvReader::open(stream, position, max_record_bytes, separator).map(Box::new)
}

pub(super) fn csv_of_body(
    body: Bytes,
    format: Format,
    named: Option<Separator>,
    max_record_bytes: usize,
) -> Result<Chunks, FileError> {
    let position = Position {
        file: "the request".to_owned(),
        record: 0,
        counter: Counter::default(),
    };
    let stream: Stream = Box::new(Cursor::new(body));
    let separator = separator(format, named);
    Ok(Chunks::new(csv(
        stream,
        position,
        max_record_bytes,
        separator,
    )?))
}

/// The stream's content. What the name says of its compression is believed, so that an empty `.gz` is the error that
/// it is; without a word from the name its first bytes tell.
fn decompressed(
    raw: Stream,
    named: Option<Compression>,
    position: &Position,
) -> Result<Stream, FileError> {
    let mut counted = Counted {
        inner: raw,
        counter: position.counter.clone(),
    };
    let head = head(&mut counted, ZSTD_MAGIC.len()).map_err(|e| position.read_error(e))?;
    let compression = named.unwrap_or(if head.starts_with(GZIP_MAGIC) {
        Compression::Gzip
    } else if head.starts_with(ZSTD_MAGIC) {
        Compression::Zstd
    } else {
        Compression::Plain
    });
    let whole = Cursor::new(head).chain(counted);
    Ok(match compression {
        Compression::Plain => Box::new(whole),
        Compression::Gzip => Box::new(Gunzip::new(BufReader::with_capacity(READ_BYTES, whole))),
        Compression::Zstd => {
            let buffered = BufReader::with_capacity(READ_BYTES, whole);
            let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered)
                .map_err(|e| position.read_error(e))?;
            // What a file was packed with by `zstd --long=31` is needed to unpack it.
            decoder
                .window_log_max(LONGEST_WINDOW_LOG)
                .map_err(|e| position.read_error(e))?;
            Box::new(decoder)
        }
    })
}

/// The stream without the byte order mark that some programs put before UTF-8.
fn without_mark(mut stream: Stream, position: &Position) -> Result<Stream, FileError> {
    let head = head(&mut stream, BYTE_ORDER_MARK.len()).map_err(|e| position.read_error(e))?;
    Ok(if head == BYTE_ORDER_MARK {
        stream
    } else {
        Box::new(Cursor::new(head).chain(stream))
    })
}

/// Up to `len` first bytes.
fn head(reader: &mut impl Read, len: usize) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(len);
    reader.take(len as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// A file that was compressed once more comes to no more than so many times its size, from
/// [`SPOOLED_BYTES`] on: what Parquet and Arrow hold is packed already, or is not worth it.
const SPOOLED_TIMES: u64 = 100;
const SPOOLED_BYTES: u64 = 1 << 30;

/// Formats with their index at the end need a file to seek in: a nameless temporary one.
fn spooled(mut stream: Stream, position: &Position) -> Result<File, FileError> {
    let copy = || {
        let mut file = tempfile::tempfile()?;
        let mut bytes = 0;
        loop {
            let part = io::copy(&mut stream.by_ref().take(SPOOLED_BYTES / 16), &mut file)?;
            bytes += part;
            if part == 0 {
                break;
            }
            let most = position.counter.get().saturating_mul(SPOOLED_TIMES);
            if bytes > most.max(SPOOLED_BYTES) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "it comes to more than {SPOOLED_TIMES} times its size; unpack it first"
                    ),
                ));
            }
        }
        file.flush()?;
        file.rewind()?;
        Ok(file)
    };
    let mut copy = copy;
    copy().map_err(|e| position.read_error(e))
}
