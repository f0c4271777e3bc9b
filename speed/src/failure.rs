//! What ends a daemon that can't go on: a thread or a loop of it that ended by itself. Owns the
//! first such reason and wakes those that wait; what is then done is the caller's.

use std::sync::Arc;

use anabranch_shared::Error;
use tokio::sync::watch;

/// Why a daemon can't go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Something outside failed, such as the disk of the WAL.
    Outside(String),
    /// A thread or a loop panicked.
    Defect(String),
}

/// The first reason why a daemon can't go on; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    first: Arc<watch::Sender<Option<Reason>>>,
}

impl Default for Failure {
    fn default() -> Self {
        Self {
            first: Arc::new(watch::Sender::new(None)),
        }
    }
}

impl Failure {
    /// Notes a reason, if it is the first.
    pub(crate) fn report(&self, reason: Reason) {
        self.first.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(reason);
            is_first
        });
    }

    /// The first reason, as an error.
    pub(crate) fn get(&self) -> Option<Error> {
        self.first.borrow().as_ref().map(Reason::error)
    }

    /// Waits for a reason.
    pub(crate) async fn wait(&self) -> Error {
        let mut first = self.first.subscribe();
        let waited = first.wait_for(Option::is_some).await;
        let error = waited
            .ok()
            .and_then(|reason| reason.as_ref().map(Reason::error));
        // The sender lives as long as `self`, so there is a reason.
        error.unwrap_or_else(|| Error::Internal("the daemon ended without a reason".into()))
    }
}

impl Reason {
    fn error(&self) -> Error {
        let advice = "the daemon stops; start it again: what was acknowledged is kept";
        match self {
            Self::Outside(text) => Error::Unavailable(format!("{text}; {advice}")),
            Self::Defect(text) => Error::Internal(format!("{text}; {advice}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_counts_and_wakes() {
        let failure = Failure::default();
        assert!(failure.get().is_none());
        let waiting = tokio::spawn({
            let failure = failure.clone();
            async move { failure.wait().await.to_string() }
        });
        failure.report(Reason::Outside("the disk is gone".into()));
        failure.report(Reason::Defect("later".into()));
        let first = failure.wait().await.to_string();
        assert!(first.starts_with("the disk is gone; "), "{first}");
        assert_eq!(waiting.await.ok(), Some(first));
    }
}
