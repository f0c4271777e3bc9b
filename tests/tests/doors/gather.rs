//! Several daemons on one storage: each answers with what all of them have acknowledged, whether it
//! has landed or not, at one head; one that does not answer is named, with where its facts begin.
//!
//! `ANABRANCH_GATHER_SECONDS` sets for how long the race runs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anabranch_jobs::project::context::Context;
use anabranch_jobs::reader::client::{Client, RemoteAnswer};
use anabranch_shared::{Offsets, ReadMode};
use anabranch_tests::daemon::shown;
use anabranch_tests::ledger::{Ledger, REQUEST, check_law, line};
use anabranch_tests::places;
use anabranch_tests::process::{EDITED, Process, Setup, VIEW, run_well, until, write_project};

mod kafka;
mod silent;

/// A view without an aggregate.
const EARLY: &str = "SELECT id, word FROM facts WHERE id % 10 = 3";

/// Lets a project's facts land as often as said, and gives it a view without an aggregate.
pub(crate) fn prepare(dir: &Path, land_every: &str) -> anyhow::Result<()> {
    let file = dir.join("anabranch.toml");
    let text = std::fs::read_to_string(&file)?;
    let landing = format!("land_every = \"{land_every}\"");
    let text = text.replace("land_every = \"100ms\"", &landing);
    std::fs::write(&file, text + "[views.early]\nsql = \"early.sql\"\n")?;
    Ok(std::fs::write(dir.join("early.sql"), EARLY)?)
}

/// Two projects of their own on one folder.
pub(crate) struct Two {
    pub(crate) dirs: [tempfile::TempDir; 2],
}

impl Two {
    pub(crate) fn new(land_every: &str, daemon: &str) -> anyhow::Result<Self> {
        let dirs = [places::folder()?, places::folder()?];
        let storage = format!("file://{}/data", dirs[0].path().display());
        let setup = Setup {
            storage: &storage,
            daemon,
            ..Default::default()
        };
        for dir in &dirs {
            write_project(dir.path(), setup)?;
            prepare(dir.path(), land_every)?;
        }
        Ok(Self { dirs })
    }

    pub(crate) fn paths(&self) -> [&Path; 2] {
        [self.dirs[0].path(), self.dirs[1].path()]
    }

    pub(crate) async fn context(&self) -> anyhow::Result<Context> {
        Ok(Context::open(self.dirs[0].path()).await?)
    }
}

/// Starts a daemon on each.
pub(crate) async fn start(
    paths: [&Path; 2],
    context: &Context,
) -> anyhow::Result<([Process; 2], [Client; 2])> {
    let mut daemons = [
        Process::start(paths[0], &["speed"])?,
        Process::start(paths[1], &["speed"])?,
    ];
    let clients = [
        daemons[0].ready(context).await?,
        daemons[1].ready(context).await?,
    ];
    Ok((daemons, clients))
}

/// An answer, and its rows as text.
pub(crate) async fn ask(
    client: &Client,
    sql: &str,
) -> anyhow::Result<(Vec<Vec<String>>, RemoteAnswer)> {
    let answer = client.query(sql, ReadMode::Merged).await?;
    Ok((shown(&answer.batches)?, answer))
}

/// All that an answer has of everything that can be asked, in one row: facts, different facts, the
/// same by the view, rows of the view without an aggregate, dead letters.
const ALL: &str = "SELECT f.n, f.d, w.n, w.d, e.n, x.n
FROM (SELECT count(*) AS n, count(DISTINCT id) AS d FROM facts) f
CROSS JOIN (SELECT coalesce(sum(facts), 0) AS n, coalesce(combine(different), 0) AS d FROM words) w
CROSS JOIN (SELECT count(*) AS n FROM early) e
CROSS JOIN (SELECT count(*) AS n FROM dead_letters) x";

/// Checks an answer with everything in it, all of it at one head. Returns how many facts.
async fn check_all(what: &str, client: &Client) -> anyhow::Result<i64> {
    let (rows, answer) = ask(client, ALL).await?;
    let n: Vec<i64> = rows[0]
        .iter()
        .map(|c| c.parse())
        .collect::<Result<_, _>>()?;
    let facts = n[0];
    // A request has REQUEST facts and a dead letter, and its numbers follow each other.
    anyhow::ensure!(
        n == [facts, facts, facts, facts, facts / 10, facts / REQUEST],
        "{what}: {n:?}, {}",
        answer.freshness
    );
    anyhow::ensure!(answer.notes.is_empty(), "{what}: {:?}", answer.notes);
    Ok(facts)
}

/// What each has acknowledged and nobody landed is in the answers of both.
pub(crate) async fn both_answer_with_all(
    paths: [&Path; 2],
    context: &Context,
) -> anyhow::Result<()> {
    let (mut daemons, clients) = start(paths, context).await?;
    let (mut ledgers, mut sent) = ([Ledger::from(0), Ledger::from(1_000_000)], 0);
    for round in 0..6 {
        let i = round % 2;
        ledgers[i] = ledgers[i].clone().send(&clients[i], round + 1).await;
        sent += (round as i64 + 1) * REQUEST;
        for (n, client) in clients.iter().enumerate() {
            let found = check_all(&format!("round {round}, daemon {n}"), client).await?;
            anyhow::ensure!(
                found == sent,
                "round {round}, daemon {n}: {found} of {sent}"
            );
        }
    }
    let landed = Offsets::default().distance_to(&context.log("facts").await?.head());
    anyhow::ensure!(landed == 0, "{landed} offsets have landed");
    let all = Ledger::default().with(&ledgers[0]).with(&ledgers[1]);
    for client in &clients {
        all.check("before landing", client, VIEW).await?;
        let batch = client.query("SELECT * FROM words", ReadMode::Batch).await?;
        let rows: usize = batch.batches.iter().map(|b| b.num_rows()).sum();
        anyhow::ensure!(
            rows == 0,
            "the master view is empty, and {rows} rows are in it"
        );
    }
    // A definition is built beside the live one while everything is in WALs alone.
    std::fs::write(paths[1].join("words.sql"), EDITED)?;
    run_well(paths[1], &["apply", "--yes"]).await?;
    for client in &clients {
        until("the cut-over", || async {
            let answer = client
                .query("SELECT * FROM words", ReadMode::Merged)
                .await?;
            Ok(answer.schema.column_with_name("newest").is_some())
        })
        .await?;
        all.check("after a cut-over", client, EDITED).await?;
    }
    // One lands and goes; nothing is missing at any time, and nobody is named.
    daemons[0].terminate().await?;
    let (rows, answer) = ask(&clients[1], "SELECT count(*) FROM facts").await?;
    anyhow::ensure!(
        rows[0][0] == sent.to_string() && answer.notes.is_empty(),
        "{rows:?}, {:?}",
        answer.notes
    );
    all.check("after one has gone", &clients[1], EDITED).await?;
    daemons[1].terminate().await?;
    check_law("after landing", context).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_either_has_acknowledged_is_in_the_answers_of_both() -> anyhow::Result<()> {
    let two = Two::new("1h", "")?;
    both_answer_with_all(two.paths(), &two.context().await?).await
}

/// What the race has come to.
#[derive(Default)]
struct Race {
    stop: AtomicBool,
    /// Facts that were acknowledged.
    acknowledged: AtomicI64,
    /// Facts that were sent.
    sent: AtomicI64,
    /// The most facts that an answer had.
    answered: AtomicI64,
    answers: AtomicU64,
    slowest_ms: AtomicU64,
}

impl Race {
    async fn write(&self, client: &Client, first: i64) -> anyhow::Result<()> {
        let mut next = first;
        while !self.stop.load(Ordering::SeqCst) {
            let mut body: String = (next..next + REQUEST).map(line).collect();
            body += &format!("{{\"ts\":\"no time\",\"id\":{next}}}");
            next += REQUEST;
            self.sent.fetch_add(REQUEST, Ordering::SeqCst);
            client.write_ndjson("facts", body.into()).await?;
            self.acknowledged.fetch_add(REQUEST, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Answers have what was acknowledged before they were asked for, and never less than one
    /// before them, whoever gave it.
    async fn read(&self, client: &Client) -> anyhow::Result<()> {
        while !self.stop.load(Ordering::SeqCst) {
            let least = self.acknowledged.load(Ordering::SeqCst);
            let before = self.answered.load(Ordering::SeqCst);
            let begun = Instant::now();
            let found = check_all("in the race", client).await?;
            let most = self.sent.load(Ordering::SeqCst);
            anyhow::ensure!(
                found >= least && found >= before && found <= most,
                "{found} facts in an answer: {least} were acknowledged before it, {before} answered before it, {most} sent at its end"
            );
            self.answered.fetch_max(found, Ordering::SeqCst);
            self.answers.fetch_add(1, Ordering::SeqCst);
            let ms = u64::try_from(begun.elapsed().as_millis())?;
            self.slowest_ms.fetch_max(ms, Ordering::SeqCst);
        }
        Ok(())
    }

    async fn build(&self, dir: &Path) -> anyhow::Result<()> {
        let commands = [
            ["batch", "refresh"],
            ["batch", "rebuild"],
            ["batch", "maintain"],
        ];
        for command in commands.iter().cycle() {
            if self.stop.load(Ordering::SeqCst) {
                break;
            }
            run_well(dir, command).await?;
        }
        Ok(())
    }
}

/// Both take facts as fast as they come, land all the time, and answer; views are refreshed and
/// rebuilt.
pub(crate) async fn race(paths: [&Path; 2], context: &Context, seconds: u64) -> anyhow::Result<()> {
    let (mut daemons, clients) = start(paths, context).await?;
    let race = Arc::new(Race::default());
    let end = async {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        race.stop.store(true, Ordering::SeqCst);
        anyhow::Ok(())
    };
    let raced = tokio::try_join!(
        race.write(&clients[0], 0),
        race.write(&clients[1], 1_000_000_000),
        race.read(&clients[0]),
        race.read(&clients[1]),
        race.read(&clients[1]),
        race.build(paths[0]),
        end,
    );
    race.stop.store(true, Ordering::SeqCst);
    raced?;
    let all = race.acknowledged.load(Ordering::SeqCst);
    for client in &clients {
        let found = check_all("at the end", client).await?;
        anyhow::ensure!(found == all, "{found} of {all}");
    }
    let log = context.log("facts").await?;
    println!(
        "{seconds} s: {all} facts, {} versions of the log, {} answers, the slowest in {} ms",
        log.table().with_state(|s| s.version.map_or(0, |v| v.0)),
        race.answers.load(Ordering::SeqCst),
        race.slowest_ms.load(Ordering::SeqCst)
    );
    for daemon in &mut daemons {
        daemon.terminate().await?;
    }
    check_law("after the race", context).await
}

/// For how long the race runs, in seconds.
pub(crate) fn seconds() -> u64 {
    let set = std::env::var("ANABRANCH_GATHER_SECONDS");
    set.ok().and_then(|s| s.parse().ok()).unwrap_or(6)
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_complete_and_never_less_while_all_goes_on() -> anyhow::Result<()> {
    let two = Two::new("50ms", "peer_timeout = \"30s\"")?;
    race(two.paths(), &two.context().await?, seconds()).await
}
