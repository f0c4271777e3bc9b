//! The example `newsroom`, as its user has it: made and fed by the real program, every question asked of
//! a daemon, and views compared with what a plain loop over the generated lines makes of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anabranch_shared::WallClock;
use anabranch_tests::daemon::{Daemon, run};
use anabranch_tests::places;
use anabranch_tests::process::until;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;

const MINUTE_US: i64 = 60_000_000;
const HOUR_US: i64 = 60 * MINUTE_US;
const DAY_US: i64 = 24 * HOUR_US;
const GAP_US: i64 = 30 * MINUTE_US;

/// Facts of a request.
const REQUEST_FACTS: usize = 20_000;

/// Makes the example in a folder, with an address and bounds for a test.
pub(super) fn make(place: &Path) -> anyhow::Result<PathBuf> {
    let dir = place.join("newsroom");
    let shown = dir.display().to_string();
    let ran = run(place, &["init", "--example", "newsroom", &shown])?;
    anyhow::ensure!(ran.code == Some(0), "{ran:?}");
    let settings = dir.join("anabranch.toml");
    let text = std::fs::read_to_string(&settings)?;
    // Other tests run in this process, whose allocator keeps what they have freed.
    let daemon = "[query]\nprocess_memory = \"1TB\"\nmemory = \"6GB\"\ntimeout = \"30m\"\n\n[daemon]\nland_every = \"200ms\"\nshutdown_timeout = \"5m\"";
    let changed = text
        .replace("127.0.0.1:8787", "127.0.0.1:0")
        .replace("[daemon]", daemon);
    anyhow::ensure!(changed.len() > text.len() + daemon.len() - 20, "{text}");
    std::fs::write(&settings, changed)?;
    Ok(dir)
}

/// The names of the files of a folder of the example, without their ending.
pub(super) fn names(dir: &Path, folder: &str) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir.join(folder))? {
        let path = entry?.path();
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
        names.extend(stem);
    }
    names.sort();
    Ok(names)
}

/// Writes the facts of a seed up to a time into a folder.
pub(super) fn generate(
    dir: &Path,
    facts: u64,
    seed: u64,
    end: DateTime<Utc>,
    into: &Path,
) -> anyhow::Result<()> {
    let whereto = ["--output", &into.display().to_string()].map(str::to_owned);
    generated(dir, facts, seed, end, &whereto)
}

fn generated(
    dir: &Path,
    facts: u64,
    seed: u64,
    end: DateTime<Utc>,
    whereto: &[String],
) -> anyhow::Result<()> {
    let (facts, seed) = (facts.to_string(), seed.to_string());
    let end = end.to_rfc3339_opts(SecondsFormat::Secs, true);
    let mut command = vec!["generate", "newsroom", "--facts", &facts, "--seed", &seed];
    command.extend(["--end", &end]);
    command.extend(whereto.iter().map(String::as_str));
    let ran = run(dir, &command)?;
    anyhow::ensure!(ran.code == Some(0), "{ran:?}");
    Ok(())
}

/// Sends lines to a topic. Returns how many became facts.
pub(super) async fn send(daemon: &Daemon, topic: &str, lines: &[&str]) -> anyhow::Result<u64> {
    let mut facts = 0;
    for request in lines.chunks(REQUEST_FACTS) {
        let body = request.join("\n").into();
        let sent = daemon.client.write_ndjson(topic, body).await?;
        anyhow::ensure!(sent.dead_letters == 0, "{sent:?}");
        facts += sent.facts;
    }
    Ok(facts)
}

/// How many versions of posts the step should make of what was fetched.
pub(super) fn versions(fetched: &str) -> anyhow::Result<usize> {
    let mut count = 0;
    for line in fetched.lines() {
        let line: Value = serde_json::from_str(line)?;
        let is_article = line["page"]
            .as_str()
            .is_some_and(|p| p.contains("NewsArticle"));
        count += usize::from(line["status"] == 410 || is_article);
    }
    Ok(count)
}

/// Waits until the step has made so many versions of posts.
pub(super) async fn crawled(daemon: &Daemon, versions: usize) -> anyhow::Result<()> {
    until("the step has made all", || async {
        let made = daemon.rows("SELECT count(*) FROM content").await?;
        Ok(made[0][0].parse::<usize>()? >= versions)
    })
    .await
}

/// A fact of `events`.
#[derive(Clone, Debug)]
struct Event {
    id: String,
    at: i64,
    action: String,
    site: String,
    url: String,
    referrer: String,
    visitor: String,
    engaged_ms: Option<i64>,
}

fn micros(value: &Value) -> anyhow::Result<i64> {
    let text = value.as_str().unwrap_or_default();
    Ok(text.parse::<DateTime<Utc>>()?.timestamp_micros())
}

/// Each event once, by its id.
fn events(text: &str) -> anyhow::Result<Vec<Event>> {
    let mut known = BTreeSet::new();
    let mut events = Vec::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line)?;
        let of = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
        let event = Event {
            id: of("event_id"),
            at: micros(&line["ts"])?,
            action: of("action"),
            site: of("site"),
            url: of("url"),
            referrer: of("referrer"),
            visitor: of("visitor"),
            engaged_ms: line["engaged_ms"].as_i64(),
        };
        if known.insert(event.id.clone()) {
            events.push(event);
        }
    }
    Ok(events)
}

/// Of each URL what the newest fetch says of its author; none of what is gone or says nothing.
fn authors(text: &str) -> anyhow::Result<HashMap<String, Option<String>>> {
    let mut newest: HashMap<String, (i64, Option<String>)> = HashMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line)?;
        let page = line["page"].as_str().unwrap_or_default();
        let said: Option<Value> = serde_json::from_str(page).ok();
        let author = match (line["status"].as_i64(), said) {
            (Some(410), _) => None,
            (Some(200), Some(said)) if said["@type"] == "NewsArticle" => {
                said["author"]["name"].as_str().map(str::to_owned)
            }
            _ => continue,
        };
        let (at, url) = (micros(&line["fetched_at"])?, line["url"].to_string());
        let url = url.trim_matches('"').to_owned();
        let known = newest.entry(url).or_insert((at, None));
        if at >= known.0 {
            *known = (at, author);
        }
    }
    Ok(newest.into_iter().map(|(u, (_, a))| (u, a)).collect())
}

fn or_null<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "NULL".to_owned(), |v| v.to_string())
}

/// What is counted of a key: page views, those from Facebook, shares, time engaged.
#[derive(Default)]
struct Counted {
    views: i64,
    from_facebook: i64,
    shares: i64,
    engaged_ms: Option<i64>,
}

fn counted<K: Ord>(events: &[Event], key: impl Fn(&Event) -> K) -> BTreeMap<K, Counted> {
    let mut counts: BTreeMap<K, Counted> = BTreeMap::new();
    for event in events {
        let count = counts.entry(key(event)).or_default();
        let facebook = event.referrer.contains("facebook.com/");
        match event.action.as_str() {
            "pageview" => {
                count.views += 1;
                count.from_facebook += i64::from(facebook);
            }
            "share" => count.shares += 1,
            _ => {}
        }
        if let Some(ms) = event.engaged_ms {
            *count.engaged_ms.get_or_insert(0) += ms;
        }
    }
    counts
}

/// Whether the rows of an answer are those that are expected, in any order.
async fn check(
    daemon: &Daemon,
    what: &str,
    sql: &str,
    mut expected: Vec<Vec<String>>,
) -> anyhow::Result<()> {
    let mut found = daemon
        .rows(sql)
        .await
        .map_err(|e| e.context(what.to_owned()))?;
    found.sort();
    expected.sort();
    let differ = found.iter().zip(&expected).find(|(a, b)| a != b);
    anyhow::ensure!(
        found == expected && !found.is_empty(),
        "{what}: {} rows instead of {}; found and expected {differ:?}",
        found.len(),
        expected.len()
    );
    Ok(())
}

/// Compares what reads `events` alone with plain loops over them.
async fn check_events(daemon: &Daemon, events: &[Event]) -> anyhow::Result<()> {
    let minutes = counted(events, |e| {
        (e.at / MINUTE_US * MINUTE_US, e.site.clone(), e.url.clone())
    });
    let rows = minutes.iter().map(|((at, site, url), c)| {
        let numbers = [
            c.views.to_string(),
            c.shares.to_string(),
            or_null(c.engaged_ms),
        ];
        [at.to_string(), site.clone(), url.clone()]
            .into_iter()
            .chain(numbers)
            .collect()
    });
    let sql = "SELECT CAST(minute AS BIGINT), site, url, page_views, shares, engaged_ms FROM post_minutes";
    check(daemon, "post_minutes", sql, rows.collect()).await?;
    check_returning(daemon, events).await?;
    check_sessions(daemon, events).await
}

async fn check_returning(daemon: &Daemon, events: &[Event]) -> anyhow::Result<()> {
    let views = || events.iter().filter(|e| e.action == "pageview");
    let mut first: HashMap<(&str, &str), i64> = HashMap::new();
    let mut seen: BTreeSet<(&str, i64, &str)> = BTreeSet::new();
    for e in views() {
        let day = e.at / DAY_US * DAY_US;
        let known = first.entry((&e.site, &e.visitor)).or_insert(day);
        *known = day.min(*known);
        seen.insert((&e.site, day, &e.visitor));
    }
    let mut days: BTreeMap<(&str, i64), (i64, i64)> = BTreeMap::new();
    for (site, day, visitor) in seen {
        let is_new = first.get(&(site, visitor)) == Some(&day);
        let (new, returning) = days.entry((site, day)).or_default();
        *(if is_new { new } else { returning }) += 1;
    }
    anyhow::ensure!(days.values().any(|d| d.1 > 0), "nobody comes back");
    let rows = days.iter().map(|((site, day), (new, returning))| {
        vec![
            (*site).to_owned(),
            day.to_string(),
            new.to_string(),
            returning.to_string(),
        ]
    });
    let sql =
        "SELECT site, CAST(day AS BIGINT), new_visitors, returning_visitors FROM new_returning";
    check(daemon, "new_returning", sql, rows.collect()).await
}

async fn check_sessions(daemon: &Daemon, events: &[Event]) -> anyhow::Result<()> {
    let mut visits: BTreeMap<(&str, &str), Vec<&Event>> = BTreeMap::new();
    for e in events {
        visits.entry((&e.site, &e.visitor)).or_default().push(e);
    }
    let mut rows = Vec::new();
    for ((site, visitor), mut facts) in visits {
        facts.sort_by_key(|e| (e.at, &e.url));
        let mut begun = 0;
        for next in 1..=facts.len() {
            let goes_on = facts
                .get(next)
                .is_some_and(|e| e.at - facts[next - 1].at <= GAP_US);
            if goes_on {
                continue;
            }
            let session = &facts[begun..next];
            begun = next;
            let pages: Vec<&&Event> = session.iter().filter(|e| e.action == "pageview").collect();
            let engaged: Vec<i64> = session.iter().filter_map(|e| e.engaged_ms).collect();
            rows.push(vec![
                site.to_owned(),
                visitor.to_owned(),
                session[0].at.to_string(),
                session[session.len() - 1].at.to_string(),
                or_null(pages.first().map(|e| &e.url)),
                or_null(pages.last().map(|e| &e.url)),
                pages.len().to_string(),
                or_null((!engaged.is_empty()).then(|| engaged.iter().sum::<i64>())),
            ]);
        }
    }
    let several = rows
        .iter()
        .filter(|r| r[6].parse().is_ok_and(|p: i64| p > 1));
    anyhow::ensure!(several.count() > 10, "hardly a visit has several pages");
    let sql = "SELECT site, visitor, CAST(v['start'] AS BIGINT), CAST(v['end'] AS BIGINT), v['value_1']['first'], v['value_1']['last'], v['value_2']['sum'], v['value_3']['sum'] FROM (SELECT site, visitor, unnest(sessions) AS v FROM visitor_sessions)";
    check(daemon, "visitor_sessions", sql, rows).await
}

/// Compares authors once all facts have met the newest metadata; uniques over all hours within what a
/// sketch may be off.
async fn check_authors(
    daemon: &Daemon,
    events: &[Event],
    authors: &HashMap<String, Option<String>>,
) -> anyhow::Result<()> {
    let author = |e: &Event| or_null(authors.get(&e.url).cloned().flatten());
    let hours = counted(events, |e| (e.at / HOUR_US * HOUR_US, author(e)));
    let rows = hours.iter().map(|((at, author), c)| {
        vec![
            at.to_string(),
            author.clone(),
            c.views.to_string(),
            c.from_facebook.to_string(),
            c.shares.to_string(),
            or_null(c.engaged_ms),
        ]
    });
    let sql = "SELECT CAST(hour AS BIGINT), author, page_views, from_facebook, shares, engaged_ms FROM author_hours";
    check(daemon, "author_hours", sql, rows.collect()).await?;
    let mut visitors: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for e in events {
        visitors.entry(author(e)).or_default().insert(&e.visitor);
    }
    let sql = "SELECT author, combine(visitors) FROM author_hours GROUP BY author";
    let found = daemon.rows(sql).await?;
    anyhow::ensure!(found.len() == visitors.len() && visitors.len() > 20);
    for row in found {
        let exact = visitors.get(&row[0]).map_or(0, BTreeSet::len) as f64;
        let off = (row[1].parse::<f64>()? - exact).abs();
        anyhow::ensure!(off <= 2.0 + 0.05 * exact, "{row:?}, exactly {exact}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_question_of_the_newsroom_is_answered() -> anyhow::Result<()> {
    let place = places::folder()?;
    let dir = make(place.path())?;
    let end = WallClock::default().now();
    let daemon = Daemon::start(&dir).await?;
    generated(&dir, 12_000, 5, end, &["--into-daemon".to_owned()])?;
    // The same again, as lines: what came is known.
    let same = place.path().join("same");
    generate(&dir, 12_000, 5, end, &same)?;
    let mut sent = std::fs::read_to_string(same.join("events.ndjson"))?;
    let mut fetched = std::fs::read_to_string(same.join("crawls.ndjson"))?;
    let again: Vec<&str> = sent.lines().collect();
    anyhow::ensure!(again.len() == 12_000);
    anyhow::ensure!(send(&daemon, "events", &again).await? == 0, "counted twice");
    let all = events(&sent)?;
    anyhow::ensure!((11_800..11_950).contains(&all.len()), "{}", all.len());
    crawled(&daemon, versions(&fetched)?).await?;
    check_events(&daemon, &all).await?;
    // All that has come is absorbed, and more comes.
    daemon.stop().await?;
    let ran = run(&dir, &["batch", "rebuild"])?;
    anyhow::ensure!(ran.code == Some(0), "{ran:?}");
    let daemon = Daemon::start(&dir).await?;
    check_authors(&daemon, &all, &authors(&fetched)?).await?;
    let more = place.path().join("more");
    generate(&dir, 3_000, 6, end, &more)?;
    let (lines, crawls) = (
        std::fs::read_to_string(more.join("events.ndjson"))?,
        std::fs::read_to_string(more.join("crawls.ndjson"))?,
    );
    send(&daemon, "crawls", &crawls.lines().collect::<Vec<_>>()).await?;
    send(&daemon, "events", &lines.lines().collect::<Vec<_>>()).await?;
    sent += &lines;
    fetched += &crawls;
    crawled(&daemon, versions(&fetched)?).await?;
    let all = events(&sent)?;
    check_events(&daemon, &all).await?;
    ask(&dir, &daemon).await?;
    daemon.stop().await?;
    // Whatever met what: every view is what its SQL says of the facts.
    let ran = run(&dir, &["verify"])?;
    anyhow::ensure!(ran.code == Some(0), "{ran:?}");
    let ran = run(&dir, &["batch", "rebuild", "author_hours"])?;
    anyhow::ensure!(ran.code == Some(0), "{ran:?}");
    let daemon = Daemon::start(&dir).await?;
    check_authors(&daemon, &all, &authors(&fetched)?).await?;
    daemon.stop().await
}

/// Asks every question of the example, as its README says.
async fn ask(dir: &Path, daemon: &Daemon) -> anyhow::Result<()> {
    let questions = names(dir, "questions")?;
    anyhow::ensure!(questions.len() == 13, "{questions:?}");
    for question in questions {
        let path = dir.join("questions").join(format!("{question}.sql"));
        let file = path.display().to_string();
        let ran = run(dir, &["--format", "csv", "sql", "-f", &file])?;
        let rows = ran.said.lines().count();
        anyhow::ensure!(ran.code == Some(0) && rows > 1, "{question}: {ran:?}");
        println!(
            "{question}: {}",
            ran.said.lines().nth(1).unwrap_or_default()
        );
    }
    // What is read thoroughly is shared more: that is how the facts are made.
    let sql = std::fs::read_to_string(dir.join("questions/sharing_and_reading.sql"))?;
    let rows = daemon.rows(sql.trim_end().trim_end_matches(';')).await?;
    let of = |row: usize, column: usize| rows[row][column].parse::<f64>();
    anyhow::ensure!(rows.len() == 4, "{rows:?}");
    anyhow::ensure!(of(3, 2)? > 1.5 * of(0, 2)?, "{rows:?}");
    anyhow::ensure!(of(3, 3)? > of(0, 3)?, "{rows:?}");
    Ok(())
}
