//! Arrow IPC streams of requests: whole and within bounds, or refused. Arrow's reader believes the lengths that a
//! stream states, allocates by them, and panics on some that contradict each other; what comes over the network is
//! checked before.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anabranch_shared::{Error, Result};
use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::compute::concat_batches;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::{Message, MessageHeader, RecordBatch as BatchHeader, root_as_message};
use bytes::Bytes;

/// How a message begins, in streams since Arrow 0.15.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// How a stream says that it ends: a continuation marker, and a message of no length.
pub(crate) const STREAM_END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// The least that a fact takes in memory, in bytes: its event time.
const FACT_BYTES: u64 = 8;

/// The rows of a whole stream that takes up to `limit` bytes in memory.
///
/// # Errors
/// `Invalid` where the stream is cut, damaged, followed by something, or too large.
pub(crate) fn read(body: Bytes, limit: u64) -> Result<RecordBatch> {
    check(&body, limit).map_err(invalid)?;
    let batches = || -> std::result::Result<RecordBatch, ArrowError> {
        // The batches share the body's memory, as far as it is aligned.
        let (mut decoder, mut body) = (StreamDecoder::new(), Buffer::from(body));
        let (mut batches, mut rows) = (Vec::new(), 0_u64);
        while let Some(batch) = decoder.decode(&mut body)? {
            rows = rows.saturating_add(batch.num_rows() as u64);
            if rows > limit / FACT_BYTES {
                return Err(ArrowError::IpcError(format!(
                    "it has more than {} rows; send it in parts",
                    limit / FACT_BYTES
                )));
            }
            batches.push(batch);
        }
        decoder.finish()?;
        let schema = decoder.schema();
        let schema = schema.ok_or_else(|| ArrowError::IpcError("it has no schema".into()))?;
        match batches.as_slice() {
            [one] => Ok(one.clone()),
            many => concat_batches(&schema, many),
        }
    };
    caught(batches).map_err(invalid)
}

fn invalid(e: impl std::fmt::Display) -> Error {
    Error::Invalid(format!(
        "the body is not a whole Arrow IPC stream, and nothing of it was admitted: {e}"
    ))
}

/// Runs something that reads Arrow data; where it panics the data are at fault.
pub(crate) fn caught<T>(
    read: impl FnOnce() -> std::result::Result<T, ArrowError>,
) -> std::result::Result<T, ArrowError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
        let said = said.unwrap_or("its lengths contradict each other");
        Err(ArrowError::IpcError(format!("it is damaged: {said}")))
    })
}

/// Walks over a stream's messages: each lies within the body, and the last is the end.
fn check(body: &[u8], limit: u64) -> std::result::Result<(), String> {
    let cut = || "it ends before its end-of-stream marker; send it again, whole".to_owned();
    let mut rest = body;
    let mut unpacked = 0_u64;
    loop {
        let mut length = take(&mut rest, 4).ok_or_else(cut)?;
        if length == CONTINUATION {
            length = take(&mut rest, 4).ok_or_else(cut)?;
        }
        let length = length.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
        if length == 0 {
            return match rest.is_empty() {
                true => Ok(()),
                false => Err(
                    "something follows its end-of-stream marker; send one stream a request".into(),
                ),
            };
        }
        let header = take(&mut rest, length).ok_or_else(cut)?;
        let message = root_as_message(header).map_err(|e| format!("it is damaged: {e}"))?;
        let length = usize::try_from(message.bodyLength())
            .map_err(|_| "it is damaged: a message has a length below 0".to_owned())?;
        let data = take(&mut rest, length).ok_or_else(cut)?;
        unpacked = unpacked.saturating_add(unpacked_bytes(&message, data));
        if unpacked > limit {
            return Err(format!(
                "it is larger than {limit} bytes (`max_request_bytes` in `[daemon]`) without its compression; send it in parts"
            ));
        }
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

/// How many bytes a message's buffers state that they take without their compression.
fn unpacked_bytes(message: &Message<'_>, data: &[u8]) -> u64 {
    let batch: Option<BatchHeader<'_>> = match message.header_type() {
        MessageHeader::RecordBatch => message.header_as_record_batch(),
        MessageHeader::DictionaryBatch => {
            message.header_as_dictionary_batch().and_then(|d| d.data())
        }
        _ => None,
    };
    let Some(batch) = batch.filter(|b| b.compression().is_some()) else {
        return data.len() as u64;
    };
    let stated = |offset: i64| -> Option<u64> {
        let start = usize::try_from(offset).ok()?;
        let prefix = data.get(start..)?.first_chunk::<8>()?;
        // -1 says that the buffer isn't compressed; its bytes are counted as they are.
        Some(u64::try_from(i64::from_le_bytes(*prefix)).unwrap_or(0))
    };
    let buffers = batch.buffers().into_iter().flatten();
    buffers
        .filter_map(|b| stated(b.offset()))
        .fold(data.len() as u64, u64::saturating_add)
}
