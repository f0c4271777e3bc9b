//! `retention` of a topic: which facts are removed from its log.

use std::time::Duration;

use super::reader::{Reader, Table};
use super::table::{RETENTION, RETENTION_AGE, RETENTION_SIZE, Section};

/// Which facts of a topic are removed; at least one of the bounds is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionSettings {
    /// Facts that landed longer ago go.
    pub age: Option<Duration>,
    /// The oldest facts go while the files of the log hold more bytes; at least 1.
    pub size_bytes: Option<u64>,
}

/// Reads `retention`; `None` where it is off or a problem is on record.
pub(super) fn read(reader: &mut Reader<'_>, topic: &Table<'_>) -> Option<RetentionSettings> {
    let value = topic.get(RETENTION.key)?;
    let name = topic.header.trim_matches(['[', ']']);
    let path = format!("{name}.{}", RETENTION.key);
    let table = reader.table(Section::Retention, &path, value)?;
    let age = reader.optional(&table, &RETENTION_AGE);
    let size = reader.optional(&table, &RETENTION_SIZE);
    if table.get(RETENTION_AGE.key).is_none() && table.get(RETENTION_SIZE.key).is_none() {
        let message = format!(
            "`{path}` has neither `age` nor `size`; write at least one, such as `age = {}`",
            RETENTION_AGE.absent.example
        );
        reader.report(&value.span(), message);
        return None;
    }
    Some(RetentionSettings {
        age,
        size_bytes: size.map(|s| s.0),
    })
}
