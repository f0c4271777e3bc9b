//! Several processes with only the bucket between them: how they find each other, and what is said
//! where one can't be reached.

use std::time::{Duration, Instant};

use anabranch_jobs::reader::presence::Address;
use anabranch_shared::ReadMode;
use anabranch_tests::ledger::{Ledger, check_law};
use anabranch_tests::process::{Process, Setup, VIEW, pause_process, run, run_well, until};
use rustix::process::{Pid, Signal, kill_process};

use super::bucket::{Project, Server, check_count};

/// Lets facts stay in the WAL until the daemon ends.
fn without_landing(project: &Project) -> anyhow::Result<()> {
    let path = project.path().join("anabranch.toml");
    let text = std::fs::read_to_string(&path)?;
    std::fs::write(
        path,
        text.replace("land_every = \"100ms\"", "land_every = \"1h\""),
    )?;
    Ok(())
}

const COUNT: [&str; 5] = ["--format", "csv", "sql", "-c", "SELECT count(*) FROM facts"];

/// The last line of an answer, what was said beside it, and how long it took.
async fn asked(project: &Project) -> anyhow::Result<(String, String, Duration)> {
    let begun = Instant::now();
    let out = run(project.path(), &COUNT).await?;
    let says = String::from_utf8_lossy(&out.stderr).into_owned();
    anyhow::ensure!(out.status.success(), "{says}");
    let rows = String::from_utf8_lossy(&out.stdout).into_owned();
    let last = rows.lines().last().unwrap_or_default().to_owned();
    Ok((last, says, begun.elapsed()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_is_found_and_missed() -> anyhow::Result<()> {
    let server = Server::own()?;
    let here = Project::new(&server, "found", Setup::default())?;
    without_landing(&here)?;
    let there = Project::new(&server, "found", Setup::default())?;
    let context = here.context().await?;
    let mut daemon = Process::start(here.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    let ledger = Ledger::default().send(&client, 4).await;
    anyhow::ensure!(context.log("facts").await?.head().iter().next().is_none());

    let (rows, _, _) = asked(&there).await?;
    anyhow::ensure!(rows == "200", "the daemon is not asked: {rows}");

    // It hangs: the log answers, and says what may be missing.
    let pid = Pid::from_raw(i32::try_from(daemon.id())?);
    let pid = pid.ok_or_else(|| anyhow::anyhow!("no process"))?;
    pause_process(pid)?;
    let (rows, says, took) = asked(&there).await?;
    anyhow::ensure!(
        rows == "0"
            && says.contains(
                "does not answer: facts of `facts` from offset 0 of partition 0 on may be missing"
            ),
        "{rows}: {says}"
    );
    anyhow::ensure!(took < Duration::from_secs(20), "{took:?}");
    kill_process(pid, Signal::CONT)?;
    let (rows, _, _) = asked(&there).await?;
    anyhow::ensure!(rows == "200", "{rows}");

    // It dies. On its own machine the WAL is there to be read, elsewhere it is not.
    daemon.kill()?;
    let (rows, says, _) = asked(&there).await?;
    anyhow::ensure!(
        rows == "0" && says.contains("may be missing"),
        "{rows}: {says}"
    );
    let (rows, says, _) = asked(&here).await?;
    anyhow::ensure!(
        rows == "200" && !says.contains("may be missing"),
        "{rows}: {says}"
    );
    let status = run_well(there.path(), &["status"]).await?;
    anyhow::ensure!(
        status.contains("does not answer")
            && status.contains("partitions: facts 0")
            && status.contains("start it again"),
        "{status}"
    );

    // It comes back, and takes the place of its former self.
    let mut daemon = Process::start(here.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    ledger.check("after a restart", &client, VIEW).await?;
    let status = run_well(there.path(), &["status"]).await?;
    anyhow::ensure!(!status.contains("does not answer"), "{status}");
    daemon.terminate().await?;
    let (rows, says, _) = asked(&there).await?;
    anyhow::ensure!(
        rows == "200" && !says.contains("may be missing"),
        "{rows}: {says}"
    );
    let status = run_well(there.path(), &["status"]).await?;
    anyhow::ensure!(status.contains("none runs"), "{status}");
    check_law("found and missed", &context).await
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_addresses_cost_no_time() -> anyhow::Result<()> {
    let server = Server::own()?;
    let project = Project::new(&server, "dead", Setup::default())?;
    let context = project.context().await?;
    // Of an address of TEST-NET-1 (RFC 5737) nobody ever hears.
    for n in 0..20 {
        let address = Address {
            id: format!("run-{n}"),
            wal: format!("wal-{n}"),
            http: format!("192.0.2.{n}:8787"),
            local: String::new(),
            host: "elsewhere".into(),
            pid: 1,
            certificate: String::new(),
            has_users: false,
            partitions: [("facts".to_owned(), vec![100 + n])].into(),
            reads: Default::default(),
            started_at_ms: 0,
            seen_at_ms: 0,
            unreadable: None,
        };
        address.publish(&context.storage).await?;
    }
    let (rows, says, took) = asked(&project).await?;
    anyhow::ensure!(
        rows == "0" && says.contains("of partition 119 on may be missing"),
        "{says}"
    );
    anyhow::ensure!(took < Duration::from_secs(10), "{took:?}");
    // One that answers is found all the same.
    let mut daemon = Process::start(project.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    let ledger = Ledger::default().send(&client, 1).await;
    ledger.check("among dead addresses", &client, VIEW).await?;
    let (rows, says, _) = asked(&project).await?;
    anyhow::ensure!(
        rows == "50" && says.contains("of partition 119 on"),
        "{rows}: {says}"
    );
    daemon.terminate().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_on_one_bucket() -> anyhow::Result<()> {
    let server = Server::own()?;
    // That address is for other machines; on this one the daemon is found all the same.
    let advertised = Setup {
        daemon: "advertise = \"192.0.2.9:8787\"",
        ..Default::default()
    };
    let projects = [
        Project::new(&server, "two", Setup::default())?,
        Project::new(&server, "two", advertised)?,
    ];
    let mut daemons = [
        Process::start(projects[0].path(), &["speed"])?,
        Process::start(projects[1].path(), &["speed"])?,
    ];
    let context = projects[0].context().await?;
    let clients = [
        daemons[0].ready(&context).await?,
        daemons[1].ready(&context).await?,
    ];
    let sent = tokio::join!(
        Ledger::from(0).send(&clients[0], 20),
        Ledger::from(100_000).send(&clients[1], 20)
    );
    let ledger = Ledger::default().with(&sent.0).with(&sent.1);
    for client in &clients {
        until("what the other has landed", || async {
            let answer = client
                .query("SELECT id FROM facts", ReadMode::Merged)
                .await?;
            Ok(answer.batches.iter().map(|b| b.num_rows()).sum::<usize>() == 2_000)
        })
        .await?;
        ledger.check("both", client, VIEW).await?;
    }
    let status = run_well(projects[1].path(), &["--format", "json", "status"]).await?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    let known = status["daemons"].as_array().cloned().unwrap_or_default();
    anyhow::ensure!(
        known.len() == 2
            && known.iter().all(|d| d["answers"] == true)
            && known.iter().any(|d| d["http"] == "192.0.2.9:8787"),
        "{status}"
    );
    // One dies with facts that have not landed, while the other goes on; then it comes back.
    let sending = ledger.clone().send_beside(&clients[1]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    daemons[1].kill()?;
    let ledger = sending.await?;
    let (_, says, _) = asked(&projects[0]).await?;
    anyhow::ensure!(
        says.contains("the daemon at 192.0.2.9:8787") && says.contains("of partition"),
        "the first daemon's answer does not name the second: {says}"
    );
    run_well(projects[0].path(), &["batch", "rebuild"]).await?;
    daemons[1] = Process::start(projects[1].path(), &["speed"])?;
    let back = daemons[1].ready(&context).await?;
    ledger.check("after a restart", &back, VIEW).await?;
    let (_, says, _) = asked(&projects[0]).await?;
    anyhow::ensure!(!says.contains("may be missing"), "{says}");
    for daemon in &mut daemons {
        daemon.terminate().await?;
    }
    check_law("two daemons", &context).await?;
    let found = projects[0].count().await?;
    check_count(
        "two daemons",
        &found,
        ledger.acknowledged.iter().copied(),
        ledger.next,
    )
}
