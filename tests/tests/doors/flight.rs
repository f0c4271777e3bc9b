//! The door of Arrow Flight SQL: a client in Rust, messages that no client sends, and, where it is
//! there, ADBC's driver in Python. What is answered is what `POST /sql` answers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anabranch_tests::daemon::{Daemon, run, shown};
use anabranch_tests::flight::{address, client, fetched, of_arrow, rows, status};
use anabranch_tests::ledger::line;
use anabranch_tests::places;
use anabranch_tests::process::{Setup, run_well, until, write_project};
use anabranch_tests::skip::skipped;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::concat_batches;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{
    Any, CommandGetDbSchemas, CommandGetPrimaryKeys, CommandGetTables, CommandStatementIngest,
    ProstMessageExt, SqlInfo, TableDefinitionOptions, TableExistsOption, TableNotExistOption,
    TicketStatementQuery,
};
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo, Ticket,
};
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::Channel;

use super::users::Guarded;

const DOOR: &str = "[doors.flight]\nlisten = \"127.0.0.1:0\"";

/// A daemon with the door.
async fn doored(more: &str) -> anyhow::Result<(tempfile::TempDir, Daemon)> {
    let dir = places::folder()?;
    write_project(dir.path(), Setup::default())?;
    let path = dir.path().join("anabranch.toml");
    let text = std::fs::read_to_string(&path)?;
    std::fs::write(&path, format!("{text}\n{DOOR}\n{more}\n"))?;
    let daemon = Daemon::start(dir.path()).await?;
    Ok((dir, daemon))
}

async fn send(daemon: &Daemon, ids: std::ops::Range<i64>) -> anyhow::Result<()> {
    let body: String = ids.map(line).collect();
    let (status, answer) = daemon.post("facts", &[], body.as_bytes()).await?;
    anyhow::ensure!(status == 200, "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_asks_and_is_answered() -> anyhow::Result<()> {
    let (_dir, daemon) = doored("").await?;
    send(&daemon, 0..1_000).await?;
    let mut client = client(&daemon, "").await?;
    for sql in [
        "SELECT word, facts, ids FROM words ORDER BY word",
        "SELECT count(*), max(ts), min(word) FROM facts WHERE id >= 100",
        "SELECT NULL AS a, 'ü' AS b, 1.5 AS c, X'00ff' AS d, [1, NULL] AS e, DATE '2026-01-01' AS f",
        "SELECT * FROM words WHERE false",
    ] {
        let info = client.execute(sql.to_owned(), None).await?;
        let told = info.clone().try_decode_schema()?;
        let found = fetched(&mut client, info).await?;
        for batch in &found {
            anyhow::ensure!(batch.schema().as_ref() == &told, "{sql}: {told:?}");
        }
        let expected = daemon.rows(sql).await?;
        anyhow::ensure!(shown(&found)? == expected, "{sql}: {found:?}");
    }
    // Parameters: their types are told, and the values that are bound decide.
    let sql = "SELECT id, word FROM facts WHERE id > $1 AND word <> $2 ORDER BY id LIMIT $3";
    let mut prepared = client.prepare(sql.to_owned(), None).await?;
    let types: Vec<String> = prepared
        .parameter_schema()?
        .fields()
        .iter()
        .map(|f| f.data_type().to_string())
        .collect();
    anyhow::ensure!(types == ["Int64", "Utf8", "Int64"], "{types:?}");
    for after in [10, 500, 997] {
        let values: Vec<(&str, ArrayRef)> = vec![
            ("a", Arc::new(Int64Array::from(vec![after]))),
            ("b", Arc::new(StringArray::from(vec!["it's nothing"]))),
            ("c", Arc::new(Int64Array::from(vec![3]))),
        ];
        prepared.set_parameters(RecordBatch::try_from_iter(values)?)?;
        let info = prepared.execute().await?;
        let found = shown(&fetched(&mut client, info).await?)?;
        let first = found.first().map(|row| row[0].clone());
        anyhow::ensure!(
            first == Some((after + 1).to_string()) && found.len() == 3.min(999 - after as usize),
            "{found:?}"
        );
    }
    // Without values nothing is executed.
    let unbound = client.prepare(sql.to_owned(), None).await?.execute().await;
    let e = unbound.map_err(of_arrow).err();
    anyhow::ensure!(
        e.as_ref()
            .is_some_and(|e| e.message().contains("3 parameters, and 0 came")),
        "{e:?}"
    );
    // How fresh it is comes with the first message.
    let info = client
        .execute("SELECT sum(facts) AS n FROM words".to_owned(), None)
        .await?;
    let ticket = info.endpoint[0].ticket.clone().unwrap_or_default();
    let messages = client.inner_mut().do_get(ticket).await?.into_inner();
    let messages: Vec<_> = messages.try_collect().await?;
    let about: Value = serde_json::from_slice(&messages[0].app_metadata)?;
    anyhow::ensure!(
        about["freshness"]
            .as_str()
            .is_some_and(|f| f.starts_with("words: up to [")),
        "{about}"
    );
    for (sql, code) in [
        ("SELEC 1", Code::InvalidArgument),
        ("SELECT * FROM nowhere", Code::NotFound),
        ("SELECT 1 / 0", Code::InvalidArgument),
        ("SET anabranch.read = 'batch'", Code::InvalidArgument),
        ("DROP TABLE facts", Code::InvalidArgument),
        ("COPY facts TO 'x'", Code::InvalidArgument),
        ("SELECT * FROM read_csv('/etc/passwd')", Code::NotFound),
    ] {
        let e = rows(&mut client, sql).await.err();
        anyhow::ensure!(e.as_ref().is_some_and(|e| e.code() == code), "{sql}: {e:?}");
    }
    let updated = client.execute_update("DELETE FROM facts".to_owned(), None);
    anyhow::ensure!(updated.await.is_err());
    daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_is_listed() -> anyhow::Result<()> {
    let (_dir, daemon) = doored("").await?;
    let mut client = client(&daemon, "").await?;
    let info = client.get_catalogs().await?;
    let found = shown(&fetched(&mut client, info).await?)?;
    anyhow::ensure!(found == [["anabranch"]], "{found:?}");
    let info = client
        .get_db_schemas(CommandGetDbSchemas::default())
        .await?;
    let found = shown(&fetched(&mut client, info).await?)?;
    anyhow::ensure!(found == [["anabranch", "public"]], "{found:?}");
    let asked = CommandGetTables {
        table_name_filter_pattern: Some("w%".to_owned()),
        include_schema: true,
        ..Default::default()
    };
    let info = client.get_tables(asked).await?;
    let told = info.clone().try_decode_schema()?;
    let found = fetched(&mut client, info).await?;
    anyhow::ensure!(found[0].schema().as_ref() == &told);
    let names: Vec<_> = shown(&[found[0].project(&[1, 2, 3])?])?;
    anyhow::ensure!(names == [["public", "words", "VIEW"]], "{names:?}");
    let keys = CommandGetPrimaryKeys {
        table: "words".to_owned(),
        ..Default::default()
    };
    let info = client.get_primary_keys(keys).await?;
    let told = info.clone().try_decode_schema()?;
    let found = fetched(&mut client, info).await?;
    anyhow::ensure!(found[0].schema().as_ref() == &told);
    let expected = [["anabranch", "public", "words", "word", "words_key", "1"]];
    anyhow::ensure!(shown(&found)? == expected, "{found:?}");
    let info = client
        .get_sql_info(vec![SqlInfo::FlightSqlServerName])
        .await?;
    let found = fetched(&mut client, info).await?;
    anyhow::ensure!(found[0].num_rows() == 1, "{found:?}");
    let info = client.get_table_types().await?;
    let found = shown(&fetched(&mut client, info).await?)?;
    anyhow::ensure!(found == [["TABLE"], ["VIEW"]], "{found:?}");
    let info = client
        .get_xdbc_type_info(arrow_flight::sql::CommandGetXdbcTypeInfo { data_type: None })
        .await?;
    let found = fetched(&mut client, info).await?;
    anyhow::ensure!(found[0].num_rows() == 12, "{found:?}");
    daemon.stop().await
}

fn facts(ids: std::ops::Range<i64>) -> anyhow::Result<RecordBatch> {
    let times = ids.clone().map(|id| 1_700_000_000_000_000 + id);
    let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
    let words = StringArray::from_iter_values(ids.clone().map(|id| format!("w{}", id % 7)));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("ts", Arc::new(times)),
        ("id", Arc::new(Int64Array::from_iter_values(ids))),
        ("word", Arc::new(words)),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

fn into(
    topic: &str,
    exists: TableExistsOption,
    not: TableNotExistOption,
) -> CommandStatementIngest {
    CommandStatementIngest {
        table_definition_options: Some(TableDefinitionOptions {
            if_not_exist: not as i32,
            if_exists: exists as i32,
        }),
        table: topic.to_owned(),
        ..Default::default()
    }
}

fn appended(topic: &str) -> CommandStatementIngest {
    into(topic, TableExistsOption::Append, TableNotExistOption::Fail)
}

async fn ingest(
    client: &mut FlightSqlServiceClient<Channel>,
    command: CommandStatementIngest,
    batches: Vec<RecordBatch>,
) -> Result<i64, tonic::Status> {
    let batches = stream::iter(batches.into_iter().map(Ok));
    client
        .execute_ingest(command, batches)
        .await
        .map_err(of_arrow)
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_are_taken_in_bulk() -> anyhow::Result<()> {
    let (dir, daemon) = doored("").await?;
    let mut client = client(&daemon, "").await?;
    let count = "SELECT count(*) AS n, count(DISTINCT id) AS d FROM facts";
    // Some twenty megabytes: several requests. What is acknowledged is seen, and survives a kill.
    let batches: Vec<_> = (0..10)
        .map(|n| facts(n * 50_000..(n + 1) * 50_000))
        .collect::<anyhow::Result<_>>()?;
    let taken = ingest(&mut client, appended("facts"), batches).await?;
    anyhow::ensure!(taken == 500_000, "{taken}");
    let found = shown(&rows(&mut client, count).await?)?;
    anyhow::ensure!(found == [["500000", "500000"]], "{found:?}");
    daemon.kill()?;
    let daemon = Daemon::start(dir.path()).await?;
    let mut client = anabranch_tests::flight::client(&daemon, "").await?;
    let found = shown(&rows(&mut client, count).await?)?;
    anyhow::ensure!(found == [["500000", "500000"]], "{found:?}");
    // Again by the same key is once.
    client.set_header("idempotency-key", "again");
    for _ in 0..2 {
        let taken = ingest(
            &mut client,
            appended("facts"),
            vec![facts(500_000..500_100)?],
        )
        .await?;
        anyhow::ensure!(taken == 100, "{taken}");
    }
    let other = ingest(&mut client, appended("facts"), vec![facts(0..1)?]).await;
    anyhow::ensure!(other.is_err(), "{other:?}");
    let mut client = anabranch_tests::flight::client(&daemon, "").await?;
    // A record that can't become a fact: nothing of its request is taken, and it is named.
    let broken = RecordBatch::try_from_iter([
        (
            "ts",
            Arc::new(StringArray::from(vec!["2026-01-01T00:00:00Z", "no time"])) as ArrayRef,
        ),
        ("id", Arc::new(Int64Array::from(vec![900_000, 900_001]))),
        ("word", Arc::new(StringArray::from(vec!["a", "b"]))),
    ])?;
    let e = ingest(&mut client, appended("facts"), vec![broken.clone()])
        .await
        .err();
    anyhow::ensure!(
        e.as_ref()
            .is_some_and(|e| e.code() == Code::InvalidArgument && e.message().contains("`ts`")),
        "{e:?}"
    );
    let found = shown(&rows(&mut client, count).await?)?;
    anyhow::ensure!(found == [["500100", "500100"]], "{found:?}");
    // With less strictness it is a dead letter.
    client.set_header("anabranch-strict", "false");
    let taken = ingest(&mut client, appended("facts"), vec![broken]).await?;
    anyhow::ensure!(taken == 1, "{taken}");
    let sql = "SELECT count(*) AS n FROM dead_letters WHERE topic = 'facts'";
    anyhow::ensure!(shown(&rows(&mut client, sql).await?)? == [["1"]]);
    // What is no appending to a topic is refused.
    for (command, code) in [
        (appended("fcts"), Code::NotFound),
        (
            into(
                "facts",
                TableExistsOption::Replace,
                TableNotExistOption::Create,
            ),
            Code::InvalidArgument,
        ),
        (
            into(
                "facts",
                TableExistsOption::Fail,
                TableNotExistOption::Create,
            ),
            Code::InvalidArgument,
        ),
        (
            CommandStatementIngest {
                temporary: true,
                ..appended("facts")
            },
            Code::InvalidArgument,
        ),
        (
            CommandStatementIngest {
                schema: Some("candidate".to_owned()),
                ..appended("facts")
            },
            Code::InvalidArgument,
        ),
    ] {
        let e = ingest(&mut client, command.clone(), vec![facts(0..1)?])
            .await
            .err();
        anyhow::ensure!(
            e.as_ref().is_some_and(|e| e.code() == code),
            "{command:?}: {e:?}"
        );
    }
    let found = shown(&rows(&mut client, count).await?)?;
    anyhow::ensure!(found == [["500101", "500101"]], "{found:?}");
    daemon.stop().await
}

/// What its client cancels ends, and so does what nobody waits for.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_ends_with_its_client() -> anyhow::Result<()> {
    const ENDLESS: &str = "SELECT repeat('x', 1000) AS x FROM generate_series(1, 1000000000)";
    let (_dir, daemon) = doored("").await?;
    let mut client = client(&daemon, "").await?;
    let running = || async {
        let (_, text) = daemon.get("/queries").await?;
        let all: Value = serde_json::from_str(&text)?;
        anyhow::Ok(all["queries"].as_array().map_or(0, Vec::len))
    };
    let info = client.execute(ENDLESS.to_owned(), None).await?;
    let ticket = info.endpoint[0].ticket.clone().unwrap_or_default();
    let mut answer = client.do_get(ticket.clone()).await?;
    anyhow::ensure!(answer.next().await.is_some_and(|batch| batch.is_ok()));
    anyhow::ensure!(running().await? == 1);
    // Somebody else with what was handed out ends it.
    let mut other = anabranch_tests::flight::client(&daemon, "").await?;
    let asked = CancelFlightInfoRequest::new(info).encode_to_vec();
    let mut said = other
        .do_action(Action::new("CancelFlightInfo", asked))
        .await?;
    let said = said.message().await?.unwrap_or_default();
    let said = CancelFlightInfoResult::decode(&*said.body)?;
    anyhow::ensure!(said.status == CancelStatus::Cancelling as i32, "{said:?}");
    let e = loop {
        match answer.next().await {
            Some(Ok(_)) => {}
            ended => break ended.and_then(Result::err).map(status),
        }
    };
    anyhow::ensure!(
        e.as_ref().is_some_and(|e| e.code() == Code::Cancelled),
        "{e:?}"
    );
    until("it has ended", || async { Ok(running().await? == 0) }).await?;
    // Whoever leaves says nothing.
    let mut answer = client.do_get(ticket).await?;
    anyhow::ensure!(answer.next().await.is_some());
    until("it runs", || async { Ok(running().await? == 1) }).await?;
    drop(answer);
    until("nobody waits", || async { Ok(running().await? == 0) }).await?;
    daemon.stop().await
}

/// Options travel with the client; what was told of an answer holds for it, also after a cut-over.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_holds() -> anyhow::Result<()> {
    let (dir, daemon) = doored("").await?;
    send(&daemon, 0..50).await?;
    let sum = "SELECT sum(facts) AS n FROM words";
    let mut client = client(&daemon, "").await?;
    anyhow::ensure!(shown(&rows(&mut client, sum).await?)? == [["50"]]);
    client.set_header("anabranch-read", "batch");
    anyhow::ensure!(shown(&rows(&mut client, sum).await?)? == [["NULL"]]);
    client.set_header("anabranch-read", "often");
    let e = rows(&mut client, sum).await.err();
    anyhow::ensure!(e.is_some_and(|e| e.code() == Code::InvalidArgument));
    client.set_header("anabranch-read", "merged");
    client.set_header("anabranch-at-least", "facts:0:1000000");
    let e = rows(&mut client, sum).await.err();
    anyhow::ensure!(
        e.as_ref().is_some_and(|e| e.code() == Code::Unavailable),
        "{e:?}"
    );
    let mut client = anabranch_tests::flight::client(&daemon, "").await?;
    let info = client
        .execute("SELECT * FROM words ORDER BY word".to_owned(), None)
        .await?;
    let before = fetched(&mut client, info.clone()).await?;
    let path = dir.path().join("words.sql");
    let view = std::fs::read_to_string(&path)?;
    std::fs::write(
        &path,
        view.replace("count(*) AS facts", "count(*) AS facts, max(id) AS last"),
    )?;
    let applied = run(dir.path(), &["apply", "--yes"])?;
    anyhow::ensure!(applied.code == Some(0), "{}", applied.complained);
    until("it has another column", || async {
        let mut client = anabranch_tests::flight::client(&daemon, "").await?;
        match fetched(&mut client, info.clone()).await {
            Ok(rows) => {
                anyhow::ensure!(rows == before);
                Ok(false)
            }
            Err(e) => {
                anyhow::ensure!(e.code() == Code::Aborted, "{e:?}");
                Ok(true)
            }
        }
    })
    .await?;
    let found = rows(&mut client, "SELECT * FROM words ORDER BY word").await?;
    anyhow::ensure!(found[0].schema().field_with_name("last").is_ok());
    daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_do_what_holds_here_too() -> anyhow::Result<()> {
    let guarded = Guarded::new(DOOR)?;
    let root = guarded.add("root", &["admin"]).await?;
    let reader = guarded.add("reader", &["read words"]).await?;
    let sender = guarded.add("sender", &["ingest facts"]).await?;
    let daemon = Daemon::start(guarded.path()).await?;
    let mut as_sender = client(&daemon, &sender).await?;
    let taken = ingest(&mut as_sender, appended("facts"), vec![facts(0..100)?]).await?;
    anyhow::ensure!(taken == 100);
    let mut as_reader = client(&daemon, &reader).await?;
    let sql = "SELECT sum(facts) AS n FROM words";
    anyhow::ensure!(shown(&rows(&mut as_reader, sql).await?)? == [["100"]]);
    let refused = ingest(&mut as_reader, appended("facts"), vec![facts(0..1)?]).await;
    anyhow::ensure!(refused.is_err_and(|e| e.code() == Code::PermissionDenied));
    for (client, sql) in [
        (&mut as_reader, "SELECT * FROM facts"),
        (&mut as_sender, "SELECT * FROM words"),
    ] {
        let e = rows(client, sql).await.err();
        anyhow::ensure!(
            e.as_ref().is_some_and(|e| e.code() == Code::NotFound),
            "{e:?}"
        );
    }
    let info = as_reader.get_tables(CommandGetTables::default()).await?;
    let found = fetched(&mut as_reader, info).await?;
    let names = shown(&[concat_batches(&found[0].schema(), &found)?.project(&[2])?])?;
    anyhow::ensure!(names == [["words"]], "{names:?}");
    // What was handed to somebody opens nothing to somebody else.
    let mut as_root = client(&daemon, &root).await?;
    let info = as_root
        .execute("SELECT * FROM facts".to_owned(), None)
        .await?;
    anyhow::ensure!(fetched(&mut as_root, info.clone()).await.is_ok());
    let e = fetched(&mut as_reader, info).await.err();
    anyhow::ensure!(
        e.as_ref().is_some_and(|e| e.code() == Code::NotFound),
        "{e:?}"
    );
    // Nobody gets in without a token, or with another one, and no call tells what there is.
    for token in ["", "ab_nothing_at_all"] {
        let mut nobody = client(&daemon, token).await?;
        let e = rows(&mut nobody, "SELECT 1").await.err();
        anyhow::ensure!(e.is_some_and(|e| e.code() == Code::Unauthenticated));
        anyhow::ensure!(
            nobody
                .get_tables(CommandGetTables::default())
                .await
                .is_err()
        );
        let taken = ingest(&mut nobody, appended("facts"), vec![facts(0..1)?]).await;
        anyhow::ensure!(taken.is_err_and(|e| e.code() == Code::Unauthenticated));
    }
    // A user with a token as password is given the token to come with.
    let mut basic = client(&daemon, "").await?;
    basic.handshake("reader", &reader).await?;
    anyhow::ensure!(basic.token() == Some(&reader), "{:?}", basic.token());
    anyhow::ensure!(shown(&rows(&mut basic, sql).await?)? == [["100"]]);
    let mut basic = client(&daemon, "").await?;
    anyhow::ensure!(basic.handshake("root", &reader).await.is_err());
    // Whoever is revoked is cut off in the middle of an answer, at this door and over HTTP.
    const ENDLESS: &str = "SELECT repeat('x', 1000) AS x FROM generate_series(1, 1000000000)";
    let info = as_reader.execute(ENDLESS.to_owned(), None).await?;
    let ticket = info.endpoint[0].ticket.clone().unwrap_or_default();
    let mut answer = as_reader.do_get(ticket).await?;
    anyhow::ensure!(answer.next().await.is_some_and(|batch| batch.is_ok()));
    let http = format!("http://{}/sql", daemon.client.address().http);
    let asked = reqwest::Client::new().post(http).bearer_auth(&reader);
    let mut over_http = asked.body(ENDLESS).send().await?;
    anyhow::ensure!(over_http.chunk().await?.is_some());
    run_well(guarded.path(), &["users", "revoke", "reader"]).await?;
    let ended = tokio::time::timeout(Duration::from_secs(15), async {
        while answer.next().await.is_some_and(|batch| batch.is_ok()) {}
        while over_http.chunk().await.is_ok_and(|chunk| chunk.is_some()) {}
    });
    anyhow::ensure!(ended.await.is_ok(), "the answers go on");
    let e = rows(&mut as_reader, "SELECT 1").await.err();
    anyhow::ensure!(e.is_some_and(|e| e.code() == Code::Unauthenticated));
    daemon.stop().await
}

/// Bytes that no client sends are refused or ignored, and others are served on.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_states_is_not_believed() -> anyhow::Result<()> {
    let (_dir, daemon) = doored("[http]\nheader_timeout = \"1s\"").await?;
    let at = address(&daemon).await?;
    let mut client = client(&daemon, "").await?;
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x16\x03\x01\x00\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x09\x00\x00\x00\x00\x00",
        b"",
    ] {
        // Whoever asks nothing in time is closed, whatever was said.
        let mut stream = TcpStream::connect(&at).await?;
        stream.write_all(bytes).await?;
        let read = async {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await
        };
        let ended = tokio::time::timeout(Duration::from_secs(20), read).await;
        anyhow::ensure!(ended.is_ok(), "{bytes:?} is held");
    }
    // Tickets and handles that are none of ours.
    let any = |type_url: &str, value: &[u8]| Any {
        type_url: type_url.to_owned(),
        value: value.to_vec().into(),
    };
    let of_nothing = TicketStatementQuery {
        statement_handle: vec![0xff; 100].into(),
    };
    let cases = [
        b"nothing".to_vec(),
        vec![],
        any(
            "type.googleapis.com/arrow.flight.protocol.sql.Nothing",
            b"x",
        )
        .encode_to_vec(),
        of_nothing.as_any().encode_to_vec(),
    ];
    for ticket in cases {
        let e = client.do_get(Ticket::new(ticket.clone())).await;
        anyhow::ensure!(e.is_err(), "{ticket:?}");
    }
    for action in [
        "Nothing",
        "SetSessionOptions",
        "CancelFlightInfo",
        "CreatePreparedStatement",
    ] {
        let said = client.do_action(Action::new(action, vec![0xff; 9])).await;
        anyhow::ensure!(said.is_err(), "{action}");
    }
    let empty = CancelFlightInfoRequest::new(FlightInfo::new()).encode_to_vec();
    let said = client
        .do_action(Action::new("CancelFlightInfo", empty))
        .await?;
    drop(said);
    // A message over the bound.
    let large = format!("SELECT '{}'", "x".repeat(70_000_000));
    let e = rows(&mut client, &large).await.err();
    anyhow::ensure!(
        e.as_ref().is_some_and(|e| {
            e.code() == Code::ResourceExhausted && e.message().contains("`max_message`")
        }),
        "{e:?}"
    );
    anyhow::ensure!(shown(&rows(&mut client, "SELECT 7 AS n").await?)? == [["7"]]);
    daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_bound_are_refused() -> anyhow::Result<()> {
    const SPARE: usize = 32;
    let (_dir, daemon) = doored("connections = 1").await?;
    let at = address(&daemon).await?;
    let mut first = client(&daemon, "").await?;
    rows(&mut first, "SELECT 1").await?;
    let mut second = client(&daemon, "").await?;
    let e = rows(&mut second, "SELECT 1").await.err();
    anyhow::ensure!(
        e.as_ref().is_some_and(|e| {
            e.code() == Code::ResourceExhausted && e.message().contains("[doors.flight]")
        }),
        "{e:?}"
    );
    let mut idle = Vec::new();
    for _ in 0..SPARE + 10 {
        idle.push(TcpStream::connect(&at).await?);
    }
    let mut closed = 0;
    for stream in &mut idle {
        let mut byte = [0];
        // One that is served is told the server's settings at once.
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut byte)).await?;
        closed += usize::from(!read.is_ok_and(|bytes| bytes > 0));
    }
    anyhow::ensure!(closed > 0 && closed <= 11, "{closed}");
    rows(&mut first, "SELECT 1").await?;
    daemon.stop().await
}

/// Where the Python with ADBC's driver is.
fn python() -> Option<std::path::PathBuf> {
    let found = std::env::var_os("ANABRANCH_PYTHON").map(Into::into);
    if found.is_none() {
        skipped("`ANABRANCH_PYTHON` is not set");
    }
    found
}

/// Lets a script of these tests ask a daemon that has a thousand facts.
async fn passes(script: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let Some(python) = python() else {
        return Ok(());
    };
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/doors");
    let ran = tokio::process::Command::new(python)
        .arg(here.join(script))
        .args(arguments)
        .kill_on_drop(true)
        .output()
        .await?;
    let said = String::from_utf8_lossy(&ran.stderr);
    anyhow::ensure!(ran.status.success(), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn adbc_asks_and_ingests() -> anyhow::Result<()> {
    let (_dir, daemon) = doored("").await?;
    send(&daemon, 0..1_000).await?;
    let at = format!("grpc://{}", address(&daemon).await?);
    passes("flight_clients.py", &[&at]).await?;
    daemon.stop().await
}

/// The package of the project itself, over HTTP.
#[tokio::test(flavor = "multi_thread")]
async fn the_python_package_asks_sends_and_follows() -> anyhow::Result<()> {
    let (_dir, daemon) = doored("").await?;
    send(&daemon, 0..1_000).await?;
    let url = format!("http://{}", daemon.client.address().http);
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("../jobs/python");
    let package = package.display().to_string();
    passes("python_client.py", &[&url, &package]).await?;
    daemon.stop().await
}
