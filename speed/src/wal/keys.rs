//! What must outlive the segments: entries that were in records and are still needed when the
//! segments of those records are removed. Owns the files that hold them; what an entry is, and how
//! long it is needed, is the caller's.
//!
//! ```text
//! <root>/<topic>/{number:020}.keys       one file of frames; the newest has all that count
//!
//! frame | magic 4 "AKEY" | version u32 | len u32 | payload crc u32 | crc u32 | payload |
//!         crc: CRC-32C of the frame's position in the file (u64, not stored) and the 16 bytes
//!              before it
//! ```
//!
//! All integers are little-endian. A frame is written and synced before the next one is begun, so
//! what is not whole at the end of a file was never relied on; before its end it is damage. Each
//! life of a process begins with a file of its own, because it can't know whether what it reads
//! was ever synced; older files go when that one is durable. So opening gives entries that don't
//! count any more, and the same entry more than once.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::files::{FILE_MODE, topic_dir};
use super::{Files, OpenFile, SyncPoint, WalError};

const MAGIC: [u8; 4] = *b"AKEY";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 20;
const SUFFIX: &str = ".keys";

/// The entries of one topic that outlive its segments.
#[derive(Debug)]
pub struct KeyLog {
    dir: PathBuf,
    files: Arc<dyn Files>,
    active: Option<Active>,
    /// The number of the next file.
    next: u64,
    /// Files that go once another is durable.
    stale: Vec<PathBuf>,
}

#[derive(Debug)]
struct Active {
    path: PathBuf,
    bytes: u64,
    /// `None` until something is kept again: see [`KeyLog::close_file`].
    file: Option<Box<dyn OpenFile>>,
}

impl KeyLog {
    /// Opens the entries of `topic` below the directory `root`, where [`super::Wal::open`] has been
    /// before, and hands what was kept to `each`, payload by payload.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] if something that was kept may be missing or altered;
    /// [`WalError::Io`] if the file system refuses.
    pub fn open(
        root: &Path,
        topic: &str,
        files: Arc<dyn Files>,
        each: &mut dyn FnMut(Bytes),
    ) -> Result<Self, WalError> {
        let dir = topic_dir(root, topic)?;
        let names = files
            .list(&dir)
            .map_err(|source| WalError::io(&dir, "list", source))?;
        let mut numbers: Vec<u64> = names
            .iter()
            .filter_map(|name| name.strip_suffix(SUFFIX)?.parse().ok())
            .collect();
        numbers.sort_unstable();
        let mut stale = Vec::new();
        for number in &numbers {
            let path = dir.join(file_name(*number));
            let bytes = files
                .read(&path)
                .map_err(|source| WalError::io(&path, "read", source))?;
            read_frames(&path, &bytes.into(), each)?;
            stale.push(path);
        }
        Ok(Self {
            dir,
            files,
            active: None,
            next: numbers.last().map_or(0, |last| last.saturating_add(1)),
            stale,
        })
    }

    /// The bytes of the file of this life; `None` where it has none: then the next to be kept is
    /// [`KeyLog::replace`].
    pub fn bytes(&self) -> Option<u64> {
        self.active.as_ref().map(|active| active.bytes)
    }

    /// Closes the file of this life until something is kept again: all that it holds is synced.
    pub fn close_file(&mut self) {
        if let Some(active) = &mut self.active {
            active.file = None;
        }
    }

    /// Keeps `payload` besides what was kept in this life. It is durable on return.
    ///
    /// # Errors
    /// [`WalError::Io`] if the file system refuses, or where there is no file of this life; then
    /// what was kept stays, and the next to be kept is [`KeyLog::replace`].
    pub fn append(&mut self, payload: &[u8]) -> Result<(), WalError> {
        // Put back when all went well: after an error it is not known what the file holds.
        let Some(mut active) = self.active.take() else {
            let missing = io::Error::from(io::ErrorKind::NotFound);
            return Err(WalError::io(&self.dir, "append keys to", missing));
        };
        self.stale.push(active.path.clone());
        write(self.files.as_ref(), &mut active, payload)?;
        self.stale.pop();
        self.active = Some(active);
        Ok(())
    }

    /// Keeps `payload` in place of all that was kept. It is durable on return.
    ///
    /// # Errors
    /// [`WalError::Io`] if the file system refuses; what was kept stays.
    pub fn replace(&mut self, payload: &[u8]) -> Result<(), WalError> {
        let path = self.dir.join(file_name(self.next));
        // A number is never used twice: a file that failed may be there all the same.
        self.next = self.next.saturating_add(1);
        self.stale
            .extend(self.active.take().map(|active| active.path));
        self.stale.push(path.clone());
        let file = self
            .files
            .create(&path, FILE_MODE)
            .map_err(|source| WalError::io(&path, "create", source))?;
        let mut active = Active {
            path,
            bytes: 0,
            file: Some(file),
        };
        write(self.files.as_ref(), &mut active, payload)?;
        self.files
            .sync_dir(&self.dir, SyncPoint::KeysEntry)
            .map_err(|source| WalError::io(&self.dir, "sync directory", source))?;
        self.stale.pop();
        self.active = Some(active);
        fail::fail_point!("wal-keys-before-removal");
        // One that comes back after a power loss holds nothing that would be wrong.
        let files = &self.files;
        self.stale.retain(|path| match files.discard(path) {
            Ok(()) => false,
            Err(e) => e.kind() != io::ErrorKind::NotFound,
        });
        Ok(())
    }
}

fn file_name(number: u64) -> String {
    format!("{number:020}{SUFFIX}")
}

fn write(files: &dyn Files, active: &mut Active, payload: &[u8]) -> Result<(), WalError> {
    let Ok(len) = u32::try_from(payload.len()) else {
        let too_large = io::Error::from(io::ErrorKind::FileTooLarge);
        return Err(WalError::io(&active.path, "write", too_large));
    };
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&MAGIC);
    header[4..8].copy_from_slice(&VERSION.to_le_bytes());
    header[8..12].copy_from_slice(&len.to_le_bytes());
    header[12..16].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    let crc = placed_crc(active.bytes, &header[..16]);
    header[16..].copy_from_slice(&crc.to_le_bytes());
    let mut parts = [IoSlice::new(&header), IoSlice::new(payload)];
    let mut file = match active.file.take() {
        Some(open) => open,
        None => files
            .open(&active.path)
            .map_err(|source| WalError::io(&active.path, "open", source))?,
    };
    file.write_at(active.bytes, &mut parts)
        .map_err(|source| WalError::io(&active.path, "write", source))?;
    file.sync(SyncPoint::Keys)
        .map_err(|source| WalError::io(&active.path, "sync", source))?;
    active.file = Some(file);
    active.bytes += (HEADER_BYTES + payload.len()) as u64;
    Ok(())
}

fn placed_crc(position: u64, covered: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&position.to_le_bytes()), covered)
}

/// A whole frame at a position: its version and payload.
fn frame(bytes: &Bytes, position: usize) -> Option<(u32, Bytes)> {
    let header = bytes.get(position..position.checked_add(HEADER_BYTES)?)?;
    let number = |at: usize| {
        let (four, _) = header.get(at..)?.split_first_chunk::<4>()?;
        Some(u32::from_le_bytes(*four))
    };
    let is_header =
        header.starts_with(&MAGIC) && number(16)? == placed_crc(position as u64, header.get(..16)?);
    let start = position + HEADER_BYTES;
    let end = start.checked_add(number(8)? as usize)?;
    let payload = bytes.get(start..end)?;
    (is_header && crc32c::crc32c(payload) == number(12)?)
        .then(|| Some((number(4)?, bytes.slice(start..end))))?
}

fn read_frames(path: &Path, bytes: &Bytes, each: &mut dyn FnMut(Bytes)) -> Result<(), WalError> {
    let mut position = 0;
    while position < bytes.len() {
        let Some((version, payload)) = frame(bytes, position) else {
            let later = (position + 1..bytes.len()).find(|at| frame(bytes, *at).is_some());
            return match later {
                None => Ok(()),
                Some(later) => {
                    let detail =
                        format!("the keys there are damaged, and others follow at byte {later}");
                    Err(WalError::corrupt(path, position as u64, detail))
                }
            };
        };
        if version != VERSION {
            let detail =
                format!("keys of format {version}, and this version reads format {VERSION}");
            return Err(WalError::corrupt(path, position as u64, detail));
        }
        position += HEADER_BYTES + payload.len();
        each(payload);
    }
    Ok(())
}
