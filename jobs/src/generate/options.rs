//! What to generate, and which options no facts can be made for.

use std::time::Duration;

use chrono::{DateTime, Utc};

const MAX_SPAN: Duration = Duration::from_secs(3660 * 24 * 60 * 60);
/// The last year that every format of the log can hold in full is 2261.
const MAX_END: &str = "2262-01-01T00:00:00Z";
const MAX_END_US: i64 = 9_214_646_400_000_000;
/// The posts' text is addressed by 32 bits.
const MAX_POSTS: u32 = 10_000_000;

const DEFAULT_SPAN: Duration = Duration::from_secs(48 * 60 * 60);
const DEFAULT_LATE: f64 = 0.02;

/// What to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratorOptions {
    /// Number of facts, duplicates included.
    pub facts: u64,
    /// Another seed gives other facts of the same kind.
    pub seed: u64,
    /// No event time is at or after this; at most the end of 2261. Taken to the microsecond.
    pub end: DateTime<Utc>,
    /// Event times are in `[end - span, end)`; at least a microsecond, at most 3,660 days, and
    /// not reaching before 1970.
    pub span: Duration,
    /// Share of facts that are exact copies of one of the facts shortly before, in `[0, 1)`.
    pub duplicates: f64,
    /// Share of facts that come 2 minutes to 8.5 hours after their event time, in `[0, 1]`.
    pub late: f64,
    /// Share of page views that a visitor opens from another page, in `[0, 1)`; the others are each of
    /// a visitor who comes anew.
    pub goes_on: f64,
    /// Number of posts, at least 1, at most 10 million, of which half were published long before
    /// the first fact. `None` follows the facts a minute: five posts for each two of them over
    /// 48 hours, more over a longer span; at least 64, at most 250,000. Memory is about 200 bytes
    /// a post.
    pub posts: Option<u32>,
    /// Number of visitors who may come, at least 1. `None` is one for eight facts, at least 100.
    pub visitors: Option<u32>,
}

impl GeneratorOptions {
    /// The facts of 48 hours, 2 % of them late, none of them duplicates.
    #[must_use]
    pub fn new(facts: u64, seed: u64, end: DateTime<Utc>) -> Self {
        Self {
            facts,
            seed,
            end,
            span: DEFAULT_SPAN,
            duplicates: 0.0,
            late: DEFAULT_LATE,
            goes_on: 0.0,
            posts: None,
            visitors: None,
        }
    }

    /// The start and the end in microseconds since 1970, if all options are in their ranges.
    pub(super) fn check(&self) -> Result<(u64, u64), GeneratorError> {
        let Self {
            end,
            span,
            duplicates,
            late,
            goes_on,
            ..
        } = *self;
        for (name, value) in [("duplicates", duplicates), ("goes_on", goes_on)] {
            if !(0.0..1.0).contains(&value) {
                return Err(GeneratorError::Share { name, value });
            }
        }
        if !(0.0..=1.0).contains(&late) {
            return Err(GeneratorError::Share {
                name: "late",
                value: late,
            });
        }
        for (name, value, most) in [
            ("posts", self.posts, MAX_POSTS),
            ("visitors", self.visitors, u32::MAX),
        ] {
            if let Some(value) = value
                && !(1..=most).contains(&value)
            {
                return Err(GeneratorError::Count { name, value, most });
            }
        }
        if span > MAX_SPAN || span.as_micros() == 0 {
            return Err(GeneratorError::Span { span });
        }
        let span_us = span.as_micros() as u64;
        let end_us = end.timestamp_micros();
        let start_us = u64::try_from(end_us)
            .ok()
            .and_then(|end_us| end_us.checked_sub(span_us));
        match start_us {
            Some(start_us) if end_us <= MAX_END_US => Ok((start_us, start_us + span_us)),
            _ => Err(GeneratorError::End { end, span }),
        }
    }
}

/// Options that no facts can be made for.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GeneratorError {
    /// The span is empty, or longer than the generator keeps a rate for.
    #[error("the span `{span:?}` is outside 1 µs to 3660 days; give another `span`")]
    Span {
        /// The span that was asked for.
        span: Duration,
    },
    /// The span reaches before 1970 or after what a log can hold.
    #[error(
        "the time from `{end}` back by `{span:?}` is not within `1970-01-01T00:00:00Z` to \
         `{MAX_END}`; give another `end`"
    )]
    End {
        /// The end that was asked for.
        end: DateTime<Utc>,
        /// The span that was asked for.
        span: Duration,
    },
    /// A share is not a share.
    #[error("`{name}` is {value}; give a share from 0 to below 1, or up to 1 for `late`")]
    Share {
        /// The option's name: `duplicates`, `goes_on` or `late`.
        name: &'static str,
        /// Its value.
        value: f64,
    },
    /// There are no posts, no visitors, or too many.
    #[error("`{name}` is {value}; give a number from 1 to {most}")]
    Count {
        /// The option's name: `posts` or `visitors`.
        name: &'static str,
        /// Its value.
        value: u32,
        /// What it may be at most.
        most: u32,
    },
}
