//! What can't be a view is refused, with its place and what to write instead.

use anabranch_shared::view::View;
use anabranch_tests::facts;

fn refusal(sql: &str) -> String {
    let topic = facts::topic().expect("a topic");
    match View::compile("v", sql, &topic) {
        Ok(_) => panic!("accepted: {sql}"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn refusals_name_place_and_remedy() {
    let cases = [
        (
            "SELECT a.s FROM facts a JOIN facts b ON a.s = b.s",
            "line 1, column 30",
            "join them in a query",
        ),
        (
            "SELECT s,\n  now() FROM facts",
            "line 2, column 3",
            "use it in a query",
        ),
        (
            "SELECT random() FROM facts",
            "line 1, column 8",
            "put the value into the facts",
        ),
        (
            "SELECT s, count(*) FROM facts GROUP BY ROLLUP(s)",
            "ROLLUP",
            "combine",
        ),
        (
            "SELECT s FROM facts UNION ALL SELECT s FROM facts",
            "UNION",
            "unite them in a query",
        ),
        (
            "SELECT count(*) FROM facts WHERE n > (SELECT avg(n) FROM facts)",
            "second time",
            "declare one view",
        ),
        (
            "SELECT count(*) FROM (SELECT s FROM facts ORDER BY ts LIMIT 5)",
            "below the aggregation",
            "move it above",
        ),
        ("SELECT 1", "reads no topic", "SELECT … FROM"),
        ("SELECT nosuch FROM facts", "nosuch", "the columns are"),
        ("SELEC s FROM facts", "SQL", "SELEC"),
        (
            "SELECT s FROM facts; SELECT s FROM facts",
            "more than one statement",
            "one SELECT",
        ),
    ];
    for (sql, place, remedy) in cases {
        let text = refusal(sql);
        assert!(text.contains(place), "{sql}: no `{place}` in: {text}");
        assert!(
            text.to_lowercase().contains(&remedy.to_lowercase()),
            "{sql}: no `{remedy}` in: {text}"
        );
    }
}

#[test]
fn what_stands_above_the_aggregation_is_accepted() {
    let topic = facts::topic().expect("a topic");
    for sql in [
        "SELECT s, views FROM (SELECT s, count(*) AS views FROM facts GROUP BY s) WHERE views > 10 ORDER BY views DESC",
        "WITH g AS (SELECT s, day, sum(n) AS n FROM facts WHERE b GROUP BY 1, 2) SELECT s, max(n) FROM g GROUP BY s",
        "SELECT s, rank() OVER (ORDER BY count(*)) FROM facts GROUP BY s",
    ] {
        View::compile("v", sql, &topic).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
}
