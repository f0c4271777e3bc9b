//! Following a view: what was told at the beginning, and what was told from then on, is the answer.

use std::collections::BTreeMap;
use std::time::Duration;

use anabranch_tests::daemon::{Daemon, request};
use anabranch_tests::places;
use anabranch_tests::process::{run_well, until};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;

/// How long anything that is told may take to come.
const PATIENCE: Duration = Duration::from_secs(30);

const PROJECT: &str = r#"
[storage]
url = "file://./data"
[daemon]
http = "127.0.0.1:0"
land_every = "300ms"
[topics.visits]
event_time = "ts"
[topics.visits.fields]
ts = "timestamp not null"
site = "varchar"
url = "varchar"
x = "double"
n = "bigint"
"#;

/// Views by name: by their keys, by floating keys, of few groups, of one row, of some rows, without keys.
const VIEWS: [(&str, &str); 8] = [
    (
        "by_url",
        "SELECT site, url, count(*) AS visits, sum(n) AS total, max(ts) AS last, approx_distinct(n) AS different FROM visits GROUP BY site, url",
    ),
    (
        "by_x",
        "SELECT x, count(*) AS visits FROM visits GROUP BY x",
    ),
    (
        "busy",
        "SELECT url, sum(n) AS total FROM visits GROUP BY url HAVING sum(n) BETWEEN 20 AND 300",
    ),
    (
        "whole",
        "SELECT count(*) AS visits, min(n) AS least FROM visits",
    ),
    (
        "shortened",
        "SELECT count(*) AS visits, site || '!' AS name FROM visits GROUP BY site",
    ),
    (
        "top",
        "SELECT url, count(*) AS visits FROM visits GROUP BY url ORDER BY visits DESC, url LIMIT 2",
    ),
    (
        "ranked",
        "SELECT site, visits, rank() OVER (ORDER BY visits DESC) AS place FROM (SELECT site, count(*) AS visits FROM visits GROUP BY site)",
    ),
    ("plain", "SELECT url, n FROM visits WHERE n > 17"),
];

struct Stand {
    dir: tempfile::TempDir,
    daemon: Daemon,
}

impl Stand {
    async fn start(more: &str) -> anyhow::Result<Self> {
        let dir = places::folder()?;
        let mut text = format!("{PROJECT}{more}\n");
        for (name, sql) in VIEWS {
            text += &format!("[views.{name}]\nsql = \"{name}.sql\"\n");
            std::fs::write(dir.path().join(format!("{name}.sql")), sql)?;
        }
        std::fs::write(dir.path().join("anabranch.toml"), text)?;
        let daemon = Daemon::start(dir.path()).await?;
        Ok(Self { dir, daemon })
    }

    async fn send(&self, random: &mut SmallRng, count: usize) -> anyhow::Result<()> {
        let fact = |_| {
            let site = [None, Some("a"), Some("b"), Some("ü 'x'")];
            let site = site.choose(random).copied().flatten();
            let x = [
                Value::Null,
                1.5.into(),
                "NaN".into(),
                (-0.0).into(),
                0.0.into(),
            ];
            let text = serde_json::json!({
                "ts": format!("2026-01-{:02}T00:00:00Z", random.random_range(1..28)),
                "site": site,
                "url": format!("/{}", random.random_range(0..8)),
                "x": x.choose(random),
                "n": random.random_range(0..20),
            });
            format!("{text}\n")
        };
        let body: String = (0..count).map(fact).collect();
        self.daemon
            .client
            .write_ndjson("visits", body.into())
            .await?;
        Ok(())
    }
}

/// Somebody who follows a view, and what they have by what they were told.
struct Follower {
    answer: reqwest::Response,
    unread: Vec<u8>,
    key: Option<Vec<String>>,
    /// Rows by their keys, or by all of them; how often each is there.
    rows: BTreeMap<String, (Value, usize)>,
    token: String,
    resets: usize,
    cut_overs: usize,
    ended: Option<String>,
    /// Whether it was told the answer at first.
    has_all: bool,
}

impl Follower {
    async fn start(stand: &Stand, view: &str, more: &str, token: &str) -> anyhow::Result<Self> {
        let http = &stand.daemon.client.address().http;
        let url = format!("http://{http}/views/{view}/changes{more}");
        let mut asked = reqwest::Client::new().get(url);
        if !token.is_empty() {
            asked = asked.bearer_auth(token);
        }
        let answer = asked.send().await?;
        anyhow::ensure!(answer.status() == 200, "{}", answer.text().await?);
        Ok(Self {
            answer,
            unread: Vec::new(),
            key: None,
            rows: BTreeMap::new(),
            token: String::new(),
            resets: 0,
            cut_overs: 0,
            ended: None,
            has_all: !more.contains("snapshot=false"),
        })
    }

    /// The same reader over another connection.
    async fn again(self, stand: &Stand, view: &str) -> anyhow::Result<Self> {
        let token = self.token.replace(' ', "%20");
        let next = Self::start(stand, view, &format!("?token={token}"), "").await?;
        Ok(Self {
            answer: next.answer,
            unread: Vec::new(),
            ..self
        })
    }

    fn place(&self, row: &Value) -> String {
        match &self.key {
            Some(key) => key.iter().map(|name| format!("{},", row[name])).collect(),
            None => row.to_string(),
        }
    }

    fn take_out(&mut self, row: &Value) -> anyhow::Result<()> {
        let place = self.place(row);
        let Some((had, count)) = self.rows.get_mut(&place) else {
            anyhow::bail!("{row} was never there: {:?}", self.rows);
        };
        anyhow::ensure!(
            had == row,
            "{row} is told to have been there, and it was {had}"
        );
        *count -= 1;
        if *count == 0 {
            self.rows.remove(&place);
        }
        Ok(())
    }

    fn put_in(&mut self, row: &Value) -> anyhow::Result<()> {
        let place = self.place(row);
        let is_keyed = self.key.is_some();
        let entry = self.rows.entry(place).or_insert((row.clone(), 0));
        entry.1 += 1;
        anyhow::ensure!(!is_keyed || entry.1 == 1, "{row} is there twice");
        Ok(())
    }

    fn take(&mut self, line: &str) -> anyhow::Result<bool> {
        let told: Value = serde_json::from_str(line)?;
        match told["op"].as_str().unwrap_or_default() {
            "added" | "changed" | "removed" if !self.has_all => {}
            "reset" => {
                self.rows.clear();
                self.resets += 1;
                let key = told["key"].as_array();
                self.key = key.map(|all| {
                    let names = all.iter().filter_map(Value::as_str);
                    names.map(str::to_owned).collect()
                });
            }
            "row" => self.put_in(&told["new"])?,
            "added" => {
                anyhow::ensure!(told["old"].is_null());
                self.put_in(&told["new"])?;
            }
            "changed" => {
                self.take_out(&told["old"])?;
                self.put_in(&told["new"])?;
            }
            "removed" => self.take_out(&told["old"])?,
            "cut_over" => self.cut_overs += 1,
            "at" => {
                self.token = told["token"].as_str().unwrap_or_default().to_owned();
                return Ok(true);
            }
            "alive" => {}
            "failed" | "gone" => self.ended = Some(line.to_owned()),
            other => anyhow::bail!("{other}: {line}"),
        }
        Ok(false)
    }

    /// Reads until the next `at`; false where the stream has ended.
    async fn next(&mut self) -> anyhow::Result<bool> {
        loop {
            while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                if self.take(std::str::from_utf8(&line)?.trim())? {
                    return Ok(true);
                }
            }
            let chunk = tokio::time::timeout(PATIENCE, self.answer.chunk()).await;
            match chunk {
                Err(_) => anyhow::bail!("nothing is told any more"),
                Ok(Ok(Some(chunk))) => self.unread.extend_from_slice(&chunk),
                Ok(_) => return Ok(false),
            }
        }
    }

    /// Whether it has the answer now.
    async fn has_answer(&self, stand: &Stand, view: &str) -> anyhow::Result<bool> {
        let accept = [("accept", "application/x-ndjson")];
        let http = &stand.daemon.client.address().http;
        let sql = format!("SELECT * FROM {view}");
        let (status, text) = request("POST", http, "/sql", &accept, sql.as_bytes()).await?;
        anyhow::ensure!(status == 200, "{text}");
        let mut expected: Vec<String> = Vec::new();
        for line in text.lines().filter(|line| line.starts_with('{')) {
            expected.push(serde_json::from_str::<Value>(line)?.to_string());
        }
        expected.sort_unstable();
        let rows = self.rows.values();
        let rows = rows.flat_map(|(row, count)| std::iter::repeat_n(row.to_string(), *count));
        let mut rows: Vec<String> = rows.collect();
        rows.sort_unstable();
        Ok(rows == expected)
    }

    /// Reads on until it was told of so many cut-overs.
    async fn cuts_over(&mut self, times: usize) -> anyhow::Result<()> {
        while self.cut_overs < times {
            anyhow::ensure!(self.next().await?, "the stream has ended");
        }
        Ok(())
    }

    /// Reads on until it has the answer, which changes no more.
    async fn comes_to_the_answer(&mut self, stand: &Stand, view: &str) -> anyhow::Result<()> {
        let reading = async {
            while !self.has_answer(stand, view).await? {
                anyhow::ensure!(self.next().await?, "the stream of {view} has ended");
            }
            anyhow::Ok(())
        };
        let read = tokio::time::timeout(PATIENCE, reading).await;
        match read {
            Ok(read) => read,
            Err(_) => anyhow::bail!("{view} has not come to the answer: {:?}", self.rows),
        }
    }
}

/// Through facts that come, refreshes, a cut-over, the way back, a compaction of what was told, and a
/// kill -9.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_is_the_answer() -> anyhow::Result<()> {
    let seed = std::env::var("ANABRANCH_SEED").ok();
    let seed = seed
        .and_then(|text| text.parse().ok())
        .unwrap_or(20_261_130);
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut stand = Stand::start("").await?;
    stand.send(&mut random, 30).await?;
    let mut followers = Vec::new();
    for (view, _) in VIEWS {
        let mut follower = Follower::start(&stand, view, "", "").await?;
        anyhow::ensure!(follower.next().await?);
        anyhow::ensure!(follower.has_answer(&stand, view).await?, "{view}");
        anyhow::ensure!(follower.resets == 1);
        followers.push((view, follower));
    }
    for round in 0..10 {
        let count = random.random_range(1..30);
        stand.send(&mut random, count).await?;
        if round % 3 == 1 {
            run_well(stand.dir.path(), &["batch", "refresh"]).await?;
        }
        if round % 2 == 0 {
            // More may come before anybody looks.
            continue;
        }
        for (view, follower) in &mut followers {
            follower.comes_to_the_answer(&stand, view).await?;
            anyhow::ensure!(follower.resets == 1, "{view}");
        }
    }
    // Another generation: what differs is told.
    let path = stand.dir.path().join("by_url.sql");
    let sql = std::fs::read_to_string(&path)?;
    std::fs::write(&path, sql.replace("FROM visits", "FROM visits WHERE n > 3"))?;
    run_well(stand.dir.path(), &["apply", "--yes"]).await?;
    let (view, by_url) = &mut followers[0];
    by_url.cuts_over(1).await?;
    by_url.comes_to_the_answer(&stand, view).await?;
    anyhow::ensure!((by_url.resets, by_url.cut_overs) == (1, 1));
    run_well(stand.dir.path(), &["rollback", "by_url"]).await?;
    stand.send(&mut random, 5).await?;
    by_url.cuts_over(2).await?;
    for (view, follower) in &mut followers {
        follower.comes_to_the_answer(&stand, view).await?;
        anyhow::ensure!(follower.resets == 1, "{view}");
    }
    // Over another connection it goes on where it was, with what came meanwhile.
    let (view, by_url) = followers.remove(0);
    let token = by_url.token.replace(' ', "%20");
    stand.send(&mut random, 20).await?;
    // Somebody else who follows sees to it that the feed has looked.
    let mut other = Follower::start(&stand, view, "?snapshot=false", "").await?;
    other.next().await?;
    while other.token.replace(' ', "%20") == token {
        anyhow::ensure!(other.next().await?);
    }
    let mut by_url = by_url.again(&stand, view).await?;
    by_url.comes_to_the_answer(&stand, view).await?;
    anyhow::ensure!(by_url.resets == 1, "{}", by_url.resets);
    // Another process knows nothing of where one was: the answer anew, never a gap.
    stand.daemon.kill()?;
    while by_url.next().await? {}
    stand.daemon = Daemon::start(stand.dir.path()).await?;
    stand.send(&mut random, 20).await?;
    let mut by_url = by_url.again(&stand, view).await?;
    by_url.comes_to_the_answer(&stand, view).await?;
    anyhow::ensure!(by_url.resets == 2, "{}", by_url.resets);
    // A daemon that stops says so at once, and does not wait for who follows.
    let began = std::time::Instant::now();
    stand.daemon.stop().await?;
    anyhow::ensure!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    while by_url.next().await? {}
    let ended = by_url.ended.unwrap_or_default();
    anyhow::ensure!(ended.contains("the daemon stops"), "{ended}");
    Ok(())
}

/// A hundred readers are told the same; one that does not read is told to begin anew, and is no burden.
#[tokio::test(flavor = "multi_thread")]
async fn many_follow() -> anyhow::Result<()> {
    let mut random = SmallRng::seed_from_u64(7);
    let stand = Stand::start("").await?;
    stand.send(&mut random, 30).await?;
    let mut followers = Vec::new();
    for _ in 0..100 {
        followers.push(Follower::start(&stand, "by_url", "", "").await?);
    }
    for _ in 0..3 {
        stand.send(&mut random, 10).await?;
        for follower in &mut followers {
            follower.comes_to_the_answer(&stand, "by_url").await?;
        }
    }
    let tokens: std::collections::BTreeSet<&String> = followers.iter().map(|f| &f.token).collect();
    anyhow::ensure!(tokens.len() == 1, "{tokens:?}");
    // As server-sent events, with the place as their id.
    let http = &stand.daemon.client.address().http;
    let url = format!("http://{http}/views/whole/changes");
    let asked = reqwest::Client::new()
        .get(url)
        .header("accept", "text/event-stream");
    let mut answer = asked.send().await?;
    let mut text = String::new();
    while !text.contains("event: at\n") {
        let chunk = tokio::time::timeout(PATIENCE, answer.chunk()).await??;
        let chunk = chunk.unwrap_or_default();
        anyhow::ensure!(!chunk.is_empty(), "{text}");
        text += std::str::from_utf8(&chunk)?;
    }
    let lines: Vec<&str> = text.lines().collect();
    anyhow::ensure!(
        lines[0] == "event: reset" && lines[1].starts_with("data: {") && lines[2].is_empty(),
        "{text}"
    );
    anyhow::ensure!(text.contains("\nid: g1 "), "{text}");
    stand.daemon.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_followed_is_refused() -> anyhow::Result<()> {
    let mut random = SmallRng::seed_from_u64(8);
    let stand = Stand::start("").await?;
    for _ in 0..7 {
        stand.send(&mut random, 20_000).await?;
    }
    for (path, expected, why) in [
        ("/views/by_ulr/changes", 404, "did you mean `by_url`"),
        ("/views/visits/changes", 404, "there is no view"),
        ("/views/plain/changes", 400, "10000 rows"),
        ("/views/by_url/changes?tokn=1", 400, "tokn"),
    ] {
        let (status, answer) = stand.daemon.get(path).await?;
        anyhow::ensure!(
            status == expected && answer.contains(why),
            "{path}: {status} {answer}"
        );
    }
    stand.daemon.stop().await
}

/// A user follows the rows that are theirs, and no more than as long as they may.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_follows_their_rows() -> anyhow::Result<()> {
    let mut random = SmallRng::seed_from_u64(9);
    let dir = places::folder()?;
    let mut text = format!(
        "{PROJECT}[users]\nfile = \"users.toml\"\n[doors.postgres]\nlisten = \"127.0.0.1:0\"\n"
    );
    for (name, sql) in VIEWS {
        text += &format!("[views.{name}]\nsql = \"{name}.sql\"\n");
        std::fs::write(dir.path().join(format!("{name}.sql")), sql)?;
    }
    std::fs::write(dir.path().join("anabranch.toml"), text)?;
    let add = ["users", "add", "it", "--may", "read by_* where site = 'a'"];
    let token = run_well(dir.path(), &add).await?.trim().to_owned();
    let daemon = Daemon::start(dir.path()).await?;
    let stand = Stand { dir, daemon };
    stand.send(&mut random, 100).await?;
    let mut follower = Follower::start(&stand, "by_url", "", &token).await?;
    follower.next().await?;
    let is_own = |follower: &Follower| follower.rows.values().all(|(row, _)| row["site"] == "a");
    anyhow::ensure!(!follower.rows.is_empty() && is_own(&follower));
    let before = follower.rows.clone();
    stand.send(&mut random, 100).await?;
    follower.next().await?;
    anyhow::ensure!(follower.rows != before && is_own(&follower));
    let http = &stand.daemon.client.address().http;
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    for (view, expected) in [("whole", 404), ("by_x", 404), ("nothing", 404)] {
        let path = format!("/views/{view}/changes");
        let (status, answer) = request("GET", http, &path, &headers, b"").await?;
        anyhow::ensure!(status == expected, "{view}: {status} {answer}");
    }
    // So they do over PostgreSQL's protocol.
    let (_, health) = stand.daemon.get("/health").await?;
    let health: Value = serde_json::from_str(&health)?;
    let port = health["postgres"]
        .as_str()
        .and_then(|at| at.rsplit(':').next());
    let port = port.unwrap_or_default();
    let session = format!("host=127.0.0.1 port={port} user=it password={token} dbname=it");
    let (client, connection) = tokio_postgres::connect(&session, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    client
        .batch_execute("DECLARE c CURSOR WITH HOLD FOR SUBSCRIBE by_url")
        .await?;
    let mut rows = 0;
    for row in client.query("FETCH ALL FROM c", &[]).await? {
        let new: Option<String> = row.try_get::<_, Option<Json>>("new")?.map(|json| json.0);
        let new: Value = serde_json::from_str(new.as_deref().unwrap_or("null"))?;
        anyhow::ensure!(new.is_null() || new["site"] == "a", "{new}");
        rows += usize::from(!new.is_null());
    }
    anyhow::ensure!(rows == follower.rows.len(), "{rows}");
    let code = async |sql: &str| -> Option<String> {
        let e = client.batch_execute(sql).await.err()?;
        e.code().map(|code| code.code().to_owned())
    };
    for view in ["whole", "by_x", "nothing"] {
        let refused = code(&format!("SUBSCRIBE {view}")).await;
        anyhow::ensure!(refused.as_deref() == Some("42P01"), "{view}: {refused:?}");
    }
    // Other rights, and it ends.
    let users = stand.dir.path().join("users.toml");
    let text = std::fs::read_to_string(&users)?;
    anyhow::ensure!(text.contains("by_*"), "{text}");
    std::fs::write(&users, text.replace("by_*", "by_ur*"))?;
    until("the subscription has ended", async || {
        let fetched = code("FETCH ALL FROM c WITH (TIMEOUT = '100ms')").await;
        Ok(fetched.as_deref() == Some("42501"))
    })
    .await?;
    run_well(stand.dir.path(), &["users", "revoke", "it"]).await?;
    let ended = tokio::time::timeout(Duration::from_secs(15), async {
        while follower.next().await? {}
        anyhow::Ok(())
    });
    ended.await??;
    stand.daemon.stop().await
}

/// JSON as the text that it is.
struct Json(String);

impl<'a> tokio_postgres::types::FromSql<'a> for Json {
    fn from_sql(
        _: &tokio_postgres::types::Type,
        raw: &'a [u8],
    ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(std::str::from_utf8(raw)?.to_owned()))
    }

    fn accepts(of: &tokio_postgres::types::Type) -> bool {
        *of == tokio_postgres::types::Type::JSON
    }
}
