//! Compaction of a log: whoever does it, however often at once, and wherever it dies, each fact and
//! each dead letter is there once, and every range can still be cut out.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anabranch_batch::{CleanAction, CompactOptions, CompactReport, compact, find_compaction};
use anabranch_jobs::project::context::Context;
use anabranch_jobs::work::upkeep::{Patience, keep_logs};
use anabranch_jobs::work::verify_view::verify_view;
use anabranch_shared::table::AddFile;
use anabranch_shared::view::View;
use anabranch_shared::{
    Error, FoldOptions, FoldProgress, Landing, LateReads, Log, LogTable, OFFSET, Offset,
    OffsetRange, Offsets, PARTITION, PartitionId, Storage, dead_letter_schema, fold_log,
    keep_ranges, read_parquet,
};
use anabranch_tests::process::{Process, Setup, run_well, write_project};
use anabranch_tests::{facts, places};
use arrow::array::{
    ArrayRef, AsArray, BinaryViewArray, Int32Array, Int64Array, RecordBatch, StringViewArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{Int32Type, Int64Type};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const NOW: i64 = facts::NOW_US / 1_000;

type Rows = BTreeMap<(i32, i64), usize>;

fn options(below_bytes: u64, to_bytes: u64) -> CompactOptions {
    CompactOptions {
        below_bytes,
        to_bytes,
        stop: Arc::default(),
    }
}

fn dead_letters(partition: PartitionId, offsets: &[i64]) -> anyhow::Result<RecordBatch> {
    let rows = offsets.len();
    let text = |t: &str| -> ArrayRef { Arc::new(StringViewArray::from_iter_values(vec![t; rows])) };
    let none = || -> ArrayRef { Arc::new(StringViewArray::new_null(rows)) };
    let columns: Vec<ArrayRef> = vec![
        text("facts"),
        Arc::new(Int32Array::from(vec![partition.0; rows])),
        Arc::new(Int64Array::from(offsets.to_vec())),
        Arc::new(TimestampMicrosecondArray::from(vec![facts::NOW_US; rows]).with_timezone("UTC")),
        none(),
        Arc::new(Int64Array::new_null(rows)),
        text("no time"),
        none(),
        Arc::new(BinaryViewArray::from_iter_values(vec![b"{}"; rows])),
    ];
    Ok(RecordBatch::try_new(dead_letter_schema(), columns)?)
}

fn count(rows: &mut Rows, batch: &RecordBatch) -> anyhow::Result<()> {
    let column = |name: &str| {
        let found = batch.column_by_name(name);
        found.ok_or_else(|| anyhow::anyhow!("no `{name}`"))
    };
    let partitions = column(PARTITION)?.as_primitive::<Int32Type>().values();
    let offsets = column(OFFSET)?.as_primitive::<Int64Type>().values();
    for place in partitions.iter().copied().zip(offsets.iter().copied()) {
        *rows.entry(place).or_default() += 1;
    }
    Ok(())
}

/// What was landed.
#[derive(Default)]
struct Landed {
    facts: Rows,
    dead: Rows,
}

impl Landed {
    /// Lands random facts and dead letters in some of the partitions, whose rows come mixed.
    async fn land(
        &mut self,
        rng: &mut SmallRng,
        log: &Log,
        partitions: std::ops::Range<i32>,
    ) -> anyhow::Result<()> {
        let topic = log.topic();
        let head = log.head();
        let mut landing = Landing::default();
        for p in partitions.clone().map(PartitionId) {
            if partitions.len() > 1 && rng.random_bool(0.4) {
                continue;
            }
            let first = head.get(p);
            let mut next = first;
            for _ in 0..rng.random_range(1..3) {
                let rows = rng.random_range(0..20);
                let (batch, end) = facts::facts(rng, &topic, p, next, rows)?;
                count(&mut self.facts, &batch)?;
                landing.facts.push(batch);
                next = end;
            }
            let dead: Vec<i64> = (0..rng.random_range(0..3)).map(|i| next.0 + i).collect();
            let batch = dead_letters(p, &dead)?;
            count(&mut self.dead, &batch)?;
            landing.dead_letters.push(batch);
            let end = Offset(next.0 + dead.len() as i64);
            if end > first {
                landing.ranges.push((p, OffsetRange::new(first, end)));
            }
        }
        // Rows of several partitions in one file, as they came in: not in order of partition.
        landing.facts.reverse();
        if partitions.len() == 1 {
            landing.facts.reverse();
        }
        if !landing.ranges.is_empty() {
            log.land(&landing, NOW).await?;
        }
        Ok(())
    }

    /// Checks that a log holds exactly this, whole and in random parts.
    async fn check(&self, rng: &mut SmallRng, log: &Log) -> anyhow::Result<()> {
        let low = Offsets::default();
        let head = log.head();
        let mut middle = Offsets::default();
        for (p, end) in head.iter() {
            middle.set(p, Offset(rng.random_range(0..=end.0)));
        }
        for (from, to) in [(&low, &head), (&low, &middle), (&middle, &head)] {
            let wanted = |rows: &Rows| -> Rows {
                let within = |(p, o): &(i32, i64)| {
                    let (p, o) = (PartitionId(*p), Offset(*o));
                    from.get(p) <= o && o < to.get(p)
                };
                rows.iter()
                    .filter(|(k, _)| within(k))
                    .map(|(k, n)| (*k, *n))
                    .collect()
            };
            let mut found = Rows::new();
            for batch in log.read_between(from, to).await? {
                count(&mut found, &batch)?;
            }
            anyhow::ensure!(found == wanted(&self.facts), "facts of [{from}] to [{to}]");
            let mut found = Rows::new();
            for file in log.dead_letter_files_between(from, to)? {
                let bytes = log.file_bytes(LogTable::DeadLetters, &file.add).await?;
                for batch in read_parquet(bytes, &dead_letter_schema(), &LateReads::default())? {
                    count(&mut found, &keep_ranges(&batch?, &file.wanted)?)?;
                }
            }
            anyhow::ensure!(
                found == wanted(&self.dead),
                "dead letters of [{from}] to [{to}]"
            );
        }
        Ok(())
    }
}

async fn log(storage: &Storage) -> anyhow::Result<Log> {
    Ok(Log::open(storage, &facts::topic()?, NOW).await?)
}

/// The rows of a merged file, one that was not there `before`, are in order of partition and offset.
async fn check_order(log: &Log, before: &BTreeMap<String, Arc<AddFile>>) -> anyhow::Result<()> {
    let which = LogTable::Facts;
    let mut files = log.upkeep_files(which)?.files;
    files.retain(|f| !before.contains_key(&f.path));
    for add in files {
        let mut last = None;
        let bytes = log.file_bytes(which, &add).await?;
        for batch in read_parquet(bytes, &log.schema_of(which), &LateReads::default())? {
            let mut rows = Rows::new();
            let batch = batch?;
            for row in 0..batch.num_rows() {
                let one = batch.slice(row, 1);
                rows.clear();
                count(&mut rows, &one)?;
                let place = rows.keys().next().copied();
                anyhow::ensure!(place > last, "`{}`: {place:?} after {last:?}", add.path);
                last = place;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_log_holds_the_same_in_fewer_files() -> anyhow::Result<()> {
    for seed in 0..12 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (_dir, storage) = places::storage()?;
        let (own, other) = (log(&storage).await?, log(&storage).await?);
        let mut landed = Landed::default();
        for _ in 0..20 {
            landed
                .land(&mut rng, &own, 0..1 + (seed % 4) as i32)
                .await?;
        }
        let before = own.table().with_state(|s| s.files.clone());
        let below = rng.random_range(20_000..1 << 20);
        let options = options(below, rng.random_range(below..4 << 20));
        own.refresh().await?;
        let found = find_compaction(&other, &options).await?;
        let done = compact(&other, &options, || NOW).await?;
        anyhow::ensure!(found == done && done.merged > 0, "{found:?} {done:?}");
        let after = other.table().with_state(|s| s.files.len());
        anyhow::ensure!(after < before.len(), "{} files, then {after}", before.len());
        check_order(&other, &before).await?;
        // The files that were there and those that are now, together with what comes after.
        landed.check(&mut rng, &own).await?;
        landed.check(&mut rng, &other).await?;
        own.refresh().await?;
        let names = |log: &Log| {
            log.dead_letters()
                .with_state(|s| s.files.clone().into_keys())
        };
        anyhow::ensure!(
            names(&own).eq(names(&other)),
            "replaced dead letters are not followed"
        );
        landed.land(&mut rng, &own, 0..2).await?;
        landed.check(&mut rng, &own).await?;
        // Also from a checkpoint, which holds the ranges of merged files.
        own.table().write_checkpoint().await?;
        own.dead_letters().write_checkpoint().await?;
        let fresh = log(&storage).await?;
        landed.check(&mut rng, &fresh).await?;
        let again = compact(&fresh, &options, || NOW).await?;
        anyhow::ensure!(again.files < done.files, "{again:?} after {done:?}");
        landed.check(&mut rng, &fresh).await?;
    }
    Ok(())
}

/// What delta-rs would get wrong: two that merge the same files at once.
#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_and_a_landing_double_nothing() -> anyhow::Result<()> {
    let mut fenced = 0;
    for seed in 0..30 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (_dir, storage) = places::storage()?;
        let lander = log(&storage).await?;
        let mut landed = Landed::default();
        for _ in 0..12 {
            landed.land(&mut rng, &lander, 0..1).await?;
        }
        let options = options(20_000, 60_000);
        let compactor = || {
            let (storage, options) = (storage.clone(), options.clone());
            tokio::spawn(async move {
                let log = log(&storage).await?;
                anyhow::Ok(compact(&log, &options, || NOW).await)
            })
        };
        let compactors = [compactor(), compactor(), compactor()];
        for _ in 0..4 {
            landed.land(&mut rng, &lander, 0..1).await?;
        }
        for compactor in compactors {
            match compactor.await?? {
                Ok(_) => {}
                Err(Error::Fenced { .. }) => fenced += 1,
                Err(e) => return Err(e.into()),
            }
        }
        landed.check(&mut rng, &log(&storage).await?).await?;
    }
    anyhow::ensure!(fenced > 0, "they never got into each other's way");
    Ok(())
}

/// A rebuild that takes longer than replaced files stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_fold_goes_on_with_the_files_that_replaced_its_own() -> anyhow::Result<()> {
    let mut rng = SmallRng::seed_from_u64(1);
    let (dir, storage) = places::storage()?;
    let stale = Arc::new(log(&storage).await?);
    let mut landed = Landed::default();
    for _ in 0..12 {
        landed.land(&mut rng, &stale, 0..3).await?;
    }
    let replaced = stale.table().with_state(|s| s.files.clone());
    compact(&log(&storage).await?, &options(1 << 20, 1 << 22), || NOW).await?;
    for path in replaced.keys() {
        std::fs::remove_file(dir.path().join("topics/facts/log").join(path))?;
    }
    let sql = "SELECT _partition, count(*) AS n, sum(_offset) AS o FROM facts GROUP BY 1";
    let view = Arc::new(View::compile("v", sql, &facts::topic()?)?);
    let options = FoldOptions {
        threads: 2,
        memory_bytes: 1 << 30,
        stop: Arc::default(),
        progress: Arc::new(FoldProgress::default()),
    };
    let counted = Arc::new(AtomicI64::new(0));
    let sum = counted.clone();
    let (low, head) = (Offsets::default(), stale.head());
    fold_log(&stale, &view, &low, &head, &options, move |states, _| {
        let column = states
            .column_by_name("n")
            .or_else(|| states.columns().get(1));
        let rows = column.map_or(0, |c| c.as_primitive::<Int64Type>().values().iter().sum());
        sum.fetch_add(rows, Ordering::Relaxed);
        Ok(())
    })
    .await?;
    assert_eq!(counted.load(Ordering::Relaxed), landed.facts.len() as i64);
    Ok(())
}

/// States that were handed over, with the offsets that they are of.
type HandedOver = Vec<(RecordBatch, Vec<(PartitionId, OffsetRange)>)>;

/// A file is folded in parts where its states take more memory than allowed, and each part is of whole
/// ranges: whether the file is as it landed, with its partitions mixed, or was merged.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_is_folded_within_the_bound() -> anyhow::Result<()> {
    let mut rng = SmallRng::seed_from_u64(2);
    let (_dir, storage) = places::storage()?;
    let log = Arc::new(log(&storage).await?);
    let (topic, mut landed) = (log.topic(), Rows::new());
    let partitions = [0, 1, 2].map(PartitionId);
    for rows in [6_000, 1_500] {
        let mut landing = Landing::default();
        let mut ends = Offsets::default();
        for p in partitions.into_iter().chain(partitions) {
            let first = ends.get(p).max(log.head().get(p));
            let (batch, end) = facts::facts(&mut rng, &topic, p, first, rows)?;
            count(&mut landed, &batch)?;
            landing.facts.push(batch);
            ends.set(p, end);
        }
        landing.ranges = log.head().ranges_to(&ends);
        log.land(&landing, NOW).await?;
    }
    let sql = "SELECT _partition, _offset, count(*) AS n, max(s) AS s FROM facts GROUP BY 1, 2";
    let view = Arc::new(View::compile("v", sql, &facts::topic()?)?);
    let fold = async |memory_bytes: usize| -> anyhow::Result<(HandedOver, u64)> {
        let options = FoldOptions {
            threads: 1,
            memory_bytes,
            stop: Arc::default(),
            progress: Arc::new(FoldProgress::default()),
        };
        let (send, parts) = std::sync::mpsc::channel();
        let emit = move |states, ranges| {
            let closed = |_| Error::Internal("nobody takes states".into());
            send.send((states, ranges)).map_err(closed)
        };
        fold_log(
            &log,
            &view,
            &Offsets::default(),
            &log.head(),
            &options,
            emit,
        )
        .await?;
        let held = options.progress.most_held.load(Ordering::Relaxed);
        Ok((parts.try_iter().collect(), held))
    };
    for merged in [false, true] {
        if merged {
            let sizes = |s: &anabranch_shared::table::TableState| {
                s.files.values().map(|f| f.size).max().unwrap_or(0)
            };
            let largest = u64::try_from(log.table().with_state(sizes))?;
            compact(&log, &options(largest + 1, 1 << 30), || NOW).await?;
            assert_eq!(log.table().with_state(|s| s.files.len()), 1);
        }
        let (whole, needed) = fold(usize::MAX).await?;
        assert_eq!(whole.len(), 1);
        let bound = needed / 4;
        let (parts, held) = fold(usize::try_from(bound)?).await?;
        assert!(parts.len() >= 3, "{} parts", parts.len());
        // A batch of facts on top, and tables that double.
        assert!(
            held < needed * 3 / 4,
            "{held} of {needed} bytes, the bound is {bound}"
        );
        let mut left = landed.clone();
        for (states, ranges) in parts {
            let places = [0, 1].map(|c| states.column(c).clone());
            let partitions = places[0].as_primitive::<Int32Type>().values();
            let offsets = places[1].as_primitive::<Int64Type>().values();
            let of_part = partitions.iter().zip(offsets);
            for (partition, offset) in of_part {
                let holds = |(p, r): &(PartitionId, OffsetRange)| {
                    p.0 == *partition && r.start.0 <= *offset && *offset < r.end.0
                };
                assert_eq!(ranges.iter().copied().filter(holds).count(), 1);
                let taken = left.remove(&(*partition, *offset));
                assert!(taken.is_some(), "{partition}, {offset} is of two parts");
            }
            let none = left.keys().filter(|(p, o)| {
                let holds = |(q, r): &&(PartitionId, OffsetRange)| {
                    q.0 == *p && r.start.0 <= *o && *o < r.end.0
                };
                ranges.iter().any(|r| holds(&r))
            });
            assert_eq!(none.count(), 0, "a part lacks facts of its ranges");
        }
        assert!(left.is_empty(), "{} facts are of no part", left.len());
    }
    Ok(())
}

/// A project whose log has twelve small files, each with a dead letter, and a view over it.
async fn project() -> anyhow::Result<(tempfile::TempDir, Context)> {
    let dir = places::folder()?;
    let storage = "file://./data\"\ncompact_below = \"1MB\"\ncompact_to = \"2MB";
    let setup = Setup {
        storage,
        ..Default::default()
    };
    write_project(dir.path(), setup)?;
    for part in 0..12 {
        ingest(dir.path(), part).await?;
    }
    run_well(dir.path(), &["batch", "refresh"]).await?;
    let context = Context::open(dir.path()).await?;
    Ok((dir, context))
}

async fn ingest(dir: &Path, part: i64) -> anyhow::Result<()> {
    let path = dir.join(format!("{part}.ndjson"));
    let mut text: String = (part * 50..part * 50 + 50)
        .map(anabranch_tests::ledger::line)
        .collect();
    text += "{\"id\":1}\n";
    std::fs::write(&path, text)?;
    let path = path.display().to_string();
    run_well(dir, &["ingest", "facts", &path, "--allow-dead-letters"]).await?;
    Ok(())
}

/// What must hold of the project after `parts` files: the law, each fact once, each dead letter once.
async fn check(what: &str, dir: &Path, context: &Context, parts: i64) -> anyhow::Result<()> {
    let compared = verify_view(context, "words", "command").await?;
    anyhow::ensure!(compared.is_equal(), "{what}: {:?}", compared.examples);
    let sql = "SELECT count(*) AS a, count(DISTINCT id) AS b, (SELECT count(*) FROM dead_letters) AS c FROM facts";
    let found = run_well(dir, &["--format", "csv", "sql", "-c", sql]).await?;
    let wanted = format!("{0},{0},{parts}", parts * 50);
    anyhow::ensure!(found.contains(&wanted), "{what}: {found}, wanted {wanted}");
    Ok(())
}

fn files(log: &Log) -> usize {
    log.table().with_state(|s| s.files.len())
}

/// Kills the command where it does something to the dead letters (1) or to the facts (2).
async fn killed_at(point: &'static str, nth: u64) -> anyhow::Result<()> {
    let (dir, context) = project().await?;
    let what = format!("{point}, {nth}");
    let mut command = Process::start_to_stop(dir.path(), &["batch", "maintain"], point, nth)?;
    command.stopped().await?;
    command.kill()?;
    let log = context.log("facts").await?;
    let dead = || log.dead_letters().with_state(|s| s.files.len());
    let done = u64::from(point == "compact-after-commit") + nth - 1;
    let wanted = [(12, 12), (12, 1), (1, 1)];
    let found = (files(&log), dead());
    anyhow::ensure!(
        wanted.get(done as usize) == Some(&found),
        "{what}: {found:?} files"
    );
    check(&what, dir.path(), &context, 12).await?;
    // The dead holder's lease is waited out.
    run_well(dir.path(), &["batch", "maintain"]).await?;
    log.refresh().await?;
    let found = (files(&log), dead());
    anyhow::ensure!(found == (1, 1), "{what}: {found:?} files");
    check(&what, dir.path(), &context, 12).await?;
    ingest(dir.path(), 12).await?;
    run_well(dir.path(), &["batch", "rebuild"]).await?;
    check(&what, dir.path(), &context, 13).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_that_dies_happened_or_did_not() -> anyhow::Result<()> {
    let mut kills = tokio::task::JoinSet::new();
    for point in [
        "compact-before-file",
        "compact-before-commit",
        "compact-after-commit",
    ] {
        for nth in [1, 2] {
            kills.spawn(killed_at(point, nth));
        }
    }
    while let Some(killed) = kills.join_next().await {
        killed??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wakes_after_its_lease_is_fenced() -> anyhow::Result<()> {
    let (dir, context) = project().await?;
    let point = "compact-before-commit";
    let mut sleeper = Process::start_to_stop(dir.path(), &["batch", "maintain"], point, 1)?;
    sleeper.stopped().await?;
    // The daemon's own upkeep is not patient: it leaves the log to the one that has the lease.
    let stop = Arc::default();
    let report = keep_logs(&context, CleanAction::Remove, Patience::None, &stop).await?;
    assert_eq!(
        (report.compacted, report.elsewhere),
        (CompactReport::default(), vec!["facts".to_owned()])
    );
    let said = run_well(dir.path(), &["batch", "maintain"]).await?;
    anyhow::ensure!(said.contains("24 small files of logs"), "{said}");
    sleeper.go_on()?;
    let ended = sleeper.ended().await?;
    anyhow::ensure!(ended.success(), "{ended}: {}", sleeper.errors().await);
    let log = context.log("facts").await?;
    assert_eq!(files(&log), 1);
    check("two owners", dir.path(), &context, 12).await
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_at_once_with_a_daemon_double_nothing() -> anyhow::Result<()> {
    let (dir, context) = project().await?;
    let settings = dir.path().join("anabranch.toml");
    let text = std::fs::read_to_string(&settings)?;
    std::fs::write(
        &settings,
        text.replace("[daemon]", "[daemon]\nmaintain_every = \"50ms\""),
    )?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    let mut commands = Vec::new();
    for _ in 0..2 {
        commands.push(Process::start(dir.path(), &["batch", "maintain"])?);
    }
    let ledger = anabranch_tests::ledger::Ledger::from(1_000)
        .send(&client, 30)
        .await;
    for mut command in commands {
        let ended = command.ended().await?;
        anyhow::ensure!(ended.success(), "{ended}: {}", command.errors().await);
    }
    anyhow::ensure!(ledger.acknowledged.len() == 30 * 50);
    daemon.terminate().await?;
    let log = context.log("facts").await?;
    anyhow::ensure!(files(&log) < 12, "{} files", files(&log));
    let sql = "SELECT count(*) AS a, count(DISTINCT id) AS b, (SELECT count(*) FROM dead_letters) AS c FROM facts";
    let found = run_well(dir.path(), &["--format", "csv", "sql", "-c", sql]).await?;
    anyhow::ensure!(found.contains("2100,2100,42"), "{found}");
    anabranch_tests::ledger::check_law("at once", &context).await
}
