//! Arrow IPC out of files and other streams of bytes: batch by batch, so that no more than one is in
//! memory. The limit is that of one batch with the dictionaries that it needs.

use std::collections::VecDeque;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::reader::{FileDecoder, StreamDecoder};
use arrow::ipc::{Block, root_as_footer};

use super::{CONTINUATION, HEADER_BYTES, IpcLimit, Walk, body_length, caught, damaged};

/// What a file begins and ends with.
const MAGIC: &[u8; 6] = b"ARROW1";

/// Bytes after a file's footer: its length, and the magic.
const TRAILER_BYTES: u64 = 4 + MAGIC.len() as u64;

/// The longest footer of a file, in bytes.
const FOOTER_BYTES: u64 = 256 << 20;

/// So many bytes, which take memory as they come.
fn read_bytes(reader: &mut impl Read, bytes: u64) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    reader.take(bytes).read_to_end(&mut out)?;
    match out.len() as u64 == bytes {
        true => Ok(out),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The batches of a stream, one after the other. It must end with its marker, and nothing may follow.
#[derive(Debug)]
pub struct IpcStream<R> {
    reader: R,
    decoder: StreamDecoder,
    walk: Walk,
    /// Batches of a message that was read.
    ready: VecDeque<RecordBatch>,
    /// Whether the decoder has been given how the next message begins: without that it keeps back a
    /// message that has no body.
    begun: bool,
    ended: bool,
}

impl<R: Read> IpcStream<R> {
    /// Begins to read a stream: its schema.
    ///
    /// # Errors
    /// Where it does not begin as a stream does.
    pub fn open(reader: R, limit: IpcLimit) -> Result<Self, ArrowError> {
        let mut stream = Self {
            reader,
            decoder: StreamDecoder::new(),
            walk: Walk::new(limit),
            ready: VecDeque::new(),
            begun: false,
            ended: false,
        };
        stream.ended = !stream.message()?;
        Ok(stream)
    }

    /// The columns of its batches; `None` where it ended before them.
    pub fn schema(&self) -> Option<SchemaRef> {
        self.decoder.schema()
    }

    fn four(&mut self) -> Result<[u8; 4], ArrowError> {
        let mut four = [0; 4];
        match self.reader.read_exact(&mut four) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(ArrowError::IpcError(
                "the stream ends without its end-of-stream marker: it is cut off".into(),
            )),
            read => {
                read?;
                Ok(four)
            }
        }
    }

    /// Reads a message; `false` at the end.
    fn message(&mut self) -> Result<bool, ArrowError> {
        let mut length = self.four()?;
        let mut begin = length.to_vec();
        if length == CONTINUATION {
            length = self.four()?;
            begin.extend(length);
            if std::mem::take(&mut self.begun) {
                begin.drain(..CONTINUATION.len());
            }
        }
        let length = u32::from_le_bytes(length) as usize;
        if length == 0 {
            return match self.reader.read(&mut [0])? {
                0 => Ok(false),
                _ => Err(ArrowError::IpcError(
                    "something follows the end-of-stream marker: write one stream a file".into(),
                )),
            };
        }
        if length > HEADER_BYTES {
            return Err(damaged(format!("a message has a header of {length} bytes")));
        }
        let header = read_bytes(&mut self.reader, length as u64)?;
        let bytes = body_length(&header)?;
        self.walk.limit.check(bytes)?;
        let body = read_bytes(&mut self.reader, bytes)?;
        self.walk.message(&header, &body)?;
        begin.extend(header);
        let is_empty = body.is_empty();
        for part in [begin, body] {
            self.decode(part)?;
        }
        if is_empty {
            self.decode(CONTINUATION.to_vec())?;
            self.begun = true;
        }
        Ok(true)
    }

    fn decode(&mut self, part: Vec<u8>) -> Result<(), ArrowError> {
        let mut part = Buffer::from_vec(part);
        while !part.is_empty() {
            let decoder = &mut self.decoder;
            self.ready.extend(caught(|| decoder.decode(&mut part))?);
        }
        Ok(())
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            self.walk.next_batch();
            if self.ended {
                return Ok(None);
            }
            self.ended = !self.message()?;
        }
    }
}

impl<R: Read> Iterator for IpcStream<R> {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_batch().transpose();
        self.ended |= !matches!(next, Some(Ok(_)));
        next
    }
}

/// The batches of a file, one after the other.
#[derive(Debug)]
pub struct IpcFile<R> {
    reader: R,
    bytes: u64,
    decoder: FileDecoder,
    walk: Walk,
    blocks: Vec<Block>,
    next: usize,
}

impl<R: Read + Seek> IpcFile<R> {
    /// Reads the file's footer and its dictionaries.
    ///
    /// # Errors
    /// Where the file is cut, damaged or larger than the limit.
    pub fn open(mut reader: R, limit: IpcLimit) -> Result<Self, ArrowError> {
        let bytes = reader.seek(SeekFrom::End(0))?;
        let cut = || damaged("it is cut, or its footer is damaged");
        let footer_end = bytes.checked_sub(TRAILER_BYTES).ok_or_else(cut)?;
        reader.seek(SeekFrom::Start(footer_end))?;
        let trailer = read_bytes(&mut reader, TRAILER_BYTES)?;
        let (length, magic) = trailer.split_first_chunk::<4>().ok_or_else(cut)?;
        let length = u64::from(u32::from_le_bytes(*length));
        let start = footer_end.checked_sub(length).ok_or_else(cut)?;
        if magic != MAGIC || length > FOOTER_BYTES {
            return Err(cut());
        }
        reader.seek(SeekFrom::Start(start))?;
        let footer = read_bytes(&mut reader, length)?;
        let footer = root_as_footer(&footer).map_err(damaged)?;
        let schema = footer.schema().ok_or_else(cut)?;
        if !schema.endianness().equals_to_target_endianness() {
            return Err(ArrowError::IpcError(
                "its numbers are big-endian; write it on a little-endian machine".into(),
            ));
        }
        let schema = caught(|| Ok(fb_to_schema(schema)))?;
        let blocks = footer.recordBatches().ok_or_else(cut)?;
        let mut file = Self {
            reader,
            bytes,
            decoder: FileDecoder::new(Arc::new(schema), footer.version()),
            walk: Walk::new(limit),
            blocks: blocks.iter().copied().collect(),
            next: 0,
        };
        for block in footer.dictionaries().into_iter().flatten() {
            let data = file.block(block)?;
            let decoder = &mut file.decoder;
            caught(|| decoder.read_dictionary(block, &data))?;
        }
        Ok(file)
    }

    /// How many batches it has.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// A message with its body, looked through.
    fn block(&mut self, block: &Block) -> Result<Buffer, ArrowError> {
        let outside = || damaged("a batch lies outside of the file");
        let start = u64::try_from(block.offset()).map_err(|_| outside())?;
        let header = u64::try_from(block.metaDataLength()).map_err(|_| outside())?;
        let body = u64::try_from(block.bodyLength()).map_err(|_| outside())?;
        let length = header.checked_add(body).ok_or_else(outside)?;
        let end = start.checked_add(length).ok_or_else(outside)?;
        if end > self.bytes {
            return Err(outside());
        }
        self.walk.limit.check(length)?;
        self.reader.seek(SeekFrom::Start(start))?;
        let data = read_bytes(&mut self.reader, length)?;
        let header = usize::try_from(header).map_err(|_| outside())?;
        let (message, body) = data.split_at_checked(header).ok_or_else(outside)?;
        let skipped = if message.starts_with(&CONTINUATION) {
            8
        } else {
            4
        };
        let message = message.get(skipped..).ok_or_else(outside)?;
        self.walk.message(message, body)?;
        Ok(Buffer::from_vec(data))
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        while let Some(block) = self.blocks.get(self.next).copied() {
            self.next += 1;
            self.walk.next_batch();
            let data = self.block(&block)?;
            let decoder = &self.decoder;
            if let Some(batch) = caught(|| decoder.read_record_batch(&block, &data))? {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }
}

impl<R: Read + Seek> Iterator for IpcFile<R> {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_batch().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.next = self.blocks.len();
        }
        next
    }
}
