//! Torn tails are cut, damage is an error that names its place, and nothing is lost in silence.

use super::*;

/// A WAL with one group of one record for each count of `groups`; the file's bytes and where
/// each group begins.
fn written(groups: &[u64]) -> (Vec<u8>, Vec<usize>) {
    let files = RecordingFiles::new();
    let (mut wal, _) = open(&files, WalOptions::default()).unwrap();
    let mut begins = Vec::new();
    for count in groups {
        begins.push(wal.bytes() as usize);
        wal.append(&records(wal.next(), *count)).unwrap();
    }
    (files.read(&segment(0)).unwrap(), begins)
}

/// The outcome of opening a WAL whose only segment holds `bytes`.
fn open_bytes(bytes: &[u8]) -> (RecordingFiles, Result<(Wal, Vec<Record>), WalError>) {
    let files = RecordingFiles::new();
    drop(open(&files, WalOptions::default()).unwrap());
    files
        .damage(&segment(0), |stored| *stored = bytes.to_vec())
        .unwrap();
    let opened = open(&files, WalOptions::default());
    (files, opened)
}

fn assert_corrupt(opened: Result<(Wal, Vec<Record>), WalError>, path: &Path, at: u64) {
    match opened {
        Err(WalError::Corrupt {
            path: named,
            position,
            ..
        }) => {
            assert_eq!((named.as_path(), position), (path, at));
        }
        other => panic!("expected damage at byte {at}: {other:?}"),
    }
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_off_and_reported() {
    let (bytes, begins) = written(&[1, 1, 1]);
    let last = begins[2];
    for length in last..bytes.len() {
        // Cut short; and as long as it was to be, but zero from there on; and longer still.
        for zeros in [0, bytes.len() - length, 5000] {
            let mut torn = bytes[..length].to_vec();
            torn.resize(length + zeros, 0);
            if bytes.starts_with(&torn) && torn.len() == bytes.len() {
                continue;
            }
            let (files, opened) = open_bytes(&torn);
            let (mut wal, found) = opened.unwrap();
            if torn.starts_with(&bytes) {
                assert_eq!(found, records(0, 3));
                continue;
            }
            assert_eq!(found, records(0, 2), "torn at {length} with {zeros} zeros");
            assert_eq!(wal.truncated_bytes(), (torn.len() - last) as u64);
            assert_eq!(files.read(&segment(0)).unwrap(), bytes[..last]);
            wal.append(&records(6, 1)).unwrap();
            let (wal, found) = open(&files, WalOptions::default()).unwrap();
            assert_eq!((found, wal.truncated_bytes()), (records(0, 3), 0));
        }
    }
}

#[test]
fn any_flipped_bit_is_damage_except_in_the_last_group() {
    let (bytes, begins) = written(&[1, 1, 1]);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let (_, opened) = open_bytes(&flipped);
            if at >= begins[2] {
                let (wal, found) = opened.unwrap();
                assert_eq!(found, records(0, 2), "byte {at}");
                assert_eq!(wal.truncated_bytes(), (bytes.len() - begins[2]) as u64);
            } else {
                let group = begins.iter().rev().find(|begin| **begin <= at);
                assert_corrupt(opened, &segment(0), group.map_or(0, |begin| *begin as u64));
            }
        }
    }
}

#[test]
fn any_lost_sector_of_the_last_group_is_a_torn_tail() {
    let (bytes, begins) = written(&[1, 4]);
    for at in begins[1]..bytes.len() {
        let mut torn = bytes.clone();
        torn[at..].iter_mut().take(16).for_each(|byte| *byte = 0);
        if torn == bytes {
            continue;
        }
        let (_, opened) = open_bytes(&torn);
        let (wal, found) = opened.unwrap();
        // Later records of the same group are whole, and still no sign of damage.
        let kept = 1 + (at - begins[1]) / 92;
        assert_eq!(found, records(0, kept as u64), "byte {at}");
        assert_eq!(wal.next(), 3 * kept as u64);
    }
}

#[test]
fn a_later_group_betrays_damage_even_if_it_is_torn_itself() {
    let (mut bytes, begins) = written(&[1, 2, 1]);
    bytes[begins[1] + 40] ^= 1;
    bytes.truncate(begins[2] + FRAME_HEADER_BYTES + 5);
    assert_corrupt(open_bytes(&bytes).1, &segment(0), begins[1] as u64);
}

#[test]
fn frames_inside_a_payload_are_not_mistaken_for_later_ones() {
    let (inner, begins) = written(&[1, 1]);
    let files = RecordingFiles::new();
    let (mut wal, _) = open(&files, WalOptions::default()).unwrap();
    let payload = Bytes::from(inner[begins[0]..].to_vec());
    wal.append(&[Record {
        first: 0,
        end: 1,
        payload,
    }])
    .unwrap();
    files
        .damage(&segment(0), |bytes| bytes[HEADER + 8] ^= 1)
        .unwrap();
    forget_synced(&files);
    let (wal, found) = open(&files, WalOptions::default()).unwrap();
    assert_eq!((found.len(), wal.next()), (0, 0));
}

#[test]
fn a_huge_length_is_not_believed() {
    let (mut bytes, begins) = written(&[1, 1]);
    bytes[begins[1]..begins[1] + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(open_bytes(&bytes).1.unwrap().1, records(0, 1));
    bytes[begins[0]..begins[0] + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(open_bytes(&bytes).1.unwrap().1, []);
}

/// Three segments of three records, each record its own group.
fn three_segments() -> RecordingFiles {
    let files = RecordingFiles::new();
    let (mut wal, _) = open(&files, small()).unwrap();
    for _ in 0..9 {
        wal.append(&records(wal.next(), 1)).unwrap();
    }
    files
}

#[test]
fn an_earlier_segment_has_no_torn_tail() {
    let length = three_segments().read(&segment(9)).unwrap().len();
    for at in 0..length {
        let files = three_segments();
        files
            .damage(&segment(9), |bytes| bytes[at] ^= 0x10)
            .unwrap();
        let begin = if at < HEADER {
            0
        } else {
            at - (at - HEADER) % 92
        };
        assert_corrupt(open(&files, small()), &segment(9), begin as u64);
        let files = three_segments();
        files
            .damage(&segment(9), |bytes| bytes.truncate(at))
            .unwrap();
        let opened = open(&files, small());
        if at >= HEADER && (at - HEADER).is_multiple_of(92) {
            // Whole records are gone without a trace here; the next segment's start tells.
            assert_corrupt(opened, &segment(18), 0);
        } else {
            assert_corrupt(opened, &segment(9), begin as u64);
        }
    }
}

#[test]
fn missing_exchanged_and_alien_segments_are_damage() {
    let files = three_segments();
    files.remove(&segment(9)).unwrap();
    assert_corrupt(open(&files, small()), &segment(18), 0);

    let files = three_segments();
    let other = files.read(&segment(9)).unwrap();
    files.damage(&segment(18), |bytes| *bytes = other).unwrap();
    assert_corrupt(open(&files, small()), &segment(18), 0);

    let files = three_segments();
    files
        .create(&Path::new(ROOT).join(TOPIC).join("9.wal"), 0o600)
        .unwrap();
    assert_corrupt(
        open(&files, small()),
        &Path::new(ROOT).join(TOPIC).join("9.wal"),
        0,
    );

    let files = three_segments();
    files
        .damage(&segment(18), |bytes| {
            bytes[8] = 3;
        })
        .unwrap();
    match open(&files, small()) {
        Err(WalError::Corrupt { detail, .. }) => assert!(detail.contains("format 3"), "{detail}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_last_segment_without_a_header_is_torn_only_if_a_crash_explains_it() {
    for length in 0..=HEADER {
        let files = three_segments();
        forget_synced(&files);
        files
            .damage(&segment(18), |bytes| bytes.truncate(HEADER))
            .unwrap();
        files
            .damage(&segment(18), |bytes| bytes[length..].fill(0))
            .unwrap();
        let (mut wal, found) = open(&files, small()).unwrap();
        assert_eq!(found, records(0, 6), "{length} bytes of the header");
        wal.append(&records(18, 1)).unwrap();
        assert_eq!(open(&files, small()).unwrap().1, records(0, 7));
    }
    // With a record behind it, it had been synced.
    let files = three_segments();
    files
        .damage(&segment(18), |bytes| bytes[..HEADER].fill(0))
        .unwrap();
    assert_corrupt(open(&files, small()), &segment(18), 0);
    // Alone, what came before it is unknown, unless a WAL starts there.
    let files = three_segments();
    forget_synced(&files);
    for start in [0, 9] {
        files.remove(&segment(start)).unwrap();
    }
    files.damage(&segment(18), Vec::clear).unwrap();
    assert_corrupt(open(&files, small()), &segment(18), 0);
    let (wal, _) = open(
        &files,
        WalOptions {
            start: 18,
            ..small()
        },
    )
    .unwrap();
    assert_eq!((wal.start(), wal.next()), (18, 18));
}

/// What was acknowledged is missed, also where what is left looks like a torn write, or where nothing
/// is left.
#[test]
fn acknowledged_records_that_are_gone_are_damage() {
    let is_lost = |files: &RecordingFiles, what: &str| match open(files, small()) {
        Err(WalError::Corrupt { detail, .. }) => assert!(!detail.is_empty(), "{what}"),
        other => panic!("{what}: {other:?}"),
    };
    let length = three_segments().read(&segment(18)).unwrap().len();
    for at in 0..length {
        for (what, change) in [("flipped", 0), ("cut", 1), ("zeroed", 2)] {
            let files = three_segments();
            let damage = |bytes: &mut Vec<u8>| match change {
                0 => bytes[at] ^= 4,
                1 => bytes.truncate(at),
                _ => bytes[at..].fill(0),
            };
            files.damage(&segment(18), damage).unwrap();
            is_lost(&files, &format!("{what} at byte {at}"));
            let read = Wal::read_only(Path::new(ROOT), TOPIC, &files);
            assert!(matches!(read, Err(WalError::Corrupt { .. })), "{what}");
        }
    }
    for gone in [&[18][..], &[9, 18], &[0, 9, 18]] {
        let files = three_segments();
        for start in gone {
            files.remove(&segment(*start)).unwrap();
        }
        is_lost(&files, &format!("without segments {gone:?}"));
    }
    // The note itself may be lost, damaged or another's: the segments are whole.
    let note = Path::new(ROOT).join(TOPIC).join("SYNCED");
    for at in 0..21 {
        let files = three_segments();
        match at {
            20 => files.remove(&note).unwrap(),
            at => files.damage(&note, |bytes| bytes[at] ^= 1).unwrap(),
        }
        assert_eq!(open(&files, small()).unwrap().1, records(0, 9));
    }
}

/// The segment of another topic, or of another WAL, does not pass for one of this.
#[test]
fn a_segment_says_whose_it_is() {
    let of = |id: u128, topic: &str| {
        let files = RecordingFiles::new();
        let root = Path::new(ROOT);
        super::super::files::ensure_dir(&files, root).unwrap();
        let fresh = || uuid::Uuid::from_u128(id).to_string();
        wal_id(root, &files, fresh).unwrap();
        let (mut wal, _) = Wal::open(root, topic, small(), Arc::new(files.clone())).unwrap();
        wal.append(&records(0, 2)).unwrap();
        files
    };
    let path = |topic: &str| Path::new(ROOT).join(topic).join(segment_name(0));
    for (id, topic) in [(1, "others"), (2, TOPIC)] {
        let foreign = of(id, topic).read(&path(topic)).unwrap();
        let files = of(1, TOPIC);
        files
            .damage(&path(TOPIC), |bytes| *bytes = foreign)
            .unwrap();
        match open(&files, small()) {
            Err(WalError::Corrupt { detail, .. }) => {
                assert!(detail.contains(&format!("topic `{topic}`")), "{detail}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Segments and the catalogue's word for them belong together.
#[test]
fn a_claim_without_segments_and_records_without_a_claim_are_damage() {
    let check = |files: &RecordingFiles, claim| {
        check_claim(Path::new(ROOT), TOPIC, claim, Arc::new(files.clone()))
    };
    let files = RecordingFiles::new();
    check(&files, Claim::Unclaimed).unwrap();
    // Whoever dies between the first segment and the claim finds it so.
    check(&files, Claim::Unclaimed).unwrap();
    check(&files, Claim::Claimed).unwrap();
    let (mut wal, _) = open(&files, small()).unwrap();
    wal.append(&records(0, 1)).unwrap();
    drop(wal);
    check(&files, Claim::Claimed).unwrap();
    let alien = check(&files, Claim::Unclaimed);
    assert!(matches!(alien, Err(WalError::Corrupt { .. })), "{alien:?}");
    files.remove(&segment(0)).unwrap();
    for claim in [Claim::Claimed, Claim::Unclaimed] {
        let gone = check(&files, claim);
        assert!(matches!(gone, Err(WalError::Corrupt { .. })), "{gone:?}");
    }
}
