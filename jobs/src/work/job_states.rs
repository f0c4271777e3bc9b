//! How each job last ended and when it is next due.

use std::collections::BTreeMap;

use anabranch_shared::Result;
use anabranch_shared::settings::ViewSettings;
use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::project::context::Context;
use crate::project::job_history::{LastRow, LastRows};
use crate::work::schedule_times::{Job, next_time};
use crate::work::schedulers::{self, Scheduling};

/// How a job of a view last ended.
#[derive(Clone, Debug, Serialize)]
pub struct LastRun {
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// How long it took.
    pub seconds: f64,
    /// What started it: `command`, `schedule`, or `asked for by the daemon` with the reason.
    pub trigger: String,
    /// `done`, `failed`, or `stopped` by its user.
    pub outcome: String,
    /// Why it failed.
    pub error: Option<String>,
}

/// A job of a view.
#[derive(Clone, Debug, Serialize)]
pub struct JobState {
    /// The view.
    pub view: String,
    /// `rebuild`, `refresh` or `verify`.
    pub job: &'static str,
    /// Its schedule as the project says; none where it runs only by command.
    pub schedule: Option<String>,
    /// How it last ended; none where it never ran.
    pub last: Option<LastRun>,
    /// When it is next due: a running scheduler starts it then, or at once where that has passed.
    /// None where it has no schedule, and for an interval that nothing began: that is due.
    pub next_at: Option<DateTime<Utc>>,
    /// Whether that time has passed.
    pub due: bool,
}

/// A job by the names that the history has.
fn job_of((view, job): &(String, String)) -> Option<(String, Job)> {
    let job = Job::ALL.into_iter().find(|j| j.name() == job)?;
    Some((view.clone(), job))
}

/// The last runs of all jobs, by the history.
fn last_runs(history: &LastRows) -> BTreeMap<(String, Job), LastRun> {
    let time = |us: i64| DateTime::from_timestamp_micros(us).unwrap_or_default();
    let run = |(key, row): (&(String, String), &LastRow)| {
        let run = LastRun {
            started_at: time(row.started_at),
            seconds: (row.ended_at - row.started_at) as f64 / 1e6,
            trigger: row.trigger.clone(),
            outcome: row.outcome.clone(),
            error: row.error.clone(),
        };
        Some((job_of(key)?, run))
    };
    history.rows().iter().filter_map(run).collect()
}

/// When each job last began that was not stopped by its user, by the history: one that was is
/// caught up.
pub(crate) fn last_times(history: &LastRows) -> BTreeMap<(String, Job), DateTime<Utc>> {
    let time = |(key, at): (&(String, String), &i64)| {
        Some((job_of(key)?, DateTime::from_timestamp_micros(*at)?))
    };
    history.begun().iter().filter_map(time).collect()
}

/// All jobs that have a schedule or have run, of the project's views.
pub async fn states(context: &Context, now: DateTime<Utc>) -> Result<Vec<JobState>> {
    let mut history = LastRows::default();
    history.follow(&context.storage).await?;
    let (runs, times) = (last_runs(&history), last_times(&history));
    let mut states = Vec::new();
    for view in &context.views_that_run() {
        for job in Job::ALL {
            let key = (view.name.clone(), job);
            let last = runs.get(&key).cloned();
            // A clock that was set back makes no job wait until it is where it was.
            let from = times.get(&key).map(|at| now.min(*at));
            // An interval that nothing began is due as soon as a scheduler runs.
            let never = from.is_none() && job == Job::Refresh && view.refresh_every.is_some();
            let next_at = next_time(view, job, from.unwrap_or(now)).filter(|_| !never);
            let schedule = schedule_text(view, job);
            if schedule.is_some() || last.is_some() {
                states.push(JobState {
                    view: view.name.clone(),
                    job: job.name(),
                    schedule,
                    last,
                    next_at,
                    due: never || next_at.is_some_and(|at| at <= now),
                });
            }
        }
    }
    Ok(states)
}

/// A job that failed when it last ran, and that nothing has made up for since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FailedJob {
    pub(crate) view: String,
    pub(crate) job: &'static str,
    /// Whether it is a verification that found a difference.
    pub(crate) differs: bool,
    /// For people: what failed, when and why.
    pub(crate) text: String,
}

/// The jobs of the project's views that failed when they last ran, from the history.
pub(crate) fn last_failures(context: &Context, history: &LastRows) -> Vec<FailedJob> {
    let views = context.views_that_run();
    let runs = last_runs(history).into_iter();
    let known = runs.filter(|((view, _), _)| views.iter().any(|v| v.name == *view));
    let state = |((view, job), last): ((String, Job), LastRun)| JobState {
        view,
        job: job.name(),
        schedule: None,
        last: Some(last),
        next_at: None,
        due: false,
    };
    failed_jobs(&known.map(state).collect::<Vec<_>>())
}

/// The jobs that failed when they last ran.
pub(crate) fn failed_jobs(jobs: &[JobState]) -> Vec<FailedJob> {
    let mut failed = Vec::new();
    for job in jobs {
        let Some(last) = job.last.as_ref().filter(|l| l.outcome == "failed") else {
            continue;
        };
        // A build that went well since then has made up for it.
        let builds = jobs
            .iter()
            .filter(|j| j.view == job.view && j.job != "verify");
        let mut later = builds.filter_map(|j| j.last.as_ref());
        let made_up = later.any(|l| l.outcome == "done" && l.started_at > last.started_at);
        if job.job != "verify" && made_up {
            continue;
        }
        let why = last.error.as_deref().unwrap_or("no reason is known");
        let at = last.started_at.format("%Y-%m-%d %H:%M:%S UTC");
        failed.push(FailedJob {
            view: job.view.clone(),
            job: job.job,
            differs: job.job == "verify"
                && [" rows differ, of ", " row differs, of "]
                    .iter()
                    .any(|says| why.contains(says)),
            text: format!("{} of view `{}` failed at {at}: {why}", job.job, job.view),
        });
    }
    failed
}

fn schedule_text(view: &ViewSettings, job: Job) -> Option<String> {
    let cron = match job {
        Job::Refresh => {
            let every = view.refresh_every?;
            return Some(format!("every {}", humantime::format_duration(every)));
        }
        Job::Rebuild => view.rebuild_cron.as_ref()?,
        Job::Verify => view.verify_cron.as_ref()?,
    };
    Some(format!("{cron} {}", view.timezone))
}

/// Whether a scheduler runs, so that jobs begin when they are due.
///
/// # Errors
/// `Unavailable` where the storage does not answer.
pub async fn is_scheduled(context: &Context) -> Result<bool> {
    Ok(!schedulers::running(&context.storage).await?.is_empty())
}

/// That nobody runs the jobs that have a schedule, or that several do.
pub async fn scheduler_note(context: &Context) -> Result<Option<String>> {
    let views = context.views_that_run();
    let scheduled = |v: &ViewSettings| Job::ALL.iter().any(|job| schedule_text(v, *job).is_some());
    if !views.iter().any(scheduled) {
        return Ok(None);
    }
    let running = schedulers::running(&context.storage).await?;
    Ok(match running.as_slice() {
        [] => Some(
            "no scheduler runs, so jobs wait for it: run `anabranch up`, or `anabranch schedule` beside a daemon".to_owned(),
        ),
        [_] => None,
        several => {
            let places: Vec<String> = several.iter().map(Scheduling::place).collect();
            Some(format!(
                "{} schedulers run, and each job runs once, by whichever of them is first: {}",
                several.len(),
                places.join(", ")
            ))
        }
    })
}
