//! How far a topic's WAL was synced, beside its segments: so that records which were acknowledged
//! and are not there any more are noticed, also where what is left looks like a torn write, or where
//! nothing is left.
//!
//! ```text
//! <root>/<topic>/SYNCED   | magic 4 "ASYN" | version u32 | end u64 | crc u32 |
//!                           crc: CRC-32C of the WAL's id, the topic and the 16 bytes before it
//! ```
//!
//! All integers are little-endian. It is written over after each group and never synced itself: a
//! process that is killed leaves it as it was, a power loss may leave an older one or none, and all
//! that any of them says is that the WAL went at least so far.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use super::files::FILE_MODE;
use super::identity::Owner;
use super::{Files, OpenFile};

const NAME: &str = "SYNCED";
const MAGIC: [u8; 4] = *b"ASYN";
const VERSION: u32 = 1;
const BYTES: usize = 20;

/// The note of how far a WAL was synced.
#[derive(Debug)]
pub(super) struct Synced {
    path: PathBuf,
    owner: Owner,
    file: NoteFile,
}

/// The file of a note.
#[derive(Debug)]
enum NoteFile {
    Open(Box<dyn OpenFile>),
    /// Until something is noted again.
    Closed,
    /// After an error: the note stays as it is.
    Failed,
}

impl Synced {
    /// Opens the note for writing. Where that is refused there is none: nothing rests on it.
    pub(super) fn open(files: &dyn Files, dir: &Path, owner: &Owner) -> Self {
        let mut synced = Self {
            path: dir.join(NAME),
            owner: owner.clone(),
            file: NoteFile::Closed,
        };
        let opened = synced.opened(files);
        synced.keep(opened);
        synced
    }

    fn opened(&self, files: &dyn Files) -> io::Result<Box<dyn OpenFile>> {
        match files.open(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => files.create(&self.path, FILE_MODE),
            opened => opened,
        }
    }

    fn keep(&mut self, file: io::Result<Box<dyn OpenFile>>) {
        self.file = match file {
            Ok(file) => NoteFile::Open(file),
            Err(error) => {
                let path = self.path.display();
                tracing::warn!(%path, %error, "how far the WAL is synced can't be noted");
                NoteFile::Failed
            }
        };
    }

    /// Whether its file is open.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.file, NoteFile::Open(_))
    }

    /// Closes its file until something is noted again.
    pub(super) fn close(&mut self) {
        if self.is_open() {
            self.file = NoteFile::Closed;
        }
    }

    /// Notes that the WAL is synced up to an offset.
    pub(super) fn note(&mut self, files: &dyn Files, end: u64) {
        let opened = match std::mem::replace(&mut self.file, NoteFile::Failed) {
            NoteFile::Failed => return,
            NoteFile::Open(file) => Ok(file),
            NoteFile::Closed => self.opened(files),
        };
        let note = encode(end, &self.owner);
        let written = opened.and_then(|mut file| {
            file.write_at(0, &mut [IoSlice::new(&note)])?;
            Ok(file)
        });
        self.keep(written);
    }
}

/// The offset up to which a WAL was synced at least; 0 where no note says.
pub(super) fn synced_end(files: &dyn Files, dir: &Path, owner: &Owner) -> u64 {
    let found = files.read(&dir.join(NAME)).unwrap_or_default();
    let end = found.get(8..16).and_then(|b| b.first_chunk());
    let end = end.map_or(0, |b| u64::from_le_bytes(*b));
    match found == encode(end, owner) {
        true => end,
        false => 0,
    }
}

fn encode(end: u64, owner: &Owner) -> [u8; BYTES] {
    let mut note = [0; BYTES];
    note[..4].copy_from_slice(&MAGIC);
    note[4..8].copy_from_slice(&VERSION.to_le_bytes());
    note[8..16].copy_from_slice(&end.to_le_bytes());
    let crc = crc32c::crc32c_append(owner.crc(), &note[..16]);
    note[16..].copy_from_slice(&crc.to_le_bytes());
    note
}
