//! What a follower of a view is told, as JSON objects in text, whatever door it came by: the answer, what
//! it missed, and from then on what changes. `op` says what each is:
//!
//! | `op` | with | what it says |
//! |---|---|---|
//! | `reset` | `view`, `generation`, `key` | forget what you have: the whole answer follows |
//! | `row` | `new` | a row of it |
//! | `added`, `changed`, `removed` | `old`, `new` | a row that is another one |
//! | `at` | `token` | all of that is one answer, and this is where you are |
//! | `cut_over` | `generation` | another generation answers, and what differs follows |
//! | `failed` | `error` | the view can't be computed; it is tried again |
//! | `alive` | | nothing has changed for a while |
//! | `gone` | `error` | there is no more to follow |

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use anabranch_shared::{Error, Result, Stop, StopReason};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::{Begun, Changed, Following, Step, lines_of};
use crate::caller::Caller;
use crate::identity::Identity;

/// After how long it is told that nothing has changed.
const ALIVE_EVERY: Duration = Duration::from_secs(15);

/// How long the answer at the beginning may be computed and read.
const WHOLE_WITHIN: Duration = Duration::from_secs(600);

/// Parts that may wait for the reader.
const WAITING: usize = 2;

/// Bytes that are sent at once.
const PART: usize = 64 << 10;

/// What somebody wants to be told.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// The view.
    pub(crate) view: &'a str,
    /// Where they are: what was missed follows, where that is known.
    pub(crate) token: Option<&'a str>,
    /// Whether the answer itself is wanted where they are nowhere.
    pub(crate) snapshot: bool,
    /// Whether objects come as server-sent events, and not as one a line.
    pub(crate) is_events: bool,
}

/// Why a stream ends before its view does.
enum Ended {
    /// Its reader has left.
    Left,
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(e: Error) -> Self {
        Self::Failed(e)
    }
}

/// A stream of changes to one reader.
struct Reader {
    following: Arc<Following>,
    view: String,
    identity: Identity,
    send: mpsc::Sender<Bytes>,
    is_events: bool,
    out: String,
}

impl Following {
    /// Follows a view for somebody, until they drop what they are told. Parts end with objects.
    ///
    /// # Errors
    /// As [`Following::follow`], and those of records that have to be kept of it.
    pub(crate) async fn tell(
        self: &Arc<Self>,
        caller: &Caller,
        wanted: Wanted<'_>,
    ) -> Result<mpsc::Receiver<Bytes>> {
        let identity = caller.identity.clone();
        let begun = self
            .follow(wanted.view, identity.rights(), wanted.token)
            .await?;
        self.service().note_following(caller, wanted.view)?;
        let (send, told) = mpsc::channel(WAITING);
        let closing = self.closing().clone();
        let wants_whole = wanted.snapshot || wanted.token.is_some();
        let mut reader = Reader {
            following: self.clone(),
            view: wanted.view.to_owned(),
            identity,
            send,
            is_events: wanted.is_events,
            out: String::new(),
        };
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = reader.serve(begun, wants_whole) => ended,
                () = closing.cancelled() => Err(Error::Unavailable("the daemon stops; follow again with the token".to_owned()).into()),
            };
            if let Err(Ended::Failed(e)) = ended {
                reader.out.clear();
                reader.error("gone", &e.to_string());
                reader.flush().await.ok();
            }
        });
        Ok(told)
    }
}

impl Reader {
    /// Writes an object; where it says where the reader is, browsers keep that.
    fn object(&mut self, op: &str, json: &str, token: Option<&str>) {
        // Writing to memory does not fail.
        match self.is_events {
            false => writeln!(self.out, "{json}").ok(),
            true => {
                if let Some(token) = token {
                    writeln!(self.out, "id: {token}").ok();
                }
                write!(self.out, "event: {op}\ndata: {json}\n\n").ok()
            }
        };
    }

    fn error(&mut self, op: &str, why: &str) {
        let json = serde_json::json!({ "op": op, "error": why }).to_string();
        self.object(op, &json, None);
    }

    fn at(&mut self, token: &str) {
        let json = serde_json::json!({ "op": "at", "token": token }).to_string();
        self.object("at", &json, Some(token));
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        let part = std::mem::take(&mut self.out);
        match part.is_empty() {
            true => Ok(()),
            false => self.send.send(part.into()).await.map_err(|_| Ended::Left),
        }
    }

    async fn flush_if_full(&mut self) -> Result<(), Ended> {
        match self.out.len() >= PART {
            true => self.flush().await,
            false => Ok(()),
        }
    }

    async fn serve(&mut self, mut begun: Begun, mut wants_whole: bool) -> Result<(), Ended> {
        loop {
            match std::mem::take(&mut begun.missed) {
                Some(missed) => {
                    for step in missed {
                        self.step(&step).await?;
                    }
                }
                None if wants_whole => self.whole(&begun).await?,
                None => {}
            }
            self.at(&begun.at);
            self.flush().await?;
            if self.follow(&mut begun).await? {
                return Ok(());
            }
            // From here on the reader has the answer, or wants it anew.
            wants_whole = true;
            let rights = self.identity.rights();
            begun = self.following.follow(&self.view, rights, None).await?;
        }
    }

    /// The whole answer.
    async fn whole(&mut self, begun: &Begun) -> Result<(), Ended> {
        let pinned = &begun.pinned;
        let head = serde_json::json!({
            "op": "reset",
            "view": self.view,
            "generation": pinned.pin.generation.0,
            "key": pinned.key_names(),
        });
        self.object("reset", &head.to_string(), None);
        let stop = Stop::after(WHOLE_WITHIN);
        // Whoever leaves ends the work.
        let _stopped = Stopped(stop.clone());
        let mut rows = self.following.pinned_rows(pinned, None, &stop).await?;
        while let Some(batch) = stop
            .within(async { Ok(rows.next().await.transpose()?) })
            .await?
        {
            for row in lines_of(&batch)? {
                self.object("row", &format!(r#"{{"op":"row","new":{row}}}"#), None);
                self.flush_if_full().await?;
            }
        }
        Ok(())
    }

    /// Tells what happens, until the view is gone, or the reader has to begin anew.
    async fn follow(&mut self, begun: &mut Begun) -> Result<bool, Ended> {
        loop {
            let step = tokio::time::timeout(ALIVE_EVERY, begun.steps.recv()).await;
            match step {
                Err(_) => self.object("alive", r#"{"op":"alive"}"#, None),
                Ok(Ok(step)) => match step.as_ref() {
                    Step::Reset => return Ok(false),
                    Step::Gone(why) => {
                        self.error("gone", why);
                        self.flush().await?;
                        return Ok(true);
                    }
                    _ => self.step(&step).await?,
                },
                // It reads more slowly than the view changes, or the feed has ended.
                Ok(Err(RecvError::Lagged(_) | RecvError::Closed)) => return Ok(false),
            }
            self.flush().await?;
        }
    }

    async fn step(&mut self, step: &Step) -> Result<(), Ended> {
        match step {
            Step::Changed(changed) => self.changed(changed).await,
            Step::Failed(why) => {
                self.error("failed", why);
                Ok(())
            }
            Step::Reset | Step::Gone(_) => Ok(()),
        }
    }

    async fn changed(&mut self, changed: &Changed) -> Result<(), Ended> {
        if let Some(generation) = changed.generation {
            let json = serde_json::json!({ "op": "cut_over", "generation": generation });
            self.object("cut_over", &json.to_string(), None);
        }
        for event in &changed.events {
            let text = String::from_utf8_lossy(event);
            self.object("change", &text, None);
            self.flush_if_full().await?;
        }
        self.at(&changed.to);
        Ok(())
    }
}

/// Ends work when this is dropped.
struct Stopped(Stop);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.stop(StopReason::Gone);
    }
}
