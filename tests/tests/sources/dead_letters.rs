//! `anabranch dead-letters`: listing, showing and retrying, with a daemon and without one; a retry
//! adds nothing twice, also where it died or its log of retries is gone; and `/ready` is red while
//! most of a topic's input becomes dead letters.

use std::path::Path;

use anabranch_tests::daemon::{Daemon, run};
use anabranch_tests::places;
use anabranch_tests::process::{Process, Setup, run_well, write_project};
use serde_json::Value;

/// Records of which the first two are facts, the others dead letters.
const RECORDS: &str = r#"{"ts":"2026-01-01T00:00:00Z","id":1,"word":"a"}
{"ts":"2026-01-01T00:00:00Z","id":2,"word":"b"}
{"ts":"1.1.2026","id":3,"word":"c"}
{"ts":"2026-01-01T00:00:00Z","id":"four","word":"d"}
no json
{"ts":"1.1.2026","id":6}
"#;

/// Corrects the time.
const FIX: &str = "SELECT replace(raw, '1.1.2026', '2026-01-01T00:00:00Z') FROM dead_letters";

async fn with_dead_letters(dir: &Path) -> anyhow::Result<()> {
    write_project(dir, Setup::default())?;
    std::fs::write(dir.join("records.ndjson"), RECORDS)?;
    let file = dir.join("records.ndjson").display().to_string();
    run_well(dir, &["ingest", "--allow-dead-letters", "facts", &file]).await?;
    Ok(())
}

async fn answer(dir: &Path, sql: &str) -> anyhow::Result<Vec<String>> {
    let said = run_well(dir, &["--format", "csv", "sql", "-c", sql]).await?;
    Ok(said.lines().skip(1).map(str::to_owned).collect())
}

/// The ids in the topic.
async fn ids(dir: &Path) -> anyhow::Result<String> {
    Ok(answer(dir, "SELECT id FROM facts ORDER BY id")
        .await?
        .join(","))
}

/// Retries, which ends with this exit code.
fn retry(dir: &Path, code: i32, more: &[&str]) -> anyhow::Result<Value> {
    let arguments = ["--format", "json", "dead-letters", "retry", "facts"];
    let ran = run(dir, &[&arguments[..], more].concat())?;
    anyhow::ensure!(
        ran.code == Some(code),
        "{:?}: {}{}",
        ran.code,
        ran.said,
        ran.complained
    );
    Ok(serde_json::from_str(&ran.said)?)
}

fn counts(report: &Value) -> [u64; 5] {
    ["chosen", "facts", "repeated", "skipped", "failed"].map(|n| report[n].as_u64().unwrap_or(99))
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_and_shown() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let dir = dir.path();
    with_dead_letters(dir).await?;
    let list = run_well(
        dir,
        &["--format", "csv", "dead-letters", "list", "--limit", "3"],
    )
    .await?;
    let list: Vec<&str> = list.lines().collect();
    let columns = "topic,place,received_at,reason,field,retried_at";
    anyhow::ensure!(list[0] == columns, "{list:?}");
    anyhow::ensure!(
        list.len() == 4 && list[1].starts_with("facts,0:5,"),
        "{list:?}"
    );
    let strange = run(dir, &["dead-letters", "list", "--topic", "fact"])?;
    anyhow::ensure!(strange.code == Some(66), "{strange:?}");
    let shown = run_well(dir, &["dead-letters", "show", "facts", "0:3"]).await?;
    let raw = RECORDS.lines().nth(3).unwrap_or_default();
    anyhow::ensure!(
        shown.contains(raw) && shown.contains("field") && !shown.contains("outcome"),
        "{shown}"
    );
    let arguments = ["--format", "json", "dead-letters", "show", "facts", "0:4"];
    let shown: Value = serde_json::from_str(&run_well(dir, &arguments).await?)?;
    anyhow::ensure!(
        shown["raw"] == "no json" && shown["raw_hex"] == "6e6f206a736f6e" && shown["line"] == "5",
        "{shown}"
    );
    let none = run(dir, &["dead-letters", "show", "facts", "0:1"])?;
    anyhow::ensure!(
        none.code == Some(66) && none.complained.contains("list"),
        "{none:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_that_are_corrected_become_facts_once() -> anyhow::Result<()> {
    for with_daemon in [true, false] {
        let dir = places::folder()?;
        let dir = dir.path();
        with_dead_letters(dir).await?;
        let daemon = match with_daemon {
            true => Some(Daemon::start(dir).await?),
            false => None,
        };
        // Nothing is corrected: nothing becomes a fact, and all stay as they were.
        let report = retry(dir, 2, &[])?;
        anyhow::ensure!(counts(&report) == [4, 0, 0, 0, 4], "{report}");
        anyhow::ensure!(report["reasons"][2][0] == "0:4", "{report}");
        let dry = retry(dir, 2, &["--fix", FIX, "--dry-run"])?;
        anyhow::ensure!(counts(&dry) == [4, 2, 0, 0, 2], "{dry}");
        anyhow::ensure!(ids(dir).await? == "1,2");
        let times = ["--fix", FIX, "--where", "field = 'ts'"];
        let report = retry(dir, 0, &times)?;
        anyhow::ensure!(counts(&report) == [2, 2, 0, 0, 0], "{report}");
        anyhow::ensure!(ids(dir).await? == "1,2,3,6");
        // They say so, and where they are now.
        let retried = "SELECT _offset FROM dead_letters WHERE retried_at IS NOT NULL ORDER BY 1";
        anyhow::ensure!(answer(dir, retried).await? == ["2", "5"]);
        let places = "SELECT f.id, r._offset, r.outcome FROM dead_letter_retries r JOIN facts f ON f._partition = r._new_partition AND f._offset = r._new_offset ORDER BY 1";
        anyhow::ensure!(answer(dir, places).await? == ["3,2,fact", "6,5,fact"]);
        let shown = run_well(dir, &["dead-letters", "show", "facts", "0:2"]).await?;
        anyhow::ensure!(
            shown.contains("outcome") && shown.contains("retried_at"),
            "{shown}"
        );
        // Once more they are not chosen, and named they are known.
        anyhow::ensure!(counts(&retry(dir, 0, &times)?) == [0; 5]);
        let again = retry(dir, 0, &["0:2", "0:5", "--fix", FIX])?;
        anyhow::ensure!(counts(&again) == [2, 0, 2, 0, 0], "{again}");
        // Also where nothing is known of the retries but what the log itself holds.
        std::fs::remove_dir_all(dir.join("data/dead_letter_retries"))?;
        anyhow::ensure!(answer(dir, retried).await?.is_empty());
        let again = retry(dir, 0, &times)?;
        anyhow::ensure!(counts(&again) == [2, 0, 2, 0, 0], "{again}");
        anyhow::ensure!(ids(dir).await? == "1,2,3,6");
        anyhow::ensure!(answer(dir, retried).await? == ["2", "5"]);
        if let Some(daemon) = daemon {
            daemon.stop().await?;
        }
        anyhow::ensure!(ids(dir).await? == "1,2,3,6");
        run_well(dir, &["verify"]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fix_gives_json_or_fields_or_nothing() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let dir = dir.path();
    with_dead_letters(dir).await?;
    for (wrong, says) in [
        ("SELECT nope FROM dead_letters", "the fix can't be run"),
        ("SELECT raw FROM elsewhere", "the fix can't be run"),
        ("DROP TABLE dead_letters", "the fix can't be run"),
        (
            "SELECT raw FROM dead_letters UNION ALL SELECT raw FROM dead_letters",
            "gives 2 rows for one dead letter",
        ),
    ] {
        let ran = run(dir, &["dead-letters", "retry", "facts", "--fix", wrong])?;
        anyhow::ensure!(
            ran.code == Some(64) && ran.complained.contains(says),
            "{wrong}: {ran:?}"
        );
    }
    // What is corrected depends on each alone: on its place, its fault, its text.
    let json = "SELECT CASE WHEN raw LIKE '{%' THEN concat('{\"ts\":\"2026-01-01T00:00:00Z\",\n\"id\":', _offset, '}') END FROM dead_letters WHERE field = 'ts' OR field IS NULL";
    let report = retry(dir, 0, &["--fix", json])?;
    anyhow::ensure!(counts(&report) == [4, 2, 0, 2, 0], "{report}");
    let fields = "SELECT TIMESTAMP '2026-01-01T00:00:00Z' AS ts, CAST(4 AS BIGINT) AS id, 'four' AS word, 7 AS odd FROM dead_letters";
    let report = retry(dir, 0, &["0:3", "--fix", fields])?;
    anyhow::ensure!(counts(&report) == [1, 1, 0, 0, 0], "{report}");
    let rows = answer(
        dir,
        "SELECT id, word, _extra FROM facts WHERE id <> 1 ORDER BY id, word DESC",
    )
    .await?;
    anyhow::ensure!(rows.len() == 4 && rows[3].starts_with("5,"), "{rows:?}");
    anyhow::ensure!(
        rows[2].starts_with("4,four,") && rows[2].contains("odd"),
        "{rows:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_died_is_made_good_and_adds_nothing_twice() -> anyhow::Result<()> {
    let arguments = ["dead-letters", "retry", "facts", "--fix", FIX];
    for (with_daemon, point, nth) in [
        (true, "retry-before-note", 1),
        (false, "retry-before-note", 1),
        (false, "land-before-commit", 1),
        (false, "land-after-commit", 1),
    ] {
        let dir = places::folder()?;
        let dir = dir.path();
        with_dead_letters(dir).await?;
        let daemon = match with_daemon {
            true => Some(Daemon::start(dir).await?),
            false => None,
        };
        let mut process = Process::start_to_stop(dir, &arguments, point, nth)?;
        process.stopped().await?;
        process.kill()?;
        let report = retry(dir, 2, &arguments[3..])?;
        let was_there = point != "land-before-commit";
        let expected = [
            4,
            if was_there { 0 } else { 2 },
            if was_there { 2 } else { 0 },
            0,
            2,
        ];
        anyhow::ensure!(counts(&report) == expected, "{point}: {report}");
        anyhow::ensure!(ids(dir).await? == "1,2,3,6", "{point}");
        drop(daemon);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_is_red_while_most_of_the_input_is_dead_letters() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let project = std::fs::read_to_string(dir.path().join("anabranch.toml"))?;
    let bounded = project.replace("ack =", "dead_letter_count = 10\nack =");
    std::fs::write(dir.path().join("anabranch.toml"), bounded)?;
    let daemon = Daemon::start(dir.path()).await?;
    let dead = "no json\n".repeat(9);
    daemon.post("facts", &[], dead.as_bytes()).await?;
    anyhow::ensure!(
        daemon.get("/ready").await?.0 == 200,
        "nine are too few to tell"
    );
    daemon.post("facts", &[], b"no json").await?;
    let (status, said) = daemon.get("/ready").await?;
    anyhow::ensure!(
        status == 503 && said.contains("10 of 10 records"),
        "{status} {said}"
    );
    let ready: Value = serde_json::from_str(&said)?;
    anyhow::ensure!(
        ready["ready"] == false && ready["topics_red"]["facts"].is_string(),
        "{said}"
    );
    anyhow::ensure!(daemon.get("/health").await?.0 == 200);
    // Answers and intake go on, and status says what is wrong.
    let shown = run_well(dir.path(), &["status"]).await?;
    anyhow::ensure!(shown.contains("dead_letter_share"), "{shown}");
    let metrics = daemon.get("/metrics").await?.1;
    let line = "anabranch_dead_letters_total{topic=\"facts\"} 10";
    anyhow::ensure!(metrics.lines().any(|l| l == line), "{metrics}");
    let facts: String = (0..10).map(anabranch_tests::ledger::line).collect();
    daemon.post("facts", &[], facts.as_bytes()).await?;
    let (status, said) = daemon.get("/ready").await?;
    anyhow::ensure!(status == 200, "{said}");
    daemon.stop().await?;
    let off = project.replace(
        "ack =",
        "dead_letter_count = 1\ndead_letter_share = \"off\"\nack =",
    );
    std::fs::write(dir.path().join("anabranch.toml"), off)?;
    let daemon = Daemon::start(dir.path()).await?;
    daemon.post("facts", &[], dead.as_bytes()).await?;
    anyhow::ensure!(daemon.get("/ready").await?.0 == 200);
    Ok(())
}
