//! Moments that have passed, of which an answer may be.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::heads::Heads;
use crate::receipt::Receipt;
use crate::{Error, Result};

/// Whether a topic may be called so.
fn is_name(topic: &str) -> bool {
    topic.starts_with(|first: char| first.is_ascii_lowercase())
}

/// A moment of which an answer may be: of what had been admitted by then, or of places in the logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A time. Of each partition the facts up to the first that was admitted later.
    Time(DateTime<Utc>),
    /// Places in the topics' logs; a partition that is not named stands at its beginning.
    Heads(Heads),
    /// The places that a receipt names, at its time.
    Receipt(Box<Receipt>),
}

impl Moment {
    /// The places, where places are meant.
    pub fn heads(&self) -> Option<&Heads> {
        match self {
            Self::Time(_) => None,
            Self::Heads(heads) => Some(heads),
            Self::Receipt(receipt) => Some(&receipt.claims().heads),
        }
    }

    /// What time it was then, where that is said.
    pub fn time(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::Time(at) => Some(*at),
            Self::Heads(_) => None,
            Self::Receipt(receipt) => Some(receipt.claims().asked_at),
        }
    }

    /// The same in few words.
    pub fn in_short(&self) -> String {
        match self {
            Self::Receipt(receipt) => {
                let claims = receipt.claims();
                format!("{} (a receipt of {})", claims.heads, told(&claims.asked_at))
            }
            moment => moment.to_string(),
        }
    }
}

fn told(time: &DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(at) => f.write_str(&told(at)),
            Self::Heads(heads) => heads.fmt(f),
            Self::Receipt(receipt) => receipt.fmt(f),
        }
    }
}

impl FromStr for Moment {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        if let Ok(time) = text.parse::<DateTime<Utc>>() {
            return Ok(Self::Time(time));
        }
        if Receipt::is_begun_by(text) {
            return Ok(Self::Receipt(Box::new(text.parse()?)));
        }
        match text.parse::<Heads>() {
            // A time without its zone could be read as a place.
            Ok(heads) if heads.iter().all(|(topic, _)| is_name(topic)) && !heads.is_empty() => {
                Ok(Self::Heads(heads))
            }
            _ => Err(Error::Invalid(format!(
                "`{}` is no moment; write a time with its zone, such as `2026-11-28T10:00:00Z`, places in topics, such as `pageviews:0:133`, or a receipt",
                text.escape_debug()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_moment_is_a_time_or_places() {
        for (text, read) in [
            ("2026-11-28T11:00:00.5+01:00", "2026-11-28T10:00:00.500Z"),
            (" 2026-11-28 10:00:00Z", "2026-11-28T10:00:00Z"),
            ("b:1:2,a:0:3", "a:0:3,b:1:2"),
        ] {
            let moment: Moment = text.parse().unwrap();
            assert_eq!(moment.to_string(), read);
            assert_eq!(read.parse::<Moment>().unwrap(), moment);
        }
        for wrong in ["", "yesterday", "2026-11-28", "2026-11-28T10:00:00", "a:0"] {
            let said = wrong.parse::<Moment>().unwrap_err().to_string();
            assert!(said.contains("is no moment"), "{said}");
        }
    }
}
