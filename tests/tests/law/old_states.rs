//! Stored formats. A small project as version 0.1.0 stored it is checked in and must stay readable, and is gone on with
//! as it is; the same with states of another format is refused, with the command that mends it, and never merged.
//!
//! `fixtures/0.1.0/project` was made by `ingest` of 40 facts, `batch rebuild`, `ingest` of 20 more, `batch refresh`,
//! `ingest` of 5 more and a dead letter, and a daemon that was killed when it had acknowledged 2 facts and a dead letter
//! and not yet landed them. A fixture stays as it is; a new format gets another one beside it.
//!
//! The daemons of two versions on one storage stand at the end: what 0.1.0 said and heard between processes is written
//! down here as its code had it, with states and facts that it stored.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anabranch_shared::WallClock;
use anabranch_shared::view::{Definition, View};
use anabranch_tests::daemon::{Daemon, Ran, request, run};
use anabranch_tests::places;
use arrow::array::{Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/0.1.0/project")
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &target)?,
            false => {
                std::fs::copy(entry.path(), &target)?;
            }
        }
    }
    Ok(())
}

/// The files below a folder whose text holds `wanted`.
fn holding(dir: &Path, wanted: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(holding(&path, wanted)?);
        } else if let Ok(text) = std::fs::read_to_string(&path)
            && text.contains(wanted)
        {
            found.push(path);
        }
    }
    Ok(found)
}

/// The queries, and the answers that the fixture must give.
const ANSWERS: [(&str, &str); 3] = [
    (
        "SELECT word, facts, ids, different, about, mean, latest FROM words ORDER BY word NULLS LAST",
        "word,facts,ids,different,about,mean,latest
w0,17,543,7,17,4.0673076923076925,2026-01-28T03:27:00Z
w1,19,656,7,19,4.048076923076923,2026-02-01T00:01:00Z
w2,18,627,7,18,3.875,2026-02-01T00:00:00Z
,13,390,7,13,3.75,2026-01-28T07:55:00Z
",
    ),
    (
        "SELECT id, word FROM latest ORDER BY id",
        "id,word\n1,w1\n11,w2\n21,w0\n31,w1\n41,w2\n51,w0\n61,w1\n71,w1\n",
    ),
    (
        "SELECT _partition, _offset, line, field, CAST(raw AS VARCHAR) AS raw FROM dead_letters ORDER BY 1, 2",
        "_partition,_offset,line,field,raw
0,65,6,,no fact
1,1,2,ts,\"{\"\"ts\"\":\"\"soon\"\"}\"
",
    ),
];

fn ask(dir: &Path, sql: &str) -> anyhow::Result<Ran> {
    run(dir, &["--format", "csv", "sql", "-c", sql])
}

/// Asks for everything, of the daemon where one runs.
fn check_answers(dir: &Path, when: &str) -> anyhow::Result<()> {
    for (sql, expected) in ANSWERS {
        let ran = ask(dir, sql)?;
        anyhow::ensure!(ran.said == expected, "{when}: {sql}: {ran:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_0_1_0_stored_stays_readable() -> anyhow::Result<()> {
    let dir = places::folder()?;
    copy(&fixture(), dir.path())?;
    check_answers(dir.path(), "as it was left")?;
    let daemon = Daemon::start(dir.path()).await?;
    check_answers(dir.path(), "by a daemon that has replayed the WAL")?;
    daemon.stop().await?;
    check_answers(dir.path(), "after the rest has landed")?;
    let refreshed = run(dir.path(), &["batch", "refresh"])?;
    anyhow::ensure!(refreshed.code == Some(0), "{refreshed:?}");
    check_answers(dir.path(), "after a refresh")?;
    let verified = run(dir.path(), &["verify"])?;
    anyhow::ensure!(verified.code == Some(0), "{verified:?}");
    Ok(())
}

/// How the format of the view `words` begins in the fixture, in the same made another's, and as this version makes it.
const STORED: &str = "1 datafusion 55.2.0 Utf8View";
const OLD: &str = "1 datafusion 53.1.0 Utf8View";
const PRESENT: &str = "2 Utf8View";

/// A copy of the fixture whose view `words` has states of another format, as its table alone says, or its definition
/// too.
fn old_project(dir: &Path, definition_too: bool) -> anyhow::Result<()> {
    copy(&fixture(), dir)?;
    let store = dir.join("store");
    let mut files = holding(&store.join("views/words"), STORED)?;
    anyhow::ensure!(
        files.len() == 1,
        "the table names its format once: {files:?}"
    );
    if definition_too {
        let entries = holding(&store.join("catalogue"), STORED)?;
        anyhow::ensure!(
            !entries.is_empty(),
            "the catalogue does not name the format"
        );
        files.extend(entries);
    }
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        std::fs::write(&file, text.replace(STORED, OLD))?;
    }
    Ok(())
}

/// A refusal names both formats and the command that mends it.
fn check_refused(what: &str, message: &str) -> anyhow::Result<()> {
    for part in [
        "`words`",
        OLD,
        PRESENT,
        "run `anabranch batch rebuild words`",
    ] {
        anyhow::ensure!(message.contains(part), "{what}: no `{part}` in: {message}");
    }
    Ok(())
}

fn check_all_refused(dir: &Path) -> anyhow::Result<()> {
    let [words, others @ ..] = ANSWERS;
    for arguments in [
        &["sql", "-c", words.0][..],
        &["batch", "refresh", "words"],
        &["verify", "words"],
    ] {
        let ran = run(dir, arguments)?;
        anyhow::ensure!(
            ran.code.is_some_and(|code| code >= 64)
                && (ran.said.is_empty() || ran.said.starts_with("words: not compared: ")),
            "{arguments:?}: {ran:?}"
        );
        check_refused(&arguments.join(" "), &ran.complained)?;
    }
    let status = run(dir, &["--format", "json", "status"])?;
    anyhow::ensure!(status.code == Some(0), "{status:?}");
    check_refused(
        "status",
        &serde_json::from_str::<serde_json::Value>(&status.said)?["notes"]
            .to_string()
            .replace('\\', ""),
    )?;
    for (sql, expected) in others {
        let ran = ask(dir, sql)?;
        anyhow::ensure!(ran.said == expected, "{sql}: {ran:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn states_of_another_format_are_refused_until_a_rebuild() -> anyhow::Result<()> {
    for definition_too in [false, true] {
        for by_daemon in [false, true] {
            let dir = places::folder()?;
            old_project(dir.path(), definition_too)?;
            let daemon = match by_daemon {
                true => Some(Daemon::start(dir.path()).await?),
                false => None,
            };
            check_all_refused(dir.path())?;
            let rebuilt = run(dir.path(), &["batch", "rebuild", "words"])?;
            anyhow::ensure!(rebuilt.code == Some(0), "{rebuilt:?}");
            if let Some(daemon) = &daemon {
                daemon.serves_all().await?;
            }
            check_answers(dir.path(), "after the rebuild")?;
            let verified = run(dir.path(), &["verify"])?;
            anyhow::ensure!(verified.code == Some(0), "{verified:?}");
            let status = run(dir.path(), &["--format", "json", "status"])?;
            anyhow::ensure!(status.said.contains("\"notes\":[]"), "{status:?}");
        }
    }
    Ok(())
}

/// The WAL of the fixture, whose daemon fills partition 1.
const WAL: &str = "7ec70a9e-d5eb-40c4-aeb4-e27d4d49f794";

/// The facts that the fixture's refresh absorbed, and their states.
const TAIL: i64 = 20;
const TAIL_FACTS: &str = "topics/facts/log/part-b89dbd3d-e04e-43c1-a27d-9a15e3d06350.parquet";
const TAIL_STATES: &str = "views/words/g1/part-0ae1d2e8-e8ba-4f40-aa1b-3bd354343779.parquet";
const DEAD_LETTERS: &str =
    "topics/facts/dead_letters/part-0d85f689-0800-42ad-a759-5f0381ebead5.parquet";

/// The rows of a file of the fixture's storage.
fn stored(file: &str) -> anyhow::Result<RecordBatch> {
    let file = File::open(fixture().join("store").join(file))?;
    let mut reader = ParquetRecordBatchReaderBuilder::try_new(file)?.build()?;
    let first = reader.next();
    Ok(first.ok_or_else(|| anyhow::anyhow!("no rows"))??)
}

/// Rows at other places: in partition 1, from an offset on.
fn placed(rows: &RecordBatch, from: i64) -> anyhow::Result<RecordBatch> {
    let count = rows.num_rows();
    let mut columns = rows.columns().to_vec();
    let partitions: ArrayRef = Arc::new(Int32Array::from(vec![1; count]));
    let offsets: ArrayRef = Arc::new(Int64Array::from_iter_values((from..).take(count)));
    for (name, values) in [("_partition", partitions), ("_offset", offsets)] {
        columns[rows.schema().index_of(name)?] = values;
    }
    Ok(RecordBatch::try_new(rows.schema(), columns)?)
}

/// A section of an answer as 0.1.0 wrote it.
fn section(schema: &SchemaRef, rows: &[RecordBatch]) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut writer = StreamWriter::try_new(&mut out, schema)?;
    rows.iter().try_for_each(|rows| writer.write(rows))?;
    writer.finish()?;
    drop(writer);
    Ok(out)
}

/// The definition of `words` as 0.1.0 stored it in its catalogue.
fn former_definition() -> anyhow::Result<Value> {
    let entry = fixture().join("store/catalogue/00000000000000000007.json");
    let entry: Value = serde_json::from_str(&std::fs::read_to_string(entry)?)?;
    Ok(entry["views"]["words"]["live"]["definition"].clone())
}

/// What a daemon of 0.1.0 answers that holds the tail of the fixture and a dead letter, not landed.
fn former_answer(asked: &Value) -> anyhow::Result<Vec<u8>> {
    let (mut views, mut sections) = (Vec::new(), Vec::new());
    for view in asked["views"].as_array().into_iter().flatten() {
        // It knew no other format, and refused a generation of one.
        anyhow::ensure!(
            view["name"] == "words" && view["definition"] == former_definition()?,
            "another view is wanted: {view}"
        );
        let definition: Definition = serde_json::from_value(view["definition"].clone())?;
        let (in_memory, _) = View::from_definition("words", &definition)?.to_send(&[])?;
        let at_rest = stored(TAIL_STATES)?;
        let columns = at_rest.columns().iter().zip(in_memory.fields());
        let columns = columns.map(|(column, field)| cast(column, field.data_type()));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let states = RecordBatch::try_new(in_memory.clone(), columns)?;
        let bytes = section(&in_memory, &[states])?;
        let format = &definition.state_format;
        views.push(json!({ "name": "words", "state_format": format, "bytes": bytes.len() }));
        sections.extend(bytes);
    }
    let part = |wanted: &str, rows: RecordBatch| match asked[wanted] == true {
        true => section(&rows.schema(), std::slice::from_ref(&rows)),
        false => section(&rows.schema(), &[]),
    };
    let facts = part("facts", placed(&stored(TAIL_FACTS)?, 0)?)?;
    let dead = part("dead_letters", placed(&stored(DEAD_LETTERS)?, TAIL)?)?;
    let header = json!({
        "lanes": [[1, { "start": 0, "end": TAIL + 1 }]],
        "views": views, "facts_bytes": facts.len(), "dead_bytes": dead.len(), "notes": [],
    });
    let header = header.to_string();
    let length = u32::try_from(header.len())?.to_le_bytes();
    let parts = [
        b"ABDELTA\x01",
        &length[..],
        header.as_bytes(),
        &sections,
        &facts,
        &dead,
    ];
    Ok(parts.concat())
}

/// Answers one request as a daemon of 0.1.0 did. What was asked for a delta is kept.
async fn answer_as_former(
    mut stream: TcpStream,
    id: String,
    asked: Arc<Mutex<Vec<Value>>>,
) -> anyhow::Result<()> {
    let mut came = Vec::new();
    let (head, mut body) = loop {
        let mut part = [0; 4_096];
        let n = stream.read(&mut part).await?;
        anyhow::ensure!(n > 0, "no request");
        came.extend_from_slice(&part[..n]);
        if let Some(end) = came.windows(4).position(|w| w == b"\r\n\r\n") {
            let body = came.split_off(end + 4);
            break (String::from_utf8(came)?.to_lowercase(), body);
        }
    };
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "));
    let length: usize = length.unwrap_or("0").trim().parse()?;
    while body.len() < length {
        let mut part = [0; 4_096];
        let n = stream.read(&mut part).await?;
        anyhow::ensure!(n > 0, "the request is cut");
        body.extend_from_slice(&part[..n]);
    }
    let (status, kind, answer) = match head.split_whitespace().nth(1) {
        Some("/health") => {
            let answer = json!({ "status": "ok", "id": id, "pid": 1 }).to_string();
            ("200 OK", "application/json", answer.into_bytes())
        }
        Some("/peers") => ("204 No Content", "text/plain", Vec::new()),
        Some("/delta") => {
            let wanted: Value = serde_json::from_slice(&body)?;
            anyhow::ensure!(
                wanted["wal"] == WAL && wanted["topic"] == "facts",
                "{wanted}"
            );
            let answer = former_answer(&wanted)?;
            asked.lock().map(|mut asked| asked.push(wanted)).ok();
            ("200 OK", "application/vnd.anabranch.delta", answer)
        }
        other => anyhow::bail!("0.1.0 is not asked for {other:?} by daemons"),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        answer.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&answer).await?;
    Ok(stream.shutdown().await?)
}

/// A daemon of this version gathers what one of 0.1.0 holds, in facts, states and dead letters.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_gathers_from_one_of_0_1_0() -> anyhow::Result<()> {
    let dir = places::folder()?;
    copy(&fixture(), dir.path())?;
    // The WAL is that of the other machine.
    std::fs::remove_dir_all(dir.path().join("wal"))?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let http = listener.local_addr()?.to_string();
    let id = "4f9d0f0e-9f0c-4a7e-8f6d-000000000010".to_owned();
    let now = WallClock::default().now_ms();
    let address = json!({
        "id": id, "wal": WAL, "http": http, "local": http, "host": "another", "pid": 1,
        "partitions": { "facts": [1] }, "reads": {}, "started_at_ms": 0,
        "seen_at_ms": now,
    });
    let daemons = dir.path().join("store/daemons");
    std::fs::create_dir_all(&daemons)?;
    std::fs::write(daemons.join(format!("{WAL}.json")), address.to_string())?;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let troubles = Arc::new(Mutex::new(Vec::new()));
    let former = tokio::spawn({
        let (asked, troubles) = (asked.clone(), troubles.clone());
        async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answered = answer_as_former(stream, id.clone(), asked.clone());
                if let Err(e) = answered.await {
                    troubles.lock().map(|mut all| all.push(e.to_string())).ok();
                }
            }
        }
    });
    let daemon = Daemon::start(dir.path()).await?;
    let of_view =
        "SELECT word, facts, ids, different, about, mean, latest FROM words ORDER BY word";
    let of_facts = "SELECT word, count(*), sum(id), count(DISTINCT id % 7), approx_distinct(id), avg(score), max(ts) FROM facts GROUP BY word ORDER BY word";
    let answer = daemon.rows(of_view).await;
    let told = || {
        troubles
            .lock()
            .map(|all| all.join("; "))
            .unwrap_or_default()
    };
    let answer = answer.map_err(|e| anyhow::anyhow!("{e}: {}", told()))?;
    anyhow::ensure!(
        answer == daemon.rows(of_facts).await?,
        "{answer:?}: {}",
        told()
    );
    // 65 facts have landed; the tail of them is there once more.
    let sums = "SELECT sum(facts), sum(ids), count(*) FROM words";
    let ids: i64 = (0..65).chain(40..60).sum();
    let all = daemon.rows(sums).await?;
    anyhow::ensure!(all == [["85", &ids.to_string(), "4"]], "{all:?}");
    let dead = "SELECT _partition, _offset FROM dead_letters ORDER BY 1, 2";
    let dead = daemon.rows(dead).await?;
    anyhow::ensure!(dead == [["0", "65"], ["1", "20"]], "{dead:?}");
    let asked = asked.lock().map(|asked| asked.clone()).unwrap_or_default();
    let wants = |what: &str| asked.iter().any(|a| a[what] == true);
    anyhow::ensure!(
        wants("facts") && wants("dead_letters") && told().is_empty(),
        "{asked:?} {}",
        told()
    );
    daemon.kill()?;
    former.abort();
    Ok(())
}

/// A daemon of 0.1.0 gathers what one of this version holds: it asks as it did, and reads the answer
/// as it did.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_answers_one_of_0_1_0() -> anyhow::Result<()> {
    let dir = places::folder()?;
    copy(&fixture(), dir.path())?;
    let daemon = Daemon::start(dir.path()).await?;
    let definition = former_definition()?;
    let asked = json!({
        "wal": WAL, "topic": "facts", "from": { "0": 66, "1": 0 },
        "views": [{ "name": "words", "definition": definition }],
        "facts": true, "dead_letters": true, "except": [],
    });
    let sent = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("http://{}/delta", daemon.client.address().http);
    let answer = sent.post(url).body(asked.to_string()).send().await?;
    let kind = answer.headers().get("content-type").cloned();
    anyhow::ensure!(
        answer.status() == 200 && kind.is_some_and(|k| k == "application/vnd.anabranch.delta"),
        "{}",
        answer.text().await?
    );
    let body = answer.bytes().await?;
    anyhow::ensure!(body.starts_with(b"ABDELTA\x01"));
    let length = u32::from_le_bytes(body[8..12].try_into()?) as usize;
    let header: Value = serde_json::from_slice(&body[12..12 + length])?;
    let lanes = json!([[1, { "start": 0, "end": 3 }]]);
    anyhow::ensure!(
        header["lanes"] == lanes && header["notes"] == json!([]),
        "{header}"
    );
    let [view] = header["views"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
    else {
        anyhow::bail!("{header}");
    };
    // It took states of its own format alone.
    anyhow::ensure!(
        view["name"] == "words" && view["state_format"] == definition["state_format"],
        "{view}"
    );
    let mut rest = &body[12 + length..];
    let mut take = |bytes: &Value| {
        let bytes = bytes.as_u64().and_then(|n| usize::try_from(n).ok());
        let bytes = bytes.ok_or_else(|| anyhow::anyhow!("{header}"))?;
        let (section, after) = rest.split_at(bytes);
        rest = after;
        let reader = StreamReader::try_new(section, None)?;
        let schema = reader.schema();
        let rows = reader.collect::<Result<Vec<_>, _>>()?;
        anyhow::Ok(arrow::compute::concat_batches(&schema, &rows)?)
    };
    let (states, facts, dead) = (
        take(&view["bytes"])?,
        take(&header["facts_bytes"])?,
        take(&header["dead_bytes"])?,
    );
    let types: Vec<String> = states
        .columns()
        .iter()
        .map(|c| c.data_type().to_string())
        .collect();
    let as_it_had = [
        "Utf8View",
        "Int64",
        "Int64",
        "List(Int64)",
        "Binary",
        "UInt64",
        "Float64",
        "Timestamp(µs, \"UTC\")",
    ];
    anyhow::ensure!(types == as_it_had, "{types:?}");
    let total =
        |column: &ArrayRef| -> i64 { column.as_primitive::<Int64Type>().iter().flatten().sum() };
    let ids = facts.column_by_name("id").map(total);
    anyhow::ensure!(
        facts.num_rows() == 2 && dead.num_rows() == 1 && total(states.column(1)) == 2,
        "{facts:?} {dead:?} {states:?}"
    );
    anyhow::ensure!(Some(total(states.column(2))) == ids, "{states:?} {facts:?}");
    // The columns of facts that it knew, in their order.
    let names: Vec<String> = facts
        .schema()
        .fields()
        .iter()
        .map(|f| f.name().clone())
        .collect();
    anyhow::ensure!(
        names
            == [
                "ts",
                "id",
                "word",
                "score",
                "_extra",
                "_partition",
                "_offset",
                "_ingested_at"
            ],
        "{names:?}"
    );
    // Another daemon is meant that had this address before.
    let other = json!({ "wal": "another", "topic": "facts", "from": {}, "views": [], "facts": false, "dead_letters": false });
    let http = &daemon.client.address().http;
    let (status, _) = request("POST", http, "/delta", &[], other.to_string().as_bytes()).await?;
    anyhow::ensure!(status == 421, "{status}");
    daemon.kill()
}
