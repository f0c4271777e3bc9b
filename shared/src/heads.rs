//! Places in the logs of topics, as people write them: `topic:partition:offset`, with commas between
//! several, where the offset is the one after the last fact.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Offset, Offsets, PartitionId, Result};

/// The places that a text may name.
const MOST: usize = 1_000;

/// Up to where some topics are meant, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Heads(BTreeMap<String, Offsets>);

impl Heads {
    /// Where a topic stands, if it is named.
    pub fn get(&self, topic: &str) -> Option<&Offsets> {
        self.0.get(topic)
    }

    /// Whether none is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The topics, in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Offsets)> {
        self.0.iter().map(|(topic, at)| (topic.as_str(), at))
    }

    /// Names a topic.
    pub fn set(&mut self, topic: &str, at: Offsets) {
        self.0.insert(topic.to_owned(), at);
    }
}

impl fmt::Display for Heads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = self.iter();
        let places = places.flat_map(|(topic, at)| at.iter().map(move |at| (topic, at)));
        for (nth, (topic, (partition, offset))) in places.enumerate() {
            let comma = if nth == 0 { "" } else { "," };
            write!(f, "{comma}{topic}:{partition}:{offset}")?;
        }
        Ok(())
    }
}

impl From<Heads> for String {
    fn from(heads: Heads) -> Self {
        heads.to_string()
    }
}

impl TryFrom<String> for Heads {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl FromStr for Heads {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |part: &str| {
            Error::Invalid(format!(
                "`{}` is no place in a topic; write what an acknowledgement gives, such as `pageviews:0:133`, with commas between several",
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
            let at = all.0.entry(topic.to_owned()).or_default();
            at.raise(PartitionId(partition), Offset(offset));
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn places_are_read_and_the_highest_counts() {
        let read: Heads = "facts:0:7, other:1:2,facts:0:5,facts:3:1".parse().unwrap();
        assert_eq!(read.to_string(), "facts:0:7,facts:3:1,other:1:2");
        assert_eq!("".parse::<Heads>().unwrap(), Heads::default());
        for wrong in [
            "x",
            "a:b:c",
            "a:0",
            "a:0:1:2",
            ":0:1",
            "a:0:-1",
            "a:0:99999999999999999999",
        ] {
            assert!(wrong.parse::<Heads>().is_err(), "{wrong}");
        }
    }
}
