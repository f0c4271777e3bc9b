//! Daemons with only a bucket between them, which ask each other for what they hold; and what of the
//! bucket they ask for that.

use anabranch_tests::ledger::{Ledger, REQUEST};
use anabranch_tests::process::Setup;

use super::bucket::{Project, Server};
use super::requests::{asked, since};
use crate::doors::gather::{ask, both_answer_with_all, prepare, race, seconds, start};

#[tokio::test(flavor = "multi_thread")]
async fn both_answer_with_all_of_a_bucket() -> anyhow::Result<()> {
    let server = Server::own()?;
    let projects = two(&server, "both", "1h", "")?;
    let paths = [projects[0].path(), projects[1].path()];
    both_answer_with_all(paths, &projects[0].context().await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_race_on_a_bucket() -> anyhow::Result<()> {
    let server = Server::own()?;
    let projects = two(&server, "race", "50ms", "peer_timeout = \"30s\"")?;
    let paths = [projects[0].path(), projects[1].path()];
    race(paths, &projects[0].context().await?, seconds()).await
}

/// A query that asks another daemon asks the bucket for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_gathering_query_lists_nothing() -> anyhow::Result<()> {
    let server = Server::own()?;
    let projects = two(&server, "hot", "1h", "")?;
    let context = projects[0].context().await?;
    let (mut daemons, clients) = start([projects[0].path(), projects[1].path()], &context).await?;
    Ledger::from(0).send(&clients[0], 3).await;
    let before = asked(&clients[1]).await?;
    let begun = std::time::Instant::now();
    for _ in 0..20 {
        let (rows, _) = ask(&clients[1], "SELECT sum(facts) FROM words").await?;
        anyhow::ensure!(rows[0][0] == (3 * REQUEST).to_string(), "{rows:?}");
    }
    let after = asked(&clients[1]).await?;
    // Meanwhile it may have looked who is there, which it does every 10 s, and renewed its address.
    let looks = begun.elapsed().as_secs() / 10 + 1;
    anyhow::ensure!(
        since(&before, &after, "list") <= looks,
        "{before:?}, then {after:?}"
    );
    anyhow::ensure!(
        since(&before, &after, "put") <= looks,
        "{before:?}, then {after:?}"
    );
    println!("20 queries that ask another daemon: {before:?}, then {after:?}");
    for daemon in &mut daemons {
        daemon.terminate().await?;
    }
    Ok(())
}

fn two(server: &Server, prefix: &str, land: &str, more: &str) -> anyhow::Result<[Project; 2]> {
    let setup = Setup {
        daemon: more,
        ..Default::default()
    };
    let projects = [
        Project::new(server, prefix, setup)?,
        Project::new(server, prefix, setup)?,
    ];
    for project in &projects {
        prepare(project.path(), land)?;
    }
    Ok(projects)
}
