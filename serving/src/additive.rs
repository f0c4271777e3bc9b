//! Refuses `sum` and `avg` over a view's column whose values don't add up, such as unique visitors
//! or an average, before the engine's rewrites hide how the query was written.

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, Result, plan_err};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, TableScan};

use crate::leaf::MergedLeaf;

/// Checks a plan as it was written, before it is optimized. What the views compute themselves, as
/// their plans in `views` say, is their authors' to decide.
pub(crate) fn check(plan: &LogicalPlan, views: &[LogicalPlan]) -> Result<()> {
    plan.apply_with_subqueries(|node| {
        if views.contains(node) {
            return Ok(TreeNodeRecursion::Jump);
        }
        if let LogicalPlan::Aggregate(aggregate) = node {
            check_aggregate(aggregate)?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

fn check_aggregate(aggregate: &Aggregate) -> Result<()> {
    for expr in &aggregate.aggr_expr {
        let Expr::AggregateFunction(f) = unalias(expr) else {
            continue;
        };
        let name = f.func.name();
        if !matches!(name, "sum" | "avg") {
            continue;
        }
        let [Expr::Column(column)] = f.params.args.as_slice() else {
            continue;
        };
        let Some((leaf, at)) = trace(&aggregate.input, column) else {
            continue;
        };
        let Some(split) = leaf.pin().view.aggregate() else {
            continue;
        };
        let Some(at) = at.checked_sub(leaf.key_count()) else {
            continue;
        };
        let Some(found) = split.columns().get(at) else {
            continue;
        };
        let is_extreme = matches!(found.aggregate().fun().name(), "min" | "max");
        // An average over additive values is a question about groups; over others it misleads.
        if found.is_additive() || (name == "avg" && is_extreme) {
            continue;
        }
        return plan_err!(
            "`{name}({})`: values of `{}` don't add up over groups; write `combine({})` for the value over all facts of the group, or `{name}(CAST({} AS …))` if this sum is really meant",
            column.name,
            found.name,
            column.name,
            column.name
        );
    }
    Ok(())
}

fn unalias(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unalias(&alias.expr),
        expr => expr,
    }
}

/// The column of a leaf that a column is, unchanged.
fn trace(plan: &LogicalPlan, column: &Column) -> Option<(MergedLeaf, usize)> {
    let (scan, name) = scanned(plan, column)?;
    let provider = source_as_provider(&scan.source).ok()?;
    let any: &dyn std::any::Any = provider.as_ref();
    let leaf = any.downcast_ref::<MergedLeaf>()?;
    let at = leaf.pin().view.leaf_schema().index_of(&name).ok()?;
    Some((leaf.clone(), at))
}

/// The scan whose column a column is, unchanged, and by which name.
pub(crate) fn scanned<'p>(
    plan: &'p LogicalPlan,
    column: &Column,
) -> Option<(&'p TableScan, String)> {
    match plan {
        LogicalPlan::TableScan(scan) => Some((scan, column.name.clone())),
        LogicalPlan::Projection(p) => {
            let at = p.schema.maybe_index_of_column(column)?;
            match unalias(&p.expr[at]) {
                Expr::Column(c) => scanned(&p.input, c),
                _ => None,
            }
        }
        LogicalPlan::SubqueryAlias(a) => {
            let at = a.schema.maybe_index_of_column(column)?;
            let inner = Column::from(a.input.schema().qualified_field(at));
            scanned(&a.input, &inner)
        }
        LogicalPlan::Join(j) => {
            let mut sides = [&j.left, &j.right].into_iter();
            let has = |side: &&std::sync::Arc<LogicalPlan>| {
                side.schema().maybe_index_of_column(column).is_some()
            };
            sides.find(has).and_then(|side| scanned(side, column))
        }
        other => match other.inputs().as_slice() {
            [input] if input.schema().maybe_index_of_column(column).is_some() => {
                scanned(input, column)
            }
            _ => None,
        },
    }
}
