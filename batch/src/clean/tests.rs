//! Which files are needed by nothing any more.

use std::sync::Arc;

use anabranch_shared::table::{AddFile, TableState};

use super::*;

const HOUR: i64 = 3_600_000;

#[test]
fn what_a_table_does_not_name_is_needless() {
    let mut state = TableState::default();
    state
        .files
        .insert("live".into(), Arc::new(AddFile::default()));
    state.removed.insert("gone".into(), 100 * HOUR);
    let needless = |reason, since_ms| Some(Needless { reason, since_ms });
    assert_eq!(decide(&state, "live", 0), None);
    let gone = decide(&state, "gone", 7);
    assert_eq!(gone, needless(CleanReason::Replaced, 100 * HOUR));
    let other = decide(&state, "other", 7);
    assert_eq!(other, needless(CleanReason::Orphan, 7));
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
