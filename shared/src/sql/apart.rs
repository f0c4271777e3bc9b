//! Casts of one value to several types among the keys of an aggregation, as two local days of one
//! time. The engine names a cast by what is cast, so two of one value have one name, and it refuses
//! them. Computed in a sub-query, each under a name of its own, they are what was written:
//!
//! ```text
//!   SELECT ts::date AS d, ts::varchar AS v, count(*) FROM t GROUP BY 1, 2
//! → SELECT __cast_1 AS d, __cast_2 AS v, count(*)
//!   FROM (SELECT *, ts::date AS __cast_1, ts::varchar AS __cast_2 FROM t) AS t GROUP BY 1, 2
//! ```

use std::ops::ControlFlow;

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, Query, Select, SelectItem, SetExpr, Statement as Sql, TableFactor,
    TableWithJoins, Visit, VisitMut, Visitor, VisitorMut,
};

use super::parse;
use crate::Error;

/// Whether an error says that two columns have one name.
pub fn is_of_one_name(e: &Error) -> bool {
    let Error::Query(e) = e else { return false };
    match e.find_root() {
        DataFusionError::SchemaError(e, _) => matches!(
            e.as_ref(),
            SchemaError::DuplicateUnqualifiedField { .. }
                | SchemaError::DuplicateQualifiedField { .. }
        ),
        DataFusionError::Plan(text) => text.contains("require unique expression names"),
        _ => false,
    }
}

/// The statement with such casts apart, where an error says that two columns have one name and it has
/// any.
pub fn casts_apart(state: &SessionState, statement: &Statement, e: &Error) -> Option<Statement> {
    if !is_of_one_name(e) {
        return None;
    }
    let mut apart = statement.clone();
    let sql: &mut Sql = match &mut apart {
        Statement::Statement(sql) => sql,
        Statement::Explain(explain) => match explain.statement.as_mut() {
            Statement::Statement(sql) => sql,
            _ => return None,
        },
        _ => return None,
    };
    let mut selects = Selects { state, taken: 0 };
    // The visit never ends early.
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) = VisitMut::visit(sql, &mut selects);
    (selects.taken > 0).then_some(apart)
}

struct Selects<'a> {
    state: &'a SessionState,
    /// Casts that were taken apart.
    taken: usize,
}

impl VisitorMut for Selects<'_> {
    type Break = ();

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let SetExpr::Select(select) = query.body.as_mut() else {
            return ControlFlow::Continue(());
        };
        let casts = casts_of(self.state, select);
        if casts.is_empty() {
            return ControlFlow::Continue(());
        }
        let Some(from) = self.source(select, &casts) else {
            return ControlFlow::Continue(());
        };
        select.from = from;
        let mut replace = Replace {
            casts: &casts,
            first: self.taken + 1,
        };
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) = item
                && casts.contains(expr)
            {
                let alias = Ident::with_quote('"', expr.to_string());
                let expr = expr.clone();
                *item = SelectItem::ExprWithAlias { expr, alias };
            }
        }
        let (ControlFlow::Continue(()) | ControlFlow::Break(())) =
            VisitMut::visit(&mut select.projection, &mut replace);
        let (ControlFlow::Continue(()) | ControlFlow::Break(())) =
            VisitMut::visit(&mut select.group_by, &mut replace);
        let (ControlFlow::Continue(()) | ControlFlow::Break(())) =
            VisitMut::visit(&mut select.having, &mut replace);
        let (ControlFlow::Continue(()) | ControlFlow::Break(())) =
            VisitMut::visit(&mut query.order_by, &mut replace);
        self.taken += casts.len();
        ControlFlow::Continue(())
    }
}

impl Selects<'_> {
    /// What a SELECT reads, with its casts as columns; none where that can't be written.
    fn source(&self, select: &Select, casts: &[Expr]) -> Option<Vec<TableWithJoins>> {
        let [table] = select.from.as_slice() else {
            return None;
        };
        let (alias, named) = match &table.relation {
            TableFactor::Table { name, alias, .. } => (alias, name.0.last()?.to_string()),
            TableFactor::Derived { alias, .. } => (alias, "__source".to_owned()),
            _ => return None,
        };
        let named = match alias {
            Some(alias) if !alias.columns.is_empty() => return None,
            Some(alias) => alias.name.to_string(),
            None => named,
        };
        if !table.joins.is_empty() {
            return None;
        }
        let columns = casts.iter().zip(self.taken + 1..);
        let columns = columns.map(|(cast, n)| format!(", {cast} AS {}", name(n)));
        let columns: String = columns.collect();
        let text = format!("SELECT * FROM (SELECT *{columns} FROM {table}) AS {named}");
        let Ok(Statement::Statement(read)) = parse(self.state, &text) else {
            return None;
        };
        let Sql::Query(query) = *read else {
            return None;
        };
        match *query.body {
            SetExpr::Select(select) => Some(select.from),
            _ => None,
        }
    }
}

/// The name of a cast that was taken apart.
fn name(number: usize) -> String {
    format!("__cast_{number}")
}

/// The casts of a SELECT's keys whose value is cast to another type as well.
fn casts_of(state: &SessionState, select: &Select) -> Vec<Expr> {
    let is_grouped = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(keys, _) => !keys.is_empty(),
    };
    let has_all = |item: &SelectItem| {
        matches!(
            item,
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)
        )
    };
    if !is_grouped || select.projection.iter().any(has_all) {
        return Vec::new();
    }
    let mut found = Casts {
        state,
        depth: 0,
        casts: Vec::new(),
    };
    let parts = [
        select.projection.visit(&mut found),
        select.group_by.visit(&mut found),
        select.having.visit(&mut found),
    ];
    if parts.iter().any(ControlFlow::is_break) {
        return Vec::new();
    }
    let all = found.casts;
    let has_other = |cast: &&Expr| {
        let of = |other: &&Expr| value_of(other) == value_of(cast) && other != cast;
        all.iter().any(|other| of(&other))
    };
    all.iter().filter(has_other).cloned().collect()
}

/// What is cast, through casts of casts.
fn value_of(expr: &Expr) -> &Expr {
    match expr {
        Expr::Cast { expr, .. } | Expr::Nested(expr) => value_of(expr),
        Expr::AtTimeZone { timestamp, .. } => value_of(timestamp),
        expr => expr,
    }
}

/// The outermost casts of what is computed row by row; a sub-query ends the visit.
struct Casts<'a> {
    state: &'a SessionState,
    depth: usize,
    casts: Vec<Expr>,
}

impl Casts<'_> {
    fn is_taken(&self, expr: &Expr) -> bool {
        let is_cast = matches!(expr, Expr::Cast { .. } | Expr::AtTimeZone { .. });
        is_cast && expr.visit(&mut RowByRow(self.state)).is_continue()
    }
}

impl Visitor for Casts<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        ControlFlow::Break(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if self.is_taken(expr) {
            if self.depth == 0 && !self.casts.contains(expr) {
                self.casts.push(expr.clone());
            }
            self.depth += 1;
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if self.is_taken(expr) {
            self.depth -= 1;
        }
        ControlFlow::Continue(())
    }
}

/// Ends the visit of what is not computed of one row alone.
struct RowByRow<'a>(&'a SessionState);

impl Visitor for RowByRow<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let Expr::Function(function) = expr else {
            return ControlFlow::Continue(());
        };
        let name = function.name.to_string().to_lowercase();
        match self.0.scalar_functions().contains_key(&name) && function.over.is_none() {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    }
}

/// Puts the names of casts in their place.
struct Replace<'a> {
    casts: &'a [Expr],
    first: usize,
}

impl VisitorMut for Replace<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Some(at) = self.casts.iter().position(|cast| cast == expr) {
            *expr = Expr::Identifier(Ident::new(name(self.first + at)));
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use arrow::util::pretty::pretty_format_batches;
    use datafusion::prelude::DataFrame;

    use super::*;
    use crate::view::planning_session;

    #[tokio::test]
    async fn casts_of_one_value_to_two_types_are_two_keys() {
        let context = planning_session().unwrap();
        let table = "SELECT * FROM (VALUES (CAST('2026-01-01T02:00:00Z' AS timestamptz), 1), (CAST('2026-01-01T12:00:00Z' AS timestamptz), 2)) AS t(ts, n)";
        let facts = context.sql(table).await.unwrap();
        context.register_table("t", facts.into_view()).unwrap();
        let state = context.state();
        let run = async |sql: &str| -> Result<String, Error> {
            let statement = parse(&state, sql)?;
            let plan = state.statement_to_plan(statement.clone()).await;
            let plan = match plan.map_err(Error::from) {
                Ok(plan) => plan,
                Err(e) => match casts_apart(&state, &statement, &e) {
                    Some(apart) => state.statement_to_plan(apart).await?,
                    None => return Err(e),
                },
            };
            let rows = DataFrame::new(state.clone(), plan).collect().await?;
            Ok(pretty_format_batches(&rows)?.to_string())
        };
        let zones = "SELECT (ts AT TIME ZONE 'Europe/Berlin')::date AS a, (ts AT TIME ZONE 'America/New_York')::date AS b, sum(n) AS n FROM t GROUP BY 1, 2 ORDER BY b, (ts AT TIME ZONE 'Europe/Berlin')::date";
        let rows = run(zones).await.unwrap();
        assert!(rows.contains("| 2026-01-01 | 2025-12-31 | 1 |"), "{rows}");
        assert!(rows.contains("| 2026-01-01 | 2026-01-01 | 2 |"), "{rows}");
        let unnamed = "SELECT q.ts::date, q.ts::varchar, count(*) AS n FROM t AS q WHERE q.n > 1 GROUP BY q.ts::date, q.ts::varchar";
        let rows = run(unnamed).await.unwrap();
        assert!(rows.contains("q.ts::DATE"), "{rows}");
        let two_sums = run("SELECT n::varchar AS a, n::double AS b, sum(n::double) AS s FROM (SELECT n FROM t) GROUP BY a, b HAVING n::double > 1").await.unwrap();
        assert!(two_sums.contains("| 2 | 2.0 | 2.0 |"), "{two_sums}");
        // Nothing to take apart: the error stays.
        assert!(run("SELECT nosuch FROM t").await.is_err());
    }
}
