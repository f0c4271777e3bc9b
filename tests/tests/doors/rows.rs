//! Users who may read some rows and not others: they get what an administrator of a storage gets that
//! holds theirs alone, values and errors alike.
//!
//! `ANABRANCH_STATEMENTS` says how many random statements are asked, `ANABRANCH_SEED` which.

use std::path::Path;

use anabranch_tests::daemon::{Daemon, request, shown};
use anabranch_tests::places;
use anabranch_tests::process::run_well;
use arrow_flight::sql::client::FlightSqlServiceClient;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use tonic::transport::Channel;

const SITES: [&str; 4] = ["a", "b", "c", "ünï 'x'"];

/// Whose rows the filtered user may read.
const OWN: [&str; 2] = ["b", "ünï 'x'"];

const PROJECT: &str = r#"
[storage]
url = "file://./data"
[daemon]
http = "127.0.0.1:0"
land_every = "1h"
[doors.postgres]
listen = "127.0.0.1:0"
[doors.flight]
listen = "127.0.0.1:0"
[topics.visits]
event_time = "ts"
[topics.visits.fields]
ts = "timestamp not null"
site = "varchar"
url = "varchar"
n = "bigint"
[topics.other]
event_time = "ts"
[topics.other.fields]
ts = "timestamp not null"
x = "bigint"
"#;

/// Views by name: those that a filtered user has, and those that can't be told apart by site.
const VIEWS: [(&str, &str, bool); 10] = [
    (
        "by_site",
        "SELECT site, count(*) AS visits, sum(n) AS total, min(n) AS least, approx_distinct(url) AS urls FROM visits GROUP BY site",
        true,
    ),
    (
        "by_url",
        "SELECT url, site AS site, count(*) AS visits, avg(n) AS mean, count(DISTINCT n) AS different FROM visits WHERE n IS NOT NULL GROUP BY 1, 2",
        true,
    ),
    (
        "busy",
        "SELECT site, url, count(*) AS visits FROM visits GROUP BY 1, 2 HAVING count(*) > 2",
        true,
    ),
    (
        "plain",
        "SELECT site, url, n FROM visits WHERE n % 2 = 0",
        false,
    ),
    (
        "divides",
        "SELECT site, url, sum(100 / (n - 7)) AS odd FROM visits GROUP BY 1, 2",
        true,
    ),
    (
        "all_urls",
        "SELECT url, count(*) AS visits FROM visits GROUP BY url",
        false,
    ),
    ("whole", "SELECT count(*) AS visits FROM visits", false),
    (
        "ranked",
        "SELECT site, visits, rank() OVER (ORDER BY visits DESC) AS place FROM (SELECT site, count(*) AS visits FROM visits GROUP BY site)",
        false,
    ),
    (
        "top",
        "SELECT site, count(*) AS visits FROM visits GROUP BY site ORDER BY visits DESC LIMIT 2",
        false,
    ),
    (
        "lower_site",
        "SELECT lower(site) AS site, count(*) AS visits FROM visits GROUP BY 1",
        true,
    ),
];

struct Stand {
    dir: tempfile::TempDir,
    daemon: Daemon,
    token: String,
    door: Client,
    flight: FlightSqlServiceClient<Channel>,
}

impl Stand {
    async fn start(may: &[&str], users: bool, facts: &[String]) -> anyhow::Result<Self> {
        let dir = places::folder()?;
        let mut text = PROJECT.to_owned();
        for (name, sql, _) in VIEWS {
            text += &format!("[views.{name}]\nsql = \"{name}.sql\"\n");
            std::fs::write(dir.path().join(format!("{name}.sql")), sql)?;
        }
        if users {
            text += "[users]\nfile = \"users.toml\"\n";
        }
        std::fs::write(dir.path().join("anabranch.toml"), text)?;
        let mut token = String::new();
        if users {
            let mut arguments = vec!["users", "add", "it"];
            arguments.extend(may.iter().flat_map(|right| ["--may", right]));
            token = run_well(dir.path(), &arguments).await?.trim().to_owned();
        }
        let daemon = Daemon::start(dir.path()).await?;
        // Some of it in the master views, some in the delta.
        let (first, second) = facts.split_at(facts.len() / 2);
        send(&daemon, first).await?;
        Self::refresh(dir.path()).await?;
        send(&daemon, second).await?;
        let (_, health) = daemon.get("/health").await?;
        let health: serde_json::Value = serde_json::from_str(&health)?;
        let address = health["postgres"].as_str().unwrap_or_default();
        let port = address.rsplit(':').next().unwrap_or_default().parse()?;
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(port)
            .user("it")
            .password(&token);
        let (door, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        let flight = anabranch_tests::flight::client(&daemon, &token).await?;
        Ok(Self {
            dir,
            daemon,
            token,
            door,
            flight,
        })
    }

    async fn refresh(dir: &Path) -> anyhow::Result<()> {
        // What divides by zero fails; the others go on.
        anabranch_tests::process::run(dir, &["batch", "refresh"]).await?;
        Ok(())
    }

    /// The rows over HTTP in any order, or the error.
    async fn over_http(&self, sql: &str) -> anyhow::Result<Result<Vec<String>, String>> {
        let bearer = format!("Bearer {}", self.token);
        let mut headers = vec![("accept", "application/x-ndjson")];
        if !self.token.is_empty() {
            headers.push(("authorization", bearer.as_str()));
        }
        let http = &self.daemon.client.address().http;
        let (status, text) = request("POST", http, "/sql", &headers, sql.as_bytes()).await?;
        if status != 200 {
            let read: serde_json::Value = serde_json::from_str(&text)?;
            return Ok(Err(read["error"].as_str().unwrap_or_default().to_owned()));
        }
        let body = text.lines().filter(|line| line.starts_with('{'));
        let mut rows: Vec<String> = body.map(str::to_owned).collect();
        rows.sort_unstable();
        Ok(Ok(rows))
    }

    /// The same over Arrow Flight SQL.
    async fn over_flight(&self, sql: &str) -> anyhow::Result<Result<Vec<String>, String>> {
        let answered = anabranch_tests::flight::rows(&mut self.flight.clone(), sql).await;
        let batches = match answered {
            Ok(batches) => batches,
            Err(e) => return Ok(Err(format!("{:?} {}", e.code(), e.message()))),
        };
        let rows = shown(&batches)?;
        let mut rows: Vec<String> = rows.iter().map(|row| format!("{row:?}")).collect();
        rows.sort_unstable();
        Ok(Ok(rows))
    }

    /// The same over PostgreSQL's protocol.
    async fn over_door(&self, sql: &str) -> Result<Vec<String>, String> {
        let answered = self.door.simple_query(sql).await;
        let messages = answered.map_err(|e| match e.as_db_error() {
            Some(e) => format!("{} {}", e.code().code(), e.message()),
            None => e.to_string(),
        })?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(format!(
                "{:?}",
                (0..row.len()).map(|n| row.get(n)).collect::<Vec<_>>()
            )),
            _ => None,
        });
        let mut rows: Vec<String> = rows.collect();
        rows.sort_unstable();
        Ok(rows)
    }
}

async fn send(daemon: &Daemon, facts: &[String]) -> anyhow::Result<()> {
    // As a command of the project, which may do everything.
    let body = facts.concat();
    daemon.client.write_ndjson("visits", body.into()).await?;
    Ok(())
}

/// An error without the value that it fails at, of which any of the user's own may be the first, and
/// without what fails first where several things do.
fn without_value(answered: Result<Vec<String>, String>) -> Result<Vec<String>, String> {
    answered.map_err(|text| {
        let text = OWN.iter().fold(text, |text, own| {
            text.replace(&format!("string '{own}'"), "string")
        });
        let fails = [
            "division by zero",
            "cannot cast string to value of int type",
        ];
        match fails.iter().any(|part| text.contains(part)) {
            true => "a row of the user's own".to_owned(),
            false => text,
        }
    })
}

/// Random facts, each with its site.
fn facts(random: &mut SmallRng, count: usize) -> Vec<(Option<&'static str>, String)> {
    let fact = |_| {
        let site = match random.random_range(0..10) {
            0 => None,
            _ => SITES.choose(random).copied(),
        };
        let n = match random.random_range(0..10) {
            0 => serde_json::Value::Null,
            _ => random.random_range(0..20).into(),
        };
        let text = serde_json::json!({
            "ts": format!("2026-01-{:02}T00:00:00Z", random.random_range(1..28)),
            "site": site,
            "url": format!("/{}", random.random_range(0..6)),
            "n": n,
        });
        (site, format!("{text}\n"))
    };
    (0..count).map(fact).collect()
}

/// A random statement about what a filtered user may read. Many of them fail on some row.
fn statement(random: &mut SmallRng) -> String {
    let pick =
        |random: &mut SmallRng, from: &[&str]| from.choose(random).unwrap_or(&"").to_string();
    let relation = pick(random, &["visits", "by_site", "by_url", "busy", "divides"]);
    let number = match relation.as_str() {
        "visits" => "n",
        "divides" => "odd",
        _ => "visits",
    };
    let condition = |random: &mut SmallRng| {
        pick(
            random,
            &[
                "true",
                "site = 'a'",
                "site = 'b'",
                "site <> 'b'",
                "site IS NULL",
                "site LIKE '%x%'",
                "1 / (CASE WHEN site = 'a' THEN 0 ELSE 1 END) = 1",
                "1 / (CASE WHEN site = 'b' THEN 0 ELSE 1 END) = 1",
                "CAST(site AS int) = 1",
                "length(site) = 1",
                "NUMBER > 3",
                "100 / (NUMBER - 3) > 1",
                "site IN (SELECT site FROM by_site WHERE visits > 3)",
                "EXISTS (SELECT 1 FROM visits AS v WHERE v.site = 'a')",
            ],
        )
        .replace("NUMBER", number)
    };
    let select = pick(
        random,
        &[
            "SELECT * FROM R WHERE C",
            "SELECT site, count(*) AS c FROM R WHERE C GROUP BY site",
            "SELECT count(*) AS c, min(site) AS l, max(NUMBER) AS m FROM R WHERE C",
            "SELECT DISTINCT site FROM R WHERE C OR D",
            "SELECT site, NUMBER, rank() OVER (ORDER BY NUMBER, site) AS r FROM R WHERE C",
            "SELECT a.site, count(*) AS c FROM R AS a JOIN by_site AS b ON a.site = b.site GROUP BY a.site HAVING count(*) > 1",
            "SELECT a.site, b.url FROM by_site AS a LEFT JOIN busy AS b ON a.site = b.site AND b.visits > 1",
            "SELECT site FROM R WHERE C UNION SELECT site FROM by_url WHERE url = '/1'",
            "SELECT site FROM R WHERE C EXCEPT SELECT site FROM visits WHERE n > 10",
            "SELECT (SELECT count(*) FROM R WHERE C) AS c, (SELECT max(visits) FROM by_site) AS m",
            "SELECT combine(urls) AS u, sum(visits) AS v FROM by_site WHERE urls > 0",
            "SELECT url, combine(different) AS d FROM by_url GROUP BY url",
            "SELECT site, combine(mean) AS m FROM by_url WHERE url <> '/2' GROUP BY site",
            "SELECT 1 / (CASE WHEN site = 'a' THEN 0 ELSE 1 END) AS d FROM R WHERE C",
            "SELECT sum(CAST(site AS int)) AS s FROM R WHERE C",
            "SELECT NUMBER FROM R ORDER BY NUMBER DESC NULLS LAST, site, 1 LIMIT 1",
        ],
    );
    let (c, d) = (condition(random), condition(random));
    let text = select.replace(" R ", &format!(" {relation} "));
    let text = text
        .replace(" C", &format!(" ({c})"))
        .replace(" D", &format!(" ({d})"));
    // Where a fact lies in the log differs.
    let text = match relation.as_str() {
        "visits" => text.replace("SELECT * ", "SELECT ts, site, url, n, _extra "),
        _ => text,
    };
    text.replace("NUMBER", number)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_the_rows_that_are_theirs() -> anyhow::Result<()> {
    let number = |name: &str, otherwise: u64| {
        let set = std::env::var(name).ok().and_then(|text| text.parse().ok());
        set.unwrap_or(otherwise)
    };
    let (count, seed) = (
        number("ANABRANCH_STATEMENTS", 300),
        number("ANABRANCH_SEED", 20_261_130),
    );
    let mut random = SmallRng::seed_from_u64(seed);
    let all = facts(&mut random, 400);
    let own = all
        .iter()
        .filter(|(site, _)| site.is_some_and(|s| OWN.contains(&s)));
    let own: Vec<String> = own.map(|(_, fact)| fact.clone()).collect();
    let all: Vec<String> = all.into_iter().map(|(_, fact)| fact).collect();
    let right = "read * where site in ('b', 'ünï ''x''')";
    let filtered = Stand::start(&[right], true, &all).await?;
    let alone = Stand::start(&[], false, &own).await?;
    // What can't be told apart is not there, and what can be is.
    for (name, _, is_there) in VIEWS {
        let sql = format!("SELECT * FROM {name}");
        let answered = filtered.over_http(&sql).await?;
        let is_absent = matches!(&answered, Err(text) if text.contains(&format!("no topic, view or table `{name}`")));
        // Of a view without an aggregate the site is a column of each row.
        let told_apart = is_there || name == "plain";
        anyhow::ensure!(is_absent != told_apart, "{name}: {answered:?}");
    }
    for name in ["other", "dead_letters", "jobs", "dead_letter_retries"] {
        let answered = filtered.over_http(&format!("SELECT * FROM {name}")).await?;
        anyhow::ensure!(answered.is_err(), "{name}: {answered:?}");
    }
    for sql in [
        "EXPLAIN SELECT * FROM visits",
        "EXPLAIN ANALYZE SELECT * FROM by_site",
    ] {
        let answered = filtered.over_http(sql).await?;
        anyhow::ensure!(
            answered.is_err_and(|text| text.contains("plans tell")),
            "{sql}"
        );
    }
    let listed = filtered
        .over_http("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        .await?;
    let listed = format!("{listed:?}");
    anyhow::ensure!(
        listed.contains("by_site") && !listed.contains("all_urls"),
        "{listed}"
    );
    // What is not there is not listed either.
    for (name, _, _) in VIEWS {
        let there = filtered
            .over_http(&format!("SELECT 1 FROM {name} LIMIT 0"))
            .await?;
        let is_absent = there.is_err_and(|text| text.contains("no topic, view or table"));
        let is_listed = listed.contains(&format!("\\\"{name}\\\""));
        anyhow::ensure!(is_absent != is_listed, "{name}: {listed}");
    }
    // A transaction that pins all at once, of which one view fails, reads the others, and tells no more.
    let begun = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM by_site";
    let read = filtered.over_door(begun).await;
    anyhow::ensure!(read.is_ok(), "{read:?}");
    let told = filtered.over_door("SELECT * FROM divides").await;
    anyhow::ensure!(
        told.as_ref()
            .is_err_and(|text| text.contains("can't be read now")),
        "{told:?}"
    );
    for hidden in ["offset", "all_urls", "other", "jobs", "whole"] {
        anyhow::ensure!(
            told.as_ref().is_err_and(|text| !text.contains(hidden)),
            "{told:?}"
        );
    }
    filtered.over_door("ROLLBACK").await.ok();
    let (mut answers, mut errors) = (0, 0);
    for _ in 0..count {
        let sql = statement(&mut random);
        let (expected, found) = (
            alone.over_http(&sql).await?,
            filtered.over_http(&sql).await?,
        );
        // Of a view that fails at a fact the user is not told at which.
        if expected
            .as_ref()
            .is_err_and(|text| text.contains("`divides` can't be computed"))
        {
            let told = found.as_ref().err().cloned().unwrap_or_default();
            anyhow::ensure!(told.contains("can't be read now"), "{sql}: {found:?}");
            anyhow::ensure!(!told.contains("offset"), "{sql}: {told}");
            continue;
        }
        let (expected, found) = (without_value(expected), without_value(found));
        match (&expected, &found) {
            (Ok(_), Ok(_)) => answers += 1,
            (Err(_), Err(_)) => errors += 1,
            _ => {}
        }
        anyhow::ensure!(
            expected == found,
            "seed {seed}: {sql}\nexpected {expected:?}\nfound    {found:?}"
        );
        let over_door = [alone.over_door(&sql).await, filtered.over_door(&sql).await];
        let over_flight = [
            alone.over_flight(&sql).await?,
            filtered.over_flight(&sql).await?,
        ];
        for [expected, found] in [over_door, over_flight] {
            let (expected, found) = (without_value(expected), without_value(found));
            anyhow::ensure!(
                expected == found,
                "seed {seed}: {sql}\nexpected {expected:?}\nfound    {found:?}"
            );
        }
    }
    anyhow::ensure!(
        answers > count / 3 && errors > count / 20,
        "{answers}, {errors}"
    );
    println!("{answers} answers and {errors} errors are the same");
    // Two conditions are one or the other, and a right to all of it goes before.
    let users = filtered.dir.path().join("users.toml");
    let text = std::fs::read_to_string(&users)?;
    anyhow::ensure!(text.contains("IN ('b', 'ünï ''x''')"), "{text}");
    filtered.daemon.stop().await?;
    alone.daemon.stop().await
}
