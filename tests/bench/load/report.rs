//! Figures out of latencies.

use std::time::Duration;

use serde_json::{Value, json};

/// Latencies in ascending order.
#[derive(Debug, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// Of all samples.
    pub fn new(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        Self(samples)
    }

    /// The nearest-rank percentile in milliseconds: a value that was measured, never one between
    /// two. 0 without samples.
    pub fn percentile_ms(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        let at = self.0.get(rank.saturating_sub(1));
        at.map_or(0.0, |d| round(d.as_secs_f64() * 1_000.0))
    }

    /// How many samples there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The usual percentiles, in milliseconds.
    pub fn json(&self) -> Value {
        json!({
            "count": self.count(),
            "p50": self.percentile_ms(0.5),
            "p90": self.percentile_ms(0.9),
            "p99": self.percentile_ms(0.99),
            "p99_9": self.percentile_ms(0.999),
            "max": self.percentile_ms(1.0),
        })
    }

    /// The same for people.
    pub fn text(&self) -> String {
        format!(
            "p50 {} ms, p90 {} ms, p99 {} ms, p99.9 {} ms, max {} ms",
            self.percentile_ms(0.5),
            self.percentile_ms(0.9),
            self.percentile_ms(0.99),
            self.percentile_ms(0.999),
            self.percentile_ms(1.0)
        )
    }
}

/// To three digits after the point.
pub fn round(number: f64) -> f64 {
    (number * 1_000.0).round() / 1_000.0
}

/// `amount` a second, to whole ones.
pub fn per_second(amount: u64, took: Duration) -> f64 {
    (amount as f64 / took.as_secs_f64().max(1e-9)).round()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let of = |n: u64| Latencies::new((1..=n).rev().map(Duration::from_millis).collect());
        assert_eq!(of(5).percentile_ms(0.5), 3.0);
        assert_eq!(of(20).percentile_ms(0.99), 20.0);
        assert_eq!(of(200).percentile_ms(0.99), 198.0);
        assert_eq!(of(1).percentile_ms(0.5), 1.0);
        assert_eq!(of(0).percentile_ms(0.5), 0.0);
    }
}
