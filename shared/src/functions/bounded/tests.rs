//! What bounded functions refuse, and that they answer as the engine's do below it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use datafusion::prelude::SessionContext;

use super::*;
use crate::view::{build_session, session_builder};
use crate::{ErrorKind, StopReason};

fn session(bounds: &FunctionBounds) -> SessionContext {
    let mut state = build_session(session_builder()).unwrap();
    crate::functions::bound(&mut state, bounds).unwrap();
    SessionContext::new_with_state(state)
}

fn small() -> FunctionBounds {
    FunctionBounds {
        bytes: 1_000_000,
        work: 1_000_000,
        pattern_work: 1_000_000,
        setting: "`max_function_bytes` in `[query]`",
        stop: Stop::never(),
    }
}

async fn ask(session: &SessionContext, sql: &str) -> Result<String, Error> {
    let rows = session.sql(sql).await?.collect().await?;
    Ok(datafusion::arrow::util::pretty::pretty_format_batches(&rows)?.to_string())
}

#[test]
fn every_name_is_that_of_a_function() {
    let state = session(&small()).state();
    for name in NAMES {
        let function = state.scalar_functions().get(name);
        let function = function.unwrap_or_else(|| panic!("no `{name}`"));
        assert!(function.inner().is::<BoundedFunction>(), "{name}");
        assert!(bounded(name).is_some(), "{name}");
    }
}

/// Refused with the function's name, over columns and for constants, which are folded in planning.
#[tokio::test]
async fn what_grows_too_far_is_refused_before_it_takes_memory() {
    let session = session(&small());
    let calls = [
        ("repeat", "repeat('xy', n * 600000)"),
        ("lpad", "lpad('x', n * 1000000)"),
        ("rpad", "rpad('x', n * 1000000)"),
        ("range", "range(1, n * 1000000000)"),
        ("generate_series", "generate_series(1, n * 1000000000, 10)"),
        (
            "range",
            "range(n - 9223372036854775807 - 2, 9223372036854775807)",
        ),
        (
            "range",
            "range(TIMESTAMP '2000-01-01', TIMESTAMP '2001-01-01', INTERVAL '1' MINUTE)",
        ),
        ("array_repeat", "array_repeat(1, n * 1000000000)"),
        (
            "array_repeat",
            "array_repeat(array_repeat('xxxxxxxx', 1000), n * 1000)",
        ),
        ("array_resize", "array_resize([1], n * 1000000000, 1)"),
        (
            "concat",
            "concat(repeat('x', n * 900000), repeat('y', n * 900000))",
        ),
        (
            "concat_ws",
            "concat_ws(repeat('x', n * 900000), 'a', 'b', 'c')",
        ),
        (
            "array_to_string",
            "array_to_string(array_repeat(1, 1000), repeat('x', n * 10000))",
        ),
        (
            "replace",
            "replace(repeat('x', n * 10000), 'x', repeat('y', 1000))",
        ),
        (
            "replace",
            "replace(repeat('x', n * 10000), '', repeat('y', 1000))",
        ),
        ("translate", "translate(repeat('x', n * 900000), 'x', 'ö')"),
        (
            "regexp_replace",
            "regexp_replace(repeat('x', n * 10000), '.', repeat('y', 1000), 'g')",
        ),
        (
            "string_to_array",
            "string_to_array(repeat('x,', n * 100000), ',')",
        ),
        (
            "levenshtein",
            "levenshtein(repeat('a', n * 130000), repeat('b', n * 130000))",
        ),
        (
            "array_has_all",
            "array_has_all(range(0, n * 10000), range(0, n * 10000))",
        ),
        (
            "regexp_like",
            "regexp_like(repeat('a', n * 1000000), '(a?){1000}a{1000}')",
        ),
    ];
    for (name, call) in calls {
        for from in ["(VALUES (1)) AS t(n)", "(VALUES (1), (1), (1)) AS t(n)"] {
            let refused = ask(&session, &format!("SELECT {call} FROM {from}")).await;
            let e = refused.unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Invalid, "{call}: {e}");
            // Of several rows an argument may be too much by itself.
            let wanted = match from.contains(',') {
                true => "the bound is".to_owned(),
                false => format!("`{name}`"),
            };
            assert!(e.to_string().contains(&wanted), "{call}: {e}");
        }
        let constant = call.replace('n', "1").replace("ra1ge", "range");
        if ["range", "repeat", "lpad", "rpad"].contains(&name) && !call.contains("INTERVAL") {
            let refused = ask(&session, &format!("SELECT {constant}")).await;
            let e = refused.unwrap_err().to_string();
            assert!(e.contains(&format!("`{name}`")), "{constant}: {e}");
        }
    }
    let deep = format!("{}Int64{}", "List(".repeat(938), ")".repeat(938));
    let refused = ask(&session, &format!("SELECT arrow_cast(NULL, '{deep}')")).await;
    assert!(refused.unwrap_err().to_string().contains("`arrow_cast`"));
}

/// What is within the bounds is what the engine answers.
#[tokio::test]
async fn answers_within_the_bounds_are_the_engines() {
    let bounded = session(&small());
    let engine = SessionContext::new();
    let calls = [
        "repeat(s, n)",
        "lpad(s, n, 'ö')",
        "range(n)",
        "generate_series(n, 10, 3)",
        "array_repeat(s, n)",
        "array_resize([n], 3, 7)",
        "concat(s, n, 'x', s)",
        "concat_ws('-', s, NULL, s)",
        "array_to_string([n, NULL, 2], ',', '*')",
        "replace(s, 'b', 'xy')",
        "levenshtein(s, 'abd')",
        "array_except([n, 2], [2])",
        "array_has_all([n, 2], [2])",
        "array_union([n, 2], [2])",
        "array_intersect([n, 2], [2])",
        "regexp_replace(s, '[ab]', 'z', 'g')",
        "regexp_like(s, '^a')",
        "arrow_cast(n, 'Int8')",
        "[n, 2] || [3]",
        "s || s",
        "NULL || s",
    ];
    for call in calls {
        let sql = format!(
            "SELECT {call} FROM (VALUES ('abc', 1), (NULL, 2), ('b', NULL), ('', 0)) AS t(s, n)"
        );
        let (own, engines) = (ask(&bounded, &sql).await, ask(&engine, &sql).await);
        assert_eq!(own.unwrap(), engines.unwrap(), "{call}");
    }
}

/// Many rows that take long together are no error, and are stopped in between.
#[tokio::test]
async fn long_work_is_stopped_between_rows() {
    let stop = Stop::never();
    let bounds = FunctionBounds {
        bytes: 1_000_000_000,
        work: 20_000_000,
        stop: stop.clone(),
        ..small()
    };
    let session = session(&bounds);
    let sql = "SELECT sum(levenshtein(repeat('a', 1000 + value % 7), repeat('b', 1000))) FROM range(1, 100000)";
    let begun = std::time::Instant::now();
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        stop.stop(StopReason::Cancelled);
    });
    let e = ask(&session, sql).await.unwrap_err();
    stopper.join().unwrap();
    assert_eq!(e.kind(), ErrorKind::Conflict, "{e}");
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

/// The statement's plan with bounds on its operators, as queries have it.
async fn ask_bounded(session: &SessionContext, sql: &str) -> Result<String, Error> {
    #[derive(Debug)]
    struct Bounds(FunctionBounds);
    impl datafusion::optimizer::AnalyzerRule for Bounds {
        fn name(&self) -> &str {
            "bounds"
        }

        fn analyze(
            &self,
            plan: datafusion::logical_expr::LogicalPlan,
            _: &ConfigOptions,
        ) -> EngineResult<datafusion::logical_expr::LogicalPlan> {
            use datafusion::logical_expr::expr_rewriter::NamePreserver;
            let bounded = plan.transform_up_with_subqueries(|node| {
                let schema = datafusion::logical_expr::utils::merge_schema(&node.inputs());
                let names = NamePreserver::new(&node);
                node.map_expressions(|expr| {
                    let name = names.save(&expr);
                    let bounded = expr.transform_down(|e| bound_expression(e, &schema, &self.0))?;
                    Ok(bounded.update_data(|e| name.restore(e)))
                })?
                .map_data(datafusion::logical_expr::LogicalPlan::recompute_schema)
            })?;
            Ok(bounded.data)
        }
    }
    let state = datafusion::execution::SessionStateBuilder::new_from_existing(session.state())
        .with_analyzer_rule(Arc::new(Bounds(small())))
        .build();
    ask(&SessionContext::new_with_state(state), sql).await
}

/// With a pattern that is the same for all rows, and with one for each.
#[tokio::test]
async fn operators_of_patterns_answer_as_the_engines_and_have_bounds() {
    let session = session(&small());
    let engine = SessionContext::new();
    let rows = "(VALUES ('abc', 'a.c', 1), (NULL, 'b', 2), ('b', NULL, 3), ('', '', 4), ('A_c%', 'a\\_c\\%', 5)) AS t(s, p, n)";
    let mut conditions = Vec::new();
    for op in [
        "~",
        "!~",
        "~*",
        "!~*",
        "LIKE",
        "NOT LIKE",
        "ILIKE",
        "NOT ILIKE",
        "SIMILAR TO",
        "NOT SIMILAR TO",
    ] {
        for pattern in [
            "p",
            "'a.c'",
            "'a_c'",
            "'%b%'",
            "'%b%c'",
            "'b%'",
            "'A\\_c\\%'",
            "NULL",
            "''",
        ] {
            conditions.push(format!("s {op} {pattern}"));
        }
        conditions.push(format!("'abc' {op} p"));
        conditions.push(format!("'abc' {op} 'a%'"));
        conditions.push(format!(
            "CASE WHEN n > 1 THEN s {op} 'b' ELSE s {op} 'a_c' END"
        ));
    }
    for condition in conditions {
        let sql = format!("SELECT n, {condition} AS c FROM {rows} ORDER BY n");
        let (own, engines) = (ask_bounded(&session, &sql).await, ask(&engine, &sql).await);
        match (own, engines) {
            (Ok(own), Ok(engines)) => assert_eq!(own, engines, "{condition}"),
            (Err(_), Err(_)) => {}
            (own, engines) => panic!("{condition}: {own:?}, and the engine: {engines:?}"),
        }
        let sql = format!("SELECT n FROM {rows} WHERE {condition} ORDER BY n");
        let (own, engines) = (ask_bounded(&session, &sql).await, ask(&engine, &sql).await);
        assert_eq!(own.ok(), engines.ok(), "{condition}");
    }
    let heavy = [
        "repeat('a', 100000 * n) ~ '(a?){60}a{60}'",
        "repeat('a', 100000 * n) !~* p || '(a?){60}a{60}'",
        "repeat('a', 100000 * n) SIMILAR TO '(a?){60}a{60}'",
        "repeat('a', 100000 * n) LIKE repeat('%a', 500)",
        "'a' ~ (p || '((a{1000}){300}){2}')",
        "repeat('a', 300000) ~ '(a?){60}a{60}'",
    ];
    for condition in heavy {
        let sql = format!("SELECT n FROM (VALUES ('a', 1), ('b', 2)) AS t(p, n) WHERE {condition}");
        let answered = ask_bounded(&session, &sql).await;
        let Err(e) = answered else {
            panic!("{condition}: {answered:?}");
        };
        assert_eq!(e.kind(), ErrorKind::Invalid, "{condition}: {e}");
        assert!(e.to_string().contains("the bound is"), "{condition}: {e}");
    }
    // What is as much work as the text is long has none.
    let sql =
        "SELECT count(*) FROM (VALUES (1), (2)) AS t(n) WHERE repeat('a', 200000 * n) LIKE '%b%'";
    ask_bounded(&session, sql).await.unwrap();
    let large = "SELECT s FROM (VALUES ('a')) AS t(s) WHERE s ~ '((a{1000}){300}){2}'";
    let e = ask_bounded(&session, large).await.unwrap_err().to_string();
    assert!(e.contains("states"), "{e}");
}
