//! The document of all settings, `jobs/docs/settings.md`, written from the one table of settings.

use super::table::{Fallback, Section};

const TOP: &str = "\
# Settings

Every setting of a project, in its `anabranch.toml`, with what it takes, its default and what it does. `anabranch settings` shows what is in force in a project and where each value comes from; `anabranch settings grace` shows one with its meaning. This page is written from the same table as the command.

A duration is written with its unit: `\"500ms\"`, `\"30s\"`, `\"5m\"`, `\"1h 30m\"`, `\"7d\"`. A size is in bytes, or with a unit: `\"256MB\"` (powers of 1000), `\"256MiB\"` (powers of 1024). `${VAR}` in a string is replaced from the environment, so that secrets stay out of the file; `$${VAR}` stands for `${VAR}` itself. What is not written has its default; *unset* is off, *required* has to be written.
";

const BOTTOM: &str = "
## Types of fields

`boolean`, `tinyint`, `smallint`, `int`, `bigint`, `real`, `double`, `decimal(p,s)`, `varchar`, `binary`, `date`, `timestamp` (UTC, microseconds), and `TYPE[]` for a list; nullable unless followed by `not null`. Names of topics and views have a-z, 0-9 and `_`, begin with a letter and have at most 63 characters.

## Environment

| variable | what it does |
|---|---|
| `ANABRANCH_PROJECT` | the project's folder, where `--project` does not name it |
| `ANABRANCH_LOG` | what is logged on standard error: `error`, `warn`, `info` (default), `debug` |
| `ANABRANCH_LOG_FORMAT` | in which form, before `format` in `[log]`: `text`, `json` |
| `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN` | the keys of a bucket |
| `AWS_ENDPOINT_URL`, `AWS_REGION` | its server and region, where `[storage]` does not name them |
| `TMPDIR` | where commands keep temporary files |
";

/// The document, in Markdown.
#[must_use]
pub fn document() -> String {
    let mut text = TOP.to_owned();
    for section in Section::ALL {
        text += &format!("\n## `{}`\n\n{}\n\n", section.header(), section.doc());
        text += "| setting | type | default | effect |\n|---|---|---|---|\n";
        for row in section.rows() {
            let fallback = match row.fallback() {
                Fallback::Default(value) => format!("`{value}`"),
                Fallback::Unset { example } => format!("unset; as in `{example}`"),
                Fallback::Required { example } => format!("required; as in `{example}`"),
            };
            let cells = [
                format!("`{}`", row.key()),
                row.type_name().to_owned(),
                fallback,
                row.doc().to_owned(),
            ];
            // A bar would end its cell.
            let cells = cells.map(|cell| cell.replace('|', "\\|"));
            text += &format!("| {} |\n", cells.join(" | "));
        }
    }
    text + BOTTOM
}
