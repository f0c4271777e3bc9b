//! The daemon and `batch` are killed with SIGKILL at every interesting point, and at random times
//! under load. After the restart every acknowledged fact is there once, none twice, and the law
//! holds.

use std::path::Path;
use std::time::{Duration, Instant};

use anabranch_jobs::project::context::Context;
use anabranch_shared::{Offsets, ReadMode};
use anabranch_tests::ledger::{Ledger, REQUEST, boundary, check_law};
use anabranch_tests::places;
use anabranch_tests::process::{EDITED, Process, Setup, VIEW, run, run_well, until, write_project};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// The smallest WAL, so that a few requests make a cut worth while.
const SMALL_WAL: &str = "wal_bytes = \"1MB\"";

/// Requests that together are worth a cut of [`SMALL_WAL`].
const WORTH_A_CUT: usize = 40;

/// Restarts the daemon, and checks what must hold: in the daemon's own answers, and of the log once
/// it has stopped.
async fn check_after_restart(
    what: &str,
    dir: &Path,
    ledger: &Ledger,
    sql: &str,
) -> anyhow::Result<()> {
    let context = Context::open(dir).await?;
    let begun = Instant::now();
    let mut daemon = Process::start(dir, &["speed"])?;
    let client = daemon.ready(&context).await?;
    let recovered = begun.elapsed();
    ledger.check(what, &client, sql).await?;
    println!(
        "{what}: {} facts and {} dead letters acknowledged, all there once; answering again after {recovered:?}",
        ledger.acknowledged.len(),
        ledger.dead.len(),
    );
    check_law(what, &context).await?;
    daemon.terminate().await?;
    check_law(what, &context).await
}

/// Runs a daemon under load into a point, kills it there, and checks.
async fn kill_daemon_at(
    point: &str,
    nth: u64,
    most: usize,
    setup: Setup<'_>,
) -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), setup)?;
    let context = Context::open(dir.path()).await?;
    let mut daemon = Process::start_to_stop(dir.path(), &["speed"], point, nth)?;
    let client = daemon.ready(&context).await?;
    let sending = tokio::spawn(async move { Ledger::default().send(&client, most).await });
    daemon.stopped().await?;
    daemon.kill()?;
    let ledger = sending.await?;
    if setup.ack == "landed" {
        // What is acknowledged so survives the loss of the machine: its WAL is gone.
        std::fs::remove_dir_all(dir.path().join("wal"))?;
    }
    let what = format!("{point}, ack = {}", setup.ack);
    check_after_restart(&what, dir.path(), &ledger, VIEW).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_dies_in_its_wal_loses_nothing() -> anyhow::Result<()> {
    let setup = Setup {
        daemon: SMALL_WAL,
        ..Default::default()
    };
    for (point, nth, most) in [
        ("wal-before-append", 4, usize::MAX),
        ("wal-before-fsync", 4, usize::MAX),
        ("wal-after-fsync", 4, usize::MAX),
        ("wal-after-roll", 1, WORTH_A_CUT),
        ("wal-in-cut", 1, WORTH_A_CUT),
    ] {
        kill_daemon_at(point, nth, most, setup).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_dies_in_a_landing_loses_nothing() -> anyhow::Result<()> {
    for point in ["land-before-commit", "land-after-commit", "land-before-cut"] {
        for ack in ["wal", "landed"] {
            let setup = Setup {
                ack,
                ..Default::default()
            };
            kill_daemon_at(point, 2, usize::MAX, setup).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_dies_when_a_boundary_moves_loses_nothing() -> anyhow::Result<()> {
    for point in ["delta-before-adopt", "delta-after-adopt"] {
        let dir = places::folder()?;
        write_project(dir.path(), Setup::default())?;
        let context = Context::open(dir.path()).await?;
        let mut daemon = Process::start_to_stop(dir.path(), &["speed"], point, 1)?;
        let client = daemon.ready(&context).await?;
        let ledger = Ledger::default().send(&client, 20).await;
        until("a landing", || landed(&context, 1)).await?;
        let sending = ledger.clone().send_beside(&client);
        run_well(dir.path(), &["batch", "refresh"]).await?;
        daemon.stopped().await?;
        daemon.kill()?;
        let ledger = sending.await?;
        anyhow::ensure!(boundary(&context).await?.iter().next().is_some());
        check_after_restart(point, dir.path(), &ledger, VIEW).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_dies_before_its_views_answer_is_made_good() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let point = "cut-over-before-entry";
    let mut daemon = Process::start_to_stop(dir.path(), &["speed"], point, 1)?;
    daemon.stopped().await?;
    daemon.kill()?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let context = Context::open(dir.path()).await?;
    let client = daemon.ready(&context).await?;
    let ledger = Ledger::default().send(&client, 3).await;
    anyhow::ensure!(ledger.acknowledged.len() == 3 * REQUEST as usize);
    ledger.check(point, &client, VIEW).await?;
    daemon.kill()?;
    check_after_restart(point, dir.path(), &ledger, VIEW).await
}

/// Whether at least so many offsets have landed.
async fn landed(context: &Context, offsets: u64) -> anyhow::Result<bool> {
    let head = context.log("facts").await?.head();
    Ok(Offsets::default().distance_to(&head) >= offsets)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_dies_happened_or_did_not() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let context = Context::open(dir.path()).await?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    let mut ledger = Ledger::default();
    for command in ["refresh", "rebuild"] {
        for point in ["publish-before-commit", "publish-after-commit"] {
            let what = format!("{point} of {command}");
            ledger = ledger.send(&client, 10).await;
            let offsets = ledger.acknowledged.len() + ledger.dead.len();
            until("a landing", || landed(&context, offsets as u64)).await?;
            let before = boundary(&context).await?;
            let mut build = Process::start_to_stop(dir.path(), &["batch", command], point, 1)?;
            build.stopped().await?;
            ledger.check(&format!("in {what}"), &client, VIEW).await?;
            build.kill()?;
            let after = boundary(&context).await?;
            anyhow::ensure!(
                after.covers(&before) && (after != before) == (point == "publish-after-commit"),
                "{what}: the boundary went from [{before}] to [{after}]"
            );
            ledger
                .check(&format!("after {what}"), &client, VIEW)
                .await?;
            check_law(&what, &context).await?;
        }
        run_well(dir.path(), &["batch", command]).await?;
    }
    daemon.kill()?;
    check_after_restart("publishes that died", dir.path(), &ledger, VIEW).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_over_that_dies_happened_or_did_not() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let context = Context::open(dir.path()).await?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    let ledger = Ledger::default().send(&client, 10).await;
    run_well(dir.path(), &["batch", "refresh"]).await?;
    std::fs::write(dir.path().join("words.sql"), EDITED)?;
    for (point, answers) in [
        ("cut-over-before-entry", VIEW),
        ("cut-over-after-entry", EDITED),
    ] {
        let mut build = Process::start_to_stop(dir.path(), &["apply", "--yes"], point, 1)?;
        build.stopped().await?;
        build.kill()?;
        // The daemon follows a cut-over within a moment.
        until("the cut-over", || async {
            let answer = client
                .query("SELECT * FROM words", ReadMode::Merged)
                .await?;
            let edited = answer.schema.column_with_name("newest").is_some();
            Ok(edited == (answers == EDITED))
        })
        .await?;
        ledger.check(point, &client, answers).await?;
        check_law(point, &context).await?;
    }
    daemon.kill()?;
    check_after_restart("cut-overs that died", dir.path(), &ledger, EDITED).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_times_under_load() -> anyhow::Result<()> {
    for (seed, ack) in [(3, "wal"), (5, "landed")] {
        let dir = places::folder()?;
        let setup = Setup {
            ack,
            ..Default::default()
        };
        write_project(dir.path(), setup)?;
        let context = Context::open(dir.path()).await?;
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut ledger = Ledger::default();
        let mut below = boundary(&context).await?;
        for round in 0..4 {
            let mut daemon = Process::start(dir.path(), &["speed"])?;
            let client = daemon.ready(&context).await?;
            let sending = ledger.send_beside(&client);
            let command = ["refresh", "rebuild"][round % 2];
            let mut build = Process::start(dir.path(), &["batch", command])?;
            // The one dies first, then the other, while the third goes on.
            let lives = [rng.random_range(20..500), rng.random_range(0..200)];
            tokio::time::sleep(Duration::from_millis(lives[0])).await;
            match rng.random() {
                true => build.kill()?,
                false => daemon.kill()?,
            }
            tokio::time::sleep(Duration::from_millis(lives[1])).await;
            daemon.kill()?;
            build.kill()?;
            ledger = sending.await?;
            let now = boundary(&context).await?;
            anyhow::ensure!(
                now.covers(&below),
                "round {round}: the boundary went back from [{below}] to [{now}]"
            );
            below = now;
        }
        if ack == "landed" {
            std::fs::remove_dir_all(dir.path().join("wal"))?;
        }
        let what = format!("random times, ack = {ack}");
        check_after_restart(&what, dir.path(), &ledger, VIEW).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_whose_own_thread_or_loop_ends_says_so_and_ends() -> anyhow::Result<()> {
    for (point, code, names) in [
        ("wal-before-append=3*off->panic", 70, "panicked"),
        ("wal-after-fsync=3*off->panic", 70, "panicked"),
        (
            "wal-sync-fails=6*off->return",
            69,
            "can't be written any more",
        ),
        ("land-before-commit=1*off->panic", 70, "loop"),
    ] {
        let dir = places::folder()?;
        write_project(dir.path(), Setup::default())?;
        let context = Context::open(dir.path()).await?;
        let mut daemon = Process::start_with(dir.path(), &["speed"], point)?;
        let client = daemon.ready(&context).await?;
        let ledger = Ledger::default().send_beside(&client);
        let status = daemon.ended().await?;
        let errors = daemon.errors().await;
        anyhow::ensure!(
            status.code() == Some(code)
                && errors.lines().any(|l| l.starts_with("error: ")
                    && l.contains(names)
                    && l.contains("start it again")),
            "{point}: ends with {status}: {errors}"
        );
        check_after_restart(point, dir.path(), &ledger.await?, VIEW).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_of_a_dropped_ones_name_does_not_find_its_runs() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let context = Context::open(dir.path()).await?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    let ledger = Ledger::default().send(&client, 3).await;
    daemon.terminate().await?;
    run_well(dir.path(), &["batch", "refresh"]).await?;
    let project = std::fs::read_to_string(dir.path().join("anabranch.toml"))?;
    let without = project.replace("[views.words]\nsql = \"words.sql\"\n", "");
    std::fs::write(dir.path().join("anabranch.toml"), without)?;
    run_well(dir.path(), &["batch", "drop", "words"]).await?;
    let gone = run(dir.path(), &["sql", "-c", "SELECT * FROM words"]).await?;
    anyhow::ensure!(!gone.status.success(), "the dropped view still answers");
    // Its states are of the same format, of other facts.
    let other = VIEW.replace("FROM facts", "FROM facts WHERE id >= 75");
    std::fs::write(dir.path().join("words.sql"), &other)?;
    std::fs::write(dir.path().join("anabranch.toml"), project)?;
    // A view that was dropped is not declared again by a project that holds it.
    run_well(dir.path(), &["batch", "rebuild", "words"]).await?;
    check_after_restart("a name used again", dir.path(), &ledger, &other).await
}
