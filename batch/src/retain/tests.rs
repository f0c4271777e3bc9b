//! Where facts may be removed, and where they wait.

use anabranch_shared::{Offset, PartitionId};

use super::*;

const HOUR: i64 = 3_600_000;

/// Marks at 100 offsets and an hour each, and a log of 10 bytes an offset that ends at 500.
fn marks() -> Vec<Mark> {
    let mark = |n: i64| Mark {
        at_ms: n * HOUR,
        end: [(PartitionId(0), Offset(n * 100))].into_iter().collect(),
        slot: u32::try_from(n).unwrap_or(0),
    };
    (1..=4).map(mark).collect()
}

fn of(rule: &RetentionRule, now_ms: i64) -> Result<usize> {
    wanted(&marks(), rule, now_ms, |end| {
        Ok(u64::try_from((500 - end.get(PartitionId(0)).0) * 10).unwrap_or(0))
    })
}

#[test]
fn facts_go_by_their_age() -> Result<()> {
    let rule = RetentionRule {
        age_ms: Some(2 * HOUR),
        ..Default::default()
    };
    assert_eq!(of(&rule, 3 * HOUR - 1)?, 0);
    assert_eq!(of(&rule, 3 * HOUR)?, 1);
    assert_eq!(of(&rule, 5 * HOUR)?, 3);
    assert_eq!(of(&rule, 50 * HOUR)?, 4);
    // A clock that was set back removes nothing.
    assert_eq!(of(&rule, 0)?, 0);
    Ok(())
}

#[test]
fn the_oldest_facts_go_until_the_rest_is_small_enough() -> Result<()> {
    let of_size = |size_bytes: u64| {
        let rule = RetentionRule {
            size_bytes: Some(size_bytes),
            ..Default::default()
        };
        of(&rule, 50 * HOUR)
    };
    assert_eq!(of_size(5_000)?, 0);
    assert_eq!(of_size(4_999)?, 1);
    assert_eq!(of_size(4_000)?, 1);
    assert_eq!(of_size(2_500)?, 3);
    // No mark suffices: all of them go, and the rest waits for the next.
    assert_eq!(of_size(10)?, 4);
    Ok(())
}

#[test]
fn the_greater_bound_counts_and_what_duplicates_need_stays() -> Result<()> {
    let both = RetentionRule {
        age_ms: Some(3 * HOUR),
        size_bytes: Some(2_500),
        ..Default::default()
    };
    assert_eq!(of(&both, 5 * HOUR)?, 3);
    let kept = RetentionRule {
        keep_ms: 3 * HOUR,
        ..both
    };
    assert_eq!(of(&kept, 5 * HOUR)?, 2);
    Ok(())
}
