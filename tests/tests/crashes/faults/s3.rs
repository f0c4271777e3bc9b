//! S3 that fails while a daemon lands, a view is built, and the daemon dies.

use std::path::Path;
use std::time::{Duration, Instant};

use anabranch_tests::fates::Tally;
use anabranch_tests::process::{Process, run};
use anabranch_tests::s3::{Fault, Rule};
use anabranch_tests::sender::Sender;
use hyper::Method;

use super::Time;
use super::rig::{Place, Rig, cluster, context, more};
use super::settle::settle;

/// Of a thousand puts, and of a thousand gets, so many.
fn of_both(fault: Fault, puts: u32, gets: u32) -> Vec<Rule> {
    vec![
        Rule::new(fault, puts).method(Method::PUT),
        Rule::new(fault, gets).method(Method::GET),
    ]
}

/// The commit's put is done, or will be, and nobody hears of it.
fn unheard(fault: Fault) -> Vec<Rule> {
    let commits = Rule::new(fault, 300).method(Method::PUT).key("_delta_log");
    vec![commits, Rule::new(fault, 50).method(Method::PUT)]
}

/// 500 Internal Server Error.
pub(super) async fn errors(time: Time) -> anyhow::Result<Option<Tally>> {
    failing(time, of_both(Fault::Error500, 200, 60)).await
}

/// 503 SlowDown.
pub(super) async fn slow_down(time: Time) -> anyhow::Result<Option<Tally>> {
    failing(time, of_both(Fault::SlowDown, 200, 60)).await
}

/// No answer, whether it was done or not.
pub(super) async fn silent(time: Time) -> anyhow::Result<Option<Tally>> {
    let put = |fault: Fault| Rule::new(fault, 100).method(Method::PUT).most(2);
    let get = Rule::new(Fault::Silent, 20).method(Method::GET).most(2);
    let commit = Rule::new(Fault::SilentAfter, 500)
        .method(Method::PUT)
        .key("_delta_log")
        .most(1);
    let rules = vec![commit, put(Fault::SilentAfter), put(Fault::Silent), get];
    failing(time, rules).await
}

/// The connection is dropped after the put was applied.
pub(super) async fn dropped_after(time: Time) -> anyhow::Result<Option<Tally>> {
    failing(time, unheard(Fault::DropAfter)).await
}

/// The connection is dropped, and the put is applied later: maybe after it was sent again.
pub(super) async fn applied_late(time: Time) -> anyhow::Result<Option<Tally>> {
    failing(time, unheard(Fault::Late(Duration::from_millis(250)))).await
}

/// A command that is given again until it succeeds.
async fn at_last(dir: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let out = run(dir, arguments).await?;
        if out.status.success() {
            return Ok(());
        }
        let says = String::from_utf8_lossy(&out.stderr);
        // What is no fault of the storage must not be passed over.
        anyhow::ensure!(
            matches!(out.status.code(), Some(69 | 75)),
            "{arguments:?} ends with {}: {says}",
            out.status
        );
        anyhow::ensure!(
            begun.elapsed() < Duration::from_secs(60),
            "{arguments:?} does not succeed: {says}"
        );
    }
}

async fn failing(time: Time, rules: Vec<Rule>) -> anyhow::Result<Option<Tally>> {
    match time.nth % 2 {
        0 => over_http(time, rules).await.map(Some),
        _ => from_kafka(time, rules).await.map(Some),
    }
}

async fn over_http(time: Time, rules: Vec<Rule>) -> anyhow::Result<Tally> {
    let rig = Rig::new(Place::Bucket)?;
    let dir = rig.project(None)?;
    let context = context(dir.path()).await?;
    let fail = |rules: &[Rule]| rig.server.iter().for_each(|s| s.fail(rules.to_vec()));
    let mut sender = Sender::default();
    let mut round = 0;
    while round < 3 || may_go_on(&rig, round)? {
        let command = ["refresh", "rebuild"][round % 2];
        round += 1;
        fail(&[]);
        let mut daemon = Process::start(dir.path(), &["speed"])?;
        let client = daemon.ready(&context).await?;
        fail(&rules);
        sender.send(&client, time.facts / 4).await?;
        at_last(dir.path(), &["batch", command]).await?;
        sender.send(&client, time.facts / 8).await?;
        daemon.kill()?;
    }
    fail(&[]);
    settle("S3 fails", &[dir.path()], sender.fates()).await
}

async fn from_kafka(time: Time, rules: Vec<Rule>) -> anyhow::Result<Tally> {
    let cluster = cluster().await?;
    let rig = Rig::with_kafka(Place::Bucket, cluster.as_ref()).await?;
    let dir = rig.project(Some("0-2"))?;
    let context = context(dir.path()).await?;
    let fail = |rules: &[Rule]| rig.server.iter().for_each(|s| s.fail(rules.to_vec()));
    let stream = rig.stream(cluster.as_ref(), time.facts)?;
    let mut round = 0;
    while round < 2 || may_go_on(&rig, round)? {
        let command = ["refresh", "rebuild"][round % 2];
        round += 1;
        let mut daemon = Process::start(dir.path(), &["speed"])?;
        fail(&rules);
        at_last(dir.path(), &["batch", command]).await?;
        fail(&[]);
        more("landings", &context, time.facts / 10).await?;
        fail(&rules);
        tokio::time::sleep(Duration::from_millis(500)).await;
        daemon.kill()?;
        fail(&[]);
    }
    let fates = stream.end(time.facts).await?;
    settle("S3 fails under Kafka", &[dir.path()], &fates).await
}

/// Whether another round is wanted: requests fail at random, and so far none has.
fn may_go_on(rig: &Rig, rounds: usize) -> anyhow::Result<bool> {
    let Some(server) = &rig.server else {
        anyhow::bail!("there is no bucket");
    };
    let none = server.failed().is_empty();
    anyhow::ensure!(
        !none || rounds < 20,
        "in {rounds} rounds nothing has failed"
    );
    Ok(none)
}
