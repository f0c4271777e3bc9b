//! Topics: a named stream of facts with one schema, and the columns that the log adds to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::settings::{FieldReads, FieldType, TopicSettings};
use crate::{Error, Result};

/// The column that keeps undeclared fields as JSON.
pub const EXTRA: &str = "_extra";
/// The column of a fact's partition.
pub const PARTITION: &str = "_partition";
/// The column of a fact's offset.
pub const OFFSET: &str = "_offset";
/// The column of the time at which a fact was admitted.
pub const INGESTED_AT: &str = "_ingested_at";

/// Characters that the names of columns can't have in a Delta table without column mapping.
pub(crate) const NOT_IN_NAMES: [char; 10] = [' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '='];

/// Timestamps are microseconds in UTC throughout.
pub fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The columns of a fact's place.
pub(crate) fn place_fields() -> [Field; 2] {
    [
        Field::new(PARTITION, DataType::Int32, false),
        Field::new(OFFSET, DataType::Int64, false),
    ]
}

/// A declared field of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicField {
    /// The field's name.
    pub name: String,
    /// Its SQL type.
    #[serde(
        rename = "type",
        serialize_with = "as_text",
        deserialize_with = "from_text"
    )]
    pub field_type: FieldType,
    /// Whether a fact may leave it out.
    pub nullable: bool,
    /// How its values are read out of the `_extra` of facts that are older than its declaration. It
    /// stays as it was when the field was declared, so that a stored fact means one thing for ever.
    #[serde(default, skip_serializing_if = "FieldReads::is_default")]
    pub reads: FieldReads,
}

/// How the fields of a topic are read out of `_extra`, by their names: those of which something is
/// set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LateReads(Arc<BTreeMap<String, FieldReads>>);

impl LateReads {
    /// How a field is read.
    pub(crate) fn of(&self, field: &str) -> FieldReads {
        self.0.get(field).copied().unwrap_or_default()
    }
}

fn as_text<S: Serializer>(t: &FieldType, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.collect_str(t)
}

fn from_text<'de, D: Deserializer<'de>>(d: D) -> std::result::Result<FieldType, D::Error> {
    String::deserialize(d)?
        .parse()
        .map_err(serde::de::Error::custom)
}

/// A named stream of facts with one schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// The topic's name.
    pub name: String,
    /// The field that holds a fact's event time.
    pub event_time: String,
    /// The declared fields, in order.
    pub fields: Vec<TopicField>,
}

impl Topic {
    /// The topic that a project's settings declare.
    pub fn from_settings(settings: &TopicSettings) -> Self {
        let fields = settings.fields.iter().map(|f| TopicField {
            name: f.name.clone(),
            field_type: f.field_type.clone(),
            nullable: !f.not_null,
            reads: f.reads,
        });
        Self {
            name: settings.name.clone(),
            event_time: settings.event_time.clone(),
            fields: fields.collect(),
        }
    }

    /// The canonical Arrow schema of the declared fields.
    pub fn field_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.arrow_fields()))
    }

    fn arrow_fields(&self) -> Vec<Field> {
        let arrow = |f: &TopicField| Field::new(&f.name, arrow_type(&f.field_type), f.nullable);
        self.fields.iter().map(arrow).collect()
    }

    /// The canonical Arrow schema of a fact in the log: the declared fields, then `_extra`,
    /// `_partition`, `_offset` and `_ingested_at`. Every fold, in batch, speed and verification
    /// alike, starts from this schema, because hashes and sketches depend on the exact types.
    pub fn schema(&self) -> SchemaRef {
        let mut fields = self.arrow_fields();
        fields.push(Field::new(EXTRA, DataType::Utf8View, true));
        fields.extend(place_fields());
        fields.push(Field::new(INGESTED_AT, timestamp_type(), false));
        Arc::new(Schema::new(fields))
    }

    /// How fields are read out of the `_extra` of facts that are older than they are.
    pub fn late_reads(&self) -> LateReads {
        let set = self.fields.iter().filter(|f| !f.reads.is_default());
        LateReads(Arc::new(set.map(|f| (f.name.clone(), f.reads)).collect()))
    }

    /// The topic, with the fields of `older` read out of `_extra` as they were there.
    pub(crate) fn with_reads_of(&self, older: &Self) -> Self {
        let mut topic = self.clone();
        for field in &mut topic.fields {
            if let Some(known) = older.fields.iter().find(|f| f.name == field.name) {
                field.reads = known.reads;
            }
        }
        topic
    }

    /// Whether the names of all fields but the `known` ones can be those of a Delta table's columns.
    ///
    /// # Errors
    /// `Invalid`, naming the field.
    pub fn check_names_but(&self, known: &[TopicField]) -> Result<()> {
        let is_new = |f: &&TopicField| known.iter().all(|k| k.name != f.name);
        match self
            .fields
            .iter()
            .filter(is_new)
            .find(|f| f.name.contains(NOT_IN_NAMES))
        {
            None => Ok(()),
            Some(f) => Err(Error::Invalid(format!(
                "topic `{}`: field `{}` can't be a column of the log, a Delta table that other engines read: its name has a space or one of `,;{{}}()=`; rename it",
                self.name,
                f.name.escape_debug()
            ))),
        }
    }

    /// Whether facts that were landed under `older` can be read as facts of this topic.
    ///
    /// # Errors
    /// `Invalid`, naming the field, for anything but new nullable fields: at the end or between the
    /// others, as columns are bound by name.
    pub fn check_evolves_from(&self, older: &Self) -> Result<()> {
        let refuse = |what: String| {
            Err(Error::Invalid(format!(
                "topic `{}`: {what}; facts already in the log were landed under the former declaration, so declare a new field or a new topic instead",
                self.name
            )))
        };
        if self.event_time != older.event_time {
            return refuse(format!(
                "`event_time` changed from `{}` to `{}`",
                older.event_time, self.event_time
            ));
        }
        let mut kept = 0;
        for old in &older.fields {
            let found = self.fields[kept..].iter().position(|f| f.name == old.name);
            let Some(found) = found else {
                return refuse(format!("field `{}` was removed or moved", old.name));
            };
            kept += found + 1;
            let new = &self.fields[kept - 1];
            if (&new.field_type, new.nullable) != (&old.field_type, old.nullable) {
                let null = |n: bool| if n { "" } else { " not null" };
                return refuse(format!(
                    "field `{}` changed from `{}{}` to `{}{}`",
                    old.name,
                    old.field_type,
                    null(old.nullable),
                    new.field_type,
                    null(new.nullable)
                ));
            }
        }
        let is_new = |f: &&TopicField| older.fields.iter().all(|old| old.name != f.name);
        let mut new = self.fields.iter().filter(is_new);
        match new.find(|f| !f.nullable) {
            Some(f) => refuse(format!("the new field `{}` is `not null`", f.name)),
            None => Ok(()),
        }
    }
}

/// The canonical Arrow type of a SQL type.
pub fn arrow_type(field_type: &FieldType) -> DataType {
    match field_type {
        FieldType::Boolean => DataType::Boolean,
        FieldType::TinyInt => DataType::Int8,
        FieldType::SmallInt => DataType::Int16,
        FieldType::Int => DataType::Int32,
        FieldType::BigInt => DataType::Int64,
        FieldType::Real => DataType::Float32,
        FieldType::Double => DataType::Float64,
        FieldType::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale),
        FieldType::Varchar => DataType::Utf8View,
        FieldType::Binary => DataType::BinaryView,
        FieldType::Date => DataType::Date32,
        FieldType::Timestamp => timestamp_type(),
        FieldType::List(item) => DataType::new_list(arrow_type(item), true),
    }
}
