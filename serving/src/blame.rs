//! Whose error it is: where what a view's own SQL computes over its aggregation fails, the error
//! names the view. In a plan the view's expressions stand among the query's, and the engine's error
//! does not say which of them it was; so the view is asked alone, and fails alike if it is its own.

use std::sync::Arc;

use anabranch_shared::view::{Column as SplitColumn, finish_column};
use anabranch_shared::{Error, ErrorKind, Result, ViewPin};
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::util::display::array_value_to_string;
use datafusion::catalog::TableProvider;
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::DataFrame;
use futures::{StreamExt, TryStreamExt};

use crate::leaf::{MergedLeaf, RowsOfKey, States};

/// The rows of an answer over these views; an error that is a view's own names it.
pub(crate) fn naming_views(
    rows: SendableRecordBatchStream,
    state: SessionState,
    views: Vec<ViewPin>,
) -> SendableRecordBatchStream {
    if views.is_empty() {
        return rows;
    }
    let asked = Arc::new((state, views));
    let schema = rows.schema();
    let named = rows.then(move |batch| {
        let asked = asked.clone();
        async move {
            match batch {
                Ok(batch) => Ok(batch),
                Err(e) => Err(named(e, &asked.0, &asked.1).await),
            }
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, named))
}

async fn named(e: DataFusionError, state: &SessionState, views: &[ViewPin]) -> DataFusionError {
    let error = Error::from(e);
    if error.kind() != ErrorKind::Invalid {
        return error.into();
    }
    if let Error::OutOfRange { .. } = error.root() {
        for view in views {
            // Where the view can't be looked at, what is known already is the answer.
            if let Ok(Some(own)) = out_of_range(state, view).await {
                return own.into();
            }
        }
        return error.into();
    }
    let text = error.to_string();
    for view in views {
        if let Err(own) = answer(state, view).await
            && own.to_string() == text
        {
            let name = view.view.name();
            let reason = format!(
                "what its SQL computes over the aggregation fails: {text}; correct it (for example with `nullif` or `try_cast`) and run `anabranch batch rebuild {name}`"
            );
            return Error::view(name, reason).into();
        }
    }
    error.into()
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
