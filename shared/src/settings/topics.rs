//! The topics of a project: their names, fields and how they admit records.

use super::FieldType;
use super::choice::{Ack, DeadLetterShare, UnknownFields};
use super::dedup::{self, DedupSettings};
use super::field_reads::{self, FieldReads};
use super::field_type::{Nullability, parse_declaration};
use super::kafka::{self, KafkaSettings};
use super::reader::{Entry, Reader, Table};
use super::retention::{self, RetentionSettings};
use super::table::{
    ACK, DEAD_LETTER_COUNT, DEAD_LETTER_SHARE, DEAD_LETTERS_FOR, EVENT_TIME, FIELDS, UNKNOWN_FIELDS,
};
use super::value::{FieldName, Found, PeriodOrOff};
use crate::nearest;
use std::time::Duration;

/// A topic as it is declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSettings {
    /// Name: a-z, 0-9 and `_`, at most 63 characters.
    pub name: String,
    /// Name of the field that says when a fact happened; a `timestamp not null` among `fields`.
    pub event_time: String,
    /// When a producer is answered.
    pub ack: Ack,
    /// What becomes of undeclared fields.
    pub unknown_fields: UnknownFields,
    /// The Kafka topic that its facts come from, if they do.
    pub kafka: Option<KafkaSettings>,
    /// How duplicates are known; off where absent.
    pub dedup: Option<DedupSettings>,
    /// Which facts are removed from the log; none where absent.
    pub retention: Option<RetentionSettings>,
    /// Which share of the records may be dead letters before `/ready` turns red.
    pub dead_letter_share: DeadLetterShare,
    /// How many dead letters there must be for that; at least 1.
    pub dead_letter_count: u64,
    /// How long dead letters are kept at least; `None` for ever.
    pub dead_letters_for: Option<Duration>,
    /// The fields in the order of their declaration; never empty, no two names alike in any case.
    pub fields: Vec<FieldSettings>,
}

/// A field of a topic as it is declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldSettings {
    /// Name as written; doesn't start with `_`.
    pub name: String,
    /// Type of its values.
    pub field_type: FieldType,
    /// Whether every fact must have it; a record without it becomes a dead letter.
    pub not_null: bool,
    /// How its values are read.
    pub reads: FieldReads,
}

/// A field whose name is known, also where its type is wrong.
struct Declared<'t> {
    entry: Entry<'t>,
    field: Option<FieldSettings>,
}

/// Reads a topic; `None` where a problem is on record.
pub(super) fn read(
    reader: &mut Reader<'_>,
    name: &str,
    table: &Table<'_>,
) -> Option<TopicSettings> {
    let ack = reader.value(table, &ACK);
    let unknown_fields = reader.value(table, &UNKNOWN_FIELDS);
    let declared = fields(reader, table);
    let event_time = reader.required(table, &EVENT_TIME);
    let dead_letter_share = reader.value(table, &DEAD_LETTER_SHARE);
    let dead_letter_count = reader.value(table, &DEAD_LETTER_COUNT).0;
    let PeriodOrOff(dead_letters_for) = reader.value(table, &DEAD_LETTERS_FOR);
    let declared = declared?;
    let FieldName(event_time) = event_time?;
    check_event_time(reader, table, &event_time, &declared);
    let fields: Vec<FieldSettings> = declared.into_iter().filter_map(|one| one.field).collect();
    let kafka = kafka::read(reader, name, table, (&event_time, &fields));
    Some(TopicSettings {
        name: name.to_owned(),
        event_time,
        ack,
        unknown_fields,
        dedup: dedup::read(reader, table, &fields),
        retention: retention::read(reader, table),
        dead_letter_share,
        dead_letter_count,
        dead_letters_for,
        kafka,
        fields,
    })
}

fn fields<'t>(reader: &mut Reader<'_>, table: &Table<'t>) -> Option<Vec<Declared<'t>>> {
    let value = reader.require(table, &FIELDS, FIELDS.absent.example)?;
    let path = format!("{}.fields", table.header.trim_matches(['[', ']']));
    let is_table = value.get_ref().is_table();
    let entries = reader.entries(&path, &format!("[{path}]"), value);
    if entries.is_empty() {
        if is_table {
            let message = format!(
                "`[{path}]` declares no field; write at least the event time, such as `ts = \"timestamp not null\"`"
            );
            reader.report(&value.span(), message);
        }
        return None;
    }
    let mut declared: Vec<Declared<'t>> = Vec::with_capacity(entries.len());
    for entry in entries {
        if let Some(wrong) = wrong_field_name(entry.key, &declared) {
            reader.report(&entry.key_span, wrong);
        }
        let field = field(reader, &path, &entry);
        declared.push(Declared { entry, field });
    }
    Some(declared)
}

fn wrong_field_name(name: &str, before: &[Declared<'_>]) -> Option<String> {
    let shown = name.escape_debug();
    if name.trim().is_empty() {
        return Some("a field's name is empty; name it".to_owned());
    }
    if name.starts_with('_') {
        return Some(format!(
            "field `{shown}` starts with `_`, which is reserved for Anabranch's own columns; rename it"
        ));
    }
    let lower = name.to_lowercase();
    let twin = before
        .iter()
        .find(|one| one.entry.key.to_lowercase() == lower)?;
    Some(format!(
        "field `{shown}` differs from field `{}` only in case; rename one of them",
        twin.entry.key.escape_debug()
    ))
}

fn field(reader: &mut Reader<'_>, path: &str, entry: &Entry<'_>) -> Option<FieldSettings> {
    if entry.value.get_ref().is_table() {
        return field_reads::read(reader, path, entry);
    }
    let name = entry.key.escape_debug();
    let found = reader.found(entry.value)?;
    let Found::Text { text, shown } = &found else {
        let message = format!(
            "field `{name}` in `[{path}]` must be a SQL type such as `\"varchar not null\"`, found {}",
            found.describe()
        );
        reader.report(&entry.value.span(), message);
        return None;
    };
    match parse_declaration(text) {
        Ok((field_type, nullability)) => Some(FieldSettings {
            name: entry.key.to_owned(),
            field_type,
            not_null: nullability == Nullability::NotNull,
            reads: FieldReads::default(),
        }),
        Err(error) => {
            // The reason quotes the text, which is not shown where a variable was put in.
            let reason = if text == shown {
                error.reason
            } else {
                format!("the value of {} is not a SQL type", found.describe())
            };
            reader.report(&entry.value.span(), format!("field `{name}`: {reason}"));
            None
        }
    }
}

/// The event time has to be a declared field, a timestamp and never null.
fn check_event_time(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    event_time: &str,
    declared: &[Declared<'_>],
) {
    let Some(value) = table.get(EVENT_TIME.key) else {
        return;
    };
    let Some(named) = declared.iter().find(|one| one.entry.key == event_time) else {
        let advice = match nearest(event_time, declared.iter().map(|one| one.entry.key)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "declare it as `timestamp not null`, or name the field that is".to_owned(),
        };
        // Quoted as written: the name may have come out of a variable.
        let found = reader
            .found(value)
            .map(|found| found.describe())
            .unwrap_or_default();
        let message = format!(
            "`event_time` in `{}` must name a field of the topic, found {found}; {advice}",
            table.header
        );
        reader.report(&value.span(), message);
        return;
    };
    // A field whose type is wrong has its problem on record.
    let Some(field) = &named.field else { return };
    let name = &field.name;
    if field.field_type != FieldType::Timestamp {
        let message = format!(
            "field `{name}` is the event time of its topic, so it must be a timestamp, not `{}`; \
             write `{name} = \"timestamp not null\"`",
            field.field_type
        );
        reader.report(&named.entry.value.span(), message);
    } else if !field.not_null {
        let message = format!(
            "field `{name}` is the event time of its topic, so it can't be null; \
             write `{name} = \"timestamp not null\"`"
        );
        reader.report(&named.entry.value.span(), message);
    }
}
