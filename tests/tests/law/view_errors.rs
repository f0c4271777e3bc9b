//! A valid fact that breaks a view's expression stops that view alone: other views and topics, acknowledging and
//! landing go on; every command says which fact and which expression; the view answers again once its SQL is mended.

use std::path::Path;
use std::time::{Duration, Instant};

use anabranch_shared::ReadMode;
use anabranch_tests::daemon::{Daemon, run};
use anabranch_tests::places;

/// A view whose computation panics, as a defect of the engine may do, ends that view alone: what is landed with it
/// lands, and the others answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_panics_stops_nothing_else() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let views = "[views.good]\nsql = \"good.sql\"\n[views.bad]\nsql = \"bad.sql\"\n";
    std::fs::write(
        dir.path().join("anabranch.toml"),
        format!("{PROJECT}{views}"),
    )?;
    for name in ["good", "bad"] {
        let sql = "SELECT count(*) AS facts, sum(id) AS ids FROM facts";
        std::fs::write(dir.path().join(format!("{name}.sql")), sql)?;
    }
    let panics = "fold-of-bad=panic(a planted panic)";
    let mut daemon = Daemon::start_with(dir.path(), &["speed"], panics).await?;
    let fact = |id| format!("{{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":{id}}}");
    for id in 1..=3 {
        let (status, answer) = daemon.post("facts", &[], fact(id).as_bytes()).await?;
        anyhow::ensure!(status == 200, "{answer}");
        daemon.landed("facts", id).await?;
    }
    let found = daemon.rows("SELECT facts, ids FROM good").await?;
    anyhow::ensure!(found == [["3", "6"]], "{found:?}");
    let failing = daemon.client.views_that_fail().await?;
    let why = failing.get("bad").map(String::as_str).unwrap_or_default();
    anyhow::ensure!(
        failing.len() == 1 && why.contains("a planted panic"),
        "{failing:?}"
    );
    let refused = daemon.rows("SELECT facts FROM bad").await;
    anyhow::ensure!(refused.is_err_and(|e| e.to_string().contains("a planted panic")));
    let ran = run(dir.path(), &["status"])?;
    anyhow::ensure!(ran.said.contains("a planted panic"), "{ran:?}");
    anyhow::ensure!(daemon.runs()?, "the daemon ended");
    daemon.stop().await
}

/// What the daemon follows by itself has followed after this.
const WAIT: Duration = Duration::from_secs(30);

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
id = "bigint not null"
word = "varchar"
[topics.others]
event_time = "ts"
[topics.others.fields]
ts = "timestamp not null"
id = "bigint not null"
"#;

/// A view that a fact with the id 7 breaks, the expression that is at fault, and its mended SQL.
const CASES: [(&str, &str, &str, &str); 6] = [
    (
        "divided",
        "SELECT count(*) AS facts, sum(100 / (id - 7)) AS sum FROM facts",
        "100 / (id - 7)",
        "SELECT count(*) AS facts, sum(100 / nullif(id - 7, 0)) AS sum FROM facts",
    ),
    (
        "grouped",
        "SELECT 100 % (id - 7) AS rest, count(*) AS facts FROM facts GROUP BY 1",
        "100 % (id - 7)",
        "SELECT 100 % nullif(id - 7, 0) AS rest, count(*) AS facts FROM facts GROUP BY 1",
    ),
    (
        "filtered",
        "SELECT count(*) AS facts FROM facts WHERE 1 / (id - 7) < 5",
        "1 / (id - 7)",
        "SELECT count(*) AS facts FROM facts WHERE 1 / nullif(id - 7, 0) < 5",
    ),
    (
        "read",
        "SELECT sum(CAST(word AS BIGINT)) AS sum, count(*) AS facts FROM facts",
        "CAST(word AS",
        "SELECT sum(TRY_CAST(word AS BIGINT)) AS sum, count(*) AS facts FROM facts",
    ),
    (
        "narrowed",
        "SELECT max(CAST(id * id * 700 AS SMALLINT)) AS most, count(*) AS facts FROM facts WHERE id < 8",
        "CAST(",
        "SELECT max(TRY_CAST(id * id * 700 AS SMALLINT)) AS most, count(*) AS facts FROM facts",
    ),
    (
        "rows",
        "SELECT id, 12 / (id - 7) AS quotient FROM facts",
        "12 / (id - 7)",
        "SELECT id, 12 / nullif(id - 7, 0) AS quotient FROM facts",
    ),
];

const GOOD: &str = "SELECT count(*) AS facts, sum(id) AS ids FROM facts";

fn write_project(dir: &Path) -> anyhow::Result<()> {
    let mut settings = PROJECT.to_owned();
    let views = CASES.map(|(name, sql, ..)| (name, sql));
    let others = [
        ("good", GOOD),
        ("elsewhere", "SELECT count(*) AS facts FROM others"),
    ];
    for (name, sql) in views.into_iter().chain(others) {
        settings += &format!("[views.{name}]\nsql = \"{name}.sql\"\n");
        std::fs::write(dir.join(format!("{name}.sql")), sql)?;
    }
    std::fs::write(dir.join("anabranch.toml"), settings)?;
    Ok(())
}

fn lines(ids: impl Iterator<Item = i64>) -> String {
    ids.map(|id| {
        let word = if id == 7 {
            "x7".to_owned()
        } else {
            id.to_string()
        };
        format!("{{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":{id},\"word\":\"{word}\"}}\n")
    })
    .collect()
}

/// What every message about a failing view says: which view, which fact, which expression, and what to do.
fn check_message(message: &str, view: &str, offset: i64, expression: &str) -> anyhow::Result<()> {
    let place = format!("partition 0, offsets [{offset}, {})", offset + 1);
    let rebuild = "anabranch apply".to_owned();
    for part in [&format!("`{view}`"), &place, expression, &rebuild] {
        anyhow::ensure!(message.contains(part), "{view}: no `{part}` in: {message}");
    }
    Ok(())
}

/// The error of a query that must fail.
async fn query_error(daemon: &Daemon, sql: &str) -> anyhow::Result<String> {
    match daemon.client.query(sql, ReadMode::Merged).await {
        Ok(answer) => anyhow::bail!("{sql}: {} batches", answer.batches.len()),
        Err(e) => Ok(e.to_string()),
    }
}

async fn post(daemon: &Daemon, topic: &str, body: &str) -> anyhow::Result<()> {
    let (status, answer) = daemon.post(topic, &[], body.as_bytes()).await?;
    anyhow::ensure!(
        status == 200 && answer["dead_letters"] == 0,
        "{status} {answer}"
    );
    Ok(())
}

/// What must go on beside the views that fail.
async fn check_others(daemon: &Daemon, facts: i64, ids: i64) -> anyhow::Result<()> {
    let good = daemon.rows("SELECT facts, ids FROM good").await?;
    anyhow::ensure!(good == [[facts.to_string(), ids.to_string()]], "{good:?}");
    let raw = daemon.rows("SELECT count(*) FROM facts").await?;
    anyhow::ensure!(raw == [[facts.to_string()]], "{raw:?}");
    Ok(())
}

/// How many rows of a view the master view alone gives, once the daemon has followed it.
async fn absorbed(daemon: &Daemon, view: &str) -> anyhow::Result<usize> {
    let sql = format!("SELECT * FROM {view}");
    let answer = daemon.client.query(&sql, ReadMode::Batch).await?;
    Ok(answer.batches.iter().map(|b| b.num_rows()).sum())
}

async fn check_failing(dir: &Path, daemon: &Daemon, offset: i64) -> anyhow::Result<()> {
    let status = run(dir, &["--format", "json", "status"])?;
    anyhow::ensure!(status.code == Some(0), "{status:?}");
    let status: serde_json::Value = serde_json::from_str(&status.said)?;
    let notes: Vec<&str> = status["notes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|n| n.as_str())
        .collect();
    for (view, _, expression, _) in CASES {
        let error = query_error(daemon, &format!("SELECT * FROM {view}")).await?;
        check_message(&error, view, offset, expression)?;
        let note = notes.iter().find(|n| n.contains(&format!("`{view}`")));
        check_message(
            note.unwrap_or(&"status says nothing"),
            view,
            offset,
            expression,
        )?;
        // What is absorbed does not hold the fact, so it can still be read.
        let begun = Instant::now();
        while absorbed(daemon, view).await? == 0 {
            anyhow::ensure!(
                begun.elapsed() < WAIT,
                "{view}: nothing of the master view is answered"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fact_that_breaks_a_view_stops_that_view_alone() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path())?;
    let daemon = Daemon::start(dir.path()).await?;
    post(&daemon, "facts", &lines(0..5)).await?;
    daemon.landed("facts", 5).await?;
    let refreshed = run(dir.path(), &["batch", "refresh"])?;
    anyhow::ensure!(refreshed.code == Some(0), "{refreshed:?}");
    // The fact with the id 7 is at offset 7, among others of its request.
    post(&daemon, "facts", &lines(5..10)).await?;
    let wide = "{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":1,\"word\":\"1\"}\n";
    post(&daemon, "facts", wide).await?;
    post(&daemon, "others", &lines(0..3)).await?;
    check_others(&daemon, 11, 46).await?;
    for (view, ..) in CASES {
        query_error(&daemon, &format!("SELECT * FROM {view}")).await?;
    }
    daemon.landed("facts", 11).await?;
    // Landing and acknowledging go on, and so does what comes after.
    post(&daemon, "facts", wide).await?;
    daemon.landed("facts", 12).await?;
    check_others(&daemon, 12, 47).await?;
    let elsewhere = daemon.rows("SELECT facts FROM elsewhere").await?;
    anyhow::ensure!(elsewhere == [["3"]], "{elsewhere:?}");
    check_failing(dir.path(), &daemon, 7).await?;
    // Neither a refresh nor a rebuild gets past the fact; both say so and change nothing.
    for (view, _, expression, _) in CASES {
        for command in ["refresh", "rebuild"] {
            let ran = run(dir.path(), &["batch", command, view])?;
            anyhow::ensure!(ran.code == Some(64), "{command} {view}: {ran:?}");
            check_message(&ran.complained, view, 7, expression)?;
        }
    }
    check_failing(dir.path(), &daemon, 7).await?;
    let all = run(dir.path(), &["batch", "refresh"])?;
    anyhow::ensure!(all.code == Some(64), "{all:?}");
    let good = run(
        dir.path(),
        &["--format", "json", "batch", "refresh", "good"],
    )?;
    anyhow::ensure!(good.code == Some(0), "{good:?}");
    check_others(&daemon, 12, 47).await?;
    // A restart finds the same.
    daemon.stop().await?;
    let daemon = Daemon::start(dir.path()).await?;
    check_failing(dir.path(), &daemon, 7).await?;
    check_others(&daemon, 12, 47).await?;
    mend(dir.path(), &daemon).await
}

/// The views answer again once their SQL is mended and they are rebuilt.
async fn mend(dir: &Path, daemon: &Daemon) -> anyhow::Result<()> {
    for (view, _, _, mended) in CASES {
        std::fs::write(dir.join(format!("{view}.sql")), mended)?;
        let ran = run(dir, &["apply", "--yes", "--view", view])?;
        anyhow::ensure!(ran.code == Some(0), "{view}: {ran:?}");
    }
    daemon.serves_all().await?;
    post(daemon, "facts", &lines(7..8)).await?;
    for (view, ..) in CASES
        .iter()
        .filter(|c| !["rows", "grouped", "filtered"].contains(&c.0))
    {
        let facts = daemon.rows(&format!("SELECT facts FROM {view}")).await?;
        anyhow::ensure!(facts == [["13"]], "{view}: {facts:?}");
    }
    let rows = daemon
        .rows("SELECT count(*) FROM rows WHERE quotient IS NULL")
        .await?;
    anyhow::ensure!(rows == [["2"]], "{rows:?}");
    let groups = daemon.rows("SELECT sum(facts) FROM grouped").await?;
    anyhow::ensure!(groups == [["13"]], "{groups:?}");
    let verified = run(dir, &["verify"])?;
    anyhow::ensure!(verified.code == Some(0), "{verified:?}");
    let status = run(dir, &["--format", "json", "status"])?;
    anyhow::ensure!(status.said.contains("\"notes\":[]"), "{status:?}");
    Ok(())
}
