//! `anabranch schedule`: runs the project's jobs at their times. What is due is decided purely;
//! this file's loop only looks at the clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anabranch_shared::settings::{Project, ViewSettings};
use anabranch_shared::{Error, FoldProgress, Result, counted};
use anabranch_speed::Daemon;
use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;

use crate::clock::now;
use crate::project::context::Context;
use crate::project::job_history::LastRows;
use crate::tasks::{Tasks, flag_of};
use crate::work::build::{Build, build_view};
use crate::work::job_states::last_times;
use crate::work::refresh_requests::{self, Running};
use crate::work::schedule_times::{Job, due, forget_future};
use crate::work::schedulers::{Claims, Scheduling};
use crate::work::verify::Part;
use crate::work::verify_view;

/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(500);

/// How often it is looked how views are run.
const LOOK_EVERY: TimeDelta = TimeDelta::seconds(5);

/// Runs jobs until told to stop, and beside them the refreshes that daemons ask for: the one of
/// this process, if it has one, and others.
///
/// # Errors
/// `Internal` where one of its tasks ended before.
pub async fn run(
    context: Context,
    daemon: Option<Arc<Daemon>>,
    stop: CancellationToken,
) -> Result<()> {
    let stop = stop.child_token();
    let tasks = Tasks::new(stop.clone());
    let running = Running::default();
    let (storage, own) = (context.storage.clone(), stop.clone());
    tasks.spawn("presence of the scheduler", async move {
        Scheduling::new(&storage).keep(storage, own).await;
        Ok(())
    });
    let asked = refresh_requests::run(context.clone(), daemon, running.clone(), stop.clone());
    tasks.spawn("refreshes that are asked for", async move {
        asked.await;
        Ok(())
    });
    tasks.spawn("schedule", async move {
        let flag = flag_of(&stop);
        let mut scheduler = Scheduler::new(context, now()).await;
        scheduler.running = running;
        while !stop.is_cancelled() {
            scheduler.tick(now(), &flag).await;
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
        Ok(())
    });
    tasks.join().await;
    tasks.failure().map_or(Ok(()), Err)
}

/// How a job that a scheduler ran ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobEnd {
    /// The view.
    pub view: String,
    /// The job.
    pub job: Job,
    /// What it came to, or why it failed.
    pub outcome: std::result::Result<String, String>,
}

/// Runs jobs one after another, so that those of one view never overlap.
#[derive(Debug)]
pub struct Scheduler {
    context: Context,
    /// When each job last began, by the clock that is given.
    last: BTreeMap<(String, Job), DateTime<Utc>>,
    begun: DateTime<Utc>,
    /// Why the project can't be read any more.
    unreadable: Option<String>,
    /// The jobs that run.
    running: Running,
    /// The jobs that have run, whoever ran them.
    history: LastRows,
    /// When each job last began, by the history, as far as this scheduler took it into account.
    known: BTreeMap<(String, Job), DateTime<Utc>>,
    claims: Claims,
    /// When it last looked how views are run.
    looked: DateTime<Utc>,
}

impl Scheduler {
    /// A scheduler that begins at `now`, and catches up on what the history of jobs says it missed.
    pub async fn new(context: Context, now: DateTime<Utc>) -> Self {
        let mut history = LastRows::default();
        if let Err(e) = history.follow(&context.storage).await {
            tracing::warn!(error = %e, "can't read the history of jobs; times that were missed are not caught up");
        }
        let last = last_times(&history);
        Self {
            claims: Claims::new(&context.storage),
            context,
            known: last.clone(),
            last,
            begun: now,
            looked: now,
            unreadable: None,
            running: Running::default(),
            history,
        }
    }

    /// Looks whether another scheduler, or a person, has begun a job since this one last knew.
    async fn follow_history(&mut self, now: DateTime<Utc>) {
        if let Err(e) = self.history.follow(&self.context.storage).await {
            tracing::warn!(error = %e, "can't read the history of jobs; one that another scheduler ran may run again");
        }
        for (key, at) in last_times(&self.history) {
            if self
                .known
                .insert(key.clone(), at)
                .is_none_or(|known| known < at)
            {
                self.last.insert(key, now.min(at));
            }
        }
    }

    /// Notes in which row of the history a job of this scheduler stands.
    async fn note_own(&mut self) {
        // What can't be read now is taken for another's run then, which does no harm.
        if self.history.follow(&self.context.storage).await.is_ok() {
            self.known = last_times(&self.history);
        }
    }

    /// Runs what is due at `now`.
    pub async fn tick(&mut self, now: DateTime<Utc>, stop: &Arc<AtomicBool>) -> Vec<JobEnd> {
        self.reload().await;
        self.look(now).await;
        forget_future(&mut self.last, &mut self.begun, now);
        let context = self.context.clone();
        let views = context.views_that_run();
        let mut ends = Vec::new();
        for (index, job) in due(&views, &self.last, self.begun, now) {
            let Some(view) = views.get(index).filter(|_| !stop.load(Ordering::Relaxed)) else {
                break;
            };
            // What a rebuild is to be of may be gone from the project.
            if job == Job::Rebuild && self.unreadable.is_some() {
                continue;
            }
            let _running = self.running.wait(&view.name).await;
            // Taken out, because what follows changes the rest of the scheduler.
            let mut claims = std::mem::replace(&mut self.claims, Claims::new(&context.storage));
            let outcome = match claims.claim(&view.name).await {
                Ok(None) => None,
                Ok(Some(mut claim)) => {
                    self.follow_history(now).await;
                    let one = std::slice::from_ref(view);
                    let still = due(one, &self.last, self.begun, now);
                    let outcome = match still.iter().any(|(_, still)| *still == job) {
                        true => {
                            // A build's future is large, and this one holds it.
                            let work = Box::pin(run_job(&context, view, job, stop));
                            Some(claim.run(work).await)
                        }
                        false => None,
                    };
                    if outcome.is_some() {
                        self.note_own().await;
                    }
                    claim.release().await;
                    outcome
                }
                Err(e) => Some(Err(e)),
            };
            self.claims = claims;
            // Another scheduler runs it, or has run it since it became due.
            let Some(outcome) = outcome else {
                continue;
            };
            match &outcome {
                // What it came to is told where it is known whether anything happened.
                Ok(_) => {}
                Err(e) if stop.load(Ordering::Relaxed) => {
                    tracing::info!(view = %view.name, job = job.name(), "{e}");
                }
                Err(e) => {
                    tracing::error!(view = %view.name, job = job.name(), error = %e, "job failed; the live view stays, and the job is tried again at its next time");
                }
            }
            self.last.insert((view.name.clone(), job), now);
            ends.push(JobEnd {
                view: view.name.clone(),
                job,
                outcome: outcome.map_err(|e| e.to_string()),
            });
        }
        ends
    }

    /// Looks how views are run by now: whoever applies an edit of that may sit elsewhere.
    async fn look(&mut self, now: DateTime<Utc>) {
        let since = now.signed_duration_since(self.looked).abs();
        if since < LOOK_EVERY {
            return;
        }
        self.looked = now;
        if let Err(e) = self.context.catalogue.refresh().await {
            tracing::warn!(error = %e, "can't read the catalogue; jobs go on as they were last known");
        }
    }

    /// Follows edits of the project: a rebuild by its former text would undo a cut-over.
    async fn reload(&mut self) {
        let dir = self.context.project.dir.clone();
        let loaded = match Project::load(&dir) {
            Ok(project) if project == *self.context.project => Ok(None),
            Ok(_) => Context::open(&dir).await.map(Some),
            Err(e) => Err(e.into()),
        };
        match loaded {
            Ok(None) => self.unreadable = None,
            Ok(Some(context)) => {
                tracing::info!(
                    "the project was edited; what it says of views that answer waits for `anabranch apply`"
                );
                self.context = context;
                self.unreadable = None;
            }
            Err(e) => {
                let why = e.to_string();
                if self.unreadable.as_ref() != Some(&why) {
                    tracing::error!(error = %why, "the project can't be read any more; no rebuilds until it can, refreshes go on");
                    self.unreadable = Some(why);
                }
            }
        }
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
            let options = verify_view::options(context, Part::Whole, stop);
            let verified =
                verify_view::verify_view_with(context, &view.name, "schedule", &options).await?;
            let compared = verified.comparison;
            let summary = compared.summary("");
            return match compared.is_equal() {
                true => {
                    tracing::info!(view = %view.name, job = job.name(), "{summary}");
                    Ok(summary)
                }
                false => Err(Error::Corrupt(format!(
                    "{summary}; run `anabranch verify {name}`, then `anabranch batch rebuild {name}`",
                    name = view.name
                ))),
            };
        }
    };
    let report = build_view(context, view, build, "schedule", stop, &progress).await?;
    let outcome = &report.outcome;
    let summary = format!(
        "{}, {}, boundary [{}]",
        counted(outcome.facts, "fact", "facts"),
        counted(outcome.states, "state", "states"),
        outcome.boundary
    );
    match outcome.facts {
        0 => tracing::debug!(view = %view.name, job = job.name(), "{summary}"),
        _ => tracing::info!(view = %view.name, job = job.name(), "{summary}"),
    }
    Ok(summary)
}

#[cfg(test)]
mod tests;
