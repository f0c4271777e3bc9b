//! Many topics and views: what a daemon holds does not grow with them, and a command does no more than
//! it has to.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anabranch_jobs::project::context::Context;
use anabranch_jobs::work::build::{Build, build_view};
use anabranch_shared::{FoldProgress, RequestKind};
use anabranch_speed::TopicOptions;
use anabranch_tests::places;
use anabranch_tests::process::{Process, until};

/// A project of topics and views, each over a topic.
fn write_project(dir: &Path, topics: usize, views: usize) -> anyhow::Result<()> {
    let mut text =
        "[storage]\nurl = \"file://./data\"\n[daemon]\nhttp = \"127.0.0.1:0\"\n".to_owned();
    for n in 0..topics {
        write!(
            text,
            "[topics.t{n}]\nevent_time = \"ts\"\nfields = {{ ts = \"timestamp not null\", n = \"bigint\" }}\n"
        )?;
    }
    for n in 0..views {
        write!(text, "[views.v{n}]\nsql = \"v{n}.sql\"\n")?;
        let sql = format!("SELECT n, count(*) AS c FROM t{} GROUP BY n", n % topics);
        std::fs::write(dir.join(format!("v{n}.sql")), sql)?;
    }
    Ok(std::fs::write(dir.join("anabranch.toml"), text)?)
}

/// The threads and the descriptors of a daemon to whose topics facts have come.
async fn held(topics: usize, views: usize) -> anyhow::Result<(usize, usize)> {
    let dir = places::folder()?;
    write_project(dir.path(), topics, views)?;
    let context = Context::open(dir.path()).await?;
    let mut daemon = Process::start(dir.path(), &["speed"])?;
    let client = daemon.ready(&context).await?;
    for n in 0..topics {
        let facts = "{\"ts\":\"2026-01-01T00:00:00Z\",\"n\":1}\n";
        let taken = client.write_ndjson(&format!("t{n}"), facts.into()).await?;
        anyhow::ensure!(taken.facts == 1, "{taken:?}");
    }
    let of = format!("/proc/{}", daemon.id());
    let status = std::fs::read_to_string(format!("{of}/status"))?;
    let threads = status.lines().find_map(|l| l.strip_prefix("Threads:"));
    let threads = threads.unwrap_or_default().trim().parse()?;
    let files = std::fs::read_dir(format!("{of}/fd"))?.count();
    // All of them land, and nothing of them is lost.
    daemon.terminate().await?;
    let last = context.log(&format!("t{}", topics - 1)).await?;
    anyhow::ensure!(last.read_between(&last.low(), &last.head()).await?.len() == 1);
    Ok((threads, files))
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_and_files_do_not_grow_with_topics() -> anyhow::Result<()> {
    let (few, many) = (held(4, 2).await?, held(60, 20).await?);
    // A few threads that append, those that wait for the storage as far as they are bounded, and few
    // files that stay open.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let most = 64 + 8 * cores + 16 + 2 * cores;
    anyhow::ensure!(many.0 <= most, "threads: {few:?}, {many:?}, at most {most}");
    anyhow::ensure!(many.1 < few.1 + 24, "descriptors: {few:?}, {many:?}");
    Ok(())
}

/// Entries of the catalogue hold all of it, and each command opens the project: with one entry for
/// each topic and view, and a plan of each view, hundreds would take minutes.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_plans_and_opens_what_it_needs() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), 30, 20)?;
    let context = Context::open(dir.path()).await?;
    let entry = context.catalogue.current();
    anyhow::ensure!(entry.topics.len() == 30, "{}", entry.topics.len());
    let live = entry.views.values().filter(|v| v.live.is_some()).count();
    anyhow::ensure!(live == 20, "{live}");
    // The topics, the numbers of the generations, the generations.
    anyhow::ensure!(entry.number == 3, "{}", entry.number);
    anyhow::ensure!(context.planned.count() == 20);
    let context = Context::open(dir.path()).await?;
    anyhow::ensure!(context.planned.count() == 0, "opening plans views");
    let before = context.storage.requests().of(RequestKind::List);
    let (stop, progress) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(FoldProgress::default()),
    );
    let view = &context.project.views[7];
    build_view(&context, view, Build::Refresh, "test", &stop, &progress).await?;
    anyhow::ensure!(context.planned.count() == 1, "{}", context.planned.count());
    let listed = context.storage.requests().of(RequestKind::List) - before;
    anyhow::ensure!(listed < 30, "{listed} listings for one view");
    Ok(())
}

/// What can't be opened is tried again ever less often, which is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_cannot_be_opened_is_tried_ever_less_often() -> anyhow::Result<()> {
    let dir = places::folder()?;
    write_project(dir.path(), 1, 0)?;
    let context = Context::open(dir.path()).await?;
    let daemon = anabranch_jobs::node::open::open(&context).await?;
    write_project(dir.path(), 2, 0)?;
    // Where the second topic's WAL would be there is a file.
    std::fs::write(dir.path().join("wal/t1"), "")?;
    let now = Context::open(dir.path()).await?;
    daemon.want_topics(BTreeMap::from([
        ("t0".to_owned(), TopicOptions::default()),
        ("t1".to_owned(), TopicOptions::default()),
    ]));
    for _ in 0..20 {
        daemon.follow_catalogue().await;
    }
    let untaken = daemon.untaken();
    let why = untaken.get("t1").cloned().unwrap_or_default();
    let once = "it has failed once, and the next try is in 1 s";
    anyhow::ensure!(
        why.contains(once) && !untaken.contains_key("t0"),
        "{untaken:?}"
    );
    std::fs::remove_file(dir.path().join("wal/t1"))?;
    until("the topic is open", async || {
        daemon.follow_catalogue().await;
        Ok(daemon.topics().contains_key("t1"))
    })
    .await?;
    anyhow::ensure!(daemon.untaken().is_empty(), "{:?}", daemon.untaken());
    drop(now);
    daemon.stop().await?;
    Ok(())
}
