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
        let latest = format!("row_number() OVER (PARTITION BY {key} ORDER BY {order})");
        format!(
            "SELECT {all} FROM (SELECT {all}, {gone} AS _gone, {latest} AS _nth FROM {} WHERE {present}) WHERE _nth = 1 AND NOT _gone",
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

/// What facts of some ranges met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetBy {
    /// The facts.
    pub ranges: Vec<(PartitionId, OffsetRange)>,
    /// What they met.
    pub at: ReferencesAt,
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
                Some(known) => known.ranges.extend(more.ranges.iter().copied()),
                None => self.0.push(more.clone()),
            }
        }
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
