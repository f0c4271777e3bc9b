//! JDBC's drivers at the doors: PostgreSQL's, also across a cut-over, and that of Arrow Flight SQL. They
//! are asked where `ANABRANCH_JVM` has their class path (`tests/jvm/setup.sh`).

use std::process::Stdio;

use anabranch_tests::daemon::{Daemon, run};
use anabranch_tests::ledger::line;
use anabranch_tests::places;
use anabranch_tests::process::{Setup, until, write_project};
use anabranch_tests::skip::skipped;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

const DOORS: &str =
    "[doors.postgres]\nlisten = \"127.0.0.1:0\"\n[doors.flight]\nlisten = \"127.0.0.1:0\"";

fn class_path() -> Option<String> {
    let found = std::env::var("ANABRANCH_JVM").ok();
    if found.is_none() {
        skipped("`ANABRANCH_JVM` is not set");
    }
    found
}

fn clients(class_path: &str, arguments: &[&str]) -> anyhow::Result<Child> {
    Ok(Command::new("java")
        // The driver of Arrow reaches below Java's buffers.
        .arg("--add-opens=java.base/java.nio=ALL-UNNAMED")
        .args(["-cp", class_path, "Clients"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?)
}

async fn ended(mut child: Child) -> anyhow::Result<()> {
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut said).await?;
    }
    anyhow::ensure!(child.wait().await?.success(), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn jdbc_asks_at_both_doors() -> anyhow::Result<()> {
    let Some(class_path) = class_path() else {
        return Ok(());
    };
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let path = dir.path().join("anabranch.toml");
    let text = std::fs::read_to_string(&path)?;
    std::fs::write(&path, format!("{text}\n{DOORS}\n"))?;
    let daemon = Daemon::start(dir.path()).await?;
    let facts: String = (0..1_000).map(line).collect();
    let (status, answer) = daemon.post("facts", &[], facts.as_bytes()).await?;
    anyhow::ensure!(status == 200, "{answer}");
    let (_, health) = daemon.get("/health").await?;
    let health: Value = serde_json::from_str(&health)?;
    let at = |door: &str| health[door].as_str().unwrap_or_default().to_owned();
    let url = format!(
        "jdbc:arrow-flight-sql://{}?useEncryption=false",
        at("flight")
    );
    ended(clients(&class_path, &["flight", &url])?).await?;
    let url = format!("jdbc:postgresql://{}/it", at("postgres"));
    let mut child = clients(&class_path, &["postgres", &url])?;
    let mut said = String::new();
    if let Some(stdout) = child.stdout.as_mut() {
        BufReader::new(stdout).read_line(&mut said).await?;
    }
    if said.trim() != "prepared" {
        return ended(child).await;
    }
    let view = std::fs::read_to_string(dir.path().join("words.sql"))?;
    let view = view.replace("count(*) AS facts", "count(*) AS facts, max(id) AS last");
    std::fs::write(dir.path().join("words.sql"), view)?;
    let applied = run(dir.path(), &["apply", "--yes"])?;
    anyhow::ensure!(applied.code == Some(0), "{}", applied.complained);
    until("the new generation answers", || async {
        Ok(daemon.rows("SELECT last FROM words LIMIT 1").await.is_ok())
    })
    .await?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(b"go\n").await?;
    }
    ended(child).await?;
    daemon.stop().await
}
