//! Statements as this project reads them: the engine's parser, and standard forms that its planner
//! lacks, written as the ones that it has.

use std::ops::ControlFlow;

use datafusion::common::config::Dialect;
use datafusion::execution::SessionState;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, Fetch, LimitClause, Query, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::dialect_from_str;

use crate::{Error, Result};

mod apart;
mod bounds;
mod elsewhere;
mod wrong;

pub use apart::{casts_apart, is_of_one_name};
pub use bounds::StatementBounds;
pub use wrong::{KnownNames, explained};
pub(crate) use wrong::{Wrong, refused};

/// Bytes of stack for what goes down as deep as a statement of the most terms.
pub const STACK_BYTES: usize = 256 << 20;

/// Reads one statement that is no larger than a view's may be.
///
/// # Errors
/// Those of [`parse_within`].
pub fn parse(state: &SessionState, sql: &str) -> Result<Statement> {
    parse_within(state, sql, StatementBounds::default())
}

/// Reads one statement, on a thread with a stack of [`STACK_BYTES`].
///
/// # Errors
/// `Query` where it is no SQL; `Invalid` where it is too large, and for a form that has no other.
pub fn parse_within(state: &SessionState, sql: &str, bounds: StatementBounds) -> Result<Statement> {
    let dialect = state.config_options().sql_parser.dialect;
    check(&dialect, sql, bounds)?;
    let mut statement = state.sql_to_statement(sql, &dialect)?;
    bounds.check_uses(&statement)?;
    rewrite(&mut statement)?;
    Ok(statement)
}

/// Looks at a statement's text before it is parsed.
///
/// # Errors
/// Those of [`StatementBounds::check_text`].
pub(crate) fn check(dialect: &Dialect, sql: &str, bounds: StatementBounds) -> Result<()> {
    let Some(dialect) = dialect_from_str(dialect) else {
        return Ok(());
    };
    bounds.check_text(dialect.as_ref(), sql)
}

/// Does work on a thread with a stack of [`STACK_BYTES`], and waits for it. A panic goes on here.
///
/// # Errors
/// Those of the work; `Unavailable` where there is no thread.
pub fn on_large_stack<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("plan".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(|e| Error::Unavailable(format!("can't start a thread that plans: {e}")))?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn rewrite(statement: &mut Statement) -> Result<()> {
    let visited = match statement {
        Statement::Statement(sql) => VisitMut::visit(sql.as_mut(), &mut FetchAsLimit),
        Statement::Explain(explain) => return rewrite(&mut explain.statement),
        _ => ControlFlow::Continue(()),
    };
    match visited {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(reason) => Err(Error::Invalid(reason.into())),
    }
}

/// `FETCH FIRST n ROWS ONLY`, the standard's LIMIT.
struct FetchAsLimit;

impl VisitorMut for FetchAsLimit {
    type Break = &'static str;

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        let Some(fetch) = query.fetch.take() else {
            return ControlFlow::Continue(());
        };
        if fetch.with_ties || fetch.percent {
            return ControlFlow::Break(
                "FETCH FIRST takes a number of ROWS ONLY; for ties write `rank() OVER (ORDER BY …)` and filter it",
            );
        }
        let limit = limit_of(fetch);
        match &mut query.limit_clause {
            None => {
                query.limit_clause = Some(LimitClause::LimitOffset {
                    limit: Some(limit),
                    offset: None,
                    limit_by: Vec::new(),
                });
            }
            Some(LimitClause::LimitOffset { limit: none, .. }) if none.is_none() => {
                *none = Some(limit);
            }
            Some(_) => return ControlFlow::Break("FETCH FIRST and LIMIT say the same; write one"),
        }
        ControlFlow::Continue(())
    }
}

/// How many rows; one unless told.
fn limit_of(fetch: Fetch) -> Expr {
    let one = || Expr::value(Value::Number("1".to_owned(), false));
    fetch.quantity.unwrap_or_else(one)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::*;
    use crate::view::planning_session;

    fn kind(sql: &str) -> Option<String> {
        let read = on_large_stack(|| parse(&planning_session()?.state(), sql).map(|_| ()));
        match read {
            Ok(()) => None,
            Err(Error::Invalid(reason)) => Some(reason),
            Err(e) => panic!("{e}"),
        }
    }

    fn chain(first: &str, more: &str, times: usize) -> String {
        format!("{first}{}", more.repeat(times))
    }

    #[test]
    fn what_goes_too_deep_is_refused_before_it_is_parsed() {
        let ctes = |n: usize| {
            let more: String = (1..n)
                .map(|i| format!(", c{i} AS (SELECT * FROM c{})", i - 1))
                .collect();
            format!("WITH c0 AS (SELECT 1 AS n){more} SELECT * FROM c{}", n - 1)
        };
        let doubling: String = (1..20)
            .map(|i| {
                format!(
                    ", c{i} AS (SELECT a.n FROM c{0} AS a JOIN c{0} AS b ON a.n = b.n)",
                    i - 1
                )
            })
            .collect();
        let refused = [
            (
                chain("SELECT 1 WHERE 1 = 0", " OR 1 = 1 OR n = 0", 2_000),
                "names",
            ),
            (chain("SELECT 1", " UNION ALL SELECT 1", 2_250), "names"),
            (chain("SELECT 1", "::int", 5_000), "names"),
            (chain("SELECT x", "[1]", 5_000), "deeper"),
            (ctes(1_000), "names"),
            (
                format!("WITH c0 AS (SELECT 1 AS n){doubling} SELECT * FROM c19"),
                "names",
            ),
            (
                format!("SELECT CAST(NULL AS INT{})", "[]".repeat(5_000)),
                "deeper",
            ),
            (
                format!(
                    "SELECT CAST(NULL AS {}INT{})",
                    "ARRAY<".repeat(500),
                    ">".repeat(500)
                ),
                "deeper",
            ),
            (
                format!("SELECT {}1{}", "(".repeat(500), ")".repeat(500)),
                "deeper",
            ),
            (
                format!("SELECT '{}'", "x".repeat(1_000_000)),
                "max_statement_bytes",
            ),
        ];
        for (sql, wanted) in refused {
            let reason = kind(&sql).unwrap_or_default();
            assert!(reason.contains(wanted), "{}: {reason}", &sql[..40]);
        }
        let taken = [
            chain("SELECT 1 WHERE 1 = 0", " OR n = 0", 1_600),
            chain("SELECT 1", " UNION ALL SELECT 1", 1_600),
            format!("SELECT 1 WHERE 1 IN (0{})", ", 1".repeat(100_000)),
            ctes(60),
            ctes(700),
            format!("SELECT {}1{}", "(".repeat(40), ")".repeat(40)),
            "SELECT a[1][2], b[1:2] FROM t WHERE x < array[1][1]".to_owned(),
        ];
        for sql in taken {
            assert_eq!(kind(&sql), None, "{}", &sql[..40]);
        }
    }

    #[test]
    fn fetch_is_limit() {
        let state = planning_session().unwrap().state();
        let cases = [
            ("SELECT 1 FETCH FIRST 5 ROWS ONLY", "SELECT 1 LIMIT 5"),
            (
                "SELECT 1 OFFSET 2 ROWS FETCH NEXT ROW ONLY",
                "SELECT 1 LIMIT 1 OFFSET 2 ROWS",
            ),
            (
                "SELECT * FROM (SELECT 1 FETCH FIRST 2 ROWS ONLY) AS t",
                "SELECT * FROM (SELECT 1 LIMIT 2) AS t",
            ),
            (
                "EXPLAIN SELECT 1 FETCH FIRST 5 ROWS ONLY",
                "EXPLAIN SELECT 1 LIMIT 5",
            ),
        ];
        for (sql, wanted) in cases {
            assert_eq!(parse(&state, sql).unwrap().to_string(), wanted);
        }
        for sql in [
            "SELECT 1 FETCH FIRST 5 ROWS WITH TIES",
            "SELECT 1 FETCH FIRST 5 PERCENT ROWS ONLY",
            "SELECT 1 LIMIT 3 FETCH FIRST 5 ROWS ONLY",
        ] {
            let refused = parse(&state, sql);
            assert!(
                matches!(refused, Err(Error::Invalid(_))),
                "{sql}: {refused:?}"
            );
        }
    }
}
