//! Where a partition is read from. Pure: the caller asks Kafka and acts on the decision.

use anabranch_shared::Offset;
use anabranch_shared::OffsetRange;
use anabranch_shared::settings::OnGap;

/// What Kafka holds of a partition: offsets `[low, high)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) low: i64,
    pub(super) high: i64,
}

/// What to do about a partition.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StartDecision {
    /// Read on where the log ends.
    GoOn,
    /// Nothing of it was read yet: begin behind these offsets.
    Begin(OffsetRange),
    /// Kafka has removed these offsets: record that, and go on behind them.
    RecordGap(OffsetRange),
    /// Kafka has removed these offsets: stop.
    StopAtGap(OffsetRange),
    /// The log is ahead of Kafka: this is not the topic that was read before.
    OtherTopic,
}

/// Decides where reading goes on. `next` is where the log ends, `first` where a partition begins
/// of which nothing has landed.
pub(super) fn decide(next: i64, held: Held, first: i64, on_gap: OnGap) -> StartDecision {
    let upto = |end: i64| OffsetRange::new(Offset(next), Offset(end));
    if next > held.high {
        return StartDecision::OtherTopic;
    }
    if next == 0 && first > 0 {
        return StartDecision::Begin(upto(first));
    }
    match (next < held.low, on_gap) {
        (false, _) => StartDecision::GoOn,
        (true, OnGap::Record) => StartDecision::RecordGap(upto(held.low)),
        (true, OnGap::Stop) => StartDecision::StopAtGap(upto(held.low)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_goes_on_where_the_log_ends() {
        let held = Held { low: 10, high: 20 };
        let range = |a, b| OffsetRange::new(Offset(a), Offset(b));
        let stop = |next, first| decide(next, held, first, OnGap::Stop);
        assert_eq!(stop(10, 0), StartDecision::GoOn);
        assert_eq!(stop(20, 0), StartDecision::GoOn);
        assert_eq!(stop(21, 0), StartDecision::OtherTopic);
        assert_eq!(stop(9, 0), StartDecision::StopAtGap(range(9, 10)));
        let record = decide(9, held, 0, OnGap::Record);
        assert_eq!(record, StartDecision::RecordGap(range(9, 10)));
        // Nothing has landed: there is no gap, wherever Kafka begins.
        assert_eq!(stop(0, 10), StartDecision::Begin(range(0, 10)));
        let fresh = Held { low: 0, high: 0 };
        assert_eq!(decide(0, fresh, 0, OnGap::Stop), StartDecision::GoOn);
    }
}
