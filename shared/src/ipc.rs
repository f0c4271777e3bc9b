//! Arrow IPC from outside: whole and within bounds, or refused. Owns the walk over messages that comes
//! before Arrow's reader, which takes memory by the lengths that messages state, and panics on some
//! that contradict each other. A failed allocation ends the process, so lengths are checked before.
//!
//! Everything that decodes Arrow IPC goes through here: bodies of requests, payloads of the WAL,
//! answers of other daemons, answers to clients, and files.

use std::collections::HashMap;
use std::io::Read;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::{CompressionType, RecordBatch as BatchHeader, root_as_message};
use bytes::Bytes;

use crate::panics::quietly;

mod files;
mod plain;
#[cfg(test)]
mod tests;

pub use files::{IpcFile, IpcStream};
pub use plain::plain_bytes;

/// How a message begins, in streams since Arrow 0.15.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// The longest header of a message, in bytes: a schema of 100,000 fields takes less.
const HEADER_BYTES: usize = 64 << 20;

/// The least that a row takes in memory, in bytes. Columns of nothing but NULL take none.
const ROW_BYTES: u64 = 8;

/// Dictionaries may be sent in parts. Each part makes the whole one anew: so many times the limit may
/// be written for them.
const DICTIONARY_WORK: u64 = 16;

/// What Arrow data may take.
#[derive(Clone, Copy, Debug)]
pub struct IpcLimit {
    /// Bytes in memory, without compression, run ends and dictionaries.
    pub bytes: u64,
    /// What sets it, for messages.
    pub name: &'static str,
}

impl IpcLimit {
    fn check(self, bytes: u64) -> Result<u64, ArrowError> {
        match bytes > self.bytes {
            true => Err(self.too_large()),
            false => Ok(bytes),
        }
    }

    fn too_large(self) -> ArrowError {
        ArrowError::IpcError(format!(
            "it is larger than {} bytes ({}) without its compression, run ends and dictionaries; send it in parts",
            self.bytes, self.name
        ))
    }

    fn most_rows(self) -> u64 {
        self.bytes / ROW_BYTES
    }
}

fn damaged(what: impl std::fmt::Display) -> ArrowError {
    ArrowError::IpcError(format!("it is damaged: {what}"))
}

/// Runs something that reads Arrow data; where it panics the data are at fault.
///
/// # Errors
/// What `read` says, or that the data are damaged.
pub fn caught<T>(read: impl FnOnce() -> Result<T, ArrowError>) -> Result<T, ArrowError> {
    quietly(read).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(damaged(said.unwrap_or("its lengths contradict each other")))
    })
}

/// A whole stream in memory, whose messages were looked through.
#[derive(Debug)]
pub struct CheckedStream {
    body: Bytes,
    limit: IpcLimit,
    unpacked_bytes: u64,
}

/// The rows of a stream.
#[derive(Debug)]
pub struct IpcBatches {
    /// Their columns.
    pub schema: SchemaRef,
    /// The rows, as they were sent.
    pub batches: Vec<RecordBatch>,
    /// Bytes that they take without run ends and dictionaries.
    pub plain_bytes: u64,
}

impl CheckedStream {
    /// Walks over a stream's messages: each lies within the body, all are within the limit, and the
    /// last is the end. Takes no memory.
    ///
    /// # Errors
    /// Where the stream is cut, damaged, followed by something, or too large.
    pub fn new(body: Bytes, limit: IpcLimit) -> Result<Self, ArrowError> {
        let cut = || {
            ArrowError::IpcError(
                "it ends before its end-of-stream marker; send it again, whole".to_owned(),
            )
        };
        let mut rest = body.as_ref();
        let mut walk = Walk::new(limit);
        loop {
            let mut length = take(&mut rest, 4).ok_or_else(cut)?;
            if length == CONTINUATION {
                length = take(&mut rest, 4).ok_or_else(cut)?;
            }
            let length = length.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
            if length == 0 {
                break;
            }
            let header = take(&mut rest, length).ok_or_else(cut)?;
            let length = body_length(header)?;
            let length = usize::try_from(length).map_err(|_| cut())?;
            let data = take(&mut rest, length).ok_or_else(cut)?;
            walk.message(header, data)?;
        }
        if !rest.is_empty() {
            return Err(ArrowError::IpcError(
                "something follows its end-of-stream marker; send one stream a request".into(),
            ));
        }
        Ok(Self {
            limit,
            unpacked_bytes: walk.bytes,
            body,
        })
    }

    /// Bytes that its buffers take without their compression.
    pub fn unpacked_bytes(&self) -> u64 {
        self.unpacked_bytes
    }

    /// Reads it. The batches share the body's memory, as far as it is aligned. Run ends and
    /// dictionaries stay as they are: what they come to is counted.
    ///
    /// # Errors
    /// Where it is damaged, or too large without run ends and dictionaries.
    pub fn read(self) -> Result<IpcBatches, ArrowError> {
        let limit = self.limit;
        caught(|| {
            let (mut decoder, mut body) = (StreamDecoder::new(), Buffer::from(self.body));
            let (mut batches, mut plain) = (Vec::new(), 0_u64);
            while let Some(batch) = decoder.decode(&mut body)? {
                let left = limit.bytes.saturating_sub(plain);
                let more = plain_bytes(&batch, left).ok_or_else(|| limit.too_large())?;
                plain = limit.check(plain.saturating_add(more))?;
                batches.push(batch);
            }
            decoder.finish()?;
            let schema = decoder.schema();
            let schema = schema.ok_or_else(|| ArrowError::IpcError("it has no schema".into()))?;
            Ok(IpcBatches {
                schema,
                batches,
                plain_bytes: plain,
            })
        })
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

/// The length of the body that follows a message's header.
fn body_length(header: &[u8]) -> Result<u64, ArrowError> {
    let message = root_as_message(header).map_err(damaged)?;
    u64::try_from(message.bodyLength()).map_err(|_| damaged("a message has a length below 0"))
}

/// What the messages that were looked through take.
#[derive(Debug)]
struct Walk {
    limit: IpcLimit,
    /// Bytes of buffers without their compression.
    bytes: u64,
    rows: u64,
    /// Bytes of each dictionary.
    dictionaries: HashMap<i64, u64>,
    /// Bytes that were written to put dictionaries together.
    work: u64,
}

impl Walk {
    fn new(limit: IpcLimit) -> Self {
        Self {
            limit,
            bytes: 0,
            rows: 0,
            dictionaries: HashMap::new(),
            work: 0,
        }
    }

    /// Begins to count anew, besides dictionaries, which stay.
    fn next_batch(&mut self) {
        (self.bytes, self.rows, self.work) = (0, 0, 0);
        self.bytes = self.dictionaries.values().sum();
    }

    /// Looks at a message: what it states is within its body and the limit.
    fn message(&mut self, header: &[u8], body: &[u8]) -> Result<(), ArrowError> {
        let message = root_as_message(header).map_err(damaged)?;
        let dictionary = message.header_as_dictionary_batch();
        let batch = match dictionary {
            Some(dictionary) => dictionary.data(),
            None => message.header_as_record_batch(),
        };
        let Some(batch) = batch else {
            self.bytes = self.limit.check(self.bytes + body.len() as u64)?;
            return Ok(());
        };
        let rows = u64::try_from(batch.length())
            .map_err(|_| damaged("a message has a number of rows below 0"))?;
        if dictionary.is_none() {
            self.rows = self.rows.saturating_add(rows);
        }
        let most_rows = self.limit.most_rows();
        if self.rows.max(rows) > most_rows {
            return Err(ArrowError::IpcError(format!(
                "it has more than {most_rows} rows; send it in parts"
            )));
        }
        let bytes = self.batch(&batch, body)?;
        self.bytes = self.limit.check(self.bytes.saturating_add(bytes))?;
        if let Some(dictionary) = dictionary {
            let known = self.dictionaries.entry(dictionary.id()).or_default();
            *known = bytes.saturating_add(if dictionary.isDelta() { *known } else { 0 });
            self.work = self.work.saturating_add(*known);
            if self.work / DICTIONARY_WORK > self.limit.bytes {
                return Err(ArrowError::IpcError(
                    "its dictionaries come in too many parts; send each whole".into(),
                ));
            }
        }
        Ok(())
    }

    /// Bytes of a batch's buffers without their compression. Arrow's reader may copy each, so that
    /// those that lie on each other count each.
    fn batch(&self, batch: &BatchHeader<'_>, body: &[u8]) -> Result<u64, ArrowError> {
        // A bit is the least that a value takes.
        let most_values = self.limit.bytes.saturating_mul(8);
        for node in batch.nodes().into_iter().flatten() {
            let length = u64::try_from(node.length()).ok();
            let nulls = u64::try_from(node.null_count()).ok();
            let fits = length.is_some_and(|l| l <= most_values && nulls.is_some_and(|n| n <= l));
            if !fits {
                return Err(damaged("a column has an impossible length"));
            }
        }
        let codec = batch.compression().map(|c| c.codec());
        let mut bytes = 0_u64;
        let mut buffers = 0;
        for buffer in batch.buffers().into_iter().flatten() {
            let outside = || damaged("a buffer lies outside of its message");
            let start = usize::try_from(buffer.offset()).map_err(|_| outside())?;
            let length = usize::try_from(buffer.length()).map_err(|_| outside())?;
            let end = start.checked_add(length).ok_or_else(outside)?;
            let data = body.get(start..end).ok_or_else(outside)?;
            let left = self.limit.bytes.saturating_sub(bytes);
            bytes = bytes.saturating_add(match codec {
                Some(codec) if !data.is_empty() => self.unpacked(codec, data, left)?,
                _ => data.len() as u64,
            });
            self.limit.check(bytes)?;
            buffers += 1;
        }
        let counts = batch.variadicBufferCounts();
        let mut of_views = 0_i64;
        for count in counts.into_iter().flatten() {
            of_views = of_views.saturating_add(count);
            if count < 0 || of_views > buffers {
                return Err(damaged(
                    "a column of texts has an impossible number of buffers",
                ));
            }
        }
        Ok(bytes.max(body.len() as u64))
    }

    /// Bytes that a compressed buffer comes to.
    fn unpacked(&self, codec: CompressionType, data: &[u8], left: u64) -> Result<u64, ArrowError> {
        let (stated, packed) = data
            .split_first_chunk::<8>()
            .ok_or_else(|| damaged("a compressed buffer has no length"))?;
        let stated = i64::from_le_bytes(*stated);
        // -1 says that the buffer isn't compressed.
        if stated == -1 {
            return Ok(packed.len() as u64);
        }
        let stated = u64::try_from(stated)
            .map_err(|_| damaged("a compressed buffer has a length below 0"))?;
        if stated > left {
            return Err(self.limit.too_large());
        }
        if stated == 0 {
            return Ok(0);
        }
        // Arrow takes LZ4 apart to its end, whatever length was stated.
        if codec == CompressionType::LZ4_FRAME {
            let mut whole = lz4_flex::frame::FrameDecoder::new(packed).take(stated + 1);
            let found = std::io::copy(&mut whole, &mut std::io::sink()).map_err(damaged)?;
            if found != stated {
                return Err(damaged(
                    "a compressed buffer has another length than it states",
                ));
            }
        }
        Ok(stated)
    }
}
