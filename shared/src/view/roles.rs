//! What each column of a view's answer is, for who looks at the view: a key, an aggregate with what
//! its value can be trusted for, or something computed of them.

use datafusion::logical_expr::LogicalPlan;

use super::inexact::is_digest;
use super::order::is_ordered;
use super::{View, traced};

/// What a column of an answer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A key of the aggregation.
    Key,
    /// One aggregate.
    Aggregate {
        /// The function, such as `count` or `count(distinct)`.
        function: String,
        /// What its value can be trusted for.
        exactness: Exactness,
        /// Whether `combine` takes the column.
        combines: bool,
    },
    /// An expression over keys and aggregates, or a column of a view whose rows are facts.
    Computed,
}

/// What the value of an aggregate can be trusted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exactness {
    /// It is the value. (Sums of floating point are, but for their last digits.)
    Exact,
    /// It is within the error of its sketch.
    Approximate,
    /// It is the value for the order that the view asks for, and then that of the log.
    ByOrder,
}

impl Exactness {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Approximate => "approximate",
            Self::ByOrder => "by order",
        }
    }

    fn of(function: &str, is_distinct: bool) -> Self {
        match function {
            "approx_distinct" => Self::Approximate,
            name if is_digest(name) => Self::Approximate,
            name if is_ordered(name) && !is_distinct => Self::ByOrder,
            _ => Self::Exact,
        }
    }
}

impl View {
    /// What the columns of the view's answer are, in their order.
    pub fn roles(&self) -> Vec<Role> {
        let upper = &self.planned.upper;
        let columns = 0..upper.schema().fields().len();
        let Some(split) = self.aggregate() else {
            return columns.map(|_| Role::Computed).collect();
        };
        let is_cut = is_cut(upper);
        let role = |at| {
            let name = traced(upper, at)?;
            let at = self.leaf_schema().index_of(name).ok()?;
            let Some(at) = at.checked_sub(self.key_count()) else {
                return Some(Role::Key);
            };
            let aggregate = split.columns().get(at)?.aggregate();
            let (name, is_distinct) = (aggregate.fun().name(), aggregate.is_distinct());
            Some(Role::Aggregate {
                function: match is_distinct {
                    true => format!("{name}(distinct)"),
                    false => name.to_owned(),
                },
                exactness: Exactness::of(name, is_distinct),
                combines: !is_cut,
            })
        };
        columns
            .map(|at| role(at).unwrap_or(Role::Computed))
            .collect()
    }
}

/// Whether the first rows of something are taken between a plan's top and its leaf.
fn is_cut(plan: &LogicalPlan) -> bool {
    let cuts = match plan {
        LogicalPlan::Limit(_) => true,
        LogicalPlan::Sort(sort) => sort.fetch.is_some(),
        _ => false,
    };
    cuts || plan.inputs().into_iter().any(is_cut)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::view::tests::topic;

    fn told(sql: &str) -> Vec<String> {
        let view = View::compile("v", sql, &topic(&[])).unwrap();
        let told = |role: Role| match role {
            Role::Key => "key".to_owned(),
            Role::Computed => "computed".to_owned(),
            Role::Aggregate {
                function,
                exactness,
                combines,
            } => {
                let combines = if combines { ", combines" } else { "" };
                format!("{function}, {}{combines}", exactness.text())
            }
        };
        view.roles().into_iter().map(told).collect()
    }

    #[test]
    fn each_column_has_its_role() {
        let all = "SELECT s, count(*) AS c, approx_distinct(n) AS a, approx_percentile_cont(f, 0.9) AS p, \
                   count(DISTINCT n) AS u, array_agg(n ORDER BY ts) AS l, first_value(n ORDER BY ts) AS f1, \
                   max(f) AS m, sum(n) / count(*) AS mean FROM facts GROUP BY s";
        assert_eq!(
            told(all),
            [
                "key",
                "count, exact, combines",
                "approx_distinct, approximate, combines",
                "approx_percentile_cont, approximate, combines",
                "count(distinct), exact, combines",
                "array_agg, by order, combines",
                "first_value, by order, combines",
                "max, exact, combines",
                "computed",
            ]
        );
        // Below a LIMIT there may be states that the answer has not.
        assert_eq!(
            told("SELECT s, count(*) AS c FROM facts GROUP BY s ORDER BY c DESC LIMIT 3"),
            ["key", "count, exact"]
        );
        assert_eq!(
            told("SELECT count(*) AS c FROM facts"),
            ["count, exact, combines"]
        );
        assert_eq!(told("SELECT s, n FROM facts"), ["computed", "computed"]);
    }
}
