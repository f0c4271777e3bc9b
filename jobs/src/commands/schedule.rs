//! `anabranch schedule`: runs the project's jobs at their times. What is due is decided purely;
//! this file's loop only looks at the clock.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anabranch_shared::settings::ViewSettings;
use anabranch_shared::{FoldProgress, Result};
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::Cron;

use crate::builds::{Build, build_view};
use crate::commands::verify::verify_view;
use crate::context::Context;

/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(500);

/// What a schedule does to a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    /// A rebuild comes before a refresh that is due at the same time: it makes it short.
    Rebuild,
    /// Absorbs new facts.
    Refresh,
    /// Checks the law.
    Verify,
}

impl Job {
    /// The job's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rebuild => "rebuild",
            Self::Refresh => "refresh",
            Self::Verify => "verify",
        }
    }
}

/// The first time after `last` at which a job of a view is due; `None` if it has no schedule.
pub fn next_time(view: &ViewSettings, job: Job, last: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let cron = match job {
        Job::Refresh => {
            return last.checked_add_signed(TimeDelta::from_std(view.refresh_every?).ok()?);
        }
        Job::Rebuild => view.rebuild_cron.as_ref()?,
        Job::Verify => view.verify_cron.as_ref()?,
    };
    let zone = Tz::from_str(&view.timezone).ok()?;
    let next = Cron::from_str(cron)
        .ok()?
        .find_next_occurrence(&last.with_timezone(&zone), false);
    next.ok().map(|at| at.with_timezone(&Utc))
}

/// The jobs that are due at `now`, in order. Times that were missed make one run.
pub fn due(
    views: &[ViewSettings],
    last: &BTreeMap<(String, Job), DateTime<Utc>>,
    begun: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Vec<(usize, Job)> {
    let mut due = Vec::new();
    for (index, view) in views.iter().enumerate() {
        for job in [Job::Rebuild, Job::Refresh, Job::Verify] {
            let last = last
                .get(&(view.name.clone(), job))
                .copied()
                .unwrap_or(begun);
            if next_time(view, job, last).is_some_and(|at| at <= now) {
                due.push((index, job));
            }
        }
    }
    due
}

/// Brings times that lie after `now` back to it: the clock was set back. Otherwise a job would wait until the clock has
/// come to where it was; so it runs at its next time from `now` on.
pub fn forget_future(
    last: &mut BTreeMap<(String, Job), DateTime<Utc>>,
    begun: &mut DateTime<Utc>,
    now: DateTime<Utc>,
) {
    *begun = now.min(*begun);
    last.values_mut().for_each(|at| *at = now.min(*at));
}

/// Runs jobs until told to stop. Jobs run one after another, so those of one view never overlap.
pub async fn run(context: Context, stop: Arc<AtomicBool>) {
    let mut begun = Utc::now();
    let mut last = match last_times(&context).await {
        Ok(last) => last,
        Err(e) => {
            tracing::warn!(error = %e, "can't read the history of jobs; times that were missed are not caught up");
            BTreeMap::new()
        }
    };
    while !stop.load(Ordering::Relaxed) {
        let views = &context.project.views;
        let now = Utc::now();
        forget_future(&mut last, &mut begun, now);
        for (index, job) in due(views, &last, begun, now) {
            let started = Utc::now();
            let Some(view) = views.get(index) else {
                continue;
            };
            match run_job(&context, view, job, &stop).await {
                Ok(summary) => tracing::info!(view = %view.name, job = job.name(), "{summary}"),
                Err(e) => {
                    tracing::error!(view = %view.name, job = job.name(), error = %e, "job failed; the live view stays, and the job is tried again at its next time");
                }
            }
            last.insert((view.name.clone(), job), started);
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
        tokio::time::sleep(TICK).await;
    }
}

async fn run_job(
    context: &Context,
    view: &ViewSettings,
    job: Job,
    stop: &Arc<AtomicBool>,
) -> Result<String> {
    let progress = Arc::new(FoldProgress::default());
    let build = match job {
        Job::Rebuild => Build::Rebuild,
        Job::Refresh => Build::Refresh,
        Job::Verify => {
            let report = verify_view(context, &view.name, "schedule").await?;
            return Ok(format!(
                "{} rows compared, {} differ",
                report.rows, report.differences
            ));
        }
    };
    let report = build_view(context, view, build, "schedule", stop, &progress).await?;
    Ok(format!(
        "{} facts, {} states, boundary [{}]",
        report.outcome.facts, report.outcome.states, report.outcome.boundary
    ))
}

/// When each job last began, from the history.
pub async fn last_times(context: &Context) -> Result<BTreeMap<(String, Job), DateTime<Utc>>> {
    let service = crate::commands::query::local_service(context)?;
    let sql =
        "SELECT view, job, CAST(max(started_at) AS BIGINT) AS at FROM jobs GROUP BY view, job";
    let (_, batches) = service
        .collect(sql, anabranch_shared::ReadMode::Merged)
        .await?;
    let mut last = BTreeMap::new();
    for batch in &batches {
        let text = |i: usize, row| {
            arrow::util::display::array_value_to_string(batch.column(i), row).unwrap_or_default()
        };
        for row in 0..batch.num_rows() {
            let job = match text(1, row).as_str() {
                "rebuild" => Job::Rebuild,
                "refresh" => Job::Refresh,
                _ => Job::Verify,
            };
            let at = text(2, row)
                .parse()
                .ok()
                .and_then(DateTime::from_timestamp_micros);
            if let Some(at) = at {
                last.insert((text(0, row), job), at);
            }
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

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
}
