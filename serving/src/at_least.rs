//! Reading one's own writes: an acknowledgement gives a token, and a statement that is asked with it
//! waits until its answer has seen those facts, at whichever door and daemon it is asked.

use std::time::Duration;

use anabranch_shared::{Heads, Offsets, Pin};

/// How long a statement waits for what it has to have seen.
pub(crate) const WAIT: Duration = Duration::from_secs(5);

/// How often it is looked whether it is there.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What an answer has not seen of the places that it has to have seen, if anything. Topics that the
/// statement does not read don't count.
pub(crate) fn missing(at_least: &Heads, pin: &Pin) -> Option<String> {
    at_least.iter().find_map(|(topic, wanted)| {
        let topics = pin.topics.get(topic).map(|t| &t.head);
        let views = pin.views.values();
        let views = views.filter(|v| v.view.topic().name == *topic);
        let mut heads = topics.into_iter().chain(views.map(|v| &v.head));
        heads.find_map(|head| lacks(topic, wanted, head))
    })
}

fn lacks(topic: &str, wanted: &Offsets, head: &Offsets) -> Option<String> {
    wanted.iter().find_map(|(partition, offset)| {
        let seen = head.get(partition);
        (seen < offset).then(|| {
            format!(
                "facts of `{topic}` up to offset {offset} of partition {partition} are wanted, and those up to {seen} are there"
            )
        })
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use anabranch_shared::{Offset, PartitionId};

    use super::*;

    #[test]
    fn what_is_not_there_is_named() {
        let wanted = [(PartitionId(0), Offset(7)), (PartitionId(1), Offset(2))];
        let wanted = wanted.into_iter().collect();
        let mut head = Offsets::default();
        head.set(PartitionId(0), Offset(7));
        let said = lacks("facts", &wanted, &head).unwrap();
        assert!(said.contains("offset 2 of partition 1"), "{said}");
        head.set(PartitionId(1), Offset(3));
        assert_eq!(lacks("facts", &wanted, &head), None);
        assert_eq!(missing(&Heads::default(), &Pin::default()), None);
    }
}
