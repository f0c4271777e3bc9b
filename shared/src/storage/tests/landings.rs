//! Whole landings, with dead letters and a checkpoint, on a disk that loses power after every
//! single operation.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BinaryViewArray, Int32Array, Int64Array, RecordBatch, StringViewArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::Int64Type;

use super::*;
use crate::log::dead_letter_schema;
use crate::topic::{OFFSET, TopicField};
use crate::{Landing, Log, Offset, OffsetRange, Offsets, PartitionId, Result, Topic};

const PARTITION: PartitionId = PartitionId(0);

fn topic() -> Topic {
    Topic {
        name: "t".into(),
        event_time: "ts".into(),
        fields: vec![TopicField {
            name: "ts".into(),
            field_type: "timestamp".parse().unwrap(),
            nullable: true,
            reads: crate::settings::FieldReads::default(),
        }],
    }
}

fn times(rows: usize) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(vec![1; rows]).with_timezone("UTC"))
}

/// A landing of `[start, end)` whose last record is a dead letter.
fn landing(start: i64, end: i64) -> Result<Landing> {
    let topic = topic();
    let facts: Vec<i64> = (start..end - 1).collect();
    let rows = facts.len();
    let text = |v: &str| -> ArrayRef { Arc::new(StringViewArray::from_iter_values([v])) };
    let none = |rows: usize| -> ArrayRef { Arc::new(StringViewArray::new_null(rows)) };
    let columns = vec![
        times(rows),
        none(rows),
        Arc::new(Int32Array::from(vec![0; rows])),
        Arc::new(Int64Array::from(facts)),
        times(rows),
    ];
    let facts = RecordBatch::try_new(topic.schema(), columns)?;
    let columns = vec![
        text("t"),
        Arc::new(Int32Array::from(vec![0])),
        Arc::new(Int64Array::from(vec![end - 1])),
        times(1),
        none(1),
        Arc::new(Int64Array::from(vec![None])),
        text("no time"),
        none(1),
        Arc::new(BinaryViewArray::from_iter_values([b"{}"])),
    ];
    let dead = RecordBatch::try_new(dead_letter_schema(), columns)?;
    Ok(Landing {
        ranges: vec![(PARTITION, OffsetRange::new(Offset(start), Offset(end)))],
        facts: vec![facts],
        dead_letters: vec![dead],
        ..Default::default()
    })
}

/// What a daemon was told.
#[derive(Default)]
struct Landed {
    /// The ends of landings, from the first on.
    tried: Vec<i64>,
    acknowledged: i64,
}

impl Landed {
    async fn live(&mut self, storage: &Storage) -> Result<()> {
        let log = Log::open(storage, &topic(), 1).await?;
        for _ in 0..2 {
            self.land(&log).await?;
        }
        // Upkeep that dies must not harm the log.
        log.table().write_checkpoint().await?;
        self.land(&log).await
    }

    async fn land(&mut self, log: &Log) -> Result<()> {
        let start = log.head().get(PARTITION).0;
        let end = start + 3;
        self.tried.push(end);
        log.land(&landing(start, end)?, 1).await?;
        self.acknowledged = end;
        Ok(())
    }

    /// Opens the log again and checks it: its head, its facts and its dead letters.
    async fn check(&mut self, storage: &Storage) -> Result<Log, String> {
        let text = |e: crate::Error| e.to_string();
        let log = Log::open(storage, &topic(), 1).await.map_err(text)?;
        let head = log.head().get(PARTITION).0;
        if head < self.acknowledged || (head > 0 && !self.tried.contains(&head)) {
            let (acknowledged, tried) = (self.acknowledged, &self.tried);
            return Err(format!(
                "the head is {head}, {acknowledged} was acknowledged of {tried:?}"
            ));
        }
        let low = Offsets::default();
        let facts = log.read_between(&low, &log.head()).await.map_err(text)?;
        let mut found: Vec<i64> = Vec::new();
        for batch in &facts {
            let offsets = batch.column_by_name(OFFSET).ok_or("no offsets")?;
            found.extend(offsets.as_primitive::<Int64Type>().values());
        }
        let wanted: Vec<i64> = (0..head).filter(|offset| offset % 3 != 2).collect();
        if found != wanted {
            return Err(format!("up to {head} the log holds {found:?}"));
        }
        let dead = log.dead_letter_files_between(&low, &log.head());
        for file in dead.map_err(text)? {
            let path = log.dead_letters().file_path(&file.add.path);
            let bytes = storage.get(&path).await.map_err(text)?;
            crate::read_parquet(
                bytes.ok_or("a dead letter is gone")?,
                &dead_letter_schema(),
                &crate::LateReads::default(),
            )
            .map_err(text)?
            .try_for_each(|batch| batch.map(drop))
            .map_err(text)?;
        }
        Ok(log)
    }
}

/// Ends landings at operation `at`; the next life builds on what it finds, and loses power too.
fn die(bench: &Bench, at: usize, end: End, skip: Skip) -> Result<(), String> {
    let files = bench.disk(skip);
    files.fail_power_at(at);
    let mut landed = Landed::default();
    let runs = &bench.runtime;
    if let Ok(storage) = bench.storage(&files) {
        runs.block_on(landed.live(&storage)).ok();
    }
    match end {
        End::Killed => files.restart(),
        End::PowerLost(survivors) => files.lose_power(survivors),
    }
    let storage = bench.storage(&files)?;
    let log = runs.block_on(landed.check(&storage))?;
    // As a publish does: what it is built on must not be gone when it is there.
    let boundary = log.head().get(PARTITION).0;
    let text = |e: crate::Error| e.to_string();
    let path = Path::from("v/boundary");
    let publish = storage.put(&path, boundary.to_string());
    runs.block_on(publish).map_err(text)?;
    landed.acknowledged = boundary;
    files.lose_power(Survivors::Synced);
    let storage = bench.storage(&files)?;
    let log = runs.block_on(landed.check(&storage))?;
    runs.block_on(landed.land(&log)).map_err(text)?;
    files.lose_power(Survivors::Some(at as u64));
    let storage = bench.storage(&files)?;
    runs.block_on(landed.check(&storage)).map(drop)
}

fn whole(bench: &Bench) -> usize {
    let files = bench.disk(Skip::Nothing);
    let storage = bench.storage(&files).unwrap();
    let mut landed = Landed::default();
    bench.runtime.block_on(landed.live(&storage)).unwrap();
    files.operations().len()
}

#[test]
fn no_landing_is_lost_wherever_the_power_fails() {
    let bench = Bench::new();
    let operations = whole(&bench);
    assert!(operations > 60, "the life has {operations} operations");
    for at in 0..=operations {
        let some = End::PowerLost(Survivors::Some(at as u64));
        for end in [PLAIN[0], PLAIN[1], some] {
            let died = die(&bench, at, end, Skip::Nothing);
            assert_eq!(died, Ok(()), "{end:?} at operation {at}");
        }
    }
}

#[test]
fn without_any_one_reason_to_sync_a_landing_is_lost() {
    let bench = Bench::new();
    let operations = whole(&bench);
    // Landings remove nothing.
    let reasons = SyncPoint::OF_STORAGE.into_iter();
    for reason in reasons.filter(|reason| *reason != SyncPoint::Removal) {
        let mut deaths = (0..=operations).flat_map(|at| PLAIN.map(|end| (at, end)));
        let broken = deaths.any(|(at, end)| die(&bench, at, end, Skip::Reason(reason)).is_err());
        assert!(broken, "nothing shows that {reason:?} is needed");
    }
}
