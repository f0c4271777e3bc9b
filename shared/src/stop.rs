//! When work that somebody waits for is to end before it is done: its time is over, nobody waits any
//! more, somebody has cancelled it, or it takes too much. What computes long looks at it in between.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::{Error, Result};

/// How often a flag that is set from outside is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why work is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// It took longer than its limit.
    Late,
    /// Nobody waits for it any more.
    Gone,
    /// Somebody has cancelled it.
    Cancelled,
    /// The memory of the process came to its bound.
    Memory,
    /// Whoever runs it wants it to end.
    Asked,
}

/// Tells work to stop. Clones are one and the same.
#[derive(Clone, Debug)]
pub struct Stop(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: Duration,
    until: Option<Instant>,
    stopped: Arc<AtomicBool>,
    /// Whether others set `stopped` too, without telling.
    is_shared: bool,
    why: OnceLock<StopReason>,
    told: Notify,
}

impl Default for Stop {
    fn default() -> Self {
        Self::never()
    }
}

impl Stop {
    /// Work without a limit of time.
    pub fn never() -> Self {
        Self::new(Duration::MAX, None)
    }

    /// Work that may take so long from now on.
    pub fn after(limit: Duration) -> Self {
        Self::new(limit, Instant::now().checked_add(limit))
    }

    /// Work that ends once a flag is set, and that sets the flag where it is stopped otherwise.
    pub fn by_flag(flag: &Arc<AtomicBool>) -> Self {
        Self::sharing(Duration::MAX, None, flag.clone(), true)
    }

    fn new(limit: Duration, until: Option<Instant>) -> Self {
        Self::sharing(limit, until, Arc::default(), false)
    }

    fn sharing(
        limit: Duration,
        until: Option<Instant>,
        stopped: Arc<AtomicBool>,
        is_shared: bool,
    ) -> Self {
        Self(Arc::new(Inner {
            limit,
            until,
            stopped,
            is_shared,
            why: OnceLock::new(),
            told: Notify::new(),
        }))
    }

    /// Stops the work. Only the first reason counts.
    pub fn stop(&self, why: StopReason) {
        let why = self.0.why.get_or_init(|| why);
        tracing::debug!(?why, "work is stopped");
        self.0.stopped.store(true, Ordering::Release);
        self.0.told.notify_waiters();
    }

    /// A flag that is set once it was stopped, for what looks at flags; of a limit of time only once
    /// somebody has looked at it.
    pub fn flag(&self) -> &Arc<AtomicBool> {
        &self.0.stopped
    }

    /// Why it was stopped, if it was.
    pub fn reason(&self) -> Option<StopReason> {
        if !self.0.stopped.load(Ordering::Acquire)
            && self.0.until.is_some_and(|until| Instant::now() >= until)
        {
            self.stop(StopReason::Late);
        }
        match self.0.stopped.load(Ordering::Acquire) {
            // A flag alone says no more.
            true => Some(*self.0.why.get_or_init(|| StopReason::Asked)),
            false => None,
        }
    }

    /// Whether the work may go on.
    ///
    /// # Errors
    /// `Conflict` where it was cancelled or asked to end, `NoRoom` where memory is short, `Unavailable` otherwise.
    pub fn check(&self) -> Result<()> {
        match self.reason() {
            None => Ok(()),
            Some(why) => Err(self.error(why)),
        }
    }

    /// Ends once the work is to stop.
    pub async fn stopped(&self) -> Error {
        loop {
            // Whoever is told between the look and the wait is told.
            let told = self.0.told.notified();
            if let Some(why) = self.reason() {
                return self.error(why);
            }
            let look = self.0.is_shared.then(|| Instant::now() + LOOK_EVERY);
            match [look, self.0.until].into_iter().flatten().min() {
                None => told.await,
                Some(next) => tokio::select! {
                    () = told => {}
                    () = tokio::time::sleep_until(next.into()) => {}
                },
            }
        }
    }

    /// What the work comes to, unless it is stopped first.
    ///
    /// # Errors
    /// Those of the work, and of [`Stop::check`].
    pub async fn within<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            e = self.stopped() => Err(e),
            done = work => done,
        }
    }

    fn error(&self, why: StopReason) -> Error {
        match why {
            StopReason::Late => Error::TimedOut(format!(
                "the query ran longer than {} s and was stopped; narrow it, or raise `timeout` in `[query]`",
                self.0.limit.as_secs()
            )),
            StopReason::Gone => {
                Error::Unavailable("the query was stopped: nobody waits for its answer".to_owned())
            }
            StopReason::Cancelled => {
                Error::Cancelled("the query was cancelled by `anabranch queries cancel`".to_owned())
            }
            StopReason::Asked => Error::Conflict("stopped; nothing was changed".to_owned()),
            StopReason::Memory => Error::NoRoom(
                "the query was stopped: it was the largest while the memory of the process was at its bound (`process_memory` in `[query]`); narrow it".to_owned(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[tokio::test]
    async fn the_first_reason_counts() {
        let stop = Stop::never();
        assert!(stop.check().is_ok());
        stop.stop(StopReason::Cancelled);
        stop.stop(StopReason::Gone);
        assert_eq!(stop.reason(), Some(StopReason::Cancelled));
        let never = std::future::pending::<Result<()>>();
        let kind = stop.within(never).await.map_err(|e| e.kind());
        assert_eq!(kind, Err(ErrorKind::Conflict));
    }

    #[tokio::test]
    async fn a_flag_stops_it_and_is_set_where_it_is_stopped() {
        let flag = Arc::new(AtomicBool::new(false));
        let stop = Stop::by_flag(&flag);
        assert!(stop.check().is_ok());
        let waits = stop.clone();
        let never = async move { waits.within(std::future::pending::<Result<()>>()).await };
        let waiting = tokio::spawn(never);
        flag.store(true, Ordering::Relaxed);
        let ended = waiting.await.map_err(|e| e.to_string());
        assert_eq!(
            ended.map(|e| e.map_err(|e| e.kind())),
            Ok(Err(ErrorKind::Conflict))
        );
        assert_eq!(stop.reason(), Some(StopReason::Asked));
        let other = Stop::by_flag(&Arc::default());
        other.stop(StopReason::Gone);
        assert!(other.flag().load(Ordering::Relaxed));
        assert_eq!(other.reason(), Some(StopReason::Gone));
    }

    #[tokio::test]
    async fn time_is_over_for_those_who_wait_and_for_those_who_look() {
        let stop = Stop::after(Duration::from_millis(5));
        let never = std::future::pending::<Result<()>>();
        let late = stop.within(never).await.map_err(|e| e.kind());
        assert_eq!(late, Err(ErrorKind::Unavailable));
        assert_eq!(stop.reason(), Some(StopReason::Late));
        assert!(Stop::after(Duration::ZERO).check().is_err());
    }
}
