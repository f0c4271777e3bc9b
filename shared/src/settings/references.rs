//! The references of a project: of which topic each has the latest rows, by which key.

use super::FieldType;
use super::reader::{Reader, Table};
use super::table::{
    DELETED_WHEN, LATEST_BY, REFERENCE_FIELDS, REFERENCE_KEY, REFERENCE_MEMORY, REFERENCE_TOPIC,
};
use super::topics::{FieldSettings, TopicSettings};
use super::value::FieldName;
use crate::nearest;

/// A reference as it is declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceSettings {
    /// Name: a-z, 0-9 and `_`, at most 63 characters; no topic and no view of the project has it.
    pub name: String,
    /// The topic that it reads.
    pub topic: String,
    /// The fields that tell its rows apart; never empty.
    pub key: Vec<String>,
    /// The field by which the latest is known.
    pub latest_by: String,
    /// The fields that it has besides its key; what the latest is known by is one of them.
    pub fields: Vec<String>,
    /// A condition over the topic's fields; a key whose latest row meets it is not there.
    pub deleted_when: Option<String>,
    /// The most bytes of memory that its rows may take; at least 1.
    pub memory_bytes: u64,
}

/// Reads a reference; `None` where a problem is on record.
pub(super) fn read(
    reader: &mut Reader<'_>,
    name: &str,
    table: &Table<'_>,
    topics: &[TopicSettings],
) -> Option<ReferenceSettings> {
    let memory_bytes = reader.value(table, &REFERENCE_MEMORY).0;
    let deleted_when = reader.optional(table, &DELETED_WHEN).map(|w| w.0);
    let key = reader.required(table, &REFERENCE_KEY);
    let latest_by = reader.required(table, &LATEST_BY);
    let fields = reader.optional(table, &REFERENCE_FIELDS).map(|f| f.0);
    let topic = reader.required(table, &REFERENCE_TOPIC)?.0;
    let known = topics.iter().find(|t| t.name == topic);
    let Some(known) = known else {
        let advice = match nearest(&topic, topics.iter().map(|t| t.name.as_str())) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "declare it in a `[topics.NAME]` table".to_owned(),
        };
        let message = format!(
            "`topic` in `{}` must name a topic of the project, found `{topic}`; {advice}",
            table.header
        );
        report(reader, table, REFERENCE_TOPIC.key, message);
        return None;
    };
    if known.retention.is_some() {
        let message = format!(
            "topic `{topic}` has a retention, which would remove rows of reference `{name}`; take `[topics.{topic}.retention]` out"
        );
        report(reader, table, REFERENCE_TOPIC.key, message);
    }
    let (key, FieldName(latest_by)) = (key?.0, latest_by?);
    for field in &key {
        check_key(reader, table, field, known);
    }
    check_field(reader, table, LATEST_BY.key, &latest_by, known);
    for field in fields.iter().flatten() {
        check_field(reader, table, REFERENCE_FIELDS.key, field, known);
        if key.contains(field) {
            let message = format!(
                "`{field}` is the key of reference `{name}`, which it has anyway; take it out of `fields`"
            );
            report(reader, table, REFERENCE_FIELDS.key, message);
        }
    }
    let others = || known.fields.iter().map(|f| f.name.clone());
    let mut fields: Vec<String> =
        fields.unwrap_or_else(|| others().filter(|f| !key.contains(f)).collect());
    // What the latest is known by is asked for where facts meet rows as of a time.
    if !key.contains(&latest_by) && !fields.contains(&latest_by) {
        fields.push(latest_by.clone());
    }
    Some(ReferenceSettings {
        name: name.to_owned(),
        topic,
        key,
        latest_by,
        fields,
        deleted_when,
        memory_bytes,
    })
}

fn report(reader: &mut Reader<'_>, table: &Table<'_>, key: &str, message: String) {
    let span = table
        .get(key)
        .map_or(table.span.clone(), |value| value.span());
    reader.report(&span, message);
}

fn check_field<'t>(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    setting: &str,
    field: &str,
    topic: &'t TopicSettings,
) -> Option<&'t FieldSettings> {
    let found = topic.fields.iter().find(|f| f.name == field);
    if found.is_none() {
        let advice = match nearest(field, topic.fields.iter().map(|f| f.name.as_str())) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "declare it there first".to_owned(),
        };
        let message = format!(
            "`{setting}` in `{}` must name a field of topic `{}`, found `{field}`; {advice}",
            table.header, topic.name
        );
        report(reader, table, setting, message);
    }
    found
}

fn check_key(reader: &mut Reader<'_>, table: &Table<'_>, field: &str, topic: &TopicSettings) {
    let found = check_field(reader, table, REFERENCE_KEY.key, field, topic);
    if let Some(FieldType::Real | FieldType::Double | FieldType::List(_)) =
        found.map(|f| &f.field_type)
    {
        let message = format!(
            "field `{field}` can't be compared exactly, so it can't be a key of `{}`; name a field of another type",
            table.header
        );
        report(reader, table, REFERENCE_KEY.key, message);
    }
}
