//! Users at the doors: who gets in, what each may do, and that nothing else gets out.

use std::path::Path;
use std::time::{Duration, Instant};

use anabranch_tests::daemon::{Daemon, request, run};
use anabranch_tests::ledger::line;
use anabranch_tests::places;
use anabranch_tests::process::{Setup, run_well, until, write_project};
use serde_json::Value;
use tokio_postgres::{Client, NoTls};

/// A question whose answer takes far longer than any of these tests.
const ENDLESS: &str = "SELECT sum(value % 7) FROM generate_series(1, 1000000000000)";

/// How soon somebody who is revoked gets nothing more: 5 s are promised, and a machine that runs other
/// tests beside this one gets more.
const REVOKED_WITHIN: Duration = Duration::from_secs(15);

/// A project with users, and who they are.
pub(crate) struct Guarded {
    pub(crate) dir: tempfile::TempDir,
}

impl Guarded {
    /// A project with a file of users, and more lines of its settings.
    pub(crate) fn new(more: &str) -> anyhow::Result<Self> {
        let dir = places::folder()?;
        write_project(dir.path(), Setup::default())?;
        let path = dir.path().join("anabranch.toml");
        let text = std::fs::read_to_string(&path)?;
        let with = "[doors.postgres]\nlisten = \"127.0.0.1:0\"\n[users]\nfile = \"users.toml\"";
        std::fs::write(&path, format!("{text}\n{with}\n{more}\n"))?;
        Ok(Self { dir })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Adds a user with rights, and more arguments. Returns the token.
    pub(crate) async fn add(&self, name: &str, may: &[&str]) -> anyhow::Result<String> {
        let mut arguments = vec!["users", "add", name];
        arguments.extend(may.iter().flat_map(|right| ["--may", right]));
        let token = run_well(self.path(), &arguments).await?;
        Ok(token.trim().to_owned())
    }
}

/// A request with a token. Gives the status and the answer.
pub(crate) async fn ask(
    daemon: &Daemon,
    (method, path): (&str, &str),
    token: &str,
    body: &str,
) -> anyhow::Result<(u16, String)> {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![];
    if !token.is_empty() {
        headers.push(("authorization", bearer.as_str()));
    }
    let http = &daemon.client.address().http;
    request(method, http, path, &headers, body.as_bytes()).await
}

/// A session with a secret.
async fn session(daemon: &Daemon, user: &str, secret: &str) -> anyhow::Result<Client> {
    let (_, health) = daemon.get("/health").await?;
    let health: Value = serde_json::from_str(&health)?;
    let address = health["postgres"].as_str().unwrap_or_default().to_owned();
    let port = address.rsplit(':').next().unwrap_or_default();
    let mut config = tokio_postgres::Config::new();
    config
        .host("127.0.0.1")
        .port(port.parse()?)
        .user(user)
        .password(secret)
        .dbname("it");
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The code of an error of a driver.
fn code(e: &anyhow::Error) -> &str {
    let e = e.downcast_ref::<tokio_postgres::Error>();
    e.and_then(|e| e.code()).map_or("none", |code| code.code())
}

/// Facts of a topic beside the one that everybody knows of.
const SECRET_TOPIC: &str = "
[topics.payroll]
event_time = \"ts\"
[topics.payroll.fields]
ts = \"timestamp not null\"
salary = \"bigint not null\"
[views.salaries]
sql = \"salaries.sql\"
";

#[tokio::test(flavor = "multi_thread")]
async fn each_may_do_what_the_file_says() -> anyhow::Result<()> {
    let guarded = Guarded::new(SECRET_TOPIC)?;
    let view =
        "SELECT date_trunc('day', ts) AS day, sum(salary) AS salaries FROM payroll GROUP BY 1";
    std::fs::write(guarded.path().join("salaries.sql"), view)?;
    // Without a file nobody is let in by mistake.
    let ran = run(guarded.path(), &["speed"])?;
    anyhow::ensure!(
        ran.code == Some(66) && ran.complained.contains("anabranch users add NAME"),
        "{ran:?}"
    );
    let root = guarded.add("root", &["admin"]).await?;
    let reader = guarded.add("reader", &["read words"]).await?;
    let sender = guarded.add("sender", &["ingest fa*"]).await?;
    let ops = guarded.add("ops", &["operate"]).await?;
    let daemon = Daemon::start(guarded.path()).await?;
    let facts: String = (0..100).map(line).collect();
    let payroll = "{\"ts\":\"2026-01-01T00:00:00Z\",\"salary\":7}\n{\"ts\":\"2026\"}\n";
    let batch = "{\"ts\":\"no time\",\"id\":1}\n";
    for (who, token, method, path, body, expected) in [
        (
            "sender",
            &sender,
            "POST",
            "/topics/facts",
            facts.as_str(),
            200,
        ),
        ("sender", &sender, "POST", "/topics/facts", batch, 200),
        ("sender", &sender, "POST", "/topics/payroll", payroll, 403),
        ("sender", &sender, "POST", "/topics/%70ayroll", payroll, 403),
        ("root", &root, "POST", "/topics/payroll", payroll, 200),
        (
            "reader",
            &reader,
            "POST",
            "/topics/facts",
            facts.as_str(),
            403,
        ),
        ("ops", &ops, "POST", "/topics/facts", facts.as_str(), 403),
        (
            "nobody",
            &String::new(),
            "POST",
            "/topics/facts",
            facts.as_str(),
            401,
        ),
        (
            "reader",
            &reader,
            "POST",
            "/sql",
            "SELECT * FROM words",
            200,
        ),
        (
            "sender",
            &sender,
            "POST",
            "/sql",
            "SELECT * FROM words",
            404,
        ),
        ("ops", &ops, "POST", "/sql", "SELECT * FROM words", 404),
        ("sender", &sender, "POST", "/sql", "SELECT 1", 200),
        ("nobody", &String::new(), "POST", "/sql", "SELECT 1", 401),
        ("root", &root, "POST", "/sql", "SELECT * FROM payroll", 200),
        ("nobody", &String::new(), "GET", "/health", "", 200),
        ("nobody", &String::new(), "GET", "/ready", "", 200),
        ("nobody", &String::new(), "GET", "/status", "", 401),
        ("nobody", &String::new(), "GET", "/metrics", "", 401),
        ("nobody", &String::new(), "GET", "/relations", "", 401),
        ("nobody", &String::new(), "GET", "/queries", "", 401),
        ("nobody", &String::new(), "GET", "/nothing", "", 401),
        ("nobody", &String::new(), "POST", "/delta", "{}", 401),
        ("nobody", &String::new(), "POST", "/peers", "", 401),
        ("reader", &reader, "GET", "/status", "", 403),
        ("reader", &reader, "GET", "/metrics", "", 403),
        ("reader", &reader, "POST", "/verify/words", "\"Whole\"", 403),
        ("ops", &ops, "GET", "/status", "", 200),
        ("ops", &ops, "GET", "/metrics", "", 200),
        ("root", &root, "POST", "/delta", "{}", 403),
        ("root", &root, "POST", "/peers", "", 403),
        ("root", &root, "GET", "/nothing", "", 404),
        ("mistyped", &format!("{root}x"), "GET", "/health", "", 401),
    ] {
        let (status, answer) = ask(&daemon, (method, path), token, body).await?;
        anyhow::ensure!(
            status == expected,
            "{who} {method} {path} {body}: {status} {answer}"
        );
        anyhow::ensure!(!answer.contains("ab_"), "{answer}");
    }
    // Whoever is nobody is told that it is ready, and not why not.
    let (_, ready) = ask(&daemon, ("GET", "/ready"), "", "").await?;
    anyhow::ensure!(ready == "{\"ready\":true}", "{ready}");
    let (_, ready) = ask(&daemon, ("GET", "/ready"), &ops, "").await?;
    anyhow::ensure!(ready.contains("attention"), "{ready}");
    // `Basic` with the token is the same, for programs that know nothing else.
    let http = &daemon.client.address().http;
    for (user, expected) in [("root", 200), ("", 200), ("reader", 401)] {
        let basic = base64(&format!("{user}:{root}"));
        let headers = [("authorization", basic.as_str())];
        let (status, answer) = request("GET", http, "/status", &headers, b"").await?;
        anyhow::ensure!(status == expected, "{user}: {status} {answer}");
    }
    // Commands of the project come with the storage's secret.
    let said = run_well(
        guarded.path(),
        &["sql", "-c", "SELECT sum(facts) AS n FROM words"],
    )
    .await?;
    anyhow::ensure!(said.contains("100"), "{said}");
    let said = run_well(guarded.path(), &["--format", "json", "status"]).await?;
    anyhow::ensure!(said.contains("\"has_users\":true"), "{said}");
    run_well(guarded.path(), &["verify", "words", "--daemon"]).await?;
    run_well(guarded.path(), &["queries"]).await?;
    daemon.stop().await
}

/// `Basic` with what is written in front of it.
fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::from("Basic ");
    for three in text.as_bytes().chunks(3) {
        let bits = three
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - three.len()));
        for n in 0..4 {
            encoded.push(match n <= three.len() {
                true => char::from(DIGITS[(bits >> (18 - 6 * n) & 63) as usize]),
                false => '=',
            });
        }
    }
    encoded
}

/// Tries to reach what a user may not read.
const TRIES: [&str; 34] = [
    "SELECT * FROM facts",
    "SELECT * FROM payroll",
    "SELECT * FROM salaries",
    "SELECT * FROM public.payroll",
    "SELECT * FROM anabranch.public.payroll",
    "SELECT * FROM \"payroll\"",
    "SELECT * FROM candidate.salaries",
    "SELECT * FROM g1.salaries",
    "SELECT * FROM previous.salaries",
    "SELECT * FROM dead_letters",
    "SELECT * FROM dead_letters, payroll",
    "SELECT * FROM jobs",
    "SELECT * FROM dead_letter_retries",
    "SELECT (SELECT max(salary) FROM payroll) FROM words",
    "SELECT * FROM words WHERE EXISTS (SELECT 1 FROM payroll WHERE salary = 7)",
    "SELECT word FROM words UNION ALL SELECT cast(salary AS varchar) FROM payroll",
    "WITH words AS (SELECT * FROM payroll) SELECT * FROM words",
    "WITH p AS (SELECT 1), q AS (SELECT * FROM payroll) SELECT 1",
    "WITH payroll AS (SELECT * FROM payroll) SELECT * FROM payroll",
    "SELECT * FROM words JOIN payroll ON true",
    "SELECT * FROM words, LATERAL (SELECT * FROM payroll) AS p",
    "EXPLAIN SELECT * FROM payroll",
    "EXPLAIN ANALYZE SELECT * FROM payroll",
    "DESCRIBE payroll",
    "SHOW COLUMNS FROM payroll",
    "COPY payroll TO 'x.csv'",
    "COPY (SELECT * FROM payroll) TO 'x.csv'",
    "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
    "CREATE VIEW v AS SELECT * FROM payroll",
    "INSERT INTO facts SELECT * FROM facts",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT pg_read_file('/etc/passwd')",
    "TABLE payroll",
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_gets_out() -> anyhow::Result<()> {
    let with_flight = format!("[doors.flight]\nlisten = \"127.0.0.1:0\"\n{SECRET_TOPIC}");
    let guarded = Guarded::new(&with_flight)?;
    let view =
        "SELECT date_trunc('day', ts) AS day, sum(salary) AS salaries FROM payroll GROUP BY 1";
    std::fs::write(guarded.path().join("salaries.sql"), view)?;
    let root = guarded.add("root", &["admin"]).await?;
    let reader = guarded.add("reader", &["read words"]).await?;
    let dead = guarded.add("dead", &["read dead_letters"]).await?;
    let daemon = Daemon::start(guarded.path()).await?;
    let facts: String = (0..100).map(line).collect();
    let payroll = "{\"ts\":\"2026-01-01T00:00:00Z\",\"salary\":4711}\n{\"ts\":\"broken\"}\n";
    for (topic, body) in [("facts", facts.as_str()), ("payroll", payroll)] {
        let path = format!("/topics/{topic}");
        let (status, answer) = ask(&daemon, ("POST", &path), &root, body).await?;
        anyhow::ensure!(status == 200, "{answer}");
    }
    let door = session(&daemon, "reader", &reader).await?;
    let mut flight = anabranch_tests::flight::client(&daemon, &reader).await?;
    let gives_away = |text: &str, sql: &str| {
        let text = text.replace(sql, "");
        ["4711", "salary", "salaries", "root:x:"]
            .into_iter()
            .find(|part| {
                // What was asked may be said again.
                text.contains(part) && !sql.contains(part)
            })
    };
    for sql in TRIES {
        let (status, answer) = ask(&daemon, ("POST", "/sql"), &reader, sql).await?;
        anyhow::ensure!(status >= 400, "{sql}: {status} {answer}");
        anyhow::ensure!(gives_away(&answer, sql).is_none(), "{sql}: {answer}");
        let over_door = match door.simple_query(sql).await {
            Ok(rows) => anyhow::bail!("{sql}: {rows:?}"),
            Err(e) => e.as_db_error().map(ToString::to_string).unwrap_or_default(),
        };
        anyhow::ensure!(gives_away(&over_door, sql).is_none(), "{sql}: {over_door}");
        let over_flight = match anabranch_tests::flight::rows(&mut flight, sql).await {
            Ok(rows) => anyhow::bail!("{sql}: {rows:?}"),
            Err(e) => e.message().to_owned(),
        };
        anyhow::ensure!(
            gives_away(&over_flight, sql).is_none(),
            "{sql}: {over_flight}"
        );
        // As for something that there is not, word for word but for the name.
        if sql.contains("payroll") && !sql.contains("salary") {
            let nowhere = sql.replace("payroll", "nowhere");
            let (as_nowhere, told) = ask(&daemon, ("POST", "/sql"), &reader, &nowhere).await?;
            let same = told.replace("nowhere", "payroll");
            anyhow::ensure!(
                (status, answer.as_str()) == (as_nowhere, same.as_str()),
                "{sql}: {answer}\n{nowhere}: {told}"
            );
        }
    }
    // In a transaction that has pinned all that there is, too.
    door.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM words")
        .await?;
    let e = door.simple_query("SELECT * FROM payroll").await;
    anyhow::ensure!(e.is_err_and(|e| e.code().is_some_and(|c| c.code() == "42P01")));
    door.batch_execute("ROLLBACK").await?;
    // Who may read dead letters reads no topic by that.
    for sql in [
        "SELECT * FROM dead_letters, payroll",
        "SELECT * FROM payroll",
    ] {
        let (status, answer) = ask(&daemon, ("POST", "/sql"), &dead, sql).await?;
        anyhow::ensure!(status == 404, "{sql}: {answer}");
    }
    let (status, answer) = ask(
        &daemon,
        ("POST", "/sql"),
        &dead,
        "SELECT * FROM dead_letters",
    )
    .await?;
    anyhow::ensure!(status == 200 && answer.contains("broken"), "{answer}");
    // What lists what there is lists what there is for the user.
    let listed = [
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'",
        "SELECT DISTINCT table_name FROM information_schema.columns WHERE table_schema = 'public'",
    ];
    for sql in listed {
        let (_, answer) = ask(&daemon, ("POST", "/sql"), &reader, sql).await?;
        anyhow::ensure!(answer.contains("words"), "{answer}");
        for other in ["payroll", "salaries", "facts", "jobs", "dead_letters"] {
            anyhow::ensure!(!answer.contains(other), "{sql}: {answer}");
        }
    }
    let (_, answer) = ask(&daemon, ("GET", "/relations?as=objects"), &reader, "").await?;
    anyhow::ensure!(
        answer.contains("words") && !answer.contains("payroll"),
        "{answer}"
    );
    let sql = "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public'";
    let rows = door.query(sql, &[]).await?;
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    anyhow::ensure!(
        !names.is_empty() && names.iter().all(|n| n.starts_with("words")),
        "{names:?}"
    );
    // What reads nothing needs no right.
    let (status, answer) = ask(
        &daemon,
        ("POST", "/sql"),
        &reader,
        "SELECT count(*) AS n FROM generate_series(1, 7)",
    )
    .await?;
    anyhow::ensure!(status == 200 && answer.contains("7"), "{answer}");
    // A name that is nearly one that the user may not read is not mended to that.
    let (_, answer) = ask(&daemon, ("POST", "/sql"), &reader, "SELECT * FROM payrol").await?;
    anyhow::ensure!(!answer.contains("payroll"), "{answer}");
    let (_, answer) = ask(&daemon, ("POST", "/sql"), &reader, "SELECT * FROM wrds").await?;
    anyhow::ensure!(answer.contains("words"), "{answer}");
    daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_opens_as_long_as_it_is_one() -> anyhow::Result<()> {
    let guarded = Guarded::new("")?;
    let root = guarded.add("root", &["admin"]).await?;
    let first = guarded.add("reader", &["read *"]).await?;
    let daemon = Daemon::start(guarded.path()).await?;
    for (user, secret) in [
        ("reader", root.as_str()),
        ("nobody", &first),
        ("reader", ""),
    ] {
        let refused = session(&daemon, user, secret).await.err();
        let refused = refused.as_ref().map(code);
        anyhow::ensure!(
            refused == Some("28P01") || secret.is_empty(),
            "{user}: {refused:?}"
        );
    }
    // Two open at once, so that a rotation has no gap.
    let rotate = ["users", "rotate", "reader"];
    let second = run_well(guarded.path(), &rotate).await?.trim().to_owned();
    until("the new secret opens", async || {
        Ok(ask(&daemon, ("GET", "/queries"), &second, "").await?.0 == 200)
    })
    .await?;
    for secret in [&first, &second] {
        session(&daemon, "reader", secret).await?;
        let (status, _) = ask(&daemon, ("GET", "/queries"), secret, "").await?;
        anyhow::ensure!(status == 200);
    }
    let open = session(&daemon, "reader", &first).await?;
    let third = run_well(guarded.path(), &rotate).await?;
    let third = third.lines().next().unwrap_or_default().to_owned();
    until("the first secret opens nothing", async || {
        Ok(ask(&daemon, ("GET", "/queries"), &first, "").await?.0 == 401)
    })
    .await?;
    until("its session has ended", async || Ok(open.is_closed())).await?;
    let kept = session(&daemon, "reader", &second).await?;
    kept.batch_execute("SELECT 1").await?;
    // A user sees and ends what is theirs; who operates, all of it.
    let door = session(&daemon, "reader", &third).await?;
    let asked = tokio::spawn(async move { door.simple_query(ENDLESS).await });
    let other = guarded.add("other", &["read *"]).await?;
    let ops = guarded.add("ops", &["operate"]).await?;
    let queries = async |token: &str| {
        let (status, answer) = ask(&daemon, ("GET", "/queries"), token, "").await?;
        let answer: Value = serde_json::from_str(&answer)?;
        anyhow::ensure!(status == 200 || status == 401, "{answer}");
        anyhow::Ok(answer["queries"].as_array().cloned().unwrap_or_default())
    };
    until("who operates sees it", async || {
        Ok(queries(&ops).await?.len() == 1)
    })
    .await?;
    anyhow::ensure!(queries(&other).await?.is_empty());
    let own = queries(&third).await?;
    let who = own[0]["who"].as_str().unwrap_or_default();
    anyhow::ensure!(who.starts_with("reader: "), "{who}");
    let path = format!("/queries/{}", own[0]["id"].as_str().unwrap_or_default());
    let (status, _) = ask(&daemon, ("DELETE", &path), &other, "").await?;
    anyhow::ensure!(status == 404);
    let (status, _) = ask(&daemon, ("DELETE", &path), &ops, "").await?;
    anyhow::ensure!(status == 200);
    anyhow::ensure!(asked.await?.is_err());
    // What goes on with a secret that is revoked ends, at both doors.
    let door = session(&daemon, "reader", &third).await?;
    let over_door = tokio::spawn(async move { door.simple_query(ENDLESS).await.is_err() });
    let idle = session(&daemon, "reader", &third).await?;
    let over_http = async {
        let (status, _) = ask(&daemon, ("POST", "/sql"), &third, ENDLESS).await?;
        anyhow::Ok(status)
    };
    let revoking = async {
        until("both run", async || Ok(queries(&root).await?.len() == 2)).await?;
        run_well(guarded.path(), &["users", "revoke", "reader"]).await?;
        anyhow::Ok(Instant::now())
    };
    let (status, revoked) = tokio::try_join!(over_http, revoking)?;
    anyhow::ensure!(status == 401, "{status}");
    anyhow::ensure!(over_door.await?);
    until("the idle session has ended", async || Ok(idle.is_closed())).await?;
    anyhow::ensure!(
        revoked.elapsed() < REVOKED_WITHIN,
        "{:?}",
        revoked.elapsed()
    );
    until("nothing runs", async || {
        Ok(queries(&root).await?.is_empty())
    })
    .await?;
    // A secret with a time ends by itself.
    let short = [
        "users",
        "add",
        "short",
        "--may",
        "read *",
        "--expires",
        "3s",
    ];
    let short = run_well(guarded.path(), &short).await?.trim().to_owned();
    until("it opens", async || {
        Ok(ask(&daemon, ("GET", "/queries"), &short, "").await?.0 == 200)
    })
    .await?;
    let open = session(&daemon, "short", &short).await?;
    until("it opens no more", async || {
        Ok(ask(&daemon, ("GET", "/queries"), &short, "").await?.0 == 401)
    })
    .await?;
    until("its session has ended", async || Ok(open.is_closed())).await?;
    daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_waits() -> anyhow::Result<()> {
    let guarded = Guarded::new("")?;
    let root = guarded.add("root", &["admin"]).await?;
    let daemon = Daemon::start(guarded.path()).await?;
    // Many at once, of whom half are wrong: the others get in.
    let other = guarded.add("other", &["read *"]).await?;
    let log_ins = (0..60).map(|n| {
        let (daemon, root, other) = (&daemon, &root, &other);
        async move {
            match n % 2 {
                0 => session(daemon, "root", root).await.is_ok(),
                _ => session(daemon, "other", &format!("{other}{n}"))
                    .await
                    .is_err(),
            }
        }
    });
    let right = futures::future::join_all(log_ins).await;
    anyhow::ensure!(right.into_iter().all(|right| right));
    let refused = session(&daemon, "other", &other).await.err();
    let text = format!("{refused:?}");
    anyhow::ensure!(
        refused.as_ref().map(code) == Some("28000") && text.contains("too many log-ins"),
        "{text}"
    );
    // Of the other user nothing was tried.
    session(&daemon, "root", &root).await?;
    let wrong = format!("{root}x");
    let mut last = 0;
    for _ in 0..12 {
        (last, _) = ask(&daemon, ("GET", "/queries"), &wrong, "").await?;
    }
    anyhow::ensure!(last == 429, "{last}");
    daemon.stop().await
}

/// A file that can't be read any more lets nobody else in, and nobody out.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_changes_nothing() -> anyhow::Result<()> {
    let guarded = Guarded::new("")?;
    let root = guarded.add("root", &["admin"]).await?;
    let daemon = Daemon::start(guarded.path()).await?;
    let path = guarded.path().join("users.toml");
    let text = std::fs::read_to_string(&path)?;
    std::fs::write(&path, &text[..text.len() / 2])?;
    let attention = async || {
        let (status, ready) = ask(&daemon, ("GET", "/ready"), &root, "").await?;
        anyhow::ensure!(status == 200, "{ready}");
        anyhow::Ok(ready.contains("the users stay as they were"))
    };
    until("it is told", async || attention().await).await?;
    let (_, metrics) = ask(&daemon, ("GET", "/metrics"), &root, "").await?;
    anyhow::ensure!(
        metrics.contains("anabranch_access_fails{what=\"users\"} 1"),
        "{metrics}"
    );
    let ran = run(guarded.path(), &["users", "list"])?;
    anyhow::ensure!(
        ran.code == Some(64) && ran.complained.contains("users.toml"),
        "{ran:?}"
    );
    std::fs::write(&path, &text)?;
    until("it is over", async || Ok(!attention().await?)).await?;
    let said = run_well(guarded.path(), &["users", "list"]).await?;
    anyhow::ensure!(said.contains("root") && said.contains("for ever"), "{said}");
    daemon.stop().await
}

/// What users ask is a fact that `admin` alone reads, and that outlives the daemon.
#[tokio::test(flavor = "multi_thread")]
async fn what_users_ask_is_written() -> anyhow::Result<()> {
    let guarded = Guarded::new("[audit]\nkeep = \"7d\"")?;
    let root = guarded.add("root", &["admin"]).await?;
    let reader = guarded.add("reader", &["read *", "ingest *"]).await?;
    let daemon = Daemon::start(guarded.path()).await?;
    let facts: String = (0..10).map(line).collect();
    ask(&daemon, ("POST", "/topics/facts"), &reader, &facts).await?;
    let asked = "SELECT id FROM facts WHERE id < 3 AND word <> 'something to hide'";
    let (status, _) = ask(&daemon, ("POST", "/sql"), &reader, asked).await?;
    anyhow::ensure!(status == 200);
    let (status, _) = ask(&daemon, ("POST", "/sql"), &reader, "SELECT nothing").await?;
    anyhow::ensure!(status == 400);
    let door = session(&daemon, "reader", &reader).await?;
    // The same statement, spread over lines.
    let spread = asked.replace(' ', "\n ");
    door.simple_query(&spread).await?;
    // Nobody else reads it, whatever they may read, and nobody writes it.
    for sql in ["SELECT * FROM _audit", "SELECT * FROM public._audit"] {
        let (status, answer) = ask(&daemon, ("POST", "/sql"), &reader, sql).await?;
        anyhow::ensure!(status == 404, "{answer}");
    }
    for token in [&root, &reader] {
        let (status, answer) = ask(&daemon, ("POST", "/topics/_audit"), token, "{}").await?;
        anyhow::ensure!(status == 403, "{answer}");
    }
    let rows = "SELECT door, rows, outcome, count(*) AS n, count(DISTINCT fingerprint) AS f FROM _audit WHERE user = 'reader' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3";
    let expected = "[{\"door\":\"http\",\"rows\":0,\"outcome\":\"invalid\",\"n\":3,\"f\":3},{\"door\":\"http\",\"rows\":3,\"outcome\":\"ok\",\"n\":1,\"f\":1},{\"door\":\"postgres\",\"rows\":3,\"outcome\":\"ok\",\"n\":1,\"f\":1}]";
    until("all of it is there", async || {
        let (status, answer) = ask(&daemon, ("POST", "/sql"), &root, rows).await?;
        anyhow::ensure!(status == 200, "{answer}");
        Ok(answer == expected)
    })
    .await?;
    let same = "SELECT count(DISTINCT fingerprint) AS n FROM _audit WHERE user = 'reader' AND outcome = 'ok'";
    let (_, answer) = ask(&daemon, ("POST", "/sql"), &root, same).await?;
    anyhow::ensure!(answer == "[{\"n\":1}]", "{answer}");
    let (_, all) = ask(&daemon, ("POST", "/sql"), &root, "SELECT * FROM _audit").await?;
    anyhow::ensure!(!all.contains("hide") && !all.contains(&reader), "{all}");
    // The last of it is written when the daemon stops.
    door.simple_query("SELECT 4711").await?;
    daemon.stop().await?;
    let count = [
        "--format",
        "csv",
        "sql",
        "-c",
        "SELECT count(*) AS n FROM _audit WHERE door = 'postgres'",
    ];
    let said = run_well(guarded.path(), &count).await?;
    anyhow::ensure!(said == "n\n2\n", "{said}");
    Ok(())
}
