//! A topic that comes from Kafka: every message is one fact, at Kafka's own partition and offset,
//! over restarts, kills, rebalances, gaps and garbage; on the mock, and on the real broker where
//! there is one.

use std::collections::BTreeMap;
use std::path::Path;

use anabranch_jobs::project::context::Context;
use anabranch_shared::PartitionId;
use anabranch_tests::daemon::{Daemon, run};
use anabranch_tests::fates::{Fates, Place};
use anabranch_tests::kafka::{Broker, Cluster, Codec, End, Mock, Producer, Shape};
use anabranch_tests::process::{Process, Setup, run_well, until, write_project};
use tokio::task::block_in_place;

mod identity;
mod refused;

const TOPIC: &str = "from-kafka";

/// A project whose topic comes from Kafka.
fn project(dir: &Path, storage: &str, bootstrap: &str, more: &str) -> anyhow::Result<()> {
    write_project(
        dir,
        Setup {
            storage,
            ..Default::default()
        },
    )?;
    let file = dir.join("anabranch.toml");
    let text = std::fs::read_to_string(&file)?;
    let source = format!(
        "[topics.facts.source.kafka]\nbrokers = \"{bootstrap}\"\ntopic = \"{TOPIC}\"\n{more}\n[topics.facts.source.kafka.properties]\n\"session.timeout.ms\" = 6000\n\"max.poll.interval.ms\" = 8000\n\"heartbeat.interval.ms\" = 500\n"
    );
    std::fs::write(file, text + &source)?;
    Ok(())
}

/// The facts that a daemon answers with: their numbers and places.
async fn found(daemon: &Daemon) -> anyhow::Result<Vec<(i64, Place)>> {
    let rows = daemon
        .rows("SELECT id, _partition, _offset FROM facts")
        .await?;
    let place = |row: &Vec<String>| {
        let partition = row[1].parse()?;
        let offset = row[2].parse()?;
        Ok((row[0].parse()?, Place { partition, offset }))
    };
    rows.iter().map(place).collect()
}

/// Waits until a daemon answers with all facts, and compares them one by one, as topic and as view.
async fn all_there(what: &str, daemon: &Daemon, fates: &Fates) -> anyhow::Result<()> {
    let produced = fates.totals();
    until(what, || async {
        let rows = daemon.rows("SELECT count(*) FROM facts").await?;
        Ok(rows[0][0].parse::<u64>()? >= produced.count)
    })
    .await?;
    let tally = fates.compare(found(daemon).await?);
    anyhow::ensure!(tally.is_exact(), "{what}: {tally:?}");
    let view = daemon
        .rows("SELECT sum(facts), sum(ids) FROM words")
        .await?;
    let expected = [produced.count.to_string(), produced.sum.to_string()];
    anyhow::ensure!(
        view[0] == expected,
        "{what}: the view has {view:?}, not {expected:?}"
    );
    Ok(())
}

fn holds(dir: &Path) -> anyhow::Result<()> {
    let verified = run(dir, &["verify"])?;
    anyhow::ensure!(
        verified.code == Some(0),
        "{}{}",
        verified.said,
        verified.complained
    );
    Ok(())
}

fn send(
    bootstrap: &str,
    shape: Shape,
    facts: std::ops::Range<i64>,
    all: &mut Fates,
) -> anyhow::Result<()> {
    block_in_place(|| {
        let mut producer = Producer::new(bootstrap, TOPIC, shape, facts.start)?;
        producer.send(facts.end - facts.start)?;
        all.add(&producer.fates());
        Ok(())
    })
}

async fn once_each(cluster: &dyn Cluster) -> anyhow::Result<()> {
    cluster.create_topic(TOPIC, 3).await?;
    let dir = tempfile::tempdir()?;
    let bootstrap = cluster.bootstrap();
    project(dir.path(), "file://./data", &bootstrap, "")?;
    let mut all = Fates::default();
    for (nth, codec) in (0..).zip(Codec::ALL) {
        let shape = Shape {
            codec,
            keys: nth % 2 == 0,
            framed: (nth % 2 == 1).then_some(7),
            ..Default::default()
        };
        send(&bootstrap, shape, nth * 500..(nth + 1) * 500, &mut all)?;
    }
    let daemon = Daemon::start(dir.path()).await?;
    all_there("at first", &daemon, &all).await?;

    // What can't be a fact is a dead letter at its own place, and the rest goes on.
    let garbage: [(&str, Option<&[u8]>); 4] = [
        ("no value", None),
        ("no JSON", Some(b"what is this?")),
        ("Avro", Some(b"\0\0\0\0\x09\x02\x04")),
        ("no time", Some(b"{\"id\":\n1}")),
    ];
    let mut places = Vec::new();
    block_in_place(|| {
        let mut producer = Producer::new(&bootstrap, TOPIC, Shape::default(), 2_500)?;
        for (_, value) in garbage {
            places.push(producer.send_raw(None, value)?);
        }
        producer.send(100)?;
        all.add(&producer.fates());
        anyhow::Ok(())
    })?;
    all_there("after garbage", &daemon, &all).await?;
    let letters = "SELECT _partition, _offset, reason FROM dead_letters";
    until("the dead letters", || async {
        Ok(daemon.rows(letters).await?.len() >= garbage.len())
    })
    .await?;
    let letters = daemon.rows(letters).await?;
    anyhow::ensure!(letters.len() == garbage.len(), "{letters:?}");
    for (place, (what, _)) in places.iter().zip(garbage) {
        let at = [place.partition.to_string(), place.offset.to_string()];
        anyhow::ensure!(
            letters.iter().any(|l| l[..2] == at),
            "{what}: not at {place:?}: {letters:?}"
        );
    }

    // A kill, and messages that came meanwhile.
    drop(daemon);
    send(&bootstrap, Shape::default(), 2_600..3_600, &mut all)?;
    let rebuilt = run(dir.path(), &["batch", "rebuild"])?;
    anyhow::ensure!(rebuilt.code == Some(0), "{}", rebuilt.complained);
    let daemon = Daemon::start(dir.path()).await?;
    all_there("after a kill", &daemon, &all).await?;
    let refreshed = run(dir.path(), &["batch", "refresh"])?;
    anyhow::ensure!(refreshed.code == Some(0), "{}", refreshed.complained);
    let status = run(dir.path(), &["status", "--format", "json"])?;
    let status: serde_json::Value = serde_json::from_str(&status.said)?;
    anyhow::ensure!(
        status["kafka"].as_array().is_some_and(|k| k.len() == 3),
        "{status}"
    );
    daemon.stop().await?;
    holds(dir.path())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_is_one_fact() -> anyhow::Result<()> {
    once_each(&Mock::start(1).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_of_a_real_broker_is_one_fact() -> anyhow::Result<()> {
    let Some(broker) = Broker::start().await? else {
        return Ok(());
    };
    once_each(&broker).await?;
    // Of transactions only what was committed.
    let topic_dir = tempfile::tempdir()?;
    project(
        topic_dir.path(),
        "file://./data",
        &broker.bootstrap(),
        "group = \"transactions\"",
    )?;
    let shape = Shape {
        transactions: Some("t".into()),
        ..Default::default()
    };
    let fates = block_in_place(|| {
        let mut producer = Producer::new(&broker.bootstrap(), TOPIC, shape, 100_000)?;
        for n in 0..10 {
            let end = if n % 3 == 0 { End::Abort } else { End::Commit };
            producer.transaction(100, end)?;
        }
        anyhow::Ok(producer.fates())
    })?;
    let daemon = Daemon::start(topic_dir.path()).await?;
    let expected = fates.totals().count;
    until("the transactions' facts", || async {
        let rows = daemon
            .rows("SELECT count(*) FROM facts WHERE id >= 100000")
            .await?;
        Ok(rows[0][0].parse::<u64>()? >= expected)
    })
    .await?;
    let all = found(&daemon).await?;
    let of_transactions = all.into_iter().filter(|(id, _)| *id >= 100_000);
    let tally = fates.compare(of_transactions);
    anyhow::ensure!(tally.is_exact(), "{tally:?}");
    daemon.stop().await
}

/// Key, headers and time stamp become fields; values may be spread over lines.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_besides_the_value_becomes_fields() -> anyhow::Result<()> {
    let mock = Mock::start(1).await?;
    mock.create_topic(TOPIC, 1).await?;
    let dir = tempfile::tempdir()?;
    std::fs::write(
        dir.path().join("anabranch.toml"),
        format!(
            r#"
[storage]
url = "file://./data"
[daemon]
http = "127.0.0.1:0"
[topics.facts]
event_time = "ts"
[topics.facts.fields]
ts = "timestamp not null"
id = "bigint"
who = "varchar"
origin = "varchar"
[topics.facts.source.kafka]
brokers = "{}"
topic = "{TOPIC}"
key_field = "who"
timestamp_field = "ts"
[topics.facts.source.kafka.headers]
source = "origin"
"#,
            mock.bootstrap()
        ),
    )?;
    let shape = Shape {
        keys: true,
        headers: true,
        timestamp_ms: Some(1_767_225_600_000),
        value: |id| format!("{{\n  \"id\": {id}\n}}\n"),
        ..Default::default()
    };
    let mut all = Fates::default();
    send(&mock.bootstrap(), shape, 0..10, &mut all)?;
    let daemon = Daemon::start(dir.path()).await?;
    until("ten facts", || async {
        Ok(daemon.rows("SELECT id FROM facts").await?.len() == 10)
    })
    .await?;
    let rows = daemon
        .rows("SELECT ts, id, who, origin FROM facts ORDER BY id")
        .await?;
    let row = ["2026-01-01T00:00:00.004Z", "4", "k4", "h1"];
    anyhow::ensure!(rows[4] == row, "{:?}", rows[4]);
    daemon.stop().await
}

/// Waits until so many facts have landed, whoever landed them.
async fn landed(what: &str, context: &Context, facts: u64) -> anyhow::Result<()> {
    until(what, || async {
        let log = context.log("facts").await?;
        let rows: u64 = log
            .table()
            .with_state(|s| s.files.values().filter_map(|f| f.rows()).sum());
        Ok(rows >= facts)
    })
    .await
}

/// Two daemons share a topic; one dies, one is paused until the group has given its partitions away
/// and wakes; a new one comes. Nothing is lost or doubled.
///
/// The mock names a member by its address in memory, which it gives to the next one once the group
/// has put the first out, so it can't keep several members apart.
#[tokio::test(flavor = "multi_thread")]
async fn daemons_share_a_topic() -> anyhow::Result<()> {
    let Some(broker) = Broker::start().await? else {
        return Ok(());
    };
    broker.create_topic(TOPIC, 4).await?;
    let bootstrap = broker.bootstrap();
    let storage = tempfile::tempdir()?;
    let url = format!("file://{}", storage.path().display());
    let dirs: Vec<_> = (0..3)
        .map(|_| tempfile::tempdir())
        .collect::<Result<_, _>>()?;
    for dir in &dirs {
        project(dir.path(), &url, &bootstrap, "")?;
    }
    let mut all = Fates::default();
    let mut first = Process::start(dirs[0].path(), &["speed"])?;
    let context = Context::open(dirs[0].path()).await?;
    send(&bootstrap, Shape::default(), 0..2_000, &mut all)?;
    landed("the first daemon's landings", &context, 2_000).await?;

    let mut second = Process::start(dirs[1].path(), &["speed"])?;
    send(&bootstrap, Shape::default(), 2_000..6_000, &mut all)?;
    landed("both daemons' landings", &context, 6_000).await?;

    // The first is paused, and its partitions go to the second.
    first.pause()?;
    send(&bootstrap, Shape::default(), 6_000..9_000, &mut all)?;
    landed("the second daemon's landings", &context, 9_000).await?;
    first.go_on()?;
    send(&bootstrap, Shape::default(), 9_000..11_000, &mut all)?;
    landed("landings after the first one woke", &context, 11_000).await?;

    second.kill()?;
    let mut third = Process::start(dirs[2].path(), &["speed"])?;
    send(&bootstrap, Shape::default(), 11_000..13_000, &mut all)?;
    landed("landings after the second one's death", &context, 13_000).await?;
    let dir = dirs[0].path();
    until("`status` shows what both of them read", || async {
        let said = run_well(dir, &["--format", "json", "status"]).await?;
        let status: serde_json::Value = serde_json::from_str(&said)?;
        let list = |name: &str| status[name].as_array().cloned().unwrap_or_default();
        let kafka = list("kafka");
        let read = kafka
            .iter()
            .map(|k| (k["partition"].as_i64(), k["lag_offsets"].as_i64()));
        let all = (0..4).map(|partition| (Some(partition), Some(0)));
        let bounded = |d: &&serde_json::Value| d["bounds"]["memory_bound_bytes"].as_u64() > Some(0);
        Ok(read.eq(all) && list("daemons").iter().filter(bounded).count() == 2)
    })
    .await?;
    third.terminate().await?;
    first.terminate().await?;

    let log = context.log("facts").await?;
    let facts = log.read_between(&Default::default(), &log.head()).await?;
    let mut found = Vec::new();
    for batch in &facts {
        use arrow::array::AsArray;
        use arrow::datatypes::{Int32Type, Int64Type};
        let column = |name: &str| {
            let found = batch.column_by_name(name);
            found.ok_or_else(|| anyhow::anyhow!("no `{name}`"))
        };
        let ids = column("id")?.as_primitive::<Int64Type>();
        let partitions = column("_partition")?.as_primitive::<Int32Type>();
        let offsets = column("_offset")?.as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let (partition, offset) = (partitions.value(row), offsets.value(row));
            found.push((ids.value(row), Place { partition, offset }));
        }
    }
    let tally = all.compare(found);
    anyhow::ensure!(tally.is_exact(), "{tally:?}");
    let by_partition: BTreeMap<_, _> = all.by_partition();
    anyhow::ensure!(by_partition.len() == 4, "{by_partition:?}");
    holds(dirs[0].path())
}

/// Kafka has removed messages before they were read: the topic stops and says which, or records
/// that, as the project says.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_stops_the_topic_or_is_recorded() -> anyhow::Result<()> {
    let mock = Mock::start(1).await?;
    mock.create_topic(TOPIC, 1).await?;
    let bootstrap = mock.bootstrap();
    let dir = tempfile::tempdir()?;
    project(dir.path(), "file://./data", &bootstrap, "")?;
    let mut all = Fates::default();
    send(&bootstrap, Shape::default(), 0..1_000, &mut all)?;
    let daemon = Daemon::start(dir.path()).await?;
    all_there("before the gap", &daemon, &all).await?;
    daemon.stop().await?;

    // The mock keeps 5 MiB of a partition.
    let large = Shape {
        value: |id| {
            let text = anabranch_tests::ledger::line(id);
            let padding = "x".repeat(1_000);
            text.trim_end()
                .replace("}", &format!(", \"padding\": \"{padding}\"}}"))
        },
        ..Default::default()
    };
    let mut later = Fates::default();
    send(&bootstrap, large, 1_000..9_000, &mut later)?;
    let daemon = Daemon::start(dir.path()).await?;
    until("the daemon sees the gap", || async {
        let status = run(dir.path(), &["status"])?;
        Ok(status.said.contains("reading from Kafka has stopped"))
    })
    .await?;
    let rows = daemon.rows("SELECT count(*) FROM facts").await?;
    anyhow::ensure!(rows[0][0] == "1000", "{rows:?}");
    daemon.stop().await?;

    let file = dir.path().join("anabranch.toml");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(
        &file,
        text.replace("brokers =", "on_gap = \"record\"\nbrokers ="),
    )?;
    let daemon = Daemon::start(dir.path()).await?;
    until("the last fact", || async {
        let rows = daemon.rows("SELECT max(id) FROM facts").await?;
        Ok(rows[0][0] == "8999")
    })
    .await?;
    daemon.stop().await?;
    let status = run(dir.path(), &["status"])?;
    anyhow::ensure!(status.said.contains("are lost"), "{}", status.said);
    holds(dir.path())
}

/// Facts whose number came before are left out.
const DEDUP: &str = "[topics.facts.dedup]\nkey = \"id\"\n";

/// Sends facts with keys: what has one number goes to one partition, however often it is sent.
fn send_keyed(bootstrap: &str, facts: std::ops::Range<i64>) -> anyhow::Result<()> {
    let shape = Shape {
        keys: true,
        ..Default::default()
    };
    send(bootstrap, shape, facts, &mut Fates::default())
}

/// The numbers that the log holds must be `0..count`, each once.
async fn each_once(what: &str, dir: &Path, count: i64) -> anyhow::Result<()> {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    let log = Context::open(dir).await?.log("facts").await?;
    let mut found = Vec::new();
    for batch in log.read_between(&Default::default(), &log.head()).await? {
        let ids = batch.column_by_name("id");
        let ids = ids.ok_or_else(|| anyhow::anyhow!("no `id`"))?;
        found.extend_from_slice(ids.as_primitive::<Int64Type>().values());
    }
    found.sort_unstable();
    let expected: Vec<i64> = (0..count).collect();
    anyhow::ensure!(
        found == expected,
        "{what}: {} facts of {count}, the first that differ: {:?}",
        found.len(),
        found.iter().zip(&expected).find(|(a, b)| a != b)
    );
    holds(dir)
}

/// Waits until a daemon has read so many messages of all partitions.
async fn has_read(daemon: &Daemon, messages: i64) -> anyhow::Result<()> {
    until("all messages are read", || async {
        let status = daemon.client.status().await?;
        let lags = status.kafka["facts"].partitions.values();
        Ok(lags.map(|lag| lag.position).sum::<i64>() == messages)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_from_kafka_are_left_out_and_counted() -> anyhow::Result<()> {
    let mock = Mock::start(1).await?;
    mock.create_topic(TOPIC, 3).await?;
    let (dir, bootstrap) = (tempfile::tempdir()?, mock.bootstrap());
    project(dir.path(), "file://./data", &bootstrap, DEDUP)?;
    // Within one partition, and over partitions.
    for _ in 0..2 {
        send_keyed(&bootstrap, 0..1_000)?;
    }
    send(&bootstrap, Shape::default(), 0..500, &mut Fates::default())?;
    let daemon = Daemon::start(dir.path()).await?;
    has_read(&daemon, 2_500).await?;
    let status = daemon.client.status().await?;
    let intake = status.intake["facts"];
    anyhow::ensure!(
        (intake.facts, intake.duplicates, intake.dead_letters) == (1_000, 1_500, 0),
        "{intake:?}"
    );
    let rows = daemon
        .rows("SELECT count(*), count(DISTINCT id) FROM facts")
        .await?;
    anyhow::ensure!(rows == [["1000", "1000"]], "{rows:?}");
    // What comes over HTTP is known by the same keys.
    let (_, answer) = daemon
        .post("facts", &[], anabranch_tests::ledger::line(7).as_bytes())
        .await?;
    anyhow::ensure!(answer["duplicates"] == 1, "{answer}");

    // A kill with facts that have not landed: they are read again.
    send_keyed(&bootstrap, 1_000..6_000)?;
    daemon.kill()?;
    send_keyed(&bootstrap, 500..7_000)?;
    let daemon = Daemon::start(dir.path()).await?;
    has_read(&daemon, 2_500 + 5_000 + 6_500).await?;
    daemon.stop().await?;
    each_once("after a kill", dir.path(), 7_000).await
}

/// A lane that is given up with facts that nobody has landed, and read again by the same daemon:
/// they are not the duplicates of themselves.
#[tokio::test(flavor = "multi_thread")]
async fn facts_of_a_lane_that_was_given_up_are_new_when_they_are_read_again() -> anyhow::Result<()>
{
    let mock = Mock::start(1).await?;
    mock.create_topic(TOPIC, 2).await?;
    let (dir, bootstrap) = (tempfile::tempdir()?, mock.bootstrap());
    project(dir.path(), "file://./data", &bootstrap, DEDUP)?;
    for _ in 0..2 {
        send_keyed(&bootstrap, 0..1_000)?;
    }
    let context = Context::open(dir.path()).await?;
    // Its loops do not run, so nothing lands before it is stopped.
    let daemon = anabranch_jobs::node::open::open(&context).await?;
    let (topics, sources) = (daemon.topics(), daemon.sources());
    let (stream, source) = (&topics["facts"], &sources["facts"]);
    let read = |messages: i64| {
        until("the daemon reads", move || async move {
            let lags = source.state().partitions;
            Ok(lags.values().map(|lag| lag.position).sum::<i64>() == messages)
        })
    };
    read(2_000).await?;
    anyhow::ensure!(stream.with_delta(|d| d.unlanded.facts()) == 1_000);
    let lanes: Vec<_> = source.state().partitions.into_keys().collect();
    let lanes: Vec<_> = lanes.into_iter().map(PartitionId).collect();
    anyhow::ensure!(lanes.len() == 2, "{lanes:?}");
    block_in_place(|| stream.upkeep().leave_lanes(&lanes));
    anyhow::ensure!(!stream.with_delta(|d| lanes.iter().any(|p| d.lanes.contains_key(p))));
    // What comes next finds the lanes given up, and they are read from where they begin.
    send_keyed(&bootstrap, 0..1_500)?;
    read(3_500).await?;
    let held = stream.with_delta(|d| d.unlanded.facts());
    anyhow::ensure!(held == 1_500, "{held} facts");
    daemon.stop().await?;
    drop(daemon);
    each_once("after the lanes were read again", dir.path(), 1_500).await
}

/// Partitions go from a daemon that is paused with facts in memory to another and, when that one is
/// killed, back: of what is sent again and again each number is there once.
#[tokio::test(flavor = "multi_thread")]
async fn daemons_that_share_a_topic_leave_duplicates_out() -> anyhow::Result<()> {
    let Some(broker) = Broker::start().await? else {
        return Ok(());
    };
    broker.create_topic(TOPIC, 4).await?;
    let (bootstrap, storage) = (broker.bootstrap(), tempfile::tempdir()?);
    let url = format!("file://{}", storage.path().display());
    let dirs = [tempfile::tempdir()?, tempfile::tempdir()?];
    for dir in &dirs {
        project(dir.path(), &url, &bootstrap, DEDUP)?;
    }
    // The first lands nothing by itself, so that it is paused with facts in memory.
    let file = dirs[0].path().join("anabranch.toml");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.replace("\"100ms\"", "\"1h\""))?;
    let context = Context::open(dirs[0].path()).await?;
    let mut first = Process::start(dirs[0].path(), &["speed"])?;
    let client = first.ready(&context).await?;
    for _ in 0..2 {
        send_keyed(&bootstrap, 0..2_000)?;
    }
    until("the first daemon reads", || async {
        let status = client.status().await?;
        Ok(status.intake["facts"].facts == 2_000)
    })
    .await?;
    first.pause()?;
    let mut second = Process::start(dirs[1].path(), &["speed"])?;
    send_keyed(&bootstrap, 1_000..3_000)?;
    landed("the second daemon's landings", &context, 3_000).await?;
    first.go_on()?;
    for _ in 0..2 {
        send_keyed(&bootstrap, 2_000..5_000)?;
    }
    second.kill()?;
    send_keyed(&bootstrap, 4_000..6_000)?;
    until("the first daemon has read the rest", || async {
        let status = client.status().await?;
        let lags = &status.kafka["facts"].partitions;
        let at = lags.values().map(|lag| lag.position).sum::<i64>();
        Ok(lags.len() == 4 && at == 14_000)
    })
    .await?;
    first.terminate().await?;
    each_once("at the end", dirs[0].path(), 6_000).await
}

/// Deltas that nobody absorbs fill the memory, and none may be spilled: reading pauses, nothing is
/// lost, and it goes on once they are absorbed.
#[tokio::test(flavor = "multi_thread")]
async fn reading_pauses_while_memory_is_full() -> anyhow::Result<()> {
    const FACTS: i64 = 60_000;
    let mock = Mock::start(1).await?;
    mock.create_topic(TOPIC, 2).await?;
    let bootstrap = mock.bootstrap();
    let dir = tempfile::tempdir()?;
    project(dir.path(), "file://./data", &bootstrap, "")?;
    let file = dir.path().join("anabranch.toml");
    let text = std::fs::read_to_string(&file)?;
    let bounds = "[daemon]\nmemory = \"2MB\"\nspill = \"off\"";
    std::fs::write(&file, text.replace("[daemon]", bounds))?;
    let view = "SELECT id, word, count(*) AS facts, sum(id) AS ids FROM facts GROUP BY id, word";
    std::fs::write(dir.path().join("words.sql"), view)?;
    let mut all = Fates::default();
    send(&bootstrap, Shape::default(), 0..FACTS, &mut all)?;
    let mut daemon = Daemon::start(dir.path()).await?;
    until("reading pauses", || async {
        let (_, text) = daemon.get("/status").await?;
        let status: serde_json::Value = serde_json::from_str(&text)?;
        let paused = status.pointer("/kafka/facts/paused");
        Ok(paused.and_then(serde_json::Value::as_bool) == Some(true))
    })
    .await?;
    anyhow::ensure!(daemon.runs()?);
    until("all is read", || async {
        let ran = run(dir.path(), &["batch", "refresh"])?;
        anyhow::ensure!(ran.code == Some(0), "{}", ran.complained);
        let rows = daemon.rows("SELECT count(*) FROM facts").await?;
        Ok(rows[0][0].parse::<i64>()? >= FACTS)
    })
    .await?;
    all_there("after the pause", &daemon, &all).await?;
    daemon.stop().await
}
