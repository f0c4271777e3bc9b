//! Keeps from files the filters by which their statistics would leave out NaN: Parquet's least and
//! greatest values know nothing of it, and comparisons here hold it for the greatest number. Passes
//! rows through.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use anabranch_shared::statistics_tell;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::filter_pushdown::{
    ChildFilterDescription, FilterDescription, FilterPushdownPhase,
};
use datafusion::physical_plan::projection::{ProjectionExec, make_with_child};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

/// A scan that is asked for filters while the plan is optimized and while it runs.
#[derive(Debug)]
pub(crate) struct NanFenceExec {
    scan: Arc<dyn ExecutionPlan>,
}

impl NanFenceExec {
    /// The scan, behind a fence where it needs one.
    pub(crate) fn around(scan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        let tell = |f: &Arc<arrow::datatypes::Field>| statistics_tell(f.data_type());
        match scan.schema().fields().iter().all(tell) {
            true => scan,
            false => Arc::new(Self { scan }),
        }
    }
}

impl DisplayAs for NanFenceExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("NanFence")
    }
}

impl ExecutionPlan for NanFenceExec {
    fn name(&self) -> &'static str {
        "NanFenceExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.scan.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.scan]
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
            (Some(scan), true) => Ok(Arc::new(Self { scan })),
            _ => internal_err!("a fence has one input"),
        }
    }

    fn try_swapping_with_projection(
        &self,
        projection: &ProjectionExec,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if projection.expr().len() >= self.schema().fields().len() {
            return Ok(None);
        }
        let scan = make_with_child(projection, &self.scan)?;
        Ok(Some(Arc::new(Self { scan })))
    }

    fn gather_filters_for_pushdown(
        &self,
        _: FilterPushdownPhase,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        let schema = self.schema();
        let telling = schema.fields().iter().enumerate();
        let telling = telling.filter(|(_, f)| statistics_tell(f.data_type()));
        let allowed: HashSet<usize> = telling.map(|(i, _)| i).collect();
        let child =
            ChildFilterDescription::from_child_with_allowed_indices(&filters, allowed, &self.scan)?;
        Ok(FilterDescription::new().with_child(child))
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(
        &self,
        of_scan: &[Arc<Statistics>],
        _: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        match of_scan {
            [statistics] => Ok(statistics.clone()),
            _ => internal_err!("a fence has one input"),
        }
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.scan.execute(partition, context)
    }
}
