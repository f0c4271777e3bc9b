//! Duplicates: however a stream is split over requests, files, restarts and kills, the log holds
//! the facts of the first occurrences, once, and the law holds over them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_jobs::project::context::Context;
use anabranch_shared::ErrorKind;
use anabranch_tests::daemon::Daemon;
use anabranch_tests::ledger::{check_law, rows};
use anabranch_tests::places;
use anabranch_tests::process::{Process, VIEW, run_well, until};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

fn write_project(dir: &Path, storage: &Path, dedup: &str) -> anyhow::Result<()> {
    let project = format!(
        r#"
[storage]
url = "{}"
[daemon]
http = "127.0.0.1:0"
land_every = "100ms"
[topics.facts]
event_time = "ts"
dedup = {dedup}
[topics.facts.fields]
ts = "timestamp not null"
id = "bigint not null"
word = "varchar"
event = "varchar"
[views.words]
sql = "words.sql"
"#,
        storage.display()
    );
    std::fs::write(dir.join("anabranch.toml"), project)?;
    Ok(std::fs::write(dir.join("words.sql"), VIEW)?)
}

/// A fact: a number of its own, and the key that it may share with others.
fn line(id: i64, event: Option<u32>) -> String {
    let event = event.map_or("null".into(), |e| format!("\"event {e}\""));
    format!(
        "{{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":{id},\"word\":\"w{}\",\"event\":{event}}}\n",
        id % 7
    )
}

/// What was sent, and which facts must be there.
#[derive(Default)]
struct Stream {
    next: i64,
    /// The first fact of each key.
    first: BTreeMap<u32, i64>,
    expected: Vec<i64>,
    duplicates: u64,
}

impl Stream {
    /// The next lines, and how many of them are facts.
    fn take(&mut self, rng: &mut SmallRng, most: usize) -> (String, u64) {
        let (mut body, mut facts) = (String::new(), 0);
        for _ in 0..rng.random_range(1..=most) {
            let id = self.next;
            self.next += 1;
            let event = rng.random_bool(0.9).then(|| rng.random_range(0..400));
            body += &line(id, event);
            if let Some(event) = event
                && *self.first.entry(event).or_insert(id) != id
            {
                self.duplicates += 1;
                continue;
            }
            self.expected.push(id);
            facts += 1;
        }
        (body, facts)
    }

    async fn check(&self, what: &str, daemon: &Daemon) -> anyhow::Result<()> {
        let found = rows(&daemon.client, "SELECT id FROM facts ORDER BY id").await?;
        let found: Vec<i64> = found
            .iter()
            .map(|r| r[0].parse())
            .collect::<Result<_, _>>()?;
        anyhow::ensure!(
            found == self.expected,
            "{what}: {} facts of {}, the first that differ: {:?}",
            found.len(),
            self.expected.len(),
            found.iter().zip(&self.expected).find(|(a, b)| a != b)
        );
        check_law(what, &daemon.context).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_occurrences_are_kept_over_requests_files_kills_and_restarts()
-> anyhow::Result<()> {
    for seed in [1, 2] {
        let dir = places::folder()?;
        let storage = dir.path().join("data");
        write_project(dir.path(), &storage, "{ key = \"event\" }")?;
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut stream = Stream::default();
        let mut answered = 0;
        for round in 0..5 {
            let daemon = Daemon::start(dir.path()).await?;
            for _ in 0..rng.random_range(1..8) {
                let (body, facts) = stream.take(&mut rng, 60);
                let (status, answer) = daemon.post("facts", &[], body.as_bytes()).await?;
                anyhow::ensure!(status == 200 && answer["facts"] == facts, "{answer}");
                let records = body.lines().count() as u64;
                anyhow::ensure!(answer["duplicates"] == records - facts, "{answer}");
                answered += records - facts;
                // As after a lost answer: all that has a key is there already.
                if rng.random_bool(0.3) {
                    let keyed = body.lines().filter(|l| !l.contains("null"));
                    let again: String = keyed.map(|l| format!("{l}\n")).collect();
                    let (_, answer) = daemon.post("facts", &[], again.as_bytes()).await?;
                    anyhow::ensure!(answer["facts"] == 0, "{answer}");
                }
                // Some land between, some not.
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..80))).await;
            }
            stream.check(&format!("round {round}"), &daemon).await?;
            match round % 2 {
                0 => daemon.kill()?,
                _ => daemon.stop().await?,
            }
            // Without a daemon: straight into the log, in another partition.
            let (body, facts) = stream.take(&mut rng, 60);
            let file = dir.path().join(format!("facts-{round}.ndjson"));
            std::fs::write(&file, &body)?;
            let file = file.display().to_string();
            // What is in the WAL is not the ingest's to know: the daemon lands it first.
            let daemon = Daemon::start(dir.path()).await?;
            daemon.stop().await?;
            let said =
                run_well(dir.path(), &["--format", "json", "ingest", "facts", &file]).await?;
            let said: serde_json::Value = serde_json::from_str(&said)?;
            anyhow::ensure!(said["facts"] == facts, "{said}: {facts}");
            answered += said["duplicates"].as_u64().unwrap_or(0);
        }
        let daemon = Daemon::start(dir.path()).await?;
        anyhow::ensure!(
            answered == stream.duplicates && answered > 100,
            "{answered}"
        );
        stream.check("at the end", &daemon).await?;
        run_well(dir.path(), &["batch", "rebuild"]).await?;
        stream.check("after a rebuild", &daemon).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_daemon_has_landed_is_known_and_counted() -> anyhow::Result<()> {
    let (dir, other) = (places::folder()?, places::folder()?);
    let storage = dir.path().join("data");
    for dir in [&dir, &other] {
        write_project(dir.path(), &storage, "{ key = \"event\", window = \"2h\" }")?;
    }
    let (first, second) = (
        Daemon::start(dir.path()).await?,
        Daemon::start(other.path()).await?,
    );
    let body: String = (0..10).map(|id| line(id, Some(id as u32))).collect();
    let (_, answer) = first.post("facts", &[], body.as_bytes()).await?;
    anyhow::ensure!(answer["facts"] == 10, "{answer}");
    // Its answers have them at once; their keys are known when it has followed the log.
    until("the other daemon follows", || async {
        let status = second.client.status().await?;
        Ok(status.dedup["facts"].keys == 10)
    })
    .await?;
    let body: String = (5..15).map(|id| line(100 + id, Some(id as u32))).collect();
    let (_, answer) = second.post("facts", &[], body.as_bytes()).await?;
    anyhow::ensure!(
        answer["facts"] == 5 && answer["duplicates"] == 5,
        "{answer}"
    );
    let status = second.client.status().await?;
    let intake = &status.intake["facts"];
    anyhow::ensure!(intake.facts == 5 && intake.duplicates == 5, "{status:?}");
    // While a group is written the status is the one before it.
    until("the keys are shown", || async {
        let status = second.client.status().await?;
        let dedup = &status.dedup["facts"];
        Ok(dedup.keys == 15 && dedup.window_us == 7_200_000_000)
    })
    .await?;
    let metrics = second.get("/metrics").await?.1;
    for line in [
        "anabranch_duplicates_total{topic=\"facts\"} 5",
        "anabranch_facts_total{topic=\"facts\"} 5",
        "anabranch_dedup_keys{topic=\"facts\"} 15",
        "anabranch_dedup_window_seconds{topic=\"facts\"} 7200.0",
    ] {
        anyhow::ensure!(metrics.lines().any(|l| l == line), "no `{line}`: {metrics}");
    }
    let shown = run_well(other.path(), &["status"]).await?;
    anyhow::ensure!(shown.contains("duplicates"), "{shown}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_that_the_wal_refused_are_taken_when_they_come_again() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let storage = dir.path().join("data");
    write_project(dir.path(), &storage, "{ key = \"event\" }")?;
    let project = std::fs::read_to_string(dir.path().join("anabranch.toml"))?;
    // Nothing lands by itself before the WAL is full.
    let project = project.replace("\"100ms\"", "\"2s\"\nwal_bytes = \"150KB\"");
    std::fs::write(dir.path().join("anabranch.toml"), project)?;
    let context = Context::open(dir.path()).await?;
    let mut process = Process::start(dir.path(), &["speed"])?;
    let client = process.ready(&context).await?;
    let (refused, mut expected) = (AtomicU64::new(0), 0);
    for request in 0..40 {
        let of = |n: i64| line(request * 200 + n, Some((request * 200 + n) as u32));
        let body: String = (0..200).map(of).collect();
        until("the WAL takes it", || async {
            match client.write_ndjson("facts", body.clone().into()).await {
                Ok(answer) => {
                    anyhow::ensure!(answer.facts == 200, "{answer:?}");
                    Ok(true)
                }
                Err(e) => {
                    anyhow::ensure!(e.kind() == ErrorKind::Unavailable, "{e}");
                    refused.fetch_add(1, Ordering::Relaxed);
                    Ok(false)
                }
            }
        })
        .await?;
        expected += 200;
    }
    let found = rows(&client, "SELECT count(*), count(DISTINCT id) FROM facts").await?;
    let expected = format!("{expected}");
    anyhow::ensure!(found == [[expected.clone(), expected]], "{found:?}");
    anyhow::ensure!(refused.into_inner() > 0, "the WAL was never full");
    Ok(())
}
