//! `anabranch ingest --id`: the same content again adds nothing, other content is a conflict.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use super::support::{Project, lines, said};

/// Ingests from standard input under a name; gives the exit code and what was said.
fn ingest(project: &Project, id: &str, text: &str) -> Result<(Option<i32>, String)> {
    let mut command = project.command(&[
        "ingest",
        "facts",
        "-",
        "--input-format",
        "ndjson",
        "--id",
        id,
    ]);
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child
        .stdin
        .take()
        .context("no input")?
        .write_all(text.as_bytes())?;
    let out = child.wait_with_output()?;
    Ok((out.status.code(), said(&out)))
}

#[test]
fn other_content_under_a_name_is_a_conflict() -> Result<()> {
    let project = Project::new(&[])?;
    let (code, text) = ingest(&project, "a1", &lines(0..50))?;
    ensure!(code == Some(0) && text.contains("50 facts"), "{text}");
    let (code, text) = ingest(&project, "a1", &lines(0..50))?;
    ensure!(
        code == Some(0) && text.contains("ingested before"),
        "{text}"
    );
    for other in [lines(50..100), lines(0..51), lines(0..49)] {
        let (code, text) = ingest(&project, "a1", &other)?;
        ensure!(
            code == Some(75) && text.contains("other content"),
            "{code:?} {text}"
        );
    }
    // A file under the name of another content too, before anything of it is written.
    let path = project.path("other.ndjson").display().to_string();
    std::fs::write(&path, lines(100..300))?;
    let text = project.fails(75, &["ingest", "facts", &path, "--id", "a1"])?;
    ensure!(text.contains("`--id a1`"), "{text}");
    project.ok(&["ingest", "facts", &path, "--id", "a/2 ü"])?;
    let count = project.ok(&[
        "--format",
        "csv",
        "sql",
        "-c",
        "SELECT count(*) AS c FROM facts",
    ])?;
    ensure!(count == "c\n250\n", "{count}");
    Ok(())
}
