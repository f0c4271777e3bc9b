//! What a daemon's log says: what came, what landed, what was refused; and nothing where nothing did.

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::support::{Project, lines, start};

const WORDS: &str = "SELECT word, count(*) AS c FROM facts GROUP BY word";

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_what_happened() -> Result<()> {
    let project = Project::new(&[("words", WORDS, "")])?;
    let settings = std::fs::read_to_string(project.path("anabranch.toml"))?;
    let settings = format!("[log]\nslow_query = \"1ms\"\n{settings}");
    std::fs::write(project.path("anabranch.toml"), settings)?;
    let (daemon, address) = project.daemon()?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let post = |path: &str, body: String| {
        let url = format!("http://{address}{path}");
        let http = http.clone();
        async move {
            http.post(url)
                .body(body)
                .send()
                .await?
                .error_for_status_ref()
                .map(|_| ())
        }
    };
    post("/topics/facts", lines(0..50)).await?;
    post("/topics/facts", "not json\n".to_owned()).await?;
    ensure!(post("/topics/fatcs", lines(0..1)).await.is_err());
    ensure!(
        post("/sql", "SELECT nosuch FROM facts".to_owned())
            .await
            .is_err()
    );
    let slow = "SELECT count(*) AS slow_one FROM facts a, facts b, facts c";
    post("/sql", slow.to_owned()).await?;
    let (code, log) = daemon.end(Signal::TERM)?;
    ensure!(code == Some(0), "{log}");
    let line = |part: &str| log.lines().find(|l| l.contains(part)).map(str::to_owned);
    let took = line("took in").with_context(|| log.clone())?;
    for part in ["topic=facts", "facts=50", "requests=2", "bytes="] {
        ensure!(took.contains(part), "no `{part}` in: {took}");
    }
    let dead = line("became dead letters").with_context(|| log.clone())?;
    for part in ["WARN", "dead_letters=1", "first=", "--topic facts"] {
        ensure!(dead.contains(part), "no `{part}` in: {dead}");
    }
    ensure!(
        line(" landed ").is_some_and(|l| l.contains("topic=facts")),
        "{log}"
    );
    let unknown = line("path=/topics ").with_context(|| log.clone())?;
    ensure!(
        unknown.contains("status=404") && unknown.contains("no topic `fatcs`"),
        "{unknown}"
    );
    let wrong = line("path=/sql").with_context(|| log.clone())?;
    ensure!(
        wrong.contains("INFO") && wrong.contains("no column `nosuch`"),
        "{wrong}"
    );
    let slow = line("slow_one").with_context(|| log.clone())?;
    for part in ["WARN", "slow query", "rows=1", "seconds="] {
        ensure!(slow.contains(part), "no `{part}` in: {slow}");
    }
    ensure!(!log.contains("ERROR"), "{log}");
    Ok(())
}

#[test]
fn a_daemon_to_which_nothing_comes_says_nothing() -> Result<()> {
    let project = Project::new(&[("words", WORDS, "refresh_every = \"100ms\"")])?;
    let mut up = project.start(&["up"])?;
    up.wait_for(" http=")?;
    // Long enough for many refreshes of nothing.
    let jobs = || project.json(&["jobs"]);
    while jobs()?[0]["last_outcome"] != "done" {}
    let (code, log) = up.end(Signal::TERM)?;
    ensure!(code == Some(0), "{log}");
    for part in ["0 facts", "took in", " landed ", "refused"] {
        ensure!(!log.contains(part), "`{part}` in: {log}");
    }
    Ok(())
}

#[test]
fn a_log_may_be_json() -> Result<()> {
    let project = Project::new(&[("words", WORDS, "")])?;
    let settings = std::fs::read_to_string(project.path("anabranch.toml"))?;
    std::fs::write(
        project.path("anabranch.toml"),
        format!("[log]\nformat = \"json\"\n{settings}"),
    )?;
    let mut daemon = project.start(&["speed"])?;
    let ready = daemon.wait_for("\"ready\"")?;
    let ready: serde_json::Value = serde_json::from_str(&ready)?;
    ensure!(
        ready["level"] == "INFO" && ready["http"].is_string(),
        "{ready}"
    );
    ensure!(ready["unlanded_facts"] == 0, "numbers are numbers: {ready}");
    ready["time"]
        .as_str()
        .context("no time")?
        .parse::<chrono::DateTime<chrono::Utc>>()?;
    let (code, log) = daemon.end(Signal::TERM)?;
    ensure!(code == Some(0), "{log}");
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).with_context(|| line.to_owned())?;
    }
    // The environment goes before the project.
    let mut command = project.command(&["speed"]);
    command.env("ANABRANCH_LOG_FORMAT", "text");
    let mut daemon = start(command)?;
    let line = daemon.wait_for(" http=")?;
    ensure!(!line.starts_with('{'), "{line}");
    let mut command = project.command(&["status"]);
    let out = command.env("ANABRANCH_LOG_FORMAT", "xml").output()?;
    ensure!(out.status.code() == Some(64), "{out:?}");
    Ok(())
}
