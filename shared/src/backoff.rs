//! Pauses between tries of something that fails: what fails again and again is asked ever less often.
//! Owns how long they are; everything in this project that is tried again takes them from here.
//! (Requests to an object store are repeated by its client, which has the same.)

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

/// Pauses that double from the first to the longest while tries fail, and begin anew once one went
/// well. Each is cut by chance, by up to half, so that those who have lost the same thing don't all
/// come back to it at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    /// How many tries have failed since one went well.
    failed: u32,
    /// When the next try is due.
    due: Option<Instant>,
    chance: u64,
}

impl Backoff {
    /// Pauses from `first` to `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self::by_chance(first, longest, RandomState::new().build_hasher().finish())
    }

    /// The same, by a chance that is known.
    pub fn by_chance(first: Duration, longest: Duration, seed: u64) -> Self {
        Self {
            first,
            longest,
            failed: 0,
            due: None,
            // Of 0 nothing else would come.
            chance: seed | 1,
        }
    }

    /// Notes that a try has failed. Returns the pause before the next.
    pub fn failed(&mut self, now: Instant) -> Duration {
        let doubled = 2_u32.saturating_pow(self.failed);
        let pause = self.first.saturating_mul(doubled).min(self.longest);
        self.failed = self.failed.saturating_add(1);
        // Xorshift: no more is wanted than that two processes differ.
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let part = (self.chance >> 32) as u32;
        let pause = pause - pause / 2 * (part >> 16) / (1 << 16);
        self.due = Some(now + pause);
        pause
    }

    /// Notes that a try went well.
    pub fn succeeded(&mut self) {
        (self.failed, self.due) = (0, None);
    }

    /// Whether a try is due.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| now >= due)
    }

    /// Whether the last try has failed.
    pub fn is_failing(&self) -> bool {
        self.failed > 0
    }

    /// How many tries have failed since one went well.
    pub fn tries(&self) -> u32 {
        self.failed
    }

    /// How long it is until the next try.
    pub fn wait(&self, now: Instant) -> Duration {
        self.due
            .map_or(Duration::ZERO, |due| due.saturating_duration_since(now))
    }
}

/// For people: how often something has failed, and when it is tried again.
pub fn retry_text(backoff: &Backoff, now: Instant) -> String {
    let again = match backoff.wait(now).as_millis().div_ceil(1_000) {
        0 => "now".to_owned(),
        seconds => format!("in {seconds} s"),
    };
    let times = match backoff.tries() {
        1 => "once".to_owned(),
        tries => format!("{tries} times in a row"),
    };
    format!("it has failed {times}, and the next try is {again}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(30);

    #[test]
    fn pauses_double_up_to_the_longest_and_differ() {
        let now = Instant::now();
        let mut all = Vec::new();
        for seed in 0..200 {
            let mut backoff = Backoff::by_chance(FIRST, LONGEST, seed);
            let mut whole = FIRST;
            for tries in 1..100 {
                let pause = backoff.failed(now);
                assert!((whole / 2..=whole).contains(&pause), "{tries}: {pause:?}");
                assert_eq!(backoff.tries(), tries);
                assert!(!backoff.is_due(now) && backoff.is_due(now + pause));
                assert_eq!(backoff.wait(now), pause);
                whole = (whole * 2).min(LONGEST);
                all.push(pause);
            }
        }
        all.sort_unstable();
        all.dedup();
        assert!(all.len() > 5_000, "{}", all.len());
    }

    #[test]
    fn what_goes_well_begins_anew() {
        let now = Instant::now();
        let mut backoff = Backoff::new(FIRST, LONGEST);
        assert!(backoff.is_due(now) && !backoff.is_failing());
        (0..20).for_each(|_| {
            backoff.failed(now);
        });
        assert!(!backoff.is_due(now + LONGEST / 3));
        backoff.succeeded();
        assert!(backoff.is_due(now) && !backoff.is_failing());
        assert!(backoff.failed(now) <= FIRST);
    }
}
