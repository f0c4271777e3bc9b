//! A long history: few files, old rows gone, and the last runs right.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::time::Instant;

use super::*;
use crate::clock::now_us;
use crate::project::context::Context;
use crate::work::job_states::states;
use crate::work::upkeep::{Patience, keep_logs};

const PROJECT: &str = r#"
[topics.facts]
event_time = "ts"
fields = { ts = "timestamp not null" }
[views.v7]
sql = "v.sql"
[daemon]
checkpoint_every = 10
"#;

const DAY_US: i64 = 86_400_000_000;

/// 2,000 jobs of 20 views, or as many as `ANABRANCH_JOBS` says; then the time that `jobs` takes is
/// printed.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_jobs_are_kept_few_files() {
    let wanted = std::env::var("ANABRANCH_JOBS").ok();
    let count: i64 = wanted.map_or(2_000, |n| n.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("anabranch.toml"), PROJECT).unwrap();
    std::fs::write(dir.path().join("v.sql"), "SELECT count(*) AS c FROM facts").unwrap();
    let context = Context::open(dir.path()).await.unwrap();
    let table = open(&context.storage).await.unwrap();
    let now = now_us();
    // The oldest began 180 days ago.
    let began = |n: i64| now - DAY_US * 180 + DAY_US * 180 / count * n;
    let records = (0..count).map(|n| JobRecord {
        view: format!("v{}", n % 20),
        job: "refresh",
        trigger: "schedule".into(),
        started_at: began(n),
        ended_at: began(n) + 1_000,
        outcome: if n % 3 == 0 { "stopped" } else { "done" },
        ..Default::default()
    });
    let records: Vec<JobRecord> = records.collect();
    for some in records.chunks(usize::try_from(count / 20).unwrap()) {
        add(&table, some).await.unwrap();
    }
    let last_of = |kept: fn(&&JobRecord) -> bool| {
        let of_view = records.iter().rev().filter(|r| r.view == "v7");
        of_view.filter(kept).map(|r| r.started_at).next().unwrap()
    };
    let check = async || {
        let mut history = LastRows::default();
        let begun = Instant::now();
        history.follow(&context.storage).await.unwrap();
        println!(
            "{count} jobs: the last rows are read in {:?}",
            begun.elapsed()
        );
        let key = ("v7".to_owned(), "refresh".to_owned());
        assert_eq!(history.rows().len(), 20);
        assert_eq!(history.rows()[&key].started_at, last_of(|_| true));
        assert_eq!(history.begun()[&key], last_of(|r| r.outcome == "done"));
        assert!(!history.follow(&context.storage).await.unwrap());
        history
    };
    let mut before = check().await;
    let stop = Arc::default();
    let kept = keep_logs(
        &context,
        anabranch_batch::CleanAction::Remove,
        Patience::None,
        &stop,
    );
    let kept = kept.await.unwrap().history;
    assert_eq!(kept.merged, 20);
    // Half of them are older than 90 days.
    let half = u64::try_from(count / 2).unwrap();
    assert!(kept.removed.abs_diff(half) <= 2, "{kept:?}");
    let opened = Table::open(&context.storage, layout::JOBS).await.unwrap();
    assert!(opened.with_state(|s| s.files.len()) <= 1 + usize::try_from(count / 100_000).unwrap());
    assert!(opened.with_state(|s| s.checkpoint).is_some());
    check().await;
    assert!(before.follow(&context.storage).await.unwrap());
    let begun = Instant::now();
    let states = states(&context, crate::clock::now()).await.unwrap();
    println!("{count} jobs: `jobs` takes {:?}", begun.elapsed());
    assert_eq!(states.len(), 1);
}

/// Each job is told once, however its row is read, and none that ended before it is wanted.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_end_are_told_once() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("anabranch.toml"), PROJECT).unwrap();
    std::fs::write(dir.path().join("v.sql"), "SELECT count(*) AS c FROM facts").unwrap();
    let context = Context::open(dir.path()).await.unwrap();
    let table = open(&context.storage).await.unwrap();
    let job = |n: i64, outcome| JobRecord {
        view: "v7".into(),
        job: "refresh",
        started_at: n,
        ended_at: n + 5,
        outcome,
        facts: n,
        ..Default::default()
    };
    for n in 1..=9 {
        add(&table, &[job(n * 10, "done")]).await.unwrap();
    }
    let mut history = LastRows::telling_after(60);
    assert!(history.follow(&context.storage).await.unwrap());
    let told = |history: &mut LastRows| {
        let ended = history.take_ended().into_iter();
        ended.map(|j| (j.facts, j.outcome)).collect::<Vec<_>>()
    };
    let expected = [60, 70, 80, 90].map(|n| (n, "done".to_owned()));
    assert_eq!(told(&mut history), expected);
    add(&table, &[job(100, "failed")]).await.unwrap();
    let rule = KeepRule {
        before_us: None,
        ..keep_rule(&context.project)
    };
    keep_small(&table, &rule, now_ms()).await.unwrap();
    assert_eq!(table.with_state(|s| s.files.len()), 1);
    assert!(history.follow(&context.storage).await.unwrap());
    assert_eq!(told(&mut history), [(100, "failed".to_owned())]);
    let key = ("v7".to_owned(), "refresh".to_owned());
    assert_eq!(history.done().get(&key), Some(&95));
}
