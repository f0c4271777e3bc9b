//! What readers of files hand over: runs of consecutive records.

use arrow::array::RecordBatch;
use bytes::Bytes;

use super::DeadLetter;

/// A run of consecutive records.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The number of its first record in the file, from 0.
    pub first_record: u64,
    /// How many records it holds, those in `dead` included.
    pub record_count: u64,
    /// Of lines of JSON, the line of the file with which `data` begins, from 1; 0 of the records of an array, which may
    /// be on any line.
    pub first_line: u64,
    /// Its records, except those in `dead`.
    pub data: ChunkData,
    /// Records that the reader gave up on, ascending; indices count from `first_record`.
    pub dead: Vec<DeadLetter>,
    /// Bytes of the source read up to the end of this chunk, before decompression: progress against the file's size.
    /// For Parquet the share of the file that its rows make up.
    pub bytes_read: u64,
}

/// A chunk's records, by the way in which admission reads them.
#[derive(Debug, Clone)]
pub enum ChunkData {
    /// Lines of JSON.
    Ndjson(Bytes),
    /// Typed rows.
    Batch(RecordBatch),
    /// Rows of strings that stand for values of any type, and the line of the file on which each begins.
    Text(RecordBatch, Vec<u64>),
}
