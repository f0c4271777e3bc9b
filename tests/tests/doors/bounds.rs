//! A daemon keeps to its bounds: deltas that memory has no room for are spilled to disk, a refresh
//! is asked for, facts are refused while both are full, and all goes on by itself afterwards.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_jobs::project::context::Context;
use anabranch_jobs::reader::client::Client;
use anabranch_shared::{
    INGESTED_AT, Landing, OFFSET, Offset, OffsetRange, PARTITION, PartitionId, ReadMode,
    timestamp_type,
};
use anabranch_tests::daemon::shown;
use anabranch_tests::disk::SmallDisk;
use anabranch_tests::places;
use anabranch_tests::process::{Process, Setup, run, run_well, until, write_project};
use arrow::array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray,
    new_null_array,
};
use serde_json::Value;

/// A state for each fact's number: as many states as facts.
const PER_NUMBER: &str = "SELECT id, word, count(*) AS facts, sum(id) AS ids, max(id) AS newest FROM facts GROUP BY id, word";

const MEGABYTE: u64 = 1_000_000;

/// The line of a fact. Its word is long, so that few states take much memory.
fn line(id: i64) -> String {
    let one = format!("{:016x}", id.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64));
    let word = one.repeat(10);
    format!("{{\"ts\":\"2026-03-01T00:00:00Z\",\"id\":{id},\"word\":\"{word}\"}}\n")
}

fn project(daemon: &str) -> anyhow::Result<tempfile::TempDir> {
    let dir = places::folder()?;
    let setup = Setup {
        daemon,
        ..Default::default()
    };
    write_project(dir.path(), setup)?;
    std::fs::write(dir.path().join("words.sql"), PER_NUMBER)?;
    Ok(dir)
}

/// Lands every number in `[0, count)` twice, without a daemon.
async fn land_twice(dir: &Path, count: i64) -> anyhow::Result<()> {
    for half in ["first", "second"] {
        let path = dir.join(format!("{half}.ndjson"));
        // Another content, so that it is not taken for the same file.
        let last = format!("{{\"ts\":\"2026-03-01T00:00:00Z\",\"id\":-1,\"word\":\"{half}\"}}\n");
        let text: String = (0..count).map(line).chain([last]).collect();
        std::fs::write(&path, text)?;
        let file = path.display().to_string();
        run_well(dir, &["ingest", "facts", &file]).await?;
        std::fs::remove_file(&path)?;
    }
    Ok(())
}

/// The peak of a process's resident memory, in bytes.
fn peak_bytes(process: &Process) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()))?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().nth(1));
    let kib = kib.ok_or_else(|| anyhow::anyhow!("the system does not tell"))?;
    Ok(kib.parse::<u64>()? * 1_024)
}

async fn status(client: &Client) -> anyhow::Result<Value> {
    let url = format!("http://{}/status", client.address().http);
    Ok(serde_json::from_str(
        &reqwest::get(url).await?.text().await?,
    )?)
}

fn number(status: &Value, path: &str) -> anyhow::Result<u64> {
    let found = status.pointer(path).and_then(Value::as_u64);
    found.ok_or_else(|| anyhow::anyhow!("`{path}` is not in {status}"))
}

fn spill_dir(dir: &Path) -> PathBuf {
    dir.join("wal/.spill")
}

fn spilled_files(dir: &Path) -> usize {
    std::fs::read_dir(spill_dir(dir)).map_or(0, Iterator::count)
}

async fn rows(client: &Client, sql: &str) -> anyhow::Result<Vec<Vec<String>>> {
    shown(&client.query(sql, ReadMode::Merged).await?.batches)
}

/// What must hold where every number in `[0, count)` is there twice.
async fn check_answers(client: &Client, count: i64) -> anyhow::Result<()> {
    let all = "SELECT count(*), sum(facts), sum(ids) FROM words WHERE id >= 0";
    let ids = count * (count - 1);
    let expected = vec![count.to_string(), (2 * count).to_string(), ids.to_string()];
    let found = rows(client, all).await?;
    anyhow::ensure!(
        found == [expected.clone()],
        "all: {found:?}, not {expected:?}"
    );

    let top = "SELECT id, facts, ids FROM words ORDER BY ids DESC LIMIT 10";
    let expected: Vec<Vec<String>> = (1..=10)
        .map(|i| {
            vec![
                (count - i).to_string(),
                "2".into(),
                (2 * (count - i)).to_string(),
            ]
        })
        .collect();
    let found = rows(client, top).await?;
    anyhow::ensure!(found == expected, "top 10: {found:?}");

    let mut expected = Vec::new();
    for last in 0..10 {
        let of: Vec<i64> = (0..count).filter(|id| id % 10 == last).collect();
        let newest = of.last().copied().unwrap_or_default();
        let ids = 2 * of.iter().sum::<i64>();
        expected.push(
            [last, 2 * of.len() as i64, ids, newest]
                .map(|n| n.to_string())
                .to_vec(),
        );
    }
    for (facts, ids, newest) in [("sum", "sum", "max"), ("combine", "combine", "combine")] {
        let sql = format!(
            "SELECT id % 10 AS last, {facts}(facts), {ids}(ids), {newest}(newest) FROM words WHERE id >= 0 GROUP BY 1 ORDER BY 1"
        );
        let found = rows(client, &sql).await?;
        anyhow::ensure!(found == expected, "{sql}: {found:?}");
    }
    // A filter on keys, which leaves out most of the files.
    let one = format!("SELECT facts, newest FROM words WHERE id = {}", count / 2);
    let found = rows(client, &one).await?;
    anyhow::ensure!(
        found == [["2".to_owned(), (count / 2).to_string()]],
        "{found:?}"
    );
    Ok(())
}

/// Milliseconds of the fastest of some runs of a query.
async fn fastest_ms(client: &Client, sql: &str) -> anyhow::Result<u128> {
    let mut fastest = u128::MAX;
    for _ in 0..3 {
        let begun = Instant::now();
        rows(client, sql).await?;
        fastest = fastest.min(begun.elapsed().as_millis());
    }
    Ok(fastest)
}

/// States of a log that nobody has absorbed, several times the bound of memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_unabsorbed_log_is_spilled() -> anyhow::Result<()> {
    const COUNT: i64 = 300_000;
    let settings = |memory: &str| {
        format!(
            "memory = \"{memory}\"\nland_facts = 50000\n[query]\nmemory = \"256MB\"\nthreads = 2"
        )
    };
    let dir = project(&settings("32MB"))?;
    let context = Context::open(dir.path()).await?;
    // What a daemon takes that has nothing to keep.
    let mut empty = Process::start(dir.path(), &["speed"])?;
    empty.ready(&context).await?;
    let base = peak_bytes(&empty)?;
    empty.terminate().await?;
    land_twice(dir.path(), COUNT).await?;

    let begun = Instant::now();
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    let started = begun.elapsed();
    let state = status(&client).await?;
    let spilled = number(&state, "/bounds/spilled_bytes")?;
    let states = number(&state, "/deltas/words/states")?;
    let start_peak = peak_bytes(&daemon)?;
    println!(
        "{states} states; spilled {} MB in {} files, {} MB in memory; start {:.1} s; peak at start {} MB, of an empty daemon {} MB",
        spilled / MEGABYTE,
        spilled_files(dir.path()),
        number(&state, "/bounds/memory_bytes")? / MEGABYTE,
        started.as_secs_f64(),
        start_peak / MEGABYTE,
        base / MEGABYTE,
    );
    anyhow::ensure!(spilled > 0 && spilled_files(dir.path()) > 0, "{state}");
    anyhow::ensure!(states >= 2 * COUNT as u64, "{state}");
    anyhow::ensure!(
        number(&state, "/bounds/memory_bytes")? < 32 * MEGABYTE,
        "{state}"
    );
    // Three times the bound: pieces, the fold under way, and what reads and writes files.
    anyhow::ensure!(
        start_peak < base + 3 * 32 * MEGABYTE,
        "peak {start_peak}, of an empty daemon {base}"
    );
    check_answers(&client, COUNT).await?;
    // Facts are taken as ever.
    let body: String = (COUNT..COUNT + 1_000)
        .chain(COUNT..COUNT + 1_000)
        .map(line)
        .collect();
    client.write_ndjson("facts", body.into()).await?;
    check_answers(&client, COUNT + 1_000).await?;
    let peak = peak_bytes(&daemon)?;
    println!("peak after queries {} MB", peak / MEGABYTE);
    anyhow::ensure!(
        peak < base + 3 * 32 * MEGABYTE + 256 * MEGABYTE,
        "peak {peak}, of an empty daemon {base}"
    );
    let queries = [
        ("all", "SELECT count(*), sum(facts) FROM words"),
        (
            "top 10",
            "SELECT id, ids FROM words ORDER BY ids DESC LIMIT 10",
        ),
        ("one key", "SELECT facts FROM words WHERE id = 4711"),
    ];
    let mut on_disk = Vec::new();
    for (_, sql) in queries {
        on_disk.push(fastest_ms(&client, sql).await?);
    }
    run_well(dir.path(), &["verify", "--sample", "2000"]).await?;

    // Killed, it leaves files behind; the next one does not.
    daemon.kill()?;
    anyhow::ensure!(spilled_files(dir.path()) > 0);
    let left = spill_dir(dir.path()).join("99999999.parquet");
    std::fs::write(&left, "left behind")?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    anyhow::ensure!(!left.exists());
    check_answers(&client, COUNT + 1_000).await?;
    daemon.terminate().await?;
    anyhow::ensure!(
        spilled_files(dir.path()) == 0,
        "a daemon that ends well removes its files"
    );

    let path = dir.path().join("anabranch.toml");
    let text = std::fs::read_to_string(&path)?;
    std::fs::write(&path, text.replace("memory = \"32MB\"", "memory = \"2GB\""))?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    anyhow::ensure!(spilled_files(dir.path()) == 0);
    let mut figures = Vec::new();
    for ((name, sql), spilled) in queries.into_iter().zip(on_disk) {
        let memory = fastest_ms(&client, sql).await?;
        figures.push(format!(
            "{name} {memory} ms in memory, {spilled} ms spilled"
        ));
    }
    println!(
        "{}; peak with 2 GB {} MB",
        figures.join("; "),
        peak_bytes(&daemon)? / MEGABYTE
    );
    daemon.terminate().await
}

/// Sends numbers until some are there or one request is refused: then why, and what `Retry-After`
/// says.
async fn send(
    client: &Client,
    from: &mut i64,
    to: i64,
) -> anyhow::Result<Option<(String, Option<String>)>> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    while *from < to {
        let end = (*from + 2_000).min(to);
        let body: String = (*from..end).map(line).collect();
        let url = format!("http://{}/topics/facts", client.address().http);
        let answer = http.post(url).body(body).send().await?;
        let after = answer.headers().get("retry-after");
        let after = after.and_then(|v| v.to_str().ok()).map(str::to_owned);
        match answer.status().as_u16() {
            200 => *from = end,
            503 => return Ok(Some((answer.text().await?, after))),
            other => anyhow::bail!("{other}: {}", answer.text().await?),
        }
    }
    Ok(None)
}

async fn facts_in_view(client: &Client) -> anyhow::Result<Vec<Vec<String>>> {
    rows(client, "SELECT count(*), sum(facts), sum(ids) FROM words").await
}

fn expected(count: i64) -> Vec<Vec<String>> {
    let ids = count * (count - 1) / 2;
    vec![[count, count, ids].map(|n| n.to_string()).to_vec()]
}

/// The scheduler in the daemon's process runs the refresh that the daemon asks for.
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_is_asked_for_and_run() -> anyhow::Result<()> {
    const COUNT: i64 = 120_000;
    let dir = project("memory = \"12MB\"\nspill = \"off\"")?;
    let context = Context::open(dir.path()).await?;
    let mut daemon = Process::start(dir.path(), &["up"])?;
    let client = daemon.ready(&context).await?;
    let (mut sent, mut refused) = (0, 0);
    let begun = Instant::now();
    while let Some((why, after)) = send(&client, &mut sent, COUNT).await? {
        anyhow::ensure!(
            after.is_some() && why.contains("`memory` in `[daemon]`"),
            "{why}"
        );
        refused += 1;
        anyhow::ensure!(begun.elapsed() < Duration::from_secs(120), "stuck: {why}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("{COUNT} facts through 12 MB of memory, refused {refused} times");
    let found = facts_in_view(&client).await?;
    anyhow::ensure!(found == expected(COUNT), "{found:?}");
    let jobs = "SELECT count(*) FROM jobs WHERE job = 'refresh' AND outcome = 'done' AND trigger LIKE 'asked for by the daemon: delta of %'";
    let found = rows(&client, jobs).await?;
    anyhow::ensure!(found != [["0".to_owned()]], "no refresh was asked for");
    println!("{} refreshes were asked for", found[0][0]);
    daemon.terminate().await
}

/// Memory and disk are full and nobody runs a schedule: facts are refused, the daemon stays up and
/// says what to do; a scheduler that starts then finds what is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn full_bounds_refuse_until_somebody_refreshes() -> anyhow::Result<()> {
    let dir = project("memory = \"12MB\"\nspill = \"1MB\"")?;
    let context = Context::open(dir.path()).await?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    let mut sent = 0;
    let refused = send(&client, &mut sent, 10_000_000).await?;
    let Some((why, after)) = refused else {
        anyhow::bail!("{sent} facts were taken");
    };
    anyhow::ensure!(after.as_deref() == Some("1") && daemon.runs()?, "{why}");
    // What is acknowledged is there, and that it is full is said.
    let found = facts_in_view(&client).await?;
    anyhow::ensure!(found == expected(sent), "{found:?}");
    let stored = anabranch_shared::Storage::folder(&dir.path().join("data"))?;
    let object = object_store::path::Path::from("asked/refresh.json");
    until("the refresh is asked for", || async {
        Ok(stored.get(&object).await?.is_some())
    })
    .await?;
    // What waited to land is part of the deltas by and by, which may make some room.
    let begun = Instant::now();
    loop {
        let to = sent + 2_000;
        let refused = send(&client, &mut sent, to).await?.is_some();
        let full = status(&client).await?.pointer("/bounds/full").cloned();
        if refused && full.is_some_and(|f| f.is_string()) {
            break;
        }
        anyhow::ensure!(begun.elapsed() < Duration::from_secs(60), "never full");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let said = run_well(dir.path(), &["status"]).await?;
    for part in [
        "asked for by the daemon",
        "anabranch batch refresh words",
        "spilled",
    ] {
        anyhow::ensure!(said.contains(part), "`{part}` is not in: {said}");
    }

    let mut scheduler = Process::start(dir.path(), &["schedule"])?;
    until("the refresh", || async {
        Ok(stored.get(&object).await?.is_none())
    })
    .await?;
    until("facts are taken again", || async {
        let mut now = sent;
        Ok(send(&client, &mut now, sent + 1).await?.is_none())
    })
    .await?;
    sent += 1;
    let found = facts_in_view(&client).await?;
    anyhow::ensure!(found == expected(sent), "{found:?}");
    // What landed after that refresh may lie on disk, too little of it to be asked for.
    scheduler.terminate().await?;
    until("what was absorbed is not on disk any more", || async {
        run_well(dir.path(), &["batch", "refresh"]).await?;
        let state = status(&client).await?;
        let full = state.pointer("/bounds/full").is_some_and(Value::is_string);
        Ok(!full && spilled_files(dir.path()) == 0)
    })
    .await?;
    daemon.terminate().await
}

/// The disk for spilled deltas is full, the WAL's is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_for_spilled_deltas_refuses_and_recovers() -> anyhow::Result<()> {
    let dir = project("memory = \"12MB\"")?;
    let Some(disk) = SmallDisk::mount(&spill_dir(dir.path()), 64 * MEGABYTE)? else {
        return Ok(());
    };
    disk.fill(100_000)?;
    let context = Context::open(dir.path()).await?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    // The daemon has emptied the folder.
    disk.fill(100_000)?;
    let mut sent = 0;
    let refused = send(&client, &mut sent, 10_000_000).await?;
    anyhow::ensure!(refused.is_some() && daemon.runs()?);
    until("the full disk is named", || async {
        let full = status(&client).await?.pointer("/bounds/full").cloned();
        let full = full.as_ref().and_then(Value::as_str).map(str::to_owned);
        Ok(full.is_some_and(|f| f.contains("No space left on device")))
    })
    .await?;
    let found = facts_in_view(&client).await?;
    anyhow::ensure!(found == expected(sent), "{found:?}");
    disk.empty()?;
    // Once it spills again.
    until("facts are taken again", || async {
        let mut now = sent;
        Ok(send(&client, &mut now, sent + 1).await?.is_none())
    })
    .await?;
    sent += 1;
    let found = facts_in_view(&client).await?;
    anyhow::ensure!(found == expected(sent), "{found:?}");
    until("it spills", || async {
        let state = status(&client).await?;
        let full = state.pointer("/bounds/full").is_some_and(Value::is_string);
        Ok(!full && number(&state, "/bounds/spilled_bytes")? > 0)
    })
    .await?;
    daemon.terminate().await
}

/// Lands numbers as somebody else, without a daemon.
async fn land_beside(context: &Context, ids: std::ops::Range<i64>) -> anyhow::Result<()> {
    let log = context.log("facts").await?;
    let partition = PartitionId(100);
    let start = log.head().get(partition);
    let end = Offset(start.0 + (ids.end - ids.start));
    let words: Vec<String> = ids.clone().map(|id| format!("{id:0160}")).collect();
    let count = words.len();
    let times = || TimestampMicrosecondArray::from(vec![1_772_323_200_000_000; count]);
    let schema = log.topic().schema();
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        match field.name().as_str() {
            "ts" | INGESTED_AT => Arc::new(times().with_data_type(timestamp_type())),
            "id" => Arc::new(Int64Array::from_iter_values(ids.clone())),
            "word" => Arc::new(StringViewArray::from_iter_values(&words)),
            PARTITION => Arc::new(Int32Array::from(vec![partition.0; count])),
            OFFSET => Arc::new(Int64Array::from_iter_values(start.0..end.0)),
            _ => new_null_array(field.data_type(), count),
        }
    });
    let facts = RecordBatch::try_new(schema.clone(), columns.collect())?;
    let landing = Landing {
        ranges: vec![(partition, OffsetRange::new(start, end))],
        facts: vec![facts],
        ..Default::default()
    };
    log.land(&landing, anabranch_jobs::clock::now_ms()).await?;
    Ok(())
}

/// What others land has no room, neither in memory nor on disk: answers stay as they were, facts
/// are taken on as far as there is room, and a refresh is all that is needed. The same at a start.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_room_waits_for_a_refresh() -> anyhow::Result<()> {
    let dir = project("memory = \"12MB\"\nspill = \"off\"")?;
    let context = Context::open(dir.path()).await?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    let mut sent = 0;
    anyhow::ensure!(send(&client, &mut sent, 1_000).await?.is_none());
    for part in 0..10 {
        let first = 1_000 + part * 10_000;
        land_beside(&context, first..first + 10_000).await?;
    }
    until("the daemon waits", || async {
        let full = status(&client).await?.pointer("/bounds/full").cloned();
        let full = full.as_ref().and_then(Value::as_str).map(str::to_owned);
        Ok(full.is_some_and(|f| f.contains("run `anabranch batch refresh words`")))
    })
    .await?;
    anyhow::ensure!(daemon.runs()?);
    // An answer is of one head, and its own facts are in it.
    let found = facts_in_view(&client).await?;
    let seen: i64 = found[0][0].parse()?;
    anyhow::ensure!(
        (1_000..101_000).contains(&seen) && found == expected(seen),
        "{found:?}"
    );
    run_well(dir.path(), &["batch", "refresh", "words"]).await?;
    until("all is answered", || async {
        Ok(facts_in_view(&client).await? == expected(101_000))
    })
    .await?;

    // Without a boundary that has passed them, they have no room at a start either.
    daemon.kill()?;
    for part in 0..10 {
        let first = 101_000 + part * 10_000;
        land_beside(&context, first..first + 10_000).await?;
    }
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    let failing = client.views_that_fail().await?;
    let why = failing.get("words").cloned().unwrap_or_default();
    anyhow::ensure!(
        why.contains("run `anabranch batch refresh words`"),
        "{failing:?}"
    );
    let refused = facts_in_view(&client).await;
    anyhow::ensure!(refused.is_err_and(|e| e.to_string().contains("no room")));
    run_well(dir.path(), &["batch", "refresh", "words"]).await?;
    until("the view is served", || async {
        Ok(client.views_that_fail().await?.is_empty())
    })
    .await?;
    let found = facts_in_view(&client).await?;
    anyhow::ensure!(found == expected(201_000), "{found:?}");
    daemon.terminate().await
}

/// Bodies in flight are bounded.
#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_are_bounded() -> anyhow::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let dir = project("request_memory = \"100KB\"")?;
    let context = Context::open(dir.path()).await?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    // Says how much it will send, which takes no room from others.
    let body: String = (0..300).map(line).collect();
    let mut slow = tokio::net::TcpStream::connect(&client.address().http).await?;
    let head = format!(
        "POST /topics/facts HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    anyhow::ensure!((60_000..100_000).contains(&body.len()));
    slow.write_all(head.as_bytes()).await?;
    let mut sent = 1_000;
    for _ in 0..5 {
        let to = sent + 300;
        anyhow::ensure!(send(&client, &mut sent, to).await?.is_none());
    }
    // What comes of it does.
    let (most, rest) = body.split_at(body.len() - 10);
    slow.write_all(most.as_bytes()).await?;
    let begun = Instant::now();
    let (why, after) = loop {
        let to = sent + 300;
        if let Some(told) = send(&client, &mut sent, to).await? {
            break told;
        }
        anyhow::ensure!(begun.elapsed() < Duration::from_secs(60), "never refused");
    };
    anyhow::ensure!(
        why.contains("`request_memory` in `[daemon]`") && after.as_deref() == Some("1"),
        "{why}"
    );
    // The slow one is taken in when it comes, and then there is room.
    slow.write_all(rest.as_bytes()).await?;
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await?;
    anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let to = sent + 300;
    anyhow::ensure!(send(&client, &mut sent, to).await?.is_none());
    let out = run(dir.path(), &["verify"]).await?;
    anyhow::ensure!(out.status.success());
    daemon.terminate().await
}
