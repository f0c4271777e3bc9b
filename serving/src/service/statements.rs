//! A statement on its way to rows: what it reads is made known to its session, it is planned, checked,
//! and begun.

use std::sync::Arc;

use anabranch_shared::{Error, Pin, Relation, Result, Stop, sql};
use arrow::array::RecordBatch;
use chrono::{DateTime, Utc};
use datafusion::execution::context::SQLOptions;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;

use crate::blame::naming_views;
use crate::combine::plan_combines;
use crate::described::in_sql_types;
use crate::dialect::Dialect;
use crate::identity::Rights;
use crate::naming::ColumnNames;
use crate::receipts::{Awaited, volatile};
use crate::stoppable::{largest_constant, stoppable};
use crate::{additive, freshness, information, tables, workers};

/// Bytes of a constant that a batch may hold, written out for each row.
const CONSTANTS_AT_ONCE: usize = 64_000_000;

/// A statement that has been read, its session, and the names of the columns of its answer.
pub(super) struct Statements {
    pub(super) context: SessionContext,
    /// What time it is to the statement.
    pub(super) now: DateTime<Utc>,
    pub(super) statement: Statement,
    pub(super) names: ColumnNames,
    pub(super) dialect: Option<Arc<dyn Dialect>>,
    /// What whoever asks may read.
    pub(super) rights: Rights,
}

pub(super) type Read = workers::Kept<Statements>;

/// What a statement asks of everything that there is; none where it does not.
#[derive(Default)]
pub(super) struct Known {
    /// What can be queried.
    pub(super) relations: Option<Vec<Relation>>,
    /// How fresh it is.
    pub(super) freshness: Option<RecordBatch>,
}

/// Plans a statement over a pin and begins to compute it, on the threads for queries.
pub(super) async fn computed(
    (read, known, receipt): (Read, Known, Option<Awaited>),
    pin: Pin,
    stop: Stop,
) -> Result<SendableRecordBatchStream> {
    let mut read = read.take()?;
    // Whoever names a view computes it anew, in the session without the query's tables.
    let of_views = read.state();
    read.register(&pin, &known)?;
    let state = read.state();
    let plan = read.checked(&state, &pin).await?;
    if let Some(receipt) = receipt
        && let Some(function) = volatile(&plan)
    {
        receipt.refuse(format!("`{function}` gives another value each time"));
    }
    stop.check()?;
    let plan: Result<_> = workers::at_length(async {
        let plan = state.optimize(&plan_combines(plan)?)?;
        stop.check()?;
        let planner = state.query_planner();
        let planned = planner.create_physical_plan(&plan, &state).await?;
        Ok((Arc::new(plan.schema().as_arrow().clone()), planned))
    });
    let (schema, plan) = plan?;
    stop.check()?;
    let constant = largest_constant(&plan)?;
    let plan = stoppable(plan, &stop)?;
    let rows = execute_stream(plan, task_of(&state, constant))?;
    let rows = read.names.rename(&schema, rows);
    if read.rights.has_filters() {
        // Whoever looks for the view at fault computes it of all rows.
        return Ok(rows);
    }
    let views = pin.views.into_values().collect();
    Ok(naming_views(rows, of_views, views, stop))
}

impl Statements {
    /// The session's state, in which it is one time for the whole statement.
    pub(super) fn state(&self) -> SessionState {
        let mut state = self.context.state();
        state.execution_props_mut().query_execution_start_time = Some(self.now);
        state
    }

    /// Makes known to the session what it reads, and what its door has besides.
    pub(super) fn register(&self, pin: &Pin, known: &Known) -> Result<()> {
        tables::register(&self.context, pin, &self.rights)?;
        if let Some(relations) = &known.relations {
            information::register(&self.context, relations)?;
        }
        if let Some(rows) = &known.freshness {
            freshness::register(&self.context, rows)?;
        }
        match &self.dialect {
            Some(dialect) => dialect.register(
                &self.context,
                known.relations.as_deref().unwrap_or_default(),
            ),
            None => Ok(()),
        }
    }

    /// The plan of a statement that only reads, and whose sums add up.
    pub(super) async fn checked(&mut self, state: &SessionState, pin: &Pin) -> Result<LogicalPlan> {
        let plan = self.planned(state).await?;
        let plan = in_sql_types(plan)?;
        read_only().verify_plan(&plan)?;
        additive::check(&plan, &tables::answer_plans(pin, &self.rights)?)?;
        Ok(plan)
    }

    /// The statement's plan. Columns that the engine takes for one are planned apart.
    async fn planned(&mut self, state: &SessionState) -> Result<LogicalPlan> {
        let statement = &self.statement;
        let planned = state.statement_to_plan(statement.clone()).await;
        let mut e = match planned {
            Ok(plan) => return Ok(plan),
            Err(e) => Error::from(e),
        };
        if let Some(apart) = sql::casts_apart(state, statement, &e) {
            match state.statement_to_plan(apart).await {
                Ok(plan) => return Ok(plan),
                Err(of_casts) => e = of_casts.into(),
            }
        }
        if !sql::is_of_one_name(&e) {
            return Err(e);
        }
        match self.names.apart(statement) {
            Some(apart) => Ok(state.statement_to_plan(apart).await?),
            None => Err(e),
        }
    }
}

/// What a plan is executed in: with fewer rows at once where it writes out a large constant for each.
fn task_of(state: &SessionState, constant_bytes: usize) -> Arc<TaskContext> {
    let task = TaskContext::from(state);
    let rows = task.session_config().batch_size();
    let most = CONSTANTS_AT_ONCE / constant_bytes.max(1);
    if most >= rows {
        return Arc::new(task);
    }
    let config = task.session_config().clone().with_batch_size(most.max(1));
    Arc::new(task.with_session_config(config))
}

fn read_only() -> SQLOptions {
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
}
