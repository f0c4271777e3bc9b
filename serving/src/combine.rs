//! `combine(column)`: the merge of the states behind a view's column, at another grain. Written as an
//! aggregate over the column; planned, before anything else is rewritten, as an aggregate over the
//! column's states, which the leaf gives beside keys and finished columns and which every step
//! between passes on. What else stands in the query (filters, FILTER, HAVING, other aggregates,
//! grouping sets, joins) is then the engine's, as with any aggregate.
//!
//! ```text
//!   Aggregate   combine(visitors) FILTER (…)  →  merge_states(states of visitors) FILTER (…)
//!     Join, Filter, Projection, SubqueryAlias    the states are passed on
//!       leaf    keys, finished columns, states of visitors
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{
    Accumulator, Aggregate, AggregateUDF, AggregateUDFImpl, Expr, LogicalPlan, Signature,
    Volatility,
};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use self::path::{Origin, state_columns, trace, with_states};
use crate::leaf::{MergedLeaf, RowsOfKey, States};
use crate::merge_states::{Gives, merge_states};

mod at_most_one;
mod path;
#[cfg(test)]
mod tests;

/// The function's name.
pub(crate) const COMBINE: &str = "combine";

/// The aggregate as it is written; it never runs.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Combine {
    signature: Signature,
}

impl Combine {
    pub(crate) fn udaf() -> AggregateUDF {
        AggregateUDF::from(Self {
            signature: Signature::any(1, Volatility::Immutable),
        })
    }
}

impl AggregateUDFImpl for Combine {
    fn name(&self) -> &str {
        COMBINE
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types.first().cloned().unwrap_or(DataType::Null))
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        plan_err!("{}", refusal("its argument is not a column of a view"))
    }
}

fn refusal(why: &str) -> String {
    format!(
        "combine: {why}; it takes a column that is one aggregate of a view, through filters and joins with relations that have one row a key, as in `SELECT section, combine(visitors) FROM v GROUP BY section`"
    )
}

/// Plans every `combine` of a query, as it was written, before it is optimized.
///
/// # Errors
/// A plan error that says why, and what to write, where one can't be answered.
pub(crate) fn plan_combines(plan: LogicalPlan) -> Result<LogicalPlan> {
    let planned = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Aggregate(a) if a.aggr_expr.iter().any(is_combine) => {
            Ok(Transformed::yes(plan_aggregate(&a)?))
        }
        node => match node.expressions().iter().any(holds_combine) {
            true => plan_err!(
                "{}",
                refusal("it stands where it can't be answered, for example over a window")
            ),
            false => Ok(Transformed::no(node)),
        },
    })?;
    Ok(planned.data)
}

fn function(expr: &Expr) -> Option<&AggregateFunction> {
    match unalias(expr) {
        Expr::AggregateFunction(f) => Some(f),
        _ => None,
    }
}

fn is_combine(expr: &Expr) -> bool {
    function(expr).is_some_and(|f| f.func.name() == COMBINE)
}

/// Whether `combine` stands anywhere in an expression.
fn holds_combine(expr: &Expr) -> bool {
    let found = expr.exists(|e| {
        Ok(match e {
            Expr::AggregateFunction(f) => f.func.name() == COMBINE,
            Expr::WindowFunction(f) => f.fun.name() == COMBINE,
            _ => false,
        })
    });
    found.unwrap_or(false)
}

fn unalias(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unalias(&alias.expr),
        expr => expr,
    }
}

/// An aggregate of the query that merges the states of a column of a view.
#[derive(Clone)]
struct Merge {
    path: Vec<usize>,
    column: usize,
    gives: Gives,
}

/// A view that the query combines columns of.
struct Source {
    leaf: MergedLeaf,
    columns: BTreeSet<usize>,
}

fn plan_aggregate(aggregate: &Aggregate) -> Result<LogicalPlan> {
    let mut sources: BTreeMap<Vec<usize>, Source> = BTreeMap::new();
    let mut merges = Vec::new();
    for expr in &aggregate.aggr_expr {
        let origin = match function(expr).filter(|f| f.func.name() == COMBINE) {
            Some(f) => Some(combined(&aggregate.input, f)?),
            None => None,
        };
        merges.push(origin.map(|origin| merge_of(origin, Gives::Value, &mut sources)));
    }
    let rows = match as_stored(aggregate, &merges, &mut sources) {
        Some(every) => {
            merges = every;
            RowsOfKey::Several
        }
        None => RowsOfKey::One,
    };
    let mut input = LogicalPlan::clone(&aggregate.input);
    for (number, (path, source)) in sources.iter().enumerate() {
        let states = States {
            source: number,
            columns: source.columns.iter().copied().collect(),
            rows,
        };
        input = with_states(&input, path, &source.leaf.with_states(states))?;
    }
    let numbers: BTreeMap<&Vec<usize>, usize> = sources.keys().zip(0..).collect();
    let exprs = aggregate.aggr_expr.iter().zip(&merges);
    let exprs = exprs.map(|(expr, merge)| match merge {
        None => Ok(expr.clone()),
        Some(merge) => {
            let source = &sources[&merge.path];
            let parts = state_columns(&input, numbers[&merge.path], merge.column)?;
            merge_expr(expr, merge, &source.leaf, parts)
        }
    });
    let exprs = exprs.collect::<Result<Vec<_>>>()?;
    let planned = Aggregate::try_new(Arc::new(input), aggregate.group_expr.clone(), exprs)?;
    Ok(LogicalPlan::Aggregate(planned))
}

fn merge_of(origin: Origin, gives: Gives, sources: &mut BTreeMap<Vec<usize>, Source>) -> Merge {
    let Origin { path, leaf, column } = origin;
    let source = sources.entry(path.clone()).or_insert_with(|| Source {
        leaf,
        columns: BTreeSet::new(),
    });
    source.columns.insert(column);
    Merge {
        path,
        column,
        gives,
    }
}

/// Where the states of a `combine` are.
fn combined(input: &LogicalPlan, f: &AggregateFunction) -> Result<Origin> {
    let params = &f.params;
    if params.distinct || !params.order_by.is_empty() || params.null_treatment.is_some() {
        let why = "DISTINCT, ORDER BY and IGNORE NULLS mean nothing in it";
        return plan_err!("{}", refusal(why));
    }
    let column = match params.args.as_slice() {
        [argument] => match unalias(argument) {
            Expr::Column(column) => column,
            _ => {
                return plan_err!(
                    "{}",
                    refusal("its argument is not one aggregate of the view")
                );
            }
        },
        _ => return plan_err!("{}", refusal("it takes one argument")),
    };
    let origin = trace(input, column)?;
    let keys = origin.leaf.key_count();
    let Some(split) = origin.leaf.pin().view.aggregate() else {
        let view = origin.leaf.pin().view.name();
        let why = format!("the view `{view}` has no aggregate, its rows are those of its topic");
        return plan_err!("{}", refusal(&why));
    };
    match origin.column.checked_sub(keys) {
        Some(column) if column < split.columns().len() => Ok(Origin { column, ..origin }),
        _ => plan_err!(
            "{}",
            refusal("its argument is a key of the view, not an aggregate")
        ),
    }
}

/// All aggregates of the query, where none of them minds that a key's states come in several rows,
/// as they are stored: those that merge states, also written as `sum` over a count, and those to
/// which a row that is there twice means nothing.
fn as_stored(
    aggregate: &Aggregate,
    merges: &[Option<Merge>],
    sources: &mut BTreeMap<Vec<usize>, Source>,
) -> Option<Vec<Option<Merge>>> {
    let [path] = sources.keys().collect::<Vec<_>>()[..] else {
        return None;
    };
    let path = path.clone();
    // An expression that is another at each row would choose among the parts of a key.
    let volatile = |exprs: &[Expr]| exprs.iter().any(Expr::is_volatile);
    if volatile(&aggregate.group_expr)
        || volatile(&aggregate.aggr_expr)
        || path::nodes(&aggregate.input, &path).any(|node| volatile(&node.expressions()))
    {
        return None;
    }
    let mut also = Vec::new();
    for (expr, merge) in aggregate.aggr_expr.iter().zip(merges) {
        let f = function(expr)?;
        let origin = match merge {
            Some(_) => None,
            None => same_as_merge(&aggregate.input, f).filter(|origin| origin.path == path),
        };
        if merge.is_none() && origin.is_none() && !is_idempotent(f) {
            return None;
        }
        also.push(origin);
    }
    let every = merges.iter().zip(also).map(|(merge, origin)| {
        let summed = origin.map(|origin| merge_of(origin, Gives::ValueOrNull, sources));
        merge.clone().or(summed)
    });
    Some(every.collect())
}

/// Whether an aggregate gives the same over rows of which some are there several times.
fn is_idempotent(f: &AggregateFunction) -> bool {
    match f.func.name() {
        "min" | "max" | "bool_and" | "bool_or" | "bit_and" | "bit_or" | "approx_distinct"
        | "grouping" => true,
        "count" | "sum" | "avg" => f.params.distinct,
        _ => false,
    }
}

/// The states of which an aggregate over a view's column is the merge, if it is.
fn same_as_merge(input: &LogicalPlan, f: &AggregateFunction) -> Option<Origin> {
    let [Expr::Column(column)] = f.params.args.as_slice() else {
        return None;
    };
    let origin = trace(input, column).ok()?;
    let split = origin.leaf.pin().view.aggregate()?;
    let column = origin.column.checked_sub(origin.leaf.key_count())?;
    let of_view = split.columns().get(column)?.aggregate();
    (!f.params.distinct && is_sum_of(f.func.name(), of_view)).then_some(Origin { column, ..origin })
}

/// Whether the aggregate of this name over finished values is the merge of their states.
fn is_sum_of(name: &str, of_view: &AggregateFunctionExpr) -> bool {
    let field = of_view.field();
    let kind = field.data_type();
    match (name, of_view.fun().name()) {
        _ if of_view.is_distinct() => false,
        ("sum", "count" | "sum") => matches!(kind, DataType::Int64 | DataType::Float64),
        ("min", "min") | ("max", "max") => !kind.is_floating(),
        _ => false,
    }
}

/// The aggregate that runs, under the name of the one that is written.
fn merge_expr(expr: &Expr, merge: &Merge, leaf: &MergedLeaf, parts: Vec<Expr>) -> Result<Expr> {
    let column = leaf.pin().view.aggregate();
    let Some(column) = column.and_then(|split| split.columns().get(merge.column)) else {
        return plan_err!("{}", refusal("the view has no such aggregate"));
    };
    let function_of_states = Arc::new(merge_states(column.aggregate(), merge.gives)?);
    let filter = function(expr).and_then(|f| f.params.filter.clone());
    let merged = AggregateFunction::new_udf(function_of_states, parts, false, filter, vec![], None);
    let (relation, name) = expr.qualified_name();
    Ok(Expr::AggregateFunction(merged).alias_qualified(relation, name))
}
