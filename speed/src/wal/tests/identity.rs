//! The id of a WAL root outlives the loss of power, and is never made anew beside records.

use super::*;
use crate::wal::identity::wal_id;
use anabranch_shared::files::testing::Survivors;

fn id(number: u64) -> String {
    uuid::Uuid::from_u128(u128::from(number)).to_string()
}

/// A life: the root, its id, a record. Returns the id that it was told.
fn live(files: &RecordingFiles, fresh: u64) -> Result<String, WalError> {
    let root = Path::new(ROOT);
    super::super::files::ensure_dir(files, root)?;
    let told = wal_id(root, files, || id(fresh))?;
    let (mut wal, _) = open(files, small())?;
    wal.append(&records(wal.next(), 1))?;
    Ok(told)
}

/// Whether an id that was told, or that a second life was told, is ever another one's later.
fn changes(at: usize, killed: bool, survivors: Survivors, skipped: Option<SyncPoint>) -> bool {
    let files = RecordingFiles::new();
    if let Some(point) = skipped {
        files.skip(point);
    }
    files.fail_power_at(at);
    let root = Path::new(ROOT);
    let told = super::super::files::ensure_dir(&files, root)
        .and_then(|()| wal_id(root, &files, || id(1)))
        .ok();
    if told.is_some() {
        drop(open(&files, small()));
    }
    match killed {
        true => files.restart(),
        false => files.lose_power(survivors),
    }
    let Ok(second) = live(&files, 2) else {
        return true;
    };
    files.lose_power(Survivors::Synced);
    let third = live(&files, 3).ok();
    told.is_some_and(|told| told != second) || third != Some(second)
}

#[test]
fn an_id_that_was_told_stays() {
    let files = RecordingFiles::new();
    live(&files, 1).unwrap();
    let operations = files.operations().len();
    let any = |skipped: Option<SyncPoint>| {
        (0..=operations).any(|at| {
            changes(at, true, Survivors::Synced, skipped)
                || changes(at, false, Survivors::Synced, skipped)
                || (0..24).any(|seed| changes(at, false, Survivors::Some(seed), skipped))
        })
    };
    assert!(!any(None));
    for point in [SyncPoint::Identity, SyncPoint::IdentityEntry] {
        assert!(any(Some(point)), "nothing shows that {point:?} is needed");
    }
}

#[test]
fn a_lost_id_beside_records_is_an_error() {
    let files = RecordingFiles::new();
    assert_eq!(live(&files, 1).unwrap(), id(1));
    assert_eq!(live(&files, 2).unwrap(), id(1));
    let path = Path::new(ROOT).join("ID");
    files.damage(&path, |bytes| bytes.truncate(20)).unwrap();
    assert!(matches!(live(&files, 2), Err(WalError::Corrupt { .. })));
    files.remove(&path).unwrap();
    assert!(matches!(live(&files, 2), Err(WalError::Corrupt { .. })));
}
