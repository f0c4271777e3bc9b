//! What a view's SQL may not hold, found in its syntax tree, where every part still knows its line
//! and column.

use std::ops::ControlFlow;

use arrow::array::timezone::Tz;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::Volatility;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{
    Expr, Function, GroupByExpr, Ident, ObjectName, Query, Select, SetExpr, Spanned,
    Statement as SqlStatement, TableFactor, Value, Visit, Visitor,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::caret::{Place, at};
use crate::sql::{KnownNames, Wrong};
use crate::{Error, Result, sql};

/// Refuses a query that reads a sample of a relation: the engine would read all of it.
///
/// # Errors
/// `Statement`, with the place and what to write instead.
pub fn refuse_samples(statement: &SqlStatement, text: &str) -> Result<()> {
    match statement.visit(&mut Samples) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(span) => Err(sql::refused(
            text,
            Place::of(span),
            "TABLESAMPLE is refused: all rows would be read; write `WHERE random() < 0.1` for about a tenth of them",
        )),
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

/// Refuses what can't be a view: everything that is found, each with its place.
pub(super) fn check(
    view: &str,
    sql: &str,
    (topic, references): (&str, &[String]),
    state: &SessionState,
) -> Result<()> {
    let mut statements = DFParserBuilder::new(sql)
        .build()
        .and_then(|mut p| p.parse_statements())
        .map_err(|e| {
            let wrong = Wrong::of(&e, sql, &KnownNames::default());
            Error::view(view, at(sql, wrong.place, &wrong.message))
        })?;
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
        references,
        shadowed: false,
        ctes: Vec::new(),
        reads: 0,
        joined: false,
        refusals: Vec::new(),
    };
    // The checker never ends its visit early.
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) = query.visit(&mut checker);
    let shown = checker.refusals.iter();
    let shown = shown.map(|(span, reason)| at(sql, Place::of(*span), reason));
    match shown.collect::<Vec<_>>() {
        none if none.is_empty() => Ok(()),
        found => Err(Error::view(view, found.join("\n"))),
    }
}

/// A name as the planner takes it: in lower case unless it is quoted.
fn as_planned(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_lowercase(),
    }
}

struct Checker<'a> {
    state: &'a SessionState,
    topic: &'a str,
    /// The references that it may be joined with.
    references: &'a [String],
    /// Whether a CTE has the topic's name, so that the name alone does not tell what is read.
    shadowed: bool,
    /// The names of CTEs.
    ctes: Vec<String>,
    /// How often the topic is read.
    reads: usize,
    /// Whether several relations are refused already.
    joined: bool,
    refusals: Vec<(Span, String)>,
}

impl Checker<'_> {
    fn volatility(&self, name: &str) -> Option<Volatility> {
        self.state.udf(name).ok().map(|f| f.signature().volatility)
    }

    /// Whether a side of a join is a reference, or the topic beside one.
    fn is_reference(&self, relation: &TableFactor) -> bool {
        let TableFactor::Table { name, .. } = relation else {
            return false;
        };
        let last = name.0.last().and_then(|part| part.as_ident());
        last.is_some_and(|name| {
            let name = as_planned(name);
            self.references.contains(&name) || (name == self.topic && !self.references.is_empty())
        })
    }

    fn refuse(&mut self, span: Span, reason: impl Into<String>) {
        self.refusals.push((span, reason.into()));
    }

    fn check_select(&mut self, select: &Select) {
        let joins = select.from.iter().flat_map(|t| &t.joins);
        let mut others = joins.filter(|join| !self.is_reference(&join.relation));
        if let Some(join) = others.next() {
            self.joined = true;
            self.refuse(
                join.relation.span(),
                "a view joins a topic with references alone; declare this as a reference, or a view for each side and join them in a query",
            );
        }
        if let [_, second, ..] = select.from.as_slice() {
            self.joined = true;
            self.refuse(
                second.span(),
                "a second relation is a join, which is not supported in a view; declare a view for each side and join them in a query",
            );
        }
        if let GroupByExpr::Expressions(exprs, modifiers) = &select.group_by {
            let sets =
                |e: &Expr| matches!(e, Expr::GroupingSets(_) | Expr::Rollup(_) | Expr::Cube(_));
            let found = exprs.iter().find(|e| sets(e));
            if found.is_some() || !modifiers.is_empty() {
                self.refuse(
                    found.map_or_else(|| select.group_by.span(), Spanned::span),
                    "GROUPING SETS, ROLLUP and CUBE are not supported; declare a view for each set, or roll up in a query with `combine`",
                );
            }
        }
    }

    fn check_function(&mut self, function: &Function) {
        let name = function.name.0.last().and_then(|part| part.as_ident());
        let name = name.map_or_else(
            || function.name.to_string().to_lowercase(),
            |ident| ident.value.to_lowercase(),
        );
        let span = function.name.span();
        match self.volatility(&name) {
            Some(Volatility::Stable) => self.refuse(
                span,
                format!(
                    "`{name}()` has another value at each run, so batch and speed layer would disagree; use it in a query over the view, for example `WHERE minute >= now() - INTERVAL '4 hours'`"
                ),
            ),
            Some(Volatility::Volatile) => self.refuse(
                span,
                format!(
                    "`{name}()` has another value at each call, so a view of it can't be rebuilt; put the value into the facts"
                ),
            ),
            _ if name == "combine" => self.refuse(
                span,
                "`combine` merges a view's states; use it in a query over the view",
            ),
            _ => {}
        }
    }

    /// Refuses a zone that nobody knows: the engine would take it for UTC, or fail at the first fact.
    fn check_zone(&mut self, zone: &Expr) {
        let Expr::Value(value) = zone else { return };
        let Value::SingleQuotedString(name) = &value.value else {
            return;
        };
        if name.parse::<Tz>().is_err() {
            self.refuse(
                value.span,
                format!(
                    "no time zone `{name}`; write a name of the IANA database such as `Europe/Berlin`, or an offset such as `+01:00`"
                ),
            );
        }
    }
}

impl Visitor for Checker<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let tables = query.with.iter().flat_map(|with| &with.cte_tables);
        let names: Vec<String> = tables.map(|cte| as_planned(&cte.alias.name)).collect();
        self.shadowed |= names.iter().any(|name| name == self.topic);
        self.ctes.extend(names);
        match query.body.as_ref() {
            SetExpr::Select(select) => self.check_select(select),
            SetExpr::SetOperation { op, .. } => {
                self.joined = true;
                self.refuse(
                    query.body.span(),
                    format!(
                        "{op} is not supported in a view; declare a view for each part and unite them in a query"
                    ),
                );
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, relation: &TableFactor) -> ControlFlow<()> {
        if is_sample(relation) {
            self.refuse(
                relation.span(),
                "TABLESAMPLE has other rows at each run, so a view of it can't be rebuilt; put what chooses them into the facts, or sample in a query over the view by `WHERE random() < 0.1`",
            );
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let last = relation.0.last().and_then(|part| part.as_ident());
        let name = last.map_or_else(|| relation.to_string(), as_planned);
        let is_topic = name == self.topic;
        self.reads += usize::from(is_topic);
        let is_known = is_topic || self.references.contains(&name) || self.ctes.contains(&name);
        if !is_known && !self.joined {
            self.refuse(
                relation.span(),
                format!(
                    "`{name}` is another relation, and a view reads one topic, here `{}`; declare a view for each side, and join or filter by the other in a query over the views",
                    self.topic
                ),
            );
        }
        if is_topic && self.reads > 1 && !self.joined && !self.shadowed {
            self.refuse(
                relation.span(),
                format!(
                    "`{relation}` is read a second time; declare one view for each aggregation and join the views in a query"
                ),
            );
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(function) => self.check_function(function),
            Expr::AtTimeZone { time_zone, .. } => self.check_zone(time_zone),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
