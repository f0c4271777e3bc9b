//! `anabranch jobs`, `jobs history` and the scheduler.

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::support::Project;

const WORDS: &str = "SELECT word, count(*) AS c FROM facts GROUP BY word";

fn job<'a>(all: &'a serde_json::Value, view: &str, job: &str) -> Result<&'a serde_json::Value> {
    let rows = all.as_array().context("no array")?;
    let row = rows.iter().find(|r| r["view"] == view && r["job"] == job);
    row.with_context(|| format!("no {job} of {view}: {all}"))
}

#[test]
fn jobs_show_the_last_outcome_and_the_next_time() -> Result<()> {
    let settings =
        "refresh_every = \"5m\"\nrebuild_cron = \"0 3 * * *\"\ntimezone = \"Europe/Berlin\"";
    let project = Project::new(&[("words", WORDS, settings)])?;
    let before = project.json(&["jobs"])?;
    let rebuild = job(&before, "words", "rebuild")?;
    ensure!(rebuild["last_outcome"] == "never ran", "{rebuild}");
    ensure!(
        rebuild["schedule"] == "0 3 * * * Europe/Berlin",
        "{rebuild}"
    );
    let next = rebuild["next_at"].as_str().context("no time")?;
    // Three o'clock in Berlin is one or two in UTC.
    ensure!(
        next.contains("T01:00:00") || next.contains("T02:00:00"),
        "{next}"
    );
    ensure!(before.as_array().map(Vec::len) == Some(2), "{before}");
    project.ingest(0..100)?;
    project.ok(&["batch", "refresh"])?;
    let after = project.json(&["jobs"])?;
    let refresh = job(&after, "words", "refresh")?;
    ensure!(
        refresh["last_outcome"] == "done" && refresh["due"] == false,
        "{refresh}"
    );
    for format in ["table", "csv", "ndjson"] {
        let shown = project.ok(&["--format", format, "jobs"])?;
        ensure!(
            shown.contains("every 5m") && shown.contains("never ran"),
            "{shown}"
        );
    }
    let history = project.json(&["jobs", "history", "--view", "words"])?;
    let jobs: Vec<_> = history
        .as_array()
        .context("no array")?
        .iter()
        .map(|j| &j["job"])
        .collect();
    ensure!(jobs == ["refresh"], "{history}");
    ensure!(
        history[0]["facts"] == 100 && history[0]["trigger"] == "command",
        "{history}"
    );
    let one = project.ok(&["--format", "csv", "jobs", "history", "--limit", "1"])?;
    ensure!(
        one.lines().count() == 2 && one.starts_with("view,job,trigger,"),
        "{one}"
    );
    let unknown = project.fails(66, &["jobs", "history", "--view", "nope"])?;
    ensure!(unknown.contains("words"), "{unknown}");
    Ok(())
}

#[test]
fn the_scheduler_refreshes_and_shows_what_fails() -> Result<()> {
    let project = Project::new(&[
        ("words", WORDS, "refresh_every = \"1s\""),
        (
            "broken",
            "SELECT word, sum(1 / n) AS s FROM facts GROUP BY word",
            "refresh_every = \"1s\"",
        ),
    ])?;
    project.ingest(0..100)?;
    let mut scheduler = project.start(&["schedule"])?;
    scheduler.wait_for("100 facts")?;
    scheduler.wait_for("job failed; the live view stays")?;
    project.ingest(100..150)?;
    scheduler.wait_for("50 facts")?;
    scheduler.wait_for("job failed; the live view stays")?;
    let (code, log) = scheduler.end(Signal::TERM)?;
    ensure!(code == Some(0), "{code:?} {log}");
    let jobs = project.json(&["jobs"])?;
    ensure!(
        job(&jobs, "words", "refresh")?["last_outcome"] == "done",
        "{jobs}"
    );
    let broken = job(&jobs, "broken", "refresh")?;
    ensure!(
        broken["last_outcome"] == "failed" && broken["last_trigger"] == "schedule",
        "{broken}"
    );
    ensure!(
        broken["last_error"]
            .as_str()
            .is_some_and(|e| e.contains("offset")),
        "{broken}"
    );
    let status = project.json(&["status"])?;
    ensure!(
        status["notes"]
            .to_string()
            .contains("refresh of view `broken` failed"),
        "{status}"
    );
    let views = status["views"].as_array().context("no views")?;
    let behind = |name: &str| {
        views
            .iter()
            .find(|v| v["view"] == name)
            .map(|v| v["behind"].clone())
    };
    ensure!(
        behind("words") == Some(0.into()) && behind("broken") == Some(150.into()),
        "{status}"
    );
    let answer = project.ok(&[
        "--format",
        "csv",
        "sql",
        "-c",
        "SELECT sum(c) AS n FROM words",
    ])?;
    ensure!(answer == "n\n150\n", "{answer}");
    Ok(())
}
