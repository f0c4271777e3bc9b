//! Processes beside each other: the lock, and readers beside the owner.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

#[test]
fn the_root_has_one_holder_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("wal");
    let held = WalLock::acquire(&root).unwrap();
    match WalLock::acquire(&root) {
        Err(error @ WalError::Locked { .. }) => {
            assert!(
                error.to_string().contains(&root.display().to_string()),
                "{error}"
            );
        }
        other => panic!("{other:?}"),
    }
    let elsewhere = WalLock::acquire(&dir.path().join("other")).unwrap();
    assert_ne!(held.root(), elsewhere.root());
    drop(held);
    WalLock::acquire(&root).map(drop).unwrap();
}

#[test]
fn a_reader_leaves_a_torn_tail_where_it_is() {
    let files = RecordingFiles::new();
    let read = || Wal::read_only(Path::new(ROOT), TOPIC, &files);
    assert_eq!(read().unwrap(), [], "no directory yet");
    let (mut wal, _) = open(&files, small()).unwrap();
    wal.append(&records(0, 1)).unwrap();
    wal.append(&records(3, 1)).unwrap();
    let torn = wal.bytes() as usize - 3;
    files
        .damage(&segment(0), |bytes| bytes.truncate(torn))
        .unwrap();
    forget_synced(&files);
    let before = files.operations().len();
    assert_eq!(read().unwrap(), records(0, 1));
    assert_eq!(files.operations().len(), before);
    assert_eq!(files.read(&segment(0)).unwrap().len(), torn);
    // Damage is still damage.
    files.damage(&segment(0), |bytes| bytes[3] ^= 1).unwrap();
    assert!(matches!(read(), Err(WalError::Corrupt { position: 0, .. })));
}

/// Cuts the WAL between a reader's listing and its reading.
#[derive(Debug)]
struct CutMeanwhile {
    files: RecordingFiles,
    wal: parking_lot::Mutex<Wal>,
    reads: AtomicUsize,
}

impl Files for CutMeanwhile {
    fn is_dir(&self, path: &Path) -> io::Result<bool> {
        self.files.is_dir(path)
    }
    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.files.create_dir(path, mode)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.files.list(dir)
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        // The id and the note come first, then the segments.
        if self.reads.fetch_add(1, Ordering::Relaxed) == 3 {
            self.wal.lock().cut(18).map_err(io::Error::other)?;
        }
        self.files.read(path)
    }
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn OpenFile>> {
        self.files.create(path, mode)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        self.files.open(path)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.link(from, to)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path)
    }
    fn discard(&self, path: &Path) -> io::Result<()> {
        self.files.discard(path)
    }
    fn sync_dir(&self, dir: &Path, point: SyncPoint) -> io::Result<()> {
        self.files.sync_dir(dir, point)
    }
}

#[test]
fn a_reader_starts_over_when_segments_vanish() {
    let files = RecordingFiles::new();
    let (mut wal, _) = open(&files, small()).unwrap();
    for _ in 0..3 {
        wal.append(&records(wal.next(), 3)).unwrap();
    }
    let beside = CutMeanwhile {
        files,
        wal: parking_lot::Mutex::new(wal),
        reads: AtomicUsize::new(0),
    };
    let found = Wal::read_only(Path::new(ROOT), TOPIC, &beside).unwrap();
    assert_eq!(found, records(18, 3));
}

#[test]
fn readers_beside_a_busy_writer_see_whole_contiguous_records() {
    let dir = tempfile::tempdir().unwrap();
    let (done, seen) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let found = Wal::read_only(dir.path(), TOPIC, &RealFiles).unwrap();
                if let Some(oldest) = found.first() {
                    assert_eq!(found, records(oldest.first, found.len() as u64));
                    seen.fetch_add(1, Ordering::Release);
                }
            }
        });
        let (mut wal, _) = Wal::open(dir.path(), TOPIC, small(), Arc::new(RealFiles)).unwrap();
        // At least so long that the reader met some states; if it fails, the scope ends with it.
        while (seen.load(Ordering::Acquire) < 20 || wal.next() < 600) && !reader.is_finished() {
            let group = records(wal.next(), 1 + wal.next() % 5);
            wal.append(&group).unwrap();
            wal.cut(wal.next().saturating_sub(40)).unwrap();
        }
        done.store(true, Ordering::Release);
    });
    assert!(seen.into_inner() >= 20);
}
