//! References: the latest row of each key of a topic, as facts meet them. Owns what a reference is, which
//! of its rows there are at a vector of landed offsets, and how rows are found by their keys; knows
//! nothing of logs and views.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Field, Fields, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::topic::{INGESTED_AT, OFFSET, PARTITION};
use crate::{OffsetRange, Offsets, PartitionId, Topic};

mod layer;
mod lookup;

pub use layer::ReferenceRows;
pub(crate) use lookup::{Bound, Lookup, MetRows};

/// A reference: of each key the latest row of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The reference's name.
    pub name: String,
    /// The topic that it reads, as declared when the reference was.
    pub topic: Topic,
    /// The fields that tell its rows apart. A fact without one of them is no row.
    pub key: Vec<String>,
    /// The field by which the latest is known; then it is the time of admission, then the place in the log.
    pub latest_by: String,
    /// The fields that it has besides its key.
    pub fields: Vec<String>,
    /// A condition over the topic's fields; a key whose latest row meets it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_when: Option<String>,
}

impl Reference {
    /// Whether both have the same rows under the same name: which fields of them are read is another matter.
    pub fn has_same_rows(&self, other: &Self) -> bool {
        self.name == other.name
            && self.topic.name == other.topic.name
            && self.key == other.key
            && self.latest_by == other.latest_by
            && self.deleted_when == other.deleted_when
    }

    /// The columns of its rows: the key, then the fields.
    pub fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.columns()))
    }

    pub(crate) fn columns(&self) -> Fields {
        let topic = self.topic.schema();
        let of = |name: &String| {
            let field = topic.field_with_name(name).ok()?;
            Some(Field::clone(field).with_nullable(true))
        };
        let names = self.key.iter().chain(&self.fields);
        names.filter_map(of).collect()
    }

    /// What is read of a fact, in this order: the key, the fields, and what the latest is known by.
    pub(crate) fn read(&self) -> SchemaRef {
        let topic = self.topic.schema();
        let mut fields: Vec<Field> = self.columns().iter().map(|f| Field::clone(f)).collect();
        for name in [self.latest_by.as_str(), INGESTED_AT, PARTITION, OFFSET] {
            if fields.iter().all(|f| f.name() != name)
                && let Ok(field) = topic.field_with_name(name)
            {
                fields.push(field.clone().with_nullable(true));
            }
        }
        Arc::new(Schema::new(fields))
    }

    /// Its rows as a query over its topic.
    pub fn sql(&self) -> String {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let list = |names: &mut dyn Iterator<Item = &String>| {
            names.map(|n| quoted(n)).collect::<Vec<_>>().join(", ")
        };
        let key = list(&mut self.key.iter());
        let all = list(&mut self.key.iter().chain(&self.fields));
        let order = format!(
            "{} DESC NULLS LAST, {INGESTED_AT} DESC, {PARTITION} DESC, {OFFSET} DESC",
            quoted(&self.latest_by)
        );
        let present = self
            .key
            .iter()
            .map(|k| format!("{} IS NOT NULL", quoted(k)));
        let present = present.collect::<Vec<_>>().join(" AND ");
        let gone = match &self.deleted_when {
            Some(condition) => format!("coalesce(({condition}), false)"),
            None => "false".to_owned(),
        };
        // Whoever joins it by its key meets one row at most, which `combine` sees by the DISTINCT.
        format!(
            "SELECT {all} FROM (SELECT DISTINCT ON ({key}) {all}, {gone} AS _gone FROM {} WHERE {present} ORDER BY {key}, {order}) WHERE NOT _gone",
            quoted(&self.topic.name)
        )
    }
}

/// Up to where a reference is, by its name: the landed offsets of its topic.
pub type ReferencesAt = BTreeMap<String, Offsets>;

/// Rows of references, by their names.
pub type ReferencesMet = BTreeMap<String, Arc<ReferenceRows>>;

/// What facts of ranges of offsets met: rows of references up to which offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Met(Vec<MetBy>);

/// Ranges as pairs of vectors, each of which holds one range of a partition at most. Of partitions that
/// have none in a pair nothing lies between its two vectors.
fn vectors(ranges: Vec<(PartitionId, OffsetRange)>, to: &Offsets) -> Vec<(Offsets, Offsets)> {
    let mut pairs: Vec<(Offsets, Offsets, Vec<PartitionId>)> = Vec::new();
    for (partition, range) in ranges {
        let free = pairs
            .iter()
            .position(|(_, _, held)| !held.contains(&partition));
        let at = free.unwrap_or_else(|| {
            pairs.push((to.clone(), to.clone(), Vec::new()));
            pairs.len() - 1
        });
        let (from, upto, held) = &mut pairs[at];
        from.set(partition, range.start);
        upto.set(partition, range.end);
        held.push(partition);
    }
    pairs
        .into_iter()
        .map(|(from, upto, _)| (from, upto))
        .collect()
}

/// What facts of some ranges met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetBy {
    /// The facts.
    pub ranges: Vec<(PartitionId, OffsetRange)>,
    /// What they met.
    pub at: ReferencesAt,
}

impl MetBy {
    /// Adds ranges, joined with those that they touch.
    fn add(&mut self, ranges: &[(PartitionId, OffsetRange)]) {
        let mut all = std::mem::take(&mut self.ranges);
        all.extend(ranges.iter().copied());
        all.sort_by_key(|(p, r)| (*p, r.start));
        for (partition, range) in all {
            match self.ranges.last_mut() {
                Some((p, last)) if *p == partition && last.end >= range.start => {
                    last.end = last.end.max(range.end);
                }
                _ => self.ranges.push((partition, range)),
            }
        }
    }
}

impl Met {
    /// That facts of some ranges met references; nothing where they met none.
    pub fn of(ranges: &[(PartitionId, OffsetRange)], at: &ReferencesAt) -> Self {
        match at.is_empty() {
            true => Self::default(),
            false => Self(vec![MetBy {
                ranges: ranges.to_vec(),
                at: at.clone(),
            }]),
        }
    }

    /// Adds what others met.
    pub fn extend(&mut self, other: &Self) {
        for more in &other.0 {
            match self.0.iter_mut().find(|known| known.at == more.at) {
                Some(known) => known.add(&more.ranges),
                None => self.0.push(more.clone()),
            }
        }
    }

    /// The parts of `[from, to)` in which all facts met the same, and up to where their references were:
    /// `None` for what is not known here.
    pub fn divide(
        &self,
        from: &Offsets,
        to: &Offsets,
    ) -> Vec<(Option<&ReferencesAt>, Offsets, Offsets)> {
        let mut left = from.ranges_to(to);
        let mut parts = Vec::new();
        for by in &self.0 {
            let mut known = Vec::new();
            for (partition, range) in &by.ranges {
                let mut rest = Vec::new();
                for (p, r) in left {
                    let (start, end) = (r.start.max(range.start), r.end.min(range.end));
                    if p != *partition || start >= end {
                        rest.push((p, r));
                        continue;
                    }
                    known.push((p, OffsetRange::new(start, end)));
                    let around = [
                        OffsetRange::new(r.start, start),
                        OffsetRange::new(end, r.end),
                    ];
                    rest.extend(around.into_iter().filter(|r| !r.is_empty()).map(|r| (p, r)));
                }
                left = rest;
            }
            parts.extend(
                vectors(known, to)
                    .into_iter()
                    .map(|(f, t)| (Some(&by.at), f, t)),
            );
        }
        parts.extend(vectors(left, to).into_iter().map(|(f, t)| (None, f, t)));
        parts
    }

    /// How many different rows of references were met.
    pub fn versions(&self) -> usize {
        self.0.len()
    }

    /// What was met, and by which facts.
    pub fn iter(&self) -> impl Iterator<Item = &MetBy> {
        self.0.iter()
    }

    /// Whether no reference was met.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Offset;

    fn range(start: i64, end: i64) -> OffsetRange {
        OffsetRange::new(Offset(start), Offset(end))
    }

    fn at(end: i64) -> ReferencesAt {
        let offsets = [(PartitionId(0), Offset(end))].into_iter().collect();
        [("posts".to_owned(), offsets)].into_iter().collect()
    }

    fn offsets(list: &[(i32, i64)]) -> Offsets {
        list.iter()
            .map(|&(p, o)| (PartitionId(p), Offset(o)))
            .collect()
    }

    /// Each offset is in one part, with what it met.
    #[test]
    fn what_was_met_divides_a_range() {
        let (p0, p1) = (PartitionId(0), PartitionId(1));
        let mut met = Met::of(&[(p0, range(0, 10)), (p1, range(3, 5))], &at(1));
        met.extend(&Met::of(&[(p0, range(20, 30))], &at(1)));
        met.extend(&Met::of(&[(p0, range(10, 20)), (p1, range(5, 9))], &at(2)));
        met.extend(&Met::of(&[(p0, range(30, 31))], &at(1)));
        assert_eq!(met.versions(), 2);
        let (from, to) = (offsets(&[(0, 5)]), offsets(&[(0, 40), (1, 6)]));
        let mut found = Vec::new();
        for (known, from, to) in met.divide(&from, &to) {
            for (p, r) in from.ranges_to(&to) {
                found.push((p.0, r.start.0, r.end.0, known.cloned()));
            }
        }
        found.sort_by_key(|(p, start, ..)| (*p, *start));
        let (one, two) = (Some(at(1)), Some(at(2)));
        let expected = [
            (0, 5, 10, one.clone()),
            (0, 10, 20, two.clone()),
            (0, 20, 31, one.clone()),
            (0, 31, 40, None),
            (1, 0, 3, None),
            (1, 3, 5, one),
            (1, 5, 6, two),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_was_met_is_stored_and_read() {
        let mut met = Met::of(&[(PartitionId(7), range(0, 10))], &at(1));
        met.extend(&Met::of(&[(PartitionId(7), range(10, 12))], &at(2)));
        let text = serde_json::to_string(&met).unwrap_or_default();
        assert_eq!(serde_json::from_str::<Met>(&text).ok(), Some(met));
        assert!(Met::of(&[(PartitionId(0), range(0, 1))], &ReferencesAt::new()).is_empty());
    }
}
