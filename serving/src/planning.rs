//! Planning within bounds: functions get those of the query, and every rule looks whether to go on.

use std::sync::Arc;

use anabranch_shared::Stop;
use anabranch_shared::functions::{FunctionBounds, bound_expression};
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{AnalyzerRule, OptimizerConfig, OptimizerRule};

/// Of a session, one whose planning keeps to bounds.
pub(crate) fn bounded(state: SessionState, bounds: FunctionBounds) -> SessionStateBuilder {
    let stop = bounds.stop.clone();
    let rules = state.optimizers().to_vec();
    let builder = SessionStateBuilder::new_from_existing(state);
    let looking = rules.into_iter().map(|rule| {
        let stop = stop.clone();
        Arc::new(LookingRule { rule, stop }) as Arc<dyn OptimizerRule + Send + Sync>
    });
    builder
        .with_optimizer_rules(looking.collect())
        .with_analyzer_rule(Arc::new(BoundFunctions(bounds)))
}

/// A rule that looks whether to go on before each of its steps.
#[derive(Debug)]
struct LookingRule {
    rule: Arc<dyn OptimizerRule + Send + Sync>,
    stop: Stop,
}

impl OptimizerRule for LookingRule {
    fn name(&self) -> &str {
        self.rule.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.rule.apply_order()
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        self.stop.check()?;
        self.rule.rewrite(plan, config)
    }
}

/// Puts the query's bounds on functions and operators, also on those that the planner itself writes
/// and on those of views.
#[derive(Debug)]
struct BoundFunctions(FunctionBounds);

impl AnalyzerRule for BoundFunctions {
    fn name(&self) -> &str {
        "bound_functions"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let bounded = plan.transform_up_with_subqueries(|node| {
            self.0.stop.check()?;
            let schema = merge_schema(&node.inputs());
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                // From the top, so that a chain of operators is one.
                let bounded = expr.transform_down(|e| bound_expression(e, &schema, &self.0))?;
                Ok(bounded.update_data(|e| name.restore(e)))
            })?
            .map_data(LogicalPlan::recompute_schema)
        })?;
        Ok(bounded.data)
    }
}
