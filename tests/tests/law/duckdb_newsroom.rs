//! The law against another engine, on the example `newsroom`: every view, merged with 0 %, 37 %, 99 % and
//! 100 % of the facts absorbed, is what DuckDB makes of the logs; before and after metadata is corrected,
//! and after the rebuild by which old facts meet it. Needs `ANABRANCH_PYTHON`, the Python of
//! `tests/bench/setup.sh`; without it the test says so and is skipped.
//!
//! `ANABRANCH_NEWSROOM_FACTS` sets how many facts there are; of millions a daemon takes longer to begin than
//! tests wait, unless `ANABRANCH_PATIENCE` says so.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anabranch_batch::{BatchOptions, rebuild};
use anabranch_jobs::clock::now_ms;
use anabranch_jobs::project::context::Context;
use anabranch_jobs::reader::local_service::local_service;
use anabranch_shared::view::View;
use anabranch_shared::{Master, Offset, Offsets, ReadMode};
use anabranch_tests::daemon::{Daemon, run, shown};
use anabranch_tests::places;
use anabranch_tests::skip::skipped;
use serde_json::{Value, json};

use super::duckdb::write;
use super::newsroom::{crawled, generate, make, names, send, versions};

/// How many facts there are unless told.
const FACTS: u64 = 20_000;

/// The answer that corrected metadata changes.
const BY_AUTHOR: &str = "SELECT author, sum(page_views) AS page_views FROM author_hours GROUP BY author ORDER BY author";

/// What was generated: parts of `events`, by how much of it is absorbed, and of `crawls`, by when the
/// crawler was there.
struct Facts {
    events: [PathBuf; 3],
    /// What it fetches first of some posts, then of the others, and what it finds corrected.
    crawls: [PathBuf; 3],
    are_few: bool,
}

impl Facts {
    fn make(dir: &Path, into: &Path, facts: u64) -> anyhow::Result<Self> {
        generate(dir, facts, 3, "2026-06-30T12:00:00Z".parse()?, into)?;
        let part = |name: &str, lines: &[&str]| {
            let path = into.join(name);
            anyhow::ensure!(!lines.is_empty(), "{name} is empty");
            std::fs::write(&path, lines.join("\n") + "\n")?;
            Ok(path)
        };
        let text = std::fs::read_to_string(into.join("events.ndjson"))?;
        let lines: Vec<&str> = text.lines().collect();
        let cut = |percent: usize| lines.len() * percent / 100;
        let events = [
            part("events-0.ndjson", &lines[..cut(37)])?,
            part("events-1.ndjson", &lines[cut(37)..cut(99)])?,
            part("events-2.ndjson", &lines[cut(99)..])?,
        ];
        let text = std::fs::read_to_string(into.join("crawls.ndjson"))?;
        let (mut first, mut corrected, mut known) = (Vec::new(), Vec::new(), BTreeSet::new());
        for line in text.lines() {
            let fetch: Value = serde_json::from_str(line)?;
            let is_new = known.insert(fetch["url"].to_string());
            if is_new || fetch["status"] == 503 {
                first.push(line);
            } else {
                corrected.push(line);
            }
        }
        let middle = first.len() / 2;
        let crawls = [
            part("crawls-0.ndjson", &first[..middle])?,
            part("crawls-1.ndjson", &first[middle..])?,
            part("crawls-2.ndjson", &corrected)?,
        ];
        Ok(Self {
            events,
            crawls,
            are_few: facts <= 10 * FACTS,
        })
    }
}

/// A project with what was sent to it, and which facts met which metadata.
#[derive(Clone)]
struct Story {
    dir: PathBuf,
    events: Vec<PathBuf>,
    crawls: Vec<PathBuf>,
    /// Up to which offset of `events` the facts met `content` up to which.
    met: Vec<(i64, i64)>,
}

/// The first offset of a topic's only partition that has not landed.
async fn head(dir: &Path, topic: &str) -> anyhow::Result<i64> {
    let context = Context::open(dir).await?;
    let head = context.log(topic).await?.head();
    let all: Vec<i64> = head.iter().map(|(_, Offset(o))| o).collect();
    anyhow::ensure!(all.len() == 1, "{topic}: {head}");
    Ok(all[0])
}

impl Story {
    /// Sends facts to a daemon, which lands them, and what the step makes of them.
    async fn land(&mut self, events: &[&PathBuf], crawls: &[&PathBuf]) -> anyhow::Result<()> {
        let daemon = Daemon::start(&self.dir).await?;
        for (topic, files) in [("crawls", crawls), ("events", events)] {
            for file in files {
                let text = std::fs::read_to_string(file)?;
                let lines: Vec<&str> = text.lines().collect();
                send(&daemon, topic, &lines).await?;
            }
        }
        self.events.extend(events.iter().map(|f| (*f).clone()));
        self.crawls.extend(crawls.iter().map(|f| (*f).clone()));
        let mut made = 0;
        for file in &self.crawls {
            made += versions(&std::fs::read_to_string(file)?)?;
        }
        crawled(&daemon, made).await?;
        daemon.stop().await
    }

    /// Lets all views absorb what has landed.
    async fn refresh(&mut self) -> anyhow::Result<()> {
        let ran = run(&self.dir, &["batch", "refresh"])?;
        anyhow::ensure!(ran.code == Some(0), "{ran:?}");
        let (events, content) = (
            head(&self.dir, "events").await?,
            head(&self.dir, "content").await?,
        );
        self.met.push((events, content));
        Ok(())
    }

    /// Makes all views anew below their boundaries, which stay.
    async fn rebuild(&mut self) -> anyhow::Result<()> {
        let context = Context::open(&self.dir).await?;
        let options = BatchOptions {
            like: Default::default(),
            threads: 2,
            memory_bytes: 1 << 30,
            stop: Arc::default(),
            progress: Arc::default(),
        };
        let log = context.log("events").await?;
        let wanted = self.met.last().map_or(0, |(end, _)| *end);
        for (name, entry) in &context.catalogue.current().views {
            let live = entry.live.as_ref();
            let live = live.ok_or_else(|| anyhow::anyhow!("`{name}` does not answer"))?;
            let view = Arc::new(View::from_definition(name, &live.definition)?);
            let master = Master::open(&context.storage, &view, live.generation, now_ms()).await?;
            let end = master.boundary();
            let outcome = rebuild(&Arc::new(master), &log, &end, &options, now_ms).await?;
            anyhow::ensure!(
                outcome.boundary == end && last(&end) == wanted,
                "{name}: {}",
                outcome.boundary
            );
        }
        self.met = match wanted {
            0 => Vec::new(),
            _ => vec![(wanted, head(&self.dir, "content").await?)],
        };
        Ok(())
    }

    /// The same project once more.
    fn copied(&self, to: &Path) -> anyhow::Result<Self> {
        let copied = Command::new("cp")
            .arg("-a")
            .arg(&self.dir)
            .arg(to)
            .status()?;
        anyhow::ensure!(copied.success(), "cp: {copied}");
        Ok(Self {
            dir: to.to_owned(),
            ..self.clone()
        })
    }

    /// What DuckDB says of all views as they are answered now.
    async fn compare(
        &self,
        python: &OsString,
        what: &str,
        plant: bool,
    ) -> anyhow::Result<Vec<Vec<String>>> {
        let begun = Instant::now();
        let context = Context::open(&self.dir).await?;
        let service = local_service(&context)?;
        let answers = places::folder()?;
        for view in names(&self.dir, "views")? {
            let (schema, rows) = service
                .collect(&format!("SELECT * FROM {view}"), ReadMode::Merged)
                .await
                .map_err(|e| anyhow::anyhow!("{view}: {e}"))?;
            write(
                &answers.path().join(format!("{view}.parquet")),
                &schema,
                &rows,
            )?;
        }
        let answered = begun.elapsed();
        let mut met = self.met.clone();
        met.push((i64::MAX, head(&self.dir, "content").await?));
        let case = json!({
            "project": self.dir,
            "answers": answers.path(),
            "events": self.events,
            "crawls": self.crawls,
            "met": met,
            "plant": plant,
        });
        let path = self.dir.join("case.json");
        std::fs::write(&path, case.to_string())?;
        let out = Command::new(python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/newsroom_duck.py"))
            .arg(&path)
            .output()?;
        let complained = String::from_utf8_lossy(&out.stderr);
        anyhow::ensure!(out.status.success(), "{what}: {complained}");
        let said: Value = serde_json::from_slice(&out.stdout)?;
        for list in ["different", "missed"] {
            let found = said[list].as_array().map_or(1, Vec::len);
            anyhow::ensure!(found == 0, "{what}: {list}: {:#}", said[list]);
        }
        let views = said["views"].as_object().cloned().unwrap_or_default();
        let rows: u64 = views.values().filter_map(Value::as_u64).sum();
        anyhow::ensure!(
            views.len() == 13 && views.values().all(|v| v.as_u64() > Some(0)),
            "{what}: {views:?}"
        );
        let planted = said["planted"].as_u64().unwrap_or(0);
        anyhow::ensure!((planted > 100) == plant, "{planted} differences planted");
        let planted = match plant {
            true => format!(", and {planted} planted differences were noticed"),
            false => String::new(),
        };
        println!(
            "{what}: {} views, {rows} rows of {} facts and {} versions of posts are as DuckDB {} has them{planted}; answered in {answered:.1?}, compared in {:.1?}",
            views.len(),
            said["facts"],
            said["versions"],
            said["duckdb"].as_str().unwrap_or_default(),
            begun.elapsed() - answered
        );
        self.by_author().await
    }

    /// Compares as it stands, once corrected metadata has landed, and once the views were rebuilt.
    async fn tell(
        mut self,
        python: &OsString,
        facts: &Facts,
        absorbed: &str,
    ) -> anyhow::Result<()> {
        let said = |what: &str| format!("{absorbed} absorbed, {what}");
        let what = said("before metadata is corrected");
        let before = self.compare(python, &what, false).await?;
        self.land(&[], &[&facts.crawls[2]]).await?;
        let has_absorbed = !self.met.is_empty();
        // Many facts take their time, and what a rebuild makes of them says the most.
        let landed = if facts.are_few {
            let what = said("corrected metadata has landed");
            self.compare(python, &what, false).await?
        } else {
            self.by_author().await?
        };
        self.rebuild().await?;
        let plants = absorbed == "37 %";
        let rebuilt = self.compare(python, &said("rebuilt"), plants).await?;
        anyhow::ensure!(before != rebuilt, "{absorbed}: nothing was corrected");
        anyhow::ensure!(
            (landed != rebuilt) == has_absorbed,
            "{absorbed}: what is absorbed meets corrections by a rebuild alone"
        );
        Ok(())
    }

    /// How authors are read, as it is answered now.
    async fn by_author(&self) -> anyhow::Result<Vec<Vec<String>>> {
        let context = Context::open(&self.dir).await?;
        let service = local_service(&context)?;
        shown(&service.collect(BY_AUTHOR, ReadMode::Merged).await?.1)
    }
}

/// The offset of an only partition.
fn last(offsets: &Offsets) -> i64 {
    offsets.iter().map(|(_, Offset(o))| o).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn duckdb_gives_the_newsroom_s_answers() -> anyhow::Result<()> {
    let Some(python) = std::env::var_os("ANABRANCH_PYTHON") else {
        skipped("`ANABRANCH_PYTHON` names no Python with DuckDB and deltalake");
        return Ok(());
    };
    let count = match std::env::var("ANABRANCH_NEWSROOM_FACTS") {
        Ok(count) => count.parse()?,
        Err(_) => FACTS,
    };
    let place = places::folder()?;
    let dir = make(place.path())?;
    let facts = Facts::make(&dir, &place.path().join("facts"), count)?;
    let [first, second, third] = &facts.events;
    let [early, late, _] = &facts.crawls;
    let mut story = Story {
        dir,
        events: Vec::new(),
        crawls: Vec::new(),
        met: Vec::new(),
    };
    let mut none = story.copied(&place.path().join("none"))?;
    story.land(&[first], &[early]).await?;
    story.refresh().await?;
    let mut some = story.copied(&place.path().join("some"))?;
    some.land(&[second, third], &[late]).await?;
    some.tell(&python, &facts, "37 %").await?;
    std::fs::remove_dir_all(place.path().join("some"))?;

    story.land(&[second], &[late]).await?;
    story.refresh().await?;
    let mut most = story.copied(&place.path().join("most"))?;
    most.land(&[third], &[]).await?;
    most.tell(&python, &facts, "99 %").await?;
    std::fs::remove_dir_all(place.path().join("most"))?;

    story.land(&[third], &[]).await?;
    story.refresh().await?;
    story.tell(&python, &facts, "100 %").await?;

    none.land(&[first, second, third], &[early, late]).await?;
    none.tell(&python, &facts, "0 %").await
}

/// The step that is shipped in Python makes what the one in SQL makes.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_in_python_makes_the_same() -> anyhow::Result<()> {
    let Some(python) = std::env::var_os("ANABRANCH_PYTHON") else {
        skipped("`ANABRANCH_PYTHON` names no Python with pyarrow");
        return Ok(());
    };
    let sql = "sql  = \"steps/content.sql\"";
    let program = format!(
        "run = [{:?}, \"steps/content.py\"]",
        python.to_string_lossy()
    );
    let mut made = Vec::new();
    for step in [sql, &program] {
        let place = places::folder()?;
        let dir = make(place.path())?;
        let settings = dir.join("anabranch.toml");
        let text = std::fs::read_to_string(&settings)?;
        anyhow::ensure!(text.contains(sql), "{text}");
        std::fs::write(&settings, text.replace(sql, step))?;
        let end = "2026-06-30T12:00:00Z".parse()?;
        generate(&dir, 20_000, 4, end, &place.path().join("facts"))?;
        let fetched = std::fs::read_to_string(place.path().join("facts/crawls.ndjson"))?;
        let daemon = Daemon::start(&dir).await?;
        send(&daemon, "crawls", &fetched.lines().collect::<Vec<_>>()).await?;
        crawled(&daemon, versions(&fetched)?).await?;
        let sql = "SELECT _offset, version_ts, url, title, author, section, published, gone FROM content ORDER BY 1";
        made.push(daemon.rows(sql).await?);
        let dead = daemon.rows("SELECT count(*) FROM dead_letters").await?;
        anyhow::ensure!(dead == [["0"]], "{dead:?}");
        daemon.stop().await?;
    }
    let differ = made[0].iter().zip(&made[1]).find(|(a, b)| a != b);
    anyhow::ensure!(made[0] == made[1] && made[0].len() > 300, "{differ:?}");
    Ok(())
}
