//! Log-ins that fail: whoever fails too often waits. Counted for each user and address together, so
//! that nobody locks a user out from elsewhere.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Log-ins that may fail in [`WITHIN`].
const MOST: u32 = 10;

/// After so long a failure counts no more.
const WITHIN: Duration = Duration::from_secs(60);

/// The most users and addresses that are kept; of more the oldest is forgotten.
const KEPT: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<HashMap<(String, IpAddr), (u32, Instant)>>);

impl Attempts {
    /// How long one still has to wait; none where one need not.
    pub(super) fn wait(&self, user: &str, from: IpAddr, now: Instant) -> Option<Duration> {
        let failed = self.0.lock();
        let (count, since) = failed.get(&(user.to_owned(), from))?;
        let over = now.saturating_duration_since(*since);
        (*count >= MOST && over < WITHIN).then(|| WITHIN - over)
    }

    /// Notes a failure. The time of one who fails again and again counts from the last one.
    pub(super) fn failed(&self, user: &str, from: IpAddr, now: Instant) {
        let mut failed = self.0.lock();
        let is_old = |since: Instant| now.saturating_duration_since(since) >= WITHIN;
        if failed.len() >= KEPT {
            failed.retain(|_, (_, since)| !is_old(*since));
        }
        if failed.len() >= KEPT {
            let oldest = failed.iter().min_by_key(|(_, (_, since))| *since);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                failed.remove(&oldest);
            }
        }
        let entry = failed.entry((user.to_owned(), from)).or_insert((0, now));
        let count = match is_old(entry.1) {
            true => 0,
            false => entry.0,
        };
        *entry = (count.saturating_add(1), now);
    }

    /// Forgets the failures of one who has got in.
    pub(super) fn succeeded(&self, user: &str, from: IpAddr) {
        self.0.lock().remove(&(user.to_owned(), from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_too_often_waits() {
        let attempts = Attempts::default();
        let (here, there) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([10, 0, 0, 1]));
        let now = Instant::now();
        for _ in 0..MOST {
            assert_eq!(attempts.wait("a", here, now), None);
            attempts.failed("a", here, now);
        }
        assert_eq!(attempts.wait("a", here, now), Some(WITHIN));
        assert_eq!(attempts.wait("a", there, now), None);
        assert_eq!(attempts.wait("b", here, now), None);
        assert_eq!(attempts.wait("a", here, now + WITHIN), None);
        attempts.failed("a", here, now + WITHIN);
        assert_eq!(attempts.wait("a", here, now + WITHIN), None);
        attempts.succeeded("a", here);
        assert!(attempts.0.lock().is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let attempts = Attempts::default();
        let now = Instant::now();
        for n in 0..(KEPT + 10) {
            attempts.failed(&n.to_string(), IpAddr::from([127, 0, 0, 1]), now);
        }
        assert_eq!(attempts.0.lock().len(), KEPT);
    }
}
