//! What a daemon runs, and how it ends: the loops that land and follow, and the door that requests
//! go through.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anabranch_shared::{Error, Result};
use tokio::sync::{RwLock, Semaphore, watch};
use tokio::task::JoinSet;

use super::{AT_ONCE, Daemon, FOLLOW_EVERY};
use crate::failure::{Failure, Reason};
use crate::topic::appender::Appenders;
use crate::topic::{Doing, TopicStream};

/// How often the loops look whether something is to be done.
const TICK: Duration = Duration::from_millis(100);

/// How long a daemon that stops waits until Kafka's groups know that it is away; they notice by
/// themselves once its session times out.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// Topics that land at once.
const LANDED_AT_ONCE: usize = 64;

/// What runs.
#[derive(Debug)]
pub(super) struct Running {
    /// Set when the loops shall end.
    ending: watch::Sender<bool>,
    /// Whether facts are taken. Read while a request is admitted and acknowledged.
    open: RwLock<bool>,
    /// The same, for who does not wait.
    is_open: AtomicBool,
    pub(super) failure: Failure,
    /// What appends to the WALs of all topics.
    pub(super) appenders: Appenders,
    /// Whoever lands a topic, and whoever follows one, holds one of these.
    landing: Semaphore,
    following: Semaphore,
}

impl Running {
    /// Starts what appends; the loops are the daemon's to run.
    pub(super) fn start() -> Result<Self> {
        let failure = Failure::default();
        Ok(Self {
            ending: watch::Sender::new(false),
            open: RwLock::new(true),
            is_open: AtomicBool::new(true),
            appenders: Appenders::start(&failure)?,
            failure,
            landing: Semaphore::new(LANDED_AT_ONCE),
            following: Semaphore::new(AT_ONCE),
        })
    }
}

impl Daemon {
    /// Where it is said that the daemon can't go on.
    pub(super) fn failures(&self) -> &Failure {
        &self.running.failure
    }

    /// Runs the loops until [`Daemon::stop`], also those of topics that are opened meanwhile.
    pub async fn run(self: &Arc<Self>) {
        let mut tasks = JoinSet::new();
        let mut names = HashMap::new();
        let following = tasks.spawn(catalogue_loop(self.clone()));
        names.insert(following.id(), "follows the catalogue".to_owned());
        let mut running = BTreeSet::new();
        let mut opened = self.topics.opened();
        loop {
            opened.borrow_and_update();
            for (name, stream) in self.topics().iter() {
                if running.insert(name.clone()) {
                    let landing = tasks.spawn(land_loop(self.clone(), stream.clone()));
                    names.insert(landing.id(), format!("lands topic `{name}`"));
                    let following = tasks.spawn(follow_loop(self.clone(), stream.clone()));
                    names.insert(following.id(), format!("follows topic `{name}`"));
                }
            }
            tokio::select! {
                ended = tasks.join_next_with_id() => {
                    let (id, why) = match ended {
                        None => return,
                        Some(Ok((id, ()))) => (id, "by itself".to_owned()),
                        Some(Err(e)) => (e.id(), e.to_string()),
                    };
                    let name = names.remove(&id).unwrap_or_default();
                    if !*self.running.ending.borrow() {
                        let text = format!("the loop that {name} ended: {why}");
                        self.running.failure.report(Reason::Defect(text));
                    }
                },
                // The daemon itself keeps the sender.
                _ = opened.changed() => {}
            }
        }
    }

    /// Waits until the daemon can't go on: a thread that appends or a loop that lands has ended.
    pub async fn failed(&self) -> Error {
        self.running.failure.wait().await
    }

    /// Why the daemon can't go on, if it can't.
    pub fn failure(&self) -> Option<Error> {
        self.running.failure.get()
    }

    /// An error where no facts are taken any more.
    ///
    /// # Errors
    /// `Unavailable` once the daemon stops.
    pub(crate) fn check_intake(&self) -> Result<()> {
        match self.running.is_open.load(Ordering::Acquire) {
            true => Ok(()),
            false => Err(Error::Unavailable(
                "the daemon is stopping and takes no more facts; send them to another one, or again in a moment"
                    .into(),
            )),
        }
    }

    /// Enters the door for one request; whoever closes it waits for those that are inside.
    ///
    /// # Errors
    /// As [`Daemon::check_intake`].
    pub(crate) async fn enter(&self) -> Result<tokio::sync::RwLockReadGuard<'_, bool>> {
        let open = self.running.open.read().await;
        self.check_intake().map(|()| open)
    }

    /// Takes no more facts, and waits until those that are being admitted are acknowledged, until
    /// a time at most. Landing goes on meanwhile, because some of them may wait for that.
    pub async fn close_intake(&self, until: tokio::time::Instant) {
        self.running.is_open.store(false, Ordering::Release);
        if let Ok(mut open) = tokio::time::timeout_at(until, self.running.open.write()).await {
            *open = false;
        }
    }

    /// Ends the loops and lands what is acknowledged, each topic whatever becomes of the others.
    /// Intake must have been closed. After a failure nothing is landed: that is left to the next
    /// start, which trusts nothing but the WAL.
    ///
    /// # Errors
    /// Those of the first topic that did not land; what it holds stays in the WAL.
    pub async fn stop(self: &Arc<Self>) -> Result<()> {
        self.end_reading().await;
        // What was read lands, however long Kafka takes to hear that nothing more is.
        let landed = match self.running.failure.get() {
            Some(_) => Ok(()),
            None => self.land_all().await,
        };
        self.leave().await;
        landed
    }

    async fn land_all(self: &Arc<Self>) -> Result<()> {
        let mut failed = None;
        // What steps make lands after what they make it of.
        for topics in self.in_order_of_steps() {
            let mut landings = JoinSet::new();
            for stream in topics {
                landings.spawn(async move {
                    // What may not land, because what it was made of has not, is made again.
                    while stream.upkeep().has_unlanded() && stream.upkeep().land().await? > 0 {}
                    Ok(())
                });
            }
            while let Some(ended) = landings.join_next().await {
                let ended =
                    ended.unwrap_or_else(|e| Err(Error::Internal(format!("a landing: {e}"))));
                if let Err(e) = ended {
                    tracing::error!(error = %e, "a topic has not landed; its facts stay in the WAL");
                    failed.get_or_insert(e);
                }
            }
        }
        if let Some(e) = failed {
            return Err(e);
        }
        self.options.stop.store(true, Ordering::Relaxed);
        self.bounds.spill().clear()
    }

    /// The topics: first those whose facts no step makes, then those whose facts are made of these, and
    /// so on.
    fn in_order_of_steps(&self) -> Vec<Vec<Arc<TopicStream>>> {
        let (topics, steps) = (self.topics(), self.steps());
        let mut in_order: Vec<Vec<Arc<TopicStream>>> = Vec::new();
        for (name, stream) in topics.iter() {
            let (mut depth, mut at) = (0, steps.get(name).map(|s| s.state().from));
            while let Some(from) = at {
                depth += 1;
                at = steps.get(&from).map(|s| s.state().from);
            }
            in_order.resize_with(in_order.len().max(depth + 1), Vec::new);
            in_order[depth].push(stream.clone());
        }
        in_order
    }

    /// Ends the loops and the reading of sources, and lands nothing.
    pub async fn close(self: &Arc<Self>) {
        self.end_reading().await;
        self.leave().await;
    }

    async fn end_reading(self: &Arc<Self>) {
        self.running.is_open.store(false, Ordering::Release);
        self.running.ending.send_replace(true);
        // A thread that waits for storage may be in the middle of something.
        let (sources, steps) = (self.sources(), self.steps());
        let stopping = tokio::task::spawn_blocking(move || {
            sources.values().for_each(|s| s.stop());
            sources.values().for_each(|s| s.wait_read());
            steps.values().for_each(|s| s.stop());
        });
        stopping.await.ok();
    }

    /// Waits until the groups of sources know that they are away, for a while.
    async fn leave(&self) {
        let sources = self.sources();
        let until = Instant::now() + LEAVE_WITHIN;
        let leaving = tokio::task::spawn_blocking(move || {
            sources.values().for_each(|s| s.wait_away(until));
        });
        leaving.await.ok();
    }

    /// The threads that append to WALs; they end when the daemon is dropped.
    pub fn take_threads(&self) -> Vec<std::thread::JoinHandle<()>> {
        self.running.appenders.take_threads()
    }

    /// Waits for some time; `false` when the loops shall end.
    async fn goes_on(&self, wait: Duration) -> bool {
        let mut ending = self.running.ending.subscribe();
        let ended = tokio::time::timeout(wait, ending.wait_for(|e| *e))
            .await
            .is_ok();
        !ended
    }
}

async fn land_loop(daemon: Arc<Daemon>, stream: Arc<TopicStream>) {
    let upkeep = stream.upkeep();
    let mut waited = Duration::ZERO;
    while daemon.goes_on(TICK).await {
        waited += TICK;
        // What failed is tried again when its pause is over, whatever has come meanwhile.
        let due = match upkeep.is_failing(Doing::Landing) {
            true => upkeep.is_due(Doing::Landing),
            false => waited >= daemon.options.land_every || upkeep.is_landing_due(),
        };
        if !due {
            continue;
        }
        waited = Duration::ZERO;
        let Ok(_turn) = daemon.running.landing.acquire().await else {
            return;
        };
        // What piled up during a landing lands at once.
        loop {
            let landed = upkeep.land().await;
            let any = matches!(landed, Ok(1..));
            upkeep.note_trouble(Doing::Landing, &landed.map(|_| ()));
            if !any || !upkeep.is_landing_due() {
                break;
            }
        }
    }
}

async fn follow_loop(daemon: Arc<Daemon>, stream: Arc<TopicStream>) {
    let upkeep = stream.upkeep();
    while daemon.goes_on(FOLLOW_EVERY).await {
        if upkeep.is_due(Doing::Following) {
            let Ok(_turn) = daemon.running.following.acquire().await else {
                return;
            };
            let followed = upkeep.follow().await;
            upkeep.note_trouble(Doing::Following, &followed);
        }
    }
}

async fn catalogue_loop(daemon: Arc<Daemon>) {
    while daemon.goes_on(FOLLOW_EVERY).await {
        if daemon.served.is_reading_due() {
            daemon.follow_catalogue().await;
        }
    }
}
