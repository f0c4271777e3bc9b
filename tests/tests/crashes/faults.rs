//! The matrix of faults: each row breaks something under load, several times, and each time ends with
//! the law (`anabranch verify`) and with what an independent book of the producer says must be there.
//! It prints the table of `jobs/docs/faults.md`: fault, times tried, facts produced, lost, doubled.
//!
//! Each row runs once with few facts in the normal run, and as often as its `times` says with
//! `ANABRANCH_FAULTS=full`. `ANABRANCH_FAULTS_ROWS=disk` runs the rows whose name holds that.

mod clock;
mod disk;
mod group;
mod kafka;
mod process;
mod rig;
mod s3;
mod settle;

use std::future::Future;
use std::io::Write;
use std::pin::Pin;

use anabranch_jobs::project::context::Context;
use anabranch_tests::fates::Tally;
use anabranch_tests::places;
use anabranch_tests::process::{Process, Setup, write_project};
use anabranch_tests::sender::{self, Sender};
use futures::StreamExt;

/// Says how much is tried: `full`, or a little.
const FAULTS: &str = "ANABRANCH_FAULTS";

/// Names rows by a part of their names.
const ROWS: &str = "ANABRANCH_FAULTS_ROWS";

/// Rows run two at a time: most of their time is spent waiting.
const AT_ONCE: usize = 2;

/// One time that a row is tried.
#[derive(Clone, Copy, Debug)]
struct Time {
    /// Which one, from 0; rows vary by it.
    nth: usize,
    /// About how many facts to produce.
    facts: i64,
}

impl Time {
    /// The variation of this time, in the order of the list.
    fn choose<T: Copy>(&self, of: &[T]) -> T {
        of[self.nth % of.len()]
    }
}

/// What a time ended with; `None` where the machine lacks what it needs, which the case says.
type Ended = Pin<Box<dyn Future<Output = anyhow::Result<Option<Tally>>> + Send>>;

struct Row {
    name: &'static str,
    /// How often a full run tries it.
    times: usize,
    case: fn(Time) -> Ended,
}

/// A case as the table wants it.
macro_rules! case {
    ($case:path) => {
        |time| Box::pin($case(time))
    };
}

/// The table.
fn rows() -> Vec<Row> {
    let row = |name, times, case| Row { name, times, case };
    vec![
        row(
            "daemon killed -9 at each step of its WAL and of landing",
            14,
            case!(process::at_each_step),
        ),
        row(
            "daemon and builds killed -9 at random times",
            8,
            case!(process::at_random),
        ),
        row(
            "daemon dies with acknowledged, unlanded facts while another goes on, and comes back",
            8,
            case!(process::comes_back),
        ),
        row(
            "daemon paused (SIGSTOP) in a landing while another goes on, wakes late",
            8,
            case!(process::wakes_late),
        ),
        row("disk of the WAL full, then not", 6, case!(disk::of_the_wal)),
        row(
            "disk of the storage full, then not",
            6,
            case!(disk::of_the_storage),
        ),
        row("clock set forward and back", 6, case!(clock::jumps)),
        row(
            "clock set forward and back under clean-up and retention, in the middle of a landing",
            6,
            case!(clock::jumps_under_upkeep),
        ),
        row("Kafka broker stopped and started", 4, case!(kafka::stopped)),
        row(
            "Kafka broker killed -9 and started",
            4,
            case!(kafka::killed),
        ),
        row(
            "network between daemon and broker slow, cut, mute, frozen, refused",
            5,
            case!(kafka::network),
        ),
        row(
            "Kafka's transactions aborted",
            4,
            case!(kafka::transactions),
        ),
        row(
            "daemon killed -9 at each step of landing from Kafka to S3, messages delivered again",
            8,
            case!(kafka::at_each_step),
        ),
        row(
            "daemon and builds killed -9 at random times, Kafka to S3",
            6,
            case!(kafka::at_random),
        ),
        row(
            "rebalances of the group in the middle of landings",
            6,
            case!(group::rebalances),
        ),
        row(
            "daemon paused (SIGSTOP) in a landing, wakes after the group gave its partitions away",
            6,
            case!(group::wakes_late),
        ),
        row(
            "two daemons fight for the same Kafka partitions",
            4,
            case!(group::fight),
        ),
        row("S3 answers 500", 4, case!(s3::errors)),
        row("S3 answers 503 SlowDown", 4, case!(s3::slow_down)),
        row("S3 does not answer (time-out)", 4, case!(s3::silent)),
        row(
            "S3 drops the connection after the put was applied",
            4,
            case!(s3::dropped_after),
        ),
        row(
            "S3 drops the connection and applies the put later",
            4,
            case!(s3::applied_late),
        ),
    ]
}

/// What became of a row.
struct Line {
    name: &'static str,
    tried: usize,
    tally: Tally,
    errors: Vec<String>,
}

async fn tried(row: Row, full: bool) -> Line {
    let (times, facts) = if full {
        (row.times, 20_000)
    } else {
        (1, 2_000)
    };
    let mut line = Line {
        name: row.name,
        tried: 0,
        tally: Tally::default(),
        errors: Vec::new(),
    };
    for nth in 0..times {
        let begun = std::time::Instant::now();
        match (row.case)(Time { nth, facts }).await {
            Ok(None) => break,
            Ok(Some(tally)) => {
                line.tried += 1;
                line.tally = line.tally.with(tally);
                println!("{} ({nth}): {tally:?} in {:?}", row.name, begun.elapsed());
                if !tally.is_exact() {
                    line.errors.push(format!("{} ({nth}): {tally:?}", row.name));
                }
            }
            Err(e) => line.errors.push(format!("{} ({nth}): {e:#}", row.name)),
        }
    }
    line
}

fn table(lines: &[Line]) -> String {
    let mut text = String::from(
        "| fault | times tried | facts produced | lost | doubled |\n|---|---|---|---|---|\n",
    );
    let mut all = (0, Tally::default());
    let mut row = |name: &str, tried: usize, tally: &Tally| {
        let Tally {
            produced,
            lost,
            doubled,
            ..
        } = tally;
        text += &format!("| {name} | {tried} | {produced} | {lost} | {doubled} |\n");
    };
    for line in lines {
        row(line.name, line.tried, &line.tally);
        all = (all.0 + line.tried, all.1.with(line.tally));
    }
    row("all", all.0, &all.1);
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_matrix_of_faults() -> anyhow::Result<()> {
    let full = match std::env::var(FAULTS).as_deref() {
        Err(_) => false,
        Ok("full") => true,
        Ok(other) => anyhow::bail!("`{FAULTS}` = `{other}`: write `full`, or leave it out"),
    };
    let wanted = std::env::var(ROWS).unwrap_or_default();
    let rows: Vec<Row> = rows()
        .into_iter()
        .filter(|r| r.name.contains(&wanted))
        .collect();
    anyhow::ensure!(!rows.is_empty(), "`{ROWS}` = `{wanted}` names no row");
    let lines: Vec<Line> = futures::stream::iter(rows.into_iter().map(|r| tried(r, full)))
        .buffered(AT_ONCE)
        .collect()
        .await;
    rig::end().await;
    writeln!(std::io::stdout().lock(), "\n{}", table(&lines))?;
    let errors: Vec<_> = lines.into_iter().flat_map(|l| l.errors).collect();
    anyhow::ensure!(errors.is_empty(), "{}", errors.join("\n"));
    Ok(())
}

/// The matrix would see it: facts that are lost with a WAL, and facts that are sent twice.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_or_doubled_is_counted() -> anyhow::Result<()> {
    let dir = places::folder()?;
    let setup = Setup {
        daemon: "land_facts = 1000000",
        ..Default::default()
    };
    write_project(dir.path(), setup)?;
    process::set(dir.path(), "\"100ms\"", "\"1h\"")?;
    let context = Context::open(dir.path()).await?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    let mut sender = Sender::default();
    sender.send(&client, 1_000).await?;
    let (landed, mut fates) = (daemon.terminate().await, sender.fates().clone());
    landed?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    Sender::from(990).send(&client, 20).await?;
    let mut later = Sender::from(5_000);
    later.send(&client, 30).await?;
    let tally = fates.compare(sender::found(&client).await?);
    anyhow::ensure!((tally.doubled, tally.strange) == (10, 40), "{tally:?}");
    daemon.kill()?;
    std::fs::remove_dir_all(dir.path().join("wal"))?;
    fates.add(later.fates());
    let tally = settle::settle("a WAL that is gone", &[dir.path()], &fates).await?;
    anyhow::ensure!(
        (tally.produced, tally.lost, tally.doubled) == (1_030, 30, 0) && !tally.is_exact(),
        "{tally:?}"
    );
    Ok(())
}
