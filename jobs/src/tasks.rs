//! The tasks of a node: each has a name and an owner, is told to stop, and is missed where it ends
//! before. Owns which of them ended so, and why; what a node does then is its own.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch_shared::{Error, Result, panic_text};
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// When a task may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// Not before it is told to.
    WhenTold,
    /// Once it has done its work.
    WhenDone,
}

/// The tasks of a node. What still runs of them when this is dropped is aborted.
#[derive(Debug)]
pub struct Tasks {
    stop: CancellationToken,
    running: Mutex<Vec<(&'static str, JoinHandle<()>)>>,
    /// Those that ended before they were told to, and why.
    ended: Arc<watch::Sender<BTreeMap<&'static str, String>>>,
}

impl Tasks {
    /// None yet; all of them stop with `stop`.
    pub fn new(stop: CancellationToken) -> Self {
        Self {
            stop,
            running: Mutex::default(),
            ended: Arc::new(watch::Sender::new(BTreeMap::new())),
        }
    }

    /// Starts a task that ends by itself once it is told to stop, and that is waited for.
    pub fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = Result<()>> + Send + 'static,
    ) {
        self.watch(name, Ends::WhenTold, task);
    }

    /// Starts a task that ends once its work is done, and is left off once it is to stop. It is missed
    /// only where it panics.
    pub fn spawn_passing(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let stop = self.stop.clone();
        self.watch(name, Ends::WhenDone, async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
            Ok(())
        });
    }

    fn watch(
        &self,
        name: &'static str,
        ends: Ends,
        task: impl Future<Output = Result<()>> + Send + 'static,
    ) {
        let (stop, noted) = (self.stop.clone(), self.ended.clone());
        let watched = async move {
            let why = match AssertUnwindSafe(task).catch_unwind().await {
                Ok(Ok(())) if ends == Ends::WhenDone || stop.is_cancelled() => return,
                Ok(Ok(())) => "it ended by itself".to_owned(),
                Ok(Err(e)) => e.to_string(),
                Err(panic) => format!("it panicked: {}", panic_text(panic.as_ref())),
            };
            tracing::error!(task = name, error = %why, "a task of this process has ended");
            noted.send_modify(|ended| drop(ended.insert(name, why)));
        };
        let mut running = self.running.lock();
        // Of those that end by themselves many may have been started.
        running.retain(|(_, task)| !task.is_finished());
        running.push((name, tokio::spawn(watched)));
    }

    /// Starts a task that runs for ever, and is left off once it is to stop.
    pub fn spawn_endless(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let stop = self.stop.clone();
        self.spawn(name, async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
            Ok(())
        });
    }

    /// The tasks that ended before they were told to, and why.
    pub fn ended(&self) -> BTreeMap<&'static str, String> {
        self.ended.borrow().clone()
    }

    /// Waits until a task of this name has ended before it was told to.
    pub async fn missed(&self, name: &str) {
        let mut ended = self.ended.subscribe();
        // The sender is this one's, so there is always one.
        ended.wait_for(|e| e.contains_key(name)).await.ok();
    }

    /// An error that names the tasks that ended before they were told to.
    pub fn failure(&self) -> Option<Error> {
        let ended = self.ended();
        let one = |(name, why): (&&str, &String)| format!("`{name}`: {why}");
        let all: Vec<String> = ended.iter().map(one).collect();
        (!all.is_empty()).then(|| {
            Error::Internal(format!(
                "tasks of this process had ended before it was stopped: {}",
                all.join("; ")
            ))
        })
    }

    /// Says that all are about to end, so that none is missed that does.
    pub fn expect_end(&self) {
        self.stop.cancel();
    }

    /// Waits until all have ended. Where one does before it was told to, the others are told to
    /// stop.
    pub async fn join(&self) {
        let running = std::mem::take(&mut *self.running.lock());
        let mut all = futures::future::join_all(running.into_iter().map(|(_, task)| task));
        let mut ended = self.ended.subscribe();
        tokio::select! {
            // What went wrong in them is noted by themselves.
            _ = &mut all => return,
            _ = ended.wait_for(|e| !e.is_empty()) => {}
        }
        self.stop.cancel();
        all.await;
    }

    /// Tells all to stop, and waits for them until a time; those that run on are aborted then.
    /// Returns the names of those.
    pub async fn stop(&self, until: Instant) -> Vec<&'static str> {
        self.stop.cancel();
        let running = std::mem::take(&mut *self.running.lock());
        let mut aborted = Vec::new();
        for (name, mut task) in running {
            if tokio::time::timeout_at(until, &mut task).await.is_err() {
                task.abort();
                aborted.push(name);
            }
        }
        aborted
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.stop.cancel();
        for (_, task) in self.running.lock().drain(..) {
            task.abort();
        }
    }
}

/// A flag for what computes and can't wait for an event: set once it is to stop.
pub fn flag_of(stop: &CancellationToken) -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(stop.is_cancelled()));
    let (stop, set) = (stop.clone(), flag.clone());
    tokio::spawn(async move {
        stop.cancelled().await;
        set.store(true, Ordering::Relaxed);
    });
    flag
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "a task that panics")]

    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[tokio::test]
    async fn a_task_that_ends_before_it_is_told_to_is_missed() {
        let tasks = Tasks::new(CancellationToken::new());
        let stop = tasks.stop.clone();
        tasks.spawn("good", async move {
            stop.cancelled().await;
            Ok(())
        });
        tasks.spawn_endless("endless", std::future::pending());
        assert!(tasks.failure().is_none());
        tasks.spawn("panics", async { panic!("a defect") });
        tasks.missed("panics").await;
        tasks.spawn_endless("ends", async {});
        tasks.missed("ends").await;
        tasks.spawn("fails", async { Err(Error::Unavailable("no disk".into())) });
        tasks.missed("fails").await;
        assert!(tasks.stop(soon()).await.is_empty());
        let failure = tasks.failure().map(|e| e.to_string()).unwrap_or_default();
        assert!(
            failure.ends_with(
                "`ends`: it ended by itself; `fails`: no disk; `panics`: it panicked: a defect"
            ),
            "{failure}"
        );
    }

    #[tokio::test]
    async fn one_whose_work_is_done_is_not_missed() {
        let tasks = Tasks::new(CancellationToken::new());
        for _ in 0..3 {
            let (done, mut ended) = tokio::sync::oneshot::channel::<()>();
            tasks.spawn_passing("short", async move { drop(done) });
            assert!((&mut ended).await.is_err());
            tokio::task::yield_now().await;
        }
        assert!(tasks.running.lock().len() < 3);
        let (held, mut gone) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn_passing("long", async move {
            let _held = held;
            std::future::pending().await
        });
        assert!(tasks.stop(soon()).await.is_empty() && (&mut gone).await.is_err());
        assert!(tasks.failure().is_none());
        let tasks = Tasks::new(CancellationToken::new());
        tasks.spawn_passing("panics", async { panic!("a defect") });
        tasks.missed("panics").await;
    }

    #[tokio::test]
    async fn one_that_does_not_stop_is_aborted_and_named() {
        let tasks = Tasks::new(CancellationToken::new());
        let (held, mut gone) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn("deaf", async move {
            let _held = held;
            std::future::pending().await
        });
        let until = Instant::now() + Duration::from_millis(10);
        assert_eq!(tasks.stop(until).await, ["deaf"]);
        assert!((&mut gone).await.is_err());
        assert!(tasks.failure().is_none());
    }
}
