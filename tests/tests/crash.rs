//! The daemon and `batch` are killed at every interesting point, and at random times under load.
//! After the restart every acknowledged fact is there once, and the law holds.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anabranch_jobs::client::Client;
use anabranch_jobs::commands::verify::verify_view;
use anabranch_jobs::context::Context;
use anabranch_shared::ReadMode;
use anabranch_tests::places;
use anabranch_tests::process::{ready, start, terminate, write_project};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Facts of a request.
const REQUEST: i64 = 50;

fn lines(first: i64) -> String {
    (first..first + REQUEST)
        .map(|id| {
            format!(
                "{{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":{id},\"word\":\"w{}\"}}\n",
                id % 7
            )
        })
        .collect()
}

/// Sends facts until the daemon dies or `most` are sent. Returns those acknowledged, and the next
/// number.
async fn send(client: &Client, first: i64, most: i64) -> (BTreeSet<i64>, i64) {
    let mut acknowledged = BTreeSet::new();
    let mut next = first;
    while next < first + most {
        let sent = client.write_ndjson("facts", lines(next).into()).await;
        match sent {
            Ok(_) => acknowledged.extend(next..next + REQUEST),
            Err(_) => return (acknowledged, next + REQUEST),
        }
        next += REQUEST;
    }
    (acknowledged, next)
}

/// What is in the daemon's answer, each with how often.
async fn found(client: &Client) -> anyhow::Result<Vec<(i64, i64)>> {
    let answer = client
        .query(
            "SELECT id, count(*) AS times FROM facts GROUP BY id",
            ReadMode::Merged,
        )
        .await?;
    let mut found = Vec::new();
    for batch in &answer.batches {
        let ids = batch.column(0).as_primitive::<Int64Type>();
        let times = batch.column(1).as_primitive::<Int64Type>();
        found.extend((0..batch.num_rows()).map(|r| (ids.value(r), times.value(r))));
    }
    Ok(found)
}

/// Restarts the daemon, and checks what must hold.
async fn check_after_restart(
    what: &str,
    context: &Context,
    dir: &std::path::Path,
    acknowledged: &BTreeSet<i64>,
    sent: i64,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut daemon = start(dir, &["speed"], None)?;
    let Some(client) = ready(context, &mut daemon).await? else {
        anyhow::bail!("{what}: the daemon did not start again");
    };
    let found = found(&client).await?;
    println!(
        "{what}: {} acknowledged, {} found, answering again after {:?}",
        acknowledged.len(),
        found.len(),
        begun.elapsed()
    );
    let twice: Vec<_> = found.iter().filter(|(_, times)| *times != 1).collect();
    anyhow::ensure!(
        twice.is_empty(),
        "{what}: facts that are there more than once: {twice:?}"
    );
    let ids: BTreeSet<i64> = found.iter().map(|(id, _)| *id).collect();
    let lost: Vec<_> = acknowledged.difference(&ids).take(5).collect();
    anyhow::ensure!(
        lost.is_empty(),
        "{what}: acknowledged and lost, for example {lost:?}"
    );
    anyhow::ensure!(
        ids.iter().all(|id| *id < sent),
        "{what}: facts that nobody sent"
    );
    terminate(&mut daemon)?;
    let compared = verify_view(context, "words", "command").await?;
    anyhow::ensure!(
        compared.is_equal() && compared.rows > 0,
        "{what}: {:?}",
        compared.examples
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_at_any_point() -> anyhow::Result<()> {
    let points = [
        "wal-before-append",
        "wal-after-fsync",
        "land-before-commit",
        "land-after-commit",
        "land-before-cut",
    ];
    for point in points {
        let dir = places::folder()?;
        write_project(dir.path())?;
        let context = Context::open(dir.path()).await?;
        let mut daemon = start(
            dir.path(),
            &["speed"],
            Some(&format!("{point}=2*off->panic")),
        )?;
        let Some(client) = ready(&context, &mut daemon).await? else {
            anyhow::bail!("{point}: the daemon did not start");
        };
        let (acknowledged, sent) = send(&client, 0, 1_000_000).await;
        let status = daemon.wait()?;
        anyhow::ensure!(!status.success(), "{point}: the daemon was not killed");
        check_after_restart(point, &context, dir.path(), &acknowledged, sent).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_dies_changes_nothing() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path())?;
    let context = Context::open(dir.path()).await?;
    let mut daemon = start(dir.path(), &["speed"], None)?;
    let Some(client) = ready(&context, &mut daemon).await? else {
        anyhow::bail!("the daemon did not start");
    };
    let (acknowledged, sent) = send(&client, 0, 5_000).await;
    let begun = Instant::now();
    loop {
        let head = context.log("facts").await?.head();
        if anabranch_shared::Offsets::default().distance_to(&head) >= 5_000 {
            break;
        }
        anyhow::ensure!(
            begun.elapsed() < Duration::from_secs(60),
            "the daemon does not land"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for command in ["refresh", "rebuild"] {
        let mut build = start(
            dir.path(),
            &["batch", command],
            Some("publish-before-commit=panic"),
        )?;
        anyhow::ensure!(!build.wait()?.success(), "batch {command} was not killed");
        let mut build = start(dir.path(), &["batch", command], None)?;
        anyhow::ensure!(
            build.wait()?.success(),
            "batch {command} fails after one that died"
        );
    }
    daemon.kill()?;
    daemon.wait()?;
    check_after_restart(
        "publish-before-commit",
        &context,
        dir.path(),
        &acknowledged,
        sent,
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_times_under_load() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path())?;
    let context = Context::open(dir.path()).await?;
    let mut rng = SmallRng::seed_from_u64(3);
    let (mut acknowledged, mut next) = (BTreeSet::new(), 0);
    for round in 0..6 {
        let mut daemon = start(dir.path(), &["speed"], None)?;
        let Some(client) = ready(&context, &mut daemon).await? else {
            anyhow::bail!("round {round}: the daemon did not start");
        };
        let life = Duration::from_millis(rng.random_range(20..600));
        let sender = tokio::spawn(async move { send(&client, next, 1_000_000).await });
        let refresher = match round % 2 {
            0 => Some(start(dir.path(), &["batch", "refresh"], None)?),
            _ => None,
        };
        tokio::time::sleep(life).await;
        daemon.kill()?;
        daemon.wait()?;
        if let Some(mut refresher) = refresher {
            refresher.wait()?;
        }
        let (more, sent) = sender.await?;
        acknowledged.extend(more);
        next = sent;
    }
    check_after_restart("random times", &context, dir.path(), &acknowledged, next).await
}
