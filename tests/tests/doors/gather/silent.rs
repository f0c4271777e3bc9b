//! A daemon that does not answer: it is named, with where its facts begin, no query waits for it
//! again, and its facts are there once it is back.

use std::time::{Duration, Instant};

use anabranch_tests::ledger::Ledger;
use anabranch_tests::process::{Process, VIEW, until};

use super::{Two, ask, start};

const COUNT: &str = "SELECT count(*) FROM facts";

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_paused_is_named_until_it_goes_on() -> anyhow::Result<()> {
    let two = Two::new("1h", "peer_timeout = \"500ms\"")?;
    let context = two.context().await?;
    let (mut daemons, clients) = start(two.paths(), &context).await?;
    let first = Ledger::from(0).send(&clients[0], 3).await;
    let second = Ledger::from(100_000).send(&clients[1], 2).await;
    let all = Ledger::default().with(&first).with(&second);
    all.check("both", &clients[1], VIEW).await?;
    let own = clients[0].address().partitions["facts"][0];

    daemons[0].pause()?;
    let begun = Instant::now();
    let (rows, answer) = ask(&clients[1], COUNT).await?;
    let took = begun.elapsed();
    anyhow::ensure!(rows[0][0] == "100", "{rows:?}");
    anyhow::ensure!(
        (Duration::from_millis(400)..Duration::from_secs(4)).contains(&took),
        "{took:?}"
    );
    let at = &clients[0].address().http;
    let says = |note: &String| {
        note.contains(&format!("the daemon at {at}"))
            && note.contains(&format!(
                "does not answer: facts of `facts` from offset 0 of partition {own} on may be missing"
            ))
    };
    anyhow::ensure!(
        answer.notes.len() == 1 && answer.notes.iter().all(says),
        "{:?}",
        answer.notes
    );
    // The view's answer names it too, and none waits any more.
    let begun = Instant::now();
    for sql in ["SELECT * FROM words", "SELECT raw FROM dead_letters", COUNT] {
        let (_, answer) = ask(&clients[1], sql).await?;
        anyhow::ensure!(answer.notes.iter().all(says), "{sql}: {:?}", answer.notes);
        anyhow::ensure!(answer.notes.len() == 1, "{sql}: {:?}", answer.notes);
    }
    let batch = clients[1].query("SELECT * FROM words", anabranch_shared::ReadMode::Batch);
    anyhow::ensure!(batch.await?.notes.is_empty());
    let took = begun.elapsed();
    anyhow::ensure!(took < Duration::from_secs(4), "{took:?}");

    daemons[0].go_on()?;
    until("it answers again", || async {
        Ok(ask(&clients[1], COUNT).await?.1.notes.is_empty())
    })
    .await?;
    all.check("after the pause", &clients[1], VIEW).await?;
    for daemon in &mut daemons {
        daemon.terminate().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_was_killed_is_named_until_it_is_back() -> anyhow::Result<()> {
    let two = Two::new("1h", "")?;
    let context = two.context().await?;
    let (mut daemons, clients) = start(two.paths(), &context).await?;
    let first = Ledger::from(0).send(&clients[0], 3).await;
    let second = Ledger::from(100_000).send(&clients[1], 2).await;
    let all = Ledger::default().with(&first).with(&second);
    daemons[0].kill()?;
    for _ in 0..2 {
        let (rows, answer) = ask(&clients[1], COUNT).await?;
        let named = answer.notes.iter().any(|n| n.contains("from offset 0 of"));
        anyhow::ensure!(
            rows[0][0] == "100" && named && answer.notes.len() == 1,
            "{rows:?}: {:?}",
            answer.notes
        );
    }
    // It is back under another port, and says so before it takes anything.
    daemons[0] = Process::start(two.paths()[0], &["speed"])?;
    let back = daemons[0].ready(&context).await?;
    let more = Ledger::from(200_000).send(&back, 1).await;
    let all = all.with(&more);
    for client in [&back, &clients[1]] {
        all.check("after the restart", client, VIEW).await?;
        let (_, answer) = ask(client, COUNT).await?;
        anyhow::ensure!(answer.notes.is_empty(), "{:?}", answer.notes);
    }
    // A third is known at once, too.
    let third = anabranch_tests::places::folder()?;
    for name in ["anabranch.toml", "words.sql", "early.sql"] {
        std::fs::copy(two.paths()[1].join(name), third.path().join(name))?;
    }
    let mut new = Process::start(third.path(), &["speed"])?;
    let client = new.ready(&context).await?;
    let all = all.with(&Ledger::from(300_000).send(&client, 1).await);
    for client in [&back, &clients[1], &client] {
        all.check("with a third", client, VIEW).await?;
    }
    let metrics = reqwest::get(format!("http://{}/metrics", back.address().http));
    let metrics = metrics.await?.error_for_status()?.text().await?;
    anyhow::ensure!(
        metrics.contains("anabranch_peers{state=\"answers\"} 2\n")
            && metrics.contains("anabranch_peer_failures_total 0\n"),
        "{metrics}"
    );
    for daemon in daemons.iter_mut().chain([&mut new]) {
        daemon.terminate().await?;
    }
    Ok(())
}
