//! The end of every case: what daemons say, what a process of its own says once they have stopped, and
//! `anabranch verify`, all compared with the producer's book.

use std::path::Path;

use anabranch_tests::fates::{Fates, Place, Tally};
use anabranch_tests::ledger::rows;
use anabranch_tests::process::{Process, run_well, until};
use anabranch_tests::sender::found;

use super::rig::context;

/// Starts the daemons of these projects, which share a storage, and checks what they answer; stops
/// them, and checks what is in the storage then.
pub(super) async fn settle(what: &str, dirs: &[&Path], fates: &Fates) -> anyhow::Result<Tally> {
    let Some(first) = dirs.first() else {
        anyhow::bail!("{what}: no project");
    };
    let context = context(first).await?;
    let from_kafka = context.project.topics.iter().any(|t| t.kafka.is_some());
    let (mut daemons, mut clients) = (Vec::new(), Vec::new());
    for dir in dirs {
        let mut daemon = Process::start(dir, &["speed"])?;
        clients.push(daemon.ready(&context).await?);
        daemons.push(daemon);
    }
    let mut all = Vec::new();
    for client in &clients {
        if dirs.len() > 1 || from_kafka {
            // A daemon sees what others have acknowledged once they have landed it, and what is in
            // Kafka once it has read it. Facts that don't come are counted as lost, which says more
            // than an error here.
            let enough = fates.totals().count;
            let come = || async {
                let count = rows(client, "SELECT count(*) FROM facts").await?;
                Ok(count.concat().concat().parse::<u64>()? >= enough)
            };
            if let Err(e) = until("all facts", come).await {
                println!("{what}: {e}");
            }
        }
        all = found(client).await?;
        let view = rows(client, "SELECT sum(facts), sum(ids) FROM words").await?;
        same(what, "the view", &all, &view)?;
    }
    verify(what, first, &[]).await?;
    verify(what, first, &["--daemon"]).await?;
    for daemon in &mut daemons {
        daemon.terminate().await?;
    }
    let sql = "SELECT count(*), sum(id) FROM facts";
    let said = run_well(first, &["--format", "csv", "sql", "-c", sql]).await?;
    let said = said.lines().last().unwrap_or_default().split(',');
    same(what, "the log", &all, &[said.map(str::to_owned).collect()])?;
    verify(what, first, &[]).await?;
    Ok(fates.compare(all))
}

fn same(what: &str, who: &str, found: &[(i64, Place)], said: &[Vec<String>]) -> anyhow::Result<()> {
    let sum: i64 = found.iter().map(|(id, _)| id).sum();
    let expected = [found.len().to_string(), sum.to_string()];
    anyhow::ensure!(
        said == [expected.to_vec()],
        "{what}: {who} says {said:?}, the facts {expected:?}"
    );
    Ok(())
}

/// `anabranch verify`, whose exit code is the verdict.
pub(super) async fn verify(what: &str, dir: &Path, how: &[&str]) -> anyhow::Result<()> {
    run_well(dir, &[&["verify"], how].concat())
        .await
        .map(drop)
        .map_err(|e| anyhow::anyhow!("{what}: {e}"))
}
