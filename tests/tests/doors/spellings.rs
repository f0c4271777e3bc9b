//! What clients of PostgreSQL write, and people with them, means what it means there: each of these was
//! sent by dbt, Superset, psqlODBC, postgres_fdw or a driver, and gave another answer or none once.

use anabranch_tests::daemon::{Daemon, texts};
use anabranch_tests::places;

const PROJECT: &str = r#"
[storage]
url = "file://./data"
[daemon]
http = "127.0.0.1:0"
[doors.postgres]
listen = "127.0.0.1:0"
[topics.kinds]
event_time = "ts"
[topics.kinds.fields]
ts = "timestamp not null"
id = "bigint not null"
word = "varchar"
flag = "boolean"
bin = "binary"
day = "date"
items = "bigint[]"
small = "smallint"
[views.days]
sql = "days.sql"
"#;

const FACTS: &str = r#"{"ts":"2026-01-02T03:04:05.678901Z","id":1,"word":"plain","flag":true,"bin":"AAEC/w==","day":"2026-01-02","items":[1,2,3],"small":2}
{"ts":"2026-01-02T16:00:00Z","id":2,"word":"","flag":false,"bin":"AA==","day":"2026-01-03","items":[],"small":32767}
{"ts":"2026-07-02T22:30:00Z","id":9223372036854775807,"word":"a,b"}
"#;

/// Statements, and the values of their answers with `|` between the columns and `;` between the rows.
const STATEMENTS: &[(&str, &str)] = &[
    // Texts that stand for lists.
    (
        "SELECT id FROM kinds WHERE word = ANY ('{plain,\"\"}'::text[]) ORDER BY 1",
        "1;2",
    ),
    (
        "SELECT id FROM kinds WHERE id = ANY ('{1,2}'::bigint[]) ORDER BY 1",
        "1;2",
    ),
    (
        "SELECT id FROM kinds WHERE word <> ALL ('{plain,\"a,b\"}')",
        "2",
    ),
    ("SELECT count(*) FROM kinds WHERE id = ANY('{}')", "0"),
    ("SELECT id FROM kinds WHERE items = '{1,2,3}'", "1"),
    ("SELECT '{a,\"b c\",NULL}'::text[]", "{a,\"b c\",NULL}"),
    // That stand for bytes and truths.
    ("SELECT id FROM kinds WHERE bin = '\\x000102ff'", "1"),
    ("SELECT id FROM kinds WHERE bin = E'\\\\x00'::bytea", "2"),
    ("SELECT '\\x00ff'::bytea", "\\x00ff"),
    ("SELECT id FROM kinds WHERE flag = 't'", "1"),
    ("SELECT id FROM kinds WHERE 'false' = flag", "2"),
    // Patterns.
    (
        "SELECT to_char(ts, 'YYYY-MM-DD HH24:MI:SS.US') FROM kinds WHERE id = 1",
        "2026-01-02 03:04:05.678901",
    ),
    (
        "SELECT to_char(day, 'Month') || '|' FROM kinds WHERE id = 1",
        "January  |",
    ),
    (
        "SELECT to_char(day, 'FMDay, DD Mon') FROM kinds WHERE id = 1",
        "Friday, 02 Jan",
    ),
    (
        "SELECT to_char(ts, '%H:%M') FROM kinds WHERE id = 1",
        "03:04",
    ),
    (
        "SELECT count(*) FROM kinds WHERE ts >= TO_TIMESTAMP('2026-01-02 03:04:05.700000', 'YYYY-MM-DD HH24:MI:SS.US')",
        "2",
    ),
    (
        "SELECT count(*) FROM kinds WHERE day >= TO_DATE('03.01.2026', 'DD.MM.YYYY')",
        "1",
    ),
    // Times.
    (
        "SELECT ts + ((interval '1 day') * (2)) FROM kinds WHERE id = 1",
        "2026-01-04 03:04:05.678901+00",
    ),
    (
        "SELECT ts - 1.5 * interval '1 hour' FROM kinds WHERE id = 2",
        "2026-01-02 14:30:00+00",
    ),
    ("SELECT interval '1 month' / 2", "15 days"),
    (
        "SELECT count(*) FROM kinds WHERE ts::date + interval '12 hours' < ts",
        "2",
    ),
    (
        "SELECT day + interval '5 hours', day - interval '1 hour' FROM kinds WHERE id = 1",
        "2026-01-02 05:00:00+00|2026-01-01 23:00:00+00",
    ),
    (
        "SELECT ts AT TIME ZONE 'Europe/Berlin', ts FROM kinds WHERE small IS NULL",
        "2026-07-03 00:30:00|2026-07-02 22:30:00+00",
    ),
    (
        "SELECT date_trunc('day', ts AT TIME ZONE 'Europe/Berlin') FROM kinds WHERE small IS NULL",
        "2026-07-03 00:00:00",
    ),
    (
        "SELECT local_day FROM days ORDER BY 1 DESC LIMIT 1",
        "2026-07-03 00:00:00",
    ),
    // Numbers.
    (
        "SELECT cast(16777217 as float) + 0.0, 1.1::float = 1.1::double precision",
        "16777217|t",
    ),
    ("SELECT mod(7, 4), 7 % 4", "3|3"),
    // Names.
    ("SELECT count(*) FROM \"it\".\"public\".\"kinds\"", "3"),
    ("SELECT CURRENT_SCHEMA", "public"),
    ("SELECT i FROM generate_series(1, 3) i", "1;2;3"),
    (
        "SELECT *, id FROM (SELECT id, word FROM kinds WHERE id = 1) k",
        "1|plain|1",
    ),
    ("SELECT date(ts) FROM kinds WHERE id = 1", "2026-01-02"),
    (
        "SELECT '7d444840-9dc0-11d1-b245-5ffdce74fad2'::uuid",
        "7d444840-9dc0-11d1-b245-5ffdce74fad2",
    ),
    (
        "SELECT k.column_name FROM information_schema.table_constraints c JOIN information_schema.key_column_usage k USING (constraint_name) WHERE c.table_name = 'days' AND constraint_type = 'PRIMARY KEY' ORDER BY k.ordinal_position",
        "local_day;word",
    ),
    (
        "SELECT i.indkey FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relname = 'days' AND i.indisprimary = 't'",
        "1 2",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_write_means_the_same() -> anyhow::Result<()> {
    let dir = places::folder()?;
    std::fs::write(dir.path().join("anabranch.toml"), PROJECT)?;
    let days = "SELECT date_trunc('day', ts AT TIME ZONE 'Europe/Berlin') AS local_day, word, count(*) AS n FROM kinds GROUP BY 1, 2";
    std::fs::write(dir.path().join("days.sql"), days)?;
    let daemon = Daemon::start(dir.path()).await?;
    let (status, answer) = daemon.post("kinds", &[], FACTS.as_bytes()).await?;
    anyhow::ensure!(status == 200 && answer["facts"] == 3, "{answer}");
    let client = daemon.over_postgres().await?;
    let mut wrong = Vec::new();
    for (sql, expected) in STATEMENTS {
        let found = match texts(&client, sql).await {
            Ok(rows) => {
                let rows = rows.iter().map(|row| row.join("|"));
                rows.collect::<Vec<_>>().join(";")
            }
            Err(e) => format!("{e:?}"),
        };
        if found != *expected {
            wrong.push(format!("{sql}: {found}, not {expected}"));
        }
    }
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));

    // What has no value of its type is an error.
    for (sql, code, part) in [
        ("SELECT id * 2 FROM kinds", "22003", "out of the range"),
        (
            "SELECT id + 1 FROM kinds WHERE id > 5",
            "22003",
            "out of the range",
        ),
        (
            "SELECT small * small FROM kinds",
            "22003",
            "out of the range",
        ),
        (
            "SELECT -9223372036854775807 - id FROM kinds",
            "22003",
            "out of the range",
        ),
        ("SELECT to_char(ts, 'YYYY-XX') FROM kinds", "42000", "`XX`"),
    ] {
        let e = client.simple_query(sql).await.err();
        let e = e.as_ref().and_then(|e| e.as_db_error());
        let told = e.map(|e| (e.code().code(), e.message()));
        anyhow::ensure!(
            told.is_some_and(|(found, text)| found == code && text.contains(part)),
            "{sql}: {told:?}"
        );
    }

    // Parameters whose types nobody states, where nothing is left of what they stand beside.
    let rows = client
        .query("SELECT tgname FROM pg_trigger WHERE tgrelid = $1", &[&"7"])
        .await?;
    anyhow::ensure!(rows.is_empty());
    let mut client = client;
    let transaction = client.transaction().await?;
    let declare = "DECLARE c CURSOR FOR SELECT id FROM kinds WHERE word = $1::text";
    transaction.execute(declare, &[&"plain"]).await?;
    let row = transaction.query_one("FETCH ALL FROM c", &[]).await?;
    anyhow::ensure!(row.get::<_, i64>(0) == 1);
    transaction.commit().await?;
    let row = client
        .query_one(
            "SELECT id FROM kinds WHERE bin = $1",
            &[&vec![0_u8, 1, 2, 255]],
        )
        .await?;
    anyhow::ensure!(row.get::<_, i64>(0) == 1);
    daemon.stop().await
}
