//! Lines of JSON in chunks of whole lines. Memory is bounded by the larger of a chunk and the longest line allowed.

use std::io::{self, Read};

use bytes::Bytes;
use memchr::{memchr, memrchr};

use super::array::Shape;
use super::stream::Stream;
use super::{
    CHUNK_BYTES, CHUNK_RECORDS, Chunk, ChunkData, ChunkReader, FileError, Position, line_ends,
};
use crate::intake::admission::{RAW_BYTES, is_blank, lines, oversized};

const SKIP_BYTES: usize = 256 * 1024;

/// Invariant: `buffer` begins at the start of a line, the first after those in `ready`.
pub(super) struct NdjsonReader {
    stream: Stream,
    position: Position,
    max_record_bytes: usize,
    buffer: Vec<u8>,
    /// Whole lines that have left `buffer` but haven't been yielded.
    ready: Bytes,
    /// The line of the file with which `ready`, or else `buffer`, begins, from 1.
    line: u64,
    shape: Shape,
    end: End,
}

enum End {
    NotYet,
    Clean,
    Failed(Option<io::Error>),
}

impl NdjsonReader {
    pub(super) fn new(
        stream: Stream,
        position: Position,
        max_record_bytes: usize,
        shape: Shape,
    ) -> Self {
        Self {
            stream,
            position,
            max_record_bytes,
            buffer: Vec::new(),
            ready: Bytes::new(),
            line: 1,
            shape,
            end: End::NotYet,
        }
    }

    #[cfg(test)]
    pub(super) fn capacity_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Reads until the buffer holds `target` bytes, or to the end.
    fn fill(&mut self, target: usize) {
        if !matches!(self.end, End::NotYet) || self.buffer.len() >= target {
            return;
        }
        let wanted = target - self.buffer.len();
        self.buffer.reserve(wanted);
        match self
            .stream
            .by_ref()
            .take(wanted as u64)
            .read_to_end(&mut self.buffer)
        {
            Ok(read) if read < wanted => self.end = End::Clean,
            Ok(_) => {}
            Err(error) => self.end = End::Failed(Some(error)),
        }
    }

    /// Takes zeros off the beginning of a line that is not whole yet: a log that was copied and truncated while its
    /// writer went on begins with as many as it held before, more than a line may be long.
    fn drop_padding(&mut self) {
        let zeros = self.buffer.iter().take_while(|byte| **byte == 0).count();
        if zeros > 0 && memchr(b'\n', &self.buffer).is_none() {
            self.buffer.drain(..zeros);
        }
    }

    /// Moves the whole lines that have been read to `ready`.
    fn take_lines(&mut self, len: usize) {
        let rest = self.buffer[len..].to_vec();
        let mut taken = std::mem::replace(&mut self.buffer, rest);
        taken.truncate(len);
        self.ready = Bytes::from(taken);
    }

    /// A chunk of what is ready; `None` if that holds blank lines only.
    fn ready_chunk(&mut self) -> Option<Chunk> {
        let (mut records, mut end) = (0, self.ready.len());
        for line in lines(&self.ready) {
            if records == CHUNK_RECORDS {
                end = line.start;
                break;
            }
            records += 1;
        }
        let bytes = self.ready.split_to(end);
        let first_line = self.line;
        self.line += line_ends(&bytes);
        (records > 0).then(|| {
            let data = ChunkData::Ndjson(bytes);
            let chunk = self.position.chunk(data, Vec::new(), records as u64);
            let first_line = match self.shape {
                Shape::Lines => first_line,
                Shape::Array => 0,
            };
            Chunk {
                first_line,
                ..chunk
            }
        })
    }

    /// Passes over a line that is too long to hold, keeping its head and its length.
    fn skip_line(&mut self) -> Result<Option<Chunk>, FileError> {
        let mut head = self.buffer[..self.buffer.len().min(RAW_BYTES)].to_vec();
        let mut size_bytes = 0_u64;
        let mut blank = true;
        let mut last = 0;
        loop {
            let newline = memchr(b'\n', &self.buffer);
            let part = &self.buffer[..newline.unwrap_or(self.buffer.len())];
            size_bytes += part.len() as u64;
            blank = blank && is_blank(part);
            last = part.last().copied().unwrap_or(last);
            if let Some(newline) = newline {
                self.buffer.drain(..=newline);
                break;
            }
            self.buffer.clear();
            self.fill(SKIP_BYTES);
            if self.buffer.is_empty() {
                match &mut self.end {
                    End::Failed(error) => return Err(failure(&self.position, error)),
                    _ => break,
                }
            }
        }
        size_bytes -= u64::from(last == b'\r');
        head.truncate(
            usize::try_from(size_bytes)
                .unwrap_or(usize::MAX)
                .min(RAW_BYTES),
        );
        let line = self.line;
        self.line += 1;
        if blank {
            return Ok(None);
        }
        let mut dead = oversized(0, line, &head, size_bytes, self.max_record_bytes);
        dead.line = dead.line.filter(|_| self.shape == Shape::Lines);
        Ok(Some(self.position.chunk(
            ChunkData::Ndjson(Bytes::new()),
            vec![dead],
            1,
        )))
    }
}

impl ChunkReader for NdjsonReader {
    fn next_chunk(&mut self) -> Result<Option<Chunk>, FileError> {
        let mut target = CHUNK_BYTES;
        loop {
            if let Some(chunk) = self.ready_chunk() {
                return Ok(Some(chunk));
            }
            self.fill(target);
            self.drop_padding();
            let whole_lines = match memrchr(b'\n', &self.buffer) {
                _ if matches!(self.end, End::Clean) => self.buffer.len(),
                Some(newline) => newline + 1,
                None => 0,
            };
            if whole_lines == 0 {
                match &mut self.end {
                    End::Clean => return Ok(None),
                    End::Failed(error) => return Err(failure(&self.position, error)),
                    // One byte over the limit may still be the line's `\r`.
                    End::NotYet if self.buffer.len() > self.max_record_bytes.saturating_add(1) => {
                        if let Some(chunk) = self.skip_line()? {
                            return Ok(Some(chunk));
                        }
                        target = CHUNK_BYTES;
                    }
                    End::NotYet => {
                        let longest = self.max_record_bytes.saturating_add(2);
                        target = self
                            .buffer
                            .len()
                            .saturating_mul(2)
                            .min(longest)
                            .max(CHUNK_BYTES);
                    }
                }
                continue;
            }
            self.take_lines(whole_lines);
        }
    }
}

/// The error that ended the stream. It is reported once; the iterator ends there.
fn failure(position: &Position, error: &mut Option<io::Error>) -> FileError {
    position.read_error(
        error
            .take()
            .unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()),
    )
}
