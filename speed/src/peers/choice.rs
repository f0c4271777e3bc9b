//! From whom each partition is taken that several may hold: a decision over what they say that they
//! have.

use std::collections::BTreeMap;

use anabranch_shared::{Offset, OffsetRange, Offsets, PartitionId};

/// Who gives what of a partition lies past the landed facts of a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// The log, which has more of it than the pin.
    Log,
    /// This daemon.
    Own,
    /// The daemon of this number.
    Peer(usize),
}

/// What is taken of a partition, and from whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) holder: Holder,
    /// The range; what lies between the pin's landed facts and its start is in the log.
    pub(super) range: OffsetRange,
}

/// The ranges that a daemon holds.
pub(super) type Lanes = BTreeMap<PartitionId, OffsetRange>;

/// Takes each partition from the one who reaches furthest: the facts of an offset are the same
/// wherever they come from.
pub(super) fn choose(
    upto: &Offsets,
    own: &BTreeMap<PartitionId, Offset>,
    peers: &[Option<&Lanes>],
    landed: &Offsets,
) -> BTreeMap<PartitionId, Choice> {
    let mut choices: BTreeMap<PartitionId, Choice> = BTreeMap::new();
    let mut offer = |p: PartitionId, holder: Holder, start: Offset, end: Offset| {
        let range = OffsetRange::new(start.max(upto.get(p)), end);
        let least = choices.get(&p).map_or(upto.get(p), |c| c.range.end);
        if end > least {
            choices.insert(p, Choice { holder, range });
        }
    };
    for (p, end) in own {
        offer(*p, Holder::Own, upto.get(*p), *end);
    }
    for (i, lanes) in peers.iter().enumerate() {
        for (p, range) in lanes.iter().copied().flatten() {
            offer(*p, Holder::Peer(i), range.start, range.end);
        }
    }
    for (p, end) in landed.iter() {
        offer(p, Holder::Log, end, end);
    }
    choices
}

/// For each partition the first offset that is not in a pin of these choices.
pub(super) fn head_of(upto: &Offsets, choices: &BTreeMap<PartitionId, Choice>) -> Offsets {
    let mut head = upto.clone();
    choices
        .iter()
        .for_each(|(p, c)| head.raise(*p, c.range.end));
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(list: &[(i32, i64)]) -> Offsets {
        let place = |&(p, o): &(i32, i64)| (PartitionId(p), Offset(o));
        list.iter().map(place).collect()
    }

    fn lanes(list: &[(i32, i64, i64)]) -> Lanes {
        let lane = |&(p, start, end): &(i32, i64, i64)| {
            let range = OffsetRange::new(Offset(start), Offset(end));
            (PartitionId(p), range)
        };
        list.iter().map(lane).collect()
    }

    /// Each partition is taken once, from whoever reaches furthest; this daemon where all are alike.
    #[test]
    fn who_reaches_furthest_gives_a_partition() {
        let own = offsets(&[(0, 9), (2, 7)]).iter().collect();
        let (a, b) = (
            lanes(&[(1, 4, 8), (2, 5, 7), (3, 6, 6)]),
            lanes(&[(1, 5, 9), (2, 3, 8), (4, 0, 2)]),
        );
        let upto = offsets(&[(0, 5), (1, 4), (2, 5), (4, 2)]);
        let chosen = choose(
            &upto,
            &own,
            &[Some(&a), None, Some(&b)],
            &offsets(&[(5, 3), (1, 8)]),
        );
        let is = |p: i32| {
            chosen
                .get(&PartitionId(p))
                .map(|c| (c.holder, c.range.start.0, c.range.end.0))
        };
        assert_eq!(is(0), Some((Holder::Own, 5, 9)));
        assert_eq!(is(1), Some((Holder::Peer(2), 5, 9)));
        assert_eq!(is(2), Some((Holder::Peer(2), 5, 8)));
        // It has landed all that it held, and the pin lacks that.
        assert_eq!(is(3), Some((Holder::Peer(0), 6, 6)));
        assert_eq!(is(4), None);
        assert_eq!(is(5), Some((Holder::Log, 3, 3)));
        assert_eq!(
            head_of(&upto, &chosen),
            offsets(&[(0, 9), (1, 9), (2, 8), (3, 6), (4, 2), (5, 3)])
        );
    }
}
