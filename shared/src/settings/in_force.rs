//! The settings of one project as they are in force: each with its value, where that comes from, and
//! what would hold otherwise.

use serde::Serialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment::Environment;
use super::reader::{Entry, in_file_order};
use super::table::{Fallback, Row, Section};

/// A setting as it is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SettingInForce {
    /// Its table, such as `[topics.pageviews]`.
    pub table: String,
    /// Its key.
    pub key: String,
    /// Its value as TOML; none where it is unset. A variable stands as it is written, because it may
    /// hold a secret.
    pub value: Option<String>,
    /// The line of `anabranch.toml` that it is on.
    pub line: Option<usize>,
    /// The variables of the environment that it comes from.
    pub variables: Vec<String>,
    /// What holds where it is not written, as TOML; none where it is off then, or has to be written.
    pub default: Option<String>,
    /// What kind of value it takes, with its unit.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

/// Settings that come from the environment where the file has none, of a bucket alone.
const OF_ENVIRONMENT: [(&str, &[&str]); 2] = [
    (
        "endpoint",
        &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"],
    ),
    ("region", &["AWS_REGION", "AWS_DEFAULT_REGION"]),
];

/// The settings of a project whose `anabranch.toml` can be read, in the order of the reference;
/// `environment` gives the value of a variable. Of a text without topics and views those of one
/// called NAME are told, as they are without being written.
pub fn in_force(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Vec<SettingInForce> {
    let (root, _) = DeTable::parse_recoverable(text);
    let file = File {
        text,
        environment,
        is_bucket: text.contains("s3://"),
    };
    let root = root.get_ref();
    let mut all = Vec::new();
    for section in Section::ALL {
        let tables = tables_of(root, section);
        if tables.is_empty() && is_shown_without(root, section) {
            file.add(section, &section.header(), &[], &mut all);
        }
        for (header, table) in tables {
            let entries = in_file_order(table);
            file.add(section, &header, &entries, &mut all);
        }
    }
    all
}

/// Whether a section's settings are told although no table of it is written.
fn is_shown_without(root: &DeTable<'_>, section: Section) -> bool {
    match section {
        Section::Topic | Section::View => root.get(section.key()).is_none(),
        Section::Reference | Section::Step => false,
        Section::Field
        | Section::Kafka
        | Section::Dedup
        | Section::Retention
        | Section::Gate
        | Section::GateColumn => false,
        _ => true,
    }
}

/// The table that a value is, if it is one.
fn table<'t>(value: Option<&'t Spanned<DeValue<'t>>>) -> Option<&'t DeTable<'t>> {
    match value?.get_ref() {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}

/// The tables of a section, each with its header.
fn tables_of<'t>(root: &'t DeTable<'t>, section: Section) -> Vec<(String, &'t DeTable<'t>)> {
    let Some(top) = table(root.get(section.key())) else {
        return Vec::new();
    };
    let named = || {
        let entries = in_file_order(top).into_iter();
        entries.filter_map(|entry| Some((entry.key, table(Some(entry.value))?)))
    };
    let below = |path: &'static [&'static str]| {
        let tables = named().filter_map(move |(name, topic)| {
            let found = path.iter().try_fold(topic, |at, key| table(at.get(*key)))?;
            let top = section.key();
            Some((format!("[{top}.{name}.{}]", path.join(".")), found))
        });
        tables.collect()
    };
    let of_door = |name: &str| {
        let found = table(top.get(name));
        found.map(|t| (section.header(), t)).into_iter().collect()
    };
    match section {
        Section::Topic | Section::Reference | Section::Step | Section::View => {
            let tables = named().map(|(name, t)| (format!("[{}.{name}]", section.key()), t));
            tables.collect()
        }
        Section::Field => {
            let fields =
                named().filter_map(|(name, topic)| Some((name, table(topic.get("fields"))?)));
            let tables = fields.flat_map(|(name, fields)| {
                let entries = in_file_order(fields).into_iter();
                entries.filter_map(move |field| {
                    let header = format!("[topics.{name}.fields.{}]", field.key);
                    Some((header, table(Some(field.value))?))
                })
            });
            tables.collect()
        }
        Section::Postgres => of_door("postgres"),
        Section::Flight => of_door("flight"),
        Section::Kafka => below(&["source", "kafka"]),
        Section::Dedup => below(&["dedup"]),
        Section::Retention => below(&["retention"]),
        Section::Gate => below(&["gate"]),
        Section::GateColumn => {
            let columns = named().filter_map(|(name, view)| {
                let gate = table(view.get("gate"))?;
                Some((name, table(gate.get("columns"))?))
            });
            let tables = columns.flat_map(|(name, columns)| {
                let entries = in_file_order(columns).into_iter();
                entries.filter_map(move |column| {
                    let header = format!("[views.{name}.gate.columns.{}]", column.key);
                    Some((header, table(Some(column.value))?))
                })
            });
            tables.collect()
        }
        _ => vec![(section.header(), top)],
    }
}

struct File<'a> {
    text: &'a str,
    environment: Environment<'a>,
    is_bucket: bool,
}

impl File<'_> {
    fn add(
        &self,
        section: Section,
        header: &str,
        entries: &[Entry<'_>],
        all: &mut Vec<SettingInForce>,
    ) {
        for row in section.rows() {
            let written = entries.iter().find(|entry| entry.key == row.key());
            all.push(self.setting(section, header, row, written));
        }
    }

    fn setting(
        &self,
        section: Section,
        header: &str,
        row: &dyn Row,
        written: Option<&Entry<'_>>,
    ) -> SettingInForce {
        let default = match row.fallback() {
            Fallback::Default(value) => Some(value),
            Fallback::Unset { .. } | Fallback::Required { .. } => None,
        };
        let mut setting = SettingInForce {
            table: header.to_owned(),
            key: row.key().to_owned(),
            value: default.clone(),
            line: None,
            variables: Vec::new(),
            default,
            kind: row.type_name(),
            meaning: row.doc(),
        };
        if let Some(entry) = written {
            setting.line = Some(self.text[..entry.key_span.start].matches('\n').count() + 1);
            setting.value = Some(self.shown(entry));
            setting.variables = variables(setting.value.as_deref().unwrap_or_default());
            return setting;
        }
        let of_environment = OF_ENVIRONMENT.iter().find(|(key, _)| *key == row.key());
        if let Some((_, names)) = of_environment.filter(|_| section == Section::Storage)
            && self.is_bucket
        {
            let set = |name: &&&str| (self.environment)(name).is_some_and(|v| !v.is_empty());
            if let Some(name) = names.iter().find(set) {
                setting.value = (self.environment)(name).map(|v| super::value::quoted(&v));
                setting.variables = vec![(*name).to_owned()];
            }
        }
        setting
    }

    /// A value as it is written; of a table how many keys it has, which may be long and secret.
    fn shown(&self, entry: &Entry<'_>) -> String {
        match entry.value.get_ref() {
            DeValue::Table(table) => match table.len() {
                1 => "1 key".to_owned(),
                keys => format!("{keys} keys"),
            },
            _ => {
                let written = self.text.get(entry.value.span()).unwrap_or_default();
                written.split_whitespace().collect::<Vec<_>>().join(" ")
            }
        }
    }
}

/// The variables that a text names as `${NAME}`.
fn variables(text: &str) -> Vec<String> {
    let parts = text.split("${").skip(1);
    let names = parts.filter_map(|part| part.split_once('}'));
    names.map(|(name, _)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
[storage]
url = "s3://bucket/${PREFIX}"
grace = "2h"

[topics.pageviews]
event_time = "ts"
[topics.pageviews.fields]
ts = "timestamp not null"
n = { type = "bigint", from_text = true }
[topics.pageviews.source.kafka]
brokers = "h:1"
properties = { "sasl.password" = "secret" }

[views.v]
sql = "v.sql"
"#;

    #[test]
    fn each_setting_says_where_it_comes_from() {
        let environment = |name: &str| (name == "AWS_REGION").then(|| "eu-central-1".to_owned());
        let all = in_force(TEXT, &environment);
        let of = |table: &str, key: &str| {
            let mut found = all.iter().filter(|s| s.table == table && s.key == key);
            let setting = found.next().map(|s| {
                let value = s.value.clone().unwrap_or_else(|| "unset".to_owned());
                (value, s.line, s.variables.join(" "))
            });
            assert!(found.next().is_none(), "{table} {key} twice");
            setting
        };
        let is = |value: &str, line: Option<usize>, variables: &str| {
            Some((value.to_owned(), line, variables.to_owned()))
        };
        assert_eq!(
            of("[storage]", "url"),
            is("\"s3://bucket/${PREFIX}\"", Some(3), "PREFIX")
        );
        assert_eq!(of("[storage]", "grace"), is("\"2h\"", Some(4), ""));
        assert_eq!(
            of("[storage]", "region"),
            is("\"eu-central-1\"", None, "AWS_REGION")
        );
        assert_eq!(of("[storage]", "endpoint"), is("unset", None, ""));
        assert_eq!(of("[daemon]", "land_every"), is("\"5s\"", None, ""));
        assert_eq!(of("[topics.pageviews]", "ack"), is("\"wal\"", None, ""));
        assert_eq!(
            of("[topics.pageviews]", "fields"),
            is("2 keys", Some(8), "")
        );
        let field = "[topics.pageviews.fields.n]";
        assert_eq!(of(field, "from_text"), is("true", Some(10), ""));
        let kafka = "[topics.pageviews.source.kafka]";
        assert_eq!(of(kafka, "brokers"), is("\"h:1\"", Some(12), ""));
        assert_eq!(of(kafka, "properties"), is("1 key", Some(13), ""));
        assert_eq!(of("[views.v]", "sql"), is("\"v.sql\"", Some(16), ""));
        assert_eq!(of("[topics.pageviews.dedup]", "key"), None);
        // Without a project every table is told once.
        let none = in_force("", &|_| None);
        assert!(
            none.iter()
                .any(|s| s.table == "[topics.NAME]" && s.key == "ack")
        );
        assert!(
            none.iter()
                .all(|s| s.line.is_none() && s.variables.is_empty())
        );
    }
}
