//! `gate` of a view: how far a new generation may differ from the one whose place it is to take.

use std::collections::BTreeMap;

use super::reader::{Reader, Table};
use super::table::{
    COLUMN_ROWS_CHANGED, COLUMNS_OF_GATE, GATE, GATE_WHERE, KEYS_LOST, KEYS_NEW, ROWS_CHANGED,
    Section, TOTAL_CHANGED,
};
use super::value::{Found, Mismatch, SettingValue, quoted};

/// The limits of one view.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GateSettings {
    /// Rows of both whose values differ.
    pub rows_changed: Option<Limit>,
    /// Rows that the new generation lacks.
    pub keys_lost: Option<Limit>,
    /// Rows that only the new generation has.
    pub keys_new: Option<Limit>,
    /// Which rows are judged, as a condition in SQL over the view's columns; all where absent.
    pub only_where: Option<String>,
    /// Limits of columns, by name; `*` stands for every column that has none of its own.
    pub columns: BTreeMap<String, ColumnGate>,
}

impl GateSettings {
    /// Tells each limit by its name.
    pub(super) fn each(&self, mut tell: impl FnMut(&str, String)) {
        let rows = [
            (ROWS_CHANGED.key, self.rows_changed),
            (KEYS_LOST.key, self.keys_lost),
            (KEYS_NEW.key, self.keys_new),
        ];
        for (name, limit) in rows {
            limit.iter().for_each(|limit| tell(name, limit.to_string()));
        }
        self.only_where
            .iter()
            .for_each(|w| tell(GATE_WHERE.key, w.clone()));
        for (column, gate) in &self.columns {
            let of_column = [
                (COLUMN_ROWS_CHANGED.key, gate.rows_changed),
                (TOTAL_CHANGED.key, gate.total_changed),
            ];
            for (name, limit) in of_column {
                let name = format!("{}.{column}.{name}", COLUMNS_OF_GATE.key);
                limit
                    .iter()
                    .for_each(|limit| tell(&name, limit.to_string()));
            }
        }
    }

    /// The limits of a column.
    pub fn of_column(&self, name: &str) -> Option<&ColumnGate> {
        self.columns.get(name).or_else(|| self.columns.get("*"))
    }
}

/// The limits of one column.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ColumnGate {
    /// Rows of both in which the column differs.
    pub rows_changed: Option<Limit>,
    /// By how much its total over all rows may change.
    pub total_changed: Option<Limit>,
}

/// How much is allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// So many of a hundred, from 0 to 100.
    Percent(f64),
    /// So many.
    Count(u64),
}

impl Limit {
    /// Whether `part` of `whole` is more than is allowed.
    pub fn is_over(self, part: f64, whole: f64) -> bool {
        match self {
            Self::Count(most) => part > most as f64,
            // What is nothing of nothing is no part; something of nothing is more than any.
            Self::Percent(most) => part > 0.0 && part > whole * most / 100.0,
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Percent(most) => write!(f, "{most}%"),
            Self::Count(most) => write!(f, "{most}"),
        }
    }
}

impl SettingValue for Limit {
    const TYPE: &'static str = "percentage or number";
    const EXPECTED: &'static str = "a percentage such as `\"5%\"` or `\"0.1%\"`, or a whole number";

    fn read(found: &Found<'_>) -> Result<Self, Mismatch> {
        if let Found::Text { text, .. } = found
            && let Some(percent) = text.strip_suffix('%')
        {
            return match percent.trim().parse::<f64>() {
                Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Self::Percent(percent)),
                _ => Err(Mismatch::Plain),
            };
        }
        found.whole().map(Self::Count)
    }

    fn write(&self) -> String {
        match self {
            Self::Percent(_) => quoted(&self.to_string()),
            Self::Count(most) => most.to_string(),
        }
    }
}

/// Reads `gate`; `None` where there is none or a problem is on record.
pub(super) fn read(reader: &mut Reader<'_>, view: &Table<'_>) -> Option<GateSettings> {
    let value = view.get(GATE.key)?;
    let path = format!("{}.{}", view.header.trim_matches(['[', ']']), GATE.key);
    let table = reader.table(Section::Gate, &path, value)?;
    let mut gate = GateSettings {
        rows_changed: reader.optional(&table, &ROWS_CHANGED),
        keys_lost: reader.optional(&table, &KEYS_LOST),
        keys_new: reader.optional(&table, &KEYS_NEW),
        only_where: reader.optional(&table, &GATE_WHERE).map(|w| w.0),
        columns: BTreeMap::new(),
    };
    if let Some(columns) = table.get(COLUMNS_OF_GATE.key) {
        let path = format!("{path}.{}", COLUMNS_OF_GATE.key);
        for entry in reader.entries(&path, &format!("[{path}]"), columns) {
            let path = format!("{path}.{}", entry.key);
            let Some(column) = reader.table(Section::GateColumn, &path, entry.value) else {
                continue;
            };
            let limits = ColumnGate {
                rows_changed: reader.optional(&column, &COLUMN_ROWS_CHANGED),
                total_changed: reader.optional(&column, &TOTAL_CHANGED),
            };
            gate.columns.insert(entry.key.to_owned(), limits);
        }
    }
    Some(gate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_counts_are_limits() {
        let five = Limit::Percent(5.0);
        assert!(!five.is_over(5.0, 100.0) && five.is_over(5.1, 100.0));
        assert!(!Limit::Percent(0.0).is_over(0.0, 0.0) && Limit::Percent(100.0).is_over(1.0, 0.0));
        assert!(!Limit::Count(0).is_over(0.0, 9.0) && Limit::Count(0).is_over(1.0, 9.0));
        assert_eq!(
            (five.write(), Limit::Count(3).write()),
            ("\"5%\"".into(), "3".into())
        );
    }
}
