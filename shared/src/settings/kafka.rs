//! `[topics.NAME.source.kafka]`: the Kafka topic that a topic's facts come from.

use toml::de::DeValue;

use super::FieldType;
use super::choice::choose;
use super::reader::{Entry, Reader, Table};
use super::table::{
    self, BROKERS, GROUP, HEADERS, KAFKA_TOPIC, KEY_FIELD, ON_GAP, PARTITIONS, PREFETCH,
    PROPERTIES, SOURCE, START, Section, TIMESTAMP_FIELD, TOMBSTONE_FIELD, TOMBSTONES, TOPIC_ID,
};
use super::topics::FieldSettings;
use super::value::{FieldName, Found, Mismatch, SettingValue, quoted};
use crate::nearest;

/// The most partitions that a list may name.
const MOST_PARTITIONS: i32 = 100_000;

/// Properties of librdkafka that Anabranch sets itself: what is exact rests on them.
const OWN_PROPERTIES: [&str; 9] = [
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "group.id",
    "isolation.level",
    "metadata.broker.list",
    "statistics.interval.ms",
];

/// A Kafka source as it is declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaSettings {
    /// `HOST:PORT,…` of some brokers.
    pub brokers: String,
    /// Kafka's topic.
    pub topic: String,
    /// The consumer group; `None` for one of the storage's own.
    pub group: Option<String>,
    /// The id of Kafka's topic that is read on, where it is another one than before.
    pub topic_id: Option<String>,
    /// The partitions to read; `None` where the group assigns them.
    pub partitions: Option<Vec<i32>>,
    /// Where a partition of which nothing has landed is read from.
    pub start: KafkaStart,
    /// What happens where Kafka has removed messages that were not read.
    pub on_gap: OnGap,
    /// The field that takes a message's key.
    pub key_field: Option<String>,
    /// The field that takes a message's time stamp.
    pub timestamp_field: Option<String>,
    /// Names of headers, and the fields that take them.
    pub headers: Vec<(String, String)>,
    /// Those of the fields above that are binary: they take bytes as they come.
    pub binary_fields: Vec<String>,
    /// What becomes of messages without a value, where there is no field for them.
    pub tombstones: Tombstones,
    /// The field that is true in the fact which such a message becomes.
    pub tombstone_field: Option<String>,
    /// The topic's event time, which such a fact has of the message's time stamp.
    pub event_time: String,
    /// Passed through to librdkafka.
    pub properties: Vec<(String, String)>,
    /// Bytes of messages that may wait in memory before they are admitted.
    pub prefetch_bytes: u64,
}

/// Where reading begins where nothing has landed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KafkaStart {
    /// With the oldest message.
    Earliest,
    /// With the messages that come.
    Latest,
    /// With the first message of this time or later, in milliseconds since 1970.
    At(i64),
}

impl SettingValue for KafkaStart {
    const TYPE: &'static str = "\"earliest\", \"latest\" or time";
    const EXPECTED: &'static str =
        "`\"earliest\"`, `\"latest\"` or a time such as `\"2026-11-01T00:00:00Z\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        let Found::Text { text, .. } = found else {
            return Err(Mismatch::Plain);
        };
        match text.as_str() {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            time => chrono::DateTime::parse_from_rfc3339(time)
                .map(|at| Self::At(at.timestamp_millis()))
                .map_err(|_| Mismatch::Plain),
        }
    }

    fn write(&self) -> String {
        match self {
            Self::Earliest => quoted("earliest"),
            Self::Latest => quoted("latest"),
            Self::At(ms) => {
                let at = chrono::DateTime::from_timestamp_millis(*ms).unwrap_or_default();
                quoted(&at.to_rfc3339())
            }
        }
    }
}

/// What happens where Kafka has removed messages that were not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnGap {
    /// The topic stops, and says so.
    Stop,
    /// The gap is recorded in the log, and the topic goes on behind it.
    Record,
}

impl SettingValue for OnGap {
    const TYPE: &'static str = "\"stop\" or \"record\"";
    const EXPECTED: &'static str = "`\"stop\"` or `\"record\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        choose(found, [Self::Stop, Self::Record])
    }

    fn write(&self) -> String {
        match self {
            Self::Stop => quoted("stop"),
            Self::Record => quoted("record"),
        }
    }
}

/// What becomes of messages without a value, which compacted topics have for what was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tombstones {
    /// They are dead letters.
    DeadLetter,
    /// They are passed over; their offsets stay unused.
    Skip,
}

impl SettingValue for Tombstones {
    const TYPE: &'static str = "\"dead_letter\" or \"skip\"";
    const EXPECTED: &'static str = "`\"dead_letter\"` or `\"skip\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        choose(found, [Self::DeadLetter, Self::Skip])
    }

    fn write(&self) -> String {
        match self {
            Self::DeadLetter => quoted("dead_letter"),
            Self::Skip => quoted("skip"),
        }
    }
}

/// A list of partitions, such as `0-3,7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PartitionList(pub(super) Vec<i32>);

impl SettingValue for PartitionList {
    const TYPE: &'static str = "list of partitions";
    const EXPECTED: &'static str = "partitions of Kafka such as `\"0-3,7\"`";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        let Found::Text { text, .. } = found else {
            return Err(Mismatch::Plain);
        };
        let number = |text: &str| text.trim().parse::<u16>().map(i32::from).ok();
        let mut list = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Some(first), Some(last)) = (number(first), number(last)) else {
                return Err(Mismatch::Plain);
            };
            if first > last || last >= MOST_PARTITIONS {
                return Err(Mismatch::Plain);
            }
            list.extend(first..=last);
        }
        list.sort_unstable();
        list.dedup();
        Ok(Self(list))
    }

    fn write(&self) -> String {
        let numbers: Vec<String> = self.0.iter().map(i32::to_string).collect();
        quoted(&numbers.join(","))
    }
}

/// Text that may not be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word(pub(super) String);

impl SettingValue for Word {
    const TYPE: &'static str = "string";
    const EXPECTED: &'static str = "a string that is not empty";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        match found {
            Found::Text { text, .. } if !text.trim().is_empty() => Ok(Self(text.clone())),
            _ => Err(Mismatch::Plain),
        }
    }

    fn write(&self) -> String {
        quoted(&self.0)
    }
}

/// Reads the source of a topic, if it has one.
pub(super) fn read(
    reader: &mut Reader<'_>,
    name: &str,
    topic: &Table<'_>,
    (event_time, fields): (&str, &[FieldSettings]),
) -> Option<KafkaSettings> {
    let source = topic.get(SOURCE.key)?;
    let path = format!("topics.{name}.source");
    let header = format!("[{path}.kafka]");
    for entry in reader.entries(&path, &header, source) {
        if entry.key != "kafka" {
            let message = format!(
                "unknown source `{}` of topic `{name}`; the only one is `{header}`",
                entry.key.escape_debug()
            );
            reader.report(&entry.key_span, message);
            continue;
        }
        let path = format!("{path}.kafka");
        let table = Table {
            section: Section::Kafka,
            entries: reader.entries(&path, &header, entry.value),
            header: header.clone(),
            span: entry.key_span,
        };
        reader.refuse_unknown_keys(&table);
        return settings(reader, name, &table, (event_time, fields));
    }
    None
}

fn settings(
    reader: &mut Reader<'_>,
    name: &str,
    table: &Table<'_>,
    (event_time, fields): (&str, &[FieldSettings]),
) -> Option<KafkaSettings> {
    let brokers = reader.required(table, &BROKERS);
    let topic = reader.optional(table, &KAFKA_TOPIC);
    let group = reader.optional(table, &GROUP);
    let key_field = mapped(reader, table, &KEY_FIELD, fields);
    let timestamp_field = mapped(reader, table, &TIMESTAMP_FIELD, fields);
    let tombstone_field = mapped(reader, table, &TOMBSTONE_FIELD, fields);
    let of_tombstones = fields
        .iter()
        .find(|f| Some(&f.name) == tombstone_field.as_ref());
    if of_tombstones.is_some_and(|f| f.field_type != FieldType::Boolean)
        && let Some(value) = table.get(TOMBSTONE_FIELD.key)
    {
        let message = format!(
            "`tombstone_field` in `{}` must name a field of type boolean; declare one such as `deleted = \"boolean\"`",
            table.header
        );
        reader.report(&value.span(), message);
    }
    let headers = texts(reader, table, HEADERS.key);
    for (_, field, entry) in &headers {
        check_field(reader, field, entry, fields);
    }
    let properties = texts(reader, table, PROPERTIES.key);
    for (key, _, entry) in &properties {
        if OWN_PROPERTIES.contains(&key.as_str()) {
            let message = format!(
                "property `{key}` is set by Anabranch; leave it out{}",
                match key.as_str() {
                    "bootstrap.servers" | "metadata.broker.list" => " and write `brokers`",
                    "group.id" => " and write `group`",
                    "auto.offset.reset" => " and write `start`",
                    _ => "",
                }
            );
            reader.report(&entry.key_span, message);
        }
    }
    let text = |(key, value, _): (String, String, Entry<'_>)| (key, value);
    let is_binary = |field: &&FieldSettings| field.field_type == FieldType::Binary;
    let binary_fields = fields.iter().filter(is_binary).map(|f| f.name.clone());
    Some(KafkaSettings {
        brokers: brokers?.0,
        topic: topic.map_or_else(|| name.to_owned(), |t| t.0),
        group: group.map(|g| g.0),
        topic_id: reader.optional(table, &TOPIC_ID).map(|id| id.0),
        partitions: reader.optional(table, &PARTITIONS).map(|p| p.0),
        start: reader.value(table, &START),
        on_gap: reader.value(table, &ON_GAP),
        key_field,
        timestamp_field,
        headers: headers.into_iter().map(text).collect(),
        binary_fields: binary_fields.collect(),
        tombstones: reader.value(table, &TOMBSTONES),
        tombstone_field,
        event_time: event_time.to_owned(),
        properties: properties.into_iter().map(text).collect(),
        prefetch_bytes: reader.value(table, &PREFETCH).0,
    })
}

/// A setting that names a declared field.
fn mapped(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    setting: &table::Setting<table::Optional<FieldName>>,
    fields: &[FieldSettings],
) -> Option<String> {
    let FieldName(field) = reader.optional(table, setting)?;
    let entry = table.entries.iter().find(|e| e.key == setting.key)?;
    check_field(reader, &field, entry, fields);
    Some(field)
}

fn check_field(reader: &mut Reader<'_>, field: &str, entry: &Entry<'_>, fields: &[FieldSettings]) {
    if fields.iter().any(|f| f.name == field) {
        return;
    }
    let advice = match nearest(field, fields.iter().map(|f| f.name.as_str())) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "declare it".to_owned(),
    };
    let message = format!(
        "`{}` must name a field of the topic, found `{}`; {advice}",
        entry.key.escape_debug(),
        field.escape_debug()
    );
    reader.report(&entry.value.span(), message);
}

/// The entries of a table of texts.
fn texts<'t>(
    reader: &mut Reader<'_>,
    table: &Table<'t>,
    key: &str,
) -> Vec<(String, String, Entry<'t>)> {
    let Some(value) = table.get(key) else {
        return Vec::new();
    };
    let path = format!("{}.{key}", table.header.trim_matches(['[', ']']));
    let mut found = Vec::new();
    for entry in reader.entries(&path, &format!("[{path}]"), value) {
        let text = match (reader.found(entry.value), entry.value.get_ref()) {
            (Some(Found::Text { text, .. }), _) => text,
            (Some(Found::Boolean(truth)), _) => truth.to_string(),
            (Some(_), DeValue::Integer(number)) => number.to_string(),
            (Some(other), _) => {
                let message = format!(
                    "`{}` in `[{path}]` must be a string, found {}",
                    entry.key.escape_debug(),
                    other.describe()
                );
                reader.report(&entry.value.span(), message);
                continue;
            }
            (None, _) => continue,
        };
        found.push((entry.key.to_owned(), text, entry));
    }
    found
}
