//! Disks that are full: what can't be kept is refused, the daemon stays up and answers, and goes on
//! once there is room.

use std::time::{Duration, Instant};

use anabranch_jobs::project::context::Context;
use anabranch_shared::Offsets;
use anabranch_tests::daemon::request;
use anabranch_tests::disk::SmallDisk;
use anabranch_tests::fates::Tally;
use anabranch_tests::places;
use anabranch_tests::process::{Process, Setup, run, run_well, until, write_project};
use anabranch_tests::sender::{Sender, found};

use super::Time;
use super::settle::settle;

const MEGABYTE: u64 = 1 << 20;

/// What is left of the full disk: nothing, or a part of what a request needs.
const LEFT: [u64; 3] = [0, 8 << 10, 40 << 10];

/// The WAL's disk is full: requests are refused with the reason and leave nothing behind.
pub(super) async fn of_the_wal(time: Time) -> anyhow::Result<Option<Tally>> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let Some(disk) = SmallDisk::mount(&dir.path().join("wal"), 16 * MEGABYTE)? else {
        return Ok(None);
    };
    let context = Context::open(dir.path()).await?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    let mut sender = Sender::default();
    sender.send(&client, time.facts / 3).await?;
    for round in 0..2 {
        disk.fill(LEFT[(time.nth + round) % LEFT.len()])?;
        let mut refused = 0;
        // What has landed meanwhile makes room; then it is full again.
        while refused < 3 {
            match sender.send(&client, time.facts / 3).await {
                Ok(()) => disk.fill(0)?,
                Err(e) => {
                    anyhow::ensure!(
                        e.to_string().contains("no space left on the disk"),
                        "refused with: {e}"
                    );
                    sender.was_refused();
                    refused += 1;
                }
            }
        }
        anyhow::ensure!(daemon.runs()?, "the daemon ended");
        let (status, said) = request("GET", &client.address().http, "/ready", &[], b"").await?;
        anyhow::ensure!(
            status == 503 && said.contains("no space left on the disk"),
            "{status} {said}"
        );
        let there = found(&client).await?;
        let tally = sender.fates().compare(there);
        anyhow::ensure!(tally.is_exact(), "while full: {tally:?}");
        disk.empty()?;
        sender.send(&client, time.facts / 3).await?;
        // The second time it is killed while it is full, and starts where there is room again.
        if round == 0 && time.nth % 2 == 1 {
            disk.fill(0)?;
            daemon.kill()?;
            disk.empty()?;
            daemon = Process::start(dir.path(), &["speed"])?;
            let again = daemon.ready(&context).await?;
            sender.send(&again, time.facts / 3).await?;
            daemon.terminate().await?;
            return Ok(Some(
                settle("killed while full", &[dir.path()], sender.fates()).await?,
            ));
        }
    }
    daemon.terminate().await?;
    Ok(Some(
        settle("full WAL", &[dir.path()], sender.fates()).await?,
    ))
}

/// What a refusal says while the WAL has reached its bound.
const WAITS: &str = "facts are refused until some have landed";

/// Waits until all that was acknowledged has landed.
async fn landed(context: &Context, sender: &Sender) -> anyhow::Result<()> {
    let acknowledged = sender.fates().totals().count;
    until("all lands", || async {
        let head = context.log("facts").await?.head();
        Ok(Offsets::default().distance_to(&head) >= acknowledged)
    })
    .await
}

/// The storage's disk is full: facts wait in the WAL, visible, until that has reached its bound; builds
/// fail; all of it goes on once there is room.
pub(super) async fn of_the_storage(time: Time) -> anyhow::Result<Option<Tally>> {
    let dir = places::folder()?;
    let setup = Setup {
        daemon: "wal_bytes = \"2MB\"",
        ..Default::default()
    };
    write_project(dir.path(), setup)?;
    let Some(disk) = SmallDisk::mount(&dir.path().join("data"), 32 * MEGABYTE)? else {
        return Ok(None);
    };
    let context = Context::open(dir.path()).await?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    let mut sender = Sender::default();
    sender.send(&client, time.facts / 3).await?;
    let left = time.choose(&LEFT);
    if left > 0 {
        landed(&context, &sender).await?;
    }
    disk.fill(left)?;
    sender.send(&client, time.facts / 3).await?;
    let there = found(&client).await?;
    let tally = sender.fates().compare(there);
    anyhow::ensure!(tally.is_exact(), "while full: {tally:?}");
    for command in ["refresh", "rebuild"] {
        let out = run(dir.path(), &["batch", command]).await?;
        let says = String::from_utf8_lossy(&out.stderr);
        // A refresh of nothing needs no room, and little may find some.
        let may_succeed = left > 0 || command == "refresh";
        anyhow::ensure!(
            (may_succeed && out.status.success()) || says.contains("No space left on device"),
            "{command} ends with {}: {says}",
            out.status
        );
    }
    // Until the WAL has reached its bound.
    let refusal = loop {
        if let Err(e) = sender.send(&client, 5_000).await {
            break e.to_string();
        }
        anyhow::ensure!(sender.next() < 1_000_000, "never refused");
    };
    sender.was_refused();
    anyhow::ensure!(
        refusal.contains(WAITS) && daemon.runs()?,
        "refused with: {refusal}"
    );
    run_well(dir.path(), &["status"]).await?;
    if time.nth % 2 == 1 {
        daemon.kill()?;
    }
    disk.empty()?;
    if time.nth % 2 == 1 {
        daemon = Process::start(dir.path(), &["speed"])?;
    }
    let client = daemon.ready(&context).await?;
    landed(&context, &sender).await?;
    // What has landed leaves the WAL a little later.
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(e) = sender.send(&client, time.facts / 3).await {
        anyhow::ensure!(
            e.to_string().contains(WAITS) && Instant::now() < deadline,
            "refused with room: {e}"
        );
        sender.was_refused();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    run_well(dir.path(), &["batch", "refresh"]).await?;
    daemon.terminate().await?;
    Ok(Some(
        settle("full storage", &[dir.path()], sender.fates()).await?,
    ))
}
