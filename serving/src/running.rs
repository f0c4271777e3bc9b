//! The queries that run and wait: who asked, since when, what each takes. Owns how many run at once,
//! and who is refused or stopped when the process is short of memory or descriptors.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anabranch_shared::process::resident_bytes;
use anabranch_shared::{Error, Result, Stop, StopReason, WallClock, counted};
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::caller::Caller;
use crate::identity::Identity;
use crate::limits::QueryLimits;
use crate::process;

/// Characters of a statement that are kept for a list of queries.
const SHOWN: usize = 2_000;

/// A query that was stopped for its memory has so long to give it back before the next is.
const GIVING_BACK: Duration = Duration::from_secs(2);

/// How the verification of a view begins in the list of queries.
const VERIFICATION: &str = "verify ";

/// A query, for people and programs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueryInfo {
    /// What it is cancelled by.
    pub id: String,
    /// Who asked.
    pub who: String,
    /// When it came, in milliseconds since 1970.
    pub since_ms: u64,
    /// How long ago that was.
    pub seconds: f64,
    /// `waiting`, `running`, or `stopping` where it was told to end and has not yet.
    pub state: String,
    /// Bytes of the memory for queries that it holds.
    pub memory_bytes: u64,
    /// Its statement, cut where it is long.
    pub statement: String,
}

/// The queries of a service.
///
/// Invariants: `list` holds each [`Running`] until it is dropped, and no more than `limits.at_once`
/// of them have a permit.
#[derive(Debug)]
pub(crate) struct Queries {
    limits: QueryLimits,
    wall: WallClock,
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    list: Mutex<BTreeMap<String, Weak<Running>>>,
    verifications: Arc<Semaphore>,
    /// When the last query was stopped for its memory.
    stopped_at: Mutex<Option<Instant>>,
}

/// A query that has come and is not over: work for it goes on somewhere.
#[derive(Debug)]
pub(crate) struct Running {
    id: String,
    caller: Caller,
    since: DateTime<Utc>,
    /// As `since`, by a clock that nobody sets.
    came: Instant,
    statement: String,
    /// Tells its work to stop.
    pub(crate) stop: Stop,
    /// Bytes that it holds of the memory for queries.
    pub(crate) memory: Arc<AtomicUsize>,
    /// Rows of its answer so far.
    pub(crate) rows: AtomicUsize,
    is_running: AtomicBool,
    turn: Mutex<Option<OwnedSemaphorePermit>>,
    queries: Arc<Queries>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.queries.list.lock().remove(&self.id);
        let took = self.came.elapsed();
        // Verifications take long, and are jobs.
        let is_query = !self.statement.starts_with(VERIFICATION);
        if is_query && self.queries.limits.slow.is_some_and(|slow| took >= slow) {
            let rows = self.rows.load(Ordering::Relaxed);
            let stopped = match self.stop.reason() {
                Some(StopReason::Late) => Some("it took longer than it may"),
                Some(StopReason::Cancelled) => Some("it was cancelled"),
                Some(StopReason::Memory) => Some("memory was short"),
                // Whoever has its answer is gone, too.
                Some(StopReason::Gone | StopReason::Asked) | None => None,
            };
            tracing::warn!(
                seconds = (took.as_secs_f64() * 10.0).round() / 10.0,
                rows,
                stopped,
                who = %self.caller.label,
                statement = %self.statement.split_whitespace().collect::<Vec<_>>().join(" "),
                "slow query"
            );
        }
    }
}

/// Somebody who waits for a query. Once nobody does its work is stopped.
#[derive(Debug)]
pub(crate) struct Waiter(Arc<Running>);

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.stop.stop(StopReason::Gone);
    }
}

impl Queries {
    pub(crate) fn new(limits: QueryLimits, wall: WallClock) -> Arc<Self> {
        let queries = Arc::new(Self {
            turns: Arc::new(Semaphore::new(limits.at_once.max(1))),
            verifications: Arc::new(Semaphore::new(limits.verifications.max(1))),
            limits,
            wall,
            waiting: AtomicUsize::new(0),
            list: Mutex::default(),
            stopped_at: Mutex::default(),
        });
        if queries.limits.process_bytes.is_some() {
            let watched: Weak<Self> = Arc::downgrade(&queries);
            process::watch(watched);
        }
        queries
    }

    /// Takes in a query, whose time counts from now on.
    ///
    /// # Errors
    /// `NoRoom` where the process is short of memory or descriptors, or too many wait already.
    pub(crate) fn arrive(
        self: &Arc<Self>,
        caller: &Caller,
        statement: &str,
        limit: Duration,
    ) -> Result<Arc<Running>> {
        if let (Some(resident), Some(bound)) = (resident_bytes(), self.limits.process_bytes)
            && resident > bound
        {
            return Err(Error::NoRoom(format!(
                "the process takes {} MB of memory, and no more queries from {} MB on (`process_memory` in `[query]`); try again soon",
                resident / 1_000_000,
                bound / 1_000_000
            )));
        }
        process::spare_descriptors()?;
        if self.turns.available_permits() == 0
            && self.waiting.load(Ordering::Relaxed) >= self.limits.waiting
        {
            return Err(Error::NoRoom(format!(
                "{} at once and {} that wait for their turn are the most (`at_once` and `waiting` in `[query]`); try again soon",
                counted(self.limits.at_once as u64, "query", "queries"),
                self.limits.waiting
            )));
        }
        let mut list = self.list.lock();
        let mut id = random_id();
        while list.contains_key(&id) {
            id = random_id();
        }
        let running = Arc::new(Running {
            id: id.clone(),
            caller: caller.clone(),
            since: self.wall.now(),
            came: Instant::now(),
            statement: statement.chars().take(SHOWN).collect(),
            stop: Stop::after(limit),
            memory: Arc::default(),
            rows: AtomicUsize::new(0),
            is_running: AtomicBool::new(false),
            turn: Mutex::default(),
            queries: self.clone(),
        });
        list.insert(id, Arc::downgrade(&running));
        Ok(running)
    }

    /// The time of day.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.wall.now()
    }

    fn all(&self) -> Vec<Arc<Running>> {
        self.list
            .lock()
            .values()
            .filter_map(Weak::upgrade)
            .collect()
    }

    /// What runs and waits and somebody may see, the longest first.
    pub(crate) fn infos(&self, identity: &Identity) -> Vec<QueryInfo> {
        let mut all = self.all();
        all.retain(|running| identity.sees(&running.caller.identity));
        let mut infos: Vec<QueryInfo> = all.iter().map(|r| r.info()).collect();
        infos.sort_by_key(|info| info.since_ms);
        infos
    }

    /// Stops a query for somebody who may see it.
    ///
    /// # Errors
    /// `NotFound` where none has the id.
    pub(crate) fn cancel(&self, id: &str, identity: &Identity) -> Result<()> {
        let found = self.list.lock().get(id).and_then(Weak::upgrade);
        let found = found.filter(|running| identity.sees(&running.caller.identity));
        let running = found.ok_or_else(|| {
            Error::NotFound(format!(
                "no query `{id}` runs; `anabranch queries` lists them"
            ))
        })?;
        running.stop.stop(StopReason::Cancelled);
        Ok(())
    }

    /// Takes in the verification of a view for somebody else, which runs at once.
    ///
    /// # Errors
    /// `NoRoom` where as many run as may, and as [`Queries::arrive`].
    pub(crate) fn verification(
        self: &Arc<Self>,
        caller: &Caller,
        view: &str,
    ) -> Result<Arc<Running>> {
        let permit = self.verifications.clone().try_acquire_owned();
        let permit = permit.map_err(|_| {
            Error::NoRoom(format!(
                "{} verifications run, which are the most (`verifications` in `[query]`); try again later",
                self.limits.verifications
            ))
        })?;
        let statement = format!("{VERIFICATION}{view}");
        let running = self.arrive(caller, &statement, self.limits.verify_timeout)?;
        *running.turn.lock() = Some(permit);
        running.is_running.store(true, Ordering::Relaxed);
        Ok(running)
    }
}

impl process::Watched for Queries {
    /// Stops the largest query where the process takes too much memory.
    fn look(&self, resident_bytes: u64) {
        let Some(bound) = self.limits.process_bytes else {
            return;
        };
        let mut stopped_at = self.stopped_at.lock();
        let waits = stopped_at.is_some_and(|at| at.elapsed() < GIVING_BACK);
        if resident_bytes <= bound || waits {
            return;
        }
        let running = self
            .all()
            .into_iter()
            .filter(|r| r.is_running.load(Ordering::Relaxed) && r.stop.reason().is_none());
        // What the pool does not see is no query's; of equal ones the latest came on top.
        let largest = running.max_by_key(|r| (r.memory.load(Ordering::Relaxed), r.came));
        if let Some(largest) = largest {
            tracing::warn!(
                query = %largest.id, resident_bytes, bound,
                "the memory of the process is at its bound: the largest query is stopped"
            );
            largest.stop.stop(StopReason::Memory);
            *stopped_at = Some(Instant::now());
        }
    }
}

/// The verification of a view that somebody waits for: it is listed and cancelled as queries are, and
/// stopped once this is dropped. Its turn is over when its work is, see [`Verification::work`].
#[derive(Debug)]
pub struct Verification {
    running: Arc<Running>,
    _waiter: Waiter,
}

/// The work of a verification goes on somewhere as long as anybody holds this.
#[derive(Clone, Debug)]
pub struct VerificationWork {
    _running: Arc<Running>,
}

impl Verification {
    pub(crate) fn new(running: Arc<Running>) -> Self {
        Self {
            _waiter: running.waiter(),
            running,
        }
    }

    /// What tells its work to stop.
    pub fn stop(&self) -> &Stop {
        &self.running.stop
    }

    /// To be held by its work.
    pub fn work(&self) -> VerificationWork {
        VerificationWork {
            _running: self.running.clone(),
        }
    }
}

impl Running {
    /// The one who waits for it.
    pub(crate) fn waiter(self: &Arc<Self>) -> Waiter {
        Waiter(self.clone())
    }

    /// What it is cancelled by.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Waits for its turn, which it has until it is dropped.
    ///
    /// # Errors
    /// Those of [`Stop::check`].
    pub(crate) async fn turn(&self) -> Result<()> {
        struct Counted<'a>(&'a AtomicUsize);
        impl Drop for Counted<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.queries.waiting.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(&self.queries.waiting);
        let turn = self.queries.turns.clone().acquire_owned();
        let closed = |_| Error::Internal("no query gets its turn".to_owned());
        let turn = self
            .stop
            .within(async { turn.await.map_err(closed) })
            .await?;
        drop(counted);
        *self.turn.lock() = Some(turn);
        self.is_running.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn info(&self) -> QueryInfo {
        let state = match (self.stop.reason(), self.is_running.load(Ordering::Relaxed)) {
            (Some(_), _) => "stopping",
            (None, true) => "running",
            (None, false) => "waiting",
        };
        QueryInfo {
            id: self.id.clone(),
            who: self.caller.label.clone(),
            since_ms: u64::try_from(self.since.timestamp_millis()).unwrap_or(0),
            seconds: self.came.elapsed().as_secs_f64(),
            state: state.to_owned(),
            memory_bytes: self.memory.load(Ordering::Relaxed) as u64,
            statement: self.statement.clone(),
        }
    }
}

/// An id that queries of other daemons hardly have.
fn random_id() -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("{:08x}", random & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::door::Door;
    use crate::process::Watched;

    const LIMIT: Duration = Duration::from_millis(50);

    fn caller(program: &str) -> Caller {
        Caller::new(Door::Local, program.to_owned(), Identity::everybody())
    }

    fn queries(at_once: usize, waiting: usize, process_bytes: Option<u64>) -> Arc<Queries> {
        let limits = QueryLimits {
            at_once,
            waiting,
            process_bytes,
            ..Default::default()
        };
        Queries::new(limits, WallClock::default())
    }

    #[tokio::test]
    async fn as_many_run_as_may_and_the_time_of_those_who_wait_passes() {
        let queries = queries(1, 1, None);
        let first = queries
            .arrive(&caller("a"), "select 1", LIMIT * 100)
            .unwrap();
        first.turn().await.unwrap();
        let second = queries.arrive(&caller("b"), "select 2", LIMIT).unwrap();
        let waiting = tokio::spawn(async move { second.turn().await });
        while queries.waiting.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(
            queries.arrive(&caller("c"), "select 3", LIMIT),
            Err(Error::NoRoom(_))
        ));
        let states: Vec<_> = queries
            .infos(&Identity::everybody())
            .into_iter()
            .map(|i| (i.who, i.state))
            .collect();
        assert!(
            states.contains(&("a".into(), "running".into())),
            "{states:?}"
        );
        assert!(
            states.contains(&("b".into(), "waiting".into())),
            "{states:?}"
        );
        let late = waiting.await.unwrap();
        assert!(late.is_err_and(|e| e.to_string().contains("`timeout`")));
        drop(first);
        assert!(queries.infos(&Identity::everybody()).is_empty());
        let next = queries.arrive(&caller("d"), "select 4", LIMIT).unwrap();
        next.turn().await.unwrap();
    }

    #[tokio::test]
    async fn a_query_ends_when_it_is_cancelled_and_when_nobody_waits() {
        let queries = queries(2, 1, None);
        let query = queries
            .arrive(&caller("a"), "select 1", LIMIT * 100)
            .unwrap();
        let id = queries.infos(&Identity::everybody())[0].id.clone();
        queries.cancel(&id, &Identity::everybody()).unwrap();
        assert_eq!(query.stop.reason(), Some(StopReason::Cancelled));
        assert!(matches!(
            queries.cancel("nobody", &Identity::everybody()),
            Err(Error::NotFound(_))
        ));
        let query = queries
            .arrive(&caller("a"), "select 1", LIMIT * 100)
            .unwrap();
        drop(query.waiter());
        assert_eq!(query.stop.reason(), Some(StopReason::Gone));
    }

    /// Its place is taken until its work has ended, whoever waits.
    #[tokio::test]
    async fn verifications_are_listed_and_end_when_nobody_waits() {
        let limits = QueryLimits {
            verifications: 1,
            ..Default::default()
        };
        let queries = Queries::new(limits, WallClock::default());
        let verification = Verification::new(queries.verification(&caller("a"), "words").unwrap());
        let listed = queries.infos(&Identity::everybody());
        let shown = (listed[0].statement.as_str(), listed[0].state.as_str());
        assert_eq!(shown, ("verify words", "running"));
        let (work, stop) = (verification.work(), verification.stop().clone());
        drop(verification);
        assert_eq!(stop.reason(), Some(StopReason::Gone));
        assert!(matches!(
            queries.verification(&caller("b"), "words"),
            Err(Error::NoRoom(_))
        ));
        assert_eq!(queries.infos(&Identity::everybody())[0].state, "stopping");
        drop(work);
        let next = queries.verification(&caller("b"), "words").unwrap();
        let id = queries.infos(&Identity::everybody())[0].id.clone();
        queries.cancel(&id, &Identity::everybody()).unwrap();
        assert_eq!(next.stop.reason(), Some(StopReason::Cancelled));
    }

    #[tokio::test]
    async fn the_largest_is_stopped_where_memory_is_short_and_new_ones_are_refused() {
        // A process takes more than this; the watch does not look here in between.
        let queries = queries(4, 1, Some(u64::MAX));
        let mut running = Vec::new();
        for bytes in [10, 30, 20] {
            let query = queries
                .arrive(&caller("a"), "select 1", LIMIT * 1_000)
                .unwrap();
            query.turn().await.unwrap();
            query.memory.store(bytes, Ordering::Relaxed);
            running.push(query);
        }
        queries.look(u64::MAX);
        assert!(running.iter().all(|r| r.stop.reason().is_none()));
        let tight = Queries {
            wall: WallClock::default(),
            limits: QueryLimits {
                process_bytes: Some(1),
                ..Default::default()
            },
            turns: Arc::new(Semaphore::new(1)),
            waiting: AtomicUsize::new(0),
            list: Mutex::new(queries.list.lock().clone()),
            verifications: Arc::new(Semaphore::new(1)),
            stopped_at: Mutex::default(),
        };
        tight.look(2);
        // The next one gets time to give back what it has.
        tight.look(2);
        let reasons: Vec<_> = running.iter().map(|r| r.stop.reason()).collect();
        assert_eq!(reasons, [None, Some(StopReason::Memory), None]);
        let refused = Arc::new(tight).arrive(&caller("b"), "select 1", LIMIT);
        assert!(refused.is_err_and(|e| e.to_string().contains("`process_memory`")));
    }
}
