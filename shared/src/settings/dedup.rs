//! `dedup` of a topic: by which field duplicates are known, for how long, and in how much memory.

use std::time::Duration;

use super::FieldType;
use super::reader::{Reader, Table};
use super::table::{DEDUP, DEDUP_KEY, DEDUP_MEMORY, DEDUP_WINDOW, Section};
use super::topics::FieldSettings;
use super::value::FieldName;
use crate::nearest;

/// How a topic knows facts that it has already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DedupSettings {
    /// A declared field whose values can be compared exactly: not a floating-point number, not a
    /// list. A fact without it is never a duplicate.
    pub key: String,
    /// How long a key is remembered at least.
    pub window: Duration,
    /// The most bytes of memory that keys may take; at least 1. Over it the window is shortened.
    pub memory_bytes: u64,
}

/// Reads `dedup`, with the fields that the topic declares; `None` where it is off or a problem is
/// on record.
pub(super) fn read(
    reader: &mut Reader<'_>,
    topic: &Table<'_>,
    fields: &[FieldSettings],
) -> Option<DedupSettings> {
    let value = topic.get(DEDUP.key)?;
    let path = format!("{}.{}", topic.header.trim_matches(['[', ']']), DEDUP.key);
    let table = reader.table(Section::Dedup, &path, value)?;
    let window = reader.value(&table, &DEDUP_WINDOW);
    let memory = reader.value(&table, &DEDUP_MEMORY);
    let FieldName(key) = reader.required(&table, &DEDUP_KEY)?;
    check_key(reader, &table, &key, fields);
    Some(DedupSettings {
        key,
        window,
        memory_bytes: memory.0,
    })
}

fn check_key(reader: &mut Reader<'_>, table: &Table<'_>, key: &str, fields: &[FieldSettings]) {
    let Some(value) = table.get(DEDUP_KEY.key) else {
        return;
    };
    let found = reader
        .found(value)
        .map(|found| found.describe())
        .unwrap_or_default();
    let message = match fields.iter().find(|field| field.name == key) {
        None => {
            let advice = match nearest(key, fields.iter().map(|field| field.name.as_str())) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "declare it, or name the field that tells facts apart".to_owned(),
            };
            format!(
                "`key` in `{}` must name a field of the topic, found {found}; {advice}",
                table.header
            )
        }
        Some(field) => match &field.field_type {
            FieldType::Real | FieldType::Double | FieldType::List(_) => format!(
                "field `{}` is of type `{}`, which can't be compared exactly, so it can't be the key of `{}`; name a field of another type",
                field.name, field.field_type, table.header
            ),
            _ => return,
        },
    };
    reader.report(&value.span(), message);
}
