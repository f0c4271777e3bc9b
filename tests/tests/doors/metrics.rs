//! What a daemon measures: the text is OpenMetrics, every metric is documented and every documented one
//! is there, and the values are those of what was done.

mod openmetrics;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anabranch_tests::daemon::{Daemon, request};
use anabranch_tests::ledger::line;
use anabranch_tests::places;
use anabranch_tests::process::{Setup, run, run_well, until, write_project};
use anyhow::{Context, ensure};

use openmetrics::{Exposition, Family};

/// What a document says of a metric.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    kind: String,
    unit: Option<String>,
    labels: BTreeSet<String>,
}

/// The metrics of the document, by their full names.
fn documented() -> anyhow::Result<BTreeMap<String, Told>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../jobs/docs/metrics.md");
    let text = std::fs::read_to_string(path)?;
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|l| l.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, unit, labels, meaning, _alert] = cells.as_slice() else {
            anyhow::bail!("a row of six cells: {line}");
        };
        ensure!(!meaning.is_empty(), "no meaning: {line}");
        let names = |cell: &str| {
            let named = cell.split('`').skip(1).step_by(2);
            named.map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let told = Told {
            kind: (*kind).to_owned(),
            unit: (*unit != "—").then(|| (*unit).to_owned()),
            labels: names(labels),
        };
        let name = names(name).pop_first().context("no name")?;
        let twice = found.insert(name.clone(), told);
        ensure!(twice.is_none(), "`{name}` has two rows");
    }
    Ok(found)
}

/// The full name of a metric: what its values are called, but for histograms.
fn full_name(name: &str, family: &Family) -> String {
    let end = match family.kind.as_str() {
        "counter" => "_total",
        "info" => "_info",
        _ => "",
    };
    format!("{name}{end}")
}

/// What a daemon measures now.
async fn scrape(daemon: &Daemon) -> anyhow::Result<Exposition> {
    let url = format!("http://{}/metrics", daemon.client.address().http);
    let answer = reqwest::get(url).await?.error_for_status()?;
    let kind = answer.headers().get("content-type");
    let kind = kind.and_then(|k| k.to_str().ok()).unwrap_or_default();
    ensure!(
        kind == "application/openmetrics-text; version=1.0.0; charset=utf-8",
        "{kind}"
    );
    let text = answer.text().await?;
    Exposition::read(&text).with_context(|| text)
}

/// A value that must be there.
fn value(now: &Exposition, name: &str, labels: &[(&str, &str)]) -> anyhow::Result<f64> {
    let found = now.value(name, labels);
    found.with_context(|| {
        let family = |(n, _): &(&String, &Family)| name.starts_with(n.as_str());
        let near: Vec<_> = now.families.iter().filter(family).collect();
        format!("no `{name}` with {labels:?}, only {near:?}")
    })
}

/// Asks a query. Gives the status.
async fn ask(daemon: &Daemon, sql: &str) -> anyhow::Result<u16> {
    let address = &daemon.client.address().http;
    Ok(request("POST", address, "/sql", &[], sql.as_bytes())
        .await?
        .0)
}

/// A daemon that has taken and landed facts, and answered queries, some of them badly put.
async fn used(dir: &Path) -> anyhow::Result<Daemon> {
    write_project(dir, Setup::default())?;
    let daemon = Daemon::start(dir).await?;
    for ids in [0..3, 3..10] {
        let body: String = ids.map(line).collect();
        let (status, answer) = daemon.post("facts", &[], body.as_bytes()).await?;
        ensure!(status == 200, "{answer}");
    }
    let image = [("content-type", "image/png")];
    let (status, answer) = daemon.post("facts", &image, b"x").await?;
    ensure!(status == 400, "{answer}");
    for path in ["/nothing", "/nothing/either", "/topics"] {
        ensure!(daemon.get(path).await?.0 == 404, "{path}");
    }
    ensure!(ask(&daemon, "SELECT * FROM words").await? == 200);
    ensure!(ask(&daemon, "SELECT count(*) FROM facts").await? == 200);
    ensure!(ask(&daemon, "SELECT none FROM words").await? == 400);
    // Whatever is counted of a landing is counted before that.
    until("all have landed", async || {
        let now = scrape(&daemon).await?;
        let behind = now.value("anabranch_view_behind_offsets", &[("view", "words")]);
        Ok(behind == Some(10.0))
    })
    .await?;
    Ok(daemon)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_documented_and_every_documented_one_is_there() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let daemon = used(dir.path()).await?;
    run_well(dir.path(), &["batch", "refresh"]).await?;
    until("the refresh is known", async || {
        let now = scrape(&daemon).await?;
        let times = now.families.get("anabranch_job_seconds");
        Ok(times.is_some_and(|times| !times.samples.is_empty()))
    })
    .await?;
    let now = scrape(&daemon).await?;
    let documented = documented()?;
    let mut given = BTreeSet::new();
    for (name, family) in &now.families {
        let name = full_name(name, family);
        let told = documented.get(&name);
        let told = told.with_context(|| format!("`{name}` is in no document"))?;
        let labels = family.samples.iter().flat_map(|s| s.labels.keys());
        let labels: BTreeSet<String> = labels.filter(|l| *l != "le").cloned().collect();
        let found = Told {
            kind: family.kind.clone(),
            unit: family.unit.clone(),
            // What has no row now may have any.
            labels: match family.samples.is_empty() {
                true => told.labels.clone(),
                false => labels,
            },
        };
        ensure!(
            found == *told,
            "`{name}` is {found:?}, and told as {told:?}"
        );
        given.insert(name);
    }
    let absent: Vec<_> = documented.keys().filter(|n| !given.contains(*n)).collect();
    ensure!(absent.is_empty(), "documented and not there: {absent:?}");
    daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_those_of_what_was_done() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let daemon = used(dir.path()).await?;
    let now = scrape(&daemon).await?;
    let requests = |route, method, status| {
        let labels = [("route", route), ("method", method), ("status", status)];
        value(&now, "anabranch_http_request_seconds_count", &labels)
    };
    ensure!(requests("/topics/{topic}", "POST", "2xx")? == 2.0);
    ensure!(requests("/topics/{topic}", "POST", "4xx")? == 1.0);
    ensure!(requests("other", "GET", "4xx")? == 3.0);
    ensure!(requests("/sql", "POST", "2xx")? == 2.0);
    ensure!(requests("/sql", "POST", "4xx")? == 1.0);
    let queries = |outcome| {
        let labels = [("door", "http"), ("outcome", outcome)];
        value(&now, "anabranch_query_seconds_count", &labels)
    };
    ensure!(queries("ok")? == 2.0 && queries("invalid")? == 1.0);
    ensure!(queries("failed").is_err());
    let of_topic = |name: &str| value(&now, name, &[("topic", "facts")]);
    ensure!(of_topic("anabranch_acknowledgement_seconds_count")? == 2.0);
    ensure!(of_topic("anabranch_landed_facts_total")? == 10.0);
    ensure!(of_topic("anabranch_landed_bytes_total")? > 100.0);
    let landings = of_topic("anabranch_landing_seconds_count")?;
    ensure!((1.0..=2.0).contains(&landings), "{landings}");
    ensure!(of_topic("anabranch_landing_failures_total")? == 0.0);
    let syncs = value(&now, "anabranch_wal_sync_seconds_count", &[])?;
    ensure!((1.0..=2.0).contains(&syncs), "{syncs}");
    // The facts are of the beginning of 2026, and came just now.
    let age = of_topic("anabranch_last_fact_age_seconds")?;
    ensure!((0.0..60.0).contains(&age), "{age}");
    ensure!(of_topic("anabranch_newest_event_age_seconds")? > age + 3_600.0);
    ensure!(of_topic("anabranch_wal_bytes")? > 0.0);
    let view = [("view", "words")];
    ensure!(value(&now, "anabranch_view_behind_offsets", &view)? == 10.0);
    let boundary_age = value(&now, "anabranch_view_boundary_age_seconds", &view)?;
    ensure!(
        boundary_age + 0.001 >= age,
        "the view was served before the facts came: {boundary_age}, {age}"
    );
    let lock = [("lock", "delta"), ("topic", "facts")];
    ensure!(value(&now, "anabranch_lock_hold_seconds_count", &lock)? > 10.0);
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    ensure!(value(&now, "anabranch_build_info", &version)? == 1.0);
    ensure!(value(&now, "process_resident_memory_bytes", &[])? > 1e6);
    let open = value(&now, "process_open_fds", &[])?;
    ensure!(open < value(&now, "process_max_fds", &[])?);
    // What is asked for the metrics is counted, too.
    let again = scrape(&daemon).await?;
    let labels = [("route", "/metrics"), ("method", "GET"), ("status", "2xx")];
    let scrapes = |now| value(now, "anabranch_http_request_seconds_count", &labels);
    ensure!(scrapes(&again)? == scrapes(&now)? + 1.0);
    daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_counted_by_how_they_end() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let view = "SELECT word, sum(10 / (id - 5)) AS s FROM facts GROUP BY word";
    std::fs::write(dir.path().join("words.sql"), view)?;
    let daemon = Daemon::start(dir.path()).await?;
    let body: String = (0..5).map(line).collect();
    ensure!(daemon.post("facts", &[], body.as_bytes()).await?.0 == 200);
    daemon.landed("facts", 5).await?;
    run_well(dir.path(), &["batch", "refresh"]).await?;
    let body: String = (5..10).map(line).collect();
    ensure!(daemon.post("facts", &[], body.as_bytes()).await?.0 == 200);
    daemon.landed("facts", 10).await?;
    let failed = run(dir.path(), &["batch", "refresh"]).await?;
    ensure!(!failed.status.success());
    let job = [("view", "words"), ("job", "refresh")];
    let ended = |now: &Exposition, outcome| {
        let labels = [job[0], job[1], ("outcome", outcome)];
        now.value("anabranch_jobs_total", &labels)
    };
    until("both are known", async || {
        Ok(ended(&scrape(&daemon).await?, "failed") == Some(1.0))
    })
    .await?;
    let now = scrape(&daemon).await?;
    ensure!(ended(&now, "done") == Some(1.0) && ended(&now, "stopped") == Some(0.0));
    ensure!(value(&now, "anabranch_job_seconds_count", &job)? == 1.0);
    ensure!(value(&now, "anabranch_job_facts_total", &job)? == 5.0);
    let started = value(&now, "process_start_time_seconds", &[])?;
    let last = value(&now, "anabranch_job_last_success_timestamp_seconds", &job)?;
    // It is told in whole seconds.
    ensure!(
        (started - 2.0..started + 120.0).contains(&last),
        "{last} after {started}"
    );
    ensure!(value(&now, "anabranch_view_fails", &[("view", "words")])? == 1.0);
    ensure!(value(&now, "anabranch_job_fails", &job)? == 1.0);
    daemon.stop().await
}
