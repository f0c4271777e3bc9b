//! How values that were looked up are written: as gauges and counters under their full names.

use std::fmt;

use anabranch_shared::LockHolds;
use anabranch_shared::metrics::name_parts;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric, MetricEncoder,
    NoLabelSet,
};
use prometheus_client::metrics::MetricType;

/// The labels of a row.
pub(super) type Labels = Vec<(&'static str, String)>;

/// One label.
pub(super) fn one(name: &'static str, value: impl Into<String>) -> Labels {
    vec![(name, value.into())]
}

/// Two labels.
pub(super) fn two(
    (name, value): (&'static str, impl Into<String>),
    (other, of): (&'static str, impl Into<String>),
) -> Labels {
    vec![(name, value.into()), (other, of.into())]
}

/// 1 for yes, 0 for no.
pub(super) fn yes_or_no(is: bool) -> u64 {
    u64::from(is)
}

/// Writes one metric after the other. Of each the help is a sentence without its full stop.
pub(super) struct Families<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl<'a> Families<'a> {
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self { encoder }
    }

    fn family<V>(
        &mut self,
        (name, help, kind): (&str, &str, MetricType),
        rows: impl IntoIterator<Item = (Labels, V)>,
        write: impl Fn(MetricEncoder<'_>, &V) -> fmt::Result,
    ) -> fmt::Result {
        let (stem, unit) = name_parts(name);
        let help = format!("{help}.");
        let encoder = &mut self.encoder;
        let mut encoder = encoder.encode_descriptor(stem, &help, unit.as_ref(), kind)?;
        for (labels, value) in rows {
            write(encoder.encode_family(&labels)?, &value)?;
        }
        Ok(())
    }

    /// A value that may go up and down.
    pub(super) fn gauge<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let head = (name, help, MetricType::Gauge);
        self.family(head, rows, |mut encoder, value| encoder.encode_gauge(value))
    }

    /// The same, of the node as a whole.
    pub(super) fn gauge_of_all(
        &mut self,
        name: &str,
        help: &str,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.gauge(name, help, [(Labels::new(), value)])
    }

    /// A value that only goes up while the node runs.
    pub(super) fn counter<V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let head = (name, help, MetricType::Counter);
        self.family(head, rows, |mut encoder, value| {
            encoder.encode_counter::<NoLabelSet, _, u64>(value, None)
        })
    }

    /// The same, of the node as a whole.
    pub(super) fn counter_of_all(
        &mut self,
        name: &str,
        help: &str,
        value: impl EncodeCounterValue,
    ) -> fmt::Result {
        self.counter(name, help, [(Labels::new(), value)])
    }

    /// How long locks were held.
    pub(super) fn holds<'h>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels, &'h LockHolds)>,
    ) -> fmt::Result {
        let head = (name, help, MetricType::Histogram);
        self.family(head, rows, |encoder, holds| holds.encode(encoder))
    }
}
