//! What came of a topic's records: totals since the daemon started, and which share of the last
//! minutes' records became dead letters. Pure: the clock is an argument.

use std::collections::VecDeque;

use anabranch_shared::settings::DeadLetterShare;

/// The time over which the share is taken, in microseconds.
const SHARE_OVER_US: i64 = 5 * 60 * 1_000_000;

/// What is counted together, in microseconds: a thirtieth of that.
const STEP_US: i64 = SHARE_OVER_US / 30;

/// When a topic's dead letters are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetterBound {
    /// More than this share of the records of five minutes.
    pub share: DeadLetterShare,
    /// At least so many of them.
    pub count: u64,
}

/// Records, by what came of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IntakeCount {
    /// Facts.
    pub facts: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Duplicates.
    pub duplicates: u64,
}

impl IntakeCount {
    /// All of them.
    pub fn records(&self) -> u64 {
        self.facts + self.dead_letters + self.duplicates
    }

    /// Adds another count.
    pub fn add(&mut self, other: &Self) {
        self.facts += other.facts;
        self.dead_letters += other.dead_letters;
        self.duplicates += other.duplicates;
    }
}

/// What came of a topic's records.
///
/// Invariant: the steps are in the order of time.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    total: IntakeCount,
    steps: VecDeque<(i64, IntakeCount)>,
}

impl Intake {
    /// Counts records that came at a time in microseconds since 1970.
    pub(crate) fn note(&mut self, count: &IntakeCount, now_us: i64) {
        self.total.add(count);
        let step = now_us.div_euclid(STEP_US);
        self.forget(step);
        // Where the clock went back the records count for the latest step.
        match self.steps.back_mut() {
            Some((last, sum)) if *last >= step => sum.add(count),
            _ => self.steps.push_back((step, *count)),
        }
    }

    /// Since the daemon started.
    pub(crate) fn total(&self) -> IntakeCount {
        self.total
    }

    /// Why the dead letters are too many at a time in microseconds since 1970, if they are.
    pub(crate) fn too_many_dead(&self, bound: &DeadLetterBound, now_us: i64) -> Option<String> {
        let DeadLetterShare::Percent(percent) = bound.share else {
            return None;
        };
        let oldest = Self::oldest(now_us.div_euclid(STEP_US));
        let mut sum = IntakeCount::default();
        let recent = self.steps.iter().filter(|(step, _)| *step > oldest);
        recent.for_each(|(_, count)| sum.add(count));
        let (dead, records) = (sum.dead_letters, sum.records());
        let above = u128::from(dead) * 100 > u128::from(records) * u128::from(percent);
        (above && dead >= bound.count).then(|| {
            format!(
                "{dead} of {records} records of the last 5 minutes are dead letters, more than {percent}% (`dead_letter_share`); `anabranch dead-letters list` shows why"
            )
        })
    }

    fn oldest(step: i64) -> i64 {
        step.saturating_sub(SHARE_OVER_US / STEP_US)
    }

    fn forget(&mut self, step: i64) {
        let oldest = Self::oldest(step);
        while self.steps.front().is_some_and(|(step, _)| *step <= oldest) {
            self.steps.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn count(facts: u64, dead_letters: u64) -> IntakeCount {
        IntakeCount {
            facts,
            dead_letters,
            duplicates: 0,
        }
    }

    #[test]
    fn many_dead_letters_are_too_many_until_their_share_falls_or_they_are_long_ago() {
        let bound = DeadLetterBound {
            share: DeadLetterShare::Percent(50),
            count: 10,
        };
        let mut intake = Intake::default();
        let mut at = 1_000 * SECOND;
        intake.note(&count(0, 9), at);
        assert_eq!(intake.too_many_dead(&bound, at), None, "too few to tell");
        intake.note(&count(9, 1), at);
        let why = intake.too_many_dead(&bound, at).unwrap_or_default();
        assert!(why.starts_with("10 of 19 records"), "{why}");
        let off = DeadLetterBound {
            share: DeadLetterShare::Off,
            ..bound
        };
        assert_eq!(intake.too_many_dead(&off, at), None);
        at += 60 * SECOND;
        intake.note(&count(1, 0), at);
        assert_eq!(intake.too_many_dead(&bound, at), None, "half is not more");
        intake.note(&count(0, 1), at);
        assert!(intake.too_many_dead(&bound, at).is_some());
        at += 239 * SECOND;
        assert!(
            intake.too_many_dead(&bound, at).is_some(),
            "not yet five minutes"
        );
        at += 12 * SECOND;
        assert_eq!(
            intake.too_many_dead(&bound, at),
            None,
            "only the last is left"
        );
        assert_eq!(intake.total(), count(10, 11));
    }

    #[test]
    fn a_clock_that_goes_back_loses_no_count() {
        let bound = DeadLetterBound {
            share: DeadLetterShare::Percent(0),
            count: 2,
        };
        let mut intake = Intake::default();
        intake.note(&count(0, 1), 1_000 * SECOND);
        intake.note(&count(0, 1), 10 * SECOND);
        assert!(intake.too_many_dead(&bound, 1_000 * SECOND).is_some());
    }
}
