//! Instruments: what is counted and timed where it happens. Owns the buckets, and how the full name of
//! a metric, as documents and alerts have it, is told to the library that encodes it: that adds the
//! unit and `_total` by itself.

use std::hash::Hash;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};

/// The upper ends of buckets for what somebody waits for, in seconds.
const WAIT_SECONDS: [f64; 14] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];

/// The upper ends of buckets for what nobody waits for, in seconds.
const WORK_SECONDS: [f64; 10] = [
    0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0,
];

/// Histograms of one metric, by labels.
pub type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// A histogram of how long somebody waits: from half a millisecond to a minute.
pub fn wait_times() -> Histogram {
    Histogram::new(WAIT_SECONDS)
}

/// A histogram of how long work takes that nobody waits for: from a tenth of a second to four hours.
pub fn work_times() -> Histogram {
    Histogram::new(WORK_SECONDS)
}

/// Histograms that are made by one of those functions.
pub fn histograms<L: Clone + Hash + Eq>(made: fn() -> Histogram) -> Histograms<L> {
    Family::new_with_constructor(made)
}

/// What a metric's full name is made of: what the library is told, and the unit.
pub fn name_parts(full: &str) -> (&str, Option<Unit>) {
    let name = full.strip_suffix("_total").unwrap_or(full);
    if let Some(stem) = name.strip_suffix("_seconds") {
        (stem, Some(Unit::Seconds))
    } else if let Some(stem) = name.strip_suffix("_bytes") {
        (stem, Some(Unit::Bytes))
    } else {
        (name, None)
    }
}

/// Registers a metric under its full name. `help` is a sentence without its full stop.
pub fn register(registry: &mut Registry, full: &str, help: &str, metric: impl Metric) {
    match name_parts(full) {
        (stem, Some(unit)) => registry.register_with_unit(stem, help, unit, metric),
        (stem, None) => registry.register(stem, help, metric),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn a_full_name_is_what_is_encoded() {
        let mut registry = Registry::default();
        let counter: Counter = Counter::default();
        counter.inc_by(3);
        let names = ["a_facts_total", "a_seconds_total", "a_read_bytes_total"];
        for name in names {
            register(&mut registry, name, "What it is", counter.clone());
        }
        let mut text = String::new();
        assert!(encode(&mut text, &registry).is_ok());
        for name in names {
            let sample = format!("{name} 3");
            assert!(text.lines().any(|l| l == sample), "{text}");
        }
        assert!(text.contains("# UNIT a_seconds seconds\n"), "{text}");
        assert!(text.contains("# UNIT a_read_bytes bytes\n"), "{text}");
        assert!(text.contains("# HELP a_facts What it is.\n"), "{text}");
    }

    #[test]
    fn what_has_a_meaning_in_a_label_is_escaped() {
        let family = Family::<[(&str, &str); 1], Counter>::default();
        family.get_or_create(&[("field", "a\"b\\c\nd{e}=,é")]).inc();
        let mut registry = Registry::default();
        register(&mut registry, "odd_total", "Odd", family);
        let mut text = String::new();
        assert!(encode(&mut text, &registry).is_ok());
        let sample = "odd_total{field=\"a\\\"b\\\\c\\nd{e}=,é\"} 1";
        assert!(text.lines().any(|l| l == sample), "{text}");
    }

    #[test]
    fn the_ends_of_buckets_ascend() {
        assert!(WAIT_SECONDS.is_sorted() && WORK_SECONDS.is_sorted());
    }
}
