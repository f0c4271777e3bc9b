use std::sync::Arc;

use anabranch_shared::table::{AddFile, TableState};

use super::*;

const HOUR: i64 = 3_600_000;

fn options(now_ms: i64) -> CleanOptions {
    CleanOptions {
        grace_ms: HOUR,
        orphan_grace_ms: 24 * HOUR,
        checkpoint_every: 100,
        now_ms,
        action: CleanAction::Find,
    }
}

#[test]
fn a_file_goes_when_its_grace_is_over() {
    let mut state = TableState::default();
    state
        .files
        .insert("live".into(), Arc::new(AddFile::default()));
    state.removed.insert("gone".into(), 100 * HOUR);
    let at = |name: &str, modified, now| decide(&state, name, modified, &options(now));
    assert_eq!(at("live", 0, 1_000_000 * HOUR), None);
    assert_eq!(at("gone", 0, 101 * HOUR - 1), None);
    assert_eq!(at("gone", 0, 101 * HOUR), Some(CleanReason::Replaced));
    assert_eq!(at("other", 100 * HOUR, 124 * HOUR - 1), None);
    assert_eq!(
        at("other", 100 * HOUR, 124 * HOUR),
        Some(CleanReason::Orphan)
    );
}

#[test]
fn only_our_own_names_are_ours() {
    assert!(is_ours("part-0f0e0d0c-1111-2222-3333-444455556666.parquet"));
    for name in [
        "part-00000-0f0e0d0c-1111-2222-3333-444455556666-c000.snappy.parquet",
        "part-1.parquet",
        "part-0f0e0d0c-1111-2222-3333-44445555666g.parquet",
        "x.parquet",
    ] {
        assert!(!is_ours(name), "{name}");
    }
}

#[test]
fn versions_of_entries() {
    assert_eq!(entry_version("00000000000000000012.json"), Some(12));
    assert_eq!(
        entry_version("00000000000000000013.checkpoint.parquet"),
        Some(13)
    );
    assert_eq!(entry_version("_last_checkpoint"), None);
    assert_eq!(entry_version("00000000000000000012.json.tmp"), None);
}
