//! Refuses time zones that nobody knows, wherever a plan names one: the engine finds them out only
//! at the first fact, or takes them for UTC.

use arrow::array::timezone::Tz;
use arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Cast, Expr, LogicalPlan, TryCast};

use crate::{Error, Result};

/// Checks every type that a plan casts to.
pub(super) fn check(view: &str, plan: &LogicalPlan) -> Result<()> {
    let mut unknown = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                let (Expr::Cast(Cast { field, .. }) | Expr::TryCast(TryCast { field, .. })) = expr
                else {
                    return Ok(TreeNodeRecursion::Continue);
                };
                if let DataType::Timestamp(_, Some(zone)) = field.data_type()
                    && zone.parse::<Tz>().is_err()
                {
                    unknown = Some(zone.to_string());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    match unknown {
        None => Ok(()),
        Some(zone) => Err(Error::view(
            view,
            format!(
                "no time zone `{zone}`; write a name of the IANA database such as `Europe/Berlin`, or an offset such as `+01:00`"
            ),
        )),
    }
}
