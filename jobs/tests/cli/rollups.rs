//! Views over views: declared, made of the states of the view that they read, edited with it, and refused
//! with the place where they can't be.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::support::{Project, wait_for_true};

const MINUTES: &str = "SELECT date_trunc('minute', ts) AS minute, word, count(*) AS c, sum(n) AS s, count(DISTINCT n) AS different FROM facts GROUP BY 1, 2";
const HOURS: &str = "SELECT date_trunc('hour', minute) AS hour, sum(c) AS c, sum(s) AS s, combine(different) AS different FROM minutes GROUP BY 1";
const DAYS: &str = "SELECT CAST(hour AS DATE) AS day, sum(c) AS c, combine(different) AS different FROM hours GROUP BY 1";

/// A project with views over views, which stand in the file before what they read.
fn project() -> Result<Project> {
    let project = Project::new(&[
        ("days", DAYS, ""),
        ("hours", HOURS, ""),
        ("minutes", MINUTES, ""),
    ])?;
    project.ingest(0..1_000)?;
    Ok(project)
}

fn rows(project: &Project, sql: &str) -> Result<Vec<String>> {
    let answer = project.ok(&["--format", "csv", "sql", "-c", sql])?;
    Ok(answer.lines().skip(1).map(str::to_owned).collect())
}

/// Each roll-up is what a query over the view that it reads gives, and what the facts do.
fn check(project: &Project, counted: &str) -> Result<()> {
    let of_query =
        |select: &str, from: &str| format!("SELECT {select} FROM {from} GROUP BY 1 ORDER BY 1");
    let hours = "date_trunc('hour', minute) AS hour, sum(c) AS c, sum(s) AS s, combine(different) AS different";
    let days = "CAST(minute AS DATE) AS day, sum(c) AS c, combine(different) AS different";
    for (view, by_hand) in [
        ("hours", of_query(hours, "minutes")),
        ("days", of_query(days, "minutes")),
    ] {
        let found = rows(project, &format!("SELECT * FROM {view} ORDER BY 1"))?;
        ensure!(
            found == rows(project, &by_hand)? && !found.is_empty(),
            "{view}: {found:?}"
        );
        let sum = rows(project, &format!("SELECT sum(c) AS c FROM {view}"))?;
        ensure!(sum == [counted], "{view}: {sum:?}, not {counted}");
    }
    project.ok(&["verify"])?;
    Ok(())
}

#[test]
fn a_roll_up_is_made_of_the_states_of_its_parent() -> Result<()> {
    let project = project()?;
    check(&project, "1000")?;
    project.ok(&["batch", "refresh", "minutes"])?;
    project.ingest(1_000..1_100)?;
    let refreshed = project.json(&["batch", "refresh"])?;
    let facts = |view: &str| -> Result<u64> {
        let reports = refreshed.as_array().context("no reports")?;
        let of_view = reports.iter().find(|r| r["view"] == view);
        of_view
            .and_then(|r| r["facts"].as_u64())
            .context("no report")
    };
    // Only what came since is read of the log, and that once.
    let read = [facts("minutes")?, facts("hours")?, facts("days")?];
    ensure!(read == [100, 0, 0], "{refreshed}");
    check(&project, "1100")?;
    let tree = project.ok(&["graph"])?;
    ensure!(
        tree.contains("└─ view minutes  (g1)\n   └─ view hours  (g1)\n      └─ view days  (g1)"),
        "{tree}"
    );
    Ok(())
}

#[test]
fn an_edit_of_the_parent_is_one_of_all() -> Result<()> {
    let project = project()?;
    project.ok(&["batch", "rebuild"])?;
    let edited = MINUTES.replace("FROM facts", "FROM facts WHERE n >= 100");
    let views = [
        ("days", DAYS, ""),
        ("hours", HOURS, ""),
        ("minutes", edited.as_str(), ""),
    ];
    project.write_views(&views)?;
    let plan: Value = serde_json::from_slice(&project.run(&["--format", "json", "plan"])?.stdout)?;
    let planned = plan["views"].as_array().context("no views")?;
    let names: Vec<&str> = planned.iter().filter_map(|v| v["view"].as_str()).collect();
    ensure!(names == ["minutes", "hours", "days"], "{plan}");
    ensure!(planned.iter().all(|v| v["action"] == "build"), "{plan}");
    let applied = project.json(&["apply", "--yes"])?;
    ensure!(applied["cut_over"] == true, "{applied}");
    let built = applied["built"].as_array().context("nothing built")?;
    let facts: Vec<u64> = built.iter().filter_map(|b| b["facts"].as_u64()).collect();
    ensure!(facts == [1_000, 0, 0], "{applied}");
    check(&project, "900")?;
    // All took the place of theirs in one entry.
    let entry =
        |view: &str| -> Result<Value> { Ok(project.json(&["history", view])?[0]["entry"].clone()) };
    ensure!(entry("minutes")? == entry("days")? && entry("days")?.is_u64());
    // A coarser child of the same states reads no fact.
    let coarser = HOURS.replace("'hour', minute", "'day', minute");
    project.write_views(&[
        ("days", DAYS, ""),
        ("hours", &coarser, ""),
        ("minutes", &edited, ""),
    ])?;
    let applied = project.json(&["apply", "--yes"])?;
    let built = applied["built"].as_array().context("nothing built")?;
    ensure!(
        !built.is_empty() && built.iter().all(|b| b["facts"] == 0),
        "{applied}"
    );
    ensure!(rows(&project, "SELECT sum(c) AS c FROM hours")? == ["900"]);
    project.ok(&["verify"])?;
    Ok(())
}

#[test]
fn what_can_be_no_roll_up_stops_itself_alone() -> Result<()> {
    let project = project()?;
    let views = [
        (
            "counted",
            "SELECT word,\n  count(*) AS n FROM minutes GROUP BY word",
            "",
        ),
        ("over_it", "SELECT sum(n) AS n FROM counted", ""),
        ("a", "SELECT sum(c) AS c FROM b", ""),
        ("b", "SELECT sum(c) AS c FROM a", ""),
        (
            "both",
            "SELECT m.word, sum(c) AS c FROM minutes m JOIN facts USING (word) GROUP BY 1",
            "",
        ),
        ("minutes", MINUTES, ""),
    ];
    project.write_views(&views)?;
    project.ok(&["batch", "refresh", "minutes"])?;
    let status = project.ok(&["status"])?;
    for says in [
        "`counted.sql`, line 2, column 3: `count` here would be of rows of `minutes`",
        "reads `counted`, which can't be used",
        "views read each other: a → b → a",
        "a view over a view reads that one alone",
    ] {
        ensure!(status.contains(says), "{says}: {status}");
    }
    ensure!(rows(&project, "SELECT sum(c) AS c FROM minutes")? == ["1000"]);
    Ok(())
}

#[test]
fn a_daemon_keeps_roll_ups_fresh() -> Result<()> {
    let project = project()?;
    let (daemon, http) = project.daemon()?;
    project.ok(&["batch", "refresh"])?;
    let path = project.path("more.ndjson");
    std::fs::write(&path, super::support::lines(1_000..1_200))?;
    project.ok(&["ingest", "facts", &path.display().to_string()])?;
    wait_for_true(|| Ok(check(&project, "1200").is_ok())).with_context(|| http.clone())?;
    let (code, log) = daemon.end(rustix::process::Signal::TERM)?;
    ensure!(code == Some(0), "{code:?} {log}");
    Ok(())
}
