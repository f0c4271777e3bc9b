//! Reading one's own writes: an acknowledgement gives a token, and a statement that is asked with it
//! waits until its answer has seen those facts, at whichever door and daemon it is asked.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anabranch_shared::{Error, Offset, Offsets, PartitionId, Pin, Result};

/// How long a statement waits for what it has to have seen.
pub(crate) const WAIT: Duration = Duration::from_secs(5);

/// How often it is looked whether it is there.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The partitions that a token may name.
const MOST: usize = 1_000;

/// Up to where an answer has to have seen some topics: `topic:partition:offset`, with commas between
/// them, where the offset is the one after the last fact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AtLeast(BTreeMap<String, BTreeMap<PartitionId, Offset>>);

impl AtLeast {
    /// What an answer has not seen of that, if anything. Topics that the statement does not read don't
    /// count.
    pub(crate) fn missing(&self, pin: &Pin) -> Option<String> {
        self.0.iter().find_map(|(topic, wanted)| {
            let topics = pin.topics.get(topic).map(|t| &t.head);
            let views = pin.views.values();
            let views = views.filter(|v| v.view.topic().name == *topic);
            let heads = topics.into_iter().chain(views.map(|v| &v.head));
            heads
                .into_iter()
                .find_map(|head| lacks(topic, wanted, head))
        })
    }
}

fn lacks(topic: &str, wanted: &BTreeMap<PartitionId, Offset>, head: &Offsets) -> Option<String> {
    wanted.iter().find_map(|(partition, offset)| {
        let seen = head.get(*partition);
        (seen < *offset).then(|| {
            format!(
                "facts of `{topic}` up to offset {offset} of partition {partition} are wanted, and those up to {seen} are there after {} s",
                WAIT.as_secs()
            )
        })
    })
}

impl fmt::Display for AtLeast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (topic, wanted) in &self.0 {
            for (partition, offset) in wanted {
                let comma = if first { "" } else { "," };
                write!(f, "{comma}{topic}:{partition}:{offset}")?;
                first = false;
            }
        }
        Ok(())
    }
}

impl FromStr for AtLeast {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |part: &str| {
            Error::Invalid(format!(
                "`{}` is no token; write what an acknowledgement gives, such as `pageviews:0:133`, with commas between several",
                part.escape_debug()
            ))
        };
        let mut all = Self::default();
        for (n, part) in text.split(',').map(str::trim).enumerate() {
            if part.is_empty() {
                continue;
            }
            let mut fields = part.split(':');
            let (Some(topic), Some(partition), Some(offset), None) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                return Err(wrong(part));
            };
            let partition: i32 = partition.parse().map_err(|_| wrong(part))?;
            let offset: i64 = offset.parse().map_err(|_| wrong(part))?;
            if topic.is_empty() || offset < 0 || n >= MOST {
                return Err(wrong(part));
            }
            let wanted = all.0.entry(topic.to_owned()).or_default();
            let wanted = wanted
                .entry(PartitionId(partition))
                .or_insert(Offset(offset));
            *wanted = (*wanted).max(Offset(offset));
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn tokens_are_read_and_the_highest_counts() {
        let read: AtLeast = "facts:0:7, other:1:2,facts:0:5,facts:3:1".parse().unwrap();
        assert_eq!(read.to_string(), "facts:0:7,facts:3:1,other:1:2");
        assert_eq!("".parse::<AtLeast>().unwrap(), AtLeast::default());
        for wrong in [
            "x",
            "a:b:c",
            "a:0",
            "a:0:1:2",
            ":0:1",
            "a:0:-1",
            "a:0:99999999999999999999",
        ] {
            assert!(wrong.parse::<AtLeast>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_there_is_named() {
        let wanted = BTreeMap::from([(PartitionId(0), Offset(7)), (PartitionId(1), Offset(2))]);
        let mut head = Offsets::default();
        head.set(PartitionId(0), Offset(7));
        let missing = lacks("facts", &wanted, &head).unwrap();
        assert!(missing.contains("offset 2 of partition 1"), "{missing}");
        head.set(PartitionId(1), Offset(3));
        assert_eq!(lacks("facts", &wanted, &head), None);
        assert_eq!(AtLeast::default().missing(&Pin::default()), None);
    }
}
