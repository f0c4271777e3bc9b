//! Whose error it is: where what a view's own SQL computes over its aggregation fails, the error
//! names the view. In a plan the view's expressions stand among the query's, and the engine's error
//! does not say which of them it was; so the view is asked alone, and fails alike if it is its own.
//! That is as much work as the view is large, so it is left where the view computes nothing that can
//! fail, and bounded in time.

use std::sync::Arc;
use std::time::Duration;

use anabranch_shared::view::{Column as SplitColumn, finish_column};
use anabranch_shared::{Error, ErrorKind, Result, Stop, ViewPin};
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::util::display::array_value_to_string;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::provider_as_source;
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::DataFrame;
use futures::{StreamExt, TryStreamExt};

use crate::leaf::{MergedLeaf, RowsOfKey, States};

/// How long views are asked, all together. An error that is a view's own and is not found in that time
/// goes without the view's name.
const ASKED_FOR: Duration = Duration::from_secs(10);

/// Aggregates that finish without an error, besides sums, whose errors say what they are.
const FINISH_WELL: [&str; 7] = [
    "count",
    "min",
    "max",
    "sum",
    "bool_and",
    "bool_or",
    "approx_distinct",
];

/// The rows of an answer over these views; an error that is a view's own names it.
pub(crate) fn naming_views(
    rows: SendableRecordBatchStream,
    state: SessionState,
    views: Vec<ViewPin>,
    stop: Stop,
) -> SendableRecordBatchStream {
    if views.is_empty() {
        return rows;
    }
    let asked = Arc::new((state, views, stop));
    let schema = rows.schema();
    let named = rows.then(move |batch| {
        let asked = asked.clone();
        async move {
            match batch {
                Ok(batch) => Ok(batch),
                Err(e) => {
                    let (state, views, stop) = asked.as_ref();
                    Err(named(Error::from(e), state, views, stop).await.into())
                }
            }
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, named))
}

async fn named(error: Error, state: &SessionState, views: &[ViewPin], stop: &Stop) -> Error {
    if error.kind() != ErrorKind::Invalid {
        return error;
    }
    let looking = async { Ok(own_error(&error, state, views).await) };
    match tokio::time::timeout(ASKED_FOR, stop.within(looking)).await {
        Ok(Ok(Some(own))) => own,
        // Where the views can't be looked at, what is known already is the answer.
        _ => error,
    }
}

/// The error of the view whose own it is, if it is one's.
async fn own_error(error: &Error, state: &SessionState, views: &[ViewPin]) -> Option<Error> {
    if let Error::OutOfRange { .. } = error.root() {
        for view in views {
            if let Ok(Some(own)) = out_of_range(state, view).await {
                return Some(own);
            }
        }
        return None;
    }
    let text = error.to_string();
    for view in views {
        if can_fail(view)
            && let Err(own) = answer(state, view).await
            && own.to_string() == text
        {
            let name = view.view.name();
            let reason = format!(
                "what its SQL computes over the aggregation fails: {text}; correct it (for example with `nullif` or `try_cast`) and run `anabranch apply`"
            );
            return Some(Error::view(name, reason));
        }
    }
    None
}

/// Whether a view computes anything over its aggregation that may fail.
fn can_fail(view: &ViewPin) -> bool {
    let columns = view
        .view
        .aggregate()
        .map_or(&[][..], |split| split.columns());
    let finishes = |c: &SplitColumn| FINISH_WELL.contains(&c.aggregate().fun().name());
    let leaf = Arc::new(MergedLeaf::new(Arc::new(view.clone())));
    !columns.iter().all(finishes) || view.view.answer_plan(leaf).map_or(true, |p| computes(&p))
}

fn computes(plan: &LogicalPlan) -> bool {
    let simple = |e: &Expr| matches!(e, Expr::Column(_) | Expr::Alias(_) | Expr::Literal(..));
    let mut found = false;
    let visited = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|e| {
                found |= !simple(e);
                Ok(match found {
                    true => TreeNodeRecursion::Stop,
                    false => TreeNodeRecursion::Continue,
                })
            })
        })
    });
    found || visited.is_err()
}

/// Computes a view's whole answer, for its error alone.
async fn answer(state: &SessionState, view: &ViewPin) -> Result<()> {
    let leaf = Arc::new(MergedLeaf::new(Arc::new(view.clone())));
    let plan = view.view.answer_plan(leaf)?;
    let rows = DataFrame::new(state.clone(), plan).execute_stream().await?;
    Ok(rows.try_for_each(|_| async { Ok(()) }).await?)
}

/// The error of the first of a view's sums that its type does not hold, with its column and key.
async fn out_of_range(state: &SessionState, view: &ViewPin) -> Result<Option<Error>> {
    let Some(split) = view.view.aggregate() else {
        return Ok(None);
    };
    let is_sum = |c: &usize| split.columns()[*c].aggregate().fun().name() == "sum";
    let sums: Vec<usize> = (0..split.columns().len()).filter(is_sum).collect();
    if sums.is_empty() {
        return Ok(None);
    }
    let mut states = merged_states(state, view, &sums).await?;
    while let Some(batch) = states.try_next().await? {
        let mut first = view.view.key_count();
        for &sum in &sums {
            let column = &split.columns()[sum];
            let parts = first..first + column.state_fields().len();
            first = parts.end;
            if let Some((row, e)) = first_failing(column, &batch.columns()[parts]) {
                let keys = shown_keys(view, &batch, row)?;
                let leaf_column = view.view.key_count() + sum;
                let shown = view.view.shown_as(leaf_column);
                let name = shown.unwrap_or_else(|| column.name.clone());
                let reason = format!("column `{name}`{keys}: {e}");
                return Ok(Some(Error::view(view.view.name(), reason)));
            }
        }
    }
    Ok(None)
}

/// The merged states of some columns of a view, after its keys.
async fn merged_states(
    state: &SessionState,
    view: &ViewPin,
    columns: &[usize],
) -> Result<SendableRecordBatchStream> {
    let states = States {
        source: 0,
        columns: columns.to_vec(),
        rows: RowsOfKey::One,
    };
    let leaf = MergedLeaf::new(Arc::new(view.clone())).with_states(states);
    let before = view.view.leaf_schema().fields().len();
    let given = leaf.schema().fields().len();
    let projection = (0..view.view.key_count()).chain(before..given).collect();
    let source = provider_as_source(Arc::new(leaf));
    let plan = LogicalPlanBuilder::scan(view.view.name(), source, Some(projection))?.build()?;
    Ok(DataFrame::new(state.clone(), plan).execute_stream().await?)
}

/// The first row of a column's states that can't be finished, and why.
fn first_failing(column: &SplitColumn, states: &[ArrayRef]) -> Option<(usize, Error)> {
    let rows = states.first().map_or(0, |s| s.len());
    let fails = |start: usize, rows: usize| {
        let part: Vec<ArrayRef> = states.iter().map(|s| s.slice(start, rows)).collect();
        finish_column(column, &part).err()
    };
    let (mut start, mut rows, mut error) = (0, rows, fails(0, rows)?);
    while rows > 1 {
        let half = rows / 2;
        (start, rows) = match fails(start, half) {
            Some(e) => {
                error = e;
                (start, half)
            }
            None => (start + half, rows - half),
        };
    }
    Some((start, fails(start, rows).unwrap_or(error)))
}

/// A row's keys, for people.
fn shown_keys(view: &ViewPin, states: &RecordBatch, row: usize) -> Result<String> {
    let keys = view.view.aggregate().map_or(&[][..], |split| split.keys());
    let keys = keys.iter().take(view.view.key_count()).enumerate();
    let shown = keys.map(|(i, key)| {
        let name = view.view.shown_as(i).unwrap_or_else(|| key.name.clone());
        let value = states.column(i);
        let value = match value.is_null(row) {
            true => "NULL".to_owned(),
            false => array_value_to_string(value, row)?,
        };
        Ok(format!("{name} = {value}"))
    });
    let shown = shown.collect::<Result<Vec<_>>>()?.join(", ");
    Ok(match shown.is_empty() {
        true => shown,
        false => format!(" at {shown}"),
    })
}

#[cfg(test)]
mod tests {
    use anabranch_shared::settings::FieldType;
    use anabranch_shared::view::View;
    use anabranch_shared::{Generation, Met, Offsets, Topic, TopicField};
    use object_store::path::Path;

    use super::*;

    fn pin(sql: &str) -> Result<ViewPin> {
        let field = |name: &str, field_type| TopicField {
            name: name.into(),
            field_type,
            nullable: name != "ts",
            reads: anabranch_shared::settings::FieldReads::default(),
        };
        let topic = Topic {
            name: "ev".into(),
            event_time: "ts".into(),
            fields: vec![
                field("ts", FieldType::Timestamp),
                field("k", FieldType::Varchar),
                field("v", FieldType::BigInt),
            ],
        };
        Ok(ViewPin {
            view: Arc::new(View::compile("w", sql, &topic)?),
            generation: Generation(1),
            boundary: Offsets::default(),
            head: Offsets::default(),
            root: Path::default(),
            files: Vec::new(),
            delta: Vec::new(),
            met: Met::default(),
        })
    }

    /// A view is computed anew for an error only where the error may be its own.
    #[test]
    fn views_that_compute_nothing_are_not_asked() -> Result<()> {
        let cases = [
            (
                "SELECT k, count(*) AS n, sum(v) AS t FROM ev GROUP BY k",
                false,
            ),
            (
                "SELECT k, max(v / 2) AS hi FROM ev WHERE v > 1 GROUP BY k",
                false,
            ),
            ("SELECT k, 100 / count(v) AS n FROM ev GROUP BY k", true),
            (
                "SELECT k, sum(v) AS t FROM ev GROUP BY k HAVING 1 / sum(v) > 0",
                true,
            ),
            ("SELECT k, avg(v) AS a FROM ev GROUP BY k", true),
        ];
        for (sql, may) in cases {
            assert_eq!(can_fail(&pin(sql)?), may, "{sql}");
        }
        Ok(())
    }
}
