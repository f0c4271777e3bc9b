//! How much is asked of the bucket: no listing where it would be asked again and again.

use std::collections::BTreeMap;
use std::time::Instant;

use anabranch_jobs::reader::client::Client;
use anabranch_shared::{Offsets, RequestKind};
use anabranch_tests::ledger::{Ledger, rows};
use anabranch_tests::places;
use anabranch_tests::process::{EDITED, Process, Setup, run_well, until};
use anabranch_tests::s3::{Fault, Locking, Rule, S3Server};

use super::bucket::{Project, Server};

/// What a daemon says that it asked of its storage, by kind.
pub(super) async fn asked(client: &Client) -> anyhow::Result<BTreeMap<String, u64>> {
    let url = format!("http://{}/metrics", client.address().http);
    let text = reqwest::get(url).await?.error_for_status()?.text().await?;
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("anabranch_storage_requests_total{kind=\"") else {
            continue;
        };
        let (kind, count) = rest
            .split_once("\"} ")
            .ok_or_else(|| anyhow::anyhow!("{line}"))?;
        found.insert(kind.to_owned(), count.parse()?);
    }
    anyhow::ensure!(found.len() == RequestKind::ALL.len(), "{text}");
    Ok(found)
}

pub(super) fn since(
    before: &BTreeMap<String, u64>,
    now: &BTreeMap<String, u64>,
    kind: &str,
) -> u64 {
    let of = |counts: &BTreeMap<String, u64>| counts.get(kind).copied().unwrap_or(0);
    of(now) - of(before)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_listed_on_hot_paths() -> anyhow::Result<()> {
    let server = Server::own()?;
    let project = Project::new(&server, "hot", Setup::default())?;
    let context = project.context().await?;
    let mut daemon = Process::start(project.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    let (before, begun) = (asked(&client).await?, Instant::now());

    // Landings.
    let mut ledger = Ledger::default();
    let landings = 10;
    for n in 1..=landings {
        ledger = ledger.send(&client, 1).await;
        until("a landing", || async {
            let head = context.log("facts").await?.head();
            Ok(Offsets::default().distance_to(&head) == n * 51)
        })
        .await?;
    }
    let landed = asked(&client).await?;
    // A landing with dead letters: two data files; their two commits.
    anyhow::ensure!(since(&before, &landed, "put") == 2 * landings, "{landed:?}");
    anyhow::ensure!(
        since(&before, &landed, "put_if_absent") == 2 * landings,
        "{landed:?}"
    );

    // Queries of the log, the view and dead letters; a boundary that moves; a cut-over.
    for _ in 0..10 {
        for sql in [
            "SELECT * FROM words",
            "SELECT count(*) FROM facts",
            "SELECT raw FROM dead_letters",
        ] {
            anyhow::ensure!(!rows(&client, sql).await?.is_empty());
        }
    }
    run_well(project.path(), &["batch", "refresh"]).await?;
    ledger = ledger.send(&client, 1).await;
    std::fs::write(project.path().join("words.sql"), EDITED)?;
    run_well(project.path(), &["apply", "--yes"]).await?;
    until("the cut-over", || async {
        let answer = client.query("SELECT * FROM words", anabranch_shared::ReadMode::Merged);
        Ok(answer.await?.schema.column_with_name("newest").is_some())
    })
    .await?;
    ledger.check("after a cut-over", &client, EDITED).await?;
    let after = asked(&client).await?;
    for kind in ["list", "delete", "copy"] {
        // It looks every 10 s which other daemons there are, lists the new generation's table when
        // it opens it, the table of jobs when it reads how the refresh and the rebuild have ended,
        // and each table once in two minutes.
        let looks = if kind == "list" {
            begun.elapsed().as_secs() / 10 + 2 + 2 + begun.elapsed().as_secs() / 120 * 4
        } else {
            0
        };
        anyhow::ensure!(
            since(&before, &after, kind) <= looks,
            "{kind}: {before:?}, then {after:?}"
        );
    }
    println!(
        "a daemon's requests through {landings} landings: {landed:?}; with queries, a refresh and a cut-over: {after:?}"
    );
    daemon.terminate().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_goes_in_parts() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let server = S3Server::start(dir.path(), Locking::PerKey)?;
    let storage = server.storage("large")?;
    let body: Vec<u8> = (0..40_000_001_u32).map(|n| (n % 251) as u8).collect();
    let body = bytes::Bytes::from(body);
    let path = "some/object".into();
    // Parts are repeated like any other put.
    server.fail(vec![
        Rule::new(Fault::Error500, 200),
        Rule::new(Fault::DropAfter, 200),
    ]);
    storage.put(&path, body.clone()).await?;
    server.fail(Vec::new());
    // The upload's start, three parts, its end.
    anyhow::ensure!(storage.requests().of(RequestKind::Put) == 5);
    anyhow::ensure!(storage.get(&path).await?.as_ref() == Some(&body));

    // A put that can't be done is an error, and leaves nothing.
    let other = "other/object".into();
    server.fail(vec![
        Rule::new(Fault::SlowDown, 1_000).method(hyper::Method::PUT),
    ]);
    anyhow::ensure!(storage.put(&other, body).await.is_err());
    server.fail(Vec::new());
    anyhow::ensure!(storage.get(&other).await?.is_none());
    Ok(())
}
