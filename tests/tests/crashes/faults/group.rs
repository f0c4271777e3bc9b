//! Daemons that share a topic of Kafka: they join, leave, sleep, and fight. Only the real broker
//! keeps members of a group apart: the mock names them by an address in memory, which it gives to
//! the next one when the group has put one out.

use anabranch_tests::fates::Tally;
use anabranch_tests::process::{Process, run_well};

use super::Time;
use super::rig::{Place, Rig, cluster, context, more, real};
use super::settle::settle;

/// Daemons join the group, leave it and die while landings are on their way, which take so long that
/// nearly always one is.
pub(super) async fn rebalances(time: Time) -> anyhow::Result<Option<Tally>> {
    let points = time.choose(&[
        "land-before-commit=sleep(250)",
        "land-after-commit=sleep(250)",
        "land-before-cut=sleep(250)",
    ]);
    let Some(cluster) = real().await? else {
        return Ok(None);
    };
    let place = time.choose(&[Place::Folder, Place::Bucket]);
    let rig = Rig::with_kafka(place, cluster.as_ref()).await?;
    let dirs = [rig.project(None)?, rig.project(None)?, rig.project(None)?];
    let context = context(dirs[0].path()).await?;
    let stream = rig.stream(cluster.as_ref(), time.facts)?;
    let some = time.facts / 20;
    let start = |n: usize| Process::start_with(dirs[n].path(), &["speed"], points);
    let mut first = start(0)?;
    more("the first one's landings", &context, some).await?;
    let mut second = start(1)?;
    second.ready(&context).await?;
    more("landings while the second joins", &context, some).await?;
    let mut third = start(2)?;
    third.ready(&context).await?;
    more("landings while the third joins", &context, some).await?;
    second.terminate().await?;
    more("landings while the second leaves", &context, some).await?;
    run_well(dirs[1].path(), &["batch", "refresh"]).await?;
    first.kill()?;
    let mut again = start(0)?;
    again.ready(&context).await?;
    more("landings while the first one dies", &context, some).await?;
    let fates = stream.end(time.facts).await?;
    again.terminate().await?;
    third.kill()?;
    let dirs: Vec<_> = dirs.iter().map(|d| d.path()).collect();
    Ok(Some(settle("rebalances", &dirs, &fates).await?))
}

/// A daemon is stopped with SIGSTOP in a landing, the group gives its partitions to another one, which
/// lands what the first one has read, and the first wakes and goes on as if nothing had been.
pub(super) async fn wakes_late(time: Time) -> anyhow::Result<Option<Tally>> {
    let point = time.choose(&["land-before-commit", "land-after-commit", "land-before-cut"]);
    let Some(cluster) = real().await? else {
        return Ok(None);
    };
    let place = time.choose(&[Place::Bucket, Place::Folder]);
    let rig = Rig::with_kafka(place, cluster.as_ref()).await?;
    let dirs = [rig.project(None)?, rig.project(None)?];
    let context = context(dirs[0].path()).await?;
    let stream = rig.stream(cluster.as_ref(), time.facts)?;
    let mut sleeps = Process::start_to_stop(dirs[0].path(), &["speed"], point, 3)?;
    sleeps.stopped().await?;
    let mut goes_on = Process::start(dirs[1].path(), &["speed"])?;
    more("the other one's landings", &context, time.facts / 5).await?;
    run_well(dirs[1].path(), &["batch", "rebuild"]).await?;
    sleeps.go_on()?;
    more("landings after it woke", &context, time.facts / 5).await?;
    let fates = stream.end(time.facts).await?;
    if time.nth.is_multiple_of(2) {
        goes_on.terminate().await?;
        sleeps.terminate().await?;
    } else {
        goes_on.kill()?;
        sleeps.kill()?;
    }
    let dirs = [dirs[0].path(), dirs[1].path()];
    Ok(Some(settle(point, &dirs, &fates).await?))
}

/// Two daemons are told that the same partitions are theirs.
pub(super) async fn fight(time: Time) -> anyhow::Result<Option<Tally>> {
    let cluster = cluster().await?;
    let place = time.choose(&[Place::Folder, Place::Bucket]);
    let rig = Rig::with_kafka(place, cluster.as_ref()).await?;
    let theirs = time.choose(&["0-2", "0-1"]);
    let dirs = [rig.project(Some("0-2"))?, rig.project(Some(theirs))?];
    let context = context(dirs[0].path()).await?;
    let stream = rig.stream(cluster.as_ref(), time.facts)?;
    let mut one = Process::start(dirs[0].path(), &["speed"])?;
    let mut other = Process::start(dirs[1].path(), &["speed"])?;
    for round in 0..3 {
        more("landings of both", &context, time.facts / 10).await?;
        run_well(dirs[round % 2].path(), &["batch", "refresh"]).await?;
    }
    one.kill()?;
    one = Process::start(dirs[0].path(), &["speed"])?;
    more("landings after one died", &context, time.facts / 10).await?;
    let fates = stream.end(time.facts).await?;
    one.terminate().await?;
    other.terminate().await?;
    let dirs = [dirs[0].path(), dirs[1].path()];
    Ok(Some(settle("a fight", &dirs, &fates).await?))
}
