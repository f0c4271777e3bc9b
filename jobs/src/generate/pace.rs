//! When facts happen: a daily curve with bursts of news, as a rising sequence of moments.

use super::random::{Chance, Random};

pub(super) const SECOND_US: u64 = 1_000_000;
pub(super) const MINUTE_US: u64 = 60 * SECOND_US;
pub(super) const HOUR_US: u64 = 60 * MINUTE_US;

/// Relative traffic at each full hour in UTC, between which it is interpolated.
const HOURLY: [u64; 24] = [
    420, 340, 290, 270, 290, 380, 560, 790, 930, 960, 940, 950, 1000, 980, 930, 910, 920, 940, 960,
    990, 1000, 930, 760, 570,
];

/// One burst begins in every such stretch of the span …
const BURST_EVERY_US: u64 = 8 * HOUR_US;
/// … or in every such part of a span shorter than that.
const BURSTS_AT_LEAST: u64 = 3;

/// A piece of news: for a while, traffic on top of the usual goes to a few posts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Burst {
    pub(super) start_us: u64,
    duration_us: u64,
    /// Extra traffic at the peak, in thousandths of the usual.
    peak: u64,
}

impl Burst {
    /// Extra traffic at a moment, in thousandths of the usual: a steep rise, then a slow fall.
    fn extra(&self, at_us: u64) -> u64 {
        let rise_us = self.duration_us / 10;
        match at_us.checked_sub(self.start_us) {
            Some(age_us) if age_us < rise_us => self.peak * age_us / rise_us,
            Some(age_us) if age_us < self.duration_us => {
                self.peak * (self.duration_us - age_us) / (self.duration_us - rise_us)
            }
            _ => 0,
        }
    }
}

/// A moment at which a fact is sent, and whether a burst brought it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) at_us: u64,
    pub(super) burst: Option<usize>,
}

/// Gives exactly `facts` moments in `[start, end)`, each not before the last one.
///
/// The span is cut into slots of a minute. A slot's share of the facts is its weight's share of
/// the sum, rounded cumulatively, so the total is exact.
///
/// Invariants: `sent ≤ due ≤ facts`; `weight_before` is the sum of the weights of slots below
/// `next_slot`.
#[derive(Debug)]
pub(super) struct Pace {
    start_us: u64,
    end_us: u64,
    facts: u64,
    bursts: Vec<Burst>,
    weights: Vec<u32>,
    weight_total: u64,
    weight_before: u64,
    next_slot: usize,
    slot: Slot,
    sent: u64,
    due: u64,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    start_us: u64,
    length_us: u64,
    /// Facts before this slot and in it.
    first: u64,
    facts: u64,
    burst: Option<(usize, Chance)>,
}

impl Pace {
    pub(super) fn new(start_us: u64, end_us: u64, facts: u64, random: &mut Random) -> Self {
        let bursts = bursts(start_us, end_us, random);
        let slots = (end_us - start_us).div_ceil(MINUTE_US);
        let weights: Vec<u32> = (0..slots)
            .map(|slot| {
                let from_us = start_us + slot * MINUTE_US;
                let length_us = MINUTE_US.min(end_us - from_us);
                let extra =
                    active(&bursts, start_us, end_us, from_us).map_or(0, |(_, extra)| extra);
                // At least 1, so that a span of less than a second has a place for its facts.
                (usual(from_us) * (1000 + extra) / 100 * length_us / MINUTE_US).max(1) as u32
            })
            .collect();
        let weight_total = weights.iter().map(|&weight| u64::from(weight)).sum();
        let slot = Slot {
            start_us,
            length_us: 0,
            first: 0,
            facts: 0,
            burst: None,
        };
        Self {
            start_us,
            end_us,
            facts,
            bursts,
            weights,
            weight_total,
            weight_before: 0,
            next_slot: 0,
            slot,
            sent: 0,
            due: 0,
        }
    }

    pub(super) fn bursts(&self) -> &[Burst] {
        &self.bursts
    }

    pub(super) fn remaining(&self) -> u64 {
        self.facts - self.sent
    }

    pub(super) fn next(&mut self, random: &mut Random) -> Option<Moment> {
        while self.sent == self.due {
            self.enter_slot()?;
        }
        let slot = &self.slot;
        // The i-th of n facts falls into the i-th of n equal parts of its slot.
        let part = (self.sent - slot.first) * slot.length_us + random.below(slot.length_us);
        let at_us = slot.start_us + part / slot.facts;
        let burst = slot
            .burst
            .and_then(|(burst, chance)| random.chance(chance).then_some(burst));
        self.sent += 1;
        debug_assert!(self.sent <= self.due && self.due <= self.facts);
        Some(Moment { at_us, burst })
    }

    fn enter_slot(&mut self) -> Option<()> {
        let weight = *self.weights.get(self.next_slot)?;
        let start_us = self.start_us + self.next_slot as u64 * MINUTE_US;
        self.next_slot += 1;
        self.weight_before += u64::from(weight);
        let due =
            u128::from(self.facts) * u128::from(self.weight_before) / u128::from(self.weight_total);
        let first = self.due;
        self.due = due as u64;
        let burst = active(&self.bursts, self.start_us, self.end_us, start_us)
            .map(|(index, extra)| (index, Chance::ratio(extra, 1000 + extra)));
        self.slot = Slot {
            start_us,
            length_us: MINUTE_US.min(self.end_us - start_us),
            first,
            facts: self.due - first,
            burst,
        };
        Some(())
    }
}

/// Usual traffic at a moment, out of 1000.
fn usual(at_us: u64) -> u64 {
    let hour = (at_us / HOUR_US % 24) as usize;
    let minute = at_us / MINUTE_US % 60;
    (HOURLY[hour] * (60 - minute) + HOURLY[(hour + 1) % 24] * minute) / 60
}

/// One burst in each of equal stretches of the span. It begins in the first half of its stretch
/// and lasts less than half of it, so that at most one is active at a time.
fn bursts(start_us: u64, end_us: u64, random: &mut Random) -> Vec<Burst> {
    let span_us = end_us - start_us;
    let count = (span_us / BURST_EVERY_US).max(BURSTS_AT_LEAST);
    let stretch_us = span_us / count;
    (0..count)
        .map(|index| Burst {
            start_us: start_us + index * stretch_us + random.below(stretch_us / 2),
            duration_us: stretch_us / 8 + random.below(stretch_us / 4),
            peak: 400 + random.below(1200),
        })
        .collect()
}

/// The burst that is active at a moment, and its extra traffic.
fn active(bursts: &[Burst], start_us: u64, end_us: u64, at_us: u64) -> Option<(usize, u64)> {
    let stretch_us = ((end_us - start_us) / (bursts.len() as u64).max(1)).max(1);
    let index = ((at_us - start_us) / stretch_us) as usize;
    let extra = bursts.get(index)?.extra(at_us);
    (extra > 0).then_some((index, extra))
}
