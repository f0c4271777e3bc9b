//! Parameters of statements, `$1` and so on: of which types they are, and what stands for them. Values
//! are written into the statement before it is planned, so a statement with parameters is planned as
//! one without.
//!
//! What type a parameter has, the first of these says that knows it:
//! - whoever sends the statement,
//! - a cast around it,
//! - LIMIT and OFFSET: `bigint`,
//! - the engine, from what the parameter is compared, added or listed with. `= ANY($1)` is asked as
//!   `= $1` and is a list of that; COALESCE and CASE are asked as comparisons of their branches;
//!   what is added to a time is an interval,
//! - text, as in PostgreSQL.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use anabranch_shared::sql::parse;
use anabranch_shared::{Error, Result};
use arrow::datatypes::{DataType, Field, IntervalUnit};
use datafusion::execution::SessionState;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, Expr, Ident, LimitClause, Query, Statement as Sql, UnaryOperator,
    Value, Visit, VisitMut, VisitorMut, visit_expressions,
};

/// The most parameters of a statement: the protocols count them in 16 bits.
pub(crate) const MOST: usize = 65_535;

/// The number of a parameter, counted from 1.
fn number(expr: &Expr) -> Option<usize> {
    let Expr::Value(value) = expr else {
        return None;
    };
    let Value::Placeholder(name) = &value.value else {
        return None;
    };
    name.strip_prefix('$')?.parse().ok().filter(|n| *n > 0)
}

/// The same statement, seen as the engine's.
fn sql_of(statement: &mut Statement) -> Option<&mut Sql> {
    match statement {
        Statement::Statement(sql) => Some(sql),
        Statement::Explain(explain) => sql_of(&mut explain.statement),
        _ => None,
    }
}

fn visit<V: VisitorMut>(statement: &mut Statement, visitor: &mut V) -> ControlFlow<V::Break> {
    match sql_of(statement) {
        Some(sql) => VisitMut::visit(sql, visitor),
        None => ControlFlow::Continue(()),
    }
}

/// Writes values into a statement, in the order of its parameters.
///
/// # Errors
/// `Invalid` for a parameter without a value.
pub(crate) fn bind(statement: &mut Statement, values: &[Expr]) -> Result<()> {
    match visit(statement, &mut Binder { values }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(n) => Err(Error::Invalid(format!(
            "there is no parameter ${n}: {} came with the statement",
            anabranch_shared::counted(values.len() as u64, "value", "values")
        ))),
    }
}

struct Binder<'a> {
    values: &'a [Expr],
}

impl VisitorMut for Binder<'_> {
    type Break = usize;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<usize> {
        // A count of rows is a number and nothing else.
        for count in counts(query) {
            if let Some(n) = number(count) {
                let Some(value) = self.values.get(n - 1) else {
                    return ControlFlow::Break(n);
                };
                *count = without_cast(value).clone();
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<usize> {
        let Some(n) = number(expr) else {
            return ControlFlow::Continue(());
        };
        match self.values.get(n - 1) {
            Some(value) => {
                *expr = value.clone();
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(n),
        }
    }
}

/// The numbers of rows of a query.
fn counts(query: &mut Query) -> impl Iterator<Item = &mut Expr> {
    let (limit, offset) = match &mut query.limit_clause {
        Some(LimitClause::LimitOffset { limit, offset, .. }) => {
            (limit.as_mut(), offset.as_mut().map(|o| &mut o.value))
        }
        Some(LimitClause::OffsetCommaLimit { offset, limit }) => (Some(limit), Some(offset)),
        None => (None, None),
    };
    limit.into_iter().chain(offset)
}

fn without_cast(value: &Expr) -> &Expr {
    match value {
        Expr::Cast { expr, .. } => expr,
        value => value,
    }
}

/// A value as an expression: text in a type, of bytes their hexadecimal digits. What has no text is
/// NULL.
pub(crate) fn literal(data_type: &DataType, text: Option<&str>) -> Expr {
    let Some(text) = text else {
        return null_of(data_type);
    };
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => quoted(text),
        DataType::Binary
        | DataType::BinaryView
        | DataType::LargeBinary
        | DataType::FixedSizeBinary(_) => Expr::value(Value::HexStringLiteral(text.to_owned())),
        DataType::Boolean => Expr::value(Value::Boolean(text == "true")),
        DataType::Int64 => integer(text),
        DataType::Int32 => cast(integer(text), "INT"),
        DataType::Int16 => cast(integer(text), "SMALLINT"),
        data_type => arrow_cast(quoted(text), data_type),
    }
}

/// A list of such values.
pub(crate) fn list(item: &DataType, texts: &[Option<String>]) -> Expr {
    let items = texts.iter().map(|text| literal(item, text.as_deref()));
    let array = call("make_array", items.collect());
    arrow_cast(array, &list_of(item))
}

/// A list type whose items may be NULL.
pub(crate) fn list_of(item: &DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item.clone(), true)))
}

/// NULL of a type.
pub(crate) fn null_of(data_type: &DataType) -> Expr {
    let null = Expr::value(Value::Null);
    match data_type {
        DataType::Int64 => cast(null, "BIGINT"),
        data_type => arrow_cast(null, data_type),
    }
}

fn quoted(text: &str) -> Expr {
    Expr::value(Value::SingleQuotedString(text.to_owned()))
}

fn integer(text: &str) -> Expr {
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let number = Expr::value(Value::Number(digits.to_owned(), false));
    match is_negative {
        true => Expr::Nested(Box::new(Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr: Box::new(number),
        })),
        false => number,
    }
}

fn cast(expr: Expr, data_type: &str) -> Expr {
    use datafusion::sql::sqlparser::ast::DataType as SqlType;
    let data_type = match data_type {
        "INT" => SqlType::Int(None),
        "SMALLINT" => SqlType::SmallInt(None),
        _ => SqlType::BigInt(None),
    };
    Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(expr),
        data_type,
        array: false,
        format: None,
    }
}

fn arrow_cast(expr: Expr, data_type: &DataType) -> Expr {
    call("arrow_cast", vec![expr, quoted(&data_type.to_string())])
}

/// A call of a function of the engine.
pub(crate) fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    use datafusion::sql::sqlparser::ast::{
        Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, ObjectName,
    };
    let args = arguments
        .into_iter()
        .map(|a| FunctionArg::Unnamed(FunctionArgExpr::Expr(a)));
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: args.collect(),
            clauses: vec![],
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}

/// What a statement's text says of its parameters.
#[derive(Default)]
struct Found {
    numbers: BTreeSet<usize>,
    /// The types of casts around them, in SQL.
    casts: BTreeMap<usize, String>,
    counts: BTreeSet<usize>,
    lists: BTreeSet<usize>,
    /// Those that are added to something, or taken from it.
    added: BTreeSet<usize>,
}

impl VisitorMut for Found {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.counts.extend(counts(query).filter_map(|e| number(e)));
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Some(n) = number(expr) {
            self.numbers.insert(n);
        }
        match expr {
            Expr::Cast {
                expr, data_type, ..
            } => {
                if let Some(n) = number(expr) {
                    self.casts.entry(n).or_insert_with(|| data_type.to_string());
                }
            }
            Expr::BinaryOp {
                op: BinaryOperator::Plus | BinaryOperator::Minus,
                right,
                ..
            } => self.added.extend(number(right)),
            Expr::AnyOp { right, .. } | Expr::AllOp { right, .. } => {
                self.lists.extend(number(without_nesting(right)));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// The parameters of a part of a statement, each once.
pub(crate) fn placeholders(part: &impl Visit) -> Vec<Expr> {
    let mut found = BTreeMap::new();
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) = visit_expressions(part, |expr| {
        if let Some(n) = number(expr) {
            found.insert(n, expr.clone());
        }
        ControlFlow::<()>::Continue(())
    });
    found.into_values().collect()
}

fn without_nesting(expr: &Expr) -> &Expr {
    match expr {
        Expr::Nested(inner) => without_nesting(inner),
        expr => expr,
    }
}

/// Asks the same of the engine in words that it takes a type from. Answers are not made of this.
struct AsComparisons;

impl VisitorMut for AsComparisons {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let equal = |left: &Expr, right: &Expr| Expr::BinaryOp {
            left: Box::new(left.clone()),
            op: BinaryOperator::Eq,
            right: Box::new(right.clone()),
        };
        let made = match expr {
            Expr::AnyOp { left, right, .. } | Expr::AllOp { left, right, .. } => {
                number(without_nesting(right)).map(|_| equal(left, without_nesting(right)))
            }
            Expr::Function(function)
                if function.name.to_string().eq_ignore_ascii_case("coalesce") =>
            {
                let arguments = arguments(function);
                let known = arguments.iter().find(|a| number(a).is_none()).cloned();
                known.and_then(|known| compared(&arguments, &known))
            }
            Expr::Case {
                conditions,
                else_result,
                ..
            } => {
                let branches = conditions.iter().map(|when| &when.result);
                let branches: Vec<Expr> = branches.chain(else_result.as_deref()).cloned().collect();
                let known = branches.iter().find(|b| number(b).is_none()).cloned();
                known.and_then(|known| compared(&branches, &known))
            }
            _ => None,
        };
        if let Some(made) = made {
            *expr = made;
        }
        ControlFlow::Continue(())
    }
}

/// The arguments of a call that have no names.
pub(crate) fn arguments(function: &datafusion::sql::sqlparser::ast::Function) -> Vec<Expr> {
    use datafusion::sql::sqlparser::ast::{FunctionArg, FunctionArgExpr, FunctionArguments};
    let FunctionArguments::List(list) = &function.args else {
        return vec![];
    };
    let of = |arg: &FunctionArg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    };
    list.args.iter().filter_map(of).collect()
}

/// `CASE WHEN $1 = known OR … THEN known ELSE known END`: of the type of `known`.
fn compared(all: &[Expr], known: &Expr) -> Option<Expr> {
    let open = all.iter().filter(|e| number(e).is_some());
    let condition = open
        .map(|parameter| Expr::BinaryOp {
            left: Box::new(parameter.clone()),
            op: BinaryOperator::Eq,
            right: Box::new(known.clone()),
        })
        .reduce(|left, right| Expr::BinaryOp {
            left: Box::new(left),
            op: BinaryOperator::Or,
            right: Box::new(right),
        })?;
    use datafusion::sql::sqlparser::ast::CaseWhen;
    use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
    Some(Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![CaseWhen {
            condition,
            result: known.clone(),
        }],
        else_result: Some(Box::new(known.clone())),
    })
}

/// The types of a statement's parameters, of which some may be stated.
///
/// # Errors
/// `Invalid` for a number that is too large, and those of the engine for a cast to no type.
pub(crate) async fn inferred(
    state: &SessionState,
    statement: &Statement,
    stated: &[Option<DataType>],
) -> Result<Vec<DataType>> {
    let mut found = Found::default();
    let mut asked = statement.clone();
    // Neither ends early.
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) = visit(&mut asked, &mut found);
    let count = found.numbers.iter().chain(&found.counts).max().copied();
    let count = count.unwrap_or(0).max(stated.len());
    if count > MOST {
        return Err(Error::Invalid(format!(
            "the statement has parameter ${count}; ${MOST} is the last one that there may be"
        )));
    }
    let mut types: Vec<Option<DataType>> = stated.to_vec();
    types.resize(count, None);
    let mut set = |n: usize, data_type: DataType| {
        if let Some(open) = types.get_mut(n - 1) {
            open.get_or_insert(data_type);
        }
    };
    for (n, written) in &found.casts {
        set(*n, of_sql(state, written).await?);
    }
    for n in &found.counts {
        set(*n, DataType::Int64);
    }
    if types.iter().any(Option::is_none) {
        let (ControlFlow::Continue(()) | ControlFlow::Break(())) =
            visit(&mut asked, &mut AsComparisons);
        let known: Vec<Expr> = (1..)
            .zip(&types)
            .map(|(n, t)| match t {
                Some(data_type) => null_of(data_type),
                None => Expr::value(Value::Placeholder(format!("${n}"))),
            })
            .collect();
        bind(&mut asked, &known)?;
        // Where this can't be planned the statement itself says why.
        if let Ok(plan) = state.statement_to_plan(asked).await
            && let Ok(told) = plan.get_parameter_types()
        {
            for (n, open) in (1..).zip(&mut types) {
                let Some(Some(told)) = told.get(&format!("${n}")) else {
                    continue;
                };
                let of_time = matches!(told, DataType::Timestamp(..));
                open.get_or_insert_with(|| match told {
                    told if found.lists.contains(&n) => list_of(told),
                    _ if of_time && found.added.contains(&n) => {
                        DataType::Interval(IntervalUnit::MonthDayNano)
                    }
                    told => told.clone(),
                });
            }
        }
    }
    let types = types.into_iter().zip(1..);
    Ok(types
        .map(|(known, n)| match known {
            Some(DataType::Null) | None if found.lists.contains(&n) => list_of(&DataType::Utf8),
            Some(DataType::Null) | None => DataType::Utf8,
            Some(known) => known,
        })
        .collect())
}

/// A type that is written in SQL.
async fn of_sql(state: &SessionState, written: &str) -> Result<DataType> {
    let statement = parse(state, &format!("SELECT CAST(NULL AS {written})"))?;
    let plan = state.statement_to_plan(statement).await?;
    Ok(plan.schema().field(0).data_type().clone())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use arrow::datatypes::{Schema, TimeUnit};
    use datafusion::datasource::MemTable;
    use datafusion::prelude::SessionContext;

    use super::*;

    fn context() -> SessionContext {
        let context = SessionContext::new();
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let schema = Arc::new(Schema::new(vec![
            Field::new("minute", utc, false),
            Field::new("url", DataType::Utf8View, false),
            Field::new("views", DataType::Int64, true),
            Field::new("share", DataType::Float64, true),
        ]));
        let table = MemTable::try_new(schema, vec![vec![]]).unwrap();
        context.register_table("v", Arc::new(table)).unwrap();
        context
    }

    fn read(context: &SessionContext, sql: &str) -> Statement {
        parse(&context.state(), sql).unwrap()
    }

    async fn types(sql: &str) -> Vec<String> {
        let context = context();
        let statement = read(&context, sql);
        let types = inferred(&context.state(), &statement, &[]).await.unwrap();
        types.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn types_come_from_where_parameters_stand() {
        let interval = "Interval(MonthDayNano)";
        for (sql, expected) in [
            (
                "SELECT * FROM v WHERE views > $1 AND url = $2",
                vec!["Int64", "Utf8View"],
            ),
            ("SELECT * FROM v LIMIT $1 OFFSET $2", vec!["Int64", "Int64"]),
            ("SELECT $1::int4", vec!["Int32"]),
            ("SELECT $1", vec!["Utf8"]),
            ("SELECT * FROM v WHERE views = ANY($1)", vec!["List(Int64)"]),
            ("SELECT * FROM v WHERE minute > now() - $1", vec![interval]),
            (
                "SELECT coalesce($1, url) FROM v WHERE views > $2",
                vec!["Utf8View", "Int64"],
            ),
            (
                "SELECT CASE WHEN views > 1 THEN $1 ELSE share END FROM v",
                vec!["Float64"],
            ),
            (
                "SELECT views FROM v WHERE views IN ($1, $2)",
                vec!["Int64", "Int64"],
            ),
        ] {
            assert_eq!(types(sql).await, expected, "{sql}");
        }
    }

    #[tokio::test]
    async fn what_is_stated_counts_first() {
        let context = context();
        let statement = read(&context, "SELECT * FROM v WHERE views > $1");
        let stated = [Some(DataType::Int32)];
        let types = inferred(&context.state(), &statement, &stated).await;
        assert_eq!(types.unwrap(), [DataType::Int32]);
    }

    #[tokio::test]
    async fn values_are_written_into_the_statement() {
        let context = context();
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let values = [
            literal(&DataType::Int64, Some("-3")),
            literal(&DataType::Utf8, Some("it's")),
            literal(&utc, Some("2026-01-02 03:04:05.5+00")),
            list(&DataType::Int64, &[Some("1".into()), None]),
            list(&DataType::Int64, &[]),
            literal(&DataType::Float64, None),
        ];
        let sql = "SELECT $1, $2, $3, $4, $5, $6, 7 FROM (VALUES (1)) LIMIT $7";
        let mut statement = read(&context, sql);
        assert!(bind(&mut statement, &values).is_err());
        let mut statement = read(&context, sql);
        let values = [values.as_slice(), &[literal(&DataType::Int32, Some("1"))]].concat();
        bind(&mut statement, &values).unwrap();
        let plan = context.state().statement_to_plan(statement).await.unwrap();
        let rows = context.execute_logical_plan(plan).await.unwrap();
        let rows = rows.collect().await.unwrap();
        let shown: Vec<String> = (0..6)
            .map(|c| {
                let column = rows[0].column(c);
                let text = arrow::util::display::array_value_to_string(column, 0).unwrap();
                format!("{} {text}", column.data_type())
            })
            .collect();
        assert_eq!(
            shown,
            [
                "Int64 -3",
                "Utf8 it's",
                "Timestamp(µs, \"UTC\") 2026-01-02T03:04:05.500Z",
                "List(Int64) [1, ]",
                "List(Int64) []",
                "Float64 ",
            ]
        );
    }
}
