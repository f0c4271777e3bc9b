//! Answers over HTTP: parameters, forms, rows of a view by its keys, and answers larger than memory.

use std::time::{Duration, Instant};

use anabranch_tests::daemon::{Daemon, request, run};
use anabranch_tests::ledger::line;
use anabranch_tests::places;
use anabranch_tests::process::{Setup, until, write_project};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

const JSON: (&str, &str) = ("content-type", "application/json");

struct Asked {
    _dir: tempfile::TempDir,
    daemon: Daemon,
    client: reqwest::Client,
}

impl Asked {
    async fn start() -> anyhow::Result<Self> {
        let dir = places::folder()?;
        let setup = Setup {
            daemon: "[query]\nmemory = \"128MB\"",
            ..Default::default()
        };
        write_project(dir.path(), setup)?;
        let path = dir.path().join("anabranch.toml");
        let text = std::fs::read_to_string(&path)?;
        let more = "[views.days]\nsql = \"days.sql\"\n[doors.postgres]\nlisten = \"127.0.0.1:0\"\n";
        std::fs::write(&path, text + more)?;
        let days =
            "SELECT date_trunc('day', ts) AS day, word, count(*) AS facts FROM facts GROUP BY 1, 2";
        std::fs::write(dir.path().join("days.sql"), days)?;
        let daemon = Daemon::start(dir.path()).await?;
        let body: String = (0..1_000).map(line).collect();
        let (status, answer) = daemon.post("facts", &[], body.as_bytes()).await?;
        anyhow::ensure!(status == 200, "{answer}");
        Ok(Self {
            _dir: dir,
            daemon,
            client: reqwest::Client::builder().no_proxy().build()?,
        })
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.daemon.client.address().http)
    }

    /// The answer to a statement with values, or the error.
    async fn with(&self, sql: &str, parameters: Value) -> anyhow::Result<(u16, Value)> {
        let body = json!({ "sql": sql, "parameters": parameters }).to_string();
        let http = &self.daemon.client.address().http;
        let sent = request("POST", http, "/sql", &[JSON], body.as_bytes());
        let (status, text) = sent.await?;
        Ok((status, serde_json::from_str(&text)?))
    }

    /// The answer to a statement in a form.
    async fn as_form(&self, sql: &str, form: &str) -> anyhow::Result<Bytes> {
        let sent = self.client.post(self.url("/sql")).header("accept", form);
        let sent = sent.body(sql.to_owned()).send().await?;
        anyhow::ensure!(sent.status() == 200, "{sent:?}");
        anyhow::ensure!(sent.headers()["content-type"] == form, "{sent:?}");
        Ok(sent.bytes().await?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_have_values_and_answers_forms() -> anyhow::Result<()> {
    let asked = Asked::start().await?;
    let count = "SELECT count(*) AS n FROM facts WHERE ";
    for (condition, values, expected) in [
        ("id >= $1 AND id < $2", json!([10, 20]), 10),
        ("id = $1", json!([-1]), 0),
        ("id = ANY($1)", json!([[1, 2, 5_000]]), 2),
        ("id IN ($1, $2)", json!([1, 2]), 2),
        ("word = $1", json!(["no such '; DROP TABLE facts; --"]), 0),
        ("ts >= $1", json!(["1970-01-01T00:00:00Z"]), 1_000),
        ("$1 OR id < 3", json!([false]), 3),
        ("word IS NOT DISTINCT FROM $1", json!([null]), 0),
        ("id < $1", json!([2.5]), 3),
    ] {
        let sql = format!("{count}{condition}");
        let (status, answer) = asked.with(&sql, values.clone()).await?;
        anyhow::ensure!(status == 200, "{condition} {values}: {answer}");
        anyhow::ensure!(
            answer == json!([{ "n": expected }]),
            "{condition} {values}: {answer}"
        );
    }
    for (sql, values, part) in [
        ("SELECT $2", json!([1]), "no parameter $2"),
        (
            "SELECT $1",
            json!([{ "a": 1 }]),
            "parameter $1 is an object",
        ),
        ("SELECT $1", json!([[[1]]]), "a list of lists"),
    ] {
        let (status, answer) = asked.with(sql, values).await?;
        let text = answer["error"].as_str().unwrap_or_default();
        anyhow::ensure!(status == 400 && text.contains(part), "{sql}: {answer}");
    }
    let http = &asked.daemon.client.address().http;
    for body in [
        "SELECT 1",
        "{\"sql\": 1}",
        "{\"sq\": \"SELECT 1\"}",
        "[]",
        "",
    ] {
        let (status, text) = request("POST", http, "/sql", &[JSON], body.as_bytes()).await?;
        anyhow::ensure!(
            status == 400 && text.contains("parameters"),
            "{body}: {text}"
        );
    }
    // Each form holds the same.
    let sql = "SELECT id, CASE WHEN id = 1 THEN NULL WHEN id = 2 THEN '' ELSE 'a,\"b\"' END AS t, CASE WHEN id = 2 THEN 'NaN'::double ELSE 0.5 END AS f, count(*), count(*) FROM facts WHERE id < 3 GROUP BY id ORDER BY id";
    let csv = asked.as_form(sql, "text/csv").await?;
    let csv = String::from_utf8_lossy(&csv);
    let expected = "id,t,f,count,count\n0,\"a,\"\"b\"\"\",0.5,1,1\n1,,0.5,1,1\n2,\"\",NaN,1,1\n";
    anyhow::ensure!(csv == expected, "{csv}");
    let said = run(
        &asked.daemon.context.project.dir,
        &["--format", "csv", "sql", "-c", sql],
    )?
    .said;
    anyhow::ensure!(said == expected, "{said}");
    let lines = asked.as_form(sql, "application/x-ndjson").await?;
    let lines = String::from_utf8_lossy(&lines);
    let last = "{\"id\":2,\"t\":\"\",\"f\":\"NaN\",\"count\":1,\"count_2\":1}\n";
    anyhow::ensure!(lines.ends_with(last), "{lines}");
    let array = asked.as_form(sql, "application/json").await?;
    let array: Value = serde_json::from_slice(&array)?;
    anyhow::ensure!(array[2]["f"] == "NaN" && array[1]["t"].is_null(), "{array}");
    let parquet = asked.as_form(sql, "application/vnd.apache.parquet").await?;
    let read = ParquetRecordBatchReaderBuilder::try_new(parquet)?.build()?;
    let read = read.collect::<Result<Vec<_>, _>>()?;
    anyhow::ensure!(read.len() == 1 && read[0].num_rows() == 3, "{read:?}");
    anyhow::ensure!(read[0].column(0).as_primitive::<Int64Type>().value(2) == 2);
    // Nothing is an answer, too.
    let none = "SELECT id, word FROM facts WHERE id < 0";
    for (form, expected) in [
        ("application/json", "[]"),
        ("application/x-ndjson", ""),
        ("text/csv", "id,word\n"),
    ] {
        let empty = asked.as_form(none, form).await?;
        anyhow::ensure!(empty == expected, "{form}: {empty:?}");
    }
    let parquet = asked
        .as_form(none, "application/vnd.apache.parquet")
        .await?;
    let read = ParquetRecordBatchReaderBuilder::try_new(parquet)?;
    anyhow::ensure!(read.schema().fields().len() == 2);
    asked.daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_view_are_looked_up_by_its_keys() -> anyhow::Result<()> {
    let asked = Asked::start().await?;
    let http = asked.daemon.client.address().http.clone();
    let words = asked
        .daemon
        .rows("SELECT word, facts FROM words ORDER BY word")
        .await?;
    let get = async |path: &str| {
        let (status, text) = request("GET", &http, path, &[], b"").await?;
        let read: Value = serde_json::from_str(&text)?;
        anyhow::Ok((status, read))
    };
    let (first, second) = (&words[0], &words[1]);
    let (status, rows) = get(&format!("/views/words?word={}", first[0])).await?;
    anyhow::ensure!(status == 200, "{rows}");
    anyhow::ensure!(
        rows[0]["facts"].as_u64() == first[1].parse().ok() && rows[1].is_null(),
        "{rows}"
    );
    let (_, rows) = get(&format!(
        "/views/words?word={}&word={}",
        first[0], second[0]
    ))
    .await?;
    anyhow::ensure!(
        rows.as_array().is_some_and(|rows| rows.len() == 2),
        "{rows}"
    );
    let (_, rows) = get("/views/words?word=%27%20OR%201=1").await?;
    anyhow::ensure!(rows == json!([]), "{rows}");
    let (_, all) = get("/views/words").await?;
    anyhow::ensure!(all.as_array().map(Vec::len) == Some(words.len()), "{all}");
    let (_, none) = get("/views/words?read=batch").await?;
    anyhow::ensure!(none == json!([]), "nothing was refreshed: {none}");
    // A key of another type is compared as what it is.
    let days = asked.daemon.rows("SELECT DISTINCT day FROM days").await?;
    let day = days[0][0].replace('+', "%2B");
    let path = format!("/views/days?day={day}&word={}", first[0]);
    let (status, rows) = get(&path).await?;
    anyhow::ensure!(
        status == 200 && rows.as_array().is_some_and(|r| r.len() == 1),
        "{rows}"
    );
    for (path, expected, part) in [
        ("/views/words?facts=1", 400, "`facts` is no key of `words`"),
        ("/views/words?wrd=a", 400, "did you mean `word`?"),
        ("/views/words?read=x", 400, "write `merged` or `batch`"),
        ("/views/days?day=yesterday", 400, "yesterday"),
        ("/views/wrds", 404, "did you mean `words`?"),
        ("/views/facts", 404, "there is no view `facts`"),
    ] {
        let (status, answer) = get(path).await?;
        let text = answer["error"].as_str().unwrap_or_default();
        anyhow::ensure!(
            status == expected && text.contains(part),
            "{path}: {status} {answer}"
        );
    }
    asked.daemon.stop().await
}

/// A statement that is asked with a token waits for those facts, and says how far it is where they don't
/// come.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_reads_its_own_writes() -> anyhow::Result<()> {
    let asked = Asked::start().await?;
    let http = asked.daemon.client.address().http.clone();
    let (status, told) = asked
        .daemon
        .post("facts", &[], line(1_000).as_bytes())
        .await?;
    anyhow::ensure!(status == 200 && told["token"] == "facts:0:1001", "{told}");
    let count = "SELECT count(*) AS n FROM facts";
    let ask = async |token: &str| {
        let path = format!("/sql?at_least={token}");
        request("POST", &http, &path, &[], count.as_bytes()).await
    };
    let there = ask("facts:0:1001").await?;
    anyhow::ensure!(there == (200, "[{\"n\":1001}]".to_owned()), "{there:?}");
    // What has not come yet is waited for, at each door.
    let door = asked.daemon.over_postgres().await?;
    door.batch_execute("SET anabranch.at_least = 'facts:0:1101'")
        .await?;
    let over_door = door.query_one("SELECT sum(facts)::bigint FROM words", &[]);
    let look_up = request(
        "GET",
        &http,
        "/views/words?word=w1&at_least=facts:0:1101",
        &[],
        b"",
    );
    let dir = asked.daemon.context.project.dir.clone();
    let shell = tokio::task::spawn_blocking(move || {
        let sql = format!("SET anabranch.at_least = 'facts:0:1101'; {count}");
        run(&dir, &["--format", "csv", "sql", "-qt", "-c", &sql])
    });
    let sending = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let body: String = (1_001..1_101).map(line).collect();
        asked.daemon.post("facts", &[], body.as_bytes()).await
    };
    let begun = Instant::now();
    let over_http = ask("facts:0:1101,other:0:7");
    let (over_door, over_http, look_up, (status, told)) =
        tokio::try_join!(async { Ok(over_door.await?) }, over_http, look_up, sending)?;
    anyhow::ensure!(status == 200 && told["token"] == "facts:0:1101", "{told}");
    anyhow::ensure!(begun.elapsed() >= Duration::from_millis(500));
    anyhow::ensure!(
        over_http == (200, "[{\"n\":1101}]".to_owned()),
        "{over_http:?}"
    );
    anyhow::ensure!(over_door.get::<_, i64>(0) == 1_101, "{over_door:?}");
    anyhow::ensure!(look_up.0 == 200, "{look_up:?}");
    let said = shell.await??;
    anyhow::ensure!(said.said.trim() == "1101", "{said:?}");
    // What does not come is no smaller answer.
    let (status, text) = ask("facts:0:5000").await?;
    anyhow::ensure!(
        status == 503 && text.contains("those up to 1101"),
        "{status} {text}"
    );
    let (status, text) = ask("facts:0").await?;
    anyhow::ensure!(
        status == 400 && text.contains("is no place in a topic"),
        "{status} {text}"
    );
    let e = door.batch_execute("SET anabranch.at_least = 'facts'").await;
    anyhow::ensure!(e.is_err());
    asked.daemon.stop().await
}

/// The bytes of memory that the daemon has in use.
fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kb = line.unwrap_or_default().trim().trim_end_matches(" kB");
    Ok(kb.trim().parse::<u64>()? * 1_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_goes_over_as_it_is_read() -> anyhow::Result<()> {
    let asked = Asked::start().await?;
    let pid = asked.daemon.client.address().pid;
    let before = resident(pid)?;
    // 600 MB, of a daemon whose queries have 128 MB.
    let sql = "SELECT value, repeat('x', 200) AS x FROM generate_series(1, 2800000)";
    for form in [
        "application/x-ndjson",
        "application/vnd.apache.arrow.stream",
        "text/csv",
    ] {
        let sent = asked.client.post(asked.url("/sql")).header("accept", form);
        let mut answer = sent.body(sql).send().await?;
        anyhow::ensure!(answer.status() == 200 && answer.content_length().is_none());
        let (mut bytes, mut most, mut end) = (0, 0, Bytes::new());
        while let Some(chunk) = answer.chunk().await? {
            bytes += chunk.len();
            if bytes % 64 == 0 {
                most = most.max(resident(pid)?);
            }
            end = chunk;
        }
        anyhow::ensure!(bytes > 500_000_000, "{form}: {bytes}");
        anyhow::ensure!(most < before + 400_000_000, "{form}: {before} → {most}");
        if form == "application/x-ndjson" {
            let text = String::from_utf8_lossy(&end).into_owned();
            anyhow::ensure!(text.ends_with("x\"}\n"), "{text}");
        }
    }
    // Whoever reads no further, or leaves, holds nothing.
    let sent = asked
        .client
        .post(asked.url("/sql"))
        .body(sql)
        .send()
        .await?;
    let begun = Instant::now();
    drop(sent);
    anabranch_tests::process::until("its query has ended", async || {
        Ok(asked.daemon.client.queries().await?.is_empty())
    })
    .await?;
    anyhow::ensure!(begun.elapsed() < Duration::from_secs(10));
    // What fails early has its status; what fails late is cut off, and every client sees that.
    let early =
        "SELECT 1 / (value % 1) AS a, repeat('x', 100) AS x FROM generate_series(1, 3000000)";
    let late =
        "SELECT 1 / (value - 2900000) AS a, repeat('x', 100) AS x FROM generate_series(1, 3000000)";
    let mut cut_off = 0;
    for form in ["application/x-ndjson", "application/json", "text/csv"] {
        let ask = |sql: &str| {
            let sent = asked.client.post(asked.url("/sql")).header("accept", form);
            sent.body(sql.to_owned()).send()
        };
        let answer = ask(early).await?;
        anyhow::ensure!(answer.status() == 400, "{answer:?}");
        let answer = ask(late).await?;
        // As a rule a megabyte is there first.
        if answer.status() == 200 {
            cut_off += 1;
            let read = answer.bytes().await;
            anyhow::ensure!(
                read.is_err(),
                "{form}: {} bytes",
                read.map_or(0, |b| b.len())
            );
        }
    }
    anyhow::ensure!(cut_off > 0);
    asked.daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn how_fresh_all_is_can_be_asked() -> anyhow::Result<()> {
    let asked = Asked::start().await?;
    asked.daemon.landed("facts", 1_000).await?;
    let ran = run(asked._dir.path(), &["batch", "refresh", "words"])?;
    anyhow::ensure!(ran.code == Some(0), "{ran:?}");
    let body: String = (1_000..1_050).map(line).collect();
    asked.daemon.post("facts", &[], body.as_bytes()).await?;
    let sql = "SELECT relation, kind, topic, in_delta, head, age_seconds < 60 AS is_young FROM anabranch_freshness() WHERE in_delta IS NULL OR in_delta > $1 ORDER BY relation";
    // The daemon follows the refresh.
    let followed = "SELECT count(*) AS n FROM anabranch_freshness() WHERE relation = 'words' AND in_delta = $1";
    until("the daemon follows", async || {
        Ok(asked.with(followed, json!([50])).await?.1 == json!([{ "n": 1 }]))
    })
    .await?;
    let (status, rows) = asked.with(sql, json!([0])).await?;
    let row = |relation: &str, kind: &str, in_delta: Option<u64>| {
        json!({
            "relation": relation, "kind": kind, "topic": "facts", "in_delta": in_delta,
            "head": "0:1050", "is_young": true,
        })
    };
    let expected = json!([
        row("days", "view", Some(1_050)),
        row("facts", "topic", None),
        row("words", "view", Some(50)),
    ]);
    anyhow::ensure!(status == 200 && rows == expected, "{rows}");
    // As of then, beside what is read then, and at another door.
    let sql = "SELECT max(in_delta) AS n, (SELECT count(*) FROM facts) AS facts FROM anabranch_freshness() f WHERE f.relation = 'words'";
    let http = &asked.daemon.client.address().http;
    let then = request("POST", http, "/sql?as_of=facts:0:1000", &[], sql.as_bytes());
    let (_, text) = then.await?;
    anyhow::ensure!(text.contains("\"n\":0,\"facts\":1000"), "{text}");
    let door = asked.daemon.over_postgres().await?;
    let row = door.query_one(sql, &[]).await?;
    let told: (i64, i64) = (row.get(0), row.get(1));
    anyhow::ensure!(told == (50, 1_050), "{told:?}");
    let (status, said) = asked
        .with("SELECT * FROM anabranch_freshness(1)", json!([]))
        .await?;
    anyhow::ensure!(
        status == 400 && said["error"].to_string().contains("takes no arguments"),
        "{said}"
    );
    let Asked { daemon, .. } = asked;
    daemon.stop().await
}
