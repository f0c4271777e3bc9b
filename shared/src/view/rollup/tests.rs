//! What a view over a view is compiled to, and what is refused, with its place.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use super::rolled_up;
use crate::view::View;
use crate::view::every_function::topic;
use crate::{Reference, Topic};

const MINUTES: &str = "SELECT date_trunc('minute', ts) AS minute, s, count(*) AS views, sum(n) AS n, count(n) FILTER (WHERE b) AS told, max(ts) AS last_at, approx_distinct(i) AS visitors, avg(f) AS mean, sum(n) * 2 AS twice FROM facts AS x WHERE x.i > 0 GROUP BY 1, 2";

fn day(select: &str, rest: &str) -> String {
    format!("SELECT {select} FROM minutes {rest}")
}

fn compiled(sql: &str) -> Result<String, String> {
    rolled_up("day", sql, ("minutes", MINUTES)).map_err(|e| e.to_string())
}

/// The definition that two texts have, as far as the engine tells them apart.
fn same(sql: &str, over_facts: &str) {
    let sql = compiled(sql).unwrap();
    let view = |sql: &str| Arc::new(View::compile("v", sql, &topic()).unwrap());
    let (found, wanted) = (view(&sql), view(over_facts));
    let difference = wanted.difference(&found).unwrap();
    let same = matches!(
        difference,
        crate::view::Difference::None
            | crate::view::Difference::Formatting
            | crate::view::Difference::Wording
    );
    assert!(same, "{sql}\n{over_facts}\n{difference:?}");
}

#[test]
fn a_roll_up_is_the_view_over_the_facts_that_it_equals() {
    same(
        &day(
            "date_trunc('day', minute) AS day, s, sum(views) AS views, combine(visitors) AS visitors",
            "GROUP BY 1, 2",
        ),
        "SELECT date_trunc('day', date_trunc('minute', ts)) AS day, s, count(*) AS views, approx_distinct(i) AS visitors FROM facts WHERE i > 0 GROUP BY 1, 2",
    );
    same(
        &day(
            "upper(m.s) AS u, combine(mean) AS mean, max(last_at) AS last_at, sum(told) FILTER (WHERE m.s <> 'a') AS told",
            "AS m WHERE minute > TIMESTAMP '2023-11-14T00:00:00Z' AND s IS NOT NULL GROUP BY upper(s)",
        ),
        "SELECT upper(s) AS u, avg(f) AS mean, max(ts) AS last_at, count(n) FILTER (WHERE b AND s <> 'a') AS told FROM facts WHERE i > 0 AND date_trunc('minute', ts) > TIMESTAMP '2023-11-14T00:00:00Z' AND s IS NOT NULL GROUP BY 1",
    );
    // What the child calls so, and what the parent does.
    same(
        &day(
            "s AS minute, sum(views) AS views, count(DISTINCT minute) AS minutes",
            "GROUP BY s HAVING sum(views) > 1 AND minutes > 2 ORDER BY minute, views DESC LIMIT 5",
        ),
        "SELECT s AS minute, count(*) AS views, count(DISTINCT date_trunc('minute', ts)) AS minutes FROM facts WHERE i > 0 GROUP BY s HAVING count(*) > 1 AND count(DISTINCT date_trunc('minute', ts)) > 2 ORDER BY 1, 2 DESC LIMIT 5",
    );
    // Steps above stay above.
    same(
        "WITH days AS (SELECT CAST(minute AS DATE) AS day, sum(views) AS views FROM minutes GROUP BY 1) SELECT max(views) AS most FROM days",
        "SELECT max(views) AS most FROM (SELECT CAST(date_trunc('minute', ts) AS DATE) AS day, count(*) AS views FROM facts WHERE i > 0 GROUP BY 1)",
    );
    same(
        &day("sum(views) AS views, combine(n) / sum(views) AS mean", ""),
        "SELECT count(*) AS views, sum(n) / count(*) AS mean FROM facts WHERE i > 0",
    );
}

#[test]
fn a_view_over_rows_counts_rows() {
    let rows = "SELECT ts AS at, upper(s) AS s, n FROM facts WHERE b";
    let sql = "SELECT s, count(*) AS c, sum(n) AS total FROM rows GROUP BY s";
    let found = rolled_up("v", sql, ("rows", rows)).unwrap();
    let view = |sql: &str| View::compile("v", sql, &topic()).unwrap();
    let wanted = view(
        "SELECT upper(s) AS s, count(*) AS c, sum(n) AS total FROM facts WHERE b GROUP BY upper(s)",
    );
    let difference = wanted.difference(&view(&found)).unwrap();
    assert!(
        !matches!(difference, crate::view::Difference::States(_)),
        "{found} {difference:?}"
    );
}

/// A parent may join references, and so may what is made of it, by the parent's keys.
#[test]
fn references_are_joined_below() {
    let posts = Reference {
        name: "posts".to_owned(),
        topic: Topic {
            name: "content".to_owned(),
            ..topic()
        },
        key: vec!["s".to_owned()],
        latest_by: "ts".to_owned(),
        fields: vec!["b".to_owned()],
        deleted_when: None,
    };
    let view =
        |sql: &str| View::compile_with("v", sql, &topic(), std::slice::from_ref(&posts)).unwrap();
    let joins = "SELECT date_trunc('minute', x.ts) AS minute, posts.b AS author, count(*) AS views FROM facts AS x LEFT JOIN posts ON posts.s = x.s GROUP BY 1, 2";
    for (child, parent, over_facts) in [
        (
            "SELECT author, sum(views) AS views FROM minutes GROUP BY author",
            joins,
            "SELECT posts.b AS author, count(*) AS views FROM facts LEFT JOIN posts ON posts.s = facts.s GROUP BY 1",
        ),
        (
            "SELECT posts.b, sum(views) AS views, combine(visitors) AS visitors FROM minutes m LEFT JOIN posts ON posts.s = m.s WHERE posts.b IS NOT NULL GROUP BY 1",
            MINUTES,
            "SELECT posts.b, count(*) AS views, approx_distinct(i) AS visitors FROM facts LEFT JOIN posts ON posts.s = facts.s WHERE i > 0 AND posts.b IS NOT NULL GROUP BY 1",
        ),
    ] {
        let compiled = rolled_up("day", child, ("minutes", parent)).unwrap();
        let difference = view(over_facts).difference(&view(&compiled)).unwrap();
        assert!(
            !matches!(difference, crate::view::Difference::States(_)),
            "{compiled} {difference:?}"
        );
        // Its columns are called as those of any view.
        let names = |sql: &str| {
            let schema = view(sql).schema();
            let names = schema.fields().iter().map(|f| f.name().clone());
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(&compiled), names(over_facts));
    }
    let using = "SELECT posts.b, sum(views) AS views FROM minutes JOIN posts USING (s) GROUP BY 1";
    let said = compiled(using).unwrap_err();
    assert!(
        said.contains("`LEFT JOIN … ON …` or `JOIN … ON …`"),
        "{said}"
    );
}

/// What can't be one is told with its place and the way out.
#[test]
fn what_does_not_merge_is_refused() {
    for (sql, says) in [
        (
            day("count(*) AS c", ""),
            "line 1, column 8: `count` here would be of rows of `minutes`",
        ),
        (
            day("avg(views) AS v", ""),
            "`avg` of finished values of `minutes` is not that of the facts; write `combine(views)`",
        ),
        (day("sum(visitors) AS v", ""), "write `combine(visitors)`"),
        (
            day("sum(twice) AS t", ""),
            "`twice` is computed of aggregates in `minutes`",
        ),
        (
            day("s, views", ""),
            "`views` is a finished value of `minutes`",
        ),
        (
            day("s", "WHERE views > 3 GROUP BY s"),
            "merge it with `combine(views)`",
        ),
        (day("s, minute", ""), "merge them with GROUP BY"),
        (
            day("vistors", "GROUP BY 1"),
            "no column `vistors`; did you mean `visitors`? (the columns of `minutes` are: last_at",
        ),
        (day("*", ""), "name the columns"),
        (day("combine(s) AS s", ""), "`combine` takes one column"),
        (
            day("sum(views) AS v", "WHERE s IN (SELECT s FROM facts)"),
            "a sub-query within an expression",
        ),
        (
            "SELECT a.s FROM minutes a JOIN minutes b ON a.s = b.s".to_owned(),
            "without a join",
        ),
        (day("sum(minutes.nothing) AS v", ""), "no column `nothing`"),
    ] {
        let said = compiled(&sql).unwrap_err();
        assert!(said.contains(says), "{sql}: {said}");
    }
    for (parent, says) in [
        (
            "SELECT s, count(*) AS c FROM facts GROUP BY s HAVING count(*) > 1",
            "has a HAVING",
        ),
        (
            "SELECT s, count(*) AS c FROM facts GROUP BY s LIMIT 3",
            "has a LIMIT",
        ),
        (
            "SELECT s, count(*) AS c, sum(count(*)) OVER () AS w FROM facts GROUP BY s",
            "has a window function",
        ),
        (
            "SELECT max(c) AS c FROM (SELECT s, count(*) AS c FROM facts GROUP BY s)",
            "has a sub-query",
        ),
        ("SELECT DISTINCT s FROM facts", "has a DISTINCT"),
    ] {
        let sql = "SELECT sum(c) AS c FROM parent";
        let said = rolled_up("v", sql, ("parent", parent))
            .unwrap_err()
            .to_string();
        assert!(
            said.contains(says) && said.contains("view `parent`"),
            "{parent}: {said}"
        );
    }
}
