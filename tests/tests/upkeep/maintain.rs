//! Clean-up: what is needed stays, what is not goes when its grace is over, by the clocks that are
//! given: that of the storage and one that nobody sets. Files are as old as they are; the clocks are put
//! ahead.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anabranch_batch::{
    BatchOptions, CleanAction, CleanReason, CleanReport, RetentionRule, UpkeepTime, rebuild, retain,
};
use anabranch_jobs::clock::now_ms;
use anabranch_jobs::project::context::Context;
use anabranch_jobs::reader::local_service::local_service;
use anabranch_jobs::work::build::{Build, drop_view};
use anabranch_jobs::work::upkeep::maintain;
use anabranch_jobs::work::verify_view::verify_view;
use anabranch_shared::{
    Error, ErrorKind, Export, FoldProgress, Generation, Master, Offsets, ReadMode, Stamp, WallClock,
};
use anabranch_tests::commands::{build, ingest_lines};
use anabranch_tests::places;
use anabranch_tests::process::{Process, Setup, run_well, write_project};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// A project with an exported view, `words`.
async fn project() -> anyhow::Result<(tempfile::TempDir, Context)> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let settings = dir.path().join("anabranch.toml");
    let text = std::fs::read_to_string(&settings)? + "export = true\n";
    let text = text.replace("[daemon]", "[daemon]\ncheckpoint_every = 5");
    std::fs::write(settings, text)?;
    let context = Context::open(dir.path()).await?;
    Ok((dir, context))
}

/// All files of the storage, but for what upkeep notes.
fn files(context: &Context) -> anyhow::Result<BTreeSet<PathBuf>> {
    fn walk(dir: &Path, found: &mut BTreeSet<PathBuf>) -> std::io::Result<()> {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true if entry.file_name() == "upkeep" => {}
                true => walk(&entry.path(), found)?,
                false => {
                    found.insert(entry.path());
                }
            }
        }
        Ok(())
    }
    let mut found = BTreeSet::new();
    walk(&context.project.dir.join("data"), &mut found)?;
    Ok(found)
}

/// The Parquet files that are right below a folder of the storage.
fn data_files(context: &Context, below: &str) -> anyhow::Result<BTreeSet<PathBuf>> {
    let dir = context.project.dir.join("data").join(below);
    let mut found = files(context)?;
    found
        .retain(|f| f.parent() == Some(dir.as_path()) && f.to_string_lossy().ends_with(".parquet"));
    Ok(found)
}

/// Cleans up as of a time; what was found is what is gone, and nothing else is.
async fn clean(context: &Context, now: i64) -> anyhow::Result<(CleanReport, BTreeSet<PathBuf>)> {
    let before = files(context)?;
    let found = maintain(context, UpkeepTime::driven(now), CleanAction::Find).await?;
    anyhow::ensure!(
        files(context)?.is_superset(&before),
        "a dry run removed files"
    );
    let removed = maintain(context, UpkeepTime::driven(now), CleanAction::Remove).await?;
    anyhow::ensure!(found == removed, "found {found:?}, removed {removed:?}");
    let after = files(context)?;
    let gone: BTreeSet<PathBuf> = before.difference(&after).cloned().collect();
    let counted = removed.total().files;
    anyhow::ensure!(gone.len() as u64 == counted, "{counted} counted, {gone:?}");
    let mut again = maintain(context, UpkeepTime::driven(now), CleanAction::Remove).await?;
    // A checkpoint that was just written is old by a clock that is ahead.
    again.reasons.remove(&CleanReason::Entry);
    anyhow::ensure!(again == CleanReport::default(), "twice: {again:?}");
    Ok((removed, gone))
}

/// Clean-up sees what is needless now, and checkpoints that it writes; nothing is old yet.
async fn see(context: &Context, now: i64) -> anyhow::Result<()> {
    for _ in 0..2 {
        let time = UpkeepTime::driven(now);
        let report = maintain(context, time, CleanAction::Remove).await?;
        anyhow::ensure!(report == CleanReport::default(), "{report:?}");
    }
    Ok(())
}

fn of(report: &CleanReport, reason: CleanReason) -> u64 {
    report.reasons.get(&reason).map_or(0, |c| c.files)
}

async fn check_view(context: &Context, rows: usize) -> anyhow::Result<()> {
    let compared = verify_view(context, "words", "command").await?;
    anyhow::ensure!(
        compared.is_equal() && compared.rows == rows,
        "{} rows, {:?}",
        compared.rows,
        compared.examples
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_files_go_after_the_grace() -> anyhow::Result<()> {
    let (_dir, context) = project().await?;
    for part in 0..3 {
        ingest_lines(&context, part * 100..part * 100 + 100).await?;
        build(&context, Build::Refresh).await?;
    }
    let runs = data_files(&context, "views/words/g1")?;
    let exports = data_files(&context, "views/words/export")?;
    assert_eq!((runs.len(), exports.len()), (3, 3));
    build(&context, Build::Rebuild).await?;
    let now = now_ms();
    see(&context, now).await?;
    let (report, gone) = clean(&context, now + HOUR - 30_000).await?;
    anyhow::ensure!(gone.is_empty(), "before the grace: {report:?} {gone:?}");

    let (report, mut gone) = clean(&context, now + HOUR + 1).await?;
    gone.retain(|f| !f.to_string_lossy().contains("_delta_log"));
    let expected: BTreeSet<PathBuf> = runs.union(&exports).cloned().collect();
    assert_eq!(
        gone, expected,
        "the three runs and exports that were replaced"
    );
    assert_eq!(of(&report, CleanReason::Replaced), 6);
    // Five commits are due a checkpoint, four are not.
    let checkpoint = |table: &str| {
        let folder = context.project.dir.join("data").join(table);
        folder.join("_delta_log/_last_checkpoint").exists()
    };
    anyhow::ensure!(checkpoint("views/words/g1") && !checkpoint("views/words/export"));
    check_view(&context, 7).await?;
    // The table goes on after the checkpoint.
    ingest_lines(&context, 300..350).await?;
    build(&context, Build::Rebuild).await?;
    see(&context, now_ms()).await?;
    let (report, _) = clean(&context, now_ms() + 2 * DAY).await?;
    assert_eq!(of(&report, CleanReason::Replaced), 2, "{report:?}");
    assert_eq!(of(&report, CleanReason::Orphan), 0, "{report:?}");
    check_view(&context, 7).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_killed_processes_left_goes_later() -> anyhow::Result<()> {
    let (dir, context) = project().await?;
    ingest_lines(&context, 0..100).await?;
    build(&context, Build::Refresh).await?;
    let before = files(&context)?;
    for point in ["publish-before-commit", "export-before-commit"] {
        Process::killed_at(dir.path(), &["batch", "rebuild"], point).await?;
    }
    // The second one replaced the run, and died in the export.
    let left: BTreeSet<PathBuf> = files(&context)?.difference(&before).cloned().collect();
    let left = left
        .into_iter()
        .filter(|f| f.to_string_lossy().ends_with(".parquet"));
    let left: BTreeSet<PathBuf> = left.collect();
    assert_eq!(left.len(), 3, "an orphan, a run and an export: {left:?}");
    let staged = dir.path().join("data/views/words/g1/part-x.parquet#42");
    std::fs::write(&staged, "half")?;
    let foreign = dir
        .path()
        .join("data/views/words/g1/part-00000-of-spark.parquet");
    std::fs::write(&foreign, "not ours")?;

    let now = now_ms();
    see(&context, now).await?;
    let (report, gone) = clean(&context, now + DAY - 30_000).await?;
    assert_eq!(of(&report, CleanReason::Orphan), 0, "{gone:?}");
    assert_eq!(of(&report, CleanReason::Staged), 0, "{gone:?}");
    assert_eq!(
        of(&report, CleanReason::Replaced),
        1,
        "the first run: {gone:?}"
    );
    let (report, gone) = clean(&context, now + DAY + 1).await?;
    assert_eq!(of(&report, CleanReason::Orphan), 2, "{gone:?}");
    assert_eq!(of(&report, CleanReason::Staged), 1, "{gone:?}");
    anyhow::ensure!(gone.contains(&staged) && foreign.exists(), "{gone:?}");
    check_view(&context, 7).await?;
    build(&context, Build::Refresh).await?;
    check_view(&context, 7).await
}

/// A build that has written its files and not committed them yet loses none of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_build_in_flight_keeps_its_files() -> anyhow::Result<()> {
    let (_dir, context) = project().await?;
    ingest_lines(&context, 0..100).await?;
    let view = context.compile(&context.project.views[0])?;
    let master = Arc::new(Master::open(&context.storage, &view, Generation(1), now_ms()).await?);
    let log = context.log("facts").await?;
    let options = BatchOptions {
        like: Default::default(),
        threads: 1,
        memory_bytes: 1 << 30,
        stop: Arc::new(AtomicBool::new(false)),
        progress: Arc::new(FoldProgress::default()),
    };
    // The clean-up runs when the clock of the commit is asked: after all files are written. One has
    // seen them before, as if for a day.
    let cleaned = std::sync::Mutex::new(None);
    let clock = || {
        let report = std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                let runtime = tokio::runtime::Runtime::new().ok()?;
                let now = now_ms();
                runtime.block_on(see(&context, now)).ok()?;
                let late = UpkeepTime::driven(now + DAY - 30_000);
                runtime
                    .block_on(maintain(&context, late, CleanAction::Remove))
                    .ok()
            });
            run.join().ok().flatten()
        });
        if let Ok(mut cleaned) = cleaned.lock() {
            *cleaned = report;
        }
        now_ms()
    };
    rebuild(&master, &log, &log.head(), &options, clock).await?;
    let report = cleaned.into_inner().ok().flatten();
    anyhow::ensure!(report == Some(CleanReport::default()), "{report:?}");
    check_view(&context, 7).await
}

#[tokio::test(flavor = "multi_thread")]
async fn old_generations_go_after_the_grace() -> anyhow::Result<()> {
    let (dir, context) = project().await?;
    ingest_lines(&context, 0..100).await?;
    build(&context, Build::Refresh).await?;
    let first = files(&context)?;
    let first: BTreeSet<PathBuf> = first
        .into_iter()
        .filter(|f| f.starts_with(dir.path().join("data/views/words/g1")))
        .collect();
    anyhow::ensure!(first.len() == 3, "two commits and a run: {first:?}");
    let settings = dir.path().join("anabranch.toml");
    let text = std::fs::read_to_string(&settings)?;
    let text = text.replace("[views.words]", "[views.words]\nkeep_previous = \"off\"");
    std::fs::write(&settings, text)?;
    // A candidate whose build dies: its generation is 2. Another one takes its place.
    let sql = "SELECT id % 3 AS third, count(*) AS n FROM facts GROUP BY 1";
    std::fs::write(dir.path().join("words.sql"), sql)?;
    let point = "publish-before-commit";
    Process::killed_at(dir.path(), &["apply", "--yes"], point).await?;
    let sql = "SELECT id % 2 AS odd, count(*) AS n FROM facts GROUP BY 1";
    std::fs::write(dir.path().join("words.sql"), sql)?;
    run_well(dir.path(), &["apply", "--yes"]).await?;
    let context = Context::open(dir.path()).await?;
    let now = now_ms();
    see(&context, now).await?;
    let (_, gone) = clean(&context, now + HOUR - 30_000).await?;
    anyhow::ensure!(gone.is_empty(), "before the grace: {gone:?}");
    let (report, gone) = clean(&context, now + HOUR + 1_000).await?;
    anyhow::ensure!(gone.is_superset(&first), "{gone:?}");
    let doomed = dir.path().join("data/views/words/g2");
    anyhow::ensure!(gone.iter().any(|f| f.starts_with(&doomed)), "{gone:?}");
    anyhow::ensure!(of(&report, CleanReason::Generation) > 3, "{report:?}");
    assert_eq!(
        of(&report, CleanReason::Replaced),
        1,
        "the export: {gone:?}"
    );
    check_view(&context, 2).await?;

    // A build beside the live generation may still cut over, for a day.
    let beside = context.catalogue.claim_generation("words").await?;
    let view = context.compile(&context.project.views[0])?;
    Master::open(&context.storage, &view, beside, now_ms()).await?;
    let now = now_ms();
    see(&context, now).await?;
    let (_, gone) = clean(&context, now + DAY - 30_000).await?;
    anyhow::ensure!(gone.is_empty(), "{gone:?}");
    let (_, gone) = clean(&context, now + DAY + 1_000).await?;
    assert_eq!(gone.len(), 1, "the commit that created it: {gone:?}");

    // A dropped view: its master view goes, its export and the facts stay.
    let text = std::fs::read_to_string(dir.path().join("anabranch.toml"))?;
    let text = text.split("[views.words]").next().unwrap_or_default();
    std::fs::write(dir.path().join("anabranch.toml"), text)?;
    let context = Context::open(dir.path()).await?;
    drop_view(&context, "words").await?;
    let now = now_ms();
    see(&context, now).await?;
    let (_, gone) = clean(&context, now + HOUR - 30_000).await?;
    anyhow::ensure!(gone.is_empty(), "{gone:?}");
    let (_, gone) = clean(&context, now + HOUR + 1_000).await?;
    let master = dir.path().join("data/views/words/g3");
    anyhow::ensure!(!gone.is_empty(), "nothing went");
    anyhow::ensure!(gone.iter().all(|f| f.starts_with(&master)), "{gone:?}");
    let export = anabranch_shared::table::Table::open(&context.storage, Export::root("words"));
    assert_eq!(export.await?.with_state(|s| s.files.len()), 1);
    Ok(())
}

/// A wall clock that is set ahead, or a file that says it is old, removes nothing that was not seen for
/// as long by a clock that nobody sets.
#[tokio::test(flavor = "multi_thread")]
async fn a_wall_clock_alone_removes_nothing() -> anyhow::Result<()> {
    let (dir, context) = project().await?;
    ingest_lines(&context, 0..100).await?;
    build(&context, Build::Refresh).await?;
    for point in ["publish-before-commit", "export-before-commit"] {
        Process::killed_at(dir.path(), &["batch", "rebuild"], point).await?;
    }
    let before = files(&context)?;
    let log = context.log("facts").await?;
    let rule = RetentionRule {
        age_ms: Some(30 * DAY),
        dead_letters_ms: Some(DAY),
        seen_ms: HOUR,
        ..Default::default()
    };
    for days in [0, 3, 40, -30, 0, 400] {
        let time = UpkeepTime {
            now_ms: now_ms() + days * DAY,
            stamp: Stamp::now(None),
        };
        let (storage, catalogue) = (&context.storage, &context.catalogue);
        retain(storage, catalogue, &log, &rule, &time).await?;
        let report = maintain(&context, time, CleanAction::Remove).await?;
        anyhow::ensure!(report == CleanReport::default(), "{days} days: {report:?}");
    }
    let after = files(&context)?;
    anyhow::ensure!(
        after.is_superset(&before),
        "{:?}",
        before.difference(&after)
    );
    log.refresh().await?;
    assert_eq!(log.low(), Offsets::default());
    check_view(&context, 7).await
}

/// A table whose log has a gap: it is not known what is needed, so nothing goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_a_gap_is_left_alone() -> anyhow::Result<()> {
    let (dir, context) = project().await?;
    ingest_lines(&context, 0..100).await?;
    build(&context, Build::Refresh).await?;
    let entry = dir
        .path()
        .join("data/topics/facts/log/_delta_log/00000000000000000000.json");
    std::fs::remove_file(entry)?;
    let before = files(&context)?;
    let late = UpkeepTime::driven(now_ms() + 9 * DAY);
    let cleaned = maintain(&context, late, CleanAction::Remove).await;
    match cleaned {
        Err(e) if e.kind() == ErrorKind::Corrupt => {}
        other => anyhow::bail!("{other:?}"),
    }
    let facts = dir.path().join("data/topics/facts/log");
    let after = files(&context)?;
    let gone: Vec<_> = before
        .difference(&after)
        .filter(|f| f.starts_with(&facts))
        .collect();
    anyhow::ensure!(gone.is_empty(), "{gone:?}");
    Ok(())
}

/// Entries of a table's log go once a checkpoint that holds them has been there for the grace.
#[tokio::test(flavor = "multi_thread")]
async fn entries_below_an_old_checkpoint_go() -> anyhow::Result<()> {
    let (dir, context) = project().await?;
    for part in 0..6 {
        ingest_lines(&context, part * 10..part * 10 + 10).await?;
    }
    build(&context, Build::Refresh).await?;
    // Opened before, and follows after.
    let follower = context.log("facts").await?;
    // Six landings and the creation are due a checkpoint.
    see(&context, now_ms()).await?;
    let log = dir.path().join("data/topics/facts/log/_delta_log");
    let entries = || -> anyhow::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&log)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.retain(|n| n.ends_with(".json"));
        names.sort();
        Ok(names)
    };
    assert_eq!(entries()?.len(), 7);
    let (report, gone) = clean(&context, now_ms() + HOUR - 30_000).await?;
    anyhow::ensure!(gone.is_empty(), "before the grace: {report:?} {gone:?}");
    let (report, _) = clean(&context, now_ms() + HOUR + 1_000).await?;
    anyhow::ensure!(of(&report, CleanReason::Entry) >= 6, "{report:?}");
    assert_eq!(entries()?, ["00000000000000000006.json"]);
    check_view(&context, 7).await?;
    ingest_lines(&context, 60..70).await?;
    build(&context, Build::Rebuild).await?;
    check_view(&context, 7).await?;
    follower.refresh().await?;
    assert_eq!(follower.head().to_string(), "0:70");
    Ok(())
}

/// A query whose files went: an error that says to try again.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_file_is_an_error_that_names_it() -> anyhow::Result<()> {
    let (_dir, context) = project().await?;
    ingest_lines(&context, 0..100).await?;
    build(&context, Build::Refresh).await?;
    for file in data_files(&context, "views/words/g1")? {
        std::fs::remove_file(file)?;
    }
    let service = local_service(&context)?;
    let asked = service
        .collect("SELECT * FROM words", ReadMode::Merged)
        .await;
    let Err(e) = asked else {
        anyhow::bail!("an answer without the master view's file");
    };
    let e: Error = e;
    anyhow::ensure!(e.kind() == ErrorKind::Corrupt, "{:?}: {e}", e.kind());
    let text = e.to_string();
    for says in ["g1/part-", "run it again", "anabranch batch rebuild words"] {
        anyhow::ensure!(text.contains(says), "{text}");
    }
    Ok(())
}

/// The command prints what it removed, and a dry run removes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn maintain_is_a_command() -> anyhow::Result<()> {
    let (dir, context) = project().await?;
    ingest_lines(&context, 0..100).await?;
    build(&context, Build::Refresh).await?;
    let orphan = "data/views/words/g1/part-00000000-0000-0000-0000-000000000000.parquet";
    let orphan = dir.path().join(orphan);
    std::fs::write(&orphan, "orphan")?;
    let long_ago = std::time::SystemTime::from(WallClock::default().now())
        - std::time::Duration::from_secs(2 * 86_400);
    std::fs::File::options()
        .write(true)
        .open(&orphan)?
        .set_modified(long_ago)?;
    let run = |arguments: &[&str]| -> anyhow::Result<serde_json::Value> {
        let out = std::process::Command::new(anabranch_tests::process::binary()?)
            .arg("--project")
            .arg(dir.path())
            .args(["--format", "json", "batch", "maintain"])
            .args(arguments)
            .output()?;
        anyhow::ensure!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(serde_json::from_slice(&out.stdout)?)
    };
    let settings = dir.path().join("anabranch.toml");
    let short = "[query]\ntimeout = \"500ms\"\n[storage]\ngrace = \"1s\"\norphan_grace = \"1s\"";
    let text = std::fs::read_to_string(&settings)?.replace("[storage]", short);
    std::fs::write(settings, text)?;
    let dry = run(&["--dry-run"])?;
    anyhow::ensure!(orphan.exists(), "a dry run removed it");
    assert_eq!(dry["files"], 0);
    // It is seen, and goes once it has been seen so for its grace.
    let noted = run(&[])?;
    assert_eq!(noted["files"], 0);
    anyhow::ensure!(orphan.exists(), "it was removed at first sight");
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let dry = run(&["--dry-run"])?;
    assert_eq!(
        (&dry["removed"], &dry["files"], &dry["bytes"]),
        (&false.into(), &1.into(), &6.into())
    );
    let wet = run(&[])?;
    assert_eq!(
        (&wet["removed"], &wet["reasons"]["orphan"]["files"]),
        (&true.into(), &1.into())
    );
    anyhow::ensure!(!orphan.exists(), "it was not removed");
    check_view(&context, 7).await
}
