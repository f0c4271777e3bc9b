//! What people write as for PostgreSQL, as the engine's: at every door, because they write it at every
//! door. Here is what a statement's text says by itself; [`operators`] has what depends on types.

pub(crate) mod arrays;
pub(crate) mod operators;
mod patterns;

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use anabranch_shared::{Error, Result};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, BinaryOperator, CastKind, DataType, ExactNumberInfo, Expr, Function, Ident,
    TableAlias, TableAliasColumnDef, TableFactor, Value, VisitMut, VisitorMut,
};

use crate::parameters::{arguments, call};

/// The engine's name of the column of a series.
const OF_SERIES: &str = "value";

/// Rewrites a statement in place.
///
/// # Errors
/// `Invalid` for a pattern of dates that can't be understood.
pub(crate) fn rewrite(statement: &mut Statement) -> Result<()> {
    let sql = match statement {
        Statement::Statement(sql) => sql,
        Statement::Explain(explain) => return rewrite(&mut explain.statement),
        _ => return Ok(()),
    };
    let mut series = Series::default();
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) =
        VisitMut::visit(sql.as_mut(), &mut series);
    match VisitMut::visit(sql.as_mut(), &mut Spellings { series }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(wrong) => Err(wrong),
    }
}

/// The aliases of series of numbers and times in FROM, by which PostgreSQL calls their column too.
#[derive(Debug, Default)]
struct Series(BTreeSet<String>);

impl VisitorMut for Series {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table {
            name,
            args: Some(_),
            alias: Some(alias),
            ..
        } = factor
            && alias.columns.is_empty()
        {
            let name = name.to_string().to_lowercase();
            let name = name.strip_prefix("pg_catalog.").unwrap_or(&name);
            if ["generate_series", "range"].contains(&name) {
                self.0.insert(alias.name.value.clone());
            }
        }
        ControlFlow::Continue(())
    }
}

struct Spellings {
    series: Series,
}

impl VisitorMut for Spellings {
    type Break = Error;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        name_column(factor);
        ControlFlow::Continue(())
    }

    // From the top, so that what is around a value says of which type it is.
    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if let Expr::Identifier(name) = expr
            && self.series.0.contains(&name.value)
        {
            *expr = Expr::CompoundIdentifier(vec![name.clone(), Ident::new(OF_SERIES)]);
        }
        match written(expr) {
            Ok(Some(written)) => *expr = written,
            Ok(None) => {}
            Err(wrong) => return ControlFlow::Break(wrong),
        }
        if let Expr::Cast { data_type, .. } = expr {
            widen(data_type);
        }
        ControlFlow::Continue(())
    }
}

/// What a list in FROM is unfolded to has the name of its alias.
fn name_column(factor: &mut TableFactor) {
    let TableFactor::UNNEST {
        alias: Some(TableAlias { name, columns, .. }),
        array_exprs,
        with_offset: false,
        with_ordinality: false,
        ..
    } = factor
    else {
        return;
    };
    if columns.is_empty() && array_exprs.len() == 1 {
        columns.push(TableAliasColumnDef {
            name: name.clone(),
            data_type: None,
        });
    }
}

/// In PostgreSQL `float` is `double precision`, unless it says that it has fewer digits.
fn widen(data_type: &mut DataType) {
    match data_type {
        DataType::Float(ExactNumberInfo::Precision(1..=24)) => *data_type = DataType::Real,
        DataType::Float(_) => *data_type = DataType::DoublePrecision,
        DataType::Uuid | DataType::JSON | DataType::JSONB => *data_type = DataType::Varchar(None),
        DataType::Array(ArrayElemTypeDef::SquareBracket(item, _)) => widen(item),
        _ => {}
    }
}

/// The engine's expression for another spelling of it.
fn written(expr: &Expr) -> Result<Option<Expr>> {
    Ok(match expr {
        Expr::Cast {
            expr: inner,
            data_type,
            kind: CastKind::Cast | CastKind::DoubleColon,
            ..
        } => text_of(inner).and_then(|text| of_type(text, data_type)),
        Expr::AnyOp {
            left,
            compare_op,
            right,
            ..
        } => of_any(left, compare_op, right, false),
        Expr::AllOp {
            left,
            compare_op,
            right,
        } => of_any(left, compare_op, right, true),
        Expr::Function(function) => of_function(function)?,
        _ => None,
    })
}

/// A text as it stands in the statement, however often it is said to be one.
fn text_of(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => Some(text),
            _ => None,
        },
        Expr::Nested(inner) => text_of(inner),
        Expr::Cast {
            expr,
            data_type: DataType::Text | DataType::Varchar(None),
            ..
        } => text_of(expr),
        _ => None,
    }
}

/// A text in a type whose values are written otherwise there.
fn of_type(text: &str, data_type: &DataType) -> Option<Expr> {
    match data_type {
        DataType::Bytea => Some(Expr::value(Value::HexStringLiteral(
            hex_of(text)?.to_owned(),
        ))),
        DataType::Array(ArrayElemTypeDef::SquareBracket(item, _)) => {
            let items = arrays::items(text)?;
            let items: Vec<Expr> = items
                .into_iter()
                .map(|text| cast(quoted(text.as_deref()), item))
                .collect();
            let array = call("make_array", items);
            Some(Expr::Cast {
                kind: CastKind::Cast,
                expr: Box::new(array),
                data_type: data_type.clone(),
                array: false,
                format: None,
            })
        }
        _ => None,
    }
}

/// The digits of bytes that are written in hexadecimal.
pub(super) fn hex_of(text: &str) -> Option<&str> {
    let digits = text.strip_prefix("\\x")?;
    let is_whole = digits.len().is_multiple_of(2);
    (is_whole && digits.bytes().all(|b| b.is_ascii_hexdigit())).then_some(digits)
}

fn quoted(text: Option<&str>) -> Expr {
    Expr::value(match text {
        Some(text) => Value::SingleQuotedString(text.to_owned()),
        None => Value::Null,
    })
}

fn cast(expr: Expr, data_type: &DataType) -> Expr {
    Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(expr),
        data_type: data_type.clone(),
        array: false,
        format: None,
    }
}

/// A comparison with each item of an array that stands in the statement.
fn of_any(left: &Expr, op: &BinaryOperator, right: &Expr, is_all: bool) -> Option<Expr> {
    let right = match right {
        Expr::Nested(inner) => inner.as_ref(),
        right => right,
    };
    let (text, item) = match right {
        Expr::Cast {
            expr,
            data_type: DataType::Array(ArrayElemTypeDef::SquareBracket(item, _)),
            ..
        } => (text_of(expr)?, Some(item.as_ref())),
        right => (text_of(right)?, None),
    };
    let items = arrays::items(text)?;
    let items = items.into_iter().map(|text| {
        let text = quoted(text.as_deref());
        match item {
            Some(item) => cast(text, item),
            None => text,
        }
    });
    let items: Vec<Expr> = items.collect();
    if items.is_empty() {
        return Some(Expr::value(Value::Boolean(is_all)));
    }
    match (op, is_all) {
        (BinaryOperator::Eq, false) | (BinaryOperator::NotEq, true) => Some(Expr::InList {
            expr: Box::new(left.clone()),
            list: items,
            negated: is_all,
        }),
        _ => {
            let compared = items.into_iter().map(|item| Expr::BinaryOp {
                left: Box::new(left.clone()),
                op: op.clone(),
                right: Box::new(item),
            });
            let all = compared.reduce(|left, right| Expr::BinaryOp {
                left: Box::new(left),
                op: match is_all {
                    true => BinaryOperator::And,
                    false => BinaryOperator::Or,
                },
                right: Box::new(right),
            });
            all.map(|all| Expr::Nested(Box::new(all)))
        }
    }
}

fn of_function(function: &Function) -> Result<Option<Expr>> {
    let name = function.name.to_string().to_lowercase();
    let name = name.strip_prefix("pg_catalog.").unwrap_or(&name);
    let given = arguments(function);
    Ok(match (name, given.as_slice()) {
        ("mod", [left, right]) => Some(Expr::Nested(Box::new(Expr::BinaryOp {
            left: Box::new(Expr::Nested(Box::new(left.clone()))),
            op: BinaryOperator::Modulo,
            right: Box::new(Expr::Nested(Box::new(right.clone()))),
        }))),
        ("date", [time]) => Some(cast(time.clone(), &DataType::Date)),
        ("to_char", [value, pattern]) => match text_of(pattern) {
            Some(pattern) => patterns::shown(value, pattern)?,
            None => None,
        },
        ("to_timestamp" | "to_date", [value, pattern]) => match text_of(pattern) {
            Some(pattern) => patterns::read(name, value, pattern)?,
            None => None,
        },
        _ => None,
    })
}

/// A name without parentheses that stands for a function.
pub(crate) fn of_name(name: &Ident) -> Option<Expr> {
    let known = ["current_schema", "current_catalog"];
    let is_known =
        |known: &&str| name.quote_style.is_none() && name.value.eq_ignore_ascii_case(known);
    let function = known.iter().find(|known| is_known(known))?;
    Some(match *function {
        "current_catalog" => call("current_database", vec![]),
        function => call(function, vec![]),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use datafusion::sql::parser::DFParser;

    use super::*;

    fn rewritten(sql: &str) -> String {
        let mut statement = DFParser::parse_sql(sql).unwrap().pop_front().unwrap();
        match rewrite(&mut statement) {
            Ok(()) => statement.to_string(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn spellings_become_the_engines() {
        for (written, expected) in [
            (
                "SELECT x::float, y::float(24)",
                "SELECT x::DOUBLE PRECISION, y::REAL",
            ),
            (
                "SELECT '{a,\"b c\",NULL}'::text[]",
                "SELECT CAST(make_array(CAST('a' AS TEXT), CAST('b c' AS TEXT), CAST(NULL AS TEXT)) AS TEXT[])",
            ),
            (
                "SELECT '\\x00FF'::bytea, 'x'::bytea",
                "SELECT X'00FF', 'x'::BYTEA",
            ),
            (
                "SELECT 1 WHERE id = ANY ('{1,2}'::bigint[]) OR r <> ALL('{a,\"\"}') OR i = ANY('{}')",
                "SELECT 1 WHERE id IN (CAST('1' AS BIGINT), CAST('2' AS BIGINT)) OR r NOT IN ('a', '') OR false",
            ),
            (
                "SELECT 1 WHERE n > ANY('{1,2}')",
                "SELECT 1 WHERE (n > '1' OR n > '2')",
            ),
            (
                "SELECT mod(a, 2), date(ts)",
                "SELECT ((a) % (2)), CAST(ts AS DATE)",
            ),
            (
                "SELECT to_timestamp('x', 'YYYY-MM-DD HH24:MI:SS.US'), to_date(d, '%Y')",
                "SELECT to_timestamp('x', '%Y-%m-%d %H:%M:%S.%6f'), to_date(d, '%Y')",
            ),
            (
                "SELECT to_char(ts, 'FMMonth DD, YYYY'), to_char(ts, 'Dy')",
                "SELECT to_char(ts, '%B %d, %Y'), to_char(ts, '%a')",
            ),
            (
                "SELECT i FROM generate_series(1, 3) i",
                "SELECT i.value FROM generate_series(1, 3) i",
            ),
        ] {
            assert_eq!(rewritten(written), expected);
        }
        let wrong = rewritten("SELECT to_char(ts, 'YYYY-XX')");
        assert!(wrong.contains("`XX`"), "{wrong}");
    }
}
