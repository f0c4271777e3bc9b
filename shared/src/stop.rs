//! When work that somebody waits for is to end before it is done: its time is over, nobody waits any
//! more, somebody has cancelled it, or it takes too much. What computes long looks at it in between.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::{Error, Result};

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
}

/// Tells work to stop. Clones are one and the same.
#[derive(Clone, Debug)]
pub struct Stop(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: Duration,
    until: Option<Instant>,
    stopped: AtomicBool,
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

    fn new(limit: Duration, until: Option<Instant>) -> Self {
        Self(Arc::new(Inner {
            limit,
            until,
            stopped: AtomicBool::new(false),
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

    /// Why it was stopped, if it was.
    pub fn reason(&self) -> Option<StopReason> {
        if !self.0.stopped.load(Ordering::Acquire)
            && self.0.until.is_some_and(|until| Instant::now() >= until)
        {
            self.stop(StopReason::Late);
        }
        match self.0.stopped.load(Ordering::Acquire) {
            true => self.0.why.get().copied(),
            false => None,
        }
    }

    /// Whether the work may go on.
    ///
    /// # Errors
    /// `Conflict` where it was cancelled, `NoRoom` where memory is short, `Unavailable` otherwise.
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
            match self.0.until {
                None => told.await,
                Some(until) => tokio::select! {
                    () = told => {}
                    () = tokio::time::sleep_until(until.into()) => {}
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
            StopReason::Late => Error::Unavailable(format!(
                "the query ran longer than {} s and was stopped; narrow it, or raise `timeout` in `[query]`",
                self.0.limit.as_secs()
            )),
            StopReason::Gone => {
                Error::Unavailable("the query was stopped: nobody waits for its answer".to_owned())
            }
            StopReason::Cancelled => {
                Error::Conflict("the query was cancelled by `anabranch queries cancel`".to_owned())
            }
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
    async fn time_is_over_for_those_who_wait_and_for_those_who_look() {
        let stop = Stop::after(Duration::from_millis(5));
        let never = std::future::pending::<Result<()>>();
        let late = stop.within(never).await.map_err(|e| e.kind());
        assert_eq!(late, Err(ErrorKind::Unavailable));
        assert_eq!(stop.reason(), Some(StopReason::Late));
        assert!(Stop::after(Duration::ZERO).check().is_err());
    }
}
