//! A view that can't be used stops nothing but itself.

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::support::{Project, lines};

const WORDS: &str = "SELECT word, count(*) AS c FROM facts GROUP BY word";
const TOTAL: &str =
    "SELECT sum(d) AS total FROM (SELECT word, count(DISTINCT n) AS d FROM facts GROUP BY word)";

#[tokio::test(flavor = "multi_thread")]
async fn one_view_stops_nothing_else() -> Result<()> {
    let project = Project::new(&[
        ("words", WORDS, ""),
        ("edited", WORDS, ""),
        ("total", TOTAL, ""),
    ])?;
    project.ingest(0..100)?;
    project.ok(&["batch", "refresh"])?;
    project.write_views(&[
        ("words", WORDS, ""),
        ("total", TOTAL, ""),
        // Half edited, and never right.
        ("edited", "SELECT word, count(*) AS c,\n  FROM facts", ""),
        (
            "bad",
            "SELECT word,\n  cuont(*) AS c FROM facts GROUP BY word",
            "",
        ),
        ("worse", "SELECT now() AS a, random() AS b FROM facts", ""),
    ])?;
    project.ingest(100..150)?;
    let sum = |view: &str| {
        project.ok(&[
            "--format",
            "csv",
            "sql",
            "-c",
            &format!("SELECT sum(c) AS c FROM {view}"),
        ])
    };
    let check = || -> Result<()> {
        ensure!(sum("words")? == "c\n150\n", "another view");
        ensure!(sum("edited")? == "c\n150\n", "the old definition");
        let total = project.ok(&["--format", "csv", "sql", "-c", "SELECT * FROM total"])?;
        ensure!(
            total == "total\n150\n",
            "an aggregate of aggregates: {total}"
        );
        let edited = project.run(&["sql", "-c", "SELECT * FROM edited LIMIT 1"])?;
        let said = String::from_utf8(edited.stderr)?;
        ensure!(
            said.contains("still answers by its old definition"),
            "{said}"
        );
        let said = project.fails(64, &["sql", "-c", "SELECT * FROM bad"])?;
        ensure!(said.contains("`bad.sql`, line 2, column 3: "), "{said}");
        ensure!(said.contains("  |   ^^^^^"), "no caret: {said}");
        let status = project.ok(&["status"])?;
        for part in [
            "`bad.sql`, line 2, column 3",
            "`worse.sql`, line 1, column 8: `now()`",
            "line 1, column 20: `random()`",
            "view `edited` was edited and still answers by its old definition; its new one can't be used: view `edited`: `edited.sql`, line ",
        ] {
            ensure!(status.contains(part), "no `{part}` in: {status}");
        }
        Ok(())
    };
    check()?;
    // What answers is refreshed; what can't be built is told, and the others are built.
    project.ok(&["batch", "refresh", "words", "edited", "total"])?;
    let said = project.fails(64, &["batch", "rebuild"])?;
    ensure!(said.contains("3 views failed"), "{said}");
    let refreshed = project.run(&["batch", "refresh", "words"])?;
    ensure!(refreshed.status.success(), "{refreshed:?}");
    check()?;
    let verified = project.ok(&["verify"])?;
    ensure!(verified.matches(" 0 differ").count() == 3, "{verified}");
    // A daemon starts, takes facts and says which views it has not.
    let (daemon, address) = project.daemon()?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let ready = http.get(format!("http://{address}/ready")).send().await?;
    ensure!(ready.status().is_success(), "{ready:?}");
    let ready: serde_json::Value = serde_json::from_str(&ready.text().await?)?;
    let failing = ready["views_that_fail"].as_object().context("no views")?;
    ensure!(
        failing.keys().collect::<Vec<_>>() == ["bad", "worse"],
        "{ready}"
    );
    ensure!(
        ready["notes"]["edited"]
            .to_string()
            .contains("old definition"),
        "{ready}"
    );
    check()?;
    let sent = http
        .post(format!("http://{address}/topics/facts"))
        .body(lines(150..160));
    ensure!(sent.send().await?.status().is_success(), "intake");
    ensure!(
        sum("edited")? == "c\n160\n",
        "the old definition, by the daemon"
    );
    let (code, log) = daemon.end(Signal::TERM)?;
    ensure!(code == Some(0), "{log}");
    Ok(())
}

#[test]
fn a_view_that_cannot_be_compared_is_told_beside_the_others() -> Result<()> {
    let project = Project::new(&[
        (
            "broken",
            "SELECT word, sum(1 / (n - 7)) AS s FROM facts GROUP BY word",
            "",
        ),
        (
            "digest",
            "SELECT word, count(*) AS c, approx_percentile_cont(x, 0.9) AS p FROM facts GROUP BY word",
            "",
        ),
        (
            "two",
            "SELECT word, string_agg(DISTINCT word, '-') AS d, string_agg(word, ',' ORDER BY ts) AS e FROM facts GROUP BY word",
            "",
        ),
        ("words", WORDS, ""),
    ])?;
    project.ingest(0..100)?;
    let out = project.run(&["verify"])?;
    let shown = String::from_utf8(out.stdout)?;
    ensure!(out.status.code() == Some(64), "{shown}");
    for part in [
        "broken: not compared: ",
        "digest: 100 rows compared, 0 differ",
        "not compared: column `p`",
        "two: 100 rows compared, 0 differ",
        "words: 100 rows compared, 0 differ",
    ] {
        ensure!(shown.contains(part), "no `{part}` in: {shown}");
    }
    Ok(())
}
