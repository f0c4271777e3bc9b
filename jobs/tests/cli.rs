//! The command line as its user meets it.

#[path = "cli/bad_views.rs"]
mod bad_views;
#[path = "cli/examples.rs"]
mod examples;
#[path = "cli/generations.rs"]
mod generations;
#[path = "cli/ingest_ids.rs"]
mod ingest_ids;
#[path = "cli/ingest_urls.rs"]
mod ingest_urls;
#[path = "cli/intake.rs"]
mod intake;
#[path = "cli/jobs.rs"]
mod jobs;
#[path = "cli/logging.rs"]
mod logging;
#[path = "cli/opening.rs"]
mod opening;
#[path = "cli/reading.rs"]
mod reading;
#[path = "cli/references.rs"]
mod references;
#[path = "cli/rollups.rs"]
mod rollups;
#[path = "cli/settings.rs"]
mod settings;
#[path = "cli/several_hands.rs"]
mod several_hands;
#[path = "cli/sql.rs"]
mod sql;
#[path = "cli/sql_errors.rs"]
mod sql_errors;
#[path = "cli/status.rs"]
mod status;
#[path = "cli/streams.rs"]
mod streams;
#[path = "cli/support.rs"]
mod support;
#[path = "cli/verify.rs"]
mod verify;

use std::process::{Command, Output};

fn anabranch(arguments: &[&str]) -> std::io::Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_anabranch"))
        .args(arguments)
        .env("ANABRANCH_LOG", "error")
        .output()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_folder_without_a_project_is_named() -> std::io::Result<()> {
    let dir = tempfile::tempdir()?;
    let out = anabranch(&["--project", &dir.path().display().to_string(), "status"])?;
    assert_eq!(out.status.code(), Some(66));
    let said = text(&out.stderr);
    assert!(
        said.contains("anabranch.toml") && said.contains("anabranch init"),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_new_project_ingests_and_answers() -> std::io::Result<()> {
    let dir = tempfile::tempdir()?;
    let project = dir.path().join("site").display().to_string();
    let facts = dir.path().join("facts.ndjson").display().to_string();
    assert!(anabranch(&["init", &project])?.status.success());
    assert!(
        anabranch(&[
            "generate",
            "pageviews",
            "--facts",
            "2000",
            "--output",
            &facts
        ])?
        .status
        .success()
    );
    let run = |arguments: &[&str]| {
        let mut all = vec!["--project", &project];
        all.extend(arguments);
        anabranch(&all)
    };
    let first = run(&["--format", "json", "ingest", "pageviews", &facts])?;
    assert!(
        text(&first.stdout).contains("\"facts\":2000"),
        "{}",
        text(&first.stderr)
    );
    let again = run(&["--format", "json", "ingest", "pageviews", &facts])?;
    assert!(
        text(&again.stdout).contains("\"facts\":0"),
        "{}",
        text(&again.stdout)
    );
    let sum = "SELECT sum(page_views) AS n FROM post_minutes";
    let before = run(&["--format", "csv", "sql", "-c", sum])?;
    assert_eq!(
        text(&before.stdout),
        "n\n2000\n",
        "{}",
        text(&before.stderr)
    );
    assert!(run(&["batch", "rebuild"])?.status.success());
    let after = run(&["--format", "csv", "sql", "-c", sum])?;
    assert_eq!(text(&after.stdout), "n\n2000\n");
    let verified = run(&["verify"])?;
    assert!(verified.status.success(), "{}", text(&verified.stdout));
    let bad = run(&["sql", "-c", "SELECT sum(visitors) FROM post_minutes"])?;
    assert!(!bad.status.success());
    assert!(
        text(&bad.stderr).contains("combine(visitors)"),
        "{}",
        text(&bad.stderr)
    );
    Ok(())
}

#[test]
fn bad_records_are_dead_letters_and_the_rest_lands() -> std::io::Result<()> {
    let dir = tempfile::tempdir()?;
    let project = dir.path().join("site").display().to_string();
    assert!(anabranch(&["init", &project])?.status.success());
    let facts = dir.path().join("facts.ndjson");
    let mut lines = b"{\"ts\":\"2026-01-01T00:00:00Z\",\"url\":\"/a\",\"odd\":1}\n{\"ts\":\"2014-03-10T08:00:000Z\",\"url\":\"/a\"}\nnot json\n{\"url\":\"/a\"}\n{\"ts\":\"1500-01-01T00:00:00Z\",\"url\":\"/a\"}\n".to_vec();
    lines.extend_from_slice(b"{\"ts\":\"2026-01-01T00:00:00Z\",\"url\":\"\xff\"}\n");
    std::fs::write(&facts, lines)?;
    let facts = facts.display().to_string();
    let out = anabranch(&[
        "--project",
        &project,
        "--format",
        "json",
        "ingest",
        "pageviews",
        &facts,
    ])?;
    assert_eq!(out.status.code(), Some(2), "{}", text(&out.stderr));
    assert!(
        text(&out.stdout).contains("\"facts\":1,\"dead_letters\":5"),
        "{}",
        text(&out.stdout)
    );
    let shown = anabranch(&[
        "--project",
        &project,
        "--format",
        "csv",
        "sql",
        "-c",
        "SELECT count(*) AS n, count(DISTINCT reason) AS reasons FROM dead_letters",
    ])?;
    assert_eq!(
        text(&shown.stdout),
        "n,reasons\n5,5\n",
        "{}",
        text(&shown.stderr)
    );
    let extra = anabranch(&[
        "--project",
        &project,
        "--format",
        "csv",
        "sql",
        "-c",
        "SELECT _extra FROM pageviews",
    ])?;
    assert!(
        text(&extra.stdout).contains("odd"),
        "{}",
        text(&extra.stdout)
    );
    Ok(())
}
