//! What a view's SQL leaves open above its aggregation, decided: which of equal rows a LIMIT takes,
//! in which order window functions and order-sensitive aggregates see them. The keys of the rows
//! break the ties (a fact's place, in a view of rows), so that an answer is the same whenever and
//! however its states were merged, and the same as that of a recompute.
//!
//! Each step of the plan is made again with a total order of its rows, whose columns are carried
//! upward under names of their own where a projection would leave them out.

use std::sync::Arc;

use datafusion::common::Column as ColumnRef;
use datafusion::logical_expr::expr::{NullTreatment, Sort as SortExpr, WindowFunction};
use datafusion::logical_expr::{
    Aggregate, Expr, Limit, LogicalPlan, Projection, Sort, SubqueryAlias, Window, WindowFrameUnits,
};

use super::order::{self, ascending, break_ties, is_ordered, strip_alias};
use super::plan::{distinct, rewrite_aggregate, with_place};
use crate::{Error, Result, planted};

/// Window functions that number or shift rows: equal rows have an order in them.
const BY_ROW: [&str; 4] = ["row_number", "ntile", "lag", "lead"];

/// Window functions to which equal rows are equal.
const BY_PEERS: [&str; 4] = ["rank", "dense_rank", "percent_rank", "cume_dist"];

/// A plan that leaves nothing open.
pub(super) struct Decided {
    /// The whole plan.
    pub plan: LogicalPlan,
    /// The node at which it is split.
    pub lowest: LogicalPlan,
}

/// A step, and a total order of its rows: none where there is one row.
struct Step {
    plan: LogicalPlan,
    order: Vec<SortExpr>,
}

/// Decides what a plan leaves open above the node at which it is split.
///
/// # Errors
/// `View` where the SQL asks for what no order can decide.
pub(super) fn decide(view: &str, plan: &LogicalPlan, lowest: LogicalPlan) -> Result<Decided> {
    if !leaves_open(plan, &lowest) || planted("planted-ties-left-open") {
        let plan = plan.clone();
        return Ok(Decided { plan, lowest });
    }
    let bottom = match &lowest {
        LogicalPlan::Aggregate(aggregate) => Step {
            order: keys_of(aggregate),
            plan: lowest.clone(),
        },
        rows => {
            let plan = with_place(rows)?;
            let place = order::place_columns(plan.schema());
            let order = place.into_iter().flatten().map(ascending).collect();
            Step { plan, order }
        }
    };
    let above = step(view, plan, &lowest, &bottom)?;
    let columns = plan.schema().columns();
    let decided = match above.plan.schema().fields().len() == columns.len() {
        true => above.plan,
        // Without what was carried up for the order alone.
        false => {
            let columns = columns.into_iter().map(Expr::Column).collect();
            LogicalPlan::Projection(Projection::try_new(columns, Arc::new(above.plan))?)
        }
    };
    Ok(Decided {
        plan: decided,
        lowest: bottom.plan,
    })
}

/// Whether the order of rows means anything above a node.
fn leaves_open(plan: &LogicalPlan, lowest: &LogicalPlan) -> bool {
    if plan == lowest {
        return false;
    }
    let here = match plan {
        LogicalPlan::Limit(_) | LogicalPlan::Window(_) => true,
        LogicalPlan::Sort(sort) => sort.fetch.is_some(),
        // Extremes of floating point depend on the order too, where there is a NaN.
        LogicalPlan::Aggregate(a) => a.aggr_expr.iter().any(|e| match strip_alias(e) {
            Expr::AggregateFunction(f) => {
                is_ordered(f.func.name()) || matches!(f.func.name(), "min" | "max")
            }
            _ => false,
        }),
        _ => false,
    };
    here || plan.inputs().into_iter().any(|i| leaves_open(i, lowest))
}

/// The order by the keys of an aggregation.
fn keys_of(aggregate: &Aggregate) -> Vec<SortExpr> {
    let keys = distinct(&aggregate.group_expr).len();
    let columns = aggregate.schema.columns().into_iter().take(keys);
    columns.map(ascending).collect()
}

fn step(view: &str, node: &LogicalPlan, lowest: &LogicalPlan, bottom: &Step) -> Result<Step> {
    if node == lowest {
        return Ok(Step {
            plan: bottom.plan.clone(),
            order: bottom.order.clone(),
        });
    }
    let [input] = node.inputs()[..] else {
        return Err(Error::Internal(format!(
            "not a chain of steps: {}",
            node.display()
        )));
    };
    let below = step(view, input, lowest, bottom)?;
    match node {
        LogicalPlan::Projection(p) => projection(p, below),
        LogicalPlan::SubqueryAlias(a) => alias(a, below),
        LogicalPlan::Sort(s) => sort(s, below),
        LogicalPlan::Limit(l) => limit(l, below),
        LogicalPlan::Window(w) => window(view, w, below),
        LogicalPlan::Aggregate(a) => aggregate(a, below),
        LogicalPlan::Filter(_) => Ok(Step {
            plan: node.with_new_exprs(node.expressions(), vec![below.plan])?,
            order: below.order,
        }),
        // One row may become several, as by `unnest`: whole rows tell these apart, or they are equal.
        other => {
            let plan = other.with_new_exprs(other.expressions(), vec![below.plan])?;
            let mut order = below.order;
            order.retain(|s| {
                s.expr
                    .column_refs()
                    .iter()
                    .all(|c| plan.schema().has_column(c))
            });
            let rest: Vec<_> = plan.schema().columns().into_iter().map(ascending).collect();
            break_ties(&mut order, &rest);
            Ok(Step { plan, order })
        }
    }
}

/// The name under which a column of the order is carried upward.
fn carried(place: usize) -> String {
    format!("__order_{place}")
}

fn projection(p: &Projection, below: Step) -> Result<Step> {
    let mut exprs = p.expr.clone();
    let names: Vec<(usize, SortExpr)> = below.order.into_iter().enumerate().collect();
    let mut order = Vec::with_capacity(names.len());
    for (place, by) in names {
        let shown = p.expr.iter().position(|e| *e == by.expr);
        let column = match shown {
            Some(at) => ColumnRef::from(p.schema.qualified_field(at)),
            None => {
                exprs.push(by.expr.alias(carried(place)));
                ColumnRef::new_unqualified(carried(place))
            }
        };
        order.push(SortExpr::new(Expr::Column(column), by.asc, by.nulls_first));
    }
    let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(below.plan))?);
    Ok(Step { plan, order })
}

fn alias(a: &SubqueryAlias, below: Step) -> Result<Step> {
    let inner = below.plan.schema().clone();
    let plan = SubqueryAlias::try_new(Arc::new(below.plan), a.alias.clone())?;
    let mut order = Vec::with_capacity(below.order.len());
    for by in below.order {
        let column = by
            .expr
            .try_as_col()
            .and_then(|c| inner.maybe_index_of_column(c));
        let at = column.ok_or_else(|| Error::Internal(format!("no column `{}`", by.expr)))?;
        let column = ColumnRef::from(plan.schema.qualified_field(at));
        order.push(SortExpr::new(Expr::Column(column), by.asc, by.nulls_first));
    }
    let plan = LogicalPlan::SubqueryAlias(plan);
    Ok(Step { plan, order })
}

/// A sort: by what the SQL says, then by the order of the rows as they come.
fn sort(s: &Sort, below: Step) -> Result<Step> {
    let mut exprs: Vec<Expr> = Vec::new();
    let mut order = Vec::with_capacity(s.expr.len() + below.order.len());
    for (place, by) in s.expr.iter().enumerate() {
        let column = match strip_alias(&by.expr) {
            Expr::Column(column) => column.clone(),
            computed => {
                let name = format!("__sort_{}_{place}", below.plan.schema().fields().len());
                exprs.push(computed.clone().alias(&name));
                ColumnRef::new_unqualified(name)
            }
        };
        order.push(SortExpr::new(Expr::Column(column), by.asc, by.nulls_first));
    }
    let input = match exprs.is_empty() {
        true => below.plan,
        false => {
            let columns = below.plan.schema().columns().into_iter().map(Expr::Column);
            let all = columns.chain(exprs).collect();
            LogicalPlan::Projection(Projection::try_new(all, Arc::new(below.plan))?)
        }
    };
    break_ties(&mut order, &below.order);
    let plan = LogicalPlan::Sort(Sort {
        expr: order.clone(),
        input: Arc::new(input),
        fetch: s.fetch,
    });
    Ok(Step { plan, order })
}

/// Whether rows come in an order that was asked for.
fn is_sorted(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Limit(_) => plan.inputs().into_iter().all(is_sorted),
        _ => false,
    }
}

fn limit(l: &Limit, below: Step) -> Result<Step> {
    let input = match below.order.is_empty() || is_sorted(&below.plan) {
        true => below.plan,
        false => LogicalPlan::Sort(Sort {
            expr: below.order.clone(),
            input: Arc::new(below.plan),
            fetch: None,
        }),
    };
    let plan = LogicalPlan::Limit(Limit {
        skip: l.skip.clone(),
        fetch: l.fetch.clone(),
        input: Arc::new(input),
    });
    let order = below.order;
    Ok(Step { plan, order })
}

fn window(view: &str, w: &Window, below: Step) -> Result<Step> {
    let first = w.input.schema().fields().len();
    // Functions of one step have one order: those whose orders differ now get steps of their own.
    let mut steps: Vec<(WindowFunction, Vec<Expr>)> = Vec::new();
    for (at, expr) in w.window_expr.iter().enumerate() {
        let Expr::WindowFunction(function) = strip_alias(expr) else {
            return Err(Error::Internal(format!("not a window function: {expr}")));
        };
        let decided = decide_window(view, function, &below.order)?;
        let expr = match &decided {
            None => expr.clone(),
            Some(decided) => {
                let name = w.schema.field(first + at).name();
                Expr::WindowFunction(Box::new(decided.clone())).alias(name)
            }
        };
        let function = decided.unwrap_or_else(|| WindowFunction::clone(function));
        let same = |(other, _): &&mut (WindowFunction, Vec<Expr>)| {
            let (a, b) = (&other.params, &function.params);
            a.partition_by == b.partition_by && a.order_by == b.order_by
        };
        match steps.iter_mut().find(same) {
            Some((_, exprs)) => exprs.push(expr),
            None => steps.push((function, vec![expr])),
        }
    }
    let Step { mut plan, order } = below;
    for (_, exprs) in steps {
        plan = LogicalPlan::Window(Window::try_new(exprs, Arc::new(plan))?);
    }
    Ok(Step { plan, order })
}

/// The same window function in an order without ties; `None` where ties change nothing.
fn decide_window(
    view: &str,
    function: &WindowFunction,
    order: &[SortExpr],
) -> Result<Option<WindowFunction>> {
    let (name, params) = (function.fun.name(), &function.params);
    let mut decided = function.clone();
    let within = |s: &&SortExpr| !params.partition_by.contains(&s.expr);
    let ties: Vec<_> = order.iter().filter(within).cloned().collect();
    break_ties(&mut decided.params.order_by, &ties);
    if BY_PEERS.contains(&name) || decided.params.order_by == params.order_by {
        return Ok(None);
    }
    let frame = &params.window_frame;
    let (starts, ends) = (
        frame.start_bound.is_unbounded(),
        frame.end_bound.is_unbounded(),
    );
    let skips_nulls = params.null_treatment == Some(NullTreatment::IgnoreNulls);
    // A frame of peers ends at other rows in a finer order, but its first row is the same.
    let takes_first = name == "first_value" && starts && !skips_nulls;
    match () {
        () if BY_ROW.contains(&name) || frame.units == WindowFrameUnits::Rows => Ok(Some(decided)),
        () if !is_ordered(name) => Ok(None),
        () if (starts && ends) || takes_first => Ok(Some(decided)),
        () => Err(Error::view(
            view,
            format!(
                "`{name}(…) OVER (…)` takes one of several rows that are equal in its ORDER BY, and its frame does not say which; write `ROWS` instead of `{}` in its frame, or order by all keys of its rows",
                frame.units
            ),
        )),
    }
}

fn aggregate(a: &Aggregate, below: Step) -> Result<Step> {
    let keys = distinct(&a.group_expr);
    let mut exprs = Vec::with_capacity(a.aggr_expr.len());
    for (at, expr) in a.aggr_expr.iter().enumerate() {
        let name = a.schema.field(keys.len() + at).name();
        exprs.push(rewrite_aggregate(
            expr.clone(),
            &below.plan,
            &below.order,
            name,
        )?);
    }
    let aggregate = Aggregate::try_new(Arc::new(below.plan), keys, exprs)?;
    let order = keys_of(&aggregate);
    let plan = LogicalPlan::Aggregate(aggregate);
    Ok(Step { plan, order })
}
