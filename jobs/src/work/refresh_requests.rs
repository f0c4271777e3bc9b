//! Refreshes that daemons ask for, because the deltas of views take too much of their memory or
//! disk. A daemon whose process runs the schedule hands them over there; any other one puts them
//! into an object of the storage, in which whoever runs the schedule looks for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anabranch_shared::{Error, FoldProgress, Result, Storage, counted, layout};
use anabranch_speed::{Daemon, Wanted};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use crate::clock::now_ms;
use crate::project::context::Context;
use crate::reader::daemon_status::why_asked;
use crate::tasks::flag_of;
use crate::work::build::{Build, build_view};
use crate::work::schedulers::Claims;

/// How often a daemon looks at its deltas, and a schedule at the daemon of its process.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often a schedule looks into the storage.
const READ_EVERY: Duration = Duration::from_secs(10);

/// How often a daemon asks again for what it still wants: whoever ran it may have been too early.
const ASK_AGAIN: Duration = Duration::from_secs(15);

/// How long a view is left alone after a refresh: its daemon has to follow it first.
const AFTER_REFRESH: Duration = Duration::from_secs(5);

/// How long it is left alone after a refresh that failed; doubled each time.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// A refresh that a daemon asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Bytes of the view's delta; 0 where the daemon had no room for it.
    pub bytes: u64,
    /// When it was asked for, in milliseconds since 1970.
    pub asked_at_ms: i64,
}

/// The refreshes that are asked for, by view.
type AskedViews = BTreeMap<String, Asked>;

/// The jobs that run, so that two of one view never do.
#[derive(Clone, Debug, Default)]
pub struct Running {
    views: Arc<parking_lot::Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Running {
    fn of(&self, view: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut views = self.views.lock();
        views.entry(view.to_owned()).or_default().clone()
    }

    /// Waits until no job of a view runs; none does until the answer is dropped.
    pub async fn wait(&self, view: &str) -> OwnedMutexGuard<()> {
        self.of(view).lock_owned().await
    }

    /// As [`Running::wait`], or nothing where a job runs.
    fn begin(&self, view: &str) -> Option<OwnedMutexGuard<()>> {
        self.of(view).try_lock_owned().ok()
    }
}

async fn read(storage: &Storage) -> Result<AskedViews> {
    let body = storage.get(&Path::from(layout::ASKED)).await?;
    // What another version has written is none of ours.
    let read = body.and_then(|body| serde_json::from_slice(&body).ok());
    Ok(read.unwrap_or_default())
}

/// Changes what is asked for. Two that do so at once may undo each other: a daemon asks again, and
/// a refresh too many does no harm.
async fn change(storage: &Storage, change: impl FnOnce(&mut AskedViews)) -> Result<()> {
    let before = read(storage).await?;
    let mut after = before.clone();
    change(&mut after);
    if after == before {
        return Ok(());
    }
    let path = Path::from(layout::ASKED);
    if after.is_empty() {
        return storage.delete(&path).await;
    }
    let body = serde_json::to_vec(&after).map_err(|e| Error::Internal(e.to_string()))?;
    storage.put(&path, body).await
}

/// Keeps what a daemon asks for in the storage, where nobody in its process runs the schedule.
/// Until this is aborted.
pub async fn tell(context: Context, daemon: Arc<Daemon>) {
    let mut told: BTreeMap<String, Wanted> = BTreeMap::new();
    let mut told_at = Instant::now();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let wanted = daemon.wanted();
        let again = told_at.elapsed() >= ASK_AGAIN;
        let boundary = |views: &BTreeMap<String, Wanted>, name: &str| {
            views.get(name).map(|w| w.boundary.clone())
        };
        let new = |name: &str| again || boundary(&told, name) != boundary(&wanted, name);
        let added: AskedViews = wanted
            .iter()
            .filter(|(name, _)| new(name))
            .map(|(name, w)| {
                let (bytes, asked_at_ms) = (w.bytes, now_ms());
                (name.clone(), Asked { bytes, asked_at_ms })
            })
            .collect();
        let gone: Vec<String> = told
            .keys()
            .filter(|n| !wanted.contains_key(*n))
            .cloned()
            .collect();
        if added.is_empty() && gone.is_empty() {
            continue;
        }
        for (view, asked) in added.iter().filter(|(view, _)| !told.contains_key(*view)) {
            let why = why_asked(asked.bytes);
            tracing::warn!(%view, "a refresh is {why}; run `anabranch batch refresh {view}`");
        }
        let changed = change(&context.storage, |views| {
            views.retain(|view, _| !gone.contains(view));
            for (view, asked) in added {
                if !again || !views.contains_key(&view) {
                    views.insert(view, asked);
                }
            }
        });
        match changed.await {
            Ok(()) => (told, told_at) = (wanted, Instant::now()),
            Err(e) => tracing::warn!(error = %e, "could not ask for a refresh; it is tried again"),
        }
    }
}

/// How long a view is left alone.
#[derive(Clone, Copy, Debug)]
struct Pause {
    until: Instant,
    /// How long the pause after a failure was; nothing after a success.
    failed: Option<Duration>,
}

impl Pause {
    /// The pause after a refresh that ended at `now`.
    fn after(before: Option<Self>, succeeded: bool, now: Instant) -> Self {
        let failed = before.and_then(|b| b.failed);
        match succeeded {
            true => Self {
                until: now + AFTER_REFRESH,
                failed: None,
            },
            false => {
                let pause = failed.map_or(AFTER_FAILURE, |f| (f * 2).min(LONGEST_PAUSE));
                Self {
                    until: now + pause,
                    failed: Some(pause),
                }
            }
        }
    }
}

/// Runs what is asked for.
struct Runner {
    context: Context,
    running: Running,
    pauses: BTreeMap<String, Pause>,
    claims: Claims,
}

/// Runs the refreshes that are asked for by the daemon of this process, if it has one, and by
/// others, beside the schedule, until told to stop.
pub async fn run(
    context: Context,
    daemon: Option<Arc<Daemon>>,
    running: Running,
    stop: CancellationToken,
) {
    let flag = flag_of(&stop);
    let mut runner = Runner {
        claims: Claims::new(&context.storage),
        context,
        running,
        pauses: BTreeMap::new(),
    };
    let mut read_at: Option<Instant> = None;
    while !stop.is_cancelled() {
        let own = daemon.as_ref().map(|d| d.wanted()).unwrap_or_default();
        let own = own.into_iter().map(|(view, wanted)| (view, wanted.bytes));
        runner.run(own.collect(), &flag).await;
        if read_at.is_none_or(|at| at.elapsed() >= READ_EVERY) {
            read_at = Some(Instant::now());
            runner.run_stored(&flag).await;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LOOK_EVERY / 2) => {}
        }
    }
}

impl Runner {
    async fn run_stored(&mut self, stop: &Arc<AtomicBool>) {
        let storage = self.context.storage.clone();
        let asked = match read(&storage).await {
            Ok(asked) => asked,
            Err(e) => {
                tracing::debug!(error = %e, "can't read which refreshes are asked for");
                return;
            }
        };
        let all = asked.iter().map(|(view, a)| (view.clone(), a.bytes));
        let done = self.run(all.collect(), stop).await;
        if done.is_empty() {
            return;
        }
        let removed = change(&storage, |views| {
            // One that was asked for again since stays.
            views.retain(|view, now| !done.contains(view) || asked.get(view) != Some(now));
        });
        if let Err(e) = removed.await {
            tracing::warn!(error = %e, "a refresh that was asked for is done, and may be run again");
        }
    }

    /// Refreshes views, those with the largest deltas first. Returns those that need not be asked
    /// for any more.
    async fn run(&mut self, mut asked: Vec<(String, u64)>, stop: &Arc<AtomicBool>) -> Vec<String> {
        asked.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let mut done = Vec::new();
        for (view, bytes) in asked {
            let now = Instant::now();
            let waits = self.pauses.get(&view).is_some_and(|p| now < p.until);
            if waits || stop.load(Ordering::Relaxed) {
                continue;
            }
            // A job of the view that runs may do what is asked for.
            let Some(_running) = self.running.begin(&view) else {
                continue;
            };
            let context = self.context.clone();
            let refreshed = match self.claims.claim(&view).await {
                // Another scheduler runs a job of the view, which may do what is asked for.
                Ok(None) => continue,
                Ok(Some(mut claim)) => {
                    let refreshed = claim.run(refresh(&context, &view, bytes, stop)).await;
                    claim.release().await;
                    refreshed
                }
                Err(e) => Err(e),
            };
            let pause = Pause::after(
                self.pauses.get(&view).copied(),
                refreshed.is_ok(),
                Instant::now(),
            );
            self.pauses.insert(view.clone(), pause);
            match refreshed {
                Ok(()) => done.push(view),
                Err(e) if stop.load(Ordering::Relaxed) => tracing::info!(%view, "{e}"),
                Err(e) => {
                    tracing::error!(%view, error = %e, "a refresh that was asked for failed; it is tried again");
                }
            }
        }
        done
    }
}

async fn refresh(context: &Context, view: &str, bytes: u64, stop: &Arc<AtomicBool>) -> Result<()> {
    // The project may have been edited since.
    let now = Context::open(&context.project.dir).await;
    let context = now.as_ref().unwrap_or(context);
    let views = context.views_that_run();
    let Some(settings) = views.iter().find(|v| v.name == view) else {
        // It was dropped from the project: nobody keeps its delta for long.
        return Ok(());
    };
    let (why, progress) = (why_asked(bytes), Arc::new(FoldProgress::default()));
    tracing::info!(%view, "a refresh is {why}");
    let report = build_view(context, settings, Build::Refresh, &why, stop, &progress).await?;
    let facts = counted(report.outcome.facts, "fact", "facts");
    tracing::info!(%view, "{facts}, boundary [{}]", report.outcome.boundary);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_tried_again_ever_later() {
        let now = Instant::now();
        let mut pause = None;
        let mut seconds = Vec::new();
        for succeeded in [false, false, false, true, false] {
            let after = Pause::after(pause, succeeded, now);
            seconds.push((after.until - now).as_secs());
            pause = Some(after);
        }
        assert_eq!(seconds, [10, 20, 40, 5, 10]);
    }
}
