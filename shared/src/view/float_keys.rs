//! Joins on floating point: the engine hands what it met on one side down to the other as a filter, past
//! aggregations and to the scan, and compares there by bits, where negative zero is not zero. Keys are
//! grouped and joined as if it were, so the filter takes rows away that have a partner. Plans with such
//! a join go without these filters.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::HashJoinExec;

type Rule = Arc<dyn PhysicalOptimizerRule + Send + Sync>;

/// How the engine's rules are named that hand filters down.
const HANDS_DOWN: &str = "FilterPushdown";

/// The engine's rules, with ours around those that hand filters down.
pub(super) fn rules() -> Vec<Rule> {
    let wrapped = |rule: Rule| -> Rule {
        match rule.name().starts_with(HANDS_DOWN) {
            true => Arc::new(ByValue(rule)),
            false => rule,
        }
    };
    let rules = PhysicalOptimizer::new().rules;
    rules.into_iter().map(wrapped).collect()
}

/// A rule that hands filters down, but none of joins where some are on floating point.
#[derive(Debug)]
struct ByValue(Rule);

impl PhysicalOptimizerRule for ByValue {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if !joins_floats(&plan)? {
            return self.0.optimize(plan, config);
        }
        let mut without = config.clone();
        without.optimizer.enable_join_dynamic_filter_pushdown = false;
        self.0.optimize(plan, &without)
    }
}

/// Whether a plan has a join on floating point.
fn joins_floats(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let mut found = false;
    plan.apply(|node| {
        let node: &dyn std::any::Any = node.as_ref();
        if let Some(join) = node.downcast_ref::<HashJoinExec>() {
            for (left, right) in join.on() {
                let left = left.data_type(&join.left().schema())?;
                let right = right.data_type(&join.right().schema())?;
                found |= left.is_floating() || right.is_floating();
            }
        }
        Ok(match found {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use arrow::array::{AsArray, Float64Array, RecordBatch};
    use arrow::datatypes::Int64Type;
    use datafusion::datasource::MemTable;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::super::engine::{build_session, session_builder};

    /// Negative zero is zero, on both sides of a join and below an aggregation.
    #[tokio::test]
    async fn both_zeros_meet() {
        let config = SessionConfig::new().with_target_partitions(2);
        let state = build_session(session_builder().with_config(config)).unwrap();
        let session = SessionContext::new_with_state(state);
        let of = |values: &[f64]| {
            let column = std::sync::Arc::new(Float64Array::from(values.to_vec()));
            RecordBatch::try_from_iter([("f", column as _)]).unwrap()
        };
        let batches = vec![vec![
            of(&[0.0, 1.5]),
            of(&[-0.0, -0.0, 2.5]),
            of(&[0.0, 1.5]),
        ]];
        let table = MemTable::try_new(batches[0][0].schema(), batches).unwrap();
        session
            .register_table("t", std::sync::Arc::new(table))
            .unwrap();
        let grouped = "(SELECT f, count(*) AS n FROM t GROUP BY f)";
        let sql = format!(
            "SELECT b.n AS n FROM {grouped} a JOIN {grouped} b ON a.f = b.f WHERE a.f < 1 ORDER BY 1"
        );
        let rows = session.sql(&sql).await.unwrap().collect().await.unwrap();
        let found: Vec<i64> = rows
            .iter()
            .flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec())
            .collect();
        assert_eq!(found, [4]);
    }
}
