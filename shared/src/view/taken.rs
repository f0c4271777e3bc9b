//! States of one definition made of those of another, without a fact: where the later one groups the same
//! facts by what can be told from the keys of the former one, its states are those, merged by its own keys,
//! of some columns. So is one that takes only facts that can be told by those keys.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int8Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{filter_record_batch, take};
use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema};
use datafusion::execution::SessionState;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::physical_expr::PhysicalExpr;

use super::View;
use super::aggregate::AggregateSplit;
use super::fingerprint::{Term, form_of, terms};
use super::fold::{evaluate, states_of_nothing};
use super::plan::planning_session;
use crate::{Result, planted};

/// How states of a view are made of those of a former definition.
#[derive(Clone, Debug)]
pub struct StatesTaken {
    view: Arc<View>,
    /// The keys that are taken; what is of others is none of the view's.
    filters: Vec<Arc<dyn PhysicalExpr>>,
    /// Each key, over the former ones; none of a view without GROUP BY.
    keys: Vec<Arc<dyn PhysicalExpr>>,
    /// Where the former states have the state of each column, if they have it.
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
        let same = self.topic().name == former.topic().name
            && self.definition().settings == former.definition().settings
            && self.definition().meets_those_of(former.definition());
        let (wanted, has) = (self.fingerprint()?, former.fingerprint()?);
        let all = own.columns().len() == wanted.aggregates.len()
            && others.columns().len() == has.aggregates.len();
        if !same || !all {
            return Ok(None);
        }
        let ((keys, filters), (former_keys, former_filters)) = (terms(self)?, terms(former)?);
        let forms =
            |terms: &[Term]| -> Vec<String> { terms.iter().map(|t| t.form.clone()).collect() };
        let (own_filters, has_filters) = (forms(&filters), forms(&former_filters));
        // What the former one has left out is in none of its states.
        let left_out = has_filters.iter().any(|f| !own_filters.contains(f));
        let state = planning_session()?.state();
        let over = Former::new(others, &former_keys, &state)?;
        let further = filters.iter().filter(|f| !has_filters.contains(&f.form));
        let further = further
            .map(|f| over.physical(&f.expr))
            .collect::<Result<Option<Vec<_>>>>()?;
        let further = match further {
            Some(_) | None if planted("planted-taken-past-a-filter") => Vec::new(),
            Some(further) if !left_out => further,
            _ => return Ok(None),
        };
        let taken = keys.iter().map(|key| over.physical(&key.expr));
        let Some(taken) = taken.collect::<Result<Option<Vec<_>>>>()? else {
            return Ok(None);
        };
        let of_own = own.state_schema().fields().iter();
        let types = taken.iter().map(|key| key.data_type(others.state_schema()));
        let types = types.collect::<datafusion::common::Result<Vec<DataType>>>()?;
        if !types
            .iter()
            .zip(of_own)
            .all(|(found, wanted)| found == wanted.data_type())
        {
            return Ok(None);
        }
        let states_of = |one: &String| {
            let at = has.aggregates.iter().position(|other| other == one)?;
            Some(others.columns().get(at)?.state_columns())
        };
        let columns: Vec<_> = wanted.aggregates.iter().map(states_of).collect();
        let lacking = wanted.aggregates.iter().zip(&columns);
        let lacking = lacking.filter(|(_, found)| found.is_none());
        let lacks = lacking.map(|(one, _)| wanted.name_of(one).to_owned());
        Ok(Some(StatesTaken {
            view: self.clone(),
            filters: further,
            keys: taken,
            lacks: lacks.collect(),
            columns,
        }))
    }
}

/// The keys of a former definition, over which expressions are said.
struct Former<'a> {
    /// By their forms where each stands, and whether it can be computed with.
    keys: Vec<(String, String, bool)>,
    schema: DFSchema,
    state: &'a SessionState,
}

impl<'a> Former<'a> {
    fn new(split: &AggregateSplit, keys: &[Term], state: &'a SessionState) -> Result<Self> {
        let schema = split.key_schema();
        let placed = keys.iter().zip(schema.fields()).map(|(key, field)| {
            // Both zeros are one key, and not in every expression the same.
            let computes = !field.data_type().is_floating();
            (key.form.clone(), field.name().clone(), computes)
        });
        Ok(Self {
            keys: placed.collect(),
            schema: DFSchema::try_from(schema.as_ref().clone())?,
            state,
        })
    }

    /// An expression over the topic's fields as one over the keys; none where they don't tell it.
    fn physical(&self, expr: &Expr) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        let own = form_of(expr)?;
        let mut told = true;
        let over_keys = expr.clone().transform_down(|e| {
            let form =
                form_of(&e).map_err(|e| datafusion::error::DataFusionError::External(e.into()))?;
            let key = self
                .keys
                .iter()
                .find(|(key, _, computes)| *key == form && (*computes || *key == own));
            Ok(match (key, &e) {
                (Some((_, name, _)), _) => {
                    let column = Expr::Column(Column::new_unqualified(name.as_str()));
                    Transformed::new(column, true, TreeNodeRecursion::Jump)
                }
                (None, Expr::Column(_)) => {
                    told = false;
                    Transformed::new(e, false, TreeNodeRecursion::Stop)
                }
                (None, _) => Transformed::no(e),
            })
        })?;
        if !told || over_keys.data.is_volatile() {
            return Ok(None);
        }
        let physical = datafusion::physical_expr::create_physical_expr(
            &over_keys.data,
            &self.schema,
            self.state.execution_props(),
            &PhysicalPlanningContext::default(),
        )?;
        Ok(Some(physical))
    }
}

impl StatesTaken {
    /// The columns that the former states lack: of what those stand for they count nothing.
    pub fn lacks(&self) -> &[String] {
        &self.lacks
    }

    /// Former states as ones of the view, several a key where it has fewer.
    ///
    /// # Errors
    /// Those of the engine for states of another form.
    pub fn of(&self, former: &RecordBatch) -> Result<RecordBatch> {
        let mut former = former.clone();
        for filter in &self.filters {
            let kept = evaluate(filter, &former)?;
            former = filter_record_batch(&former, kept.as_boolean())?;
        }
        let (schema, rows) = (self.view.state_schema(), former.num_rows());
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
        if self.keys.is_empty() {
            columns.push(Arc::new(Int8Array::from(vec![0; rows])));
        }
        for key in &self.keys {
            columns.push(evaluate(key, &former)?);
        }
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
    fn keys_and_conditions_are_told_by_the_former_keys() {
        let former = "SELECT date_trunc('minute', ts) AS minute, s, b, sum(n) AS x, approx_distinct(i) AS y FROM facts WHERE i > -15 GROUP BY 1, 2, 3";
        for later in [
            "SELECT date_trunc('hour', date_trunc('minute', ts)) AS hour, upper(s) AS u, sum(n) AS x FROM facts WHERE i > -15 GROUP BY 1, 2",
            "SELECT approx_distinct(i) AS y, b IS NULL AS n FROM facts WHERE i > -15 AND (s IS NULL OR length(s) = 1) GROUP BY 2",
            "SELECT sum(n) AS x FROM facts WHERE s = 'a' AND i > -15 AND date_trunc('minute', ts) > TIMESTAMP '2023-11-14T22:20:00Z'",
            "SELECT 'all' AS k, sum(n) AS x FROM facts WHERE i > -15 AND NOT b GROUP BY 1",
        ] {
            let (former, later) = (view(former), view(later));
            let taken = later.states_taken(&former).unwrap().unwrap();
            let runs = [folded(&former, 0..90), folded(&former, 90..300)];
            let runs = runs.map(|states| taken.of(&states).unwrap());
            let found = values(&later, &merged(&later, &runs));
            let expected = values(&later, &folded(&later, 0..300));
            assert_eq!(found, expected, "{}", later.definition().sql);
            assert!(!found.is_empty());
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
        assert!(taken(
            by_s,
            "SELECT upper(s) AS s, count(*) AS n FROM facts GROUP BY 1"
        ));
        assert!(!taken(
            by_s,
            "SELECT concat(s, i) AS s, count(*) AS n FROM facts GROUP BY 1"
        ));
        // Of both zeros the one that came first is the key.
        let by_f = "SELECT f, count(*) AS n FROM facts GROUP BY f";
        assert!(taken(by_f, "SELECT f, count(*) AS m FROM facts GROUP BY f"));
        assert!(!taken(
            by_f,
            "SELECT 1 / f AS inverse, count(*) AS n FROM facts GROUP BY 1"
        ));
        assert!(!taken(by_s, "SELECT s, n FROM facts"));
        assert!(!taken("SELECT s, n FROM facts", by_s));
    }
}
