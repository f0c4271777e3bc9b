//! When jobs are due, whom they wait for, and what becomes of those that fail.
#![expect(clippy::unwrap_used, reason = "tests")]

use chrono::TimeDelta;

use anabranch_shared::settings::GateSettings;

use super::*;
use crate::work::schedule_times::next_time;

fn view(cron: Option<&str>, every: Option<u64>, zone: &str) -> ViewSettings {
    ViewSettings {
        name: "v".into(),
        sql_path: "v.sql".into(),
        sql_text: String::new(),
        refresh_every: every.map(Duration::from_secs),
        rebuild_cron: cron.map(str::to_owned),
        verify_cron: None,
        timezone: zone.into(),
        export: false,
        keep_previous: None,
        moved: None,
        gate: GateSettings::default(),
    }
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

#[test]
fn cron_follows_daylight_saving() {
    let v = view(Some("0 3 * * *"), None, "Europe/Berlin");
    let winter = next_time(&v, Job::Rebuild, at("2026-01-10T12:00:00Z")).unwrap();
    let summer = next_time(&v, Job::Rebuild, at("2026-07-10T12:00:00Z")).unwrap();
    assert_eq!(winter, at("2026-01-11T02:00:00Z"));
    assert_eq!(summer, at("2026-07-11T01:00:00Z"));
}

#[test]
fn missed_times_make_one_run() {
    let v = view(Some("0 * * * *"), Some(300), "UTC");
    let begun = at("2026-01-10T00:30:00Z");
    let mut last = BTreeMap::new();
    let now = at("2026-01-10T09:10:00Z");
    let jobs = due(std::slice::from_ref(&v), &last, begun, now);
    assert_eq!(jobs, vec![(0, Job::Rebuild), (0, Job::Refresh)]);
    last.insert(("v".to_owned(), Job::Rebuild), now);
    last.insert(("v".to_owned(), Job::Refresh), now);
    assert!(due(&[v], &last, begun, at("2026-01-10T09:11:00Z")).is_empty());
}

/// When the jobs of a view run if the clock is looked at every `step` seconds from `from` to `to`.
fn runs(view: &ViewSettings, from: &str, to: &str, step: i64) -> Vec<String> {
    let (begun, end) = (at(from), at(to));
    let (mut now, mut last, mut runs) = (begun, BTreeMap::new(), Vec::new());
    while now <= end {
        for (_, job) in due(std::slice::from_ref(view), &last, begun, now) {
            runs.push(now.format("%m-%dT%H:%M").to_string());
            last.insert((view.name.clone(), job), now);
        }
        now += TimeDelta::seconds(step);
    }
    runs
}

#[test]
fn a_time_in_the_gap_or_the_fold_of_a_night_runs_once() {
    // In Berlin the clock goes from 02:00 to 03:00 on 2026-03-29, and from 03:00 to 02:00 on 2026-10-25.
    let v = view(Some("30 2 * * *"), None, "Europe/Berlin");
    let spring = runs(&v, "2026-03-27T12:00:00Z", "2026-03-31T12:00:00Z", 60);
    assert_eq!(
        spring,
        ["03-28T01:30", "03-29T01:00", "03-30T00:30", "03-31T00:30"],
        "02:30 does not exist on the 29th: it runs where the gap ends"
    );
    let autumn = runs(&v, "2026-10-23T12:00:00Z", "2026-10-27T12:00:00Z", 60);
    assert_eq!(
        autumn,
        ["10-24T00:30", "10-25T00:30", "10-26T01:30", "10-27T01:30"],
        "02:30 exists twice on the 25th: it runs at the first"
    );
}

#[test]
fn an_hourly_job_goes_on_through_gap_and_fold() {
    let v = view(Some("15 * * * *"), None, "Europe/Berlin");
    let spring = runs(&v, "2026-03-28T23:30:00Z", "2026-03-29T03:30:00Z", 60);
    assert_eq!(
        spring,
        ["03-29T00:15", "03-29T01:15", "03-29T02:15", "03-29T03:15"]
    );
    let autumn = runs(&v, "2026-10-24T23:30:00Z", "2026-10-25T03:30:00Z", 60);
    assert_eq!(
        autumn,
        ["10-25T00:15", "10-25T01:15", "10-25T02:15", "10-25T03:15"]
    );
}

#[test]
fn a_clock_that_jumps_loses_no_job_and_repeats_none() {
    let v = view(Some("0 3 * * *"), Some(300), "UTC");
    let views = std::slice::from_ref(&v);
    let mut begun = at("2026-05-10T00:00:00Z");
    let mut last = BTreeMap::from([
        (("v".to_owned(), Job::Rebuild), at("2026-05-10T03:00:00Z")),
        (("v".to_owned(), Job::Refresh), at("2026-05-10T12:00:00Z")),
    ]);
    // Set back by a month: nothing runs at once, and both run at their next times.
    let now = at("2026-04-10T12:00:01Z");
    forget_future(&mut last, &mut begun, now);
    assert_eq!(due(views, &last, begun, now), vec![]);
    let later = at("2026-04-10T12:05:01Z");
    forget_future(&mut last, &mut begun, later);
    assert_eq!(due(views, &last, begun, later), vec![(0, Job::Refresh)]);
    last.insert(("v".to_owned(), Job::Refresh), later);
    let night = at("2026-04-11T03:00:00Z");
    forget_future(&mut last, &mut begun, night);
    assert!(due(views, &last, begun, night).contains(&(0, Job::Rebuild)));
    // Set forward by a year: each runs once.
    let year = at("2027-04-11T12:00:00Z");
    let jobs = due(views, &last, begun, year);
    assert_eq!(jobs, vec![(0, Job::Rebuild), (0, Job::Refresh)]);
    for (_, job) in jobs {
        last.insert(("v".to_owned(), job), year);
    }
    let next = at("2027-04-11T12:01:00Z");
    assert_eq!(due(views, &last, begun, next), vec![]);
}

#[test]
fn a_night_missed_is_one_night_caught_up() {
    let v = view(Some("0 3 * * *"), None, "Europe/Berlin");
    let mut last = BTreeMap::new();
    last.insert(("v".to_owned(), Job::Rebuild), at("2026-01-10T02:00:00Z"));
    let views = std::slice::from_ref(&v);
    let begun = at("2026-01-14T09:00:00Z");
    assert_eq!(due(views, &last, begun, begun), vec![(0, Job::Rebuild)]);
    last.insert(("v".to_owned(), Job::Rebuild), begun);
    assert!(due(views, &last, begun, at("2026-01-15T01:59:59Z")).is_empty());
    assert_eq!(
        due(views, &last, begun, at("2026-01-15T02:00:00Z")).len(),
        1
    );
}

const PROJECT: &str = r#"
[topics.facts]
event_time = "ts"
[topics.facts.fields]
ts = "timestamp not null"
n = "bigint"
[views.v]
sql = "v.sql"
rebuild_cron = "0 3 * * *"
refresh_every = "1h"
"#;

async fn project(dir: &std::path::Path, sql: &str) -> Context {
    std::fs::write(dir.join("anabranch.toml"), PROJECT).unwrap();
    std::fs::write(dir.join("v.sql"), sql).unwrap();
    let context = Context::open(dir).await.unwrap();
    let facts = dir.join("f.ndjson");
    std::fs::write(&facts, "{\"ts\":\"2026-01-01T00:00:00Z\",\"n\":5}\n").unwrap();
    let args = crate::commands::ingest::IngestArgs {
        topic: "facts".into(),
        files: vec![facts.display().to_string()],
        input_format: None,
        id: None,
        again: false,
        allow_dead_letters: false,
        separator: None,
        strict: false,
    };
    crate::commands::ingest::ingest(&context, &args, false)
        .await
        .unwrap();
    context
}

fn jobs(ends: &[JobEnd]) -> Vec<(Job, bool)> {
    ends.iter().map(|e| (e.job, e.outcome.is_ok())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_job_keeps_the_view_and_is_tried_again_at_its_next_time() {
    let dir = tempfile::tempdir().unwrap();
    let sql = "SELECT n, sum(10 / (n - 5)) AS s FROM facts GROUP BY n";
    let context = project(dir.path(), sql).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut scheduler = Scheduler::new(context.clone(), at("2026-01-10T12:00:00Z")).await;
    // What never ran is due at once, not an interval after each start.
    let first = scheduler.tick(at("2026-01-10T12:30:00Z"), &stop).await;
    assert_eq!(jobs(&first), [(Job::Refresh, false)]);
    // Two days late: one rebuild and one refresh, not two of the one and forty-eight of the other.
    let late = scheduler.tick(at("2026-01-12T12:30:00Z"), &stop).await;
    assert_eq!(jobs(&late), [(Job::Rebuild, false), (Job::Refresh, false)]);
    assert!(
        scheduler
            .tick(at("2026-01-12T12:31:00Z"), &stop)
            .await
            .is_empty()
    );
    let again = scheduler.tick(at("2026-01-12T13:31:00Z"), &stop).await;
    assert_eq!(jobs(&again), [(Job::Refresh, false)]);
    let states = crate::work::job_states::states(&context, crate::clock::now())
        .await
        .unwrap();
    let refresh = states.iter().find(|s| s.job == "refresh").unwrap();
    let last = refresh.last.clone().unwrap();
    assert_eq!(
        (last.outcome.as_str(), last.trigger.as_str()),
        ("failed", "schedule")
    );
    assert!(last.error.unwrap().contains("partition 0"));
}

/// A rebuild makes whole what answers; an edit takes its place by `apply` alone.
#[tokio::test(flavor = "multi_thread")]
async fn an_edit_waits_for_apply() {
    let dir = tempfile::tempdir().unwrap();
    let sql = "SELECT n, count(*) AS c FROM facts GROUP BY n";
    let context = project(dir.path(), sql).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut scheduler = Scheduler::new(context.clone(), at("2026-01-10T12:00:00Z")).await;
    let edited = "SELECT n, count(*) AS c, max(ts) AS last FROM facts GROUP BY n";
    std::fs::write(dir.path().join("v.sql"), edited).unwrap();
    let ends = scheduler.tick(at("2026-01-11T12:00:00Z"), &stop).await;
    assert_eq!(jobs(&ends), [(Job::Rebuild, true), (Job::Refresh, true)]);
    let live = || {
        let entry = context.catalogue.current();
        entry.views["v"]
            .live
            .as_ref()
            .unwrap()
            .definition
            .sql
            .clone()
    };
    context.catalogue.refresh().await.unwrap();
    assert_eq!(live(), sql);
    assert!(context.catalogue.current().views["v"].came.is_none());
    // While the project can't be read there is no rebuild, and refreshes go on.
    std::fs::write(dir.path().join("anabranch.toml"), "[views").unwrap();
    let ends = scheduler.tick(at("2026-01-12T12:00:00Z"), &stop).await;
    assert_eq!(jobs(&ends), [(Job::Refresh, true)]);
}

/// Of two schedulers of one storage each job is run by one, whether they look at the same moment or
/// one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_schedulers_one_runs_each_job() {
    let dir = tempfile::tempdir().unwrap();
    let sql = "SELECT n, count(*) AS c FROM facts GROUP BY n";
    let context = project(dir.path(), sql).await;
    let other = Context::open(dir.path()).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let begun = at("2026-01-10T12:00:00Z");
    let mut one = Scheduler::new(context.clone(), begun).await;
    let mut two = Scheduler::new(other, begun).await;
    for hour in ["2026-01-11T12:00:00Z", "2026-01-12T12:00:00Z"] {
        let (by_one, by_two) = tokio::join!(one.tick(at(hour), &stop), two.tick(at(hour), &stop));
        // What one left to the other is done by now.
        let later = at(hour) + TimeDelta::minutes(1);
        let again = [one.tick(later, &stop).await, two.tick(later, &stop).await].concat();
        let mut all = jobs(&[by_one, by_two, again].concat());
        all.sort_unstable();
        assert_eq!(all, [(Job::Rebuild, true), (Job::Refresh, true)], "{hour}");
    }
    let mut history = LastRows::default();
    history.follow(&context.storage).await.unwrap();
    assert_eq!(last_times(&history).len(), 2);
}
