//! How much is asked of the bucket: no listing where it would be asked again and again.

use std::collections::BTreeMap;

use anabranch_jobs::client::Client;
use anabranch_shared::{Offsets, RequestKind};
use anabranch_tests::ledger::{Ledger, rows};
use anabranch_tests::process::{EDITED, Process, Setup, run_well, until};

use super::bucket::{Project, Server};

/// What a daemon says that it asked of its storage, by kind.
async fn asked(client: &Client) -> anyhow::Result<BTreeMap<String, u64>> {
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

fn since(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>, kind: &str) -> u64 {
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
    let before = asked(&client).await?;

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
    run_well(project.path(), &["batch", "rebuild"]).await?;
    until("the cut-over", || async {
        let answer = client.query("SELECT * FROM words", anabranch_shared::ReadMode::Merged);
        Ok(answer.await?.schema.column_with_name("newest").is_some())
    })
    .await?;
    ledger.check("after a cut-over", &client, EDITED).await?;
    let after = asked(&client).await?;
    for kind in ["list", "delete", "copy"] {
        anyhow::ensure!(
            since(&before, &after, kind) == 0,
            "{kind}: {before:?}, then {after:?}"
        );
    }
    println!(
        "a daemon's requests through {landings} landings: {landed:?}; with queries, a refresh and a cut-over: {after:?}"
    );
    daemon.terminate().await
}
