//! Which topic of Kafka it is that is read, whatever its name: Kafka gives each topic an id, and one
//! that was removed and made anew has another, although its offsets look the same.
//!
//! librdkafka tells an application of it in one way that needs no unsafe code: in what it logs about
//! metadata. A broker older than Kafka 2.8 gives none; then a topic that was made anew is noticed
//! only where it ends before the position.

/// An id of zero, which stands for none.
const NONE: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// What librdkafka is to log, besides what `properties` ask for.
pub(super) const DEBUG: &str = "topic";

/// The new id of a topic, where a line that librdkafka has logged tells of it.
pub(super) fn logged<'a>(line: &'a str, topic: &str) -> Option<&'a str> {
    let about = format!("Topic {topic} changed id from ");
    let (_, ids) = line.split_once(&about)?;
    let (_, new) = ids.split_once(" to ")?;
    let new = new.trim();
    (!new.is_empty() && new != NONE).then_some(new)
}

/// What a topic that was made anew is to its reader.
pub(super) fn made_anew(topic: &str, kafka: &str, before: &str, now: &str) -> String {
    format!(
        "topic `{topic}`: Kafka's topic `{kafka}` was made anew, or is another one: its id was {before} and is {now}; declare a new topic for it, or, where it is a copy with the same offsets, set `topic_id = \"{now}\"` in `[topics.{topic}.source.kafka]` and restart"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_what_is_logged() {
        let line =
            |from: &str, to: &str| format!("[thrd:main]: Topic a.b changed id from {from} to {to}");
        let known = line(NONE, "4xTQr0FqTcOOKNCWpoQWxw");
        assert_eq!(logged(&known, "a.b"), Some("4xTQr0FqTcOOKNCWpoQWxw"));
        assert_eq!(logged(&known, "a"), None);
        assert_eq!(logged(&line("4xTQr0FqTcOOKNCWpoQWxw", NONE), "a.b"), None);
        assert_eq!(
            logged("[thrd:main]: Topic a.b [0] Leader 1 Epoch 0", "a.b"),
            None
        );
    }
}
