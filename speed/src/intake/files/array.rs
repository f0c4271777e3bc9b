//! A JSON array of records as lines of them: each item becomes a line, wherever the array breaks its lines. Owns no
//! verdict: what is between two commas becomes a line, whatever it is, and admission says what is wrong with it.

use std::io::{self, Cursor, Read};

use bytes::Bytes;

use super::stream::Stream;
use crate::intake::admission::BYTE_ORDER_MARK;

const READ_BYTES: usize = 256 * 1024;

/// What records of JSON stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One a line.
    Lines,
    /// An array, whose items are made lines.
    Array,
}

/// Whether a text begins with an array.
pub(crate) fn begins_array(text: &[u8]) -> bool {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    text.trim_ascii_start().first() == Some(&b'[')
}

/// The items of an array, a line each. What follows the array is left as it is, but for its own arrays.
///
/// # Errors
/// Where the array does not end.
pub(crate) fn lines_of_array(text: &[u8]) -> io::Result<Bytes> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let mut lines = Vec::with_capacity(text.len() + 1);
    let mut splitter = Splitter::default();
    splitter.push(text, &mut lines);
    splitter.end()?;
    Ok(lines.into())
}

/// A stream as lines of records.
pub(super) fn opened(mut stream: Stream) -> io::Result<(Stream, Shape)> {
    let mut head = Vec::new();
    loop {
        let before = head.len();
        stream.by_ref().take(64).read_to_end(&mut head)?;
        let ended = head.len() == before;
        let begins = head
            .iter()
            .find(|byte| !byte.is_ascii_whitespace())
            .copied();
        // More space than this before the first record is passed over as lines are.
        if begins.is_none() && !ended && head.len() < READ_BYTES {
            continue;
        }
        let whole: Stream = Box::new(Cursor::new(head).chain(stream));
        return Ok(match begins {
            Some(b'[') => (Box::new(ArrayLines::new(whole)), Shape::Array),
            _ => (whole, Shape::Lines),
        });
    }
}

/// The items of arrays, as a stream of lines.
struct ArrayLines {
    inner: Stream,
    splitter: Splitter,
    input: Vec<u8>,
    lines: Vec<u8>,
    /// What of `lines` was read.
    at: usize,
}

impl ArrayLines {
    fn new(inner: Stream) -> Self {
        Self {
            inner,
            splitter: Splitter::default(),
            input: vec![0; READ_BYTES],
            lines: Vec::new(),
            at: 0,
        }
    }
}

impl Read for ArrayLines {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.lines.len() {
            self.lines.clear();
            self.at = 0;
            match self.inner.read(&mut self.input) {
                Ok(0) => {
                    self.splitter.end()?;
                    return Ok(0);
                }
                Ok(read) => self.splitter.push(&self.input[..read], &mut self.lines),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let read = buffer.len().min(self.lines.len() - self.at);
        buffer[..read].copy_from_slice(&self.lines[self.at..self.at + read]);
        self.at += read;
        Ok(read)
    }
}

/// Makes lines of the items of arrays, byte by byte.
#[derive(Debug, Default)]
struct Splitter {
    /// How many brackets and braces are open.
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// Whether the item, or what stands outside of any array, has a byte that is no space.
    has_item: bool,
    /// Whether a comma asks for one more item.
    wants_item: bool,
}

impl Splitter {
    fn push(&mut self, text: &[u8], lines: &mut Vec<u8>) {
        for &byte in text {
            if self.in_string {
                // Another control character, which no string may hold either, keeps the record one line.
                let breaks = matches!(byte, b'\n' | b'\r');
                lines.push(if breaks { b'\x0b' } else { byte });
                self.in_string = byte != b'"' || self.escaped;
                self.escaped = byte == b'\\' && !self.escaped;
                continue;
            }
            match (self.depth, byte) {
                (0, b'[') if !self.has_item => self.depth = 1,
                (0, b'\n') => {
                    lines.push(b'\n');
                    self.has_item = false;
                }
                (1, b',') => {
                    self.end_item(true, lines);
                    self.wants_item = true;
                }
                (1, b']') => {
                    self.end_item(self.wants_item, lines);
                    self.wants_item = false;
                    self.depth = 0;
                }
                (_, b'\n' | b'\r' | b' ' | b'\t') => lines.push(b' '),
                (depth, byte) => {
                    self.has_item = true;
                    lines.push(byte);
                    match byte {
                        // Outside of arrays lines are lines: nothing is open at the end of one.
                        b'"' => self.in_string = depth > 0,
                        b'[' | b'{' if depth > 0 => self.depth = depth.saturating_add(1),
                        b']' | b'}' if depth > 1 => self.depth = depth - 1,
                        _ => {}
                    }
                }
            }
        }
    }

    /// Ends an item. One that is `wanted` and is not there is a fault, which the comma alone on its line shows.
    fn end_item(&mut self, wanted: bool, lines: &mut Vec<u8>) {
        if wanted && !self.has_item {
            lines.push(b',');
        }
        lines.push(b'\n');
        self.has_item = false;
    }

    fn end(&self) -> io::Result<()> {
        match self.depth {
            0 => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the array of records does not end: it is cut off",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Result<Vec<String>, String> {
        let whole = lines_of_array(text.as_bytes()).map_err(|e| e.to_string())?;
        // The same, however it comes.
        for size in [1, 3] {
            let mut splitter = Splitter::default();
            let mut parts = Vec::new();
            text.as_bytes()
                .chunks(size)
                .for_each(|part| splitter.push(part, &mut parts));
            assert_eq!(parts, whole, "{text}");
        }
        let whole = String::from_utf8_lossy(&whole).into_owned();
        let lines = whole.lines().map(str::trim).filter(|line| !line.is_empty());
        Ok(lines.map(str::to_owned).collect())
    }

    #[test]
    fn items_are_lines_wherever_their_array_breaks() {
        for (text, expected) in [
            ("[]", vec![]),
            (" [ ] \n", vec![]),
            ("[{\"a\":1}]", vec!["{\"a\":1}"]),
            (
                "[\n  {\n    \"a\": [1,\n2],\"b\":{\"c\":\"],[\\\"{\"}\n  },\n  {}\n]\n",
                vec!["{     \"a\": [1, 2],\"b\":{\"c\":\"],[\\\"{\"}   }", "{}"],
            ),
            // A line break in a string is no JSON, and stays none.
            ("[{\"a\":\"x\ny\"},{}]", vec!["{\"a\":\"x\u{b}y\"}", "{}"]),
            // What lacks an item is a fault.
            ("[{},,{}]", vec!["{}", ",", "{}"]),
            ("[{},]", vec!["{}", ","]),
            ("[1,null]", vec!["1", "null"]),
            // Arrays one after the other, and lines behind them.
            (
                "[{}]\n[{\"a\":1}]\n{\"b\":2}\n",
                vec!["{}", "{\"a\":1}", "{\"b\":2}"],
            ),
            ("[{\"a\":1]", vec![]),
        ] {
            let found = lines(text);
            if text == "[{\"a\":1]" {
                assert!(found.is_err_and(|e| e.contains("does not end")));
                continue;
            }
            assert_eq!(
                found,
                Ok(expected.iter().map(|l| (*l).to_owned()).collect()),
                "{text}"
            );
        }
    }

    #[test]
    fn arrays_are_known_by_their_first_byte() {
        assert!(begins_array(b"\xef\xbb\xbf \n[") && begins_array(b"[1"));
        assert!(!begins_array(b"{}[") && !begins_array(b"") && !begins_array(b" "));
    }
}
