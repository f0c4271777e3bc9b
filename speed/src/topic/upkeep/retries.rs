//! What of a topic's upkeep has failed, and when it is tried again.

use std::time::{Duration, Instant};

use anabranch_shared::{Backoff, Result, retry_text};

/// How long after a try that failed the next one comes, at first and at most.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);

/// What is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Landing what is acknowledged.
    Landing,
    /// Following what others have landed.
    Following,
}

impl Doing {
    const ALL: [Self; 2] = [Self::Landing, Self::Following];

    fn says(self) -> &'static str {
        match self {
            Self::Landing => "landing",
            Self::Following => "following the log",
        }
    }
}

/// One of both.
#[derive(Debug)]
pub(super) struct Tried {
    pub(super) backoff: Backoff,
    /// Why the last try failed.
    trouble: Option<String>,
}

impl Default for Tried {
    fn default() -> Self {
        Self {
            backoff: Backoff::new(FIRST, LONGEST),
            trouble: None,
        }
    }
}

/// What has failed.
#[derive(Debug, Default)]
pub(super) struct Retries {
    landing: Tried,
    following: Tried,
}

impl Retries {
    pub(super) fn of(&self, doing: Doing) -> &Tried {
        match doing {
            Doing::Landing => &self.landing,
            Doing::Following => &self.following,
        }
    }

    /// How many tries in a row of the one that has failed more often.
    pub(super) fn most_tries(&self) -> u32 {
        let tries = |of: &Tried| of.backoff.tries();
        tries(&self.landing).max(tries(&self.following))
    }

    /// Notes how a try ended. The same trouble is logged once.
    pub(super) fn note(&mut self, topic: &str, doing: Doing, tried: &Result<()>, now: Instant) {
        let what = doing.says();
        let of = match doing {
            Doing::Landing => &mut self.landing,
            Doing::Following => &mut self.following,
        };
        match tried {
            Ok(()) => {
                of.backoff.succeeded();
                if of.trouble.take().is_some() {
                    tracing::info!(%topic, "{what}: it goes on");
                }
            }
            Err(e) => {
                of.backoff.failed(now);
                let trouble = e.to_string();
                if of.trouble.as_ref() != Some(&trouble) {
                    tracing::error!(%topic, error = %e, "{what}: trouble; it is tried again");
                    of.trouble = Some(trouble);
                }
            }
        }
    }

    /// What fails, why, how often it did, and when it is tried again.
    pub(super) fn trouble(&self, now: Instant) -> Option<String> {
        let mut all = Doing::ALL.into_iter();
        all.find_map(|doing| self.trouble_of(doing, now))
    }

    /// The same of one of both.
    pub(super) fn trouble_of(&self, doing: Doing, now: Instant) -> Option<String> {
        let of = self.of(doing);
        let (what, why) = (doing.says(), of.trouble.as_ref()?);
        Some(format!("{what}: {why}; {}", retry_text(&of.backoff, now)))
    }
}
