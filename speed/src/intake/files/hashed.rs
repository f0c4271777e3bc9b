//! The SHA-256 of what is read once and only once, such as standard input.

use std::io::{self, Read};
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// A reader that hashes what is read through it.
#[derive(Debug)]
pub struct Hashed<R> {
    reader: R,
    digest: ContentDigest,
}

/// The hash of what a [`Hashed`] was asked for so far.
#[derive(Clone, Debug, Default)]
pub struct ContentDigest(Arc<Mutex<Sha256>>);

impl<R: Read> Hashed<R> {
    /// Hashes what is read, and gives who knows the hash.
    pub fn new(reader: R) -> (Self, ContentDigest) {
        let digest = ContentDigest::default();
        let hashed = Self {
            reader,
            digest: digest.clone(),
        };
        (hashed, digest)
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.digest.0.lock().update(&buffer[..read]);
        Ok(read)
    }
}

impl ContentDigest {
    /// The hash of what was read, and of the rest that its reader left.
    ///
    /// # Errors
    /// Those of reading the rest.
    pub fn finish(&self, mut rest: impl Read) -> io::Result<[u8; 32]> {
        let mut buffer = vec![0; 128 * 1024];
        let mut digest = self.0.lock().clone();
        loop {
            match rest.read(&mut buffer) {
                Ok(0) => return Ok(digest.finalize().into()),
                Ok(read) => digest.update(&buffer[..read]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}
