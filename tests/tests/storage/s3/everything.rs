//! Every command on a bucket, each a process of its own, beside a daemon and from other machines'
//! project folders.

use std::path::Path;

use anabranch_jobs::project::context::Context;
use anabranch_tests::ledger::{Ledger, boundary, check_law, line};
use anabranch_tests::process::{EDITED, Process, Setup, VIEW, run_well, until};

use super::bucket::{Moto, Project, Server, check_count};

/// Facts of a file that is ingested, beyond all that are sent.
const FILE: std::ops::Range<i64> = 1_000_000..1_000_400;

#[tokio::test(flavor = "multi_thread")]
async fn every_command_works_on_a_bucket() -> anyhow::Result<()> {
    every_command(&Server::own()?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_works_on_moto() -> anyhow::Result<()> {
    match Moto::start().await? {
        Some(moto) => every_command(&Server::Moto(moto)).await,
        None => Ok(()),
    }
}

async fn every_command(server: &Server) -> anyhow::Result<()> {
    let project = Project::new(server, "deep/er", Setup::default())?;
    let dir = project.path();
    let settings = std::fs::read_to_string(dir.join("anabranch.toml"))?;
    std::fs::write(
        dir.join("anabranch.toml"),
        format!("{settings}export = true\n"),
    )?;
    let context = project.context().await?;
    let mut daemon = Process::start(dir, &["speed"])?;
    let client = daemon.ready(&context).await?;

    let ledger = Ledger::default().send(&client, 10).await;
    anyhow::ensure!(
        ledger.acknowledged.len() == 500,
        "{}",
        ledger.acknowledged.len()
    );
    ledger.check("before a build", &client, VIEW).await?;
    run_well(dir, &["batch", "refresh"]).await?;
    let ledger = ledger.send(&client, 5).await;
    ledger.check("after a refresh", &client, VIEW).await?;
    run_well(dir, &["batch", "rebuild"]).await?;
    ledger.check("after a rebuild", &client, VIEW).await?;
    check_law("after a rebuild", &context).await?;

    // Another machine, as it were: the same storage, another folder, no WAL.
    let file: String = FILE.map(line).collect();
    let elsewhere = Project::new(server, "deep/er", Setup::default())?;
    std::fs::write(elsewhere.path().join("more.ndjson"), file)?;
    let path = elsewhere.path().join("more.ndjson");
    let ingest = ["ingest", "facts", &path.to_string_lossy()];
    let said = run_well(elsewhere.path(), &ingest).await?;
    anyhow::ensure!(said.contains("400 facts"), "{said}");
    let said = run_well(elsewhere.path(), &ingest).await?;
    anyhow::ensure!(said.contains("ingested before"), "{said}");
    let sql = "SELECT count(*), count(DISTINCT id) FROM facts";
    let asked = ["--format", "csv", "sql", "-c", sql];
    let wanted = "1150,1150";
    let said = run_well(elsewhere.path(), &asked).await?;
    anyhow::ensure!(said.lines().last() == Some(wanted), "{said}");

    std::fs::write(dir.join("words.sql"), EDITED)?;
    run_well(dir, &["apply", "--yes"]).await?;
    until("the cut-over", || async {
        let answer = client.query("SELECT * FROM words", anabranch_shared::ReadMode::Merged);
        Ok(answer.await?.schema.column_with_name("newest").is_some())
    })
    .await?;
    let ledger = ledger.send(&client, 5).await;
    run_well(dir, &["batch", "refresh"]).await?;
    let said = run_well(dir, &["verify"]).await?;
    anyhow::ensure!(said.contains("words"), "{said}");
    let said = run_well(dir, &["--format", "json", "status"]).await?;
    let status: serde_json::Value = serde_json::from_str(&said)?;
    anyhow::ensure!(
        status["daemons"][0]["answers"] == true && status["daemons"][0]["pid"] == daemon.id(),
        "{said}"
    );
    for command in [&["jobs"][..], &["jobs", "history"], &["batch", "maintain"]] {
        run_well(dir, command).await?;
    }
    daemon.terminate().await?;

    // Without a daemon the answer is the log's.
    let said = run_well(elsewhere.path(), &asked).await?;
    anyhow::ensure!(said.lines().last() == Some("1400,1400"), "{said}");
    run_well(dir, &["batch", "refresh"]).await?;
    let moved = boundary(&context).await?;
    anyhow::ensure!(moved == context.log("facts").await?.head(), "{moved}");
    check_law("at the end", &context).await?;
    let export = "views/words/export/_delta_log".into();
    let exported = context.storage.list_below(&export).await?;
    anyhow::ensure!(!exported.is_empty(), "nothing was exported");
    let found = project.count().await?;
    let all = ledger.acknowledged.iter().copied().chain(FILE);
    check_count("at the end", &found, all, FILE.end)?;
    compacted_and_removed(dir, &context, 1_400).await
}

/// The log's small files become few, and then all its facts go, which the view goes on counting.
async fn compacted_and_removed(dir: &Path, context: &Context, facts: i64) -> anyhow::Result<()> {
    let one = |sql: &'static str| async move {
        let said = run_well(dir, &["--format", "csv", "sql", "-c", sql]).await?;
        anyhow::Ok(said.lines().last().unwrap_or_default().to_owned())
    };
    let (held, counted) = ("SELECT count(*) FROM facts", "SELECT sum(facts) FROM words");
    let log = context.log("facts").await?;
    let files = || log.table().with_state(|s| s.files.len());
    let more = 12;
    for part in 0..more {
        let file = dir.join(format!("small-{part}.ndjson"));
        std::fs::write(&file, line(FILE.end + part))?;
        run_well(dir, &["ingest", "facts", &file.to_string_lossy()]).await?;
    }
    log.refresh().await?;
    let small = files();
    run_well(dir, &["batch", "maintain"]).await?;
    log.refresh().await?;
    anyhow::ensure!(files() < small, "{} files, {small} before", files());
    anyhow::ensure!(one(held).await? == (facts + more).to_string());
    run_well(dir, &["verify"]).await?;
    let before = one(counted).await?;

    let settings = std::fs::read_to_string(dir.join("anabranch.toml"))?;
    let retained = "[topics.facts]\nretention = { age = \"1ms\" }";
    let settings = settings.replace("[topics.facts]", retained);
    std::fs::write(dir.join("anabranch.toml"), settings)?;
    run_well(dir, &["batch", "refresh"]).await?;
    // What waits to be removed goes by the time of the next one. The server's clock tells seconds.
    for _ in 0..2 {
        run_well(dir, &["batch", "maintain"]).await?;
        tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    }
    log.refresh().await?;
    anyhow::ensure!(files() == 0, "{} files are left", files());
    anyhow::ensure!(one(held).await? == "0");
    let after = one(counted).await?;
    anyhow::ensure!(after == before, "the view counts {after}, {before} before");
    run_well(dir, &["verify"]).await?;
    Ok(())
}
