//! PostgreSQL's door: a real driver in Rust, messages that no driver sends, and, where they are there,
//! psql and the drivers of Python. What is answered is what `POST /sql` answers.

use std::path::Path;
use std::time::{Duration, Instant};

use anabranch_tests::daemon::{Daemon, request, run, texts};
use anabranch_tests::ledger::line;
use anabranch_tests::places;
use anabranch_tests::process::{Setup, until, write_project};
use anabranch_tests::skip::skipped;
use futures::StreamExt;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, IsolationLevel, NoTls};

const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon with the door, and where that is.
struct Doored {
    dir: tempfile::TempDir,
    daemon: Daemon,
    address: String,
}

impl Doored {
    async fn start(more: &str) -> anyhow::Result<Self> {
        let dir = places::folder()?;
        write_project(dir.path(), Setup::default())?;
        let path = dir.path().join("anabranch.toml");
        let text = std::fs::read_to_string(&path)?;
        let door = "[doors.postgres]\nlisten = \"127.0.0.1:0\"";
        std::fs::write(&path, format!("{text}\n{door}\n{more}\n"))?;
        let daemon = Daemon::start(dir.path()).await?;
        let (_, health) = daemon.get("/health").await?;
        let health: Value = serde_json::from_str(&health)?;
        let address = health["postgres"].as_str().unwrap_or_default().to_owned();
        anyhow::ensure!(!address.is_empty(), "{health}");
        Ok(Self {
            dir,
            daemon,
            address,
        })
    }

    fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap_or_default()
    }

    async fn connect(&self) -> anyhow::Result<Client> {
        self.daemon.over_postgres().await
    }

    async fn send(&self, ids: std::ops::Range<i64>) -> anyhow::Result<()> {
        let body: String = ids.map(line).collect();
        let (status, answer) = self.daemon.post("facts", &[], body.as_bytes()).await?;
        anyhow::ensure!(status == 200, "{answer}");
        Ok(())
    }
}

/// The code of what a driver tells of an error.
fn state<T>(outcome: Result<T, tokio_postgres::Error>) -> String {
    let e = outcome.err();
    let code = e.as_ref().and_then(|e| e.code());
    code.map_or_else(|| format!("{e:?}"), |code| code.code().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_asks_and_is_answered() -> anyhow::Result<()> {
    let doored = Doored::start("").await?;
    doored.send(0..1_000).await?;
    let client = doored.connect().await?;
    // Parameters get their types from where they stand, and values go over in binary.
    let row = client
        .query_one(
            "SELECT count(*), max(ts), min(word) FROM facts WHERE id >= $1 AND word <> $2",
            &[&100_i64, &"nothing"],
        )
        .await?;
    anyhow::ensure!(row.get::<_, i64>(0) == 900, "{row:?}");
    let statement = client
        .prepare("SELECT word, sum(facts) AS n FROM words GROUP BY word ORDER BY word LIMIT $1")
        .await?;
    for _ in 0..8 {
        let rows = client.query(&statement, &[&3_i64]).await?;
        anyhow::ensure!(rows.len() == 3, "{rows:?}");
    }
    let all: i64 = client
        .query_one(
            "SELECT count(*) FROM facts WHERE id = ANY($1)",
            &[&vec![1_i64, 2, 5_000]],
        )
        .await?
        .get(0);
    anyhow::ensure!(all == 2, "{all}");
    // The same as over HTTP, as text.
    let sql = "SELECT word, facts, id_sum FROM (SELECT word, facts, ids AS id_sum FROM words) AS w ORDER BY word";
    let over_http = doored.daemon.rows(sql).await?;
    let over_door = texts(&client, sql).await?;
    anyhow::ensure!(over_http == over_door, "{over_http:?}\n{over_door:?}");
    // Errors have the codes by which drivers decide.
    for (sql, expected) in [
        ("SELEC 1", "42601"),
        ("SELECT * FROM nowhere", "42P01"),
        ("SELECT nothing FROM facts", "42703"),
        ("SELECT nofunction(1)", "42883"),
        ("SELECT 1 / 0", "22012"),
        ("SET anabranch.at_last = 'x'", "42704"),
        ("SET timezone = 'Europe/Berlin'", "22023"),
        ("FETCH 1 FROM nothing", "34000"),
        ("SAVEPOINT a", "25P01"),
        ("CREATE TABLE t (a INT)", "42000"),
        ("COPY facts FROM STDIN", "42000"),
    ] {
        let found = state(client.batch_execute(sql).await);
        anyhow::ensure!(found == expected, "{sql}: {found}");
    }
    let place = client
        .query("SELECT id,\n  nothing FROM facts", &[])
        .await
        .err();
    let place = place.as_ref().and_then(|e| e.as_db_error()?.position());
    anyhow::ensure!(
        place == Some(&tokio_postgres::error::ErrorPosition::Original(14)),
        "{place:?}"
    );
    doored.daemon.stop().await
}

/// In a repeatable read all statements see what the first saw; without one each sees what is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_reads_one_moment() -> anyhow::Result<()> {
    let doored = Doored::start("").await?;
    doored.send(0..100).await?;
    let mut reader = doored.connect().await?;
    let other = doored.connect().await?;
    let count = "SELECT count(*) FROM facts";
    let transaction = reader
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    let first: i64 = transaction.query_one(count, &[]).await?.get(0);
    doored.send(100..150).await?;
    let again: i64 = transaction.query_one(count, &[]).await?.get(0);
    let of_view = "SELECT sum(facts)::bigint FROM words";
    let of_view: i64 = transaction.query_one(of_view, &[]).await?.get(0);
    let outside: i64 = other.query_one(count, &[]).await?.get(0);
    anyhow::ensure!(
        (first, again, of_view, outside) == (100, 100, 100, 150),
        "{first} {again} {of_view} {outside}"
    );
    // What fails in it is refused until it ends.
    anyhow::ensure!(state(transaction.batch_execute("SELECT nothing FROM facts").await) == "42703");
    anyhow::ensure!(state(transaction.batch_execute(count).await) == "25P02");
    transaction.rollback().await?;
    let after: i64 = reader.query_one(count, &[]).await?.get(0);
    anyhow::ensure!(after == 150, "{after}");
    // Portals give rows in parts.
    let transaction = reader.transaction().await?;
    let portal = transaction
        .bind("SELECT id FROM facts ORDER BY id", &[])
        .await?;
    let mut seen = Vec::new();
    loop {
        let rows = transaction.query_portal(&portal, 40).await?;
        if rows.is_empty() {
            break;
        }
        seen.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
    }
    anyhow::ensure!(seen == (0..150).collect::<Vec<_>>(), "{}", seen.len());
    transaction.commit().await?;
    // And so does COPY.
    let copied = reader
        .copy_out("COPY (SELECT id, word FROM facts ORDER BY id LIMIT 2) TO STDOUT CSV HEADER")
        .await?;
    let copied: Vec<_> = copied.collect().await;
    let copied: Vec<u8> = copied.into_iter().flatten().flatten().collect();
    let text = String::from_utf8(copied)?;
    anyhow::ensure!(
        text.starts_with("id,word\n0,") && text.lines().count() == 3,
        "{text}"
    );
    doored.daemon.stop().await
}

/// What its client cancels ends, and so does what nobody waits for.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_ends_with_its_client() -> anyhow::Result<()> {
    const ENDLESS: &str = "SELECT count(*) FROM generate_series(1, 100000000) AS a(x) CROSS JOIN generate_series(1, 100000000) AS b(y) WHERE x + y = 3";
    let doored = Doored::start("").await?;
    let client = doored.connect().await?;
    let cancel = client.cancel_token();
    let asking = tokio::spawn(async move { (state(client.batch_execute(ENDLESS).await), client) });
    let running = || async {
        let (_, text) = doored.daemon.get("/queries").await?;
        let all: Value = serde_json::from_str(&text)?;
        anyhow::Ok(all["queries"].as_array().map_or(0, Vec::len))
    };
    until("it runs", || async { Ok(running().await? == 1) }).await?;
    cancel.cancel_query(NoTls).await?;
    let (found, client) = asking.await?;
    anyhow::ensure!(found == "57014", "{found}");
    until("it has ended", || async { Ok(running().await? == 0) }).await?;
    // The session goes on, within its own limit of time.
    client
        .batch_execute("SET statement_timeout = '300ms'")
        .await?;
    let asked = Instant::now();
    let late = client.batch_execute(ENDLESS).await;
    anyhow::ensure!(state(late) == SqlState::QUERY_CANCELED.code());
    anyhow::ensure!(asked.elapsed() < PATIENCE / 3, "{:?}", asked.elapsed());
    client.batch_execute("RESET ALL").await?;
    // Whoever leaves says nothing.
    let mut stream = begun(&doored.address).await?;
    let query = [ENDLESS.as_bytes(), b"\0"].concat();
    stream.write_all(&message(b'Q', &query)).await?;
    until("it runs", || async { Ok(running().await? == 1) }).await?;
    drop(stream);
    until("nobody waits", || async { Ok(running().await? == 0) }).await?;
    doored.daemon.stop().await
}

/// Bytes as they go over the wire.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend((body.len() as u32 + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}

async fn begun(address: &str) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let parameters = b"\0\x03\0\0user\0me\0\0";
    let mut bytes = (parameters.len() as u32 + 4).to_be_bytes().to_vec();
    bytes.extend(parameters);
    stream.write_all(&bytes).await?;
    read_to(&mut stream, b'Z').await?;
    Ok(stream)
}

/// Reads messages up to one of a kind, and gives their kinds and what errors say.
async fn read_to(stream: &mut TcpStream, last: u8) -> anyhow::Result<String> {
    let mut kinds = String::new();
    loop {
        let reading = async {
            let kind = stream.read_u8().await?;
            let mut body = vec![0; stream.read_u32().await? as usize - 4];
            stream.read_exact(&mut body).await?;
            anyhow::Ok((kind, body))
        };
        let (kind, body) = tokio::time::timeout(PATIENCE, reading).await??;
        kinds.push(char::from(kind));
        if kind == b'E' {
            kinds += &format!("({})", String::from_utf8_lossy(&body).replace('\0', " "));
        }
        if kind == last {
            return Ok(kinds);
        }
    }
}

/// Numbers and lengths of a client take no memory, and a short message is an error of its own session.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_states_is_not_believed() -> anyhow::Result<()> {
    let doored = Doored::start("connections = 5\nmax_message = \"1MB\"").await?;
    doored.send(0..10).await?;
    let address = &doored.address;
    for most in [i32::MAX, -1, i32::MIN, 0, 3] {
        let mut stream = begun(address).await?;
        let mut bytes = message(b'P', b"\0SELECT id FROM facts\0\0\0");
        bytes.extend(message(b'B', b"\0\0\0\0\0\0\0\0"));
        let execute = [b"\0".as_slice(), &most.to_be_bytes()].concat();
        bytes.extend(message(b'E', &execute));
        bytes.extend(message(b'S', b""));
        stream.write_all(&bytes).await?;
        let kinds = read_to(&mut stream, b'Z').await?;
        let expected = match most {
            3 => "12DDDsZ".to_owned(),
            _ => format!("12{}CZ", "D".repeat(10)),
        };
        anyhow::ensure!(kinds == expected, "{most}: {kinds}");
    }
    // Before a session and in one.
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        vec![0, 0, 0, 8, 0, 2, 0, 0],
        vec![0x7f; 64],
        vec![0, 0, 0, 9, 0, 3, 0, 0, b'x'],
    ] {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&bytes).await?;
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await??;
        anyhow::ensure!(answer.first() == Some(&b'E'), "{bytes:?}: {answer:?}");
    }
    for bytes in [
        message(b'B', b"\0\0\0\x01"),
        message(b'Q', b"no end"),
        message(b'D', b"Xname\0"),
        vec![b'Q', 0x7f, 0xff, 0xff, 0xff],
        message(b'~', b""),
    ] {
        let mut stream = begun(address).await?;
        stream.write_all(&bytes).await?;
        let said = read_to(&mut stream, b'E').await?;
        anyhow::ensure!(said.contains("FATAL"), "{bytes:?}: {said}");
    }
    // As many sessions as may; the next one is told why not.
    let mut held = Vec::new();
    let refused = loop {
        match doored.connect().await {
            Ok(client) => held.push(client),
            Err(e) => break e,
        }
        anyhow::ensure!(held.len() <= 5, "no bound");
    };
    let code = refused
        .downcast_ref::<tokio_postgres::Error>()
        .and_then(|e| e.code());
    anyhow::ensure!(code == Some(&SqlState::TOO_MANY_CONNECTIONS), "{refused:?}");
    drop(held);
    until("there is room again", || async {
        Ok(doored.connect().await.is_ok())
    })
    .await?;
    doored.daemon.stop().await
}

/// `PREPARE` and `EXECUTE` as statements: the same statements as those of the protocol.
#[tokio::test(flavor = "multi_thread")]
async fn statements_are_prepared_in_sql() -> anyhow::Result<()> {
    let doored = Doored::start("").await?;
    doored.send(0..100).await?;
    let client = doored.connect().await?;
    client
        .batch_execute(
            "PREPARE few (bigint, text) AS SELECT count(*), min(id) FROM facts WHERE id >= $1 AND word <> $2;
             PREPARE since AS SELECT count(*) FROM facts WHERE ts >= $1 AND id = ANY($2);
             PREPARE plain AS SELECT count(*) FROM facts",
        )
        .await?;
    for (sql, expected) in [
        ("EXECUTE few (90, 'it''s')", vec!["10", "90"]),
        ("EXECUTE few ('-5'::bigint, 'none')", vec!["100", "0"]),
        ("EXECUTE few (NULL, 'none')", vec!["0", ""]),
        (
            "EXECUTE since (timestamp '2020-01-01', '{1,2,500}')",
            vec!["2"],
        ),
        ("execute plain", vec!["100"]),
    ] {
        let found = texts(&client, sql).await?;
        anyhow::ensure!(found == [expected], "{sql}: {found:?}");
    }
    // Each execution sees what is there by then, and a driver may execute it by the protocol as well.
    doored.send(100..110).await?;
    anyhow::ensure!(texts(&client, "EXECUTE plain").await? == [["110"]]);
    let row = client.query_one("EXECUTE plain", &[]).await?;
    anyhow::ensure!(row.get::<_, i64>(0) == 110, "{row:?}");
    for (sql, expected) in [
        ("EXECUTE few (1)", "42601"),
        ("EXECUTE few ('x', 'none')", "22P03"),
        ("EXECUTE few (id, 'none')", "42000"),
        ("EXECUTE few ((SELECT 1), 'none')", "42000"),
        ("EXECUTE nothing", "26000"),
        ("PREPARE few AS SELECT 1", "42P05"),
        ("PREPARE other AS SELECT * FROM nowhere", "42P01"),
        ("EXECUTE other", "26000"),
        ("PREPARE other AS SHOW ALL", "42601"),
        ("PREPARE other (int SELECT 1", "42000"),
    ] {
        let found = state(client.batch_execute(sql).await);
        anyhow::ensure!(found == expected, "{sql}: {found}");
    }
    client.batch_execute("DEALLOCATE few").await?;
    let found = state(client.batch_execute("EXECUTE few (1, 'none')").await);
    anyhow::ensure!(found == "26000", "{found}");
    doored.daemon.stop().await
}

/// The answer of a view and what changes in it, as rows of a cursor or as what COPY sends.
#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_followed() -> anyhow::Result<()> {
    let doored = Doored::start("").await?;
    doored.send(0..9).await?;
    let client = doored.connect().await?;
    // What was told: what happened, where one is, the row after, and the row before.
    let asked = async |client: &Client, sql: &str| -> anyhow::Result<Vec<[String; 4]>> {
        let told = texts(client, sql).await?.into_iter();
        let parts = told.map(|row| -> anyhow::Result<[String; 4]> {
            let [op, token, old, new, _]: [String; 5] =
                row.try_into().map_err(|row| anyhow::anyhow!("{row:?}"))?;
            Ok([op, token, new, old])
        });
        parts.collect()
    };
    let ops = |told: &[[String; 4]]| -> Vec<String> { told.iter().map(|t| t[0].clone()).collect() };
    let facts = |json: &str| -> Option<i64> {
        let row: Value = serde_json::from_str(json).ok()?;
        row["facts"].as_i64()
    };
    client
        .batch_execute("DECLARE c CURSOR WITH HOLD FOR SUBSCRIBE words")
        .await?;
    let mut begun = asked(&client, "FETCH 2 FROM c").await?;
    while begun.last().is_none_or(|last| last[0] != "at") {
        begun.extend(asked(&client, "FETCH ALL FROM c WITH (TIMEOUT = '10s')").await?);
    }
    let rows: Vec<_> = begun.iter().filter(|told| told[0] == "row").collect();
    let sum: i64 = rows.iter().filter_map(|told| facts(&told[2])).sum();
    anyhow::ensure!(begun[0][0] == "reset" && sum == 9, "{begun:?}");
    let token = begun[begun.len() - 1][1].clone();
    anyhow::ensure!(token.starts_with("g1 "), "{begun:?}");
    // Nothing happens, and that is told in time.
    let none = asked(&client, "FETCH 5 FROM c WITH (TIMEOUT = '100ms')").await?;
    anyhow::ensure!(none.is_empty(), "{none:?}");
    // What happens is.
    doored.send(9..10).await?;
    let changed = asked(&client, "FETCH ALL FROM c").await?;
    let [_, _, new, old] = &changed[0];
    anyhow::ensure!(
        ops(&changed) == ["changed", "at"] && facts(new) == facts(old).map(|n| n + 1),
        "{changed:?}"
    );
    // Somebody else goes on where this one was, by another way.
    let copied = client
        .copy_out(&format!(
            "COPY (SUBSCRIBE words WITH (TOKEN = '{token}')) TO STDOUT"
        ))
        .await?;
    let mut copied = std::pin::pin!(copied);
    let first = copied.next().await.transpose()?.unwrap_or_default();
    anyhow::ensure!(first.starts_with(b"changed\t"), "{first:?}");
    // It goes on for ever, unless it is cancelled.
    client.cancel_token().cancel_query(NoTls).await?;
    let end = loop {
        match copied.next().await {
            Some(Ok(_)) => {}
            Some(Err(e)) => break state::<()>(Err(e)),
            None => anyhow::bail!("it ended"),
        }
    };
    anyhow::ensure!(end == "57014", "{end}");
    // In portions by the protocol, without the answer itself.
    let mut other = doored.connect().await?;
    let transaction = other.transaction().await?;
    let sql = "SUBSCRIBE TO public.words WITH (SNAPSHOT = false)";
    let portal = transaction.bind(sql, &[]).await?;
    let rows = transaction.query_portal(&portal, 1).await?;
    anyhow::ensure!(rows.len() == 1 && rows[0].get::<_, &str>("op") == "at");
    anyhow::ensure!(
        rows[0].columns()[2].type_().name() == "json",
        "{:?}",
        rows[0].columns()
    );
    transaction.rollback().await?;
    for (sql, expected) in [
        ("SUBSCRIBE nowhere", "42P01"),
        ("SUBSCRIBE candidate.words", "42000"),
        ("SUBSCRIBE words WITH (PROGRESS = true)", "42000"),
        ("MOVE 5 FROM c", "0A000"),
        ("FETCH 5 FROM nothing", "34000"),
    ] {
        let found = state(client.batch_execute(sql).await);
        anyhow::ensure!(found == expected, "{sql}: {found}");
    }
    // What was refused has not ended the cursor.
    let none = asked(&client, "FETCH 5 FROM c WITH (TIMEOUT = '100ms')").await?;
    anyhow::ensure!(none.is_empty(), "{none:?}");
    doored.daemon.stop().await
}

/// What is prepared is planned anew each time: a cut-over to the same columns is not noticed, and of
/// other columns a driver is told as PostgreSQL tells it.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_statement_sees_a_cut_over() -> anyhow::Result<()> {
    let doored = Doored::start("").await?;
    doored.send(0..50).await?;
    let client = doored.connect().await?;
    let statement = client.prepare("SELECT * FROM words ORDER BY word").await?;
    for _ in 0..8 {
        client.query(&statement, &[]).await?;
    }
    let edit = |sql: &str| std::fs::write(doored.dir.path().join("words.sql"), sql);
    let view = std::fs::read_to_string(doored.dir.path().join("words.sql"))?;
    edit(&view.replace("FROM facts", "FROM facts WHERE id < 10"))?;
    let applied = run(doored.dir.path(), &["apply", "--yes"])?;
    anyhow::ensure!(applied.code == Some(0), "{}", applied.complained);
    let sum = |rows: Vec<tokio_postgres::Row>| -> i64 {
        rows.iter().map(|r| r.get::<_, i64>("facts")).sum()
    };
    until("the new generation answers", || async {
        Ok(sum(client.query(&statement, &[]).await?) == 10)
    })
    .await?;
    edit(&view.replace("count(*) AS facts", "count(*) AS facts, max(id) AS last"))?;
    let applied = run(doored.dir.path(), &["apply", "--yes"])?;
    anyhow::ensure!(applied.code == Some(0), "{}", applied.complained);
    until("it has another column", || async {
        let asked = client.query(&statement, &[]).await;
        match asked {
            Ok(_) => Ok(false),
            Err(e) => {
                let text = e.as_db_error().map(|e| e.message().to_owned());
                anyhow::ensure!(
                    e.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED)
                        && text.as_deref() == Some("cached plan must not change result type")
                        // By which pgjdbc knows it.
                        && e.as_db_error().and_then(|e| e.routine())
                            == Some("RevalidateCachedQuery"),
                    "{e:?}"
                );
                Ok(true)
            }
        }
    })
    .await?;
    let statement = client.prepare("SELECT * FROM words ORDER BY word").await?;
    let rows = client.query(&statement, &[]).await?;
    anyhow::ensure!(rows.iter().all(|r| r.try_get::<_, i64>("last").is_ok()));
    doored.daemon.stop().await
}

/// Whoever opens connections beyond the bound and says nothing takes no more than a few of them.
#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_bound_are_few() -> anyhow::Result<()> {
    const SPARE: usize = 32;
    let doored = Doored::start("connections = 1").await?;
    let client = doored.connect().await?;
    let mut idle = Vec::new();
    for _ in 0..SPARE + 20 {
        idle.push(TcpStream::connect(&doored.address).await?);
    }
    let closed = async |stream: &mut TcpStream| {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(300), stream.read(&mut byte));
        // One that is open says nothing.
        read.await.is_ok()
    };
    let looks = idle.iter_mut().map(closed);
    let all = futures::future::join_all(looks).await;
    let closed = all.into_iter().filter(|closed| *closed).count();
    anyhow::ensure!(closed == 20, "{closed}");
    // The session goes on, and what waits is over in time.
    client.batch_execute("SELECT 1").await?;
    drop(idle);
    until("one is told that there are too many", async || {
        let refused = doored.connect().await.err();
        Ok(refused.is_some_and(|e| format!("{e:?}").contains("which are the most")))
    })
    .await?;
    doored.daemon.stop().await
}

/// Columns may have one name, at every door.
#[tokio::test(flavor = "multi_thread")]
async fn columns_may_have_one_name() -> anyhow::Result<()> {
    let doored = Doored::start("").await?;
    doored.send(0..10).await?;
    let client = doored.connect().await?;
    for (sql, names, values) in [
        (
            "SELECT count(*), count(*) FROM facts",
            ["count", "count"],
            ["10", "10"],
        ),
        ("SELECT NULL, NULL", ["?column?", "?column?"], ["", ""]),
        ("SELECT 1, 1", ["?column?", "?column?"], ["1", "1"]),
        (
            "SELECT id, id FROM facts WHERE id = 3",
            ["id", "id"],
            ["3", "3"],
        ),
        (
            "SELECT id, id::varchar FROM facts WHERE id = 3",
            ["id", "id"],
            ["3", "3"],
        ),
        (
            "SELECT id AS x, word AS x FROM facts WHERE id = 0",
            ["x", "x"],
            ["0", "a"],
        ),
        (
            "SELECT max(id), max(id) FROM facts GROUP BY word ORDER BY max(id) DESC LIMIT 1",
            ["max", "max"],
            ["9", "9"],
        ),
    ] {
        let statement = client.prepare(sql).await?;
        let columns = statement.columns().iter();
        let found: Vec<&str> = columns.map(|column| column.name()).collect();
        anyhow::ensure!(found == names, "{sql}: {found:?}");
        let rows = texts(&client, sql).await?;
        let word = rows.first().map(|row| row[1].clone()).unwrap_or_default();
        // Words are whatever the ledger makes them.
        let expected = match values[1] {
            "a" => [values[0].to_owned(), word],
            _ => values.map(str::to_owned),
        };
        anyhow::ensure!(rows == [expected.clone()], "{sql}: {rows:?}");
        let over_http = doored.daemon.rows(sql).await?;
        anyhow::ensure!(
            over_http.len() == 1 && over_http[0][0].replace("NULL", "") == expected[0],
            "{over_http:?}"
        );
        for kind in [
            "application/json",
            "text/csv",
            "application/vnd.apache.arrow.stream",
        ] {
            let http = &doored.daemon.client.address().http;
            let headers = [("accept", kind)];
            let (status, answer) = request("POST", http, "/sql", &headers, sql.as_bytes()).await?;
            anyhow::ensure!(status == 200, "{sql} as {kind}: {answer}");
        }
    }
    doored.daemon.stop().await
}

/// What is not answered, by whom it is asked: relations of the recording that are not there, a pause,
/// and foreign keys, of which there are none.
const NOT_ANSWERED: [(&str, &str); 4] = [
    ("psql", "there is no relation `hot`"),
    ("jdbc", "no function `pg_sleep`"),
    ("adbc", "no column `conkeys`"),
    ("pgcli", "ScalarSubquery"),
];

/// What recorded sessions of real clients ask of the catalogue is answered.
#[tokio::test(flavor = "multi_thread")]
async fn what_clients_ask_of_the_catalogue_is_answered() -> anyhow::Result<()> {
    let Some(recorded) = places::shared_data("pgwire") else {
        skipped("the recorded messages of PostgreSQL's clients are not there");
        return Ok(());
    };
    let doored = Doored::start("").await?;
    doored.send(0..10).await?;
    let client = doored.connect().await?;
    let mut refused = Vec::new();
    let mut asked = 0;
    for name in [
        "psql",
        "sqlalchemy",
        "jdbc",
        "asyncpg",
        "adbc",
        "pgcli",
        "node",
        "psycopg3",
    ] {
        let text = std::fs::read_to_string(Path::new(&recorded).join(format!("{name}.jsonl")))?;
        for line in text.lines() {
            let message: Value = serde_json::from_str(line)?;
            let message = &message[1];
            let sql = message["Q"].as_str().or_else(|| message["sql"].as_str());
            let Some(sql) = sql.filter(|sql| sql.contains("pg_catalog") || sql.contains("pg_"))
            else {
                continue;
            };
            let has_parameters = sql.contains("$1");
            let outcome = match has_parameters {
                true => client.prepare(sql).await.map(drop),
                false => client.simple_query(sql).await.map(drop),
            };
            asked += 1;
            if let Err(e) = outcome {
                let said = e.as_db_error().map_or("", |e| e.message());
                if NOT_ANSWERED
                    .iter()
                    .any(|(of, text)| *of == name && said.contains(text))
                {
                    continue;
                }
                let text = e
                    .as_db_error()
                    .map_or_else(|| e.to_string(), |e| e.message().to_owned());
                refused.push(format!(
                    "{name}: {text}\n    {}",
                    sql.split_whitespace().collect::<Vec<_>>().join(" ")
                ));
            }
        }
    }
    println!(
        "{} of {asked} statements are answered",
        asked - refused.len()
    );
    anyhow::ensure!(refused.is_empty(), "{}", refused.join("\n"));
    doored.daemon.stop().await
}

/// The Python of the wide tests, where it is there.
fn python() -> Option<std::path::PathBuf> {
    let python = std::env::var_os("ANABRANCH_PYTHON").map(Into::into);
    if python.is_none() {
        skipped("`ANABRANCH_PYTHON` is not set to a Python of `tests/bench/setup.sh`");
    }
    python
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drivers_of_python_ask() -> anyhow::Result<()> {
    let Some(python) = python() else {
        return Ok(());
    };
    let doored = Doored::start("").await?;
    doored.send(0..1_000).await?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/doors/postgres_clients.py");
    let ran = tokio::process::Command::new(python)
        .arg(script)
        .arg(doored.port())
        .output()
        .await?;
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let complained = String::from_utf8_lossy(&ran.stderr).into_owned();
    anyhow::ensure!(ran.status.success(), "{said}\n{complained}");
    print!("{said}");
    doored.daemon.stop().await
}

/// psql's commands that ask the catalogue.
const BACKSLASHES: [(&str, &str); 19] = [
    ("\\d", "words"),
    ("\\dt", "facts"),
    ("\\dv", "words"),
    ("\\d facts", "timestamp with time zone"),
    ("\\d words", "bigint"),
    ("\\d+ words", "aggregate"),
    ("\\d+ facts", "not null"),
    ("\\dn", "public"),
    ("\\l", "it"),
    ("\\du", "me"),
    ("\\df", "(0 rows)"),
    ("\\di", "words_pkey"),
    ("\\dT", ""),
    ("\\dx", "(0 rows)"),
    ("\\dp", "facts"),
    ("\\db", "(0 rows)"),
    ("\\conninfo", "port"),
    ("\\sv words", "GROUP BY"),
    ("\\z", "words"),
];

/// node-postgres: values, prepared statements, cursors, a view that is followed, errors, a pool.
#[tokio::test(flavor = "multi_thread")]
async fn node_asks() -> anyhow::Result<()> {
    let Some(modules) = std::env::var_os("ANABRANCH_NODE") else {
        skipped(
            "`ANABRANCH_NODE` names no folder with node-postgres; `tests/node/setup.sh` fetches it",
        );
        return Ok(());
    };
    let doored = Doored::start("").await?;
    doored.send(0..100).await?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("node/postgres.mjs");
    let mut asks = tokio::process::Command::new("node");
    let asked = asks.arg(script).arg(doored.port()).arg(modules).output();
    let asked = tokio::time::timeout(PATIENCE, asked).await??;
    anyhow::ensure!(
        asked.status.success(),
        "{}",
        String::from_utf8_lossy(&asked.stderr)
    );
    doored.daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_asks_and_describes() -> anyhow::Result<()> {
    let Some(python) = python() else {
        return Ok(());
    };
    // A wheel brings psql; it lies beside the modules.
    let find = "import pgserver, pathlib; print(pathlib.Path(pgserver.__file__).parent / 'pginstall/bin/psql')";
    let found = tokio::process::Command::new(python)
        .args(["-c", find])
        .output()
        .await?;
    let psql = String::from_utf8(found.stdout)?.trim().to_owned();
    anyhow::ensure!(
        Path::new(&psql).exists(),
        "no psql: {}",
        String::from_utf8_lossy(&found.stderr)
    );
    let doored = Doored::start("").await?;
    doored.send(0..1_000).await?;
    let ask = async |command: &str| {
        let ran = tokio::process::Command::new(&psql)
            .args([
                "-X",
                "-h",
                "127.0.0.1",
                "-p",
                doored.port(),
                "-U",
                "me",
                "-d",
                "it",
                "-v",
                "ON_ERROR_STOP=1",
            ])
            .arg("-c")
            .arg(command)
            .output()
            .await?;
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        let complained = String::from_utf8_lossy(&ran.stderr).into_owned();
        anyhow::Ok((ran.status.success(), said, complained))
    };
    let mut wrong = Vec::new();
    for (command, expected) in BACKSLASHES {
        let (is_well, said, complained) = ask(command).await?;
        if !is_well || !complained.is_empty() || !said.contains(expected) {
            wrong.push(format!("{command}: {said}{complained}"));
        }
    }
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let (_, said, complained) =
        ask("\\copy (select id from facts order by id limit 2) to stdout csv").await?;
    anyhow::ensure!(said == "0\n1\n", "{said}{complained}");
    doored.daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_keeps_is_bounded() -> anyhow::Result<()> {
    let doored = Doored::start("").await?;
    let mut stream = begun(&doored.address).await?;
    let mut bytes = Vec::new();
    for nth in 0..1_001 {
        bytes.extend(message(b'P', format!("s{nth}\0SELECT 1\0\0\0").as_bytes()));
    }
    bytes.extend(message(b'S', b""));
    stream.write_all(&bytes).await?;
    let kinds = read_to(&mut stream, b'Z').await?;
    anyhow::ensure!(
        kinds.matches('1').count() >= 1_000 && kinds.contains("54000"),
        "{kinds}"
    );
    // It goes on once some are closed.
    let mut bytes = message(b'C', b"Ss0\0");
    bytes.extend(message(b'P', b"again\0SELECT 1\0\0\0"));
    bytes.extend(message(b'S', b""));
    stream.write_all(&bytes).await?;
    let kinds = read_to(&mut stream, b'Z').await?;
    anyhow::ensure!(kinds == "31Z", "{kinds}");
    doored.daemon.stop().await
}
