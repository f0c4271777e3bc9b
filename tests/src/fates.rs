//! What became of numbered facts, as their producer knows it, independently of what is tested; and
//! what is found of them afterwards.

use std::collections::BTreeMap;

/// A fact's place in a log that the producer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// What became of one fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was sent, and no answer came: it may be there once, or not at all.
    Unknown,
    /// It was acknowledged: it must be there once.
    There(Place),
    /// Its transaction was aborted, or its request refused: it must not be there.
    Withdrawn,
}

/// Of some facts: how many, and the sum, minimum and maximum of their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// How many.
    pub count: u64,
    /// The sum of their numbers.
    pub sum: i128,
    /// The smallest number; `None` where there is none.
    pub min: Option<i64>,
    /// The largest.
    pub max: Option<i64>,
}

impl Totals {
    /// Counts one more.
    pub fn add(&mut self, id: i64) {
        self.count += 1;
        self.sum += i128::from(id);
        self.min = Some(self.min.map_or(id, |m| m.min(id)));
        self.max = Some(self.max.map_or(id, |m| m.max(id)));
    }
}

/// What became of each fact that was produced.
#[derive(Clone, Debug, Default)]
pub struct Fates {
    by_id: BTreeMap<i64, Fate>,
}

/// What was found, compared with what was produced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Facts that must be there.
    pub produced: u64,
    /// Facts of which the producer knows nothing.
    pub unknown: u64,
    /// Facts that must be there and are not.
    pub lost: u64,
    /// Facts that are there more than once.
    pub doubled: u64,
    /// Facts that are there although they were withdrawn, or never sent.
    pub strange: u64,
    /// Facts that are there once, elsewhere than where they were acknowledged.
    pub misplaced: u64,
}

impl Tally {
    /// Whether nothing is wrong.
    pub fn is_exact(&self) -> bool {
        (self.lost, self.doubled, self.strange, self.misplaced) == (0, 0, 0, 0)
    }

    /// Both together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            produced: self.produced + other.produced,
            unknown: self.unknown + other.unknown,
            lost: self.lost + other.lost,
            doubled: self.doubled + other.doubled,
            strange: self.strange + other.strange,
            misplaced: self.misplaced + other.misplaced,
        }
    }
}

impl Fates {
    /// Notes what became of a fact. What was known for certain before stays so: an answer that comes
    /// later only repeats it.
    pub fn note(&mut self, id: i64, fate: Fate) {
        let known = self.by_id.entry(id).or_insert(Fate::Unknown);
        if *known == Fate::Unknown {
            *known = fate;
        }
    }

    /// What became of a fact; `None` where it was not sent.
    pub fn of(&self, id: i64) -> Option<Fate> {
        self.by_id.get(&id).copied()
    }

    /// Takes in what another producer knows; their numbers must differ.
    pub fn add(&mut self, other: &Self) {
        self.by_id.extend(&other.by_id);
    }

    /// Acknowledged facts of each partition.
    pub fn by_partition(&self) -> BTreeMap<i32, Totals> {
        let mut totals = BTreeMap::<i32, Totals>::new();
        for (id, fate) in &self.by_id {
            if let Fate::There(place) = fate {
                totals.entry(place.partition).or_default().add(*id);
            }
        }
        totals
    }

    /// All acknowledged facts.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for (id, fate) in &self.by_id {
            if matches!(fate, Fate::There(_)) {
                totals.add(*id);
            }
        }
        totals
    }

    /// The acknowledged facts' numbers and places, by number.
    pub fn places(&self) -> impl Iterator<Item = (i64, Place)> + '_ {
        self.by_id.iter().filter_map(|(id, fate)| match fate {
            Fate::There(place) => Some((*id, *place)),
            _ => None,
        })
    }

    /// Compares what is found, in any order, with what was produced.
    pub fn compare(&self, found: impl IntoIterator<Item = (i64, Place)>) -> Tally {
        let mut seen = BTreeMap::<i64, (u64, Place)>::new();
        for (id, place) in found {
            seen.entry(id).or_insert((0, place)).0 += 1;
        }
        let mut tally = Tally::default();
        for (id, fate) in &self.by_id {
            let found = seen.remove(id);
            tally.doubled += u64::from(found.is_some_and(|(n, _)| n > 1));
            match fate {
                Fate::Unknown => tally.unknown += 1,
                Fate::Withdrawn => tally.strange += u64::from(found.is_some()),
                Fate::There(place) => {
                    tally.produced += 1;
                    match found {
                        None => tally.lost += 1,
                        Some((1, other)) => tally.misplaced += u64::from(other != *place),
                        Some(_) => {}
                    }
                }
            }
        }
        tally.strange += seen.len() as u64;
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partition: i32, offset: i64) -> Place {
        Place { partition, offset }
    }

    #[test]
    fn each_wrong_is_counted_as_what_it_is() {
        let mut fates = Fates::default();
        for id in 0..5 {
            fates.note(id, Fate::There(at(id as i32 % 2, id)));
        }
        fates.note(5, Fate::Withdrawn);
        fates.note(6, Fate::Unknown);
        fates.note(7, Fate::Unknown);
        let right: Vec<_> = (0..5).map(|id| (id, at(id as i32 % 2, id))).collect();
        let exact = fates.compare(right.iter().copied().chain([(6, at(0, 9))]));
        assert!(exact.is_exact() && (exact.produced, exact.unknown) == (5, 2));
        // Number 0 is lost, 1 doubled, 2 elsewhere; 5 was withdrawn, 8 never sent.
        let wrong = [
            (1, at(1, 1)),
            (1, at(1, 7)),
            (2, at(0, 3)),
            (5, at(0, 5)),
            (8, at(0, 8)),
        ];
        let tally = fates.compare(wrong.into_iter().chain(right[3..].iter().copied()));
        let counts = (tally.lost, tally.doubled, tally.strange, tally.misplaced);
        assert_eq!(counts, (1, 1, 2, 1));
        assert!(!tally.is_exact());
    }

    #[test]
    fn totals_are_of_what_was_acknowledged() {
        let mut fates = Fates::default();
        fates.note(4, Fate::Unknown);
        fates.note(4, Fate::There(at(1, 0)));
        fates.note(4, Fate::Withdrawn);
        fates.note(-3, Fate::There(at(0, 0)));
        fates.note(9, Fate::Withdrawn);
        let expected = Totals {
            count: 2,
            sum: 1,
            min: Some(-3),
            max: Some(4),
        };
        assert_eq!(fates.totals(), expected);
        assert_eq!(fates.by_partition().len(), 2);
    }
}
