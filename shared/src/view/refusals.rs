//! What is said of parts of a view that can't be split, each with its place and the way out: the
//! planner knows what they are, the syntax tree where they stand.

use std::ops::ControlFlow;

use datafusion::logical_expr::{Expr as Planned, LogicalPlan};
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{
    Expr, Function, ObjectName, Query, SelectItem, SetExpr, Spanned, Statement as SqlStatement,
    TableFactor, Visit, Visitor,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use super::order::strip_alias;
use crate::Error;
use crate::caret::{Place, at};

/// What ends every refusal of a step below the aggregation.
const BELOW: &str = "stands below the aggregation that reads the topic, where facts are only filtered and projected, one by one";

/// What is said of a step that stands where it can't, with its place in the SQL; none where it is
/// nothing that has a name.
pub(super) fn of_node(sql: &str, node: &LogicalPlan) -> Option<String> {
    let parts = Parts::of(sql);
    let said =
        |span: Option<Span>, reason: String| Some(at(sql, span.and_then(Place::of), &reason));
    match node {
        LogicalPlan::Window(window) => {
            let name = window.window_expr.iter().find_map(|e| match strip_alias(e) {
                Planned::WindowFunction(f) => Some(f.fun.name().to_owned()),
                _ => None,
            })?;
            let span = parts.windows.iter().find(|(n, _)| *n == name);
            said(
                span.map(|(_, span)| *span),
                format!(
                    "the window function `{name}` {BELOW}; write it above the aggregation, or in a query over the topic"
                ),
            )
        }
        LogicalPlan::Unnest(_) => said(
            parts.unnest,
            format!(
                "`unnest` {BELOW}, so a fact can't become several rows; send one fact for each element, or unnest in a query over the topic"
            ),
        ),
        LogicalPlan::Limit(_) => said(
            parts.limit,
            format!("LIMIT {BELOW}; move it above the aggregation, or into a query over the view"),
        ),
        LogicalPlan::Sort(_) => said(
            parts.order,
            format!("ORDER BY {BELOW}; move it above the aggregation, or into a query over the view"),
        ),
        LogicalPlan::Join(_) => said(
            None,
            "relations are joined, which a view can't do; declare a view for each side and join them in a query".to_owned(),
        ),
        LogicalPlan::Union(_) => said(
            None,
            "relations are united, which a view can't do; declare a view for each part and unite them in a query".to_owned(),
        ),
        _ => None,
    }
}

/// Refuses a view that reads a relation which views can't read, at the place where it is named.
pub fn refuse_relation(view: &str, sql: &str, relation: &str, reason: &str) -> Error {
    let named = Parts::of(sql).relations.into_iter();
    let named = named.filter(|(name, _)| name == relation);
    let place = named.map(|(_, span)| span).next().and_then(Place::of);
    Error::view(view, at(sql, place, reason))
}

/// The columns of a view's answer that are computed and have no name of their own; none where the SQL
/// can't be read.
pub fn unnamed_columns(sql: &str) -> Vec<String> {
    let statements = DFParserBuilder::new(sql)
        .build()
        .and_then(|mut p| p.parse_statements())
        .unwrap_or_default();
    let mut unnamed = Vec::new();
    for statement in &statements {
        let Statement::Statement(statement) = statement else {
            continue;
        };
        let SqlStatement::Query(query) = statement.as_ref() else {
            continue;
        };
        let SetExpr::Select(select) = query.body.as_ref() else {
            continue;
        };
        for item in &select.projection {
            if let SelectItem::UnnamedExpr(expr) = item
                && !matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
            {
                unnamed.push(expr.to_string());
            }
        }
    }
    unnamed
}

/// The parts of a view's SQL that may be refused, each with its place.
#[derive(Default)]
struct Parts {
    /// Window functions by name.
    windows: Vec<(String, Span)>,
    unnest: Option<Span>,
    limit: Option<Span>,
    order: Option<Span>,
    relations: Vec<(String, Span)>,
}

impl Parts {
    fn of(sql: &str) -> Self {
        let mut parts = Self::default();
        let statements = DFParserBuilder::new(sql)
            .build()
            .and_then(|mut p| p.parse_statements())
            .unwrap_or_default();
        for statement in &statements {
            if let Statement::Statement(statement) = statement {
                // The visit never ends early.
                let (ControlFlow::Continue(()) | ControlFlow::Break(())) =
                    statement.visit(&mut parts);
            }
        }
        parts
    }

    fn note_function(&mut self, function: &Function) {
        let name = function.name.to_string().to_lowercase();
        let span = function.name.span();
        if name == "unnest" {
            self.unnest.get_or_insert(span);
        }
        if function.over.is_some() {
            self.windows.push((name, span));
        }
    }
}

impl Visitor for Parts {
    type Break = ();

    /// Queries within others are visited after those around them, and stand below: the last counts.
    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let known = |span: Span| (span.start.line > 0).then_some(span);
        if let Some(limit) = &query.limit_clause {
            self.limit = known(limit.span()).or(self.limit);
        }
        if let Some(order) = &query.order_by {
            self.order = known(order.span()).or(self.order);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, relation: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::UNNEST { .. } = relation {
            self.unnest.get_or_insert(relation.span());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let name = relation.to_string();
        let name = name.trim_matches('"').to_owned();
        self.relations.push((name, relation.span()));
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr {
            self.note_function(function);
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computed_columns_without_a_name_are_found() {
        let sql = "SELECT url, t.k, count(*), sum(n) AS s, date_trunc('hour', ts) FROM t GROUP BY 1, 2, 5";
        assert_eq!(unnamed_columns(sql), ["count(*)", "date_trunc('hour', ts)"]);
        assert!(unnamed_columns("not sql").is_empty());
    }
}
