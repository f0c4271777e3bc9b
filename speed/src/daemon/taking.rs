//! Records that come by a door: which topic takes them, and when they are acknowledged.

use std::sync::Arc;
use std::time::Instant;

use anabranch_shared::{Error, Result, nearest};

use crate::daemon::Daemon;
use crate::topic::{Input, TopicStream, Write, WriteOutcome};

/// That there is no such topic, and how one comes to be.
fn no_topic<'t>(name: &str, known: impl Iterator<Item = &'t str> + Clone) -> Error {
    let near = nearest(name, known.clone());
    let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
    let known: Vec<&str> = known.collect();
    let there_are = match known.is_empty() {
        true => "there are none".to_owned(),
        false => format!("the topics are: {}", known.join(", ")),
    };
    Error::NotFound(format!(
        "no topic `{name}`{near} ({there_are}); to add one write a table `[topics.{name}]` in `anabranch.toml` and start the daemon again, which declares it"
    ))
}

impl Daemon {
    /// A topic of the daemon.
    ///
    /// # Errors
    /// `NotFound` where it has none of that name.
    pub fn topic(&self, name: &str) -> Result<Arc<TopicStream>> {
        let topics = self.topics();
        let found = topics.get(name).cloned();
        found.ok_or_else(|| no_topic(name, topics.keys().map(String::as_str)))
    }

    /// Writes records to a topic. They are as durable as it says, and queries see them, when this
    /// returns.
    ///
    /// # Errors
    /// `NotFound` where there is no such topic; `Unavailable` where nothing is taken in now; what is
    /// wrong with the records.
    pub async fn take(self: &Arc<Self>, topic: &str, write: Write) -> Result<WriteOutcome> {
        // Whoever stops waits for those that have come so far.
        let _open = self.enter().await?;
        let begun = Instant::now();
        let stream = self.topic(topic)?;
        let known = stream.topic();
        // What was admitted elsewhere may have a field that was declared a moment ago.
        let again = matches!(write.input, Input::Payload(_)).then(|| write.clone());
        let outcome = match (stream.writer().write(write).await, again) {
            (Err(Error::Unavailable(why)), Some(again)) => {
                self.follow_catalogue().await;
                match stream.topic() == known {
                    true => Err(Error::Unavailable(why)),
                    false => stream.writer().write(again).await,
                }
            }
            (written, _) => written,
        }?;
        self.options.metrics.acknowledged(topic, begun.elapsed());
        Ok(outcome)
    }
}
