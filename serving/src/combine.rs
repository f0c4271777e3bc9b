//! `combine(column)`: the merge of the states behind a view's column, at another grain. Written as
//! an aggregate; this rule replaces it by an aggregate over the states themselves.
//!
//! Where only key filters lie between the aggregation and the leaf, states are taken from both
//! layers without merging them by key first. Over other filters the survivors' merged states are.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result, plan_err};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{
    Accumulator, Aggregate, AggregateUDF, AggregateUDFImpl, Expr, Filter, LogicalPlan, Projection,
    Signature, SubqueryAlias, TableScan, TableScanBuilder, Volatility,
};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use self::merge_states::{OfNoRows, merge_states};
use crate::leaf::{Gives, MergedLeaf, state_name};

mod merge_states;

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
        "combine: {why}; it takes a column that is one aggregate of a view, straight from the view or through filters, as in `SELECT section, combine(visitors) FROM v GROUP BY section`"
    )
}

/// Replaces `combine` in optimized plans.
#[derive(Debug)]
pub(crate) struct CombineRule;

impl OptimizerRule for CombineRule {
    fn name(&self) -> &'static str {
        "combine"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        match plan {
            LogicalPlan::Aggregate(a) if a.aggr_expr.iter().any(is_combine) => {
                Ok(Transformed::yes(rewrite(&a)?))
            }
            plan => Ok(Transformed::no(plan)),
        }
    }
}

fn function(expr: &Expr) -> Option<&AggregateFunction> {
    match expr {
        Expr::Alias(alias) => function(&alias.expr),
        Expr::AggregateFunction(f) => Some(f),
        _ => None,
    }
}

fn is_combine(expr: &Expr) -> bool {
    function(expr).is_some_and(|f| f.func.name() == COMBINE)
}

/// What lies between an aggregation and the leaf.
struct Path<'a> {
    /// From the aggregation down.
    nodes: Vec<&'a LogicalPlan>,
    scan: &'a TableScan,
    leaf: MergedLeaf,
}

fn path(aggregate: &Aggregate) -> Result<Path<'_>> {
    let mut nodes = Vec::new();
    let mut node = aggregate.input.as_ref();
    loop {
        node = match node {
            LogicalPlan::Projection(p) => {
                nodes.push(node);
                &p.input
            }
            LogicalPlan::Filter(f) => {
                nodes.push(node);
                &f.input
            }
            LogicalPlan::SubqueryAlias(a) => {
                nodes.push(node);
                &a.input
            }
            LogicalPlan::TableScan(scan) => {
                let provider = source_as_provider(&scan.source)?;
                let any: &dyn std::any::Any = provider.as_ref();
                return match any.downcast_ref::<MergedLeaf>() {
                    Some(leaf) if scan.fetch.is_none() => Ok(Path {
                        nodes,
                        scan,
                        leaf: leaf.clone(),
                    }),
                    Some(_) => plan_err!("{}", refusal("a LIMIT lies between it and the view")),
                    None => plan_err!("{}", refusal("its argument is not a column of a view")),
                };
            }
            other => {
                let what = other.display().to_string();
                let what = what
                    .split([':', '('])
                    .next()
                    .unwrap_or_default()
                    .trim()
                    .to_owned();
                return plan_err!(
                    "{}",
                    refusal(&format!("`{what}` lies between it and the view"))
                );
            }
        };
    }
}

impl Path<'_> {
    /// The column of the leaf that a column above the path is, if it is one unchanged.
    fn trace(&self, column: &Column) -> Option<usize> {
        let mut column = column.clone();
        for node in &self.nodes {
            match node {
                LogicalPlan::Projection(p) => {
                    let at = p.schema.maybe_index_of_column(&column)?;
                    column = match unalias(&p.expr[at]) {
                        Expr::Column(c) => c.clone(),
                        _ => return None,
                    };
                }
                LogicalPlan::SubqueryAlias(a) => {
                    let at = a.schema.maybe_index_of_column(&column)?;
                    column = Column::from(a.input.schema().qualified_field(at));
                }
                _ => {}
            }
        }
        self.leaf
            .pin()
            .view
            .leaf_schema()
            .index_of(&column.name)
            .ok()
    }

    fn has_filter(&self) -> bool {
        self.nodes
            .iter()
            .any(|n| matches!(n, LogicalPlan::Filter(_)))
    }
}

fn unalias(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unalias(&alias.expr),
        expr => expr,
    }
}

/// How one aggregate of the query is answered.
enum Plan {
    /// By merging the states of a column of the view's aggregation.
    Merge(usize),
    /// As it is written.
    AsIs,
}

fn rewrite(aggregate: &Aggregate) -> Result<LogicalPlan> {
    let path = path(aggregate)?;
    let plans = aggregate
        .aggr_expr
        .iter()
        .map(|e| plan_one(&path, e))
        .collect::<Result<Vec<_>>>()?;
    let columns: BTreeSet<usize> = plans
        .iter()
        .filter_map(|p| match p {
            Plan::Merge(column) => Some(*column),
            Plan::AsIs => None,
        })
        .collect();
    let columns: Vec<usize> = columns.into_iter().collect();
    let keys = path.leaf.key_count();
    let on_keys = |e: &Expr| {
        e.column_refs()
            .iter()
            .all(|c| path.trace(c).is_some_and(|leaf| leaf < keys))
    };
    // Rows that are not merged by key are as good only where nothing looks at them one by one.
    let straight = !path.has_filter()
        && plans.iter().all(|p| matches!(p, Plan::Merge(_)))
        && aggregate.group_expr.iter().all(on_keys);
    let gives = match straight {
        true => Gives::States(columns.clone()),
        false => Gives::FinishedAndStates(columns.clone()),
    };
    let input = rebuild(&path, gives, &columns)?;
    let aggr_expr = aggregate
        .aggr_expr
        .iter()
        .zip(&plans)
        .enumerate()
        .map(|(i, (expr, plan))| match plan {
            Plan::AsIs => Ok(expr.clone()),
            Plan::Merge(column) => {
                let output = aggregate.schema.field(aggregate.group_expr.len() + i);
                merge_expr(&path, expr, *column, &input, output.name())
            }
        })
        .collect::<Result<Vec<_>>>()?;
    let rewritten = Aggregate::try_new(Arc::new(input), aggregate.group_expr.clone(), aggr_expr)?;
    Ok(LogicalPlan::Aggregate(rewritten))
}

fn plan_one(path: &Path<'_>, expr: &Expr) -> Result<Plan> {
    let Some(f) = function(expr) else {
        return Ok(Plan::AsIs);
    };
    let combines = f.func.name() == COMBINE;
    let traced = match f.params.args.as_slice() {
        [argument] => match unalias(argument) {
            Expr::Column(c) => path.trace(c),
            _ => None,
        },
        _ => None,
    };
    let split = path.leaf.pin().view.aggregate();
    let column = traced.and_then(|t| t.checked_sub(path.leaf.key_count()));
    match (column, split) {
        (Some(column), Some(split)) if column < split.columns().len() => {
            if combines {
                if f.params.distinct || !f.params.order_by.is_empty() {
                    return plan_err!("{}", refusal("DISTINCT and ORDER BY mean nothing in it"));
                }
                return Ok(Plan::Merge(column));
            }
            Ok(
                match same_as_merge(f, split.columns()[column].aggregate()) {
                    true => Plan::Merge(column),
                    false => Plan::AsIs,
                },
            )
        }
        _ if combines && traced.is_some() => {
            plan_err!(
                "{}",
                refusal("its argument is a key of the view, not an aggregate")
            )
        }
        _ if combines => plan_err!(
            "{}",
            refusal("its argument is not one aggregate of the view")
        ),
        _ => Ok(Plan::AsIs),
    }
}

/// Whether an aggregate over a view's column is the merge of that column's states.
fn same_as_merge(f: &AggregateFunction, column: &AggregateFunctionExpr) -> bool {
    if f.params.distinct || f.params.filter.is_some() || column.is_distinct() {
        return false;
    }
    let kind = column.field().data_type().clone();
    match (f.func.name(), column.fun().name()) {
        ("sum", "count" | "sum") => matches!(kind, DataType::Int64 | DataType::Float64),
        ("min", "min") | ("max", "max") => !kind.is_floating(),
        _ => false,
    }
}

fn merge_expr(
    path: &Path<'_>,
    expr: &Expr,
    column: usize,
    input: &LogicalPlan,
    name: &str,
) -> Result<Expr> {
    let split = path.leaf.pin().view.aggregate();
    let Some(split) = split else {
        return plan_err!("{}", refusal("the view has no aggregate"));
    };
    let inner = split.columns()[column].aggregate().clone();
    let parts = split.columns()[column].state_fields().len();
    let args = (0..parts)
        .map(|part| state_column(input, column, part))
        .collect::<Result<Vec<_>>>()?;
    // `sum` over no rows is NULL, also where what is summed counts.
    let none = match function(expr).is_some_and(|f| f.func.name() == COMBINE) {
        true => OfNoRows::StateOfNoFacts,
        false => OfNoRows::Null,
    };
    let udaf = merge_states(inner, parts, none);
    let filter = function(expr).and_then(|f| f.params.filter.clone());
    let merged = AggregateFunction::new_udf(Arc::new(udaf), args, false, filter, vec![], None);
    Ok(Expr::AggregateFunction(merged).alias(name))
}

fn state_column(plan: &LogicalPlan, column: usize, part: usize) -> Result<Expr> {
    let name = state_name(column, part);
    let found = plan.schema().iter().find(|(_, f)| *f.name() == name);
    match found {
        Some((qualifier, field)) => Ok(Expr::Column(Column::from((qualifier, field)))),
        None => plan_err!("combine: state `{name}` did not come through"),
    }
}

/// The path again, over a leaf that gives states, with the states passed through.
fn rebuild(path: &Path<'_>, gives: Gives, columns: &[usize]) -> Result<LogicalPlan> {
    let before = path.leaf.pin().view.leaf_schema().fields().len();
    let leaf = path.leaf.with_states(gives);
    let after = datafusion::catalog::TableProvider::schema(&leaf)
        .fields()
        .len();
    let mut projection: Vec<usize> = match &path.scan.projection {
        Some(p) => p.clone(),
        None => (0..before).collect(),
    };
    projection.extend(before..after);
    let source = provider_as_source(Arc::new(leaf));
    let scan = TableScanBuilder::new(path.scan.table_name.clone(), source)
        .with_projection(Some(projection))
        .with_filters(path.scan.filters.clone())
        .build()?;
    let mut plan = LogicalPlan::TableScan(scan);
    let states: Vec<(usize, usize)> = match path.leaf.pin().view.aggregate() {
        Some(split) => columns
            .iter()
            .flat_map(|&c| (0..split.columns()[c].state_fields().len()).map(move |p| (c, p)))
            .collect(),
        None => Vec::new(),
    };
    for node in path.nodes.iter().rev() {
        plan = match node {
            LogicalPlan::Projection(p) => {
                let mut exprs = p.expr.clone();
                for &(column, part) in &states {
                    exprs.push(state_column(&plan, column, part)?);
                }
                LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?)
            }
            LogicalPlan::Filter(f) => {
                LogicalPlan::Filter(Filter::try_new(f.predicate.clone(), Arc::new(plan))?)
            }
            LogicalPlan::SubqueryAlias(a) => {
                LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(plan), a.alias.clone())?)
            }
            other => (*other).clone(),
        };
    }
    Ok(plan)
}

/// Refuses a `combine` that is left where no rule could replace it.
pub(crate) fn check_none_left(plan: &LogicalPlan) -> Result<()> {
    plan.apply(|node| {
        let left = node.expressions().iter().any(|e| {
            e.exists(|e| Ok(matches!(e, Expr::AggregateFunction(f) if f.func.name() == COMBINE)))
                .unwrap_or(false)
        });
        match left {
            true => plan_err!("{}", refusal("it stands where it can't be answered")),
            false => Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue),
        }
    })?;
    Ok(())
}
