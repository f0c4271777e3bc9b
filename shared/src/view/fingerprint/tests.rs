//! Rewritings that must not change what a definition is, and edits that must.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use super::*;
use crate::view::tests::topic;

const BASE: &str = "SELECT s, date_trunc('hour', ts) AS hour, count(*) AS facts, sum(n) AS total, \
                    approx_distinct(n) AS kinds FROM facts WHERE n > 3 AND s <> 'x' GROUP BY 1, 2";

fn difference(before: &str, after: &str) -> Difference {
    let view = |sql| View::compile("v", sql, &topic(&[])).unwrap();
    view(before).difference(&view(after)).unwrap()
}

fn states(before: &str, after: &str) -> StatesDiffer {
    match difference(before, after) {
        Difference::States(states) => *states,
        other => panic!("{before}\n{after}\n{other:?}"),
    }
}

/// Ways to write one and the same.
fn rewritings() -> Vec<String> {
    let mut all = vec![BASE.to_owned()];
    let mut with = |change: &dyn Fn(&str) -> String| {
        let changed: Vec<String> = all.iter().map(|sql| change(sql)).collect();
        all.extend(changed);
    };
    with(&|sql| sql.replace("n > 3 AND s <> 'x'", "s <> 'x' AND n > 3"));
    with(&|sql| sql.replace("n > 3", "3 < n"));
    with(&|sql| sql.replace("s <> 'x'", "'x' <> s"));
    with(&|sql| sql.replace("WHERE", "WHERE true AND"));
    with(&|sql| sql.replace("3", "(1 + 2)"));
    with(&|sql| sql.replace("GROUP BY 1, 2", "GROUP BY s, date_trunc('hour', ts)"));
    with(&|sql| sql.replace("FROM facts", "FROM facts AS f"));
    with(&|sql| format!("{} -- as it was", sql.replace("SELECT", "select\n  ")));
    all
}

#[test]
fn what_is_written_otherwise_is_the_same() {
    let all = rewritings();
    assert!(all.len() >= 200, "{}", all.len());
    for sql in &all {
        let found = difference(BASE, sql);
        let same = matches!(
            found,
            Difference::None | Difference::Formatting | Difference::Wording
        );
        assert!(same, "{sql}\n{found:?}");
    }
    let in_sub_query = "SELECT k AS s, h AS hour, count(*) AS facts, sum(m) AS total, approx_distinct(m) AS kinds \
        FROM (SELECT s AS k, n AS m, date_trunc('hour', ts) AS h FROM facts WHERE s <> 'x') WHERE m > 3 GROUP BY k, h";
    assert_eq!(difference(BASE, in_sub_query), Difference::Wording);
    assert_eq!(difference(BASE, BASE), Difference::None);
    let spaced = BASE.replace(", ", " ,\n ");
    assert_eq!(difference(BASE, &spaced), Difference::Formatting);
}

/// Edits, each with what of the states it changes.
fn edits() -> Vec<(String, &'static str)> {
    let mut all = Vec::new();
    let mut edit = |from: &str, to: &str, what: &'static str| {
        assert!(BASE.contains(from), "{from}");
        all.push((BASE.replace(from, to), what));
    };
    for number in 4..60 {
        edit("n > 3", &format!("n > {number}"), "filters");
    }
    for op in ["<", ">=", "<=", "=", "<>"] {
        edit("n > 3", &format!("n {op} 3"), "filters");
    }
    for text in ["y", "X", "", "x ", "xx"] {
        edit("'x'", &format!("'{text}'"), "filters");
    }
    edit("AND s <> 'x'", "OR s <> 'x'", "filters");
    edit("AND s <> 'x'", "", "filters");
    edit("WHERE n > 3", "WHERE n + 1 > 3", "filters");
    edit("s <> 'x'", "s IS DISTINCT FROM 'x'", "filters");
    for unit in [
        "minute", "day", "week", "month", "year", "second", "quarter",
    ] {
        edit("'hour'", &format!("'{unit}'"), "keys");
    }
    edit("SELECT s, date", "SELECT upper(s), date", "keys");
    for plus in 1..40 {
        edit("sum(n)", &format!("sum(n + {plus})"), "columns");
        edit(
            "approx_distinct(n)",
            &format!("approx_distinct(n % {plus})"),
            "columns",
        );
    }
    for function in [
        "min", "max", "avg", "count", "stddev", "var_pop", "bit_xor", "median",
    ] {
        edit("sum(n)", &format!("{function}(n)"), "columns");
    }
    edit("sum(n)", "sum(DISTINCT n)", "columns");
    edit("sum(n)", "sum(n) FILTER (WHERE n > 4)", "columns");
    edit("sum(n)", "sum(f)", "columns");
    edit("sum(n)", "first_value(n)", "columns");
    edit("sum(n)", "last_value(n ORDER BY ts)", "columns");
    edit("count(*)", "count(s)", "columns");
    edit(
        "sum(n) AS total,",
        "sum(n) AS total, max(n) AS most,",
        "columns",
    );
    edit("sum(n) AS total, ", "", "columns");
    all
}

#[test]
fn what_computes_something_else_is_another() {
    let all = edits();
    assert!(all.len() >= 170, "{}", all.len());
    for (sql, what) in &all {
        let states = states(BASE, sql);
        let of = match *what {
            "filters" => &states.filters,
            "keys" => &states.keys,
            _ => &states.columns,
        };
        assert_ne!(
            of,
            &[Vec::<String>::new(), Vec::new()],
            "{what}: {sql}\n{states:?}"
        );
    }
}

#[test]
fn what_stands_above_is_told_apart() {
    let above = [
        BASE.replace("AS total", "AS sum_of_n"),
        BASE.replace("sum(n) AS total", "sum(n) + 1 AS total"),
        BASE.replace("sum(n) AS total", "CAST(sum(n) AS double) AS total"),
        format!("{BASE} HAVING count(*) > 1"),
        format!("{BASE} HAVING count(*) > 2"),
        format!("{BASE} ORDER BY total DESC LIMIT 3"),
        format!("{BASE} ORDER BY total LIMIT 3"),
        format!("{BASE} ORDER BY total DESC LIMIT 4"),
        format!("SELECT s, sum(facts) AS facts FROM ({BASE}) GROUP BY s"),
        format!("SELECT *, row_number() OVER (PARTITION BY s ORDER BY hour) AS nth FROM ({BASE})"),
        format!(
            "SELECT *, row_number() OVER (PARTITION BY s ORDER BY hour DESC) AS nth FROM ({BASE})"
        ),
    ];
    for (nth, sql) in above.iter().enumerate() {
        assert_eq!(difference(BASE, sql), Difference::Above, "{sql}");
        for other in &above[nth + 1..] {
            assert_eq!(difference(sql, other), Difference::Above, "{sql}\n{other}");
        }
    }
}

#[test]
fn columns_are_told_by_their_names() {
    let more = BASE.replace("sum(n) AS total,", "sum(n) AS total, max(n) AS most,");
    let found = states(BASE, &more);
    assert_eq!(found.columns, [vec![], vec!["most".to_owned()]]);
    assert!(found.form.is_some());
    let found = states(&more, BASE);
    assert_eq!(found.columns, [vec!["most".to_owned()], vec![]]);
    // The order of states is part of them.
    let turned = BASE.replace(
        "count(*) AS facts, sum(n) AS total",
        "sum(n) AS total, count(*) AS facts",
    );
    assert!(states(BASE, &turned).form.is_some());
}
