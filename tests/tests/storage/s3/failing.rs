//! Requests fail in every way that they can, while a daemon is killed where it hurts.

use std::time::{Duration, Instant};

use anabranch_tests::ledger::{Ledger, check_law};
use anabranch_tests::process::{Process, Setup, VIEW, run, run_well, until};
use anabranch_tests::s3::{Fault, Rule, S3Server};
use hyper::Method;

use super::bucket::{Project, Server, check_count};

/// Faults of everyday, all at once: about one put of five and one get of twenty-five.
fn everyday() -> Vec<Rule> {
    vec![
        Rule::new(Fault::Error500, 40).method(Method::PUT),
        Rule::new(Fault::SlowDown, 40).method(Method::PUT),
        Rule::new(Fault::DropBefore, 30).method(Method::PUT),
        Rule::new(Fault::DropAfter, 50).method(Method::PUT),
        Rule::new(Fault::Late(Duration::from_millis(300)), 30).method(Method::PUT),
        Rule::new(Fault::SilentAfter, 10)
            .method(Method::PUT)
            .most(4),
        Rule::new(Fault::Silent, 5).method(Method::PUT).most(4),
        Rule::new(Fault::Error500, 20).method(Method::GET),
        Rule::new(Fault::SlowDown, 20).method(Method::GET),
        Rule::new(Fault::DropBefore, 10).method(Method::GET),
    ]
}

/// Faults of the one put on which exactness rests, whose outcome nobody hears.
fn commits() -> Vec<Rule> {
    vec![
        Rule::new(Fault::DropAfter, 250)
            .method(Method::PUT)
            .key("_delta_log"),
        Rule::new(Fault::Late(Duration::from_millis(250)), 250)
            .method(Method::PUT)
            .key("_delta_log"),
    ]
}

fn own(server: &Server) -> anyhow::Result<&S3Server> {
    match server {
        Server::Own(server, _) => Ok(server),
        Server::Moto(_) => anyhow::bail!("moto does not fail on demand"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_at_each_step_of_landing_while_requests_fail() -> anyhow::Result<()> {
    for (rules, of) in [(everyday(), "everyday"), (commits(), "commits")] {
        for (n, point) in ["land-before-commit", "land-after-commit", "land-before-cut"]
            .into_iter()
            .enumerate()
        {
            let ack = ["wal", "landed"][n % 2];
            killed_at(point, ack, rules.clone(), of).await?;
        }
    }
    Ok(())
}

async fn killed_at(point: &str, ack: &str, rules: Vec<Rule>, of: &str) -> anyhow::Result<()> {
    let server = Server::own()?;
    let faults = own(&server)?;
    let setup = Setup {
        ack,
        ..Default::default()
    };
    let project = Project::new(&server, point, setup)?;
    let context = project.context().await?;
    faults.fail(rules.clone());
    let mut ledger = Ledger::default();
    for nth in [1, 3] {
        let mut daemon = Process::start_to_stop(project.path(), &["speed"], point, nth)?;
        let client = daemon.ready(&context).await?;
        let sending = ledger.send_beside(&client);
        daemon.stopped().await?;
        daemon.kill()?;
        ledger = sending.await?;
        faults.fail(rules.clone());
    }
    // One more that is not killed, while a build runs beside it; what fails is tried again.
    let mut daemon = Process::start(project.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    let ledger = ledger.send(&client, 20).await;
    let begun = Instant::now();
    while !run(project.path(), &["batch", "refresh"])
        .await?
        .status
        .success()
    {
        anyhow::ensure!(
            begun.elapsed() < Duration::from_secs(60),
            "no refresh succeeds"
        );
    }
    faults.fail(Vec::new());
    let what = format!("{point}, ack = {ack}, faults: {of}");
    ledger.check(&what, &client, VIEW).await?;
    daemon.terminate().await?;
    run_well(project.path(), &["verify"]).await?;
    check_law(&what, &context).await?;
    let found = project.count().await?;
    check_count(
        &what,
        &found,
        ledger.acknowledged.iter().copied(),
        ledger.next,
    )?;
    println!(
        "{what}: {} facts acknowledged, {} in the log, none lost, none doubled; injected {:?}",
        ledger.acknowledged.len(),
        found.len(),
        faults.failed()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_wait_while_the_bucket_is_away() -> anyhow::Result<()> {
    let server = Server::own()?;
    let faults = own(&server)?;
    let project = Project::new(&server, "away", Setup::default())?;
    let context = project.context().await?;
    let mut daemon = Process::start(project.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    let ledger = Ledger::default().send(&client, 3).await;
    faults.fail(vec![Rule::new(Fault::SlowDown, 1_000)]);
    // Acknowledged and visible, though nothing lands.
    let ledger = ledger.send(&client, 10).await;
    anyhow::ensure!(ledger.acknowledged.len() == 13 * 50);
    until("refused puts", || async { Ok(!faults.failed().is_empty()) }).await?;
    faults.fail(Vec::new());
    ledger
        .check("after the bucket was away", &client, VIEW)
        .await?;
    until("all lands", || async {
        Ok(project.count().await?.len() == 13 * 50)
    })
    .await?;
    daemon.terminate().await?;
    check_law("after the bucket was away", &context).await
}
