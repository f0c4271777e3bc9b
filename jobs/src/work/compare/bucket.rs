//! A bucket of rows as bytes, in memory and behind that in a temporary file.
//!
//! ```text
//!   row    = length of exact (u32 LE) · exact · float …
//!   float  = 0 or 1 (u8) · value (f64 LE)
//! ```

use std::fs::File;
use std::hash::Hasher;
use std::io::{Read, Seek, Write};

use anabranch_shared::{Error, Result};

/// Bytes of a stored float.
const FLOAT: usize = 9;

/// Which of `buckets` buckets rows with these exact values are in.
pub(super) fn number(exact: &[u8], buckets: usize) -> usize {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(exact);
    (hasher.finish() % buckets as u64) as usize
}

/// Rows, in the order in which they were pushed.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    held: Vec<u8>,
    file: Option<File>,
    in_file: u64,
}

fn failed(source: std::io::Error) -> Error {
    Error::io("a temporary file of the comparison", source)
}

impl Bucket {
    /// Adds a row; returns by how many bytes of memory the bucket grew for it.
    pub(super) fn push(
        &mut self,
        exact: &[u8],
        floats: impl Iterator<Item = Option<f64>>,
    ) -> usize {
        let before = self.held.capacity();
        // Rows are far below 4 GiB: an Arrow array of them has offsets of 32 bits.
        self.held
            .extend_from_slice(&(exact.len() as u32).to_le_bytes());
        self.held.extend_from_slice(exact);
        for value in floats {
            self.held.push(u8::from(value.is_some()));
            self.held
                .extend_from_slice(&value.unwrap_or_default().to_le_bytes());
        }
        self.held.capacity() - before
    }

    /// Moves what is in memory to a temporary file, which goes with the bucket.
    pub(super) fn spill(&mut self) -> Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let mut file = match self.file.take() {
            Some(file) => file,
            None => tempfile::tempfile().map_err(failed)?,
        };
        file.write_all(&self.held).map_err(failed)?;
        self.in_file += self.held.len() as u64;
        self.held = Vec::new();
        self.file = Some(file);
        Ok(())
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.in_file + self.held.len() as u64
    }

    /// All rows.
    pub(super) fn read(self) -> Result<Vec<u8>> {
        let Some(mut file) = self.file else {
            return Ok(self.held);
        };
        let mut all = Vec::with_capacity(usize::try_from(self.in_file).unwrap_or(0));
        file.rewind().map_err(failed)?;
        file.read_to_end(&mut all).map_err(failed)?;
        all.extend_from_slice(&self.held);
        Ok(all)
    }
}

/// A row of a bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored<'a> {
    /// The values that are compared by equality.
    pub(super) exact: &'a [u8],
    floats: &'a [u8],
}

impl<'a> Stored<'a> {
    /// The values that are compared within a bound.
    pub(super) fn floats(&self) -> impl Iterator<Item = Option<f64>> + use<'a> {
        self.floats.as_chunks::<FLOAT>().0.iter().map(|value| {
            let [valid, bytes @ ..] = *value;
            (valid == 1).then(|| f64::from_le_bytes(bytes))
        })
    }
}

/// The rows of a bucket's bytes, with so many floats each.
pub(super) fn rows(bytes: &[u8], floats: usize) -> impl Iterator<Item = Stored<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (exact, after) = after.split_at_checked(length)?;
        let (floats, after) = after.split_at_checked(floats * FLOAT)?;
        rest = after;
        Some(Stored { exact, floats })
    })
}
