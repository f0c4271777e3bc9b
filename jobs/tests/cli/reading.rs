//! What a person reads: tables with what one looks for first, counts that agree with their nouns, and
//! what to do next.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::support::{Project, said};

const WORDS: &str = "SELECT word, count(*) AS c FROM facts GROUP BY word";

fn written(project: &Project, name: &str, text: &str) -> Result<String> {
    std::fs::write(project.path(name), text)?;
    Ok(project.path(name).display().to_string())
}

#[test]
fn counts_agree_and_dead_letters_say_why() -> Result<()> {
    let project = Project::new(&[])?;
    let fact = "{\"ts\":\"2026-01-01T00:00:00Z\",\"n\":1}\n";
    let one = written(&project, "one.ndjson", &format!("{fact}not json\n"))?;
    let shown = said(&project.run(&["ingest", "facts", &one])?);
    ensure!(shown.contains("1 fact, 1 dead letter, "), "{shown}");
    for part in [
        "first dead letter: ",
        "one.ndjson",
        "line 2",
        "dead-letters list --topic facts",
    ] {
        ensure!(shown.contains(part), "no `{part}` in: {shown}");
    }
    let again = project.ok(&["ingest", "facts", &one])?;
    ensure!(
        again.contains("the file was ingested before and added nothing"),
        "{again}"
    );
    let bad: String = (0..12)
        .map(|n| format!("{{\"n\":\"bad {n}\"}}\n"))
        .collect();
    let bad = written(&project, "bad.ndjson", &bad)?;
    project.fails(2, &["ingest", "facts", &bad])?;
    let retried = project.fails(2, &["dead-letters", "retry", "facts"])?;
    ensure!(
        retried.contains("13 dead letters: 0 are facts now, 13 still can't"),
        "{retried}"
    );
    ensure!(retried.contains("  and 3 more\n"), "{retried}");
    let list = project.ok(&["dead-letters", "list", "--limit", "2"])?;
    ensure!(
        list.lines()
            .next()
            .is_some_and(|l| l.contains("place") && l.contains("reason"))
    );
    ensure!(list.contains("dead-letters show facts 0:"), "{list}");
    Ok(())
}

#[test]
fn jobs_begin_with_what_failed() -> Result<()> {
    let broken = "SELECT word, sum(1 / n) AS s FROM facts GROUP BY word";
    let project = Project::new(&[
        ("a_words", WORDS, "refresh_every = \"1h\""),
        ("broken", broken, "refresh_every = \"1h\""),
    ])?;
    project.ingest(0..10)?;
    project.fails(64, &["batch", "refresh"])?;
    let shown = project.ok(&["jobs"])?;
    let rows: Vec<&str> = shown.lines().collect();
    ensure!(
        rows[0].starts_with("state") && !rows[0].contains("next"),
        "{shown}"
    );
    ensure!(
        rows[1].starts_with("failed") && rows[1].contains("broken"),
        "{shown}"
    );
    ensure!(
        rows[2].starts_with("done") && rows[2].contains("a_words"),
        "{shown}"
    );
    ensure!(
        shown.contains("refresh of view `broken` failed: "),
        "{shown}"
    );
    ensure!(rows[..3].iter().all(|l| l.chars().count() <= 80), "{shown}");
    let history = project.ok(&["jobs", "history"])?;
    ensure!(history.contains("division by zero"), "{history}");
    let status = project.ok(&["status"])?;
    ensure!(status.contains("refresh failed "), "{status}");
    Ok(())
}

#[test]
fn du_counts_every_file() -> Result<()> {
    let project = Project::new(&[("words", WORDS, "")])?;
    project.ingest(0..100)?;
    let bad = written(&project, "bad.ndjson", "no\n")?;
    project.fails(2, &["ingest", "facts", &bad])?;
    project.ok(&["batch", "refresh"])?;
    let mut all = (0_u64, 0_u64);
    let mut folders = vec![project.path("data"), project.path("wal")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            match entry.metadata()? {
                m if m.is_dir() => folders.push(entry.path()),
                m => all = (all.0 + 1, all.1 + m.len()),
            }
        }
    }
    let rows = project.json(&["du"])?;
    let rows = rows.as_array().context("no array")?;
    let sum = |key: &str| rows.iter().filter_map(|r| r[key].as_u64()).sum::<u64>();
    ensure!((sum("files"), sum("bytes")) == all, "{rows:?}: {all:?}");
    let of = |of: &str, what: &str| {
        let row = rows.iter().find(|r| r["of"] == of && r["what"] == what);
        row.and_then(|r| r["bytes"].as_u64()).unwrap_or(0)
    };
    for (name, what) in [
        ("facts", "log"),
        ("facts", "dead letters"),
        ("words", "generation 1"),
        ("", "history of jobs"),
    ] {
        ensure!(of(name, what) > 0, "no {what} of {name}: {rows:?}");
    }
    let shown = project.ok(&["du"])?;
    ensure!(
        shown.lines().last().is_some_and(|l| l.starts_with("total")),
        "{shown}"
    );
    Ok(())
}

#[test]
fn tail_counts_filters_and_prints_in_several_forms() -> Result<()> {
    let project = Project::new(&[])?;
    project.ingest(0..100)?;
    let numbers = |arguments: &[&str]| -> Result<Vec<u64>> {
        let mut all = vec!["tail", "facts", "--line", "{n}"];
        all.extend(arguments);
        let shown = project.ok(&all)?;
        shown.lines().map(|l| Ok(l.parse()?)).collect()
    };
    ensure!(numbers(&["-n", "3", "--no-follow"])? == [97, 98, 99]);
    // It ends by itself once so many are printed.
    ensure!(numbers(&["--count", "3"])? == [0, 1, 2]);
    ensure!(numbers(&["--where", "n % 40 = 0", "--no-follow"])? == [0, 40, 80]);
    let last = numbers(&["--where", "n % 40 = 0", "-n", "2", "--no-follow"])?;
    ensure!(last == [40, 80], "{last:?}");
    let csv = project.ok(&["--format", "csv", "tail", "facts", "--count", "2"])?;
    ensure!(
        csv.starts_with("ts,word,n,x") && csv.lines().count() == 3,
        "{csv}"
    );
    let wrong = project.fails(64, &["tail", "facts", "--where", "nn = 1", "--no-follow"])?;
    ensure!(wrong.contains("did you mean `n`?"), "{wrong}");
    // Told to stop, it ends well.
    let mut tail = project.command(&["tail", "facts", "-n", "1"]);
    let mut tail = tail.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(tail.stdout.take().context("no output")?).lines();
    ensure!(lines.next().is_some());
    let pid = Pid::from_raw(i32::try_from(tail.id())?).context("no pid")?;
    kill_process(pid, Signal::INT)?;
    ensure!(tail.wait()?.code() == Some(0), "not well");
    Ok(())
}

#[test]
fn help_shows_what_a_command_uses() -> Result<()> {
    let project = Project::new(&[])?;
    let init = project.ok(&["init", "--help"])?;
    ensure!(
        !init.contains("--project") && !init.contains("--format"),
        "{init}"
    );
    let status = project.ok(&["status", "--help"])?;
    ensure!(
        status.contains("Options of every command") && status.contains("Examples:"),
        "{status}"
    );
    for command in ["ingest", "verify", "tail", "generate", "settings", "du"] {
        let help = project.ok(&[command, "--help"])?;
        ensure!(help.contains("Examples:"), "{command}: {help}");
        for odd in ["unless told", "so many", "Only of"] {
            ensure!(!help.contains(odd), "{command}: `{odd}` in {help}");
        }
    }
    Ok(())
}
