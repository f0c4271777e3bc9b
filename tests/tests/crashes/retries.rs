//! What fails is tried again ever less often, and what was put already is used again.

use std::path::Path;
use std::time::{Duration, Instant};

use anabranch_tests::daemon::Daemon;
use anabranch_tests::places;

use crate::sources::bad_input::{good, write_project};

/// The data files of a topic's log, those of no commit among them.
fn data_files(dir: &Path) -> anyhow::Result<usize> {
    let mut found = 0;
    for entry in std::fs::read_dir(dir.join("data/topics/facts/log"))? {
        found += usize::from(entry?.path().extension().is_some_and(|e| e == "parquet"));
    }
    Ok(found)
}

/// What the daemon says of its failing landing, once it has failed so often.
async fn after_tries(daemon: &Daemon, tries: u32) -> anyhow::Result<String> {
    let begun = Instant::now();
    loop {
        let (_, metrics) = daemon.get("/metrics").await?;
        let line = metrics
            .lines()
            .find(|l| l.starts_with("anabranch_landing_failed_tries{topic=\"facts\"}"));
        let found = line.and_then(|l| l.rsplit(' ').next()?.parse::<f64>().ok());
        if found.is_some_and(|found| found >= f64::from(tries)) {
            let (_, status) = daemon.get("/status").await?;
            let status: serde_json::Value = serde_json::from_str(&status)?;
            return Ok(status["landing"]["facts"].to_string());
        }
        anyhow::ensure!(begun.elapsed() < Duration::from_secs(60), "{line:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A landing whose commit fails is tried again with the file that is there, less and less often, and
/// lands at last.
#[tokio::test(flavor = "multi_thread")]
async fn a_landing_that_fails_puts_its_file_once() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path())?;
    let daemon = Daemon::start_with(dir.path(), &["speed"], "land-not-answered=5*return").await?;
    let begun = Instant::now();
    let (status, answer) = daemon.post("facts", &[], good(1).as_bytes()).await?;
    anyhow::ensure!(status == 200, "{answer}");
    let said = after_tries(&daemon, 3).await?;
    anyhow::ensure!(
        said.contains("does not answer") && said.contains("times in a row, and the next try is"),
        "{said}"
    );
    anyhow::ensure!(data_files(dir.path())? == 1, "a file for each try");
    // More comes meanwhile; it lands behind.
    let bad = "{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":\"x\"}";
    let body = format!("{}\n{bad}", good(2));
    let (status, answer) = daemon.post("facts", &[], body.as_bytes()).await?;
    anyhow::ensure!(status == 200, "{answer}");
    daemon.landed("facts", 3).await?;
    // Five pauses from 200 ms on that double: no less than half of each.
    anyhow::ensure!(begun.elapsed() > Duration::from_millis(3_100));
    anyhow::ensure!(data_files(dir.path())? == 2, "one for each landing");
    let found = daemon
        .rows("SELECT count(*), sum(id), (SELECT count(*) FROM dead_letters) AS dead FROM facts")
        .await?;
    anyhow::ensure!(found == [["2", "3", "1"]], "{found:?}");
    daemon.stop().await
}

/// Dead letters of a landing whose facts are not committed are there once.
#[tokio::test(flavor = "multi_thread")]
async fn a_landing_that_fails_puts_its_dead_letters_once() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path())?;
    let daemon = Daemon::start_with(dir.path(), &["speed"], "land-not-answered=3*return").await?;
    let bad = "{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":\"x\"}";
    let body = format!("{}\n{bad}\n{bad}", good(2));
    daemon.post("facts", &[], body.as_bytes()).await?;
    daemon.landed("facts", 3).await?;
    let dead = dir.path().join("data/topics/facts/dead_letters");
    let files = std::fs::read_dir(&dead)?.filter_map(Result::ok);
    let files = files.filter(|e| e.path().extension().is_some_and(|e| e == "parquet"));
    anyhow::ensure!(files.count() == 1);
    let found = daemon
        .rows("SELECT (SELECT count(*) FROM facts) AS facts, count(*) FROM dead_letters")
        .await?;
    anyhow::ensure!(found == [["1", "2"]], "{found:?}");
    daemon.stop().await
}
