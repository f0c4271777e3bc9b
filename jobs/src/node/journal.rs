//! What a daemon tells of its intake and of what it refused, in its log: at most a line for each topic
//! and each kind of refusal every few seconds, and none where nothing came.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anabranch_speed::{Accepted, Daemon, IntakeCount};
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use parking_lot::Mutex;

/// How often it is told.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Kinds of refusals that are told apart at once: who asks chooses their paths.
const KINDS: usize = 100;

/// Bytes of a refusal that are read for its reason.
const MOST_SAID: usize = 64 << 10;

/// What is asked again and again to see how a daemon is: a 503 there says that it is not ready.
const STATE: [&str; 4] = ["/health", "/ready", "/status", "/metrics"];

/// What came to a topic at the doors since it was last told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Came {
    requests: u64,
    bytes: u64,
    /// Why the first record that became none became no fact.
    dead: Option<String>,
}

/// What was refused since it was last told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Refused {
    requests: u64,
    /// Why the last one was.
    why: String,
}

/// What is to be told.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    came: Mutex<BTreeMap<String, Came>>,
    /// By what was asked for, and the status.
    refused: Mutex<BTreeMap<(String, u16), Refused>>,
    /// What of each topic's records was told.
    told: Mutex<BTreeMap<String, IntakeCount>>,
}

impl Journal {
    pub(crate) fn note(&self, accepted: &Accepted) {
        let mut came = self.came.lock();
        let topic = came.entry(accepted.topic.clone()).or_default();
        topic.requests += 1;
        topic.bytes += accepted.bytes;
        if topic.dead.is_none() {
            topic.dead.clone_from(&accepted.first_dead_letter);
        }
    }

    fn refuse(&self, path: &str, status: u16, why: String) {
        // Only of what there is are there few.
        let path = match status {
            403..=405 => path.split('/').take(2).collect::<Vec<_>>().join("/"),
            _ => path.to_owned(),
        };
        let mut refused = self.refused.lock();
        let key = match refused.len() < KINDS {
            true => (path, status),
            false => ("other paths".to_owned(), status),
        };
        let kind = refused.entry(key).or_default();
        kind.requests += 1;
        kind.why = why;
    }

    /// Tells what came and what was refused since it was last told.
    pub(crate) fn tell(&self, daemon: &Daemon) {
        let mut came = std::mem::take(&mut *self.came.lock());
        for (topic, stream) in daemon.topics().iter() {
            let all = stream.writer().intake();
            let before = self.told.lock().insert(topic.clone(), all);
            let new = since(&all, &before.unwrap_or_default());
            let over_http = came.remove(topic).unwrap_or_default();
            if new.records() > 0 {
                let Came {
                    requests, bytes, ..
                } = over_http;
                tracing::info!(
                    %topic,
                    facts = new.facts,
                    duplicates = new.duplicates,
                    requests,
                    bytes,
                    "took in"
                );
            }
            if new.dead_letters > 0 {
                tracing::warn!(
                    %topic,
                    dead_letters = new.dead_letters,
                    first = over_http.dead,
                    "records became dead letters; `anabranch dead-letters list --topic {topic}` shows them"
                );
            }
        }
        for ((path, status), refused) in std::mem::take(&mut *self.refused.lock()) {
            let Refused { requests, why } = refused;
            tracing::info!(%path, status, requests, last = %why, "refused");
        }
    }

    /// Tells again and again.
    pub(crate) async fn keep(self: Arc<Self>, daemon: Arc<Daemon>) {
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            self.tell(&daemon);
        }
    }
}

/// What of a count is new.
fn since(all: &IntakeCount, before: &IntakeCount) -> IntakeCount {
    IntakeCount {
        facts: all.facts.saturating_sub(before.facts),
        dead_letters: all.dead_letters.saturating_sub(before.dead_letters),
        duplicates: all.duplicates.saturating_sub(before.duplicates),
    }
}

/// Lets a request through, and notes what came of it.
pub(crate) async fn note(
    State(journal): State<Arc<Journal>>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path().to_owned();
    let answer = next.run(request).await;
    if let Some(accepted) = answer.extensions().get::<Accepted>() {
        journal.note(accepted);
    }
    let status = answer.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || STATE.contains(&path.as_str()) {
        return answer;
    }
    let (head, body) = answer.into_parts();
    let said = to_bytes(body, MOST_SAID).await.unwrap_or_default();
    let why = serde_json::from_slice::<serde_json::Value>(&said).ok();
    let why = why.and_then(|w| w["error"].as_str().map(str::to_owned));
    // Of a drawing the first line says what it is.
    let why = why.unwrap_or_default();
    let why = why.lines().next().unwrap_or_default().to_owned();
    journal.refuse(&path, status.as_u16(), why);
    Response::from_parts(head, Body::from(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_one_kind_are_one_and_paths_that_are_not_there_are_together() {
        let journal = Journal::default();
        journal.refuse("/topics/a", 400, "first".into());
        journal.refuse("/topics/a", 400, "last".into());
        journal.refuse("/topics/nope", 404, "no topic".into());
        journal.refuse("/topics/neither", 404, "no topic".into());
        for n in 0..1_000 {
            journal.refuse(&format!("/topics/{n}"), 413, String::new());
        }
        let refused = journal.refused.lock();
        let of = |path: &str, status| refused.get(&(path.to_owned(), status)).cloned();
        let last = Refused {
            requests: 2,
            why: "last".into(),
        };
        assert_eq!(of("/topics/a", 400), Some(last));
        assert_eq!(of("/topics", 404).map(|r| r.requests), Some(2));
        assert_eq!(refused.len(), KINDS + 1);
        let all: u64 = refused.values().map(|r| r.requests).sum();
        assert_eq!(all, 1_004);
    }
}
