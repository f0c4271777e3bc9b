//! Names in a plan what comes from which layer, for `EXPLAIN`, and holds the files that it reads.
//! Passes its input through, and nothing of what is above it down.

use std::fmt;
use std::sync::Arc;

use anabranch_shared::SpilledStates;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::StreamExt;

#[derive(Debug)]
pub(crate) struct LayerExec {
    label: String,
    input: Arc<dyn ExecutionPlan>,
    /// Files that must stay until the streams have ended.
    held: Arc<[Arc<SpilledStates>]>,
}

impl LayerExec {
    pub(crate) fn wrap(label: String, input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Self::wrap_holding(label, input, Vec::new())
    }

    /// Rows that somebody may read, below which nothing of their query is computed.
    pub(crate) fn barrier(input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Self::wrap("Rows: those that the user may read".to_owned(), input)
    }

    /// As [`LayerExec::wrap`], over files that are removed once nobody holds them.
    pub(crate) fn wrap_holding(
        label: String,
        input: Arc<dyn ExecutionPlan>,
        held: Vec<Arc<SpilledStates>>,
    ) -> Arc<dyn ExecutionPlan> {
        let held = held.into();
        Arc::new(Self { label, input, held })
    }
}

impl DisplayAs for LayerExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.label)
    }
}

impl ExecutionPlan for LayerExec {
    fn name(&self) -> &'static str {
        "LayerExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self {
                label: self.label.clone(),
                input,
                held: self.held.clone(),
            })),
            _ => internal_err!("a layer has one input"),
        }
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context)?;
        if self.held.is_empty() {
            return Ok(rows);
        }
        // Files are opened one after another, long after the plan itself may be gone.
        let (schema, held) = (rows.schema(), self.held.clone());
        let rows = rows.inspect(move |_| {
            let _files = &held;
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}
