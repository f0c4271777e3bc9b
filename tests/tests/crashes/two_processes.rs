//! Two processes at once on one project: each succeeds, waits, or says why it can't. Afterwards no
//! log is broken, no run is lost, no boundary has gone back, and the law holds.

use std::path::Path;
use std::process::Output;

use anabranch_jobs::project::context::Context;
use anabranch_shared::Offsets;
use anabranch_tests::ledger::{Ledger, boundary, check_law, count, line};
use anabranch_tests::places;
use anabranch_tests::process::{EDITED, Process, Setup, VIEW, run, run_well, until, write_project};

/// A project with facts in the log and none in a WAL.
async fn with_facts(dir: &Path, facts: i64) -> anyhow::Result<Context> {
    write_project(dir, Setup::default())?;
    let body: String = (0..facts).map(line).collect();
    std::fs::write(dir.join("facts.ndjson"), body)?;
    ingest(dir, "facts.ndjson").await?;
    Ok(Context::open(dir).await?)
}

async fn ingest(dir: &Path, file: &str) -> anyhow::Result<String> {
    let path = dir.join(file);
    run_well(dir, &["ingest", "facts", &path.to_string_lossy()]).await
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// How often each number is in the log, as a process of its own says it.
async fn once(what: &str, dir: &Path, ids: std::ops::Range<i64>) -> anyhow::Result<()> {
    let sql = "SELECT count(*), count(DISTINCT id), min(id), max(id) FROM facts";
    let said = run_well(dir, &["--format", "csv", "sql", "-c", sql]).await?;
    let (n, wanted) = (ids.end - ids.start, said.lines().last().unwrap_or_default());
    anyhow::ensure!(
        wanted == format!("{n},{n},{},{}", ids.start, ids.end - 1),
        "{what}: {said}"
    );
    Ok(())
}

const REBUILD: &[&str] = &["batch", "rebuild", "words"];
const REFRESH: &[&str] = &["batch", "refresh", "words"];

/// Where a build has made its states and not published them.
const BUILT: &str = "publish-before-commit";

/// One build has made its states when more facts land and another build begins and ends; then the
/// first goes on. Then both at once, as they come. Checks after each.
async fn at_once(late: &[&str], other: &[&str]) -> anyhow::Result<()> {
    let what = format!("{} and {}", late[1], other[1]);
    let dir = places::folder()?;
    let context = with_facts(dir.path(), 3_000).await?;
    let mut below = boundary(&context).await?;
    let mut next = 3_000;
    for round in 0..3 {
        let mut first = match round {
            2 => Process::start(dir.path(), late)?,
            _ => Process::start_to_stop(dir.path(), late, BUILT, 1)?,
        };
        if round < 2 {
            first.stopped().await?;
        }
        // In the second round the runs of both end at the same offsets.
        if round != 1 {
            let body: String = (next..next + 500).map(line).collect();
            next += 500;
            std::fs::write(dir.path().join("more.ndjson"), body)?;
            ingest(dir.path(), "more.ndjson").await?;
        }
        run_well(dir.path(), other).await?;
        first.go_on()?;
        let status = first.ended().await?;
        anyhow::ensure!(status.success(), "{what}: {}", first.errors().await);
        let (now, head) = (
            boundary(&context).await?,
            context.log("facts").await?.head(),
        );
        anyhow::ensure!(
            now.covers(&below) && now == head,
            "{what}, round {round}: the boundary went from [{below}] to [{now}], the head is [{head}]"
        );
        below = now;
        once(&what, dir.path(), 0..next).await?;
        check_law(&what, &context).await?;
        // Something is left to absorb in the next round.
        let body: String = (next..next + 500).map(line).collect();
        next += 500;
        std::fs::write(dir.path().join("more.ndjson"), body)?;
        ingest(dir.path(), "more.ndjson").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_in_a_rebuild() -> anyhow::Result<()> {
    at_once(REBUILD, REFRESH).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_in_a_refresh() -> anyhow::Result<()> {
    at_once(REFRESH, REBUILD).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_rebuilds() -> anyhow::Result<()> {
    at_once(REBUILD, REBUILD).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_refreshes() -> anyhow::Result<()> {
    at_once(REFRESH, REFRESH).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rebuilds_of_one_edited_view() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let context = with_facts(dir.path(), 2_000).await?;
    run_well(dir.path(), REFRESH).await?;
    std::fs::write(dir.path().join("words.sql"), EDITED)?;
    let apply: &[&str] = &["apply", "--yes"];
    let mut late = Process::start_to_stop(dir.path(), apply, "cut-over-before-entry", 1)?;
    late.stopped().await?;
    // It goes on with the candidate of the other one, which finds itself done.
    run_well(dir.path(), apply).await?;
    late.go_on()?;
    let status = late.ended().await?;
    let errors = late.errors().await;
    anyhow::ensure!(status.code() == Some(0), "{status}: {errors}");
    let now = boundary(&context).await?;
    anyhow::ensure!(now == context.log("facts").await?.head());
    check_law("rebuilds of an edited view", &context).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ingests_of_different_files() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    for (name, ids) in [("a.ndjson", 0..2_000), ("b.ndjson", 2_000..4_000)] {
        std::fs::write(dir.path().join(name), ids.map(line).collect::<String>())?;
    }
    let both = tokio::join!(
        ingest(dir.path(), "a.ndjson"),
        ingest(dir.path(), "b.ndjson")
    );
    println!("{}{}", both.0?, both.1?);
    let context = Context::open(dir.path()).await?;
    run_well(dir.path(), REFRESH).await?;
    check_law("ingests of different files", &context).await?;
    once("ingests of different files", dir.path(), 0..4_000).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ingests_of_one_file() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let body: String = (0..2_000).map(line).collect();
    std::fs::write(dir.path().join("a.ndjson"), body)?;
    let path = dir.path().join("a.ndjson");
    let arguments = ["ingest", "facts", &path.to_string_lossy()];
    // One has read the file and not landed it when another begins and ends.
    let point = "land-before-commit";
    let mut late = Process::start_to_stop(dir.path(), &arguments, point, 1)?;
    late.stopped().await?;
    run_well(dir.path(), &arguments).await?;
    late.go_on()?;
    let status = late.ended().await?;
    let says = late.errors().await;
    anyhow::ensure!(
        status.code() == Some(75) && says.contains("another process ingests it too"),
        "{status}: {says}"
    );
    let again = run_well(dir.path(), &arguments).await?;
    anyhow::ensure!(again.contains("was ingested before"), "{again}");
    once("ingests of one file", dir.path(), 0..2_000).await?;
    let context = Context::open(dir.path()).await?;
    check_law("ingests of one file", &context).await?;

    // Through a daemon.
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    let body: String = (2_000..4_000).map(line).collect();
    std::fs::write(dir.path().join("a.ndjson"), body)?;
    let (a, b) = tokio::join!(run(dir.path(), &arguments), run(dir.path(), &arguments));
    for output in [a?, b?] {
        anyhow::ensure!(output.status.success(), "{}", errors(&output));
    }
    let found = count(&client, "SELECT id FROM facts").await?;
    anyhow::ensure!(found.len() == 4_000 && found.values().all(|n| *n == 1));
    daemon.terminate().await?;
    check_law("ingests of one file through a daemon", &context).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_one_wal_is_refused() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let context = Context::open(dir.path()).await?;
    let mut first = Process::start(dir.path(), &["speed"])?;
    let client = first.ready(&context).await?;
    let second = run(dir.path(), &["speed"]).await?;
    anyhow::ensure!(
        second.status.code() == Some(75) && errors(&second).contains("another process"),
        "{}: {}",
        second.status,
        errors(&second)
    );
    let ledger = Ledger::default().send(&client, 3).await;
    ledger.check("the first daemon", &client, VIEW).await?;
    first.terminate().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_while_a_daemon_lands() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let context = Context::open(dir.path()).await?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    let mut ledger = Ledger::default().send(&client, 5).await;
    let mut below = boundary(&context).await?;
    for command in [REBUILD, REFRESH, REBUILD] {
        let sending = tokio::spawn({
            let client = client.clone();
            async move { ledger.send(&client, 60).await }
        });
        run_well(dir.path(), command).await?;
        ledger = sending.await?;
        let now = boundary(&context).await?;
        anyhow::ensure!(now.covers(&below), "from [{below}] to [{now}]");
        below = now;
        ledger.check("while landing", &client, VIEW).await?;
    }
    anyhow::ensure!(ledger.dead.len() == 185, "a request failed");
    daemon.terminate().await?;
    check_law("a rebuild while a daemon lands", &context).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_with_a_wal_each() -> anyhow::Result<()> {
    let (here, there) = (places::folder()?, places::folder()?);
    let storage = format!("file://{}/data", here.path().display());
    let setup = Setup {
        storage: &storage,
        ..Default::default()
    };
    for dir in [&here, &there] {
        write_project(dir.path(), setup)?;
    }
    // Both make the catalogue and the view's first generation at once.
    let mut daemons = [
        Process::start(here.path(), &["speed"])?,
        Process::start(there.path(), &["speed"])?,
    ];
    let context = Context::open(here.path()).await?;
    let clients = [
        daemons[0].ready(&context).await?,
        daemons[1].ready(&context).await?,
    ];
    let sent = tokio::join!(
        Ledger::from(0).send(&clients[0], 30),
        Ledger::from(100_000).send(&clients[1], 30)
    );
    anyhow::ensure!(sent.0.dead.len() == 30 && sent.1.dead.len() == 30);
    let ledger = Ledger::default().with(&sent.0).with(&sent.1);
    let offsets = Offsets::default;
    until("both land", || async {
        let head = context.log("facts").await?.head();
        Ok(head.iter().count() == 2 && offsets().distance_to(&head) == 60 * 51)
    })
    .await?;
    for client in &clients {
        until("what the other has landed", || async {
            Ok(count(client, "SELECT id FROM facts").await?.len() == 3_000)
        })
        .await?;
        ledger.check("before a refresh", client, VIEW).await?;
    }
    run_well(there.path(), REFRESH).await?;
    run_well(here.path(), REBUILD).await?;
    for client in &clients {
        ledger.check("after a refresh", client, VIEW).await?;
    }
    // One dies and comes back; the other has gone on.
    daemons[1].kill()?;
    let more = Ledger::from(200_000).send(&clients[0], 5).await;
    let ledger = ledger.with(&more);
    daemons[1] = Process::start(there.path(), &["speed"])?;
    let back = daemons[1].ready(&context).await?;
    until("what landed meanwhile", || async {
        Ok(count(&back, "SELECT id FROM facts").await?.len() == 3_250)
    })
    .await?;
    ledger.check("after a restart", &back, VIEW).await?;
    for daemon in &mut daemons {
        daemon.terminate().await?;
    }
    check_law("two daemons", &context).await
}
