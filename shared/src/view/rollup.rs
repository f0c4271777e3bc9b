//! Roll-ups: views over a view. Each is compiled to the view over the topic that it equals, by putting what
//! the parent says into what the child says: the parent's keys under the child's expressions, its
//! aggregates where the child merges them (`combine(x)`, the sum of counts and sums, the least of the
//! least), its filter below. So nothing else knows that there are roll-ups.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::execution::SessionState;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr,
    Ident, Join, JoinConstraint, JoinOperator, ObjectName, OrderByKind, Query, Select, SelectItem,
    SetExpr, Spanned, Statement as SqlStatement, TableFactor, TableWithJoins, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use super::plan::planning_session;
use crate::caret::{Place, at};
use crate::{Error, Result, nearest, sql};

/// Aggregates of which one over its own values is the same over the facts.
const NESTS: [&str; 8] = [
    "sum", "min", "max", "bool_and", "bool_or", "bit_and", "bit_or", "bit_xor",
];

/// Aggregates that count a value once, however often it is there.
const COUNTS_ONCE: [&str; 7] = [
    "min",
    "max",
    "bool_and",
    "bool_or",
    "bit_and",
    "bit_or",
    "approx_distinct",
];

/// The aggregate of queries and roll-ups that merges states.
const COMBINE: &str = "combine";

/// The view over the topic that a view over another one equals, as SQL. `parent` is the other one's name,
/// and its SQL, over the topic.
///
/// # Errors
/// `View`, with the place and what to write instead, for what is none.
pub fn rolled_up(view: &str, text: &str, parent: (&str, &str)) -> Result<String> {
    sql::on_large_stack(|| compiled(view, text, parent))
}

fn compiled(view: &str, text: &str, (parent, of_parent): (&str, &str)) -> Result<String> {
    let state = planning_session()?.state();
    let said = |place: Option<Span>, reason: String| {
        Error::view(view, at(text, place.and_then(Place::of), &reason))
    };
    let parent = Parent::of(parent, of_parent, &state).map_err(|reason| said(None, reason))?;
    let mut statement = match sql::parse(&state, text)? {
        Statement::Statement(statement) => statement,
        _ => return Err(said(None, "is no SELECT".to_owned())),
    };
    let SqlStatement::Query(query) = statement.as_mut() else {
        return Err(said(None, "is no SELECT".to_owned()));
    };
    let mut finder = Finder {
        parent: &parent,
        state: &state,
        found: 0,
    };
    if let ControlFlow::Break(Refused { span, reason }) = VisitMut::visit(query, &mut finder) {
        return Err(said(span, reason));
    }
    if finder.found != 1 {
        let reason = format!(
            "reads `{}` {} times in a way that can't be rolled up; write one `SELECT … FROM {} GROUP BY …`, without a join",
            parent.name, finder.found, parent.name
        );
        return Err(said(None, reason));
    }
    Ok(format!("{query:#}"))
}

/// Why something is no roll-up, and where it stands.
struct Refused {
    span: Option<Span>,
    reason: String,
}

fn refused<T>(span: Span, reason: String) -> ControlFlow<Refused, T> {
    ControlFlow::Break(Refused {
        span: Some(span),
        reason,
    })
}

/// What a column of the parent is.
#[derive(Clone)]
enum Kind {
    /// Told by its keys, or of a parent whose rows are facts by the fact.
    Key,
    /// One aggregate, by its name.
    Aggregate { function: String, distinct: bool },
    /// Computed from aggregates.
    Computed,
}

#[derive(Clone)]
struct Column {
    expr: Expr,
    kind: Kind,
}

/// A view that is read by another one.
#[derive(Clone)]
struct Parent {
    name: String,
    columns: BTreeMap<String, Column>,
    /// What it reads, and which of that.
    select: Select,
    /// Whether a row of it stands for many facts.
    groups: bool,
}

impl Parent {
    fn of(name: &str, text: &str, state: &SessionState) -> std::result::Result<Self, String> {
        let way_out = |what: &str| {
            format!(
                "view `{name}` has {what}, so that its rows don't tell what theirs would be; read the topic instead, or another view without that"
            )
        };
        let parsed = sql::parse(state, text).map_err(|e| e.to_string())?;
        let Statement::Statement(statement) = parsed else {
            return Err(way_out("no SELECT"));
        };
        let SqlStatement::Query(query) = *statement else {
            return Err(way_out("no SELECT"));
        };
        if query.with.is_some() {
            return Err(way_out("a WITH"));
        }
        if query.limit_clause.is_some() || query.fetch.is_some() {
            return Err(way_out("a LIMIT"));
        }
        let SetExpr::Select(select) = *query.body else {
            return Err(way_out("a UNION"));
        };
        let is_table = |from: &[_]| matches!(from, [one] if is_of_tables(one));
        let has_more = [
            (select.distinct.is_some(), "a DISTINCT"),
            (select.having.is_some(), "a HAVING"),
            (select.qualify.is_some(), "a QUALIFY"),
            (!is_table(&select.from), "a sub-query"),
        ];
        if let Some((_, what)) = has_more.iter().find(|(has, _)| *has) {
            return Err(way_out(what));
        }
        let mut columns = BTreeMap::new();
        for item in &select.projection {
            let (expr, name) = match item {
                SelectItem::ExprWithAlias { expr, alias } => (expr, folded(alias)),
                SelectItem::UnnamedExpr(expr) => match expr {
                    Expr::Identifier(ident) => (expr, folded(ident)),
                    Expr::CompoundIdentifier(parts) => match parts.last() {
                        Some(ident) => (expr, folded(ident)),
                        None => continue,
                    },
                    // Nobody can name it.
                    _ => continue,
                },
                _ => return Err(way_out("a `*`")),
            };
            let mut aggregates = Aggregates {
                state,
                found: 0,
                windows: false,
            };
            let ControlFlow::Continue(()) = VisitMut::visit(&mut expr.clone(), &mut aggregates);
            if aggregates.windows {
                return Err(way_out("a window function"));
            }
            let kind = match (aggregates.found, expr) {
                (0, _) => Kind::Key,
                (1, Expr::Function(f)) if is_aggregate(f, state) => Kind::Aggregate {
                    function: name_of(f),
                    distinct: is_distinct(f),
                },
                _ => Kind::Computed,
            };
            let column = Column {
                expr: expr.clone(),
                kind,
            };
            columns.insert(name, column);
        }
        let by_none = matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty());
        let aggregates = columns.values().any(|c| !matches!(c.kind, Kind::Key));
        Ok(Self {
            name: name.to_owned(),
            groups: !by_none || aggregates,
            columns,
            select: *select,
        })
    }

    /// The same, with the name of what it reads before each of its columns: they are not the only ones
    /// where something is joined.
    fn qualified(&self) -> Self {
        let mut qualified = self.clone();
        if let [one] = self.select.from.as_slice()
            && one.joins.is_empty()
            && let Some(table) = name_in(&one.relation)
        {
            let mut put = Qualified(Ident::with_quote('"', table));
            for column in qualified.columns.values_mut() {
                let ControlFlow::Continue(()) = VisitMut::visit(&mut column.expr, &mut put);
            }
            if let Some(condition) = &mut qualified.select.selection {
                let ControlFlow::Continue(()) = VisitMut::visit(condition, &mut put);
            }
        }
        qualified
    }

    fn no_column(&self, ident: &Ident) -> String {
        let near = nearest(&ident.value, self.columns.keys().map(String::as_str));
        let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        let all: Vec<&str> = self.columns.keys().map(String::as_str).collect();
        format!(
            "no column `{}`{near} (the columns of `{}` are: {})",
            ident.value,
            self.name,
            all.join(", ")
        )
    }
}

/// Whether a relation, and whatever is joined with it, is named: what a reference is, joined below.
fn is_of_tables(from: &TableWithJoins) -> bool {
    let is_plain = |relation: &TableFactor| {
        matches!(
            relation,
            TableFactor::Table {
                args: None,
                sample: None,
                ..
            }
        )
    };
    is_plain(&from.relation) && from.joins.iter().all(|join| is_plain(&join.relation))
}

/// The name under which a relation is read.
fn name_in(relation: &TableFactor) -> Option<String> {
    match relation {
        TableFactor::Table {
            alias: Some(alias), ..
        } => Some(folded(&alias.name)),
        TableFactor::Table {
            name: ObjectName(parts),
            ..
        } => parts.last().and_then(|part| part.as_ident()).map(folded),
        _ => None,
    }
}

/// The condition of a join, where it is written with ON.
fn condition_of(join: &mut Join) -> Option<&mut Expr> {
    match &mut join.join_operator {
        JoinOperator::Join(on)
        | JoinOperator::Inner(on)
        | JoinOperator::Left(on)
        | JoinOperator::LeftOuter(on) => match on {
            JoinConstraint::On(condition) => Some(condition),
            _ => None,
        },
        _ => None,
    }
}

/// A name as the engine has it.
fn folded(ident: &Ident) -> String {
    match ident.quote_style {
        None => ident.value.to_lowercase(),
        Some(_) => ident.value.clone(),
    }
}

fn name_of(function: &Function) -> String {
    let ObjectName(parts) = &function.name;
    let ident = parts.last().and_then(|part| part.as_ident());
    ident.map(folded).unwrap_or_default()
}

fn is_aggregate(function: &Function, state: &SessionState) -> bool {
    let name = name_of(function);
    function.over.is_none() && (name == COMBINE || state.aggregate_functions().contains_key(&name))
}

fn is_distinct(function: &Function) -> bool {
    match &function.args {
        FunctionArguments::List(list) => list.duplicate_treatment.is_some(),
        _ => false,
    }
}

/// Puts a table's name before names of columns.
struct Qualified(Ident);

impl VisitorMut for Qualified {
    type Break = std::convert::Infallible;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        if let Expr::Identifier(column) = expr {
            *expr = Expr::CompoundIdentifier(vec![self.0.clone(), column.clone()]);
        }
        ControlFlow::Continue(())
    }
}

/// Counts the aggregates of an expression.
struct Aggregates<'a> {
    state: &'a SessionState,
    found: usize,
    windows: bool,
}

impl VisitorMut for Aggregates<'_> {
    type Break = std::convert::Infallible;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        if let Expr::Function(f) = expr {
            self.found += usize::from(is_aggregate(f, self.state));
            self.windows |= f.over.is_some();
        }
        ControlFlow::Continue(())
    }
}

/// Finds the SELECT that reads the parent, and puts the parent into it.
struct Finder<'a> {
    parent: &'a Parent,
    state: &'a SessionState,
    found: usize,
}

impl Finder<'_> {
    /// Whether the parent is joined with something: it can only stand once.
    fn is_joined_again(&self, from: &TableWithJoins) -> bool {
        from.joins.iter().any(|join| match &join.relation {
            TableFactor::Table { name, .. } => is_named(name, &self.parent.name),
            _ => false,
        })
    }
}

impl VisitorMut for Finder<'_> {
    type Break = Refused;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Refused> {
        let SetExpr::Select(select) = query.body.as_mut() else {
            return ControlFlow::Continue(());
        };
        let alias = match select.from.as_slice() {
            [one] if is_of_tables(one) && !self.is_joined_again(one) => match &one.relation {
                TableFactor::Table { name, alias, .. } if is_named(name, &self.parent.name) => {
                    alias.as_ref().map(|a| folded(&a.name))
                }
                _ => return ControlFlow::Continue(()),
            },
            _ => return ControlFlow::Continue(()),
        };
        self.found += 1;
        let joins = select.from.iter().flat_map(|from| &from.joins);
        let joined: BTreeSet<String> = joins.filter_map(|j| name_in(&j.relation)).collect();
        let parent = match joined.is_empty() {
            true => self.parent.clone(),
            false => self.parent.qualified(),
        };
        let mut put = Put {
            parent: &parent,
            state: self.state,
            table: alias.unwrap_or_else(|| self.parent.name.clone()),
            aliases: aliases(select),
            joined,
            names: Names::Columns,
            aggregates: 0,
        };
        put.within(select)?;
        let order = query.order_by.as_mut().map(|order| &mut order.kind);
        if let Some(OrderByKind::Expressions(all)) = order {
            put.names = Names::AliasesFirst;
            for by in all {
                VisitMut::visit(&mut by.expr, &mut put)?;
            }
        }
        ControlFlow::Continue(())
    }
}

fn is_named(name: &ObjectName, wanted: &str) -> bool {
    let ObjectName(parts) = name;
    matches!(parts.as_slice(), [part] if part.as_ident().is_some_and(|i| folded(i) == wanted))
}

/// The names that a SELECT gives what it computes.
fn aliases(select: &Select) -> BTreeSet<String> {
    let named = select.projection.iter().filter_map(|item| match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
        _ => None,
    });
    named.collect()
}

/// What a name means in a clause.
#[derive(Clone, Copy, PartialEq)]
enum Names {
    /// A column of the parent.
    Columns,
    /// That, and otherwise what the SELECT names so.
    ColumnsFirst,
    /// What the SELECT names so, and otherwise a column of the parent.
    AliasesFirst,
}

/// Puts what the parent's columns are in the place of their names.
struct Put<'a> {
    parent: &'a Parent,
    state: &'a SessionState,
    /// The name under which the parent is read.
    table: String,
    aliases: BTreeSet<String>,
    /// The names of what is joined with the parent, which stays as it is.
    joined: BTreeSet<String>,
    names: Names,
    /// The aggregates that were met.
    aggregates: usize,
}

/// What stands in the place of a merged aggregate until its filter has been looked at.
const MERGED: &str = "\u{1}merged";

/// What stands in the place of a key.
const KEY: &str = "\u{1}key";

impl Put<'_> {
    fn within(&mut self, select: &mut Select) -> ControlFlow<Refused> {
        for item in &mut select.projection {
            let name = match item {
                SelectItem::UnnamedExpr(Expr::Identifier(ident)) => ident.clone(),
                // Without its table, as any column.
                SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) if !parts.is_empty() => {
                    parts[parts.len() - 1].clone()
                }
                SelectItem::UnnamedExpr(expr) => Ident::with_quote('"', expr.to_string()),
                SelectItem::ExprWithAlias { alias, .. } => alias.clone(),
                other => {
                    let reason =
                        format!("`{other}` of a view may change under this one; name the columns");
                    return refused(other.span(), reason);
                }
            };
            if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
                VisitMut::visit(expr, self)?;
                let expr = expr.clone();
                *item = SelectItem::ExprWithAlias { expr, alias: name };
            }
        }
        let merges = self.aggregates > 0;
        if let Some(condition) = &mut select.selection {
            VisitMut::visit(condition, self)?;
        }
        let mut groups =
            !matches!(&select.group_by, GroupByExpr::Expressions(by, _) if by.is_empty());
        groups |= select.distinct.is_some();
        if self.parent.groups && !merges && !groups {
            let reason = format!(
                "gives rows of `{}`, of which each stands for many facts; merge them with GROUP BY",
                self.parent.name
            );
            return refused(select.select_token.0.span, reason);
        }
        if let GroupByExpr::Expressions(by, _) = &mut select.group_by {
            self.names = Names::ColumnsFirst;
            for expr in by {
                VisitMut::visit(expr, self)?;
            }
        }
        self.names = Names::AliasesFirst;
        if let Some(having) = &mut select.having {
            VisitMut::visit(having, self)?;
        }
        self.names = Names::Columns;
        let others = [&mut select.qualify, &mut select.prewhere];
        for expr in others.into_iter().flatten() {
            VisitMut::visit(expr, self)?;
        }
        let mut joins: Vec<Join> = select
            .from
            .iter()
            .flat_map(|from| from.joins.clone())
            .collect();
        for join in &mut joins {
            let span = join.relation.span();
            match condition_of(join) {
                Some(condition) => VisitMut::visit(condition, self)?,
                None => {
                    return refused(
                        span,
                        "is joined in another way than `LEFT JOIN … ON …` or `JOIN … ON …`; write one of these".to_owned(),
                    );
                }
            }
        }
        select.from = self.parent.select.from.clone();
        if let Some(from) = select.from.first_mut() {
            from.joins.extend(joins);
        }
        let nested = |expr: Expr| Expr::Nested(Box::new(expr));
        let of_parent = self.parent.select.selection.clone();
        select.selection = match (of_parent, select.selection.take()) {
            (Some(below), Some(own)) => Some(both(nested(below), nested(own))),
            (below, own) => below.or(own),
        };
        ControlFlow::Continue(())
    }

    /// The column of the parent that is named.
    fn column(&self, parts: &[Ident]) -> Option<(&str, &Column)> {
        let ident = match parts {
            [ident] => ident,
            [table, ident] if folded(table) == self.table => ident,
            _ => return None,
        };
        let (name, column) = self.parent.columns.get_key_value(&folded(ident))?;
        Some((name, column))
    }

    /// Whether a name is one of what is joined with the parent: of that by its table, or of none of the
    /// parent's columns.
    fn is_joined(&self, parts: &[Ident]) -> bool {
        match parts {
            [_] => !self.joined.is_empty(),
            [table, ..] => self.joined.contains(&folded(table)),
            [] => false,
        }
    }

    /// A name on its own, or with its table.
    fn named(&self, parts: &[Ident], span: Span) -> ControlFlow<Refused, Option<Expr>> {
        let by_alias = matches!(parts, [ident] if self.aliases.contains(&folded(ident)));
        if by_alias && self.names == Names::AliasesFirst {
            return ControlFlow::Continue(None);
        }
        let Some((name, column)) = self.column(parts) else {
            if self.is_joined(parts) {
                return ControlFlow::Continue(None);
            }
            if by_alias && self.names == Names::ColumnsFirst {
                return ControlFlow::Continue(None);
            }
            let Some(ident) = parts.last() else {
                return ControlFlow::Continue(None);
            };
            return refused(span, self.parent.no_column(ident));
        };
        match column.kind {
            Kind::Key => {
                let key = vec![Ident::new(KEY), Ident::new(name)];
                ControlFlow::Continue(Some(Expr::CompoundIdentifier(key)))
            }
            Kind::Aggregate { .. } | Kind::Computed => refused(
                span,
                format!(
                    "`{name}` is a finished value of `{}`, and here it would be one of many facts; merge it with `combine({name})`, or write this in a query",
                    self.parent.name
                ),
            ),
        }
    }

    /// An aggregate of the child, with what it is of.
    fn merged(&self, f: &mut Function) -> ControlFlow<Refused> {
        let (own, span) = (name_of(f), f.span());
        let FunctionArguments::List(list) = &f.args else {
            return ControlFlow::Continue(());
        };
        let named: Option<Vec<Ident>> = match list.args.as_slice() {
            [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Identifier(ident)))] => {
                Some(vec![ident.clone()])
            }
            [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::CompoundIdentifier(parts)))] => {
                Some(parts.clone())
            }
            _ => None,
        };
        let column = named.as_ref().and_then(|parts| self.column(parts));
        let parent = &self.parent.name;
        let joined = named.as_ref().is_some_and(|parts| self.is_joined(parts));
        if let (Some(ident), None, false) = (
            named.as_ref().and_then(|parts| parts.last()),
            column,
            joined,
        ) {
            return refused(span, self.parent.no_column(ident));
        }
        if let Some((name, column)) = column
            && !matches!(column.kind, Kind::Key)
        {
            let is_plain = list.duplicate_treatment.is_none() && list.clauses.is_empty();
            let merges = match &column.kind {
                Kind::Aggregate { function, distinct } => {
                    let nests = !distinct
                        && ((own == *function && NESTS.contains(&own.as_str()))
                            || (own == "sum" && function == "count"));
                    own == COMBINE || nests
                }
                _ => {
                    return refused(
                        span,
                        format!(
                            "`{name}` is computed of aggregates in `{parent}`, so it can't be merged; give `{parent}` its parts as columns, merge those, and compute it here"
                        ),
                    );
                }
            };
            if !merges || !is_plain {
                return refused(
                    span,
                    format!(
                        "`{own}` of finished values of `{parent}` is not that of the facts; write `combine({name})`"
                    ),
                );
            }
            f.name = ObjectName::from(vec![Ident::new(MERGED), Ident::new(name)]);
            f.args = FunctionArguments::None;
            return ControlFlow::Continue(());
        }
        if own == COMBINE {
            return refused(
                span,
                format!("`combine` takes one column of `{parent}` that is made by an aggregate"),
            );
        }
        let counts_once = COUNTS_ONCE.contains(&own.as_str()) || list.duplicate_treatment.is_some();
        if self.parent.groups && !counts_once {
            return refused(
                span,
                format!(
                    "`{own}` here would be of rows of `{parent}`, of which each stands for many facts; a sum of its counts counts facts, and `combine` merges its other aggregates"
                ),
            );
        }
        ControlFlow::Continue(())
    }
}

fn both(left: Expr, right: Expr) -> Expr {
    Expr::BinaryOp {
        left: Box::new(left),
        op: BinaryOperator::And,
        right: Box::new(right),
    }
}

impl VisitorMut for Put<'_> {
    type Break = Refused;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Refused> {
        refused(
            query.span(),
            "a sub-query within an expression can't be rolled up; write it in a query".to_owned(),
        )
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Refused> {
        let span = expr.span();
        let named = match expr {
            Expr::Function(f) if is_aggregate(f, self.state) => {
                self.aggregates += 1;
                return self.merged(f);
            }
            Expr::Identifier(ident) => self.named(std::slice::from_ref(ident), span)?,
            Expr::CompoundIdentifier(parts) => self.named(parts, span)?,
            _ => None,
        };
        if let Some(named) = named {
            *expr = named;
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Refused> {
        match expr {
            Expr::CompoundIdentifier(parts) => {
                if let [key, name] = parts.as_slice()
                    && key.value == KEY
                    && let Some(column) = self.parent.columns.get(&name.value)
                {
                    *expr = match &column.expr {
                        plain @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_)) => {
                            plain.clone()
                        }
                        other => Expr::Nested(Box::new(other.clone())),
                    };
                }
            }
            Expr::Function(f) => {
                let ObjectName(parts) = &f.name;
                if let [merged, name] = parts.as_slice()
                    && merged.as_ident().is_some_and(|i| i.value == MERGED)
                    && let Some(name) = name.as_ident()
                    && let Some(column) = self.parent.columns.get(&name.value)
                    && let Expr::Function(of_parent) = &column.expr
                {
                    let mut made = of_parent.clone();
                    made.filter = match (made.filter.take(), f.filter.take()) {
                        (Some(below), Some(own)) => {
                            Some(Box::new(both(Expr::Nested(below), Expr::Nested(own))))
                        }
                        (below, own) => below.or(own),
                    };
                    *expr = Expr::Function(made);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests;
