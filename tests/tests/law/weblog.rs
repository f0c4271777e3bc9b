//! Real input: the questions of the web log's `answers.json` as views, answered merged with 0 %,
//! 37 %, 99 % and 100 % of the facts absorbed, without a daemon and by a running one. The answers come from DuckDB.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anabranch_batch::{BatchOptions, refresh};
use anabranch_jobs::clock::now_ms;
use anabranch_jobs::project::context::Context;
use anabranch_jobs::reader::local_service::local_service;
use anabranch_jobs::work::build::{Build, build_view};
use anabranch_serving::SqlService;
use anabranch_shared::view::View;
use anabranch_shared::{Error, FoldProgress, Master, Offset, Offsets, PartitionId, ReadMode};
use anabranch_tests::commands::ingest_file;
use anabranch_tests::daemon::{Daemon, run};
use anabranch_tests::places;
use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use serde_json::Value;

mod story;

/// Where most tests cut the facts.
const CUTS: [usize; 2] = [37, 99];

const PROJECT: &str = r#"
[storage]
url = "file://./data"
[query]
# Other tests run in this process, whose allocator keeps what they have freed.
process_memory = "1TB"
[daemon]
http = "127.0.0.1:0"
land_every = "200ms"
[topics.facts]
event_time = "ts"
[topics.facts.fields]
event_id = "varchar not null"
action = "varchar"
apikey = "varchar"
ts = "timestamp not null"
ingest_date = "date"
tz_offset_min = "bigint"
visitor = "varchar"
method = "varchar"
url = "varchar"
url_path = "varchar"
status = "bigint"
bytes = "bigint"
referrer = "varchar"
ref_domain = "varchar"
ref_category = "varchar"
user_agent = "varchar"
"#;

/// Question, view, and the query over the view (or over the topic, where there is no view).
const QUESTIONS: [(&str, &str, &str); 14] = [
    (
        "totals",
        "SELECT count(*) AS facts, count(DISTINCT event_id) AS ids, count(DISTINCT visitor) AS visitors, count(DISTINCT url_path) AS paths, sum(bytes) AS bytes, min(ts) AS first_ts, max(ts) AS last_ts FROM facts",
        "SELECT * FROM v",
    ),
    (
        "top_paths_last_4_hours",
        "SELECT date_trunc('hour', ts) AS hour, url_path, count(*) AS views, count(DISTINCT visitor) AS visitors FROM facts GROUP BY 1, 2",
        "SELECT url_path, sum(views) AS views, combine(visitors) AS visitors FROM v WHERE hour >= TIMESTAMP '2016-12-31T08:00:00Z' AND hour < TIMESTAMP '2016-12-31T12:00:00Z' GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 10",
    ),
    (
        "views_per_day_utc",
        "SELECT CAST(date_trunc('day', ts) AS DATE) AS day, count(*) AS views, count(DISTINCT visitor) AS visitors FROM facts GROUP BY 1",
        "SELECT * FROM v WHERE day >= DATE '2016-12-01' ORDER BY 1",
    ),
    (
        "views_per_local_day",
        "SELECT CAST(to_timestamp_micros(CAST(ts AS BIGINT) + tz_offset_min * 60000000) AS DATE) AS day, count(*) AS views FROM facts WHERE ts >= TIMESTAMP '2016-12-20T00:00:00Z' GROUP BY 1",
        "SELECT * FROM v ORDER BY 1",
    ),
    (
        "referrer_categories",
        "SELECT ref_category, count(*) AS views, count(DISTINCT visitor) AS visitors FROM facts GROUP BY 1",
        "SELECT * FROM v ORDER BY 2 DESC, 1",
    ),
    (
        "top_social_landing_paths",
        "SELECT url_path, ref_domain, count(*) AS views FROM facts WHERE ref_category = 'social' GROUP BY 1, 2",
        "SELECT * FROM v ORDER BY 3 DESC, 1, 2 LIMIT 15",
    ),
    (
        "hourly_series",
        "SELECT date_trunc('hour', ts) AS hour, count(*) AS views, sum(bytes) AS bytes, avg(bytes) AS avg_bytes FROM facts GROUP BY 1",
        "SELECT * FROM v WHERE hour >= TIMESTAMP '2016-12-30T00:00:00Z' AND hour < TIMESTAMP '2016-12-31T00:00:00Z' ORDER BY 1",
    ),
    (
        "status_by_method",
        "SELECT method, status, count(*) AS views FROM facts GROUP BY 1, 2",
        "SELECT * FROM v ORDER BY 3 DESC, 1, 2 LIMIT 20",
    ),
    (
        "minute_by_path_shape",
        "SELECT date_trunc('minute', ts) AS minute, url_path, count(*) AS views FROM facts GROUP BY 1, 2",
        "SELECT count(*) AS rows, sum(views) AS views, max(views) AS busiest FROM v",
    ),
    (
        "hour_by_path_shape",
        "SELECT count(*) AS rows, sum(views) AS views, max(views) AS busiest FROM (SELECT date_trunc('hour', ts) AS hour, url_path, count(*) AS views FROM facts GROUP BY 1, 2)",
        "SELECT * FROM v",
    ),
    (
        "day_by_path_visitors_shape",
        "SELECT date_trunc('day', ts) AS day, url_path, count(DISTINCT visitor) AS visitors FROM facts GROUP BY 1, 2",
        "SELECT count(*) AS rows, sum(CAST(visitors AS BIGINT)) AS visitors, max(visitors) AS most FROM v",
    ),
    (
        "spread",
        "SELECT ref_category, avg(bytes) AS avg_bytes, stddev_samp(bytes) AS stddev_bytes, min(ts) AS first_ts, max(ts) AS last_ts, median(CAST(bytes AS DOUBLE)) AS median_bytes FROM facts GROUP BY 1",
        "SELECT * FROM v ORDER BY 1",
    ),
    (
        "sessions_30min",
        "SELECT visitor, sessions(ts, INTERVAL '30 minutes') AS visits FROM facts GROUP BY visitor",
        "SELECT count(*) AS sessions, sum(visit['facts']) AS views, max(visit['facts']) AS longest FROM (SELECT unnest(visits) AS visit FROM v)",
    ),
    (
        "late_facts",
        "",
        "SELECT count(*) FILTER (WHERE late > 60000000) AS over_1m, count(*) FILTER (WHERE late > 300000000) AS over_5m, count(*) FILTER (WHERE late > 3600000000) AS over_1h, max(late) AS worst FROM (SELECT CAST(max(ts) OVER (ORDER BY ingest_date, CAST(split_part(event_id, '#', 2) AS BIGINT) ROWS UNBOUNDED PRECEDING) AS BIGINT) - CAST(ts AS BIGINT) AS late FROM facts)",
    ),
];

fn write_project(dir: &Path) -> anyhow::Result<()> {
    let mut text = PROJECT.to_owned();
    std::fs::create_dir_all(dir.join("views"))?;
    for (name, view, _) in QUESTIONS {
        if !view.is_empty() {
            text += &format!("[views.{name}]\nsql = \"views/{name}.sql\"\n");
            std::fs::write(dir.join(format!("views/{name}.sql")), view)?;
        }
    }
    std::fs::write(dir.join("anabranch.toml"), text)?;
    Ok(())
}

/// The facts in arrival order, cut where some parts of a hundred of them are.
fn parts(source: &Path, dir: &Path, at: [usize; 2]) -> anyhow::Result<Vec<String>> {
    let mut text = String::new();
    let gz = std::process::Command::new("gzip")
        .arg("-dc")
        .arg(source)
        .output()?;
    text.push_str(std::str::from_utf8(&gz.stdout)?);
    let lines: Vec<&str> = text.lines().collect();
    let cuts = [
        0,
        lines.len() * at[0] / 100,
        lines.len() * at[1] / 100,
        lines.len(),
    ];
    let mut files = Vec::new();
    for (i, cut) in cuts.windows(2).enumerate() {
        let path = dir.join(format!("part-{i}.ndjson"));
        std::fs::write(&path, lines[cut[0]..cut[1]].join("\n"))?;
        files.push(path.display().to_string());
    }
    Ok(files)
}

async fn land(context: &Context, file: &str) -> anyhow::Result<u64> {
    let report = ingest_file(context, "facts", Path::new(file)).await?;
    anyhow::ensure!(
        report.dead_letters == 0,
        "{} dead letters",
        report.dead_letters
    );
    Ok(report.facts)
}

async fn refresh_all(context: &Context) -> anyhow::Result<()> {
    for view in &context.project.views {
        let (stop, progress) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(FoldProgress::default()),
        );
        build_view(context, view, Build::Refresh, "command", &stop, &progress).await?;
    }
    Ok(())
}

/// A cell as `answers.json` writes it.
fn cell(batch: &RecordBatch, column: usize, row: usize) -> Value {
    let array = batch.column(column);
    if array.is_null(row) {
        return Value::Null;
    }
    let text = arrow::util::display::array_value_to_string(array, row).unwrap_or_default();
    match array.data_type() {
        DataType::Timestamp(..) => Value::String(text.replace('+', "Z").replace("Z00:00", "Z")),
        t if t.is_numeric() => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        _ => Value::String(text),
    }
}

fn equal(expected: &Value, found: &Value) -> bool {
    match (expected.as_f64(), found.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()),
        _ => expected == found,
    }
}

/// An interval such as `2:34:56` or a number of seconds, as microseconds.
fn interval_micros(value: &Value) -> Option<Value> {
    let text = value.as_str()?;
    let (days, clock) = match text.split_once(" day") {
        Some((days, rest)) => (
            days.parse::<i64>().ok()?,
            rest.trim_start_matches(['s', ',', ' ']),
        ),
        None => (0, text),
    };
    let parts: Vec<f64> = clock
        .split(':')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let seconds = parts.iter().fold(0.0, |sum, p| sum * 60.0 + p) + days as f64 * 86_400.0;
    Some(Value::from((seconds * 1e6) as i64))
}

/// Who answers.
enum Answerer<'a> {
    Itself(Box<SqlService>),
    Daemon(&'a Daemon),
}

impl Answerer<'_> {
    async fn ask(&self, sql: &str) -> Result<Vec<RecordBatch>, Error> {
        match self {
            Self::Itself(service) => Ok(service.collect(sql, ReadMode::Merged).await?.1),
            Self::Daemon(daemon) => Ok(daemon.client.query(sql, ReadMode::Merged).await?.batches),
        }
    }
}

async fn check_all(by: &Answerer<'_>, answers: &Value, absorbed: &str) -> anyhow::Result<()> {
    check(by, answers, absorbed, &|_| true).await
}

/// Checks the answers of the questions that are asked.
async fn check(
    by: &Answerer<'_>,
    answers: &Value,
    absorbed: &str,
    is_asked: &dyn Fn(&str) -> bool,
) -> anyhow::Result<()> {
    for (name, view, query) in QUESTIONS.into_iter().filter(|(name, ..)| is_asked(name)) {
        let sql = match view.is_empty() {
            true => query.to_owned(),
            false => query.replace("FROM v", &format!("FROM {name}")),
        };
        let batches = by
            .ask(&sql)
            .await
            .map_err(|e| anyhow::anyhow!("{name}: {e}"))?;
        let found: Vec<Vec<Value>> = batches
            .iter()
            .flat_map(|b| {
                (0..b.num_rows()).map(|r| (0..b.num_columns()).map(|c| cell(b, c, r)).collect())
            })
            .collect();
        let expected = answers[name]["rows"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        anyhow::ensure!(
            expected.len() == found.len(),
            "{name}: {} rows, expected {}",
            found.len(),
            expected.len()
        );
        for (e, f) in expected.iter().zip(&found) {
            let e = e.as_array().cloned().unwrap_or_default();
            let same = e
                .iter()
                .zip(f)
                .all(|(e, f)| equal(e, f) || interval_micros(e).is_some_and(|e| equal(&e, f)));
            anyhow::ensure!(
                e.len() == f.len() && same,
                "{name}, {absorbed} absorbed:\nexpected {e:?}\nfound    {f:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn real_questions_have_the_known_answers() -> anyhow::Result<()> {
    let Some(source) = places::shared_data("weblog") else {
        return Ok(());
    };
    let answers: Value = serde_json::from_slice(&std::fs::read(source.join("answers.json"))?)?;
    for (absorbed, upto) in [("0 %", 0), ("37 %", 1), ("99 %", 2), ("100 %", 3)] {
        let dir = places::folder()?;
        write_project(dir.path())?;
        let files = parts(&source.join("facts.ndjson.gz"), dir.path(), CUTS)?;
        let context = Context::open(dir.path()).await?;
        let mut facts = 0;
        for (i, file) in files.iter().enumerate() {
            facts += land(&context, file).await?;
            if i < upto {
                refresh_all(&context).await?;
            }
        }
        anyhow::ensure!(facts == 344_810, "{facts} facts landed");
        anyhow::ensure!(
            land(&context, &files[0]).await? == 0,
            "the same content again added facts"
        );
        let by = Answerer::Itself(Box::new(local_service(&context)?));
        check_all(&by, &answers, absorbed).await?;
        println!(
            "all {} answers are right with {absorbed} absorbed",
            QUESTIONS.len()
        );
    }
    Ok(())
}

/// How many facts are sent at once.
const REQUEST_FACTS: usize = 20_000;

/// Sends a file's facts to the daemon. Returns how many it has acknowledged.
async fn send(daemon: &Daemon, file: &str) -> anyhow::Result<usize> {
    let text = std::fs::read_to_string(file)?;
    let lines: Vec<&str> = text.lines().collect();
    for request in lines.chunks(REQUEST_FACTS) {
        let sent = daemon
            .client
            .write_ndjson("facts", request.join("\n").into());
        let sent = sent.await?;
        anyhow::ensure!(
            sent.facts == request.len() as u64 && sent.dead_letters == 0,
            "{sent:?}"
        );
    }
    Ok(lines.len())
}

/// Waits until the daemon answers every view with just this many facts from the delta.
async fn follows(daemon: &Daemon, unabsorbed: usize) -> anyhow::Result<()> {
    let begun = Instant::now();
    for (name, view, _) in QUESTIONS {
        if view.is_empty() {
            continue;
        }
        let expected = format!(", {unabsorbed} offsets of them from the delta");
        loop {
            let sql = format!("SELECT 1 FROM {name} LIMIT 1");
            let answer = daemon.client.query(&sql, ReadMode::Merged).await?;
            if answer.freshness.contains(&expected) {
                break;
            }
            anyhow::ensure!(
                begun.elapsed() < Duration::from_secs(60),
                "{name}: {}, not{expected}",
                answer.freshness
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn real_questions_are_answered_by_a_daemon() -> anyhow::Result<()> {
    let Some(source) = places::shared_data("weblog") else {
        return Ok(());
    };
    let answers: Value = serde_json::from_slice(&std::fs::read(source.join("answers.json"))?)?;
    // A part is absorbed, and the rest streams in; then the rest is absorbed too.
    let dir = places::folder()?;
    write_project(dir.path())?;
    let files = parts(&source.join("facts.ndjson.gz"), dir.path(), CUTS)?;
    let daemon = Daemon::start(dir.path()).await?;
    let absorbed = send(&daemon, &files[0]).await?;
    absorb(dir.path(), &daemon, "refresh", absorbed).await?;
    let sent = absorbed + send(&daemon, &files[1]).await? + send(&daemon, &files[2]).await?;
    anyhow::ensure!(sent == 344_810, "{sent} facts acknowledged");
    check_daemon(&daemon, &answers, "37 %", sent - absorbed).await?;
    absorb(dir.path(), &daemon, "rebuild", sent).await?;
    check_daemon(&daemon, &answers, "100 %", 0).await?;
    daemon.stop().await?;
    // Everything streams in, and then all but a little is absorbed while the daemon runs.
    let dir = places::folder()?;
    write_project(dir.path())?;
    let files = parts(&source.join("facts.ndjson.gz"), dir.path(), CUTS)?;
    let daemon = Daemon::start(dir.path()).await?;
    let most = send(&daemon, &files[0]).await? + send(&daemon, &files[1]).await?;
    let sent = most + send(&daemon, &files[2]).await?;
    check_daemon(&daemon, &answers, "0 %", sent).await?;
    daemon.landed("facts", i64::try_from(sent)?).await?;
    absorb_upto(&daemon.context, most).await?;
    check_daemon(&daemon, &answers, "99 %", sent - most).await?;
    daemon.stop().await
}

/// The daemon's answers, with so many facts from the delta.
async fn check_daemon(
    daemon: &Daemon,
    answers: &Value,
    absorbed: &str,
    unabsorbed: usize,
) -> anyhow::Result<()> {
    follows(daemon, unabsorbed).await?;
    check_all(&Answerer::Daemon(daemon), answers, absorbed).await?;
    println!(
        "all {} answers of the daemon are right with {absorbed} absorbed",
        QUESTIONS.len()
    );
    Ok(())
}

/// Lets the views absorb what was sent.
async fn absorb(dir: &Path, daemon: &Daemon, command: &str, sent: usize) -> anyhow::Result<()> {
    daemon.landed("facts", i64::try_from(sent)?).await?;
    let ran = run(dir, &["batch", command])?;
    anyhow::ensure!(ran.code == Some(0), "{ran:?}");
    Ok(())
}

/// Lets the views absorb the facts below an offset, as a refresh does that began when no more had landed.
async fn absorb_upto(context: &Context, end: usize) -> anyhow::Result<()> {
    let options = BatchOptions {
        like: Default::default(),
        threads: 2,
        memory_bytes: 1 << 30,
        stop: Arc::new(AtomicBool::new(false)),
        progress: Arc::new(FoldProgress::default()),
    };
    let log = context.log("facts").await?;
    let end: Offsets = [(PartitionId(0), Offset(i64::try_from(end)?))]
        .into_iter()
        .collect();
    for (name, entry) in &context.catalogue.current().views {
        let Some(live) = &entry.live else { continue };
        let view = Arc::new(View::from_definition(name, &live.definition)?);
        let master = Master::open(&context.storage, &view, live.generation, now_ms()).await?;
        let outcome = refresh(&Arc::new(master), &log, &end, &options, now_ms).await?;
        anyhow::ensure!(outcome.boundary == end, "{name}: {}", outcome.boundary);
    }
    Ok(())
}
