//! Processes that die, and that sleep.

use std::path::Path;
use std::time::Duration;

use anabranch_jobs::project::context::Context;
use anabranch_shared::Offsets;
use anabranch_tests::fates::Tally;
use anabranch_tests::places;
use anabranch_tests::process::{Process, Setup, run_well, until, write_project};
use anabranch_tests::sender::Sender;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::Time;
use super::settle::settle;

/// `land_every` of the projects.
pub(super) const LAND_EVERY: Duration = Duration::from_millis(100);

/// Where a daemon is killed, and which pass it does not survive.
const STEPS: [(&str, u64); 7] = [
    ("wal-before-append", 3),
    ("wal-before-fsync", 3),
    ("wal-after-fsync", 3),
    ("land-before-commit", 2),
    ("land-after-commit", 2),
    ("land-before-cut", 2),
    ("delta-before-adopt", 1),
];

/// A daemon is killed at a step under load; where facts are acknowledged as landed, its machine is
/// lost with it.
pub(super) async fn at_each_step(time: Time) -> anyhow::Result<Option<Tally>> {
    let (point, pass) = time.choose(&STEPS);
    let ack = ["wal", "landed"][time.nth / STEPS.len() % 2];
    let dir = places::folder()?;
    let setup = Setup {
        ack,
        ..Default::default()
    };
    write_project(dir.path(), setup)?;
    let context = Context::open(dir.path()).await?;
    let mut daemon = Process::start_to_stop(dir.path(), &["speed"], point, pass)?;
    let client = daemon.ready(&context).await?;
    let sending = Sender::from(0).send_beside(&client, time.facts * 50);
    if point.starts_with("delta") {
        until("a landing", || async {
            Ok(context.log("facts").await?.head().iter().next().is_some())
        })
        .await?;
        run_well(dir.path(), &["batch", "refresh"]).await?;
    }
    daemon.stopped().await?;
    daemon.kill()?;
    let mut sender = sending.await?;
    if ack == "landed" {
        std::fs::remove_dir_all(dir.path().join("wal"))?;
    }
    // It comes back and takes the rest.
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    let rest = (time.facts - sender.next()).max(time.facts / 4);
    sender.send(&client, rest).await?;
    daemon.kill()?;
    let what = format!("{point}, ack = {ack}");
    Ok(Some(settle(&what, &[dir.path()], sender.fates()).await?))
}

/// A daemon and the builds beside it are killed at random times, again and again.
pub(super) async fn at_random(time: Time) -> anyhow::Result<Option<Tally>> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let context = Context::open(dir.path()).await?;
    let mut rng = SmallRng::seed_from_u64(time.nth as u64);
    let mut sender = Sender::default();
    let commands: [&[&str]; 3] = [
        &["batch", "refresh"],
        &["batch", "rebuild"],
        &["batch", "maintain"],
    ];
    let mut round = time.nth;
    while sender.next() < time.facts || round < time.nth + 3 {
        let mut daemon = Process::start(dir.path(), &["speed"])?;
        let client = daemon.ready(&context).await?;
        let sending = sender.send_beside(&client, time.facts * 50);
        let mut build = Process::start(dir.path(), commands[round % 3])?;
        let [first, second] =
            [500, 200].map(|most| Duration::from_millis(rng.random_range(0..most)));
        tokio::time::sleep(first).await;
        match round % 2 {
            0 => build.kill()?,
            _ => daemon.kill()?,
        }
        tokio::time::sleep(second).await;
        daemon.kill()?;
        build.kill()?;
        sender = sending.await?;
        round += 1;
    }
    Ok(Some(
        settle("random times", &[dir.path()], sender.fates()).await?,
    ))
}

/// A setting of the daemon in a project that is written.
pub(super) fn set(dir: &Path, from: &str, to: &str) -> anyhow::Result<()> {
    let file = dir.join("anabranch.toml");
    let text = std::fs::read_to_string(&file)?;
    anyhow::ensure!(text.contains(from), "the project has no `{from}`");
    Ok(std::fs::write(file, text.replace(from, to))?)
}

/// Two projects on one storage.
pub(super) fn two() -> anyhow::Result<[tempfile::TempDir; 2]> {
    let dirs = [places::folder()?, places::folder()?];
    let storage = format!("file://{}/data", dirs[0].path().display());
    let setup = Setup {
        storage: &storage,
        ..Default::default()
    };
    for dir in &dirs {
        write_project(dir.path(), setup)?;
    }
    Ok(dirs)
}

/// One of two daemons dies with facts that are acknowledged and not landed, the other goes on through
/// a refresh and a rebuild, and the first comes back.
pub(super) async fn comes_back(time: Time) -> anyhow::Result<Option<Tally>> {
    let [here, there] = two()?;
    set(there.path(), "\"100ms\"", "\"1h\"")?;
    let context = Context::open(here.path()).await?;
    let mut stays = Process::start(here.path(), &["speed"])?;
    let mut dies = Process::start(there.path(), &["speed"])?;
    let (near, far) = (stays.ready(&context).await?, dies.ready(&context).await?);
    let (mut ours, mut theirs) = (Sender::from(0), Sender::from(1_000_000_000));
    theirs.send(&far, time.facts / 4).await?;
    ours.send(&near, time.facts / 4).await?;
    dies.kill()?;
    for command in ["refresh", "rebuild"] {
        ours.send(&near, time.facts / 8).await?;
        run_well(here.path(), &["batch", command]).await?;
    }
    let landed = ours.fates().totals().count;
    until("the other's facts land", || async {
        let head = context.log("facts").await?.head();
        anyhow::ensure!(head.iter().count() <= 1, "it landed before it died: {head}");
        Ok(Offsets::default().distance_to(&head) >= landed)
    })
    .await?;
    run_well(here.path(), &["batch", "refresh"]).await?;
    // What it comes back with lands though the boundary has moved, and it goes on from there.
    set(there.path(), "\"1h\"", "\"100ms\"")?;
    let mut back = Process::start(there.path(), &["speed"])?;
    let far = back.ready(&context).await?;
    theirs.send(&far, time.facts / 4).await?;
    run_well(there.path(), &["batch", "refresh"]).await?;
    if time.nth % 2 == 1 {
        stays.kill()?;
        back.kill()?;
    } else {
        stays.terminate().await?;
        back.terminate().await?;
    }
    let mut fates = ours.fates().clone();
    fates.add(theirs.fates());
    let dirs = [here.path(), there.path()];
    Ok(Some(settle("comes back", &dirs, &fates).await?))
}

/// One of two daemons is stopped with SIGSTOP at a step, the other goes on through builds and clean-ups,
/// and the first wakes and goes on as if nothing had been.
pub(super) async fn wakes_late(time: Time) -> anyhow::Result<Option<Tally>> {
    let point = time.choose(&[
        "land-before-commit",
        "land-after-commit",
        "wal-after-fsync",
        "land-before-cut",
    ]);
    let [here, there] = two()?;
    let context = Context::open(here.path()).await?;
    let mut stays = Process::start(here.path(), &["speed"])?;
    let near = stays.ready(&context).await?;
    let mut sleeps = Process::start_to_stop(there.path(), &["speed"], point, 2)?;
    let far = sleeps.ready(&context).await?;
    let theirs = tokio::spawn(async move {
        let mut sender = Sender::from(1_000_000_000);
        for _ in 0..4 {
            sender.send(&far, time.facts / 8).await?;
            // So that more than one landing happens.
            tokio::time::sleep(2 * LAND_EVERY).await;
        }
        anyhow::Ok(sender)
    });
    sleeps.stopped().await?;
    let mut ours = Sender::from(0);
    for command in ["refresh", "rebuild", "maintain"] {
        ours.send(&near, time.facts / 6).await?;
        run_well(here.path(), &["batch", command]).await?;
    }
    sleeps.go_on()?;
    let theirs = theirs.await??;
    let mut fates = ours.fates().clone();
    fates.add(theirs.fates());
    run_well(there.path(), &["batch", "refresh"]).await?;
    stays.terminate().await?;
    sleeps.terminate().await?;
    Ok(Some(
        settle(point, &[here.path(), there.path()], &fates).await?,
    ))
}
