//! Whose error it is: where what a view's own SQL computes over its aggregation fails, the error
//! names the view. In a plan the view's expressions stand among the query's, and the engine's error
//! does not say which of them it was; so the view is asked alone, and fails alike if it is its own.

use std::sync::Arc;

use anabranch_shared::{Error, ErrorKind, Result, ViewPin};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::DataFrame;
use futures::{StreamExt, TryStreamExt};

use crate::leaf::MergedLeaf;

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
