//! `anabranch demo`: the whole story in less than a minute, on a temporary folder, with the real
//! binary as a child process that is killed on the way.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_shared::{Error, FoldProgress, ReadMode, Result, counted};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::process::{Child, Command};

use crate::clock::now;
use crate::commands::batch::build;
use crate::generate::{FIELDS, Generator, GeneratorOptions};
use crate::output::{Format, Style, human_count, human_duration, human_rate, write_batches};
use crate::project::context::Context;
use crate::reader::client::Client;
use crate::work::apply::whole::{Applied, Tells, apply};
use crate::work::apply::{ApplyOptions, roll_back};
use crate::work::build::Build;
use crate::work::doer::Why;
use crate::work::plan::{Plan, plan as plan_of, text as plan_text};
use crate::work::verify_view::verify_view;

/// The time that the facts are of, up to now.
const SPAN: Duration = Duration::from_secs(8 * 3_600);

/// Facts of a request.
const REQUEST_FACTS: usize = 2_000;

const POST_MINUTES: &str = "SELECT date_trunc('minute', ts) AS minute, url, author, section,
       count(*) FILTER (WHERE action = 'pageview') AS page_views,
       count(*) FILTER (WHERE action = 'share')    AS shares,
       approx_distinct(visitor)                    AS visitors,
       sum(engaged_ms)                             AS engaged_ms
FROM pageviews GROUP BY 1, 2, 3, 4\n";

const AUTHOR_REFERRERS: &str = "SELECT author,
       count(*) AS visits,
       count(*) FILTER (WHERE referrer LIKE '%facebook.com%') AS from_facebook
FROM pageviews WHERE action = 'pageview' GROUP BY author\n";

const POST_SHARES: &str = "SELECT url, count(*) AS shares
FROM pageviews WHERE action = 'share' GROUP BY url\n";

const POST_READING: &str = "SELECT url, count(*) AS reads, avg(engaged_ms) AS engaged_ms
FROM pageviews WHERE action = 'heartbeat' GROUP BY url\n";

const EDITED: &str = "SELECT author,
       count(*) AS visits,
       count(*) FILTER (WHERE referrer LIKE '%facebook.com%') AS from_facebook,
       approx_distinct(visitor) AS visitors
FROM pageviews WHERE action = 'pageview' GROUP BY author\n";

struct Story<'a> {
    out: &'a mut (dyn Write + Send),
    style: Style,
    dir: PathBuf,
    failures: u32,
}

/// Tells the story. Returns whether all held.
pub async fn demo(facts: u64, out: &mut (dyn Write + Send), style: Style) -> Result<bool> {
    let temporary = tempfile::tempdir().map_err(|e| Error::io("a temporary folder", e))?;
    let dir = temporary.path().join("newsroom");
    let mut story = Story {
        out,
        style,
        dir,
        failures: 0,
    };
    let begun = Instant::now();
    story.tell(facts).await?;
    let took = human_duration(begun.elapsed());
    match story.failures {
        0 => story.say(&format!("\nall held, in {took}"))?,
        n => story.say(&format!("\n{n} of the checks FAILED, after {took}"))?,
    }
    Ok(story.failures == 0)
}

fn write_project(dir: &Path) -> Result<()> {
    let mut text = String::from(
        "[storage]\nurl = \"file://./data\"\n\n[daemon]\nhttp = \"127.0.0.1:0\"\nland_every = \"2s\"\n\n[topics.pageviews]\nevent_time = \"ts\"\n\n[topics.pageviews.fields]\n",
    );
    for (name, kind) in FIELDS {
        text += &format!("{name} = \"{kind}\"\n");
    }
    let views = [
        ("post_minutes", POST_MINUTES),
        ("author_referrers", AUTHOR_REFERRERS),
        ("post_shares", POST_SHARES),
        ("post_reading", POST_READING),
    ];
    for (name, _) in views {
        text += &format!("\n[views.{name}]\nsql = \"views/{name}.sql\"\n");
    }
    text += "\n[views.author_referrers.gate.columns.visits]\ntotal_changed = \"1%\"\n";
    let write = || {
        std::fs::create_dir_all(dir.join("views"))?;
        std::fs::write(dir.join("anabranch.toml"), text)?;
        views
            .iter()
            .try_for_each(|(n, sql)| std::fs::write(dir.join(format!("views/{n}.sql")), sql))
    };
    write().map_err(|e| Error::io(dir, e))
}

impl Story<'_> {
    fn say(&mut self, text: &str) -> Result<()> {
        writeln!(self.out, "{text}")
            .and_then(|()| self.out.flush())
            .map_err(|e| Error::io("standard output", e))
    }

    fn title(&mut self, text: &str) -> Result<()> {
        self.say(&format!("\n── {text}"))
    }

    fn check(&mut self, what: &str, held: bool) -> Result<()> {
        self.failures += u32::from(!held);
        let mark = if held { "ok    " } else { "FAILED" };
        self.say(&format!("   {mark} {what}"))
    }

    /// Starts the daemon as a user would, and waits until it answers.
    async fn start(&mut self, context: &Context) -> Result<(Child, Client)> {
        let binary = std::env::current_exe().map_err(|e| Error::io("this program", e))?;
        let mut child = Command::new(binary)
            .arg("--project")
            .arg(&self.dir)
            .arg("speed")
            .env("ANABRANCH_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| Error::io("the daemon", e))?;
        let begun = Instant::now();
        loop {
            if let Some(client) = Client::find(&context.storage).await? {
                return Ok((child, client));
            }
            let ended = child.try_wait().map_err(|e| Error::io("the daemon", e))?;
            if let Some(status) = ended {
                return Err(Error::Unavailable(format!("the daemon ended: {status}")));
            }
            if begun.elapsed() > Duration::from_secs(60) {
                return Err(Error::Unavailable(
                    "the daemon does not answer after 60 s".into(),
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn stream(&self, client: &Client, generator: &mut Generator, facts: u64) -> Result<u64> {
        let mut acknowledged = 0;
        while acknowledged < facts {
            let mut lines = Vec::new();
            if generator.next_ndjson(&mut lines, REQUEST_FACTS) == 0 {
                break;
            }
            acknowledged += client
                .write_ndjson("pageviews", Bytes::from(lines))
                .await?
                .facts;
        }
        Ok(acknowledged)
    }

    /// Waits until so many offsets have landed.
    async fn landed(&mut self, context: &Context, offsets: u64) -> Result<()> {
        let begun = Instant::now();
        loop {
            let log = context.log("pageviews").await?;
            let head = log.head();
            if anabranch_shared::Offsets::default().distance_to(&head) >= offsets {
                let files = match log.table().with_state(|s| s.files.len()) {
                    1 => "a Parquet file".to_owned(),
                    n => format!("{n} Parquet files"),
                };
                return self.say(&format!(
                    "   landed as {files} of a Delta table, {} later",
                    human_duration(begun.elapsed())
                ));
            }
            if begun.elapsed() > Duration::from_secs(60) {
                return Err(Error::Unavailable("the daemon did not land in 60 s".into()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn show(&mut self, client: &Client, sql: &str) -> Result<()> {
        let begun = Instant::now();
        let answer = client.query(sql, ReadMode::Merged).await?;
        let took = begun.elapsed();
        write_batches(
            self.out,
            &answer.schema,
            &answer.batches,
            Format::Table,
            self.style,
        )
        .map_err(|e| Error::io("standard output", e))?;
        let line = format!("{}; {}", human_duration(took), answer.freshness);
        self.say(&self.style.dim(&line))?;
        match answer.batches.iter().any(|b| b.num_rows() > 0) {
            true => Ok(()),
            false => self.check("the answer has rows", false),
        }
    }

    /// Waits until the daemon answers from the new master views.
    async fn adopted(&mut self, client: &Client) -> Result<()> {
        let begun = Instant::now();
        let any = "SELECT url FROM post_minutes LIMIT 1";
        loop {
            let answer = client.query(any, ReadMode::Batch).await?;
            let took = begun.elapsed();
            if answer.batches.iter().any(|b| b.num_rows() > 0) {
                return self.say(&format!(
                    "   the daemon answers from them {} later",
                    human_duration(took)
                ));
            }
            if took > Duration::from_secs(30) {
                return self.check("the daemon answers from them within 30 s", false);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn count(&self, client: &Client) -> Result<u64> {
        let answer = client
            .query("SELECT count(*) FROM pageviews", ReadMode::Merged)
            .await?;
        let text = answer.batches.first().map(|b| {
            arrow::util::display::array_value_to_string(b.column(0), 0).unwrap_or_default()
        });
        text.unwrap_or_default()
            .parse()
            .map_err(|e| Error::Internal(format!("a count: {e}")))
    }

    async fn tell(&mut self, facts: u64) -> Result<()> {
        write_project(&self.dir)?;
        let context = Context::open(&self.dir).await?;
        let mut options = GeneratorOptions::new(facts, 7, now());
        options.late = 0.03;
        // An eighth of the facts comes last: what was asked before must be about hours that have some.
        options.span = SPAN;
        let mut generator = Generator::new(&options).map_err(|e| Error::Invalid(e.to_string()))?;
        self.title("a daemon admits, acknowledges and lands a stream of page views")?;
        let (mut child, client) = self.start(&context).await?;
        let begun = Instant::now();
        let first = self.stream(&client, &mut generator, facts / 2).await?;
        let rate = human_rate(first, begun.elapsed());
        self.say(&format!(
            "   {} acknowledged, durable and visible, over one connection: {rate}",
            counted(first, "fact", "facts")
        ))?;

        self.landed(&context, first).await?;
        self.title("the batch layer rebuilds the views from the log, while the stream goes on")?;
        let builder = context.clone();
        let rebuilt =
            tokio::spawn(async move { build(&builder, Build::Rebuild, &[], false).await });
        let second = self.stream(&client, &mut generator, facts / 4).await?;
        let reports = rebuilt
            .await
            .map_err(|e| Error::Internal(e.to_string()))??
            .all()?;
        for report in &reports {
            let took = Duration::from_micros(u64::try_from(report.took_us).unwrap_or(0));
            self.say(&format!(
                "   {}: {} → {} in {} ({})",
                report.view,
                counted(report.outcome.facts, "fact", "facts"),
                counted(report.outcome.states, "state", "states"),
                human_duration(took),
                human_rate(report.outcome.facts, took),
            ))?;
        }
        self.adopted(&client).await?;
        self.say(&format!(
            "   {} came in meanwhile",
            counted(second, "fact", "facts")
        ))?;
        let third = self.stream(&client, &mut generator, facts / 8).await?;
        let acknowledged = first + second + third;
        let found = self.count(&client).await?;
        self.check(
            &format!(
                "all {} acknowledged facts are in an answer, each once",
                human_count(acknowledged)
            ),
            found == acknowledged,
        )?;

        self.questions(&client).await?;

        self.title("kill -9")?;
        child.start_kill().map_err(|e| Error::io("the daemon", e))?;
        child.wait().await.map_err(|e| Error::io("the daemon", e))?;
        let begun = Instant::now();
        let (mut child, client) = self.start(&context).await?;
        let found = self.count(&client).await?;
        self.say(&format!(
            "   answering again after {}",
            human_duration(begun.elapsed())
        ))?;
        self.check(
            &format!(
                "{} of {} acknowledged facts came back",
                human_count(found),
                human_count(acknowledged)
            ),
            found == acknowledged,
        )?;

        self.change(&client, &mut generator, facts / 8).await?;

        self.title("the law: the merged answers equal a recompute from the raw facts")?;
        terminate(&mut child).await?;
        let context = Context::open(&self.dir).await?;
        for view in &context.project.views {
            let compared = verify_view(&context, &view.name, "command").await?;
            for example in &compared.examples {
                self.say(&format!("          {example}"))?;
            }
            self.check(
                &format!("{}: {}", view.name, compared.summary("")),
                compared.is_equal() && compared.rows > 0,
            )?;
        }
        Ok(())
    }

    async fn questions(&mut self, client: &Client) -> Result<()> {
        self.title("the most popular stories of the last 4 hours, with unique visitors")?;
        self.show(client, "SELECT url, sum(page_views) AS page_views, combine(visitors) AS visitors FROM post_minutes WHERE minute >= now() - INTERVAL '4 hours' GROUP BY url ORDER BY page_views DESC, url LIMIT 5").await?;
        self.title("the authors who drive the most Facebook traffic")?;
        self.show(client, "SELECT author, from_facebook, visits, round(100.0 * from_facebook / visits, 1) AS percent FROM author_referrers ORDER BY from_facebook DESC, author LIMIT 5").await?;
        self.title("sharing against reading: two views joined at one head")?;
        self.show(client, "SELECT CASE WHEN s.shares >= 100 THEN '100 and more' WHEN s.shares >= 10 THEN '10 to 99' ELSE 'under 10' END AS shares, count(*) AS posts, round(avg(r.reads), 1) AS reads_a_post, round(avg(CAST(r.engaged_ms AS DOUBLE)) / 1000, 2) AS seconds_a_heartbeat FROM post_reading r JOIN post_shares s ON r.url = s.url GROUP BY 1 ORDER BY reads_a_post DESC").await
    }

    /// An edit with a mistake is planned, built, compared and stopped; mended it is cut over, taken back,
    /// and cut over again.
    async fn change(
        &mut self,
        client: &Client,
        generator: &mut Generator,
        facts: u64,
    ) -> Result<()> {
        let visitors =
            "SELECT author, visitors FROM author_referrers ORDER BY visitors DESC, author LIMIT 3";
        self.title("a view's SQL is edited, with a mistake: `anabranch plan`")?;
        let wrong = EDITED.replace(" WHERE action = 'pageview'", "");
        let (context, planned) = self.edit(&wrong).await?;
        self.say(&indented(&plan_text::text(&planned)))?;
        self.title(
            "`anabranch apply` builds it beside what answers, compares, and stops at the gate",
        )?;
        let stopped = self.apply(&context, &planned).await?;
        self.check(
            "the gate stops it: `visits` may change by 1 % and no more",
            stopped.is_stopped() && !stopped.has_cut_over(),
        )?;
        let before = client.query(visitors, ReadMode::Merged).await;
        self.check("what answers has not changed", before.is_err())?;
        self.stream(client, generator, facts).await?;

        self.title("the mistake is mended: cut over, roll back, cut over again")?;
        let (context, planned) = self.edit(EDITED).await?;
        let applied = self.apply(&context, &planned).await?;
        self.check("the gate lets it pass", applied.has_cut_over())?;
        self.show(client, visitors).await?;
        let stop = Arc::default();
        let count = "SELECT sum(visits) AS visits FROM author_referrers";
        let all = client.query(count, ReadMode::Merged).await?.batches;
        let begun = Instant::now();
        roll_back(
            &context,
            "author_referrers",
            &Why::because(Some("to show it")),
            &stop,
        )
        .await?;
        let took = begun.elapsed();
        let again = client.query(count, ReadMode::Merged).await?.batches;
        let gone = client.query(visitors, ReadMode::Merged).await.is_err();
        self.check(
            &format!(
                "the former generation answers again after {}",
                human_duration(took)
            ),
            gone,
        )?;
        self.check("with every visit that came since", again == all)?;
        roll_back(&context, "author_referrers", &Why::default(), &stop).await?;
        let answer = client.query(visitors, ReadMode::Merged).await;
        self.check("and the roll-back is taken back", answer.is_ok())
    }

    /// Writes a view's SQL anew, and looks at what would change.
    async fn edit(&mut self, sql: &str) -> Result<(Context, Plan)> {
        let path = self.dir.join("views/author_referrers.sql");
        std::fs::write(&path, sql).map_err(|e| Error::io(&path, e))?;
        let context = Context::open(&self.dir).await?;
        let planned = plan_of(&context, &[]).await?;
        Ok((context, planned))
    }

    /// Does what a plan says, and says what `anabranch apply` says.
    async fn apply(&mut self, context: &Context, planned: &Plan) -> Result<Applied> {
        let (options, told) = (ApplyOptions::default(), Told::default());
        let applied = apply(context, planned, true, &options, &told).await?;
        self.say(&indented(&told.0.into_inner()))?;
        Ok(applied)
    }
}

/// Keeps what is said until the story comes to it.
#[derive(Default)]
struct Told(Mutex<String>);

impl Tells for Told {
    fn builds(&self, _: &str, _: &Arc<FoldProgress>) {}

    fn says(&self, text: &str) -> Result<()> {
        self.0.lock().push_str(text);
        Ok(())
    }
}

fn indented(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("   {line}")).collect();
    lines.join("\n")
}

/// Ends the daemon as an operator would, and waits until it has landed everything.
async fn terminate(child: &mut Child) -> Result<()> {
    if let Some(pid) = child
        .id()
        .and_then(|p| i32::try_from(p).ok())
        .and_then(rustix::process::Pid::from_raw)
    {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .map_err(|e| Error::io("the daemon", e.into()))?;
    }
    child.wait().await.map_err(|e| Error::io("the daemon", e))?;
    Ok(())
}
