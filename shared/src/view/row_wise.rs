//! A SELECT that is computed fact by fact: filters, expressions, joins with references, `unnest`. Owns
//! that each row keeps the place of the fact that it is made of.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;

use super::plan::Shape;
use super::{Readable, View, planning_session};
use crate::reference::Reference;
use crate::{Error, Result, Topic};

/// A SELECT over a topic that makes rows of each fact.
#[derive(Clone)]
pub struct RowWise {
    step: String,
    view: Arc<View>,
    /// Its columns, with `_partition` and `_offset`.
    schema: SchemaRef,
    context: SessionContext,
}

impl RowWise {
    /// Plans the SELECT of a step.
    ///
    /// # Errors
    /// `Invalid`, with the reason and the place in the SQL, where it can't be computed fact by fact.
    pub fn compile(step: &str, sql: &str, topic: &Topic, references: &[Reference]) -> Result<Self> {
        let read = Readable { topic, references };
        let view =
            View::compile_as(step, sql, read, Shape::RowWise).map_err(|e| of_step(step, e))?;
        let state = planning_session()?.state_ref();
        let mut state = state.read().clone();
        state.config_mut().options_mut().execution.target_partitions = 1;
        let upper = &view.planned.upper;
        Ok(Self {
            step: step.to_owned(),
            schema: Arc::new(Schema::clone(upper.schema().as_arrow())),
            view: Arc::new(view),
            context: SessionContext::new_with_state(state),
        })
    }

    /// The SELECT, whose facts meet the rows of references that it was last brought up to.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Its columns, with the place of the fact that each row is made of.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The rows of some facts, which have the columns of their topic: those of each fact together, in
    /// the order of the facts.
    ///
    /// # Errors
    /// `Invalid` where an expression fails on a fact.
    pub async fn rows(&self, facts: &RecordBatch) -> Result<RecordBatch> {
        let view = self.view.now()?;
        let read = view.facts_read(facts)?;
        let lower = view
            .apply_lower(&read)
            .map_err(|e| of_step(&self.step, e))?;
        if view.planned.lower == view.planned.whole {
            let rows = RecordBatchOptions::new().with_row_count(Some(lower.num_rows()));
            let columns = lower.columns().to_vec();
            return Ok(RecordBatch::try_new_with_options(
                self.schema.clone(),
                columns,
                &rows,
            )?);
        }
        let leaf = MemTable::try_new(lower.schema(), vec![vec![lower]])?;
        let plan = view.answer_plan(Arc::new(leaf))?;
        let failed = |e| of_step(&self.step, Error::from(e));
        let frame = self
            .context
            .execute_logical_plan(plan)
            .await
            .map_err(failed)?;
        let batches = frame.collect().await.map_err(failed)?;
        let schema = batches
            .first()
            .map_or_else(|| self.schema.clone(), RecordBatch::schema);
        Ok(concat_batches(&schema, &batches)?)
    }
}

impl std::fmt::Debug for RowWise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowWise")
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

/// An error as one of a step.
fn of_step(step: &str, e: Error) -> Error {
    match e {
        Error::View { reason, .. } => Error::Invalid(format!("step `{step}`: {reason}")),
        e => Error::of_kind(e.kind(), format!("step `{step}`: {e}")),
    }
}

#[cfg(test)]
mod tests;
