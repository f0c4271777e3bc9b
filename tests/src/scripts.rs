//! Scripts of SQL and its answers, in the form of [sqllogictest]: queries with their rows, and
//! statements that fail.
//!
//! ```text
//! # A comment.
//! query ITR
//! SELECT 1, 'a', 0.5
//! ----
//! 1 a 0.5
//!
//! statement error a part of its text
//! SELECT nothing
//! ```
//!
//! A type is `I` for a whole number, `R` for another one, `T` for a text, and `?` for anything else.
//! Rows come in their order.
//!
//! [sqllogictest]: https://www.sqlite.org/sqllogictest/doc/trunk/about.wiki

use std::fmt::Write as _;

use arrow::datatypes::{DataType, SchemaRef};

/// What is asked at one place of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it begins, from 1.
    pub line: usize,
    /// The comment above it, line by line.
    pub comment: Vec<String>,
    /// The SQL.
    pub sql: String,
    /// What is to come of it.
    pub expected: Expected,
}

/// What is to come of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// These rows, with a letter a column.
    Rows {
        /// The columns' types.
        types: String,
        /// Each as one line.
        rows: Vec<String>,
    },
    /// An error that holds this text.
    Error(String),
}

/// The lines up to one that ends them.
fn until<'a>(
    lines: &mut std::iter::Peekable<impl Iterator<Item = (usize, &'a str)>>,
    ends: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut taken = Vec::new();
    while let Some((_, line)) = lines.next_if(|(_, line)| !ends(line)) {
        taken.push(line.to_owned());
    }
    taken
}

/// Reads a script.
///
/// # Errors
/// Names the line that is none of it.
pub fn parse(script: &str) -> anyhow::Result<Vec<Record>> {
    let mut lines = script.lines().enumerate().peekable();
    let (mut records, mut comment) = (Vec::new(), Vec::new());
    while let Some((at, line)) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        if let Some(text) = line.strip_prefix('#') {
            comment.push(text.trim().to_owned());
            continue;
        }
        let is_end = |l: &str| l.trim().is_empty() || l == "----";
        let (sql, expected) = if let Some(types) = line.strip_prefix("query ") {
            let sql = until(&mut lines, is_end);
            let rows = match lines.next_if(|(_, l)| *l == "----") {
                Some(_) => until(&mut lines, |l| l.trim().is_empty()),
                None => anyhow::bail!("line {}: the query has no `----`", at + 1),
            };
            let types = types.trim().to_owned();
            (sql, Expected::Rows { types, rows })
        } else if let Some(text) = line.strip_prefix("statement error ") {
            let sql = until(&mut lines, |l| l.trim().is_empty());
            (sql, Expected::Error(text.trim().to_owned()))
        } else {
            anyhow::bail!("line {}: neither `query` nor `statement error`", at + 1);
        };
        records.push(Record {
            line: at + 1,
            comment: std::mem::take(&mut comment),
            sql: sql.join("\n"),
            expected,
        });
    }
    anyhow::ensure!(!records.is_empty(), "the script asks nothing");
    Ok(records)
}

/// Writes a script.
pub fn text(records: &[Record]) -> String {
    let mut script = String::new();
    for record in records {
        if !script.is_empty() {
            script.push('\n');
        }
        for line in &record.comment {
            writeln!(script, "# {line}").ok();
        }
        match &record.expected {
            Expected::Rows { types, rows } => {
                writeln!(script, "query {types}\n{}\n----", record.sql).ok();
                rows.iter().for_each(|row| {
                    writeln!(script, "{row}").ok();
                });
            }
            Expected::Error(text) => {
                writeln!(script, "statement error {text}\n{}", record.sql).ok();
            }
        }
    }
    script
}

/// The letters of columns' types.
pub fn types(schema: &SchemaRef) -> String {
    let letter = |data_type: &DataType| match data_type {
        t if t.is_integer() => 'I',
        t if t.is_floating() || t.is_decimal() => 'R',
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => 'T',
        _ => '?',
    };
    let fields = schema.fields().iter();
    fields.map(|f| letter(f.data_type())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "# One.\n# Two.\nquery IT\nSELECT 1,\n       'a'\n----\n1 a\n2 b\n\nquery I\nSELECT 1 WHERE false\n----\n\nstatement error no such\nSELECT x\n";

    #[test]
    fn what_is_written_is_read() -> anyhow::Result<()> {
        let records = parse(SCRIPT)?;
        assert_eq!(text(&records), SCRIPT);
        assert_eq!(records[0].line, 3);
        assert_eq!(records[0].sql, "SELECT 1,\n       'a'");
        let rows = vec!["1 a".to_owned(), "2 b".to_owned()];
        let types = "IT".to_owned();
        assert_eq!(records[0].expected, Expected::Rows { types, rows });
        assert_eq!(records[2].expected, Expected::Error("no such".to_owned()));
        for (wrong, line) in [
            ("query I\nSELECT 1\n", "1"),
            ("\nfoo\n", "2"),
            ("", "nothing"),
        ] {
            let refused = parse(wrong).map_err(|e| e.to_string());
            assert!(refused.is_err_and(|e| e.contains(line)), "{wrong}");
        }
        Ok(())
    }
}
