//! Origins of `date_bin` brought near 1970, where they give the same bins for every time that a fact
//! may have. The engine counts from an origin in 64 bits of nanoseconds, and gives NULL for a time
//! more than 292 years from it.

use arrow::datatypes::{IntervalDayTimeType, IntervalMonthDayNanoType};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan};

const NANOS_OF_DAY: i64 = 86_400_000_000_000;

/// The plan with such origins.
pub(super) fn bring_near(plan: LogicalPlan) -> Result<LogicalPlan> {
    let near = plan.transform_up(|node| {
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let near = expr.transform_up(|e| Ok(near(e)))?;
            Ok(near.update_data(|e| name.restore(e)))
        })
    })?;
    Ok(near.data)
}

/// An expression whose origin is the nearest to 1970 that gives the same bins.
fn near(expr: Expr) -> Transformed<Expr> {
    let Expr::ScalarFunction(mut function) = expr else {
        return Transformed::no(expr);
    };
    if let ("date_bin", [Expr::Literal(stride, _), _, Expr::Literal(origin, _)]) =
        (function.func.name(), function.args.as_mut_slice())
        && let Some(stride) = nanos(stride)
        && let ScalarValue::TimestampNanosecond(Some(at), _) = origin
    {
        let after = at.rem_euclid(stride);
        let nearest = if after > stride / 2 {
            after - stride
        } else {
            after
        };
        if nearest != *at {
            *at = nearest;
            return Transformed::yes(Expr::ScalarFunction(function));
        }
    }
    Transformed::no(Expr::ScalarFunction(function))
}

/// The length of an interval that has one: months have none, and count from any origin.
fn nanos(interval: &ScalarValue) -> Option<i64> {
    let (days, rest) = match interval {
        ScalarValue::IntervalMonthDayNano(Some(v)) => {
            let (months, days, nanos) = IntervalMonthDayNanoType::to_parts(*v);
            (months == 0).then_some((days, nanos))?
        }
        ScalarValue::IntervalDayTime(Some(v)) => {
            let (days, ms) = IntervalDayTimeType::to_parts(*v);
            (days, i64::from(ms) * 1_000_000)
        }
        _ => return None,
    };
    let nanos = i64::from(days)
        .checked_mul(NANOS_OF_DAY)?
        .checked_add(rest)?;
    (nanos > 0).then_some(nanos)
}
