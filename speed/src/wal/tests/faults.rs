//! Failed writes and syncs, and disks without space.

use super::*;
use anabranch_shared::files::testing::{Fault, Survivors};

fn assert_poisoned(wal: &mut Wal, files: &RecordingFiles) {
    let before = files.operations().len();
    let group = records(wal.next(), 1);
    for _ in 0..2 {
        assert!(matches!(wal.append(&group), Err(WalError::Poisoned { .. })));
        assert!(matches!(wal.cut(u64::MAX), Err(WalError::Poisoned { .. })));
    }
    assert_eq!(
        files.operations().len(),
        before,
        "a poisoned WAL touches nothing"
    );
}

#[test]
fn a_failed_sync_or_write_poisons_until_reopened_and_what_opening_returns_is_durable() {
    let faults = [
        Fault::Sync(SyncPoint::Group),
        Fault::Sync(SyncPoint::SegmentHeader),
        Fault::Sync(SyncPoint::SegmentEntry),
        Fault::Write,
    ];
    for fault in faults {
        // With 2 records there is room for one more in the segment, with 3 the next append rolls.
        for count in [0, 2, 3] {
            let rolls = count == 3;
            if !rolls && fault != Fault::Sync(SyncPoint::Group) && fault != Fault::Write {
                continue;
            }
            let files = RecordingFiles::new();
            let (mut wal, _) = open(&files, small()).unwrap();
            wal.append(&records(0, count)).unwrap();
            files.fail_next(fault);
            let group = records(wal.next(), 1);
            assert!(
                matches!(wal.append(&group), Err(WalError::Io { .. })),
                "{fault:?}"
            );
            assert_poisoned(&mut wal, &files);
            drop(wal);
            let (mut wal, found) = open(&files, small()).unwrap();
            assert!(found.starts_with(&records(0, count)), "{fault:?}");
            // The failed sync left pages that can be read but count as clean.
            files.lose_power(Survivors::Synced);
            let next = wal.next();
            drop(wal);
            let (again, still) = open(&files, small()).unwrap();
            assert_eq!(
                (still, again.next()),
                (found.clone(), next),
                "{fault:?} after {count}"
            );
            wal = again;
            let group = records(next, 4);
            wal.append(&group).unwrap();
            files.lose_power(Survivors::Synced);
            let all = found.into_iter().chain(group).collect::<Vec<_>>();
            assert_eq!(
                open(&files, small()).unwrap().1,
                all,
                "{fault:?} after {count}"
            );
        }
    }
}

#[test]
fn a_failed_sync_after_a_removal_poisons() {
    let files = RecordingFiles::new();
    let (mut wal, _) = open(&files, small()).unwrap();
    for _ in 0..4 {
        wal.append(&records(wal.next(), 3)).unwrap();
    }
    files.fail_next(Fault::Remove);
    assert!(matches!(
        wal.cut(9),
        Err(WalError::Io {
            operation: "remove",
            ..
        })
    ));
    assert_eq!(wal.start(), 0);
    wal.cut(9).unwrap();
    assert_eq!(wal.start(), 9);
    files.fail_next(Fault::Sync(SyncPoint::Removal));
    assert!(matches!(wal.cut(18), Err(WalError::Io { .. })));
    assert_poisoned(&mut wal, &files);
}

#[test]
fn a_full_disk_refuses_at_any_byte_and_leaves_nothing_behind() {
    let kept = records(0, 2);
    let group = [record(6, 7, "refused 1"), record(7, 8, "refused 2")];
    // From a full disk to one that just lacks the group's last byte.
    for room in 0..(32 + 9) * 2 {
        let files = RecordingFiles::new();
        let (mut wal, _) = open(&files, small()).unwrap();
        wal.append(&kept).unwrap();
        files.set_capacity(Some(wal.bytes() + NOTE + room));
        let bytes = wal.bytes();
        for _ in 0..2 {
            match wal.append(&group) {
                Err(WalError::Full {
                    cause: FullCause::Disk,
                    used_bytes,
                    ..
                }) => {
                    assert_eq!(used_bytes, bytes);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((wal.next(), wal.bytes()), (6, bytes));
        for seed in 0..8 {
            files.lose_power(Survivors::Some(seed));
        }
        drop(wal);
        files.set_capacity(None);
        let (mut wal, found) = open(&files, small()).unwrap();
        assert_eq!(
            (&found, wal.truncated_bytes()),
            (&kept, 0),
            "room for {room} bytes"
        );
        wal.append(&records(6, 2)).unwrap();
        assert_eq!(open(&files, small()).unwrap().1, records(0, 4));
    }
}

#[test]
fn a_full_disk_takes_records_again_once_there_is_space() {
    let files = RecordingFiles::new();
    let (mut wal, _) = open(&files, small()).unwrap();
    wal.append(&records(0, 2)).unwrap();
    files.set_capacity(Some(wal.bytes() + NOTE + 50));
    assert!(matches!(
        wal.append(&records(6, 1)),
        Err(WalError::Full { .. })
    ));
    files.set_capacity(None);
    wal.append(&records(6, 1)).unwrap();
    files.lose_power(Survivors::Synced);
    assert_eq!(open(&files, small()).unwrap().1, records(0, 3));
}

#[test]
fn no_space_for_a_new_segment_leaves_no_file_behind() {
    for room in 0..HEADER as u64 {
        let files = RecordingFiles::new();
        let (mut wal, _) = open(&files, small()).unwrap();
        wal.append(&records(0, 3)).unwrap();
        files.set_capacity(Some(wal.bytes() + NOTE + room));
        let refused = wal.append(&records(9, 1));
        assert!(
            matches!(refused, Err(WalError::Full { .. })),
            "{room}: {refused:?}"
        );
        // Something small still fits in the old segment and must not collide with a new one.
        files.set_capacity(None);
        wal.append(&[record(9, 10, "")]).unwrap();
        files.lose_power(Survivors::Synced);
        drop(wal);
        let (wal, found) = open(&files, small()).unwrap();
        assert_eq!((found.len(), wal.next()), (4, 10), "room for {room} bytes");
    }
}

#[test]
fn a_rollback_that_fails_poisons() {
    for fault in [Fault::Truncate, Fault::Sync(SyncPoint::RollBack)] {
        let files = RecordingFiles::new();
        let (mut wal, _) = open(&files, small()).unwrap();
        wal.append(&records(0, 1)).unwrap();
        files.set_capacity(Some(wal.bytes() + NOTE + 50));
        files.fail_next(fault);
        assert!(matches!(
            wal.append(&records(3, 1)),
            Err(WalError::Io { .. })
        ));
        assert_poisoned(&mut wal, &files);
        drop(wal);
        files.set_capacity(None);
        assert_eq!(open(&files, small()).unwrap().1, records(0, 1));
    }
}
