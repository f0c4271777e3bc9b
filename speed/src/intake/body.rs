//! What a door hands over: the body of a request as it came, and how it is to be read.

use std::fmt::{Debug, Display, Formatter};
use std::io::Read;
use std::str::FromStr;
use std::sync::Arc;

use anabranch_shared::{Error, Result};
use bytes::Bytes;
use datafusion::common::utils::memory::get_record_batch_memory_size;

use crate::intake::admission::{Admission, AdmissionError, Admitted, lines};
use crate::intake::arrow_stream;
use crate::intake::files::{self, FileError, Format, Separator};

#[cfg(test)]
mod tests;

/// The content type of an Arrow IPC stream.
const ARROW: &str = "application/vnd.apache.arrow.stream";

/// Rows of text may come to so many times the most that a request has: a byte of a row may be a field
/// whose name `_extra` repeats.
const TEXT_TIMES: u64 = 16;

/// Facts that take more than so many times the bytes of their records are asked for before they are
/// made: the room for the records is enough for others.
const RECORD_TIMES: u64 = 4;

/// So many bytes of a compressed body are taken apart at once.
const INFLATED: usize = 1 << 20;

/// Room for one request, which is taken as it becomes known how much it needs.
pub trait RequestMemory: Debug + Send + Sync {
    /// Makes room for so many bytes in all.
    ///
    /// # Errors
    /// `NoRoom` where other requests have it.
    fn grow(&self, bytes: u64) -> Result<()>;

    /// Gives back what is held beyond so many bytes.
    fn settle(&self, bytes: u64);
}

/// Room without a bound.
#[derive(Clone, Copy, Debug)]
pub struct Unbounded;

impl RequestMemory for Unbounded {
    fn grow(&self, _bytes: u64) -> Result<()> {
        Ok(())
    }

    fn settle(&self, _bytes: u64) {}
}

/// What the records of a body are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFormat {
    /// JSON, one record a line, or one array of records.
    Json,
    /// CSV or TSV with a header; the separator where the format's own is not meant.
    Delimited(Format, Option<Separator>),
    /// An Arrow IPC stream.
    Arrow,
}

impl BodyFormat {
    /// By a content type in lower case.
    ///
    /// # Errors
    /// `Invalid` where it is of none.
    pub fn of(content_type: &str, separator: Option<Separator>) -> Result<Self> {
        let is = |names: &[&str]| names.iter().any(|name| content_type.contains(name));
        if content_type.starts_with(ARROW) {
            return Ok(Self::Arrow);
        }
        if is(&["tab-separated-values"]) {
            return Ok(Self::Delimited(Format::Tsv, separator));
        }
        if is(&["csv"]) {
            return Ok(Self::Delimited(Format::Csv, separator));
        }
        if is(&[
            "json",
            "text/plain",
            "octet-stream",
            "x-www-form-urlencoded",
        ]) {
            return Ok(Self::Json);
        }
        Err(Error::Invalid(format!(
            "content type `{content_type}`: send `application/x-ndjson`, `application/json`, `text/csv` or `application/vnd.apache.arrow.stream`"
        )))
    }
}

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentEncoding {
    /// Not at all.
    Identity,
    /// gzip, of one member or several.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Display for ContentEncoding {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

impl FromStr for ContentEncoding {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name.trim().to_lowercase().as_str() {
            "identity" | "" => Ok(Self::Identity),
            "gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            other => Err(Error::Invalid(format!(
                "content encoding `{other}`: send gzip, zstd or none"
            ))),
        }
    }
}

/// The body of a request, as a door has it.
#[derive(Clone, Debug)]
pub struct RequestBody {
    /// Its bytes, as they came.
    pub bytes: Bytes,
    /// How they are compressed.
    pub encoding: ContentEncoding,
    /// What its records are written in.
    pub format: BodyFormat,
    /// Whether it is refused whole where one of its records can't become a fact.
    pub strict: bool,
    /// The most bytes that it may have without its compression.
    pub limit: u64,
    /// The room that it has.
    pub memory: Arc<dyn RequestMemory>,
}

impl RequestBody {
    /// A body that is not compressed, with all the room that it needs.
    pub fn plain(bytes: Bytes, format: BodyFormat) -> Self {
        Self {
            bytes,
            encoding: ContentEncoding::Identity,
            format,
            strict: false,
            limit: u64::MAX,
            memory: Arc::new(Unbounded),
        }
    }

    /// How many bytes are looked through to admit it. What is compressed, as buffers of Arrow may
    /// be, is perhaps a small part of what it holds.
    pub(crate) fn work_bytes(&self) -> usize {
        match (self.encoding, self.format) {
            (ContentEncoding::Identity, BodyFormat::Json | BodyFormat::Delimited(..)) => {
                self.bytes.len()
            }
            _ => usize::MAX,
        }
    }

    /// Admits its records.
    ///
    /// # Errors
    /// `Invalid` where it is not what it is said to be, `NoRoom` where there is no room for it:
    /// nothing of it was admitted.
    pub fn admit(self, admission: &Admission) -> Result<Admitted> {
        let memory = self.memory;
        let grow = |bytes| memory.grow(bytes);
        let body = decompress(self.bytes, self.encoding, self.limit, grow)?;
        memory.settle(body.len() as u64);
        let admitted = match self.format {
            BodyFormat::Json => of_json(admission, body, self.limit, &grow),
            BodyFormat::Delimited(format, separator) => {
                of_delimited(admission, body, (format, separator), self.limit)
            }
            BodyFormat::Arrow => {
                let limit = arrow_stream::of_request(self.limit);
                let batch = arrow_stream::read(body, limit, &grow)?;
                admission.batch(&batch).map_err(refused)
            }
        }?;
        match admitted.refusal().filter(|_| self.strict) {
            None => Ok(admitted),
            Some(why) => Err(Error::Invalid(format!(
                "{why}; nothing of the request was admitted, because it is `strict`"
            ))),
        }
    }
}

fn refused(e: AdmissionError) -> Error {
    Error::Invalid(e.to_string())
}

/// Admits rows of CSV or TSV.
fn of_delimited(
    admission: &Admission,
    body: Bytes,
    (format, separator): (Format, Option<Separator>),
    limit: u64,
) -> Result<Admitted> {
    let unread = |e: FileError| Error::Invalid(e.to_string());
    let (mut parts, mut bytes) = (Vec::new(), 0_u64);
    for chunk in files::csv_of_body(body, format, separator, admission).map_err(unread)? {
        let chunk = chunk.map_err(unread)?;
        let part = admission.chunk(&chunk).map_err(refused)?;
        bytes = bytes.saturating_add(get_record_batch_memory_size(&part.facts) as u64);
        check_rows(bytes, limit)?;
        parts.push(part);
    }
    admission.joined(parts).map_err(refused)
}

/// Admits lines of JSON, or the elements of an array.
fn of_json(
    admission: &Admission,
    body: Bytes,
    limit: u64,
    grow: &dyn Fn(u64) -> Result<()>,
) -> Result<Admitted> {
    if !files::begins_array(&body) {
        room_for_rows(admission, &body, limit, grow)?;
        return admission.ndjson(&body).map_err(refused);
    }
    // Its lines are a copy of it.
    grow(2 * body.len() as u64)?;
    let lines = files::lines_of_array(&body)
        .map_err(|e| Error::Invalid(format!("{e}; nothing of it was admitted")))?;
    room_for_rows(admission, &lines, limit, grow)?;
    let mut admitted = admission.ndjson(&lines).map_err(refused)?;
    // The lines that they are counted by are not the sender's.
    admitted.dead.iter_mut().for_each(|dead| dead.line = None);
    Ok(admitted)
}

/// Refuses rows that come to many times what a request may have.
fn check_rows(bytes: u64, limit: u64) -> Result<()> {
    match bytes > limit.saturating_mul(TEXT_TIMES) {
        true => Err(Error::Invalid(format!(
            "its rows come to more than {TEXT_TIMES} times {limit} bytes (`max_request_bytes` in `[daemon]`), and nothing of it was admitted; send it in parts"
        ))),
        false => Ok(()),
    }
}

/// Makes room for the facts of lines of JSON, before they are made: a short record takes as much
/// memory as all declared fields do.
fn room_for_rows(
    admission: &Admission,
    records: &[u8],
    limit: u64,
    grow: &dyn Fn(u64) -> Result<()>,
) -> Result<()> {
    let size = |rows: usize| (rows as u64).saturating_mul(admission.row_bytes());
    let plain = RECORD_TIMES.saturating_mul(records.len() as u64);
    // Ends of lines are counted fast, and mostly that is all there is to do.
    if size(memchr::memchr_iter(b'\n', records).count() + 1) <= plain {
        return Ok(());
    }
    let bytes = size(lines(records).count());
    check_rows(bytes, limit)?;
    match bytes <= plain {
        true => Ok(()),
        false => grow(bytes.saturating_add(records.len() as u64)),
    }
}

/// The body without its compression; bounded, so that a small body can't become a huge one. What is
/// taken for it is asked for with `grow` before it is taken: all of it, in bytes.
fn decompress(
    body: Bytes,
    encoding: ContentEncoding,
    limit: u64,
    mut grow: impl FnMut(u64) -> Result<()>,
) -> Result<Bytes> {
    let bad = |e: std::io::Error| {
        Error::Invalid(format!(
            "the body is not valid {encoding}, and nothing of it was admitted; send it again, whole: {e}"
        ))
    };
    let mut reader: Box<dyn Read + '_> = match encoding {
        ContentEncoding::Identity => return Ok(body),
        ContentEncoding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(body.as_ref())),
        ContentEncoding::Zstd => {
            Box::new(zstd::stream::read::Decoder::new(body.as_ref()).map_err(bad)?)
        }
    };
    let mut out = Vec::new();
    loop {
        let held = out.capacity();
        if out.len() == held {
            let more = (held / 4).max(INFLATED);
            // While it grows, what it was and what it will be are both there.
            grow((body.len() + 2 * held + more) as u64)?;
            out.reserve_exact(more);
        }
        // Never more than there is room for: the vector does not grow by itself.
        let room = (out.capacity() - out.len()) as u64;
        let part = reader.by_ref().take(room).read_to_end(&mut out);
        if out.len() as u64 > limit {
            return Err(Error::Invalid(too_large(limit)));
        }
        if part.map_err(bad)? == 0 {
            return Ok(out.into());
        }
    }
}

/// Why a body is refused that has more than so many bytes.
pub(crate) fn too_large(limit: u64) -> String {
    format!(
        "the body is larger than {limit} bytes (`max_request_bytes` in `[daemon]`), and nothing of it was admitted; send it in parts"
    )
}
