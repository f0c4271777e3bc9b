//! Answers of one view, pinned, for those who compare it, follow it or export it: without SQL of anybody's,
//! and within the memory that they give.

use std::sync::Arc;

use anabranch_shared::functions::FunctionBounds;
use anabranch_shared::view::KeySample;
use anabranch_shared::{Result, Stop, ViewPin};
use arrow::datatypes::SchemaRef;
use datafusion::datasource::provider_as_source;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::{DataFrame, SessionContext};

use super::SqlService;
use crate::blame::naming_views;
use crate::leaf::MergedLeaf;
use crate::planning;
use crate::stoppable::stoppable;

impl SqlService {
    /// The columns of a view's answer, pinned.
    pub fn answer_schema(&self, pin: &ViewPin, sample: Option<&KeySample>) -> Result<SchemaRef> {
        let plan = view_answer_plan(pin, sample)?;
        Ok(Arc::new(plan.schema().as_arrow().clone()))
    }

    /// The answer of a view, pinned; of a sample of its keys where one is given. It is made within the
    /// memory of a pool of its own, and ends with an error once it is to stop.
    pub async fn view_answer(
        &self,
        pin: &ViewPin,
        sample: Option<&KeySample>,
        memory: &Arc<dyn MemoryPool>,
        stop: &Stop,
    ) -> Result<SendableRecordBatchStream> {
        let plan = view_answer_plan(pin, sample)?;
        self.view_rows(pin, plan, memory, stop).await
    }

    /// As [`SqlService::view_answer`], of the keys alone that a condition on its leaf chooses.
    pub(crate) async fn view_answer_of(
        &self,
        pin: &ViewPin,
        keys: Option<Expr>,
        memory: &Arc<dyn MemoryPool>,
        stop: &Stop,
    ) -> Result<SendableRecordBatchStream> {
        let leaf = MergedLeaf::new(Arc::new(pin.clone())).of_keys(keys);
        let plan = pin.view.answer_plan(Arc::new(leaf))?;
        self.view_rows(pin, plan, memory, stop).await
    }

    /// The keys of a view's leaf, pinned.
    pub(crate) async fn leaf_keys(
        &self,
        pin: &ViewPin,
        stop: &Stop,
    ) -> Result<SendableRecordBatchStream> {
        let leaf = MergedLeaf::new(Arc::new(pin.clone()));
        let keys = (0..pin.view.key_count()).collect();
        let plan = LogicalPlanBuilder::scan(
            pin.view.name(),
            provider_as_source(Arc::new(leaf)),
            Some(keys),
        )?;
        self.view_rows(pin, plan.build()?, self.memory_pool(), stop)
            .await
    }

    /// The rows of a plan over a pinned view.
    async fn view_rows(
        &self,
        pin: &ViewPin,
        plan: LogicalPlan,
        memory: &Arc<dyn MemoryPool>,
        stop: &Stop,
    ) -> Result<SendableRecordBatchStream> {
        let mut runtime = RuntimeEnv::clone(&self.runtime);
        runtime.memory_pool = memory.clone();
        let state = stopped_by(self.sessions.of_plans(Arc::new(runtime)), stop);
        let plan = DataFrame::new(state.clone(), plan)
            .create_physical_plan()
            .await?;
        let context = SessionContext::new_with_state(state.clone());
        let rows = execute_stream(stoppable(plan, stop)?, context.task_ctx())?;
        Ok(naming_views(rows, state, vec![pin.clone()], stop.clone()))
    }
}

fn view_answer_plan(pin: &ViewPin, sample: Option<&KeySample>) -> Result<LogicalPlan> {
    let leaf = Arc::new(MergedLeaf::new(Arc::new(pin.clone())));
    match sample {
        Some(sample) => pin.view.sampled_answer_plan(leaf, sample),
        None => pin.view.answer_plan(leaf),
    }
}

/// A session for views in which planning looks whether to go on, and so do functions that compute
/// long. Its plans must be [`stoppable`] besides.
pub fn stopped_by(state: SessionState, stop: &Stop) -> SessionState {
    let bounds = FunctionBounds {
        stop: stop.clone(),
        ..Default::default()
    };
    planning::bounded(state, bounds).build()
}
