//! The WAL's promises on a file system that records, fails and loses power, and on the real one.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod beside;
mod damage;
mod faults;
mod identity;
mod keys;
mod power;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_shared::files::RealFiles;
use anabranch_shared::files::testing::{Operation, RecordingFiles};
use bytes::Bytes;

use super::frame::{FRAME_HEADER_BYTES, NameOutcome, parse_name, segment_name};
use super::*;

const ROOT: &str = "/data/wal";
const TOPIC: &str = "clicks";
/// Bytes of a segment's header.
const HEADER: usize = 56;
/// Bytes of the note of how far the WAL is synced.
const NOTE: u64 = 20;

fn segment(start: u64) -> PathBuf {
    Path::new(ROOT).join(TOPIC).join(segment_name(start))
}

fn record(first: u64, end: u64, payload: &str) -> Record {
    Record {
        first,
        end,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

/// Records of 3 offsets and 60 bytes of payload each, from offset `first` on.
fn records(first: u64, count: u64) -> Vec<Record> {
    (0..count)
        .map(|index| {
            let first = first + index * 3;
            record(first, first + 3, &format!("{first:060}"))
        })
        .collect()
}

/// Segments that hold three of [`records`].
fn small() -> WalOptions {
    WalOptions {
        segment_bytes: 352,
        ..WalOptions::default()
    }
}

fn open(files: &RecordingFiles, options: WalOptions) -> Result<(Wal, Vec<Record>), WalError> {
    Wal::open(Path::new(ROOT), TOPIC, options, Arc::new(files.clone()))
}

#[test]
fn what_is_appended_comes_back_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("made/on/demand");
    let open = || Wal::open(&root, TOPIC, small(), Arc::new(RealFiles)).unwrap();
    let (mut wal, found) = open();
    assert_eq!(
        (found.len(), wal.start(), wal.next(), wal.bytes()),
        (0, 0, 0, HEADER as u64)
    );
    let mut all = Vec::new();
    for count in [1, 3, 2, 7, 1] {
        let group = records(wal.next(), count);
        wal.append(&group).unwrap();
        all.extend(group);
    }
    let empty = record(wal.next(), wal.next() + 1, "");
    wal.append(std::slice::from_ref(&empty)).unwrap();
    all.push(empty);
    let (next, bytes) = (wal.next(), wal.bytes());
    drop(wal);
    let (wal, found) = open();
    assert_eq!(found, all);
    assert_eq!(
        (wal.start(), wal.next(), wal.bytes(), wal.truncated_bytes()),
        (0, next, bytes, 0)
    );
    let on_disk = std::fs::read_dir(root.join(TOPIC)).unwrap();
    let on_disk = on_disk.map(|entry| entry.unwrap().metadata().unwrap().len());
    assert_eq!(on_disk.sum::<u64>(), bytes + NOTE);
}

#[test]
fn a_group_is_one_write_and_one_sync_and_a_new_segment_is_durable_first() {
    let files = RecordingFiles::new();
    let (mut wal, _) = open(&files, small()).unwrap();
    wal.append(&records(0, 3)).unwrap();
    let before = files.operations().len();
    wal.append(&records(9, 2)).unwrap();
    let (path, dir) = (segment(9), PathBuf::from(ROOT).join(TOPIC));
    let note = dir.join("SYNCED");
    assert_eq!(
        files.operations()[before..],
        [
            Operation::Create(path.clone()),
            Operation::Write {
                path: path.clone(),
                position: 0,
                bytes: HEADER as u64
            },
            Operation::Sync(path.clone(), SyncPoint::SegmentHeader),
            Operation::SyncDir(dir, SyncPoint::SegmentEntry),
            Operation::Write {
                path: path.clone(),
                position: HEADER as u64,
                bytes: 184
            },
            Operation::Sync(path, SyncPoint::Group),
            Operation::Write {
                path: note,
                position: 0,
                bytes: NOTE
            },
        ]
    );
}

/// The frames of a group of two records and of a group of one, in a segment with a header of 24
/// bytes, made from the drawing in the module's documentation by another program.
const FRAMES_OF_1: [&str; 4] = [
    "0200000000000000070000000000000009000000000000003629a2e2aa884fb86162",
    "000000002200000009000000000000000a000000000000000000000053c499fc",
    "03000000000000000a00000000000000140000000000000085682325de49bc13",
    "78797a",
];

fn at_7() -> WalOptions {
    WalOptions {
        start: 7,
        ..WalOptions::default()
    }
}

fn stored_records() -> [Record; 3] {
    [record(7, 9, "ab"), record(9, 10, ""), record(10, 20, "xyz")]
}

/// A segment that version 0.1.0 has written is read, and goes on as it is until the next one.
#[test]
fn format_1_stays_readable() {
    let header = "414e425257414c31010000000700000000000000fc5894e4";
    let stored = hex::decode([&[header][..], &FRAMES_OF_1].concat().concat()).unwrap();
    let files = RecordingFiles::new();
    drop(open(&files, at_7()).unwrap());
    files
        .damage(&segment(7), |bytes| bytes.clone_from(&stored))
        .unwrap();
    let (mut wal, found) = open(&files, at_7()).unwrap();
    assert_eq!(found, stored_records());
    assert_eq!(wal.bytes() as usize, stored.len());
    wal.append(&[record(20, 21, "more")]).unwrap();
    wal.roll().unwrap();
    wal.append(&[record(21, 22, "new")]).unwrap();
    drop(wal);
    assert!(files.read(&segment(7)).unwrap().starts_with(&stored));
    let (_, found) = open(&files, at_7()).unwrap();
    assert_eq!(found.len(), 5);
    // Torn before it had a record.
    files
        .damage(&segment(7), |bytes| bytes.truncate(11))
        .unwrap();
    files.remove(&segment(21)).unwrap();
    forget_synced(&files);
    let (wal, _) = open(&files, at_7()).unwrap();
    assert_eq!(wal.bytes() as usize, HEADER);
}

#[test]
fn format_2_stays_as_it_is() {
    // Made from the drawing in the module's documentation by another program.
    let header = "414e425257414c310200000007000000000000000000000000000000000102030405060708090a0b0c0d0e0f0600636c69636b73";
    let files = RecordingFiles::new();
    let root = Path::new(ROOT);
    super::files::ensure_dir(&files, root).unwrap();
    let id = uuid::Uuid::from_bytes(std::array::from_fn(|n| n as u8));
    let mut file = files.create(&root.join("ID"), 0o600).unwrap();
    let text = id.to_string();
    file.write_at(0, &mut [std::io::IoSlice::new(text.as_bytes())])
        .unwrap();
    let (mut wal, _) = open(&files, at_7()).unwrap();
    wal.append(&stored_records()[..2]).unwrap();
    wal.append(&stored_records()[2..]).unwrap();
    let stored = files.read(&segment(7)).unwrap();
    let mut expected = hex::decode(header).unwrap();
    let crc = crc32c::crc32c(&expected);
    expected.extend_from_slice(&crc.to_le_bytes());
    assert_eq!(expected.len(), HEADER);
    assert_eq!(stored[..HEADER], expected);
    assert_eq!(stored.len(), HEADER + 34 + 32 + 35);
    let (_, found) = open(&files, at_7()).unwrap();
    assert_eq!(found, stored_records());
}

/// As after a power loss that spared nothing which was not synced.
fn forget_synced(files: &RecordingFiles) {
    let note = Path::new(ROOT).join(TOPIC).join("SYNCED");
    files.damage(&note, Vec::clear).unwrap();
}

#[test]
fn records_must_follow_and_cover_something() {
    let files = RecordingFiles::new();
    let (mut wal, _) = open(&files, small()).unwrap();
    wal.append(&records(0, 1)).unwrap();
    let bytes = wal.bytes();
    let overlapping = [record(3, 5, "a"), record(4, 6, "b")];
    for wrong in [
        &[record(2, 4, "")][..],
        &[record(4, 5, "")],
        &[record(3, 3, "")],
        &overlapping,
    ] {
        match wal.append(wrong) {
            Err(WalError::NotNext { .. }) => {}
            other => panic!("{wrong:?}: {other:?}"),
        }
    }
    assert_eq!((wal.next(), wal.bytes()), (3, bytes));
    wal.append(&records(3, 1)).unwrap();
    assert_eq!(open(&files, small()).unwrap().1, records(0, 2));
}

#[test]
fn a_cut_removes_whole_segments_only_and_holds_after_a_restart() {
    let files = RecordingFiles::new();
    let (mut wal, _) = open(&files, small()).unwrap();
    for _ in 0..7 {
        wal.append(&records(wal.next(), 1)).unwrap();
    }
    // Three segments, and the note.
    assert_eq!(files.list(&Path::new(ROOT).join(TOPIC)).unwrap().len(), 4);
    wal.cut(8).unwrap();
    assert_eq!(wal.start(), 0, "offset 8 is in the first segment");
    wal.cut(9).unwrap();
    assert_eq!((wal.start(), wal.next()), (9, 21));
    wal.cut(20).unwrap();
    assert_eq!(wal.start(), 18, "the active segment holds offset 20");
    drop(wal);
    let (wal, found) = open(&files, small()).unwrap();
    assert_eq!((found, wal.start(), wal.next()), (records(18, 1), 18, 21));
}

/// What somebody removed by hand does not keep the others for ever.
#[test]
fn a_segment_that_is_gone_does_not_keep_a_cut() {
    let files = RecordingFiles::new();
    let (mut wal, _) = open(&files, small()).unwrap();
    for _ in 0..7 {
        wal.append(&records(wal.next(), 1)).unwrap();
    }
    let folder = Path::new(ROOT).join(TOPIC);
    let first = files.list(&folder).unwrap().into_iter().min().unwrap();
    files.remove(&folder.join(first)).unwrap();
    wal.cut(20).unwrap();
    assert_eq!((wal.start(), wal.next()), (18, 21));
}

#[test]
fn the_position_outlives_all_records() {
    let files = RecordingFiles::new();
    let (mut wal, _) = open(&files, small()).unwrap();
    for _ in 0..5 {
        wal.append(&records(wal.next(), 1)).unwrap();
    }
    wal.cut(u64::MAX).unwrap();
    assert_eq!(
        (wal.start(), wal.next(), wal.bytes()),
        (15, 15, HEADER as u64)
    );
    wal.cut(u64::MAX).unwrap();
    drop(wal);
    let (mut wal, found) = open(&files, small()).unwrap();
    assert_eq!((found.len(), wal.start(), wal.next()), (0, 15, 15));
    wal.append(&records(15, 1)).unwrap();
    assert_eq!(open(&files, small()).unwrap().1, records(15, 1));
}

#[test]
fn a_nearly_empty_segment_is_not_rolled_to_be_cut() {
    let files = RecordingFiles::new();
    let (mut wal, _) = open(&files, WalOptions::default()).unwrap();
    wal.append(&records(0, 1)).unwrap();
    let before = files.operations().len();
    wal.cut(3).unwrap();
    assert_eq!(files.operations().len(), before);
}

#[test]
fn the_limit_refuses_before_writing_and_a_cut_makes_room() {
    let files = RecordingFiles::new();
    // The active segment is too small to be rolled by a cut unless the WAL is full.
    let options = WalOptions {
        segment_bytes: 1 << 20,
        max_bytes: 1 << 20,
        ..WalOptions::default()
    };
    let (mut wal, _) = open(&files, options.clone()).unwrap();
    wal.append(&records(0, 1)).unwrap();
    let large = Record {
        first: 3,
        end: 4,
        payload: vec![7; (1 << 20) - 32 - HEADER].into(),
    };
    let before = files.operations().len();
    match wal.append(std::slice::from_ref(&large)) {
        Err(WalError::Full {
            cause: FullCause::Limit,
            limit_bytes,
            used_bytes,
            ..
        }) => {
            assert_eq!((limit_bytes, used_bytes), (1 << 20, HEADER as u64 + 92));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(files.operations().len(), before);
    wal.cut(3).unwrap();
    wal.append(std::slice::from_ref(&large)).unwrap();
    assert_eq!(wal.bytes(), 1 << 20);
    drop(wal);
    assert_eq!(open(&files, options.clone()).unwrap().1, [large]);
    let (mut wal, _) = open(&RecordingFiles::new(), options).unwrap();
    match wal.append(&[Record {
        first: 0,
        end: 1,
        payload: vec![7; (1 << 20) - 31 - HEADER].into(),
    }]) {
        Err(WalError::TooLarge { limit_bytes, .. }) => {
            assert_eq!(limit_bytes, (1 << 20) - HEADER as u64)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_are_read_strictly() {
    assert_eq!(
        parse_name(&segment_name(42)),
        NameOutcome::Segment { start: 42 }
    );
    assert_eq!(
        parse_name(&segment_name(u64::MAX)),
        NameOutcome::Segment { start: u64::MAX }
    );
    for name in [
        "42.wal",
        "+0000000000000000042.wal",
        "99999999999999999999.wal",
        ".wal",
    ] {
        assert_eq!(parse_name(name), NameOutcome::Malformed, "{name}");
    }
    assert_eq!(parse_name("LOCK"), NameOutcome::Other);
    let files = RecordingFiles::new();
    for topic in ["", ".", "..", "a/b", "/a", "a/"] {
        let opened = Wal::open(Path::new(ROOT), topic, small(), Arc::new(files.clone()));
        assert!(
            matches!(opened, Err(WalError::InvalidTopic { .. })),
            "{topic:?}"
        );
    }
}

/// A daemon of many topics keeps few files open: what is closed is opened again, and where it can't
/// be nothing is written and the WAL goes on once it can.
#[test]
fn closed_files_are_opened_by_the_next_group() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Wal::open(dir.path(), TOPIC, small(), Arc::new(RealFiles)).unwrap();
    let (mut wal, _) = open();
    assert!(wal.has_open_files());
    let mut all = Vec::new();
    for count in [1, 4, 1] {
        wal.close_files();
        assert!(!wal.has_open_files());
        let group = records(wal.next(), count);
        wal.append(&group).unwrap();
        assert!(wal.has_open_files());
        all.extend(group);
    }
    wal.close_files();
    let (path, away) = (wal.active.path.clone(), dir.path().join("away"));
    std::fs::rename(&path, &away).unwrap();
    let group = records(wal.next(), 1);
    let refused = wal.append(&group).unwrap_err();
    assert!(refused.to_string().contains("open"), "{refused}");
    assert!(!wal.is_poisoned());
    std::fs::rename(&away, &path).unwrap();
    wal.append(&group).unwrap();
    all.extend(group);
    drop(wal);
    assert_eq!(open().1, all);
}
