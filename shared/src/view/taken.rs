//! States of one definition made of those of another, without a fact: where the later one groups the same
//! facts by some of the same keys, its states are those of the former one, by fewer keys, and of some
//! columns.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int8Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::take;

use super::View;
use super::fold::states_of_nothing;
use crate::{Result, planted};

/// How states of a view are made of those of a former definition.
#[derive(Clone, Debug)]
pub struct StatesTaken {
    view: Arc<View>,
    /// Where the former states have each key; none of a view without GROUP BY.
    keys: Vec<usize>,
    /// Where they have the state of each column, if they have it.
    columns: Vec<Option<Range<usize>>>,
    /// The columns that they lack, by the names under which they are shown.
    lacks: Vec<String>,
}

impl View {
    /// How this view's states are made of those of a former definition; none where they can't be, because
    /// it read other facts, or knows no more to which key a fact belonged.
    ///
    /// # Errors
    /// As [`View::fingerprint`].
    pub fn states_taken(self: &Arc<Self>, former: &Self) -> Result<Option<StatesTaken>> {
        let (Some(own), Some(others)) = (self.aggregate(), former.aggregate()) else {
            return Ok(None);
        };
        let (wanted, has) = (self.fingerprint()?, former.fingerprint()?);
        // A grouping of several sets is one key there and several here.
        let plain = |split: &super::AggregateSplit, keys: usize, aggregates: usize| {
            let all_keys = if split.is_global() {
                0
            } else {
                split.keys().len()
            };
            all_keys == keys && split.columns().len() == aggregates
        };
        let same_facts = self.topic().name == former.topic().name
            && self.definition().settings == former.definition().settings
            && (wanted.filters == has.filters || planted("planted-taken-past-a-filter"));
        if !same_facts
            || !plain(own, wanted.keys.len(), wanted.aggregates.len())
            || !plain(others, has.keys.len(), has.aggregates.len())
        {
            return Ok(None);
        }
        let place = |all: &[String], one: &String| all.iter().position(|other| other == one);
        let keys = wanted.keys.iter().map(|key| place(&has.keys, key));
        let Some(keys) = keys.collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let states_of = |at: usize| others.columns().get(at).map(|c| c.state_columns());
        let columns = wanted.aggregates.iter();
        let columns = columns.map(|one| place(&has.aggregates, one).and_then(states_of));
        let columns: Vec<Option<Range<usize>>> = columns.collect();
        let lacking = wanted.aggregates.iter().zip(&columns);
        let lacking = lacking.filter(|(_, found)| found.is_none());
        let lacks = lacking.map(|(one, _)| wanted.name_of(one).to_owned());
        Ok(Some(StatesTaken {
            view: self.clone(),
            keys,
            lacks: lacks.collect(),
            columns,
        }))
    }
}

impl StatesTaken {
    /// The columns that the former states lack: of what those stand for they count nothing.
    pub fn lacks(&self) -> &[String] {
        &self.lacks
    }

    /// Former states as ones of the view, several a key where it has fewer keys.
    ///
    /// # Errors
    /// Those of the engine for states of another form.
    pub fn of(&self, former: &RecordBatch) -> Result<RecordBatch> {
        let (schema, rows) = (self.view.state_schema(), former.num_rows());
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
        if self.keys.is_empty() {
            columns.push(Arc::new(Int8Array::from(vec![0; rows])));
        }
        columns.extend(self.keys.iter().map(|&at| former.column(at).clone()));
        let nothing = match (self.lacks.is_empty(), self.view.aggregate()) {
            (false, Some(split)) => Some(states_of_nothing(split)?),
            _ => None,
        };
        let first = UInt32Array::from(vec![0; rows]);
        let own = self
            .view
            .aggregate()
            .map_or(&[][..], |split| split.columns());
        for (column, found) in own.iter().zip(&self.columns) {
            match (found, &nothing) {
                (Some(places), _) => columns.extend_from_slice(&former.columns()[places.clone()]),
                (None, Some(nothing)) => {
                    for state in &nothing.columns()[column.state_columns()] {
                        columns.push(take(state, &first, None)?);
                    }
                }
                (None, None) => {}
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(
            schema.clone(),
            columns,
            &options,
        )?)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{DataType, Float64Type};
    use arrow::util::display::{ArrayFormatter, FormatOptions};

    use super::*;
    use crate::view::every_function::{LATER, VIEWS, facts, topic};
    use crate::view::{Fold, finish_column};

    fn view(sql: &str) -> Arc<View> {
        Arc::new(View::compile("v", sql, &topic()).unwrap())
    }

    fn folded(view: &Arc<View>, offsets: Range<i64>) -> RecordBatch {
        let facts = facts(view.topic(), offsets);
        let mut fold = Fold::new(view).unwrap();
        fold.facts(&view.facts_read(&facts).unwrap()).unwrap();
        fold.into_states().unwrap()
    }

    fn merged(view: &Arc<View>, states: &[RecordBatch]) -> RecordBatch {
        let mut fold = Fold::new(view).unwrap();
        states.iter().for_each(|s| fold.states(s).unwrap());
        fold.into_states().unwrap()
    }

    /// The values of states as text, row by row, sorted. Sketches with an error of their own are left out.
    fn values(view: &View, states: &RecordBatch) -> Vec<Vec<String>> {
        let split = view.aggregate().unwrap();
        let mut columns: Vec<ArrayRef> = states.columns()[..split.keys().len()].to_vec();
        for column in split.columns() {
            let name = column.aggregate().fun().name();
            if !name.starts_with("approx_p") && name != "approx_median" {
                let parts = &states.columns()[column.state_columns()];
                columns.push(finish_column(column, parts).unwrap());
            }
        }
        let shown = |column: &ArrayRef, row: usize| match column.data_type() {
            DataType::Float64 if column.is_valid(row) => {
                format!("{:.9e}", column.as_primitive::<Float64Type>().value(row))
            }
            _ => {
                let options = FormatOptions::default();
                let shown = ArrayFormatter::try_new(column, &options).unwrap();
                shown.value(row).to_string()
            }
        };
        let rows = 0..states.num_rows();
        let mut rows: Vec<Vec<String>> = rows
            .map(|row| columns.iter().map(|c| shown(c, row)).collect())
            .collect();
        rows.sort();
        rows
    }

    /// Views with every function, by one key.
    fn by_one_key() -> impl Iterator<Item = &'static str> {
        let all = VIEWS.iter().chain([&LATER]);
        all.map(|(_, sql)| *sql)
            .filter(|sql| sql.contains("GROUP BY s"))
    }

    #[test]
    fn states_by_more_keys_are_those_by_fewer() {
        for sql in by_one_key() {
            let former = sql
                .replacen("SELECT s,", "SELECT b, count(d) AS also, s,", 1)
                .replace("GROUP BY s", "GROUP BY b, s");
            let (former, later) = (view(&former), view(sql));
            let taken = later.states_taken(&former).unwrap().unwrap();
            assert_eq!(taken.lacks(), [""; 0]);
            let runs = [folded(&former, 0..70), folded(&former, 70..200)];
            let runs = runs.map(|states| taken.of(&states).unwrap());
            let own = [folded(&later, 0..70), folded(&later, 70..200)];
            let found = values(&later, &merged(&later, &runs));
            assert_eq!(found, values(&later, &merged(&later, &own)), "{sql}");
        }
    }

    #[test]
    fn all_keys_may_go_and_columns_change_places() {
        let former = view("SELECT s, b, sum(n) AS x, count(*) AS y FROM facts GROUP BY s, b");
        let later = view("SELECT count(*) AS facts, sum(n) AS total FROM facts");
        let taken = later.states_taken(&former).unwrap().unwrap();
        let states = taken.of(&folded(&former, 0..200)).unwrap();
        let found = values(&later, &merged(&later, &[states]));
        assert_eq!(found, values(&later, &folded(&later, 0..200)));
        // By other keys nothing is known.
        assert!(former.states_taken(&later).unwrap().is_none());
    }

    /// What is lacking counts nothing, whatever is merged with it.
    #[test]
    fn columns_that_are_lacking_count_from_then_on() {
        for sql in by_one_key() {
            let (former, later) = (view("SELECT s, count(*) FROM facts GROUP BY s"), view(sql));
            let taken = later.states_taken(&former).unwrap().unwrap();
            let columns = later.aggregate().unwrap().columns();
            let has_count = sql.contains("count(*)");
            assert_eq!(taken.lacks().len() + usize::from(has_count), columns.len());
            let before = taken.of(&folded(&former, 0..100)).unwrap();
            let since = folded(&later, 100..200);
            let found = values(&later, &merged(&later, &[before, since.clone()]));
            let mut expected = values(&later, &since);
            if has_count {
                let whole = values(&later, &folded(&later, 0..200));
                expected
                    .iter_mut()
                    .zip(whole)
                    .for_each(|(row, whole)| row[1] = whole[1].clone());
            }
            assert_eq!(found, expected, "{sql}");
        }
    }

    #[test]
    fn other_facts_and_rows_are_not_taken() {
        let taken = |former: &str, later: &str| {
            let taken = view(later).states_taken(&view(former)).unwrap();
            taken.is_some()
        };
        let by_s = "SELECT s, count(*) AS n FROM facts GROUP BY s";
        assert!(taken(
            by_s,
            "SELECT s AS word, count(1) AS facts FROM facts GROUP BY 1"
        ));
        assert!(!taken(
            by_s,
            "SELECT s, count(*) AS n FROM facts WHERE b GROUP BY s"
        ));
        assert!(!taken(
            "SELECT s, count(*) AS n FROM facts WHERE b GROUP BY s",
            by_s
        ));
        assert!(!taken(
            by_s,
            "SELECT upper(s) AS s, count(*) AS n FROM facts GROUP BY 1"
        ));
        assert!(!taken(by_s, "SELECT s, n FROM facts"));
        assert!(!taken("SELECT s, n FROM facts", by_s));
    }
}
