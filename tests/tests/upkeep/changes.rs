//! Queries go on without a pause while views are built, cut over, rolled back and refreshed, and while
//! whoever does that is killed at each step: every answer is that of one definition at its own head, none
//! fails, and of one daemon none goes back.
//!
//! `ANABRANCH_CHANGES_ROUNDS` says how often all of it is done.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use anabranch_jobs::project::context::Context;
use anabranch_jobs::reader::client::Client;
use anabranch_shared::ReadMode;
use anabranch_tests::ledger::line;
use anabranch_tests::places;
use anabranch_tests::process::{EDITED, Process, Setup, VIEW, run_well, until, write_project};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

/// Where whoever changes a view is killed.
const DIES: [&str; 4] = [
    "publish-before-commit",
    "publish-after-commit",
    "cut-over-before-entry",
    "cut-over-after-entry",
];

/// Facts of a request.
const FACTS: i64 = 20;

/// Which of the two definitions an answer is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Definition {
    All,
    Even,
}

/// What was asked, and how often which definition took the other's place.
#[derive(Debug, Default)]
struct Asked {
    answers: u64,
    changes: u64,
    last: Option<Definition>,
}

/// Sends facts whose numbers are their offsets.
async fn send(client: Client, sent: Arc<AtomicI64>, done: Arc<AtomicBool>) -> anyhow::Result<()> {
    while !done.load(Ordering::Acquire) {
        let first = sent.load(Ordering::Acquire);
        let body: String = (first..first + FACTS).map(line).collect();
        client.write_ndjson("facts", body.into()).await?;
        sent.store(first + FACTS, Ordering::Release);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Asks until told to stop; checks each answer at its own head.
async fn ask(client: Client, sent: Arc<AtomicI64>, done: Arc<AtomicBool>) -> anyhow::Result<Asked> {
    let (mut asked, mut reached) = (Asked::default(), 0);
    while !done.load(Ordering::Acquire) {
        let acknowledged = sent.load(Ordering::Acquire);
        let sql = "SELECT sum(facts) AS facts FROM words";
        let answer = client.query(sql, ReadMode::Merged).await?;
        let head = answer.freshness.split("[0:").nth(1);
        let head: i64 = head
            .and_then(|h| h.split(']').next())
            .unwrap_or("0")
            .parse()?;
        let facts = answer.batches.first().map_or(0, |rows| {
            rows.column(0).as_primitive::<Int64Type>().value(0)
        });
        anyhow::ensure!(
            head >= acknowledged && head >= reached,
            "{head} after {reached}, {acknowledged} were acknowledged"
        );
        reached = head;
        let definition = match facts {
            all if all == head => Definition::All,
            even if even == (head + 1) / 2 => Definition::Even,
            other => anyhow::bail!("{other} facts at [0:{head}]: {}", answer.freshness),
        };
        asked.changes += u64::from(asked.last.is_some_and(|last| last != definition));
        asked.last = Some(definition);
        asked.answers += 1;
    }
    Ok(asked)
}

/// Waits until facts have landed that had not when this is called.
async fn landed_on(context: &Context) -> anyhow::Result<()> {
    let log = context.log("facts").await?;
    log.refresh().await?;
    let before = log.head();
    until("facts land", async || {
        log.refresh().await?;
        Ok(log.head() != before)
    })
    .await
}

/// Edits the view, lets whoever applies that die at each step, goes on, and takes it back and forth.
async fn round(dir: &Path, context: &Context, sql: &str) -> anyhow::Result<()> {
    std::fs::write(dir.join("words.sql"), sql)?;
    for point in DIES {
        // Without a fact that the candidate lacks nothing would be published.
        landed_on(context).await?;
        let mut apply = Process::start_to_stop(dir, &["apply", "--yes"], point, 1)?;
        apply.stopped().await?;
        apply.kill()?;
        run_well(dir, &["batch", "refresh"]).await?;
    }
    // The last one died when it had cut over.
    let said = run_well(dir, &["plan"]).await?;
    anyhow::ensure!(said.contains("nothing to do"), "{said}");
    for _ in 0..2 {
        run_well(dir, &["rollback", "words"]).await?;
        run_well(dir, &["batch", "rebuild"]).await?;
    }
    run_well(dir, &["batch", "maintain"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn answers_go_on_through_changes() -> anyhow::Result<()> {
    let rounds = std::env::var("ANABRANCH_CHANGES_ROUNDS");
    let rounds: usize = rounds.ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let context = Context::open(dir.path()).await?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    let (sent, done) = (
        Arc::new(AtomicI64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let sending = tokio::spawn(send(client.clone(), sent.clone(), done.clone()));
    while sent.load(Ordering::Acquire) < 200 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let asking: Vec<_> = (0..2)
        .map(|_| tokio::spawn(ask(client.clone(), sent.clone(), done.clone())))
        .collect();
    let changed = async {
        for sql in [EDITED, VIEW].iter().cycle().take(rounds) {
            round(dir.path(), &context, sql).await?;
        }
        anyhow::Ok(())
    };
    let changed = changed.await;
    done.store(true, Ordering::Release);
    sending.await??;
    let mut answers = 0;
    for asked in asking {
        let asked = asked.await??;
        answers += asked.answers;
        // One for each cut-over and roll-back at most: none came back by itself. A client that hardly
        // gets to ask sees fewer, and the first in any case.
        let acts = 3 * rounds as u64;
        anyhow::ensure!(
            asked.changes <= acts && asked.changes >= 1,
            "{asked:?} through {acts} acts"
        );
    }
    changed?;
    println!("{answers} answers through {rounds} rounds");
    anyhow::ensure!(answers > 200, "{answers} answers");
    run_well(dir.path(), &["verify"]).await?;
    daemon.terminate().await
}

/// Whoever goes back is answered by the former generation from then on.
#[tokio::test(flavor = "multi_thread")]
async fn a_roll_back_ends_when_the_daemon_serves_it() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let context = Context::open(dir.path()).await?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    let body: String = (0..1_000).map(line).collect();
    client.write_ndjson("facts", body.into()).await?;
    std::fs::write(dir.path().join("words.sql"), EDITED)?;
    run_well(dir.path(), &["apply", "--yes"]).await?;
    // Only one of the two definitions has the column.
    for column in ["different", "newest"].iter().cycle().take(8) {
        run_well(dir.path(), &["rollback", "words"]).await?;
        let sql = format!("SELECT max({column}) AS m FROM words");
        client.query(&sql, ReadMode::Merged).await?;
    }
    Ok(())
}
