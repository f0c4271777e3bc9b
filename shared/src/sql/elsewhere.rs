//! What is written here where other systems have a function of another name.

/// Names of functions elsewhere, in lower case, and what stands for them here.
const ELSEWHERE: [(&str, &str); 38] = [
    ("any", "first_value(x)"),
    ("any_value", "first_value(x)"),
    ("approx_count_distinct", "approx_distinct(x)"),
    ("approx_quantile", "approx_percentile_cont(n, 0.5)"),
    ("arg_max", "max_by(x, n)"),
    ("arg_min", "min_by(x, n)"),
    ("argmax", "max_by(x, n)"),
    ("argmin", "min_by(x, n)"),
    ("count_distinct", "count(DISTINCT x)"),
    ("countif", "count_if(n > 0)"),
    ("date_add", "ts + INTERVAL '1 day'"),
    ("date_sub", "ts - INTERVAL '1 day'"),
    ("dateadd", "ts + INTERVAL '1 day'"),
    ("datediff", "ts - TIMESTAMP '2026-01-01'"),
    ("date_diff", "ts - TIMESTAMP '2026-01-01'"),
    ("day", "date_part('day', ts)"),
    ("dayofweek", "date_part('dow', ts)"),
    ("getdate", "now()"),
    ("group_concat", "string_agg(x, ',')"),
    ("hll", "approx_distinct(x)"),
    ("hour", "date_part('hour', ts)"),
    ("if", "CASE WHEN n > 0 THEN x END"),
    ("iff", "CASE WHEN n > 0 THEN x END"),
    ("iif", "CASE WHEN n > 0 THEN x END"),
    ("isnull", "x IS NULL"),
    ("len", "length(x)"),
    ("minute", "date_part('minute', ts)"),
    ("month", "date_part('month', ts)"),
    ("percentile", "approx_percentile_cont(n, 0.5)"),
    ("quantile", "approx_percentile_cont(n, 0.5)"),
    ("quantile_cont", "approx_percentile_cont(n, 0.5)"),
    ("strftime", "to_char(ts, '%Y-%m-%d')"),
    ("sysdate", "now()"),
    ("tostartofday", "date_trunc('day', ts)"),
    ("tostartofhour", "date_trunc('hour', ts)"),
    ("tostartofminute", "date_trunc('minute', ts)"),
    ("uniq", "approx_distinct(x)"),
    ("year", "date_part('year', ts)"),
];

/// What is written in the place of a function that others have, by its name in lower case.
pub(super) fn instead_of(name: &str) -> Option<String> {
    let (_, instead) = ELSEWHERE.iter().find(|(other, _)| *other == name)?;
    Some(format!("`{instead}`"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::view::planning_session;

    #[test]
    fn what_is_advised_exists_and_is_found() {
        let context = planning_session().unwrap();
        for (name, instead) in ELSEWHERE {
            assert_eq!(instead_of(name), Some(format!("`{instead}`")));
            let sql = format!(
                "SELECT {instead} FROM (SELECT 'a' AS x, 1 AS n, CAST('2026-01-02' AS timestamp) AS ts)"
            );
            let planned = futures::executor::block_on(context.sql(&sql));
            assert!(planned.is_ok(), "{name}: {sql}: {planned:?}");
        }
    }
}
