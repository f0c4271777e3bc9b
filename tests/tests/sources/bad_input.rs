//! Bad input through the real daemon and through `anabranch ingest`: each bad record is a dead letter with its reason,
//! line, field and bytes, the rest lands, and nothing is lost or counted twice.

mod records;
mod requests;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anabranch_tests::daemon::{Daemon, run};
use anabranch_tests::places;
use serde_json::Value;

use records::{Bad, bad_records, mixed};

const PROJECT: &str = r#"
[storage]
url = "file://./data"
[daemon]
http = "127.0.0.1:0"
land_every = "100ms"
max_record_bytes = "1MB"
max_request_bytes = "8MB"
[topics.facts]
event_time = "ts"
[topics.facts.fields]
ts = "timestamp not null"
id = "bigint not null"
word = "varchar"
score = "double"
tags = "varchar[]"
[topics.ignoring]
event_time = "ts"
unknown_fields = "ignore"
[topics.ignoring.fields]
ts = "timestamp not null"
id = "bigint not null"
[topics.rejecting]
event_time = "ts"
unknown_fields = "reject"
[topics.rejecting.fields]
ts = "timestamp not null"
id = "bigint not null"
[views.words]
sql = "words.sql"
"#;

const VIEW: &str = "SELECT word, count(*) AS facts, sum(id) AS ids FROM facts GROUP BY word";

pub(crate) fn write_project(dir: &Path) -> anyhow::Result<()> {
    std::fs::write(dir.join("anabranch.toml"), PROJECT)?;
    std::fs::write(dir.join("words.sql"), VIEW)?;
    Ok(())
}

pub(crate) fn good(id: usize) -> String {
    format!("{{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":{id},\"word\":\"w\"}}")
}

const DEAD: &str = "SELECT _offset, line, field, reason, raw_bytes, source FROM dead_letters WHERE topic = 'facts' ORDER BY _partition, _offset";

/// What the table of dead letters must hold: each bad record once, at its offset.
fn check_dead(
    rows: &[Vec<String>],
    bad: &[Bad],
    places: &[(usize, usize)],
    first: usize,
    source: &str,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        rows.len() == bad.len(),
        "{} dead letters, {} bad records",
        rows.len(),
        bad.len()
    );
    for ((row, bad), (line, record)) in rows.iter().zip(bad).zip(places) {
        let shown = String::from_utf8_lossy(&bad.raw[..bad.raw.len().min(80)]).into_owned();
        let raw = hex::encode(
            &bad.raw[..bad.raw.len().min(if bad.raw.len() > 1_000_000 {
                65_536
            } else {
                usize::MAX
            })],
        );
        anyhow::ensure!(
            row[0] == (first + record).to_string() && row[1] == line.to_string(),
            "{shown}: offset {} and line {}, expected {} and {line}",
            row[0],
            row[1],
            first + record
        );
        anyhow::ensure!(
            bad.field.is_none_or(|f| row[2] == f) && row[3].contains(bad.reason),
            "{shown}: field {}, reason {}",
            row[2],
            row[3]
        );
        anyhow::ensure!(
            row[4] == raw,
            "{shown}: its bytes are kept as {}",
            &row[4][..row[4].len().min(200)]
        );
        anyhow::ensure!(row[5] == source, "{shown}: source {}", row[5]);
    }
    Ok(())
}

fn numbers(rows: &[Vec<String>]) -> anyhow::Result<Vec<(usize, usize)>> {
    rows.iter()
        .map(|r| Ok((r[0].parse()?, r[1].parse()?)))
        .collect()
}

/// Every fact is at the offset of its record, once.
fn check_facts(
    rows: &[Vec<String>],
    places: &[(usize, usize)],
    records: usize,
) -> anyhow::Result<()> {
    let bad: Vec<usize> = places.iter().map(|(_, record)| *record).collect();
    let expected: Vec<(usize, usize)> = (0..records)
        .filter(|r| !bad.contains(r))
        .map(|r| (r, r))
        .collect();
    let found = numbers(rows)?;
    anyhow::ensure!(
        found == expected,
        "facts at {found:?}, expected {expected:?}"
    );
    Ok(())
}

const FACTS: &str = "SELECT _offset, id FROM facts ORDER BY _partition, _offset";

#[tokio::test(flavor = "multi_thread")]
async fn bad_lines_through_the_daemon() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path())?;
    let daemon = Daemon::start(dir.path()).await?;
    let bad = bad_records();
    let (body, places, records) = mixed(&bad);
    let (status, answer) = daemon
        .post("facts", &[("anabranch-source", "here")], &body)
        .await?;
    anyhow::ensure!(status == 200, "{status}: {answer}");
    let counted = (answer["facts"].as_u64(), answer["dead_letters"].as_u64());
    let expected = ((records - bad.len()) as u64, bad.len() as u64);
    anyhow::ensure!(
        counted == (Some(expected.0), Some(expected.1)),
        "{counted:?}, expected {expected:?}"
    );
    anyhow::ensure!(
        answer["offsets"] == serde_json::json!([0, records]),
        "{}",
        answer["offsets"]
    );
    let dead = answer["dead"].as_array().cloned().unwrap_or_default();
    for ((dead, bad), (line, record)) in dead.iter().zip(&bad).zip(&places) {
        let reason = dead["reason"].as_str().unwrap_or_default();
        anyhow::ensure!(
            dead["line"] == *line && dead["record"] == *record && reason.contains(bad.reason),
            "line {line}: {dead}"
        );
    }
    // Before it lands, after it has landed, and after a restart.
    check_dead(&daemon.rows(DEAD).await?, &bad, &places, 0, "here")?;
    daemon.landed("facts", i64::try_from(records)?).await?;
    check_dead(&daemon.rows(DEAD).await?, &bad, &places, 0, "here")?;
    daemon.stop().await?;
    let daemon = Daemon::start(dir.path()).await?;
    check_dead(&daemon.rows(DEAD).await?, &bad, &places, 0, "here")?;
    check_facts(&daemon.rows(FACTS).await?, &places, records)?;
    let words = daemon.rows("SELECT word, facts FROM words").await?;
    anyhow::ensure!(
        words == [["w".to_owned(), expected.0.to_string()]],
        "{words:?}"
    );
    daemon.stop().await?;
    // And without a daemon.
    let alone = run(
        dir.path(),
        &[
            "--format",
            "csv",
            "sql",
            "-c",
            "SELECT count(*) AS n FROM dead_letters",
        ],
    )?;
    anyhow::ensure!(alone.said == format!("n\n{}\n", bad.len()), "{alone:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_lines_of_a_file() -> anyhow::Result<()> {
    let bad = bad_records();
    let (body, places, records) = mixed(&bad);
    for with_daemon in [false, true] {
        let dir = places::folder()?;
        write_project(dir.path())?;
        let daemon = match with_daemon {
            true => Some(Daemon::start(dir.path()).await?),
            false => None,
        };
        let file = dir.path().join("facts.ndjson");
        std::fs::write(&file, &body)?;
        let file = file.display().to_string();
        let ran = run(dir.path(), &["--format", "json", "ingest", "facts", &file])?;
        anyhow::ensure!(ran.code == Some(2), "{ran:?}");
        let report: Value = serde_json::from_str(&ran.said)?;
        anyhow::ensure!(
            report["facts"] == records - bad.len() && report["dead_letters"] == bad.len(),
            "{report}"
        );
        let again = run(dir.path(), &["--format", "json", "ingest", "facts", &file])?;
        let again: Value = serde_json::from_str(&again.said)?;
        anyhow::ensure!(again["facts"] == 0 && again["dead_letters"] == 0, "{again}");
        drop(daemon);
        // Killed, and started again: the dead letters of a file survive as facts do.
        let daemon = Daemon::start(dir.path()).await?;
        check_dead(&daemon.rows(DEAD).await?, &bad, &places, 0, &file)?;
        check_facts(&daemon.rows(FACTS).await?, &places, records)?;
        daemon.stop().await?;
    }
    Ok(())
}

fn gzip(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut child = Command::new("gzip")
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let Some(mut input) = child.stdin.take() else {
        anyhow::bail!("gzip has no standard input");
    };
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes));
    let out = child.wait_with_output()?;
    let Ok(written) = writer.join() else {
        anyhow::bail!("the thread that feeds gzip panicked");
    };
    written?;
    Ok(out.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_ends_early_says_how_to_go_on() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path())?;
    let daemon = Daemon::start(dir.path()).await?;
    // Two chunks of the reader, so that something is written before the end that is missing.
    let lines: String = (0..80_000).map(|id| good(id) + "\n").collect();
    let packed = gzip(lines.as_bytes())?;
    let file = dir.path().join("facts.ndjson.gz");
    std::fs::write(&file, &packed[..packed.len() - 20])?;
    let path = file.display().to_string();
    let ran = run(dir.path(), &["ingest", "facts", &path])?;
    anyhow::ensure!(
        ran.code == Some(64) && ran.complained.contains("records are written; mend it"),
        "{ran:?}"
    );
    let id = ran
        .complained
        .split("`--id ")
        .nth(1)
        .and_then(|rest| rest.split('`').next());
    let Some(id) = id else {
        anyhow::bail!("no id in {}", ran.complained);
    };
    std::fs::write(&file, &packed)?;
    let ran = run(dir.path(), &["ingest", "facts", &path, "--id", id])?;
    anyhow::ensure!(ran.code == Some(0), "{ran:?}");
    let found = daemon
        .rows("SELECT count(*), count(DISTINCT id) FROM facts")
        .await?;
    anyhow::ensure!(found == [["80000", "80000"]], "{found:?}");
    daemon.stop().await?;
    // Without a daemon a small file is written whole or not at all.
    std::fs::write(&file, &gzip(good(1).as_bytes())?[..30])?;
    let ran = run(dir.path(), &["ingest", "facts", &path])?;
    anyhow::ensure!(
        ran.code == Some(64) && ran.complained.contains("nothing of it was written"),
        "{ran:?}"
    );
    Ok(())
}

/// A line of 50 MB is a dead letter under the bound that a project starts with, and a fact under a raised one.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_50_megabytes() -> anyhow::Result<()> {
    let line = format!(
        "{{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":7,\"word\":\"{}\"}}",
        "x".repeat(50_000_000)
    );
    let body = format!("{}\n{line}\n{}\n", good(0), good(2));
    for (bound, becomes) in [("", "dead"), ("max_record_bytes = \"60MB\"\n", "fact")] {
        let dir = places::folder()?;
        let settings = PROJECT.replace("max_record_bytes = \"1MB\"\n", bound);
        std::fs::write(
            dir.path().join("anabranch.toml"),
            settings.replace("max_request_bytes = \"8MB\"\n", ""),
        )?;
        std::fs::write(dir.path().join("words.sql"), VIEW)?;
        let daemon = Daemon::start(dir.path()).await?;
        let (status, answer) = daemon.post("facts", &[], body.as_bytes()).await?;
        let dead = i32::from(becomes == "dead");
        anyhow::ensure!(
            status == 200 && answer["facts"] == 3 - dead && answer["dead_letters"] == dead,
            "{becomes}: {status} {answer}"
        );
        let file = dir.path().join("long.ndjson");
        std::fs::write(&file, format!("{body}{}\n", good(3)))?;
        let ran = run(
            dir.path(),
            &[
                "ingest",
                "facts",
                &file.display().to_string(),
                "--allow-dead-letters",
            ],
        )?;
        anyhow::ensure!(ran.code == Some(0), "{ran:?}");
        daemon.landed("facts", 7).await?;
        let found = daemon
            .rows("SELECT id, count(*), max(length(word)) FROM facts GROUP BY id ORDER BY id")
            .await?;
        let dead = daemon
            .rows("SELECT _offset, line, octet_length(raw), reason FROM dead_letters ORDER BY _offset")
            .await?;
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let mut expected = vec![
            row(["0", "2", "1"]),
            row(["2", "2", "1"]),
            row(["3", "1", "1"]),
        ];
        match becomes {
            "fact" => {
                expected.push(row(["7", "2", "50000000"]));
                anyhow::ensure!(dead.is_empty(), "{dead:?}");
            }
            _ => {
                let said = |d: &Vec<String>| {
                    d[1] == "2" && d[2] == "65536" && d[3].contains("limit of 16000000 bytes")
                };
                anyhow::ensure!(dead.len() == 2 && dead.iter().all(said), "{dead:?}");
                anyhow::ensure!(dead[0][0] == "1" && dead[1][0] == "4", "{dead:?}");
            }
        }
        anyhow::ensure!(found == expected, "{becomes}: {found:?}");
        daemon.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn undeclared_fields_are_kept_ignored_or_rejected() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path())?;
    let daemon = Daemon::start(dir.path()).await?;
    let odd = "{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":1,\"odd\":{\"a\":[1.50,\"é\"]}}";
    let plain = "{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":2}";
    let body = format!("{odd}\n{plain}\n");
    let csv = dir.path().join("facts.csv");
    std::fs::write(
        &csv,
        "ts,id,odd\n2026-01-01T00:00:00Z,3,x\n2026-01-01T00:00:00Z,4,\n",
    )?;
    let csv = csv.display().to_string();
    for (topic, facts, unknown, extra) in [
        (
            "facts",
            2,
            1,
            vec![
                "{\"odd\":{\"a\":[1.50,\"é\"]}}",
                "NULL",
                "{\"odd\":\"x\"}",
                "NULL",
            ],
        ),
        ("ignoring", 2, 1, vec!["NULL"; 4]),
        ("rejecting", 1, 0, vec!["NULL"]),
    ] {
        let (status, answer) = daemon.post(topic, &[], body.as_bytes()).await?;
        anyhow::ensure!(
            status == 200
                && answer["facts"] == facts
                && answer["dead_letters"] == 2 - facts
                && answer["unknown_fields"] == unknown,
            "{topic}: {status} {answer}"
        );
        let ran = run(dir.path(), &["ingest", topic, &csv])?;
        anyhow::ensure!(
            ran.code == Some(if topic == "rejecting" { 2 } else { 0 }),
            "{ran:?}"
        );
        let found = daemon
            .rows(&format!("SELECT _extra FROM {topic} ORDER BY id"))
            .await?;
        anyhow::ensure!(found.concat() == extra, "{topic}: {found:?}");
    }
    let dead = daemon
        .rows("SELECT topic, line, field, reason, CAST(raw AS VARCHAR) FROM dead_letters ORDER BY _offset")
        .await?;
    let reason = "field `odd`: not declared in the topic, which rejects undeclared fields";
    let lines: Vec<&str> = dead.iter().map(|d| d[1].as_str()).collect();
    anyhow::ensure!(lines == ["1", "2", "3"], "{dead:?}");
    anyhow::ensure!(
        dead.iter()
            .all(|d| d[0] == "rejecting" && d[2] == "odd" && d[3] == reason)
            && dead[0][4] == odd,
        "{dead:?}"
    );
    daemon.stop().await
}

/// Offsets from UTC, the hour that a clock in Berlin skips and the one that it shows twice: each fact's instant is the
/// one that its text says.
#[tokio::test(flavor = "multi_thread")]
async fn times_with_offsets_are_instants() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path())?;
    let daemon = Daemon::start(dir.path()).await?;
    let times = [
        (
            "2026-03-29T01:59:59.999999+01:00",
            "2026-03-29T00:59:59.999999Z",
        ),
        ("2026-03-29T03:00:00+02:00", "2026-03-29T01:00:00Z"),
        // 02:30 does not exist in Berlin on that day; with an offset it is an instant all the same.
        ("2026-03-29T02:30:00+01:00", "2026-03-29T01:30:00Z"),
        ("2026-10-25T02:30:00+02:00", "2026-10-25T00:30:00Z"),
        ("2026-10-25T02:30:00+01:00", "2026-10-25T01:30:00Z"),
        ("2026-10-25 02:30:00", "2026-10-25T02:30:00Z"),
        ("2026-01-01T00:15:00+05:45", "2025-12-31T18:30:00Z"),
        ("2026-12-31T23:30:00-0930", "2027-01-01T09:00:00Z"),
        ("2026-07-01", "2026-07-01T00:00:00Z"),
        ("1678-01-01T00:00:00Z", "1678-01-01T00:00:00Z"),
        (
            "2261-12-31T23:59:59.999999999Z",
            "2261-12-31T23:59:59.999999Z",
        ),
    ];
    let body: String = times
        .iter()
        .enumerate()
        .map(|(id, (text, _))| format!("{{\"ts\":\"{text}\",\"id\":{id}}}\n"))
        .collect();
    let (status, answer) = daemon.post("facts", &[], body.as_bytes()).await?;
    anyhow::ensure!(status == 200 && answer["facts"] == times.len(), "{answer}");
    let csv: String = times
        .iter()
        .enumerate()
        .map(|(id, (text, _))| format!("{text},{id}\n"))
        .collect();
    let file = dir.path().join("times.csv");
    std::fs::write(&file, format!("ts,id\n{csv}"))?;
    let ran = run(
        dir.path(),
        &["ingest", "facts", &file.display().to_string()],
    )?;
    anyhow::ensure!(ran.code == Some(0), "{ran:?}");
    let found = daemon
        .rows("SELECT ts FROM facts ORDER BY id, _partition, _offset")
        .await?;
    let expected: Vec<&str> = times.iter().flat_map(|(_, utc)| [*utc; 2]).collect();
    anyhow::ensure!(found.concat() == expected, "{found:?}");
    // Both 02:30 are hours of their own in UTC, so nothing folds together.
    let hours = daemon
        .rows("SELECT date_trunc('hour', ts) AS h, count(*) FROM facts WHERE ts >= '2026-10-25T00:00:00Z' AND ts < '2026-10-25T02:00:00Z' GROUP BY 1 ORDER BY 1")
        .await?;
    anyhow::ensure!(
        hours == [["2026-10-25T00:00:00Z", "2"], ["2026-10-25T01:00:00Z", "2"]],
        "{hours:?}"
    );
    daemon.stop().await
}
