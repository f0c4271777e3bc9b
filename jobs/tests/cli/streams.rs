//! What goes through pipes and over HTTP: the demo, `tail`, `generate`, the forms of an answer.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anabranch_shared::WallClock;
use anyhow::{Context, Result, ensure};

use crate::support::{Project, said};

const COUNT: (&str, &str, &str) = (
    "words",
    "SELECT word, count(*) AS facts FROM facts GROUP BY word",
    "",
);

#[test]
fn the_demo_holds() -> Result<()> {
    let out = Command::new(env!("CARGO_BIN_EXE_anabranch"))
        .args(["demo", "--facts", "20000"])
        .output()?;
    ensure!(out.status.success(), "{}", said(&out));
    Ok(())
}

/// The offsets of facts as lines.
fn offsets(lines: &str) -> Result<Vec<i64>> {
    let of = |line: &str| -> Result<i64> {
        let fact: serde_json::Value = serde_json::from_str(line)?;
        fact["_offset"].as_i64().context("no offset")
    };
    lines.lines().map(of).collect()
}

/// More facts than are asked for at once come in order, each once.
#[test]
fn tail_replays_a_topic_in_order() -> Result<()> {
    let project = Project::new(&[])?;
    project.ingest(0..120_000)?;
    let found = offsets(&project.ok(&["tail", "facts", "--no-follow"])?)?;
    ensure!(found.iter().copied().eq(0..120_000), "{}", found.len());
    let found = offsets(&project.ok(&["tail", "facts", "--from", "119990", "--no-follow"])?)?;
    ensure!(found.iter().copied().eq(119_990..120_000), "{found:?}");
    Ok(())
}

#[test]
fn tail_follows_from_a_time_on() -> Result<()> {
    let project = Project::new(&[])?;
    project.ingest(0..10)?;
    let now = humantime::format_rfc3339_micros(WallClock::default().now().into()).to_string();
    let mut tail = project.command(&["tail", "facts", "--from", &now]);
    let mut tail = tail.stdout(Stdio::piped()).spawn()?;
    project.ingest(10..15)?;
    let lines = BufReader::new(tail.stdout.take().context("no output")?).lines();
    let first: Vec<String> = lines.take(5).collect::<std::io::Result<_>>()?;
    tail.kill()?;
    tail.wait()?;
    let numbers: Vec<bool> = (10..15)
        .zip(&first)
        .map(|(n, line)| line.contains(&format!("\"n\":{n},")))
        .collect();
    ensure!(numbers == [true; 5], "{first:?}");
    Ok(())
}

/// `| head` is no error.
#[test]
fn a_reader_that_goes_away_ends_it_well() -> Result<()> {
    let project = Project::new(&[])?;
    project.ingest(0..20_000)?;
    for arguments in [
        ["tail", "facts", "--no-follow"].as_slice(),
        &["generate", "facts", "--facts", "1000000"],
    ] {
        let mut command = project.command(arguments);
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut first = String::new();
        BufReader::new(process.stdout.take().context("no output")?).read_line(&mut first)?;
        let out = process.wait_with_output()?;
        ensure!(
            first.starts_with('{') && out.status.success(),
            "{arguments:?}: {first} {}",
            said(&out)
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_have_the_form_that_is_asked_for() -> Result<()> {
    let project = Project::new(&[COUNT])?;
    project.ingest(0..3)?;
    let (_daemon, address) = project.daemon()?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let ask = async |accept: &str, sql: &'static str| -> Result<Vec<u8>> {
        let sent = http
            .post(format!("http://{address}/sql"))
            .header("accept", accept)
            .body(sql)
            .send()
            .await?;
        ensure!(sent.status() == 200, "{}", sent.status());
        let found = sent.headers()["content-type"].to_str()?.to_owned();
        ensure!(found == accept, "{found}");
        Ok(sent.bytes().await?.to_vec())
    };
    let sql = "SELECT word, facts FROM words WHERE word <> 'w2' ORDER BY word";
    let lines = "{\"word\":\"w0\",\"facts\":1}\n{\"word\":\"w1\",\"facts\":1}\n";
    ensure!(ask("application/x-ndjson", sql).await? == lines.as_bytes());
    let array = "[{\"word\":\"w0\",\"facts\":1},{\"word\":\"w1\",\"facts\":1}]";
    ensure!(ask("application/json", sql).await? == array.as_bytes());
    let arrow = ask("application/vnd.apache.arrow.stream", sql).await?;
    let reader = arrow::ipc::reader::StreamReader::try_new(arrow.as_slice(), None)?;
    let rows: usize = reader.map(|b| b.map_or(0, |b| b.num_rows())).sum();
    ensure!(rows == 2, "{rows}");
    // Over no rows.
    let none = "SELECT word FROM words WHERE word = 'x'";
    ensure!(ask("application/json", none).await? == b"[]");
    ensure!(ask("application/x-ndjson", none).await?.is_empty());
    let sum =
        "SELECT sum(facts) AS all_of_none, combine(facts) AS combined FROM words WHERE word = 'x'";
    let found = ask("application/json", sum).await?;
    let expected = "[{\"all_of_none\":null,\"combined\":0}]";
    ensure!(
        found == expected.as_bytes(),
        "{}",
        String::from_utf8_lossy(&found)
    );
    // In a sub-query that names a row around it a count over nothing is 0 too.
    let correlated = "SELECT a.w, (SELECT combine(facts) FROM words WHERE word = a.w) AS c FROM (VALUES ('w0'), ('x')) AS a(w) ORDER BY 1";
    let found = ask("application/json", correlated).await?;
    let expected = "[{\"w\":\"w0\",\"c\":1},{\"w\":\"x\",\"c\":0}]";
    ensure!(
        found == expected.as_bytes(),
        "{}",
        String::from_utf8_lossy(&found)
    );
    Ok(())
}

/// An answer takes of the queries' memory what waits for its reader, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_larger_than_the_memory_of_queries_goes_over() -> Result<()> {
    let project = Project::new(&[COUNT])?;
    let settings = project.path("anabranch.toml");
    let text = std::fs::read_to_string(&settings)? + "[query]\nmemory = \"2MB\"\n";
    std::fs::write(&settings, text)?;
    project.ingest(0..50_000)?;
    let (_daemon, _) = project.daemon()?;
    let all = project.ok(&["--format", "csv", "sql", "-c", "SELECT * FROM facts"])?;
    ensure!(all.len() > 2_000_000 && all.lines().count() == 50_001);
    let count = project.ok(&[
        "--format",
        "csv",
        "sql",
        "-c",
        "SELECT count(*) AS n FROM facts",
    ])?;
    ensure!(count == "n\n50000\n", "{count}");
    Ok(())
}

/// An id is any text.
#[test]
fn an_id_may_have_any_letters() -> Result<()> {
    let project = Project::new(&[])?;
    let (_daemon, _) = project.daemon()?;
    for id in ["hourly/2026-11-26T14", "what?#%20", "two words"] {
        for facts in [3, 0] {
            let mut command = project.command(&["--format", "json", "ingest", "facts", "-"]);
            let mut process = command
                .args(["--id", id, "--input-format", "ndjson"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            let mut input = process.stdin.take().context("no input")?;
            std::io::Write::write_all(&mut input, crate::support::lines(0..3).as_bytes())?;
            drop(input);
            let out = process.wait_with_output()?;
            let told = said(&out);
            let wanted = format!("\"facts\":{facts},");
            ensure!(
                out.status.success() && told.contains(&wanted),
                "{id}: {told}"
            );
        }
    }
    Ok(())
}
