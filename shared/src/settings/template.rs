//! The project that `anabranch init` writes: one topic, one view, every other setting as a comment
//! with its default.

use std::path::PathBuf;

use super::table::{Fallback, Row, Section};

const FIELDS: &str = r#"
[topics.pageviews.fields]
# SQL types as in CREATE TABLE; nullable unless "not null".
ts         = "timestamp not null"
url        = "varchar not null"
author     = "varchar"
section    = "varchar"
referrer   = "varchar"
visitor    = "varchar"
action     = "varchar"    # pageview | heartbeat | share
engaged_ms = "bigint"
"#;

const SQL_PATH: &str = "views/post_minutes.sql";

const SQL: &str = "\
-- views/post_minutes.sql
SELECT date_trunc('minute', ts) AS minute, url, count(*) AS page_views, approx_distinct(visitor) AS visitors, sum(engaged_ms) AS engaged_ms
FROM pageviews GROUP BY 1, 2
";

/// The files of a new project called `name`: the text of its `anabranch.toml`, and the other files
/// as paths relative to the project's folder with their contents.
#[must_use]
pub fn template(name: &str) -> (String, Vec<(PathBuf, String)>) {
    // A line break in the name would end the comment that it stands in.
    let name: String = name
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let mut toml = format!(
        "# The Anabranch project `{name}`. `anabranch settings` explains every setting.\n\
         # What is commented out shows the default, or an example where it is unset by default.\n"
    );
    for section in [
        Section::Storage,
        Section::Daemon,
        Section::Http,
        Section::Postgres,
        Section::Flight,
        Section::Users,
        Section::Tls,
        Section::Audit,
        Section::Batch,
        Section::Build,
        Section::Query,
        Section::Log,
    ] {
        add_section(&mut toml, section, &section.header(), &[]);
    }
    let topic = [("event_time", "\"ts\"")];
    add_section(&mut toml, Section::Topic, "[topics.pageviews]", &topic);
    toml.push_str(FIELDS);
    let sql = format!("\"{SQL_PATH}\"");
    let view = [
        ("sql", sql.as_str()),
        ("refresh_every", "\"5m\""),
        ("rebuild_cron", "\"0 3 * * *\""),
        ("timezone", "\"Europe/Berlin\""),
    ];
    add_section(&mut toml, Section::View, "[views.post_minutes]", &view);
    (toml, vec![(PathBuf::from(SQL_PATH), SQL.to_owned())])
}

/// Adds the section with the settings `written`, and the others as comments.
fn add_section(toml: &mut String, section: Section, header: &str, written: &[(&str, &str)]) {
    let lines: Vec<(String, &str)> = section
        .rows()
        .filter_map(|row| Some((line(row, written)?, row.doc())))
        .collect();
    let width = lines
        .iter()
        .map(|(line, _)| line.chars().count())
        .max()
        .unwrap_or(0);
    toml.push_str(&format!("\n{header}\n"));
    for (line, doc) in lines {
        toml.push_str(&format!("{line:width$}    # {doc}\n"));
    }
}

fn line(row: &dyn Row, written: &[(&str, &str)]) -> Option<String> {
    let key = row.key();
    if let Some((_, value)) = written.iter().find(|(name, _)| *name == key) {
        return Some(format!("{key} = {value}"));
    }
    match row.fallback() {
        Fallback::Default(value) => Some(format!("# {key} = {value}")),
        Fallback::Unset { example } => Some(format!("# {key} = {example}")),
        // Written as a table of its own.
        Fallback::Required { .. } => None,
    }
}
