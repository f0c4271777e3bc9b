//! A recompute that also tells how large the terms of its sums are: floating point may be off by so
//! much of Σ|terms| where sums are made in another order, which is more than a share of the result
//! where terms cancel out.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use datafusion::common::Column as ColumnRef;
use datafusion::common::tree_node::TreeNode;
use datafusion::functions::math::abs;
use datafusion::logical_expr::{
    Aggregate, Expr, ExprSchemable, LogicalPlan, Projection, SubqueryAlias, Window,
};

use super::order::strip_alias;
use super::{KeySample, View};
use crate::Result;

/// The right side of the law with the terms of its sums.
#[derive(Debug)]
pub struct Recompute {
    /// Gives the columns of the view's answer, and then those of terms.
    pub plan: LogicalPlan,
    /// For each column of the answer the one with its Σ|terms|, for an average divided by their
    /// number; none where the column is no sum of floating point, or its terms are not known.
    pub terms: Vec<Option<usize>>,
}

/// A step that carries terms: for each of its former columns the name of its terms.
struct Step {
    plan: LogicalPlan,
    terms: Vec<Option<String>>,
}

impl View {
    /// As [`View::recompute_plan`], or [`View::sampled_recompute_plan`] of a sample, with terms.
    pub fn recompute_with_terms(
        &self,
        facts: Arc<dyn TableProvider>,
        sample: Option<&KeySample>,
    ) -> Result<Recompute> {
        let plain = match sample {
            Some(sample) => self.sampled_recompute_plan(facts, sample)?,
            None => self.recompute_plan(facts)?,
        };
        let columns = plain.schema().columns();
        let nothing = vec![None; columns.len()];
        let Some(step) = step(&plain)? else {
            let terms = nothing;
            return Ok(Recompute { plan: plain, terms });
        };
        let mut names: Vec<&String> = step.terms.iter().flatten().collect();
        names.sort_unstable();
        names.dedup();
        let place = |name: &String| names.binary_search(&name).ok().map(|at| columns.len() + at);
        let terms = step.terms.iter().map(|t| place(t.as_ref()?)).collect();
        let more = names.iter().filter_map(|name| column(&step.plan, name));
        let all = columns.iter().cloned().chain(more).map(Expr::Column);
        let plan = Projection::try_new(all.collect(), Arc::new(step.plan.clone()))?;
        Ok(Recompute {
            plan: LogicalPlan::Projection(plan),
            terms,
        })
    }
}

/// The column of some terms in a plan.
fn column(plan: &LogicalPlan, name: &str) -> Option<ColumnRef> {
    let found = plan.schema().iter().find(|(_, f)| f.name() == name)?;
    Some(ColumnRef::from(found))
}

/// A step with terms; `None` where there are none that could be carried.
fn step(node: &LogicalPlan) -> Result<Option<Step>> {
    if let LogicalPlan::Aggregate(aggregate) = node {
        return lowest(aggregate);
    }
    let [input] = node.inputs()[..] else {
        return Ok(None);
    };
    let Some(below) = step(input)? else {
        return Ok(None);
    };
    let Step { plan, terms } = below;
    Ok(Some(match node {
        LogicalPlan::Projection(p) => projection(p, plan, &terms)?,
        LogicalPlan::SubqueryAlias(a) => {
            let alias = SubqueryAlias::try_new(Arc::new(plan), a.alias.clone())?;
            let plan = LogicalPlan::SubqueryAlias(alias);
            Step { plan, terms }
        }
        LogicalPlan::Filter(_) | LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => {
            let plan = node.with_new_exprs(node.expressions(), vec![plan])?;
            Step { plan, terms }
        }
        LogicalPlan::Window(w) => {
            let more = w.window_expr.len();
            let window = Window::try_new(w.window_expr.clone(), Arc::new(plan))?;
            let mut terms = terms;
            terms.extend(std::iter::repeat_n(None, more));
            let plan = LogicalPlan::Window(window);
            Step { plan, terms }
        }
        _ => return Ok(None),
    }))
}

/// The aggregation of the facts with the terms of its sums.
fn lowest(aggregate: &Aggregate) -> Result<Option<Step>> {
    let is_aggregate = |n: &LogicalPlan| Ok(matches!(n, LogicalPlan::Aggregate(_)));
    if aggregate.input.exists(is_aggregate)? {
        return Ok(None);
    }
    let keys = aggregate.schema.fields().len() - aggregate.aggr_expr.len();
    let mut terms: Vec<Option<String>> = vec![None; keys];
    let mut exprs = aggregate.aggr_expr.clone();
    for (at, expr) in aggregate.aggr_expr.iter().enumerate() {
        let sized = sized(expr, &aggregate.input)?;
        let name = format!("__terms_{at}");
        terms.push(sized.is_some().then(|| name.clone()));
        exprs.extend(sized.map(|e| e.alias(name)));
    }
    if exprs.len() == aggregate.aggr_expr.len() {
        return Ok(None);
    }
    let (input, keys) = (aggregate.input.clone(), aggregate.group_expr.clone());
    let plan = LogicalPlan::Aggregate(Aggregate::try_new(input, keys, exprs)?);
    Ok(Some(Step { plan, terms }))
}

/// The same sum or average of floating point over the sizes of its terms.
fn sized(expr: &Expr, input: &LogicalPlan) -> Result<Option<Expr>> {
    let Expr::AggregateFunction(f) = strip_alias(expr) else {
        return Ok(None);
    };
    let (name, [argument]) = (f.func.name(), f.params.args.as_slice()) else {
        return Ok(None);
    };
    let is_float = matches!(
        argument.get_type(input.schema())?,
        DataType::Float32 | DataType::Float64
    );
    if !is_float || f.params.distinct || !matches!(name, "sum" | "avg") {
        return Ok(None);
    }
    let mut sized = f.clone();
    sized.params.args = vec![abs().call(vec![argument.clone()])];
    Ok(Some(Expr::AggregateFunction(sized)))
}

fn projection(p: &Projection, input: LogicalPlan, below: &[Option<String>]) -> Result<Step> {
    let shown = |expr: &Expr| {
        let Expr::Column(column) = strip_alias(expr) else {
            return None;
        };
        let at = p.input.schema().maybe_index_of_column(column)?;
        below.get(at)?.clone()
    };
    let terms: Vec<Option<String>> = p.expr.iter().map(shown).collect();
    let mut names: Vec<&String> = terms.iter().flatten().collect();
    names.sort_unstable();
    names.dedup();
    let carried = names.into_iter().filter_map(|name| {
        let column = column(&input, name)?;
        Some(Expr::Column(column).alias(name))
    });
    let exprs = p.expr.iter().cloned().chain(carried).collect();
    let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?);
    Ok(Step { plan, terms })
}
