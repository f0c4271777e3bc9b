//! Verdicts against a model: however a stream is split, the facts of the first occurrences are
//! kept, over refusals and restarts; and what is forgotten when.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anabranch_shared::timestamp_type;
use arrow::array::{Int64Array, StringViewArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::intake::admission::DeadLetter;
use crate::intake::payload::{Payload, REPLAYED};

const MINUTE: i64 = 60_000_000;

fn settings(memory_bytes: u64) -> DedupSettings {
    DedupSettings {
        key: "id".to_owned(),
        window: Duration::from_secs(3_600),
        memory_bytes,
    }
}

fn dedup(memory_bytes: u64) -> Dedup {
    Dedup::new("facts", &settings(memory_bytes), 0)
}

/// Facts with these ids, admitted at a time.
fn facts(ids: &[Option<u8>], at_us: i64) -> Result<RecordBatch> {
    let text = ids
        .iter()
        .map(|id| id.map(|id| format!("event {id} of a long enough name")));
    let times = vec![at_us; ids.len()];
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8View, true),
        Field::new(INGESTED_AT, timestamp_type(), false),
    ]));
    let text = StringViewArray::from_iter(text);
    let times = TimestampMicrosecondArray::from(times).with_timezone("UTC");
    Ok(RecordBatch::try_new(
        schema,
        vec![Arc::new(text), Arc::new(times)],
    )?)
}

/// Which of the ids are kept.
fn kept(dedup: &mut Dedup, ids: &[Option<u8>], at_us: i64) -> Result<Vec<bool>> {
    let wanted = dedup.check_facts(&facts(ids, at_us)?, at_us)?;
    Ok(match wanted {
        Some(wanted) => wanted.values().iter().collect(),
        None => vec![true; ids.len()],
    })
}

#[test]
fn the_first_of_a_key_is_kept_and_no_fact_without_one_is_dropped() -> Result<()> {
    let mut dedup = dedup(1 << 20);
    let ids = [Some(1), None, Some(2), Some(1), None];
    assert_eq!(kept(&mut dedup, &ids, 0)?, [true, true, true, false, true]);
    assert_eq!(kept(&mut dedup, &[Some(2), Some(3)], 1)?, [false, true]);
    Ok(())
}

#[test]
fn a_record_that_is_removed_is_named_and_its_place_stays_unused() -> Result<()> {
    let mut dedup = dedup(1 << 20);
    kept(&mut dedup, &[Some(7)], 0)?;
    let dead = DeadLetter {
        record: 1,
        line: None,
        field: None,
        reason: "no JSON".into(),
        raw: Bytes::from_static(b"?"),
    };
    let admitted = Admitted {
        facts: facts(&[Some(7), Some(8), Some(8), None], 5)?,
        records: vec![0, 2, 3, 4],
        dead: vec![dead],
        record_count: 5,
        unknown_fields: 0,
    };
    let (admitted, duplicates) = dedup.check(admitted, 5)?;
    assert_eq!(
        (admitted.records.clone(), duplicates),
        (vec![2, 4], vec![0, 3])
    );
    let payload = Payload::new(admitted, 5, None, None);
    assert_eq!(payload.duplicates, [0, 3]);
    let read = Payload::decode(&payload.encode()?, REPLAYED)?;
    assert_eq!(read.duplicates, [0, 3]);
    assert_eq!(
        (read.records, read.facts.num_rows(), read.dead.len()),
        (5, 2, 1)
    );
    Ok(())
}

#[test]
fn a_key_is_remembered_for_the_window_and_not_much_longer() -> Result<()> {
    let at = 1_000 * MINUTE + 3;
    let again = |after: i64| -> Result<bool> {
        let mut dedup = dedup(1 << 20);
        kept(&mut dedup, &[Some(1)], at)?;
        // A duplicate between the two does not lengthen the window.
        assert_eq!(kept(&mut dedup, &[Some(1)], at + MINUTE)?, [false]);
        Ok(kept(&mut dedup, &[Some(1)], at + after)? == [true])
    };
    assert!(!again(60 * MINUTE)?);
    assert!(again(68 * MINUTE)?);
    assert!(
        !again(-5 * MINUTE)?,
        "a clock that goes back forgets nothing"
    );
    Ok(())
}

#[test]
fn facts_that_were_refused_are_no_duplicates_when_they_come_again() -> Result<()> {
    let mut dedup = dedup(1 << 20);
    let first = facts(&[Some(1), Some(2)], 0)?;
    assert_eq!(dedup.check_facts(&first, 0)?, None);
    // Another daemon has landed one of them meanwhile.
    dedup.note(&facts(&[Some(2)], 1)?)?;
    dedup.forget(&first)?;
    assert_eq!(kept(&mut dedup, &[Some(1), Some(2)], 2)?, [true, false]);
    Ok(())
}

#[test]
fn values_of_other_types_are_keys_too() -> Result<()> {
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
    let ids = Int64Array::from(vec![Some(-1), Some(1), Some(-1), None, None]);
    let batch = RecordBatch::try_new(schema, vec![Arc::new(ids)])?;
    let wanted = dedup(1 << 20).check_facts(&batch, 0)?;
    let wanted: Vec<bool> = wanted.iter().flat_map(|w| w.values().iter()).collect();
    assert_eq!(wanted, [true, true, false, true, true]);
    Ok(())
}

#[test]
fn memory_is_bounded_and_the_oldest_keys_go_first() -> Result<()> {
    let memory = 64 << 10;
    let settings = settings(memory);
    let mut dedup = Dedup::new("facts", &settings, 0);
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
    let batch = |ids: std::ops::Range<i64>| -> Result<RecordBatch> {
        let ids = Int64Array::from_iter_values(ids);
        Ok(RecordBatch::try_new(schema.clone(), vec![Arc::new(ids)])?)
    };
    for minute in 0..40 {
        let ids = minute * 1_000..(minute + 1) * 1_000;
        assert_eq!(dedup.check_facts(&batch(ids)?, minute * MINUTE)?, None);
        let status = dedup.status(minute * MINUTE);
        assert!(status.bytes <= memory, "{status:?}");
    }
    let now = 39 * MINUTE;
    let status = dedup.status(now);
    assert!(status.is_shortened, "{status:?}");
    assert!(status.keys >= 1_000, "{status:?}");
    let minutes = i64::try_from(status.window_us).unwrap_or(0) / MINUTE;
    assert!((1..10).contains(&minutes), "{status:?}");
    // What it says is true: within it all are known, and long before it none.
    let within = (39 - minutes + 1) * 1_000..40_000;
    let wanted = dedup.check_facts(&batch(within)?, now)?;
    assert_eq!(wanted.map(|w| w.true_count()), Some(0));
    assert_eq!(dedup.check_facts(&batch(0..100)?, now)?, None);
    // With little to remember the whole window comes back.
    dedup.check_facts(&batch(90_000..90_001)?, now + 70 * MINUTE)?;
    let status = dedup.status(now + 70 * MINUTE);
    assert!(!status.is_shortened && status.keys == 1, "{status:?}");
    Ok(())
}

/// What befalls a request.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Written,
    /// Refused, and sent again.
    RefusedOnce,
    /// Written; then the daemon starts again, from the facts that it wrote.
    Restart,
}

fn request() -> impl Strategy<Value = (Vec<Option<u8>>, i64, Fate)> {
    let id = prop_oneof![4 => (0_u8..30).prop_map(Some), 1 => Just(None)];
    let fate = prop_oneof![
        3 => Just(Fate::Written),
        1 => Just(Fate::RefusedOnce),
        1 => Just(Fate::Restart),
    ];
    (prop::collection::vec(id, 0..12), 0..20 * MINUTE, fate)
}

proptest! {
    #[test]
    fn however_a_stream_is_split_the_first_occurrences_are_kept(
        requests in prop::collection::vec(request(), 0..30)
    ) {
        let check = || -> Result<()> {
            let mut dedup = dedup(1 << 20);
            // When the fact was kept that a key was last kept of.
            let mut model = BTreeMap::<u8, i64>::new();
            let mut written = Vec::new();
            let mut now = 0;
            for (ids, later, fate) in &requests {
                now += later;
                let batch = facts(ids, now)?;
                if matches!(fate, Fate::RefusedOnce) {
                    let wanted = dedup.check_facts(&batch, now)?;
                    let kept = match &wanted {
                        Some(wanted) => keep_rows(&batch, wanted)?,
                        None => batch.clone(),
                    };
                    dedup.forget(&kept)?;
                }
                let wanted = dedup.check_facts(&batch, now)?;
                let mut here = HashSet::new();
                for (row, id) in ids.iter().enumerate() {
                    let kept = wanted.as_ref().is_none_or(|w| w.value(row));
                    let Some(id) = id else {
                        assert!(kept, "a fact without a key is dropped");
                        continue;
                    };
                    let part = |at: i64| at.div_euclid(60 * MINUTE / PARTS);
                    let known = model.get(id).is_some_and(|at| part(now) - part(*at) <= PARTS);
                    assert_eq!(kept, !known && here.insert(*id), "key {id} at {now}");
                    if kept {
                        model.insert(*id, now);
                    }
                }
                written.push(match &wanted {
                    Some(wanted) => keep_rows(&batch, wanted)?,
                    None => batch,
                });
                if matches!(fate, Fate::Restart) {
                    dedup = Dedup::new("facts", &settings(1 << 20), now);
                    written.iter().try_for_each(|facts| dedup.note(facts))?;
                }
            }
            Ok(())
        };
        check().map_err(|e| TestCaseError::fail(e.to_string()))?;
    }
}
