//! An operation that runs or has run: how far it is, what it said, and what came of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anabranch_shared::{Error, FoldProgress, Result};
use chrono::{DateTime, SecondsFormat, Utc};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};

use super::request::{OperationRequest, Prepared};
use super::work::Done;
use crate::clock::now;
use crate::work::apply::whole::Tells;
use crate::work::verify::VerifyProgress;

/// The most that is kept of what an operation said, in bytes.
const MOST_SAID: usize = 256 << 10;

/// How often one that waits looks whether it is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OperationState {
    /// Until another one that writes views has ended.
    Waiting,
    Running,
    Done,
    /// It ended well and found something: rows that differ, a gate that is broken, dead letters that stay.
    Differs,
    Stopped,
    Failed,
}

/// Whose work is watched.
#[derive(Debug)]
enum Watched {
    Build(Weak<FoldProgress>),
    Verification(Weak<VerifyProgress>),
}

impl Watched {
    /// Facts that were read, and of how many.
    fn progress(&self) -> Option<(u64, u64)> {
        match self {
            Self::Build(progress) => progress.upgrade().map(|p| {
                let load = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
                (load(&p.facts), load(&p.facts_total))
            }),
            Self::Verification(progress) => progress
                .upgrade()
                .map(|p| (p.facts(), p.facts_total.load(Ordering::Relaxed))),
        }
    }
}

/// What changes of an operation.
#[derive(Debug)]
struct Standing {
    state: OperationState,
    ended_at: Option<DateTime<Utc>>,
    watched: Option<Watched>,
    said: String,
    result: Value,
    error: Value,
}

/// An operation that was begun.
#[derive(Debug)]
pub(super) struct Operation {
    id: String,
    prepared: Prepared,
    by: Option<String>,
    begun_at: DateTime<Utc>,
    stop: Arc<AtomicBool>,
    standing: Mutex<Standing>,
}

impl Operation {
    pub(super) fn new(id: String, prepared: Prepared, by: Option<&str>) -> Self {
        Self {
            id,
            prepared,
            by: by.map(str::to_owned),
            begun_at: now(),
            stop: Arc::default(),
            standing: Mutex::new(Standing {
                state: OperationState::Waiting,
                ended_at: None,
                watched: None,
                said: String::new(),
                result: Value::Null,
                error: Value::Null,
            }),
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn request(&self) -> &OperationRequest {
        &self.prepared.request
    }

    pub(super) fn command(&self) -> &str {
        &self.prepared.command
    }

    /// Relations of which it shows rows.
    pub(super) fn reads(&self) -> &[String] {
        &self.prepared.reads
    }

    /// Who began it.
    pub(super) fn by(&self) -> Option<&str> {
        self.by.as_deref()
    }

    /// Set to stop it.
    pub(super) fn stop(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Waits until it is to stop.
    pub(super) async fn is_stopped(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.standing.lock().ended_at.is_some()
    }

    /// How long it has run, in seconds.
    pub(super) fn seconds(&self) -> f64 {
        let ended = self.standing.lock().ended_at.unwrap_or_else(now);
        (ended - self.begun_at).as_seconds_f64().max(0.0)
    }

    /// Its turn has come.
    ///
    /// # Errors
    /// `Conflict` where it was stopped while it waited.
    pub(super) fn begins(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Conflict(
                "it was stopped before it began; nothing was changed".into(),
            ));
        }
        self.standing.lock().state = OperationState::Running;
        Ok(())
    }

    /// A verification is watched from now on.
    pub(super) fn watches(&self, progress: &Arc<VerifyProgress>) {
        let watched = Watched::Verification(Arc::downgrade(progress));
        self.standing.lock().watched = Some(watched);
    }

    /// Notes what came of it. Returns how the audit log calls that.
    pub(super) fn end(&self, done: Result<Done>) -> &'static str {
        let mut standing = self.standing.lock();
        standing.ended_at = Some(now());
        standing.watched = None;
        let (state, outcome) = match done {
            Ok(done) => {
                standing.result = done.result;
                match done.found_something {
                    true => (OperationState::Differs, "done"),
                    false => (OperationState::Done, "done"),
                }
            }
            Err(e) => {
                standing.error = json!({ "error": e.to_string(), "kind": e.kind().to_string() });
                if let Some((line, column)) = e.place() {
                    standing.error["line"] = line.into();
                    standing.error["column"] = column.into();
                }
                match self.stop.load(Ordering::Relaxed) {
                    true => (OperationState::Stopped, "cancelled"),
                    false => (OperationState::Failed, "failed"),
                }
            }
        };
        standing.state = state;
        outcome
    }

    /// It as it is told, with what it said where that is wanted.
    pub(super) fn json(&self, whole: bool) -> Value {
        let standing = self.standing.lock();
        let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Millis, true);
        let progress = standing.watched.as_ref().and_then(Watched::progress);
        let mut value = json!({
            "id": self.id, "do": self.request().name(), "of": self.prepared.of,
            "command": self.prepared.command, "by": self.by,
            "begun_at": time(self.begun_at), "ended_at": standing.ended_at.map(time),
            "state": standing.state,
            "progress": progress.map(|(done, total)| json!({ "done": done, "total": total })),
            "error": standing.error,
        });
        if whole {
            value["said"] = standing.said.as_str().into();
            value["result"] = standing.result.clone();
        }
        value
    }
}

impl Tells for Operation {
    fn builds(&self, _: &str, progress: &Arc<FoldProgress>) {
        self.standing.lock().watched = Some(Watched::Build(Arc::downgrade(progress)));
    }

    fn says(&self, text: &str) -> Result<()> {
        let said = &mut self.standing.lock().said;
        let mut room = MOST_SAID.saturating_sub(said.len()).min(text.len());
        while !text.is_char_boundary(room) {
            room -= 1;
        }
        said.push_str(&text[..room]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_bounded() -> Result<()> {
        let prepared = Prepared {
            request: OperationRequest::Refresh {
                view: "words".to_owned(),
            },
            of: "words".to_owned(),
            command: "anabranch batch refresh words".to_owned(),
            reads: Vec::new(),
        };
        let operation = Operation::new("1".to_owned(), prepared, None);
        for _ in 0..3 {
            operation.says(&"ü".repeat(MOST_SAID / 4 + 1))?;
        }
        let said = operation.standing.lock().said.clone();
        assert!(said.len() <= MOST_SAID && said.len() + 2 > MOST_SAID);
        assert!(said.chars().all(|c| c == 'ü'));
        Ok(())
    }
}
