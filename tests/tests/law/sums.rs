//! Sums that their type does not hold are errors of the queries that read them, and of no others: they
//! name the view, the column and the key; a sum that comes back is right. And states of aggregates that
//! are ordered outlive a field that is added.

use std::path::Path;

use anabranch_tests::daemon::{Daemon, run};
use anabranch_tests::places;

const PROJECT: &str = r#"
[storage]
url = "file://./data"
[daemon]
http = "127.0.0.1:0"
land_every = "100ms"
[topics.facts]
event_time = "ts"
[topics.facts.fields]
ts = "timestamp not null"
word = "varchar"
n = "bigint"
[views.totals]
sql = "totals.sql"
[views.lists]
sql = "lists.sql"
"#;

const TOTALS: &str = "SELECT word, sum(n) AS total, count(*) AS facts FROM facts GROUP BY word";

const LISTS: &str = "SELECT array_agg(word) AS words, string_agg(word, ',') AS text, array_agg(n ORDER BY ts DESC) AS numbers, nth_value(n, 2 ORDER BY ts) AS second FROM facts";

fn write_project(dir: &Path) -> anyhow::Result<()> {
    std::fs::write(dir.join("anabranch.toml"), PROJECT)?;
    std::fs::write(dir.join("totals.sql"), TOTALS)?;
    Ok(std::fs::write(dir.join("lists.sql"), LISTS)?)
}

fn ingest(dir: &Path, facts: &[(&str, i64)]) -> anyhow::Result<()> {
    let lines = facts.iter().enumerate().map(|(i, (word, n))| {
        format!("{{\"ts\":\"2026-01-01T00:00:{i:02}Z\",\"word\":\"{word}\",\"n\":{n}}}\n")
    });
    let file = dir.join("facts.ndjson");
    std::fs::write(&file, lines.collect::<String>())?;
    let ran = run(
        dir,
        &["ingest", "facts", &file.display().to_string(), "--again"],
    )?;
    anyhow::ensure!(ran.code == Some(0), "{ran:?}");
    Ok(())
}

fn said(dir: &Path, sql: &str, expected: &str) -> anyhow::Result<()> {
    let ran = run(dir, &["--format", "csv", "sql", "-c", sql])?;
    anyhow::ensure!(ran.said == expected, "{sql}: {ran:?}");
    Ok(())
}

fn refused(dir: &Path, sql: &str, parts: &[&str]) -> anyhow::Result<()> {
    let ran = run(dir, &["sql", "-c", sql])?;
    anyhow::ensure!(
        ran.code == Some(64) && ran.said.is_empty(),
        "{sql}: {ran:?}"
    );
    for part in parts {
        let has = ran.complained.contains(part);
        anyhow::ensure!(has, "{sql}: no `{part}` in: {}", ran.complained);
    }
    Ok(())
}

const MOST: i64 = i64::MAX;

fn check(dir: &Path) -> anyhow::Result<()> {
    let beyond = [
        "`totals`",
        "`total`",
        "word = a",
        "9223372036854775808",
        "bigint",
    ];
    refused(dir, "SELECT * FROM totals", &beyond)?;
    refused(
        dir,
        "SELECT max(total) FROM totals WHERE word < 'b'",
        &beyond,
    )?;
    said(
        dir,
        "SELECT word, facts FROM totals ORDER BY word",
        "word,facts\na,2\nb,3\n",
    )?;
    // On its way there it was beyond.
    said(
        dir,
        "SELECT total FROM totals WHERE word = 'b'",
        "total\n9223372036854775807\n",
    )?;
    refused(
        dir,
        "SELECT sum(n) FROM facts WHERE word = 'a'",
        &["9223372036854775808"],
    )?;
    said(
        dir,
        "SELECT sum(n) AS t FROM facts WHERE word = 'b'",
        "t\n9223372036854775807\n",
    )?;
    refused(
        dir,
        "SELECT count(*) FROM facts TABLESAMPLE (10)",
        &["TABLESAMPLE"],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sum_out_of_range_is_an_error_of_who_reads_it() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let dir = dir.path();
    write_project(dir)?;
    ingest(dir, &[("a", MOST), ("b", MOST), ("b", 1)])?;
    let refreshed = run(dir, &["batch", "rebuild"])?;
    anyhow::ensure!(refreshed.code == Some(0), "{refreshed:?}");
    ingest(dir, &[("a", 1), ("b", -1)])?;
    check(dir)?;
    let refreshed = run(dir, &["batch", "refresh"])?;
    anyhow::ensure!(refreshed.code == Some(0), "{refreshed:?}");
    check(dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn ordered_states_outlive_a_field() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let dir = dir.path();
    write_project(dir)?;
    ingest(dir, &[("x", 1), ("y", 2)])?;
    let built = run(dir, &["batch", "rebuild"])?;
    anyhow::ensure!(built.code == Some(0), "{built:?}");
    let more = PROJECT.replace("n = \"bigint\"", "n = \"bigint\"\nauthor = \"varchar\"");
    std::fs::write(dir.join("anabranch.toml"), more)?;
    let daemon = Daemon::start(dir).await?;
    let line = "{\"ts\":\"2026-01-01T00:01:00Z\",\"word\":\"z\",\"n\":3,\"author\":\"q\"}\n";
    let (status, answer) = daemon.post("facts", &[], line.as_bytes()).await?;
    anyhow::ensure!(status == 200, "{answer}");
    let sql = "SELECT array_to_string(words, '+') AS w, text, array_to_string(numbers, '+') AS n, second FROM lists";
    let expected = "w,text,n,second\nx+y+z,\"x,y,z\",3+2+1,2\n";
    said(dir, sql, expected)?;
    daemon.stop().await?;
    for build in ["refresh", "rebuild"] {
        let built = run(dir, &["batch", build])?;
        anyhow::ensure!(built.code == Some(0), "{built:?}");
        said(dir, sql, expected)?;
        let verified = run(dir, &["verify", "lists"])?;
        anyhow::ensure!(verified.code == Some(0), "{verified:?}");
    }
    Ok(())
}
