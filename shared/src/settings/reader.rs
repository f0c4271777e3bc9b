//! Walks the tables of a settings file: looks settings up, checks their kind, refuses unknown
//! keys, and gathers every problem on the way instead of stopping at the first.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment::{Environment, expand};
use super::table::{Absent, Defaulted, Optional, Required, Section, Setting, TABLE};
use super::value::{Found, Mismatch, SettingValue};
use crate::error::settings::{Problem, SourceText};
use crate::nearest;

/// One entry of a table.
pub(super) struct Entry<'t> {
    pub(super) key: &'t str,
    pub(super) key_span: Range<usize>,
    pub(super) value: &'t Spanned<DeValue<'t>>,
}

/// One table of the file, perhaps absent, that belongs to a section.
pub(super) struct Table<'t> {
    pub(super) section: Section,
    /// The header, such as `[views.post_minutes]`.
    pub(super) header: String,
    /// Where a setting that is missing is complained about.
    pub(super) span: Range<usize>,
    pub(super) entries: Vec<Entry<'t>>,
}

impl<'t> Table<'t> {
    pub(super) fn get(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(entry.value)
    }
}

/// A table's entries in the order of the file.
pub(super) fn in_file_order<'t>(table: &'t DeTable<'t>) -> Vec<Entry<'t>> {
    let mut entries: Vec<Entry<'t>> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref(),
            key_span: key.span(),
            value,
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_span.start);
    entries
}

/// Reads one file and gathers its problems.
pub(super) struct Reader<'a> {
    source: SourceText<'a>,
    environment: Environment<'a>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: SourceText<'a>, environment: Environment<'a>) -> Self {
        Self {
            source,
            environment,
            problems: Vec::new(),
        }
    }

    /// The problems, in the order of the file.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems;
        problems.sort_by_key(|problem| (problem.line, problem.column));
        // One variable may be missing twice in one string.
        problems.dedup();
        problems
    }

    pub(super) fn report(&mut self, span: &Range<usize>, message: String) {
        self.problems.push(self.source.problem(span, message));
    }

    /// The syntax errors of the file, one a line: what follows on the same line is their echo.
    pub(super) fn report_syntax(&mut self, errors: &[toml::de::Error]) {
        let end = self.source.text.len();
        for error in errors {
            let span = error.span().unwrap_or(end..end);
            let message = format!("not valid TOML: {}", error.message());
            let problem = self.source.problem(&span, message);
            if !self.problems.iter().any(|known| known.line == problem.line) {
                self.problems.push(problem);
            }
        }
    }

    /// The section `section`, which may have at most one table.
    pub(super) fn section<'t>(&mut self, root: &'t DeTable<'t>, section: Section) -> Table<'t> {
        let mut table = Table {
            section,
            header: section.header(),
            span: 0..0,
            entries: Vec::new(),
        };
        if let Some((key, value)) = root.get_key_value(section.key()) {
            table.span = key.span();
            table.entries = self.entries(section.key(), &table.header, value);
        }
        self.refuse_unknown_keys(&table);
        table
    }

    /// The tables of sections below another one, one at most of each.
    pub(super) fn below<'t, const N: usize>(
        &mut self,
        root: &'t DeTable<'t>,
        sections: [(Section, &str); N],
    ) -> [Table<'t>; N] {
        let mut found = sections.map(|(section, _)| Table {
            section,
            header: section.header(),
            span: 0..0,
            entries: Vec::new(),
        });
        let Some(top) = sections.first().map(|(section, _)| section.key()) else {
            return found;
        };
        let Some(all) = root.get(top) else {
            return found;
        };
        let header = format!("[{top}]");
        for entry in self.entries(top, &header, all) {
            let place = sections.iter().position(|(_, key)| *key == entry.key);
            if let Some(place) = place {
                let path = format!("{top}.{}", entry.key);
                if let Some(table) = self.table(sections[place].0, &path, entry.value) {
                    found[place] = table;
                }
                continue;
            }
            let shown = entry.key.escape_debug();
            let keys = sections.map(|(_, key)| key);
            let near = match nearest(entry.key, keys) {
                Some(near) => format!("did you mean `[{top}.{near}]`?"),
                None => {
                    let known = keys.map(|key| format!("`[{top}.{key}]`"));
                    format!("there are {}", known.join(" and "))
                }
            };
            self.report(
                &entry.key_span,
                format!("unknown table `[{top}.{shown}]`; {near}"),
            );
        }
        found
    }

    /// The tables of a section that has one for each topic or view.
    pub(super) fn named<'t>(
        &mut self,
        root: &'t DeTable<'t>,
        section: Section,
    ) -> Vec<(&'t str, Table<'t>)> {
        let Some(all) = root.get(section.key()) else {
            return Vec::new();
        };
        let mut tables = Vec::new();
        for entry in self.entries(section.key(), &section.header(), all) {
            let path = format!("{}.{}", section.key(), entry.key);
            let header = format!("[{path}]");
            if !matches!(entry.value.get_ref(), DeValue::Table(_)) {
                self.entries(&path, &header, entry.value);
                continue;
            }
            let table = Table {
                section,
                entries: self.entries(&path, &header, entry.value),
                header,
                span: entry.key_span,
            };
            self.refuse_unknown_keys(&table);
            tables.push((entry.key, table));
        }
        tables
    }

    /// The entries of a value that has to be a table; `path` is its name from the top, `header`
    /// what a user writes above its settings.
    pub(super) fn entries<'t>(
        &mut self,
        path: &str,
        header: &str,
        value: &'t Spanned<DeValue<'t>>,
    ) -> Vec<Entry<'t>> {
        match value.get_ref() {
            DeValue::Table(table) => in_file_order(table),
            other => {
                let found = Found::new(other, None).describe();
                let message = format!(
                    "`{path}` must be a table, found {found}; write `{header}` above its settings"
                );
                self.report(&value.span(), message);
                Vec::new()
            }
        }
    }

    /// A table of settings inside another one; `None` where it is none, with the problem on record.
    pub(super) fn table<'t>(
        &mut self,
        section: Section,
        path: &str,
        value: &'t Spanned<DeValue<'t>>,
    ) -> Option<Table<'t>> {
        let header = format!("[{path}]");
        let entries = self.entries(path, &header, value);
        if !value.get_ref().is_table() {
            return None;
        }
        let table = Table {
            section,
            header,
            span: value.span(),
            entries,
        };
        self.refuse_unknown_keys(&table);
        Some(table)
    }

    /// Refuses what stands at the top of the file and is no section.
    pub(super) fn refuse_unknown_sections(&mut self, root: &DeTable<'_>) {
        let known = Section::ALL.map(Section::key);
        for entry in in_file_order(root) {
            if known.contains(&entry.key) {
                continue;
            }
            let key = entry.key.escape_debug();
            let message = if let DeValue::Table(_) | DeValue::Array(_) = entry.value.get_ref() {
                match nearest(entry.key, known) {
                    Some(near) => format!("unknown table `[{key}]`; did you mean `[{near}]`?"),
                    None => {
                        let tables = Section::ALL.map(|s| format!("`{}`", s.header())).join(", ");
                        format!("unknown table `[{key}]`; known tables: {tables}")
                    }
                }
            } else {
                let advice = owners(entry.key).unwrap_or_else(|| {
                    "every setting belongs in a table such as `[daemon]`".to_owned()
                });
                format!("unknown key `{key}` outside of any table; {advice}")
            };
            self.report(&entry.key_span, message);
        }
    }

    pub(super) fn refuse_unknown_keys(&mut self, table: &Table<'_>) {
        let known: Vec<&str> = table.section.rows().map(|row| row.key()).collect();
        for entry in &table.entries {
            if known.contains(&entry.key) {
                continue;
            }
            let advice = match nearest(entry.key, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => owners(entry.key).unwrap_or_else(|| {
                    let keys: Vec<String> = known.iter().map(|key| format!("`{key}`")).collect();
                    format!("known keys: {}", keys.join(", "))
                }),
            };
            let message = format!(
                "unknown key `{}` in `{}`; {advice}",
                entry.key.escape_debug(),
                table.header
            );
            self.report(&entry.key_span, message);
        }
    }

    /// The setting's value, or its default; the default also stands in for a wrong value, whose
    /// problem is on record.
    pub(super) fn value<T: SettingValue>(
        &mut self,
        table: &Table<'_>,
        setting: &Setting<Defaulted<T>>,
    ) -> T {
        self.look_up(table, setting)
            .unwrap_or_else(setting.absent.0)
    }

    pub(super) fn optional<T: SettingValue>(
        &mut self,
        table: &Table<'_>,
        setting: &Setting<Optional<T>>,
    ) -> Option<T> {
        self.look_up(table, setting)
    }

    /// The setting's value; `None` only where a problem is on record.
    pub(super) fn required<T: SettingValue>(
        &mut self,
        table: &Table<'_>,
        setting: &Setting<Required<T>>,
    ) -> Option<T> {
        self.require(table, setting, setting.absent.example)?;
        self.look_up(table, setting)
    }

    /// The raw value of a setting that has to be there.
    pub(super) fn require<'t, F: Absent>(
        &mut self,
        table: &Table<'t>,
        setting: &Setting<F>,
        example: &str,
    ) -> Option<&'t Spanned<DeValue<'t>>> {
        let value = table.get(setting.key);
        if value.is_none() {
            let key = setting.key;
            let name = table.header.trim_end_matches(']').rsplit('.').next();
            let example = example.replace("NAME", name.unwrap_or("NAME"));
            let message = format!(
                "`{}` lacks `{key}`; write for example `{key} = {example}`",
                table.header
            );
            self.report(&table.span, message);
        }
        value
    }

    fn look_up<T: SettingValue, F: Absent>(
        &mut self,
        table: &Table<'_>,
        setting: &Setting<F>,
    ) -> Option<T> {
        // Some keys are in several sections, with defaults of their own.
        debug_assert_eq!(table.section, setting.section, "`{}`", setting.key);
        let value = table.get(setting.key)?;
        let found = self.found(value)?;
        match T::read(&found) {
            Ok(read) => Some(read),
            Err(mismatch) => {
                let mut message = format!(
                    "`{}` in `{}` must be {}, found {}",
                    setting.key,
                    table.header,
                    T::EXPECTED,
                    found.describe()
                );
                if let Mismatch::Because(reason) = mismatch {
                    message.push_str("; ");
                    message.push_str(&reason);
                }
                self.report(&value.span(), message);
                None
            }
        }
    }

    /// The value with its variables replaced; `None` where a problem is on record.
    pub(super) fn found<'t>(&mut self, value: &'t Spanned<DeValue<'t>>) -> Option<Found<'t>> {
        let text = match value.get_ref() {
            DeValue::String(text) => text,
            DeValue::Array(parts) => {
                let Found::Texts(_) = Found::new(value.get_ref(), None) else {
                    return Some(Found::new(value.get_ref(), None));
                };
                let texts = parts.iter().map(|part| match self.found(part)? {
                    Found::Text { text, .. } => Some(text),
                    _ => None,
                });
                return texts.collect::<Option<Vec<_>>>().map(Found::Texts);
            }
            _ => return Some(Found::new(value.get_ref(), None)),
        };
        match expand(text, self.environment) {
            Ok(expanded) => Some(Found::new(value.get_ref(), Some(expanded))),
            Err(errors) => {
                for error in errors {
                    let span = self.place_within(&value.span(), &error.place());
                    self.report(&span, error.message());
                }
                None
            }
        }
    }

    /// Where `part` stands in the text of `span`, or `span` where it is written in another way.
    fn place_within(&self, span: &Range<usize>, part: &str) -> Range<usize> {
        let found = self
            .source
            .text
            .get(span.clone())
            .and_then(|text| text.find(part));
        match found {
            Some(at) => span.start + at..span.start + at + part.len(),
            None => span.clone(),
        }
    }
}

/// Where a key that is unknown here belongs, if it is a setting of other tables.
fn owners(key: &str) -> Option<String> {
    let headers: Vec<String> = TABLE
        .iter()
        .filter(|row| row.key() == key)
        .map(|row| format!("`{}`", row.section().header()))
        .collect();
    (!headers.is_empty()).then(|| format!("it belongs in {}", headers.join(" or ")))
}
