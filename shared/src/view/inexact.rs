//! Which columns of a view's answer depend on the order in which states were merged, within the
//! error of their sketch: those that are made of a t-digest. A recompute can't tell whether they are
//! right.

use datafusion::logical_expr::{Expr, LogicalPlan};

use super::{View, plan};
use crate::Result;

/// Aggregates that keep a t-digest.
const DIGESTS: [&str; 3] = [
    "approx_median",
    "approx_percentile_cont",
    "approx_percentile_cont_with_weight",
];

/// What of an answer is inexact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inexact {
    /// For each column whether its values are.
    pub columns: Vec<bool>,
    /// Whether the choice of rows is, so that nothing can be compared.
    pub rows: bool,
}

impl Inexact {
    fn reads(&self, expr: &Expr, input: &LogicalPlan) -> bool {
        let columns = expr.column_refs();
        let mut places = columns
            .iter()
            .map(|c| input.schema().maybe_index_of_column(c));
        // In doubt it is inexact.
        places.any(|at| at.is_none_or(|at| self.columns.get(at).copied().unwrap_or(true)))
    }

    fn any(&self) -> bool {
        self.columns.contains(&true)
    }
}

/// Whether a function keeps a t-digest.
pub(super) fn is_digest(function: &str) -> bool {
    DIGESTS.contains(&function)
}

impl View {
    /// What of the view's answer depends on the order in which its states were merged.
    pub fn inexact(&self) -> Result<Inexact> {
        let leaf: Vec<bool> = match self.aggregate() {
            None => vec![false; self.leaf_schema().fields().len()],
            Some(split) => {
                let keys = self.key_count();
                let columns = split.columns().iter();
                let columns = columns.map(|c| is_digest(c.aggregate().fun().name()));
                std::iter::repeat_n(false, keys).chain(columns).collect()
            }
        };
        Ok(above(&self.planned.upper, &leaf, false))
    }
}

/// What of a step's rows is inexact; `cut` says whether something above takes the first of them.
fn above(node: &LogicalPlan, leaf: &[bool], cut: bool) -> Inexact {
    let inputs = node.inputs();
    let [input] = inputs[..] else {
        let is_leaf =
            matches!(node, LogicalPlan::TableScan(s) if s.table_name.table() == plan::LEAF);
        let columns = match is_leaf {
            true => leaf.to_vec(),
            false => vec![true; node.schema().fields().len()],
        };
        return Inexact {
            columns,
            rows: false,
        };
    };
    let cuts = match node {
        LogicalPlan::Limit(_) => true,
        LogicalPlan::Sort(sort) => sort.fetch.is_some() || cut,
        LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) => false,
        _ => cut,
    };
    let mut below = above(input, leaf, cuts);
    let reads = |below: &Inexact, expr: &Expr| below.reads(expr, input);
    match node {
        LogicalPlan::Projection(p) => {
            let columns = p.expr.iter().map(|e| reads(&below, e)).collect();
            Inexact { columns, ..below }
        }
        LogicalPlan::SubqueryAlias(_) | LogicalPlan::Limit(_) => below,
        LogicalPlan::Filter(f) => {
            below.rows |= reads(&below, &f.predicate);
            below
        }
        LogicalPlan::Sort(s) => {
            below.rows |= cuts && s.expr.iter().any(|by| reads(&below, &by.expr));
            below
        }
        LogicalPlan::Window(w) => {
            let more: Vec<bool> = w.window_expr.iter().map(|e| reads(&below, e)).collect();
            below.columns.extend(more);
            below
        }
        LogicalPlan::Aggregate(a) => {
            let keys = node.schema().fields().len() - a.aggr_expr.len();
            let rows = below.rows || a.group_expr.iter().any(|e| reads(&below, e));
            let columns = a.aggr_expr.iter().map(|e| reads(&below, e));
            Inexact {
                columns: std::iter::repeat_n(false, keys).chain(columns).collect(),
                rows,
            }
        }
        other => Inexact {
            columns: vec![below.any(); other.schema().fields().len()],
            rows: below.rows || below.any(),
        },
    }
}
