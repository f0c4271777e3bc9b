//! `anabranch status`, with a daemon and without one.

use anabranch_shared::WallClock;
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::support::{Project, lines};

#[test]
fn status_tells_what_there_is_and_what_is_not_done() -> Result<()> {
    let words = "SELECT word, count(*) AS c FROM facts GROUP BY word";
    let project = Project::new(&[("words", words, "")])?;
    project.ingest(0..100)?;
    project.ok(&["batch", "refresh"])?;
    project.ingest(100..130)?;
    let bad = project.path("bad.ndjson");
    std::fs::write(&bad, "not json\n")?;
    project.fails(2, &["ingest", "facts", &bad.display().to_string()])?;
    let status = project.json(&["status"])?;
    let (topic, view) = (&status["topics"][0], &status["views"][0]);
    ensure!(
        status["daemon"].is_null() && view["delta"].is_null(),
        "{status}"
    );
    ensure!(
        topic["facts"] == 130 && topic["dead_letters"] == 1,
        "{topic}"
    );
    ensure!(
        topic["unlanded_facts"] == 0 && topic["files"] == 2,
        "{topic}"
    );
    ensure!(
        topic["partitions"] == 1 && topic["head"] == "0:131",
        "{topic}"
    );
    ensure!(
        topic["head_offsets"]["0"] == 131 && view["boundary_offsets"]["0"] == 100,
        "{topic} {view}"
    );
    ensure!(topic["bytes"].as_u64() > Some(0), "{topic}");
    ensure!(
        topic["newest_event_at"] == "2026-01-01T10:02:09Z",
        "{topic}"
    );
    ensure!(topic["newest_ingested_at"].is_string(), "{topic}");
    ensure!(
        view["behind"] == 30 && view["boundary"] == "0:100",
        "{view}"
    );
    ensure!(view["jobs"][0]["last"]["outcome"] == "done", "{view}");
    ensure!(view["edited"] == false && view["generation"] == 1, "{view}");

    let edited = "SELECT word, count(*) AS c, max(n) AS m FROM facts GROUP BY word";
    project.write_views(&[("words", edited, "")])?;
    let status = project.json(&["status"])?;
    ensure!(status["views"][0]["edited"] == true, "{status}");
    ensure!(
        status["notes"].to_string().contains("anabranch apply"),
        "{status}"
    );
    let shown = project.ok(&["status"])?;
    ensure!(
        shown.contains("edited") && shown.contains("when asked"),
        "{shown}"
    );
    // What stands in tables fits a terminal of 80 columns.
    let tables = shown
        .lines()
        .filter(|l| l.starts_with("facts ") || l.starts_with("words "));
    let widest = tables.map(|l| l.chars().count()).max();
    ensure!(widest.is_some_and(|w| w <= 80), "{shown}");
    Ok(())
}

/// A producer whose clock is years ahead does not hide how new the facts of the others are.
#[test]
fn one_clock_ahead_does_not_fix_what_is_newest() -> Result<()> {
    let project = Project::new(&[])?;
    let ahead = project.path("ahead.ndjson");
    let fact = "{\"id\":1,\"ts\":\"2199-01-01T00:00:00Z\",\"word\":\"w\",\"n\":1}\n";
    std::fs::write(&ahead, fact)?;
    let before = WallClock::default().now();
    project.ok(&["ingest", "facts", &ahead.display().to_string()])?;
    let status = project.json(&["status"])?;
    let newest = status["topics"][0]["newest_event_at"].as_str();
    let newest: chrono::DateTime<chrono::Utc> = newest.context("no newest event")?.parse()?;
    ensure!(
        newest >= before - chrono::TimeDelta::seconds(1) && newest <= WallClock::default().now(),
        "{status}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn status_asks_the_daemon_for_what_it_holds() -> Result<()> {
    let words = "SELECT word, count(*) AS c FROM facts GROUP BY word";
    let project = Project::new(&[("words", words, "")])?;
    // Facts stay in the WAL until the daemon ends.
    let settings = std::fs::read_to_string(project.path("anabranch.toml"))?;
    let settings = settings.replace("[daemon]", "[daemon]\nland_every = \"1h\"");
    std::fs::write(project.path("anabranch.toml"), settings)?;
    let (daemon, address) = project.daemon()?;
    let url = format!("http://{address}/topics/facts");
    let http = reqwest::Client::builder().no_proxy().build()?;
    let sent = http.post(url).body(lines(0..50)).send().await?;
    ensure!(sent.status().is_success(), "{}", sent.text().await?);
    // A query folds what has come into the delta.
    project.ok(&["sql", "-c", "SELECT * FROM words"])?;
    let status = project.json(&["status"])?;
    ensure!(status["daemon"] == address, "{status}");
    let seen = status["daemons"][0]["seen_at"]
        .as_str()
        .context("no time")?;
    seen.parse::<chrono::DateTime<chrono::Utc>>()?;
    ensure!(status["topics"][0]["unlanded_facts"] == 50, "{status}");
    let delta = &status["views"][0]["delta"];
    ensure!(
        delta["states"] == 50 && delta["bytes"].as_u64() > Some(0),
        "{delta}"
    );
    let (code, log) = daemon.end(Signal::TERM)?;
    ensure!(code == Some(0), "{log}");
    let status = project.json(&["status"])?;
    let topic = status["topics"].get(0).context("no topic")?;
    ensure!(
        topic["unlanded_facts"] == 0 && topic["facts"] == 50,
        "{status}"
    );
    Ok(())
}

#[test]
fn status_says_whether_a_scheduler_runs() -> Result<()> {
    let words = "SELECT word, count(*) AS c FROM facts GROUP BY word";
    let project = Project::new(&[("words", words, "refresh_every = \"1h\"")])?;
    project.ingest(0..10)?;
    let notes = || -> Result<String> { Ok(project.json(&["status"])?["notes"].to_string()) };
    ensure!(notes()?.contains("no scheduler runs"), "{}", notes()?);
    // What never ran is due, at whatever time it is asked.
    let jobs = project.json(&["jobs"])?;
    ensure!(
        jobs[0]["next_at"].is_null() && jobs[0]["due"] == true,
        "{jobs}"
    );
    let mut scheduler = project.start(&["schedule"])?;
    scheduler.wait_for("10 facts")?;
    ensure!(!notes()?.contains("scheduler"), "{}", notes()?);
    let (code, log) = scheduler.end(Signal::TERM)?;
    ensure!(code == Some(0), "{log}");
    ensure!(notes()?.contains("no scheduler runs"), "{}", notes()?);
    Ok(())
}
