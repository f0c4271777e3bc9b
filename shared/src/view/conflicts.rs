//! Aggregates that need their input in different orders, which the engine can't compute in one
//! aggregation: each order gets an aggregation of its own, and these are joined by their keys.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column as ColumnRef, JoinType, NullEquality, Result as EngineResult};
use datafusion::logical_expr::expr::Sort as SortExpr;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder};

use super::order::strip_alias;
use super::plan::distinct;

/// The plan with each such aggregation taken apart.
pub(super) fn resolve(plan: LogicalPlan) -> EngineResult<LogicalPlan> {
    let resolved = plan.transform_up(|node| match &node {
        LogicalPlan::Aggregate(aggregate) => {
            let parts = parts(aggregate);
            match parts.len() > 1 {
                true => Ok(Transformed::yes(apart(aggregate, &parts)?)),
                false => Ok(Transformed::no(node)),
            }
        }
        _ => Ok(Transformed::no(node)),
    })?;
    Ok(resolved.data)
}

/// The order that an aggregate insists on.
fn insists_on(expr: &Expr) -> Option<&Vec<SortExpr>> {
    match strip_alias(expr) {
        Expr::AggregateFunction(f) if !f.params.order_by.is_empty() => f
            .func
            .order_sensitivity()
            .hard_requires()
            .then_some(&f.params.order_by),
        _ => None,
    }
}

/// The positions of the aggregates that can be computed together.
fn parts(aggregate: &Aggregate) -> Vec<Vec<usize>> {
    let mut parts: Vec<(Option<&Vec<SortExpr>>, Vec<usize>)> = Vec::new();
    for (at, expr) in aggregate.aggr_expr.iter().enumerate() {
        let order = insists_on(expr);
        let fits = |found: &Option<&Vec<SortExpr>>| match (order, *found) {
            (Some(order), Some(found)) => order == found,
            _ => true,
        };
        match parts.iter_mut().find(|(found, _)| fits(found)) {
            Some((found, positions)) => {
                *found = found.or(order);
                positions.push(at);
            }
            None => parts.push((order, vec![at])),
        }
    }
    parts.into_iter().map(|(_, positions)| positions).collect()
}

fn part_name(part: usize) -> String {
    format!("__part_{part}")
}

/// A column of a part: its keys come first.
fn column(part: usize, at: usize) -> ColumnRef {
    ColumnRef::new(Some(part_name(part)), format!("c{at}"))
}

fn apart(aggregate: &Aggregate, parts: &[Vec<usize>]) -> EngineResult<LogicalPlan> {
    let keys = distinct(&aggregate.group_expr);
    let mut joined: Option<LogicalPlanBuilder> = None;
    for (number, positions) in parts.iter().enumerate() {
        let exprs = positions.iter().map(|&at| aggregate.aggr_expr[at].clone());
        let one = Aggregate::try_new(aggregate.input.clone(), keys.clone(), exprs.collect())?;
        let columns = one.schema.columns().into_iter().enumerate();
        let columns = columns.map(|(at, c)| Expr::Column(c).alias(format!("c{at}")));
        let columns = columns.collect::<Vec<_>>();
        let one = LogicalPlanBuilder::from(LogicalPlan::Aggregate(one))
            .project(columns)?
            .alias(part_name(number))?;
        joined = Some(match joined {
            None => one,
            Some(before) if keys.is_empty() => before.cross_join(one.build()?)?,
            Some(before) => {
                let side = |part| {
                    (0..keys.len())
                        .map(|at| column(part, at))
                        .collect::<Vec<_>>()
                };
                before.join_detailed(
                    one.build()?,
                    JoinType::Inner,
                    (side(0), side(number)),
                    None,
                    NullEquality::NullEqualsNull,
                )?
            }
        });
    }
    let Some(joined) = joined else {
        return Ok(LogicalPlan::Aggregate(aggregate.clone()));
    };
    let find = |at: usize| {
        let part = |(number, positions): (usize, &Vec<usize>)| {
            let found = positions.iter().position(|&p| p == at)?;
            Some(column(number, keys.len() + found))
        };
        parts.iter().enumerate().find_map(part)
    };
    let columns = aggregate.schema.iter().enumerate();
    let columns = columns.map(|(at, (qualifier, field))| {
        let found = match at.checked_sub(keys.len()) {
            None => Some(column(0, at)),
            Some(at) => find(at),
        };
        let found = found.unwrap_or_else(|| column(0, at));
        Expr::Column(found).alias_qualified(qualifier.cloned(), field.name())
    });
    joined.project(columns.collect::<Vec<_>>())?.build()
}
