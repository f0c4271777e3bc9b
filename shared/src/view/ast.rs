//! What a view's SQL may not hold, found in its syntax tree, where every part still knows its line
//! and column.

use std::ops::ControlFlow;

use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::Volatility;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, ObjectName, Query, Select, SetExpr, Spanned, Statement as SqlStatement,
    TableFactor, Visit, Visitor,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::{Error, Result};

/// Refuses a query that reads a sample of a relation: the engine would read all of it.
///
/// # Errors
/// `Invalid`, with the place and what to write instead.
pub fn refuse_samples(statement: &SqlStatement) -> Result<()> {
    match statement.visit(&mut Samples) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(span) => Err(Error::Invalid(format!(
            "{}TABLESAMPLE is refused: all rows would be read; write `WHERE random() < 0.1` for about a tenth of them",
            place(span)
        ))),
    }
}

struct Samples;

impl Visitor for Samples {
    type Break = Span;

    fn pre_visit_table_factor(&mut self, relation: &TableFactor) -> ControlFlow<Span> {
        match is_sample(relation) {
            true => ControlFlow::Break(relation.span()),
            false => ControlFlow::Continue(()),
        }
    }
}

fn is_sample(relation: &TableFactor) -> bool {
    matches!(
        relation,
        TableFactor::Table {
            sample: Some(_),
            ..
        } | TableFactor::Derived {
            sample: Some(_),
            ..
        }
    )
}

/// Refuses what can't be a view, with its place.
pub(super) fn check(view: &str, sql: &str, topic: &str, state: &SessionState) -> Result<()> {
    let mut statements = DFParserBuilder::new(sql)
        .build()
        .and_then(|mut p| p.parse_statements())
        .map_err(|e| Error::view(view, e.strip_backtrace()))?;
    let statement = match (statements.pop_front(), statements.is_empty()) {
        (Some(statement), true) => statement,
        (None, _) => return Err(Error::view(view, "the SQL is empty; write one SELECT")),
        _ => {
            return Err(Error::view(
                view,
                "more than one statement; write one SELECT",
            ));
        }
    };
    let query = match statement {
        Statement::Statement(s) => match *s {
            SqlStatement::Query(query) => query,
            _ => {
                return Err(Error::view(
                    view,
                    "not a SELECT; a view is one SELECT over a topic",
                ));
            }
        },
        _ => {
            return Err(Error::view(
                view,
                "not a SELECT; a view is one SELECT over a topic",
            ));
        }
    };
    let mut checker = Checker {
        state,
        topic,
        relations: 0,
    };
    match query.visit(&mut checker) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(Refusal { span, reason }) => {
            Err(Error::view(view, format!("{}{reason}", place(span))))
        }
    }
}

fn place(span: Span) -> String {
    match span.start.line {
        0 => String::new(),
        line => format!("line {line}, column {}: ", span.start.column),
    }
}

struct Refusal {
    span: Span,
    reason: String,
}

struct Checker<'a> {
    state: &'a SessionState,
    topic: &'a str,
    relations: usize,
}

fn refuse(span: Span, reason: impl Into<String>) -> ControlFlow<Refusal> {
    ControlFlow::Break(Refusal {
        span,
        reason: reason.into(),
    })
}

impl Checker<'_> {
    fn volatility(&self, name: &str) -> Option<Volatility> {
        self.state.udf(name).ok().map(|f| f.signature().volatility)
    }

    fn check_select(&self, select: &Select) -> ControlFlow<Refusal> {
        if let Some(table) = select.from.iter().find(|t| !t.joins.is_empty()) {
            return refuse(
                table.joins[0].relation.span(),
                "a join is not supported in a view; declare a view for each side and join them in a query",
            );
        }
        if let [_, second, ..] = select.from.as_slice() {
            return refuse(
                second.span(),
                "a second relation is a join, which is not supported in a view; declare a view for each side and join them in a query",
            );
        }
        if let GroupByExpr::Expressions(exprs, modifiers) = &select.group_by {
            let sets =
                |e: &Expr| matches!(e, Expr::GroupingSets(_) | Expr::Rollup(_) | Expr::Cube(_));
            let found = exprs.iter().find(|e| sets(e));
            if found.is_some() || !modifiers.is_empty() {
                return refuse(
                    found.map_or_else(|| select.group_by.span(), Spanned::span),
                    "GROUPING SETS, ROLLUP and CUBE are not supported; declare a view for each set, or roll up in a query with `combine`",
                );
            }
        }
        ControlFlow::Continue(())
    }
}

impl Visitor for Checker<'_> {
    type Break = Refusal;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Refusal> {
        match query.body.as_ref() {
            SetExpr::Select(select) => self.check_select(select),
            SetExpr::SetOperation { op, .. } => refuse(
                query.body.span(),
                format!(
                    "{op} is not supported in a view; declare a view for each part and unite them in a query"
                ),
            ),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_table_factor(&mut self, relation: &TableFactor) -> ControlFlow<Refusal> {
        match is_sample(relation) {
            true => refuse(
                relation.span(),
                "TABLESAMPLE has other rows at each run, so a view of it can't be rebuilt; put what chooses them into the facts, or sample in a query over the view by `WHERE random() < 0.1`",
            ),
            false => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<Refusal> {
        self.relations += usize::from(relation.to_string().trim_matches('"') == self.topic);
        if self.relations > 1 {
            return refuse(
                relation.span(),
                format!(
                    "`{relation}` is read a second time; declare one view for each aggregation and join the views in a query"
                ),
            );
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Refusal> {
        let Expr::Function(function) = expr else {
            return ControlFlow::Continue(());
        };
        let name = function.name.0.last().and_then(|part| part.as_ident());
        let name = name.map_or_else(
            || function.name.to_string().to_lowercase(),
            |ident| ident.value.to_lowercase(),
        );
        match self.volatility(&name) {
            Some(Volatility::Stable) => refuse(
                function.name.span(),
                format!(
                    "`{name}()` has another value at each run, so batch and speed layer would disagree; use it in a query over the view, for example `WHERE minute >= now() - INTERVAL '4 hours'`"
                ),
            ),
            Some(Volatility::Volatile) => refuse(
                function.name.span(),
                format!(
                    "`{name}()` has another value at each call, so a view of it can't be rebuilt; put the value into the facts"
                ),
            ),
            _ if name == "combine" => refuse(
                function.name.span(),
                "`combine` merges a view's states; use it in a query over the view",
            ),
            _ => ControlFlow::Continue(()),
        }
    }
}
