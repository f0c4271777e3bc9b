//! Work that nobody waits for gives way to answers: a landing would take a processor for most of a
//! second, and on a small machine a query takes twice as long then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Answers that were wanted within this time are thought to be wanted still.
const LATELY: Duration = Duration::from_secs(1);

/// Work goes on so long before a pause.
const STRETCH: Duration = Duration::from_millis(5);

/// A pause is so many times as long as the work before it.
const PAUSE: u32 = 2;

/// Work before a pause counts for no more than this: it may have waited for something else.
const LONGEST_STRETCH: Duration = Duration::from_millis(50);

/// Knows when an answer was last wanted. Clones know the same.
#[derive(Clone, Debug, Default)]
pub struct GiveWay(Arc<Mutex<Option<Instant>>>);

impl GiveWay {
    /// Notes that an answer is wanted now.
    pub fn note(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// Sleeps where work has gone on for long since `begun` and an answer was wanted lately; when
    /// the work that follows begins.
    pub fn pause(&self, begun: Instant) -> Instant {
        match self.due(begun.elapsed()) {
            None => begun,
            Some(pause) => {
                std::thread::sleep(pause);
                Instant::now()
            }
        }
    }

    /// The pause that is due after some work.
    fn due(&self, worked: Duration) -> Option<Duration> {
        let wanted = *self.0.lock();
        let lately = wanted.is_some_and(|at| at.elapsed() < LATELY);
        (lately && worked >= STRETCH).then(|| worked.min(LONGEST_STRETCH) * PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_pauses_only_where_it_was_long_and_an_answer_is_wanted() {
        let way = GiveWay::default();
        let long = 2 * STRETCH;
        assert_eq!(way.due(long), None, "nobody wants an answer");
        way.clone().note();
        assert_eq!(way.due(long), Some(long * PAUSE));
        assert_eq!(way.due(STRETCH / 2), None, "too short");
        assert_eq!(way.due(100 * long), Some(LONGEST_STRETCH * PAUSE));
    }
}
