//! Files as they come: their own CSV back, other separators, what is refused whole, what can't be
//! read, and dead letters on a terminal.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::support::{Project, said};

fn write(project: &Project, name: &str, content: impl AsRef<[u8]>) -> Result<String> {
    let path = project.path(name);
    std::fs::write(&path, content)?;
    Ok(path.display().to_string())
}

/// Every value of every kind that CSV can hold, empty texts and NULLs among them.
#[test]
fn what_is_written_as_csv_comes_back_as_it_was() -> Result<()> {
    let project = Project::new(&[])?;
    let lines = concat!(
        "{\"ts\":\"2026-01-01T00:00:00Z\",\"word\":\"\",\"n\":1,\"x\":0.1}\n",
        "{\"ts\":\"2026-01-01T00:00:01Z\",\"word\":null,\"x\":\"NaN\"}\n",
        "{\"ts\":\"2026-01-01T00:00:02Z\",\"word\":\"a,\\\"b\\\"\\r\\n\",\"x\":\"-Infinity\"}\n",
        "{\"ts\":\"2026-01-01T00:00:03.000001Z\",\"word\":\" é \",\"n\":-9223372036854775808}\n",
    );
    let first = write(&project, "first.ndjson", lines)?;
    project.ok(&["ingest", "facts", &first])?;
    let sql = "SELECT ts, word, n, x FROM facts ORDER BY ts, _offset";
    let csv = project.ok(&["--format", "csv", "sql", "-c", sql])?;
    let again = write(&project, "again.csv", &csv)?;
    project.ok(&["ingest", "facts", &again])?;
    let twice = project.ok(&["--format", "csv", "sql", "-c", sql])?;
    let doubled: Vec<&str> = csv.lines().collect();
    let found: Vec<&str> = twice.lines().collect();
    ensure!(found.len() == 2 * doubled.len() - 1, "{twice}");
    let kinds = "SELECT count(*) AS c, count(word) AS w, count(n) AS n, count(x) AS x, sum(CASE WHEN word = '' THEN 1 ELSE 0 END) AS e FROM facts";
    let kinds = project.json(&["sql", "-c", kinds])?;
    ensure!(
        kinds[0] == serde_json::json!({"c": 8, "w": 6, "n": 4, "x": 6, "e": 2}),
        "{kinds}"
    );
    Ok(())
}

#[test]
fn fields_are_separated_as_it_is_said() -> Result<()> {
    let project = Project::new(&[])?;
    let file = write(&project, "a.csv", "ts ; Word; n\n2026-01-01;a,b;1\n")?;
    let told = project.fails(64, &["ingest", "facts", &file])?;
    ensure!(told.contains("--separator"), "{told}");
    project.ok(&["ingest", "facts", &file, "--separator", ";"])?;
    let rows = project.json(&["sql", "-c", "SELECT word, n, _extra FROM facts"])?;
    ensure!(
        rows == serde_json::json!([{"word": "a,b", "n": 1, "_extra": null}]),
        "{rows}"
    );
    let told = project.fails(2, &["ingest", "facts", &file, "--separator", "ab"])?;
    ensure!(told.contains("no separator"), "{told}");
    Ok(())
}

/// With `--strict` one bad record of the second file keeps the first one out too.
#[test]
fn a_strict_ingest_writes_all_or_nothing() -> Result<()> {
    let project = Project::new(&[])?;
    let fact = "{\"ts\":\"2026-01-01T00:00:00Z\",\"n\":1}\n";
    let good = write(&project, "good.ndjson", fact)?;
    let bad = write(&project, "bad.ndjson", format!("{fact}\n{{\"n\":1}}\n"))?;
    let told = project.fails(64, &["ingest", "facts", "--strict", &good, &bad])?;
    ensure!(
        told.contains("bad.ndjson") && told.contains("record 1, line 3"),
        "{told}"
    );
    let count =
        "SELECT (SELECT count(*) FROM facts) AS f, (SELECT count(*) FROM dead_letters) AS d";
    let rows = project.json(&["sql", "-c", count])?;
    ensure!(rows == serde_json::json!([{"f": 0, "d": 0}]), "{rows}");
    project.ok(&["ingest", "facts", "--strict", &good])?;
    // Standard input is read twice too.
    let mut command = project.command(&[
        "ingest",
        "facts",
        "-",
        "--strict",
        "--input-format",
        "ndjson",
    ]);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = piped.stderr(Stdio::piped()).spawn()?;
    let mut input = process.stdin.take().context("no input")?;
    input.write_all(fact.replace(":1}", ":2}").as_bytes())?;
    drop(input);
    let out = process.wait_with_output()?;
    ensure!(out.status.success(), "{}", said(&out));
    let rows = project.json(&["sql", "-c", count])?;
    ensure!(rows == serde_json::json!([{"f": 2, "d": 0}]), "{rows}");
    Ok(())
}

/// An empty `.gz`, as it stands between others, is named; those after it are there.
#[test]
fn a_file_that_cannot_be_read_keeps_no_other_waiting() -> Result<()> {
    let project = Project::new(&[])?;
    let fact = |n: u32| format!("{{\"ts\":\"2026-01-01T00:00:00Z\",\"n\":{n}}}\n");
    write(&project, "in-1.ndjson", fact(1))?;
    write(&project, "in-2.ndjson.gz", "")?;
    write(&project, "in-3.ndjson", fact(3))?;
    let pattern = project.path("in-*").display().to_string();
    let told = project.fails(64, &["ingest", "facts", &pattern])?;
    ensure!(
        told.contains("1 of 3 files could not be read") && told.contains("in-2.ndjson.gz"),
        "{told}"
    );
    let rows = project.json(&["sql", "-c", "SELECT n FROM facts ORDER BY n"])?;
    ensure!(rows == serde_json::json!([{"n": 1}, {"n": 3}]), "{rows}");
    Ok(())
}

/// What a record holds moves no cursor, and is the same in the table, in `--where` and in `--fix`,
/// also where it is no UTF-8.
#[test]
fn dead_letters_are_shown_and_chosen_whatever_they_hold() -> Result<()> {
    let project = Project::new(&[])?;
    let mut lines = b"{\"ts\":\"\\u001b[2Jbad\"}\n{\"ts\":\"\x1b[31m\x7fyesterday\"}\n".to_vec();
    lines.extend_from_slice(b"{\"ts\":\"\xff yesterday\"}\n");
    let file = write(&project, "a.ndjson", lines)?;
    project.ok(&["ingest", "facts", "--allow-dead-letters", &file])?;
    for place in ["0:0", "0:1", "0:2"] {
        let shown = project.ok(&["dead-letters", "show", "facts", place])?;
        let moves = shown.chars().any(|c| c.is_control() && c != '\n');
        ensure!(!moves && shown.contains("raw"), "{place}: {shown:?}");
    }
    let told = project.fails(66, &["dead-letters", "show", "facts\u{1b}[2J", "0:0"])?;
    ensure!(!told.contains('\u{1b}'), "{told:?}");
    let sql = "SELECT _offset, raw, encode(raw_bytes, 'hex') AS h FROM dead_letters WHERE raw LIKE '%yesterday%' ORDER BY 1";
    let rows = project.json(&["sql", "-c", sql])?;
    ensure!(
        rows[1]["raw"] == "{\"ts\":\"\u{fffd} yesterday\"}"
            && rows[1]["h"] == "7b227473223a22ff20796573746572646179227d",
        "{rows}"
    );
    let fix = "SELECT concat('{\"ts\":\"2026-01-01T00:00:00Z\",\"n\":', _offset, '}') FROM dead_letters WHERE raw LIKE '%yesterday%'";
    let filter = "raw LIKE '%yesterday%' AND length(encode(raw_bytes, 'hex')) > 6";
    let retry = [
        "dead-letters",
        "retry",
        "facts",
        "--where",
        filter,
        "--fix",
        fix,
    ];
    let report = project.json(&retry)?;
    ensure!(report["facts"] == 2, "{report}");
    Ok(())
}
