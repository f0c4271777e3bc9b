//! Statements as this project reads them: the engine's parser, and standard forms that its planner
//! lacks, written as the ones that it has.

use std::ops::ControlFlow;

use datafusion::execution::SessionState;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, Fetch, LimitClause, Query, Value, VisitMut, VisitorMut,
};

use crate::{Error, Result};

/// Reads one statement.
///
/// # Errors
/// `Query` where it is no SQL; `Invalid` for a form that has no other.
pub fn parse(state: &SessionState, sql: &str) -> Result<Statement> {
    let dialect = state.config_options().sql_parser.dialect;
    let mut statement = state.sql_to_statement(sql, &dialect)?;
    rewrite(&mut statement)?;
    Ok(statement)
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
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::view::planning_session;

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
