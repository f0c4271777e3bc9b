//! Requests with an `Idempotency-Key`: written once however often they are repeated, at once, after
//! a lost answer, and after the daemon was killed at any point of its WAL and its keys.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anabranch_jobs::project::context::Context;
use anabranch_tests::daemon::{Daemon, request};
use anabranch_tests::ledger::{check_law, count, line};
use anabranch_tests::places;
use anabranch_tests::process::{Process, Setup, until, write_project};
use serde_json::Value;
use tokio::sync::Mutex;

/// Facts of a request, which has a dead letter besides.
const FACTS: i64 = 50;

/// The smallest WAL, so that a few requests make a cut worth while.
const SMALL_WAL: &str = "wal_bytes = \"1MB\"";

fn body(nth: i64) -> String {
    let facts: String = (nth * FACTS..(nth + 1) * FACTS).map(line).collect();
    facts + "{\"ts\":\"no time\"}"
}

async fn send(http: &str, nth: i64) -> anyhow::Result<(u16, Value)> {
    let key = format!("request-{nth}");
    let headers = [("Idempotency-Key", key.as_str())];
    let body = body(nth);
    let (status, text) = request("POST", http, "/topics/facts", &headers, body.as_bytes()).await?;
    Ok((status, serde_json::from_str(&text)?))
}

/// What must be the same in each answer to a request.
fn told(answer: &Value) -> Vec<Value> {
    let told = [
        "facts",
        "dead_letters",
        "duplicates",
        "unknown_fields",
        "partition",
        "offsets",
    ];
    told.iter().map(|name| answer[name].clone()).collect()
}

/// Repeats every request: each is answered as it was, and is there once.
async fn repeat_all(
    what: &str,
    daemon: &Daemon,
    sent: i64,
    answers: &mut BTreeMap<i64, Vec<Value>>,
) -> anyhow::Result<()> {
    let http = &daemon.client.address().http;
    for nth in 0..sent {
        // A full WAL refuses until some have landed.
        let answer = Mutex::new((0, Value::Null));
        until(&format!("{what}: {nth} is taken"), || async {
            let sent = send(http, nth).await?;
            let taken = sent.0 != 503;
            *answer.lock().await = sent;
            Ok(taken)
        })
        .await?;
        let (status, answer) = answer.into_inner();
        anyhow::ensure!(
            status == 200 && answer["facts"] == FACTS,
            "{what}: {nth}: {answer}"
        );
        anyhow::ensure!(answer["dead_letters"] == 1, "{what}: {nth}: {answer}");
        match answers.get(&nth) {
            None => drop(answers.insert(nth, told(&answer))),
            Some(before) => anyhow::ensure!(
                answer["repeated"] == true && told(&answer) == *before,
                "{what}: {nth} was answered {before:?}, now {answer}"
            ),
        }
    }
    let found = count(&daemon.client, "SELECT id FROM facts").await?;
    anyhow::ensure!(
        found.len() as i64 == sent * FACTS && found.values().all(|n| *n == 1),
        "{what}: {} facts of {}, twice: {:?}",
        found.len(),
        sent * FACTS,
        found.iter().find(|(_, n)| **n > 1)
    );
    let dead = daemon.rows("SELECT count(*) FROM dead_letters").await?;
    anyhow::ensure!(dead == [[sent.to_string()]], "{what}: {dead:?}");
    check_law(what, &daemon.context).await
}

fn key_files(dir: &Path) -> anyhow::Result<usize> {
    let mut files = 0;
    for entry in std::fs::read_dir(dir.join("wal/facts"))? {
        let name = entry?.file_name();
        files += usize::from(name.to_string_lossy().ends_with(".keys"));
    }
    Ok(files)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_there_once_wherever_the_daemon_is_killed() -> anyhow::Result<()> {
    for (point, nth, kept) in [
        ("wal-before-append", 4, Some(false)),
        ("wal-before-fsync", 4, Some(false)),
        ("wal-after-fsync", 4, Some(false)),
        ("land-after-commit", 2, None),
        ("wal-keys-before-removal", 1, Some(true)),
        ("wal-keys-before-cut", 1, Some(true)),
        ("wal-after-roll", 1, Some(true)),
        ("wal-in-cut", 1, Some(true)),
        ("wal-in-cut", 3, Some(true)),
    ] {
        let what = format!("{point} {nth}");
        let dir = places::folder()?;
        let setup = Setup {
            daemon: SMALL_WAL,
            ..Default::default()
        };
        write_project(dir.path(), setup)?;
        let context = Context::open(dir.path()).await?;
        let mut process = Process::start_to_stop(dir.path(), &["speed"], point, nth)?;
        let http = process.ready(&context).await?.address().http.clone();
        let sending = tokio::spawn(async move {
            let (mut answers, mut sent) = (BTreeMap::new(), 0);
            while sent < 5_000 {
                match send(&http, sent).await {
                    Ok((200, answer)) => drop(answers.insert(sent, told(&answer))),
                    // A full WAL: the same once more.
                    Ok(_) => {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    }
                    Err(_) => {
                        sent += 1;
                        break;
                    }
                }
                sent += 1;
            }
            (answers, sent)
        });
        process.stopped().await?;
        process.kill()?;
        let (mut answers, sent) = sending.await?;
        anyhow::ensure!(!answers.is_empty(), "{what}: nothing was answered");
        let found = key_files(dir.path())? > 0;
        anyhow::ensure!(
            kept.is_none_or(|kept| kept == found),
            "{what}: keys: {found}"
        );
        for run in ["the first", "the second", "the third"] {
            let daemon = Daemon::start(dir.path()).await?;
            let what = format!("{what}, {run} start after it");
            repeat_all(&what, &daemon, sent, &mut answers).await?;
            daemon.kill()?;
        }
        println!("{what}: {sent} requests, each there once after retries over three starts");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_outlive_their_segments_and_their_files_are_few() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let setup = Setup {
        daemon: SMALL_WAL,
        ..Default::default()
    };
    write_project(dir.path(), setup)?;
    let (mut answers, mut sent) = (BTreeMap::new(), 0);
    for run in 0..3 {
        let daemon = Daemon::start(dir.path()).await?;
        let http = daemon.client.address().http.clone();
        for _ in 0..150 {
            let (status, answer) = send(&http, sent).await?;
            anyhow::ensure!(status == 200 && answer["repeated"] == false, "{answer}");
            answers.insert(sent, told(&answer));
            sent += 1;
        }
        let facts = sent * (FACTS + 1);
        daemon.landed("facts", facts).await?;
        until("a cut", || async { Ok(key_files(dir.path())? == 1) }).await?;
        repeat_all(&format!("run {run}"), &daemon, sent, &mut answers).await?;
        match run {
            1 => daemon.stop().await?,
            _ => daemon.kill()?,
        }
    }
    let daemon = Daemon::start(dir.path()).await?;
    repeat_all("at the end", &daemon, sent, &mut answers).await
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_key_at_once_are_written_once() -> anyhow::Result<()> {
    for ack in ["wal", "landed"] {
        let dir = places::folder()?;
        let setup = Setup {
            ack,
            ..Default::default()
        };
        write_project(dir.path(), setup)?;
        let daemon = Daemon::start(dir.path()).await?;
        let mut expected = 0;
        for nth in 0..20 {
            let senders = (0..8).map(|_| {
                let http = daemon.client.address().http.clone();
                tokio::spawn(async move { send(&http, nth).await })
            });
            let (mut first, mut ranges) = (0, Vec::new());
            for sender in senders.collect::<Vec<_>>() {
                let (status, answer) = sender.await??;
                anyhow::ensure!(status == 200, "{answer}");
                first += usize::from(answer["repeated"] == false);
                ranges.push(told(&answer));
            }
            ranges.dedup();
            anyhow::ensure!(first == 1 && ranges.len() == 1, "{first} wrote: {ranges:?}");
            if ack == "landed" {
                let head = daemon.context.log("facts").await?.head();
                anyhow::ensure!(head.to_string() == format!("0:{}", (nth + 1) * (FACTS + 1)));
            }
            expected += FACTS;
        }
        let found = count(&daemon.client, "SELECT id FROM facts").await?;
        anyhow::ensure!(found.len() as i64 == expected && found.values().all(|n| *n == 1));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_another_body_or_a_wrong_one_is_refused() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let setup = Setup {
        daemon: "idempotency_keys = 2",
        ..Default::default()
    };
    write_project(dir.path(), setup)?;
    let daemon = Daemon::start(dir.path()).await?;
    let post = async |headers: &[(&str, &str)], body: String| {
        daemon.post("facts", headers, body.as_bytes()).await
    };
    let (status, _) = post(&[("idempotency-key", "a")], line(1)).await?;
    anyhow::ensure!(status == 200);
    let (status, refused) = post(&[("idempotency-key", "a")], line(2)).await?;
    anyhow::ensure!(
        status == 409 && refused["error"].to_string().contains("another body"),
        "{refused}"
    );
    let plain = [("idempotency-key", "a"), ("content-type", "text/plain")];
    let (status, _) = post(&plain, line(1)).await?;
    anyhow::ensure!(status == 409, "the type is part of what the body is");
    for wrong in [
        vec![("idempotency-key", "two words")],
        vec![("idempotency-key", "")],
        vec![("idempotency-key", "a"), ("idempotency-key", "b")],
        vec![("idempotency-key", "c"), ("anabranch-ingest-id", "file")],
    ] {
        let (status, refused) = post(&wrong, line(3)).await?;
        anyhow::ensure!(status == 400, "{wrong:?}: {refused}");
    }
    // The second key has room, the third has not; those that are known have their answers.
    let (status, _) = post(&[("idempotency-key", "b")], line(4)).await?;
    anyhow::ensure!(status == 200);
    let (status, refused) = post(&[("idempotency-key", "c")], line(5)).await?;
    anyhow::ensure!(
        status == 503 && refused["error"].to_string().contains("idempotency_keys"),
        "{refused}"
    );
    let (status, again) = post(&[("idempotency-key", "a")], line(1)).await?;
    anyhow::ensure!(status == 200 && again["repeated"] == true, "{again}");
    let (status, _) = post(&[], line(6)).await?;
    anyhow::ensure!(status == 200);
    let found = count(&daemon.client, "SELECT id FROM facts").await?;
    anyhow::ensure!(
        found.keys().copied().collect::<Vec<_>>() == [1, 4, 6],
        "{found:?}"
    );
    Ok(())
}
