//! Arrow IPC streams of requests: whole and within bounds, or refused.

use anabranch_shared::ipc::{CheckedStream, IpcLimit};
use anabranch_shared::{Error, Result};
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::error::ArrowError;
use bytes::Bytes;

/// What a request may take in memory.
pub(crate) fn of_request(max_request_bytes: u64) -> IpcLimit {
    IpcLimit {
        bytes: max_request_bytes,
        name: "`max_request_bytes` in `[daemon]`",
    }
}

/// The rows of a whole stream. What is taken for it is asked for with `grow` before it is taken: all
/// that the body and they take, in bytes, run ends and dictionaries as the plain values that they
/// come to.
///
/// # Errors
/// `Invalid` where the stream is cut, damaged, followed by something, or too large; what `grow` says.
pub(crate) fn read(
    body: Bytes,
    limit: IpcLimit,
    mut grow: impl FnMut(u64) -> Result<()>,
) -> Result<RecordBatch> {
    let came = body.len() as u64;
    let checked = CheckedStream::new(body, limit).map_err(invalid)?;
    let unpacked = checked.unpacked_bytes();
    // What is not compressed lies in the body.
    let held = came + if unpacked > came { unpacked } else { 0 };
    grow(held)?;
    let read = checked.read().map_err(invalid)?;
    grow(held + read.plain_bytes.saturating_sub(unpacked))?;
    match read.batches.as_slice() {
        [one] => Ok(one.clone()),
        many => concat_batches(&read.schema, many).map_err(invalid),
    }
}

fn invalid(e: ArrowError) -> Error {
    Error::Invalid(format!(
        "the body is not a whole Arrow IPC stream, and nothing of it was admitted: {e}"
    ))
}
