//! The way from an aggregation down to a view's leaf: where a column comes from, and the same way
//! with states passed on.

use datafusion::common::{Column, Result, plan_err};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    Expr, JoinType, LogicalPlan, Projection, TableScan, TableScanBuilder,
};

use super::{at_most_one, refusal, unalias};
use crate::leaf::{MergedLeaf, state_name};

/// A column of a leaf, and the way to it.
pub(super) struct Origin {
    /// Which input is taken at each node, from the aggregation's input down to the scan.
    pub(super) path: Vec<usize>,
    pub(super) leaf: MergedLeaf,
    pub(super) column: usize,
}

/// Finds the column of a view's leaf that a column of a plan is, unchanged, where each row of the
/// view is in the plan at most once.
///
/// # Errors
/// A plan error that says what lies between, and what to write.
pub(super) fn trace(plan: &LogicalPlan, column: &Column) -> Result<Origin> {
    let (mut node, mut column) = (plan, column.clone());
    let mut path = Vec::new();
    // What filters above say of the columns here.
    let mut conditions: Vec<Expr> = Vec::new();
    loop {
        let step = match node {
            LogicalPlan::TableScan(scan) => {
                let (leaf, column) = leaf_column(scan, &column)?;
                return Ok(Origin { path, leaf, column });
            }
            LogicalPlan::Projection(p) => {
                conditions.clear();
                column = match p.schema.maybe_index_of_column(&column) {
                    Some(at) => match unalias(&p.expr[at]) {
                        Expr::Column(c) => c.clone(),
                        _ => return plan_err!("{}", refusal(NOT_ONE_AGGREGATE)),
                    },
                    None => return plan_err!("{}", refusal(NO_COLUMN)),
                };
                0
            }
            LogicalPlan::SubqueryAlias(a) => {
                conditions.clear();
                let Some(at) = a.schema.maybe_index_of_column(&column) else {
                    return plan_err!("{}", refusal(NO_COLUMN));
                };
                column = Column::from(a.input.schema().qualified_field(at));
                0
            }
            LogicalPlan::Filter(f) => {
                conditions.extend(split_conjunction(&f.predicate).into_iter().cloned());
                0
            }
            LogicalPlan::Sort(s) if s.fetch.is_none() => 0,
            LogicalPlan::Join(j) => {
                let side = usize::from(j.left.schema().maybe_index_of_column(&column).is_none());
                at_most_one::check(j, side, &conditions)?;
                if j.join_type == JoinType::Inner {
                    let filters = j.filter.iter().flat_map(split_conjunction);
                    conditions.extend(filters.cloned());
                }
                side
            }
            LogicalPlan::Limit(_) | LogicalPlan::Sort(_) => {
                return plan_err!("{}", refusal("a LIMIT lies between it and the view"));
            }
            other => {
                let what = named(other);
                let why = format!("{what} lies between it and the view");
                return plan_err!("{}", refusal(&why));
            }
        };
        path.push(step);
        node = match node.inputs().get(step) {
            Some(input) => input,
            None => return plan_err!("{}", refusal(NO_COLUMN)),
        };
    }
}

const NO_COLUMN: &str = "its argument is not a column of a view";

const NOT_ONE_AGGREGATE: &str = "its argument is not one aggregate of the view";

/// What a step of a plan is called in SQL.
fn named(node: &LogicalPlan) -> String {
    match node {
        LogicalPlan::Aggregate(_) => "another aggregation".into(),
        LogicalPlan::Window(_) => "a window function".into(),
        LogicalPlan::Distinct(_) => "DISTINCT".into(),
        LogicalPlan::Union(_) => "a UNION".into(),
        LogicalPlan::Unnest(_) => "unnest".into(),
        other => {
            let shown = other.display().to_string();
            let name = shown.split([':', '(']).next().unwrap_or_default();
            format!("`{}`", name.trim())
        }
    }
}

fn leaf_column(scan: &TableScan, column: &Column) -> Result<(MergedLeaf, usize)> {
    let provider = source_as_provider(&scan.source)?;
    let any: &dyn std::any::Any = provider.as_ref();
    let leaf = any.downcast_ref::<MergedLeaf>();
    let found = leaf.and_then(|leaf| {
        let at = leaf.pin().view.leaf_schema().index_of(&column.name).ok()?;
        Some((leaf.clone(), at))
    });
    match found {
        Some(_) if scan.fetch.is_some() => {
            plan_err!("{}", refusal("a LIMIT lies between it and the view"))
        }
        Some(found) => Ok(found),
        None => plan_err!("{}", refusal(NO_COLUMN)),
    }
}

/// The nodes on a path, but for the scan.
pub(super) fn nodes<'a>(
    plan: &'a LogicalPlan,
    path: &[usize],
) -> impl Iterator<Item = &'a LogicalPlan> {
    let mut node = Some(plan);
    path.iter().map_while(move |&step| {
        let here = node?;
        node = here.inputs().get(step).copied();
        Some(here)
    })
}

/// The plan over a leaf that gives states too, with the states passed on to its top.
pub(super) fn with_states(
    plan: &LogicalPlan,
    path: &[usize],
    leaf: &MergedLeaf,
) -> Result<LogicalPlan> {
    let Some((&step, below)) = path.split_first() else {
        return scan_of(plan, leaf);
    };
    let mut inputs: Vec<LogicalPlan> = plan.inputs().into_iter().cloned().collect();
    let Some(input) = inputs.get_mut(step) else {
        return plan_err!("{}", refusal(NO_COLUMN));
    };
    *input = with_states(input, below, leaf)?;
    let mut exprs = plan.expressions();
    let LogicalPlan::Projection(_) = plan else {
        return plan.with_new_exprs(exprs, inputs);
    };
    let Some(input) = inputs.pop() else {
        return plan_err!("{}", refusal(NO_COLUMN));
    };
    for name in leaf.state_names() {
        exprs.push(column_named(&input, name)?);
    }
    Ok(LogicalPlan::Projection(Projection::try_new(
        exprs,
        input.into(),
    )?))
}

fn scan_of(plan: &LogicalPlan, leaf: &MergedLeaf) -> Result<LogicalPlan> {
    let LogicalPlan::TableScan(scan) = plan else {
        return plan_err!("{}", refusal(NO_COLUMN));
    };
    let before = scan.source.schema().fields().len();
    let states = before..before + leaf.state_names().count();
    let projection = match &scan.projection {
        Some(projection) => projection.iter().copied().chain(states).collect(),
        None => (0..states.end).collect(),
    };
    let source = provider_as_source(std::sync::Arc::new(leaf.clone()));
    let scan = TableScanBuilder::new(scan.table_name.clone(), source)
        .with_projection(Some(projection))
        .with_filters(scan.filters.clone())
        .build()?;
    Ok(LogicalPlan::TableScan(scan))
}

/// The parts of the state of a view's column, where they have been passed on.
pub(super) fn state_columns(plan: &LogicalPlan, source: usize, column: usize) -> Result<Vec<Expr>> {
    let parts = (0..).map(|part| column_named(plan, &state_name(source, column, part)).ok());
    let parts: Vec<Expr> = parts.map_while(|part| part).collect();
    match parts.is_empty() {
        true => plan_err!(
            "{}",
            refusal("the states of its argument did not come through")
        ),
        false => Ok(parts),
    }
}

fn column_named(plan: &LogicalPlan, name: &str) -> Result<Expr> {
    match plan.schema().iter().find(|(_, f)| f.name() == name) {
        Some((qualifier, field)) => Ok(Expr::Column(Column::from((qualifier, field)))),
        None => plan_err!("combine: state `{name}` did not come through"),
    }
}
