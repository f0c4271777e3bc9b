//! How each job last ended and when it is next due.

use std::collections::BTreeMap;

use anabranch_shared::settings::ViewSettings;
use anabranch_shared::{ReadMode, Result};
use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::project::context::Context;
use crate::reader::local_service::local_service;
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

/// The last runs of all jobs, from the history.
pub async fn last_runs(context: &Context) -> Result<BTreeMap<(String, Job), LastRun>> {
    last_runs_where(context, "true").await
}

/// When each job last began that was not stopped by its user: one that was is caught up.
pub async fn last_times(context: &Context) -> Result<BTreeMap<(String, Job), DateTime<Utc>>> {
    let runs = last_runs_where(context, "outcome <> 'stopped'").await?;
    let time = |(key, run): ((String, Job), LastRun)| (key, run.started_at);
    Ok(runs.into_iter().map(time).collect())
}

async fn last_runs_where(
    context: &Context,
    filter: &str,
) -> Result<BTreeMap<(String, Job), LastRun>> {
    let last = |column: &str| format!("last_value({column} ORDER BY started_at) AS {column}");
    let columns = ["started_at", "ended_at", "trigger", "outcome", "error"].map(last);
    let sql = format!(
        "SELECT view, job, {} FROM jobs WHERE {filter} GROUP BY view, job",
        columns.join(", ")
    );
    let service = local_service(context)?;
    let (_, batches) = service.collect(&sql, ReadMode::Merged).await?;
    let mut runs = BTreeMap::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let text = |i: usize| -> Result<Option<String>> {
                let column = cast(batch.column(i), &DataType::Utf8)?;
                let column = column.as_string::<i32>();
                Ok(column.iter().nth(row).flatten().map(str::to_owned))
            };
            let time = |i: usize| -> Result<i64> {
                let column = cast(batch.column(i), &DataType::Int64)?;
                Ok(column.as_primitive::<Int64Type>().value(row))
            };
            let (Some(view), Some(job)) = (text(0)?, text(1)?) else {
                continue;
            };
            let (started, ended) = (time(2)?, time(3)?);
            let Some(job) = Job::ALL.into_iter().find(|j| j.name() == job) else {
                continue;
            };
            let run = LastRun {
                started_at: DateTime::from_timestamp_micros(started).unwrap_or_default(),
                seconds: (ended - started) as f64 / 1e6,
                trigger: text(4)?.unwrap_or_default(),
                outcome: text(5)?.unwrap_or_default(),
                error: text(6)?,
            };
            runs.insert((view, job), run);
        }
    }
    Ok(runs)
}

/// All jobs that have a schedule or have run, of the project's views.
pub async fn states(context: &Context, now: DateTime<Utc>) -> Result<Vec<JobState>> {
    let (runs, times) = (last_runs(context).await?, last_times(context).await?);
    let mut states = Vec::new();
    for view in &context.project.views {
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
pub(crate) async fn last_failures(context: &Context) -> Result<Vec<FailedJob>> {
    let views = &context.project.views;
    let runs = last_runs(context).await?.into_iter();
    let known = runs.filter(|((view, _), _)| views.iter().any(|v| v.name == *view));
    let state = |((view, job), last): ((String, Job), LastRun)| JobState {
        view,
        job: job.name(),
        schedule: None,
        last: Some(last),
        next_at: None,
        due: false,
    };
    Ok(failed_jobs(&known.map(state).collect::<Vec<_>>()))
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
            differs: job.job == "verify" && why.contains(" rows differ, of "),
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

/// That nobody runs the jobs that have a schedule, or that several do.
pub async fn scheduler_note(context: &Context) -> Result<Option<String>> {
    let views = context.project.views.iter();
    let scheduled = |v: &ViewSettings| Job::ALL.iter().any(|job| schedule_text(v, *job).is_some());
    if !views.into_iter().any(scheduled) {
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
                "{} schedulers run, and each of them runs every job: {}; stop all but one",
                several.len(),
                places.join(", ")
            ))
        }
    })
}
