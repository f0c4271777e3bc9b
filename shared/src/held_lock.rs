//! How long locks are held. Owns the measure: a histogram of the holds of each lock and the longest
//! of the last minute. Which lock is taken before which stands where the locks are kept.
//!
//! A hold costs two looks at the clock and a few additions; what is counted is wall time, which is
//! what those wait who want the lock.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// The upper ends of the histogram's buckets, in microseconds; one without an end follows.
const BUCKETS_US: [u64; 12] = [
    10, 50, 100, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 200_000, 1_000_000,
];

/// Over so many seconds the longest hold is told.
pub const LONGEST_OVER_S: u64 = 60;

/// So many seconds are remembered by themselves: more than are told, so that none is overwritten
/// while it still counts.
const SECONDS: usize = 64;

/// How long one lock, or locks of one kind, were held.
#[derive(Debug)]
pub struct LockHolds {
    name: &'static str,
    begun: Instant,
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
    sum_ns: AtomicU64,
    /// For each second, in the upper half which one it is, in the lower half the longest hold that
    /// ended in it, in microseconds.
    longest: [AtomicU64; SECONDS],
}

impl LockHolds {
    /// Those of a lock that was not held yet.
    pub fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            name,
            begun: Instant::now(),
            buckets: Default::default(),
            sum_ns: AtomicU64::default(),
            longest: [const { AtomicU64::new(0) }; SECONDS],
        })
    }

    /// The lock's name, for metrics.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Counts a hold from now on, until what is returned is dropped.
    pub fn begin(&self) -> Hold<'_> {
        Hold {
            holds: self,
            since: Instant::now(),
        }
    }

    fn note(&self, since: Instant, until: Instant) {
        let held = until.saturating_duration_since(since);
        let held_us = u64::try_from(held.as_micros()).unwrap_or(u64::MAX);
        let at = BUCKETS_US.partition_point(|end| *end < held_us);
        if let Some(bucket) = self.buckets.get(at) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let held_ns = u64::try_from(held.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(held_ns, Ordering::Relaxed);
        let second = until.saturating_duration_since(self.begun).as_secs();
        self.note_longest(second, held_us);
    }

    fn note_longest(&self, second: u64, held_us: u64) {
        let held_us = held_us.min(u64::from(u32::MAX));
        let at = usize::try_from(second % SECONDS as u64).unwrap_or(0);
        let Some(slot) = self.longest.get(at) else {
            return;
        };
        let this = (second << 32) | held_us;
        // A later second, or a longer hold of the same one, is the larger number.
        slot.fetch_max(this, Ordering::Relaxed);
    }

    fn longest_us(&self, second: u64) -> u64 {
        let of = |slot: &AtomicU64| {
            let value = slot.load(Ordering::Relaxed);
            let counts = (value >> 32) + LONGEST_OVER_S > second;
            if counts {
                value & u64::from(u32::MAX)
            } else {
                0
            }
        };
        self.longest.iter().map(of).max().unwrap_or(0)
    }

    /// The longest hold that ended in the last [`LONGEST_OVER_S`] seconds, in seconds.
    pub fn longest_seconds(&self) -> f64 {
        self.longest_us(self.begun.elapsed().as_secs()) as f64 / 1e6
    }

    /// The upper end of each bucket in seconds, the last one without an end, and how many holds are in
    /// it and in none before it.
    fn counted(&self) -> [(f64, u64); BUCKETS_US.len() + 1] {
        std::array::from_fn(|at| {
            let end = BUCKETS_US
                .get(at)
                .map_or(f64::INFINITY, |us| *us as f64 / 1e6);
            let bucket = self.buckets.get(at);
            (end, bucket.map_or(0, |b| b.load(Ordering::Relaxed)))
        })
    }

    fn sum_seconds(&self) -> f64 {
        Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)).as_secs_f64()
    }
}

impl EncodeMetric for LockHolds {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let buckets = self.counted();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.sum_seconds(), count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// A hold that is being counted.
#[derive(Debug)]
#[must_use = "the hold ends where this is dropped"]
pub struct Hold<'a> {
    holds: &'a LockHolds,
    since: Instant,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.holds.note(self.since, Instant::now());
    }
}

/// A mutex whose holds are counted.
pub struct HeldMutex<T> {
    inner: Mutex<T>,
    holds: Arc<LockHolds>,
}

impl<T> HeldMutex<T> {
    /// A mutex of a name.
    pub fn new(name: &'static str, value: T) -> Self {
        Self {
            inner: Mutex::new(value),
            holds: LockHolds::new(name),
        }
    }

    /// Takes the lock.
    pub fn lock(&self) -> HeldGuard<'_, T> {
        let guard = self.inner.lock();
        HeldGuard {
            guard,
            _hold: self.holds.begin(),
        }
    }

    /// Takes the lock where nobody has it.
    pub fn try_lock(&self) -> Option<HeldGuard<'_, T>> {
        let guard = self.inner.try_lock()?;
        Some(HeldGuard {
            guard,
            _hold: self.holds.begin(),
        })
    }

    /// How long it was held.
    pub fn holds(&self) -> &Arc<LockHolds> {
        &self.holds
    }
}

impl<T: fmt::Debug> fmt::Debug for HeldMutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// A [`HeldMutex`] that is held.
#[must_use = "the lock is given back where this is dropped"]
pub struct HeldGuard<'a, T> {
    // Dropped before the hold, which ends once the lock is given back.
    guard: MutexGuard<'a, T>,
    _hold: Hold<'a>,
}

impl<T> Deref for HeldGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for HeldGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T: fmt::Debug> fmt::Debug for HeldGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.guard.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_are_counted_where_they_belong() {
        let lock = HeldMutex::new("a", 1);
        *lock.lock() += 1;
        let seen = *lock.lock();
        let counted: u64 = lock.holds().counted().iter().map(|(_, count)| count).sum();
        assert_eq!((seen, counted), (2, 2));
        let held = lock.lock();
        assert!(lock.try_lock().is_none());
        drop(held);

        let holds = LockHolds::new("b");
        let at = holds.begun;
        for us in [7, 10, 11, 15_000, 5_000_000] {
            holds.note(at, at + Duration::from_micros(us));
        }
        let filled = holds.counted().into_iter().filter(|(_, count)| *count > 0);
        let expected = [(0.000_01, 2), (0.000_05, 1), (0.02, 1), (f64::INFINITY, 1)];
        assert_eq!(filled.collect::<Vec<_>>(), expected);
        let sum = holds.sum_seconds();
        assert!((sum - 5.015_028).abs() < 1e-6, "{sum}");
    }

    #[test]
    fn the_longest_is_of_the_last_minute() {
        let holds = LockHolds::new("a");
        holds.note_longest(3, 500);
        holds.note_longest(3, 200);
        holds.note_longest(40, 300);
        assert_eq!(holds.longest_us(3), 500);
        assert_eq!(holds.longest_us(62), 500);
        assert_eq!(holds.longest_us(63), 300);
        // The same slot, 64 s later.
        holds.note_longest(67, 100);
        assert_eq!(holds.longest_us(67), 300);
        assert_eq!(holds.longest_us(100), 100);
        assert_eq!(holds.longest_us(200), 0);
    }
}
