//! Joins through which states may go: a row of the view meets at most one row of the other side, so
//! that no state counts twice. Known where what the join asks to be equal holds a whole key of the
//! other side: what it is grouped by, its DISTINCT ON, the keys of a view, a table's own key.

use std::collections::BTreeSet;

use arrow::datatypes::DataType;
use datafusion::common::{Column, DFSchema, Dependency, Result, plan_err};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    BinaryExpr, Distinct, DistinctOn, Expr, ExprSchemable, FetchType, Join, JoinType, LogicalPlan,
    Operator, Projection, TableScan, Window,
};

use super::unalias;
use crate::leaf::MergedLeaf;

/// Checks that a row of one side of a join, 0 for the left one, is in its result at most once.
/// `conditions` hold above the join.
pub(super) fn check(join: &Join, side: usize, conditions: &[Expr]) -> Result<()> {
    use JoinType::{
        Full, Inner, Left, LeftAnti, LeftMark, LeftSemi, Right, RightAnti, RightMark, RightSemi,
    };
    match join.join_type {
        LeftSemi | LeftAnti | LeftMark | RightSemi | RightAnti | RightMark => return Ok(()),
        Inner | Left | Right | Full => {}
    }
    let (own, other) = match side {
        0 => (&join.left, &join.right),
        _ => (&join.right, &join.left),
    };
    let equal = equal_in(join, conditions);
    let fixed = fixed(&equal, Some(own.schema()), other.schema());
    if at_most_one(other, &fixed) {
        return Ok(());
    }
    let fields = other.schema().iter().enumerate();
    let names = fields.filter(|(i, _)| fixed.contains(i));
    let names: Vec<&str> = names.map(|(_, (_, f))| f.name().as_str()).collect();
    let what = match relation_of(other) {
        Some(name) => format!("`{name}`"),
        None => "the other side".to_owned(),
    };
    let (of, on) = match names.is_empty() {
        true => (String::new(), "key".to_owned()),
        false => (format!(" of one {}", names.join(", ")), names.join(", ")),
    };
    plan_err!(
        "combine: a row of the view may meet several rows of {what} in the join, and would count once for each; join a relation that surely has one row{of}, for example `(SELECT DISTINCT ON ({on}) … FROM … ORDER BY {on}, …)`, a sub-query that is grouped by {on}, or a view with that key"
    )
}

fn relation_of(plan: &LogicalPlan) -> Option<String> {
    match plan {
        LogicalPlan::SubqueryAlias(a) => Some(a.alias.table().to_owned()),
        LogicalPlan::TableScan(scan) => Some(scan.table_name.table().to_owned()),
        _ => None,
    }
}

/// Pairs of expressions that are equal in a join's result, wherever a row of either side met one of
/// the other.
fn equal_in(join: &Join, conditions: &[Expr]) -> Vec<(Expr, Expr)> {
    let filters = join.filter.iter().flat_map(split_conjunction);
    let mut equal = equalities(filters.chain(conditions));
    equal.extend(join.on.iter().cloned());
    equal
}

fn equalities<'a>(conditions: impl Iterator<Item = &'a Expr>) -> Vec<(Expr, Expr)> {
    let equal = conditions.filter_map(|condition| match condition {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Eq,
            right,
        }) => Some((left.as_ref().clone(), right.as_ref().clone())),
        _ => None,
    });
    equal.collect()
}

/// The columns of `schema` of which a row can have one value alone: that of an expression over
/// `others`, or a constant.
fn fixed(equal: &[(Expr, Expr)], others: Option<&DFSchema>, schema: &DFSchema) -> BTreeSet<usize> {
    let empty = DFSchema::empty();
    let others = others.unwrap_or(&empty);
    let both = equal.iter().flat_map(|(a, b)| [(a, b), (b, a)]);
    let fixed = both.filter_map(|(a, b)| {
        let at = index(schema, a)?;
        let known = |c: &&Column| others.maybe_index_of_column(c).is_some();
        let alone = b.column_refs().iter().all(known) && !b.is_volatile() && !asks(b);
        let alike = alone && alike(schema.field(at).data_type(), &b.get_type(others).ok()?);
        alike.then_some(at)
    });
    fixed.collect()
}

fn index(schema: &DFSchema, expr: &Expr) -> Option<usize> {
    match unalias(expr) {
        Expr::Column(column) => schema.maybe_index_of_column(column),
        _ => None,
    }
}

/// Whether an expression has a sub-query, or a column of a query around it.
fn asks(expr: &Expr) -> bool {
    let found = datafusion::common::tree_node::TreeNode::exists(expr, |e| {
        Ok(matches!(
            e,
            Expr::ScalarSubquery(_)
                | Expr::InSubquery(_)
                | Expr::Exists(_)
                | Expr::SetComparison(_)
                | Expr::OuterReferenceColumn(_, _)
        ))
    });
    found.unwrap_or(true)
}

/// Whether two types are compared without a cast that makes different values equal.
fn alike(a: &DataType, b: &DataType) -> bool {
    let text =
        |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let instant = |t: &DataType| matches!(t, DataType::Timestamp(_, _));
    a == b
        || (text(a) && text(b))
        || (a.is_integer() && b.is_integer())
        || (instant(a) && instant(b))
}

/// Whether a plan has at most one row for each value of these columns.
fn at_most_one(plan: &LogicalPlan, fixed: &BTreeSet<usize>) -> bool {
    match plan {
        LogicalPlan::SubqueryAlias(a) => at_most_one(&a.input, fixed),
        LogicalPlan::Sort(s) => s.fetch == Some(1) || at_most_one(&s.input, fixed),
        LogicalPlan::Limit(l) => {
            matches!(l.get_fetch_type(), Ok(FetchType::Literal(Some(0 | 1))))
                || at_most_one(&l.input, fixed)
        }
        LogicalPlan::Filter(f) => {
            let equal = equalities(split_conjunction(&f.predicate).into_iter());
            let constant = self::fixed(&equal, None, f.input.schema());
            at_most_one(&f.input, &(fixed | &constant))
        }
        LogicalPlan::Projection(p) => at_most_one(&p.input, &below(p, fixed)),
        LogicalPlan::Aggregate(a) => {
            let sets = matches!(a.group_expr.as_slice(), [Expr::GroupingSet(_)]);
            !sets && (0..a.group_expr.len()).all(|key| fixed.contains(&key))
        }
        LogicalPlan::Distinct(Distinct::All(input)) => {
            fixed.len() == input.schema().fields().len() || at_most_one(input, fixed)
        }
        LogicalPlan::Distinct(Distinct::On(on)) => is_distinct_on(on, fixed),
        LogicalPlan::Window(w) => {
            is_numbered(w, fixed) || at_most_one(&w.input, &of_input(w, fixed))
        }
        LogicalPlan::Join(j) => is_join_of_one(j, fixed),
        LogicalPlan::TableScan(scan) => has_key(scan, fixed),
        LogicalPlan::EmptyRelation(_) => true,
        _ => false,
    }
}

/// The columns below a projection that these ones are.
fn below(projection: &Projection, fixed: &BTreeSet<usize>) -> BTreeSet<usize> {
    let exprs = fixed.iter().filter_map(|&at| projection.expr.get(at));
    let below = exprs.filter_map(|expr| index(projection.input.schema(), expr));
    below.collect()
}

fn is_distinct_on(on: &DistinctOn, fixed: &BTreeSet<usize>) -> bool {
    let selected = |key: &Expr| {
        let mut given = on.select_expr.iter().enumerate();
        given.any(|(at, expr)| fixed.contains(&at) && unalias(expr) == unalias(key))
    };
    on.on_expr.iter().all(selected)
}

/// A window's columns come after those of its input.
fn of_input(window: &Window, fixed: &BTreeSet<usize>) -> BTreeSet<usize> {
    let columns = window.input.schema().fields().len();
    fixed.iter().copied().filter(|at| *at < columns).collect()
}

/// Whether one number is asked for of rows that are numbered within a key.
fn is_numbered(window: &Window, fixed: &BTreeSet<usize>) -> bool {
    let columns = window.input.schema().fields().len();
    window.window_expr.iter().enumerate().any(|(i, expr)| {
        let Expr::WindowFunction(f) = unalias(expr) else {
            return false;
        };
        let within = f
            .params
            .partition_by
            .iter()
            .all(|key| index(window.input.schema(), key).is_some_and(|at| fixed.contains(&at)));
        f.fun.name() == "row_number" && within && fixed.contains(&(columns + i))
    })
}

/// Whether each side has at most one row, the second one for the row that the first one has.
fn is_join_of_one(join: &Join, fixed: &BTreeSet<usize>) -> bool {
    let (left, right) = (&join.left, &join.right);
    let columns = left.schema().fields().len();
    let of_left: BTreeSet<usize> = fixed.iter().copied().filter(|at| *at < columns).collect();
    let of_right = fixed.iter().filter_map(|at| at.checked_sub(columns));
    let of_right: BTreeSet<usize> = of_right.collect();
    let equal = equal_in(join, &[]);
    let left_first = || {
        let met = self::fixed(&equal, Some(left.schema()), right.schema());
        at_most_one(left, &of_left) && at_most_one(right, &(&of_right | &met))
    };
    let right_first = || {
        let met = self::fixed(&equal, Some(right.schema()), left.schema());
        at_most_one(right, &of_right) && at_most_one(left, &(&of_left | &met))
    };
    // Of the side that an outer join keeps whole, rows that meet none are there too.
    match join.join_type {
        JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => at_most_one(left, &of_left),
        JoinType::RightSemi | JoinType::RightAnti => at_most_one(right, fixed),
        JoinType::Inner => left_first() || right_first(),
        JoinType::Left => left_first(),
        JoinType::Right => right_first(),
        JoinType::Full | JoinType::RightMark => false,
    }
}

/// Whether a table's own key is among the columns.
fn has_key(scan: &TableScan, fixed: &BTreeSet<usize>) -> bool {
    let mut keys = scan.projected_schema.functional_dependencies().iter();
    let whole = scan.projected_schema.fields().len();
    let known = keys.any(|key| {
        key.mode == Dependency::Single
            && key.target_indices.len() == whole
            && key.source_indices.iter().all(|at| fixed.contains(at))
    });
    known || is_view_by_key(scan, fixed).unwrap_or(false)
}

fn is_view_by_key(scan: &TableScan, fixed: &BTreeSet<usize>) -> Option<bool> {
    let provider = source_as_provider(&scan.source).ok()?;
    let any: &dyn std::any::Any = provider.as_ref();
    let leaf = any.downcast_ref::<MergedLeaf>()?;
    leaf.pin().view.aggregate()?;
    let names = fixed
        .iter()
        .map(|&at| scan.projected_schema.field(at).name());
    let names: BTreeSet<&String> = names.collect();
    let schema = leaf.pin().view.leaf_schema();
    let mut keys = schema.fields().iter().take(leaf.key_count());
    Some(keys.all(|key| names.contains(key.name())))
}
