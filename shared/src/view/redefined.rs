//! Columns that a query defines anew under their own names, in sub-queries one within another:
//! `SELECT n + n AS n FROM (SELECT n + n AS n FROM …)`. The engine's rule `optimize_projections` takes
//! two projections that are written alike for one and the same, which leaves one of them out: an
//! answer of 2 instead of 4. So projections that define a name anew are kept apart while it runs.
//!
//! ```text
//!   Projection: n + n AS n                    Projection: n + n AS n
//!     Projection: n + n AS n        →           Filter: true
//!       …                                         Projection: n + n AS n
//! ```

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, Projection, lit};
use datafusion::optimizer::{Optimizer, OptimizerConfig, OptimizerRule};

type Rules = Vec<Arc<dyn OptimizerRule + Send + Sync>>;

/// The rule of the engine that is kept from it.
const MERGES: &str = "optimize_projections";

/// The engine's rules, with ours around the one that merges projections.
pub(super) fn rules() -> Rules {
    let mut rules: Rules = Vec::new();
    for rule in Optimizer::new().rules {
        match rule.name() {
            MERGES => rules.extend([Arc::new(KeepApart) as _, rule, Arc::new(BringTogether) as _]),
            _ => rules.push(rule),
        }
    }
    rules
}

/// Puts a filter that lets all through between projections, where the lower one defines a name anew.
#[derive(Debug)]
struct KeepApart;

/// Takes those filters out again.
#[derive(Debug)]
struct BringTogether;

impl OptimizerRule for KeepApart {
    fn name(&self) -> &str {
        "keep_redefinitions_apart"
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        plan.transform_up_with_subqueries(|node| {
            let LogicalPlan::Projection(upper) = &node else {
                return Ok(Transformed::no(node));
            };
            match upper.input.as_ref() {
                LogicalPlan::Projection(lower) if defines_anew(lower) => {
                    let filter = Filter::try_new(lit(true), upper.input.clone())?;
                    let input = Arc::new(LogicalPlan::Filter(filter));
                    let (exprs, schema) = (upper.expr.clone(), upper.schema.clone());
                    let apart = Projection::try_new_with_schema(exprs, input, schema)?;
                    Ok(Transformed::yes(LogicalPlan::Projection(apart)))
                }
                _ => Ok(Transformed::no(node)),
            }
        })
    }
}

impl OptimizerRule for BringTogether {
    fn name(&self) -> &str {
        "bring_redefinitions_together"
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        plan.transform_up_with_subqueries(|node| {
            Ok(match node {
                LogicalPlan::Filter(filter) if filter.predicate == lit(true) => {
                    Transformed::yes(Arc::unwrap_or_clone(filter.input))
                }
                node => Transformed::no(node),
            })
        })
    }
}

/// Whether a projection gives another meaning to a name that it reads.
fn defines_anew(projection: &Projection) -> bool {
    let schema = projection.schema.fields().iter();
    let named = projection.expr.iter().zip(schema);
    named
        .filter(|(expr, field)| !is_itself(expr, field.name()))
        .any(|(_, field)| projection.expr.iter().any(|expr| reads(expr, field.name())))
}

/// Whether an expression is the column of a name.
fn is_itself(expr: &Expr, name: &str) -> bool {
    match expr {
        Expr::Alias(alias) => is_itself(&alias.expr, name),
        Expr::Column(column) => column.name == name,
        _ => false,
    }
}

fn reads(expr: &Expr, name: &str) -> bool {
    let mut found = false;
    let walked = expr.apply(|e| {
        found |= matches!(e, Expr::Column(column) if column.name == name);
        Ok(match found {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    });
    // Where that is not known it does no harm to keep them apart.
    found || walked.is_err()
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use datafusion::prelude::SessionContext;

    use super::super::engine::{build_session, session_builder};

    #[tokio::test]
    async fn each_definition_counts() -> crate::Result<()> {
        let session = SessionContext::new_with_state(build_session(session_builder())?);
        let twice = |of: &str| format!("SELECT n + n AS n FROM ({of})");
        let one = "SELECT * FROM (VALUES (CAST(1 AS BIGINT), CAST(3 AS BIGINT))) AS t(n, m)";
        let nested = twice(&twice(&twice(&twice(one))));
        let swap = |of: &str| format!("SELECT m AS n, n AS m FROM ({of})");
        let swapped = swap(&swap(&swap(one)));
        let renamed = "SELECT x * m AS n FROM (SELECT n AS x, m FROM (SELECT n * m AS n, m FROM (SELECT n * m AS n, m FROM (VALUES (CAST(1 AS BIGINT), CAST(3 AS BIGINT))) AS t(n, m))))";
        for (sql, expected) in [
            (nested.clone(), 16),
            (format!("SELECT sum(n) FROM ({nested})"), 16),
            (format!("SELECT n FROM ({nested}) WHERE true"), 16),
            (format!("SELECT n FROM ({swapped})"), 3),
            (renamed.to_owned(), 27),
            (format!("SELECT 10 * n + m FROM ({})", swap(&swap(one))), 13),
        ] {
            let rows = session.sql(&sql).await?.collect().await?;
            let found = rows.iter().find(|b| b.num_rows() > 0);
            let found = found.map(|b| b.column(0).as_primitive::<Int64Type>().value(0));
            assert_eq!(found, Some(expected), "{sql}");
            let plan = session.sql(&sql).await?.into_optimized_plan()?;
            assert!(
                !plan.to_string().contains("Filter: Boolean(true)"),
                "{plan}"
            );
        }
        Ok(())
    }
}
