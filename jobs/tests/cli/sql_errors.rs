//! What is wrong with SQL is said with its place, the near name and the way out: in queries, over HTTP
//! and of views alike.

use anyhow::{Result, ensure};
use rustix::process::Signal;

use super::support::Project;

const WORDS: &str = "SELECT word, count(*) AS c FROM facts GROUP BY word";

/// Words of the engine's that mean nothing to who wrote the statement.
const OF_THE_ENGINE: [&str; 7] = [
    "Optimizer rule",
    "ParserError",
    "datafusion",
    "WindowAggr",
    "Utf8",
    "Int64",
    "Error during planning",
];

fn is_clean(said: &str) -> bool {
    !OF_THE_ENGINE.iter().any(|word| said.contains(word))
}

#[test]
fn a_query_is_told_where_it_is_wrong() -> Result<()> {
    let project = Project::new(&[("words", WORDS, "")])?;
    project.ingest(0..10)?;
    for (code, sql, place, part) in [
        (
            66,
            "SELECT * FROM wrods",
            "line 1, column 15: ",
            "did you mean `words`?",
        ),
        (
            64,
            "SELECT wrod FROM facts",
            "line 1, column 8: ",
            "did you mean `word`?",
        ),
        (
            64,
            "SELECT cuont(*) FROM facts",
            "line 1, column 8: ",
            "did you mean `count`?",
        ),
        (64, "selct 1", "line 1, column 1: ", "did you mean `SELECT`"),
        (
            64,
            "SELECT n FROM facts WHERE n > 'abc'",
            "line 1, column 31: ",
            "`try_cast`",
        ),
        (
            64,
            "SELECT combine(word) FROM facts",
            "line 1, column 8: ",
            "combine: ",
        ),
    ] {
        let said = project.fails(code, &["sql", "-c", sql])?;
        ensure!(said.contains(place), "{sql}: no place in: {said}");
        ensure!(said.contains(part), "{sql}: no `{part}` in: {said}");
        ensure!(
            said.contains(&format!("1 | {sql}")),
            "{sql}: not shown: {said}"
        );
        ensure!(said.contains(" ^"), "{sql}: no caret: {said}");
        ensure!(is_clean(&said), "{said}");
    }
    // The engine takes two casts of one column for one.
    let days = project.ok(&["--format", "csv", "sql", "-c", "SELECT (ts AT TIME ZONE 'Europe/Berlin')::date AS a, (ts AT TIME ZONE 'Pacific/Auckland')::date AS b, count(*) AS c FROM facts GROUP BY 1, 2"])?;
    ensure!(days == "a,b,c\n2026-01-01,2026-01-01,10\n", "{days}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn http_says_line_and_column() -> Result<()> {
    let project = Project::new(&[("words", WORDS, "")])?;
    project.ingest(0..10)?;
    let (daemon, address) = project.daemon()?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("http://{address}/sql");
    let sent = http
        .post(url)
        .body("SELECT word,\n  vlue FROM facts")
        .send()
        .await?;
    let status = sent.status();
    let answer: serde_json::Value = serde_json::from_str(&sent.text().await?)?;
    ensure!(status == 400 && answer["kind"] == "invalid", "{answer}");
    ensure!(answer["line"] == 2 && answer["column"] == 3, "{answer}");
    let text = answer["error"].as_str().unwrap_or_default();
    ensure!(
        text.ends_with("2 |   vlue FROM facts\n  |   ^^^^"),
        "{text}"
    );
    let url = format!("http://{address}/topics/fatcs");
    let sent = http.post(url).body("{}").send().await?;
    ensure!(sent.status() == 404, "{sent:?}");
    let said = sent.text().await?;
    for part in [
        "did you mean `facts`?",
        "[topics.fatcs]",
        "start the daemon again",
    ] {
        ensure!(said.contains(part), "no `{part}` in: {said}");
    }
    let (code, log) = daemon.end(Signal::TERM)?;
    ensure!(code == Some(0), "{log}");
    // A user's mistake is no fault of the daemon's.
    ensure!(!log.contains("ERROR"), "{log}");
    Ok(())
}

#[test]
fn a_view_is_told_the_way_out() -> Result<()> {
    let project = Project::new(&[("words", WORDS, "")])?;
    for (sql, parts) in [
        (
            "SELECT c, count(*) AS n FROM words GROUP BY c",
            &[
                "line 1, column 8: `c` is a finished value of `words`",
                "`combine(c)`",
                "in a query",
            ][..],
        ),
        (
            "SELECT word, count(*) AS n FROM fatcs GROUP BY word",
            &["line 1, column 33: no topic `fatcs`; did you mean `facts`?"],
        ),
        (
            "SELECT count(*) AS n FROM facts WHERE word IN (SELECT word FROM content)",
            &[
                "line 1, column 65: `content` is another relation",
                "in a query over the views",
            ],
        ),
        (
            "WITH g AS (SELECT word, n - lag(n) OVER (PARTITION BY word ORDER BY ts) AS gap FROM facts) SELECT word, count(*) AS s FROM g GROUP BY word",
            &[
                "line 1, column 29: the window function `lag` stands below the aggregation",
                "a query over the topic",
            ],
        ),
        (
            "SELECT w, count(*) AS n FROM (SELECT unnest(make_array(word, 'b')) AS w FROM facts) GROUP BY w",
            &[
                "line 1, column 38: `unnest` stands below the aggregation",
                "one fact for each element",
            ],
        ),
        (
            "SELECT word, cuont(*) AS n FROM facts GROUP BY word",
            &["line 1, column 14: no function `cuont`; did you mean `count`?"],
        ),
    ] {
        project.write_views(&[("words", WORDS, ""), ("other", sql, "")])?;
        let said = project.fails(64, &["batch", "rebuild", "other"])?;
        for part in parts {
            ensure!(said.contains(part), "{sql}: no `{part}` in: {said}");
        }
        ensure!(
            said.contains("`other.sql`, line 1") && said.contains(" ^"),
            "{said}"
        );
        ensure!(is_clean(&said), "{said}");
    }
    // Two local days are two keys.
    let days = "SELECT (ts AT TIME ZONE 'Europe/Berlin')::date AS a, (ts AT TIME ZONE 'America/New_York')::date AS b, count(*) AS c FROM facts GROUP BY 1, 2";
    project.write_views(&[("words", WORDS, ""), ("days", days, "")])?;
    project.ingest(0..10)?;
    project.ok(&["batch", "rebuild"])?;
    let rows = project.ok(&["--format", "csv", "sql", "-c", "SELECT * FROM days"])?;
    ensure!(rows == "a,b,c\n2026-01-01,2026-01-01,10\n", "{rows}");
    project.ok(&["verify"])?;
    Ok(())
}
