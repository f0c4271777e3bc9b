//! PostgreSQL's spellings as the engine's: schemas before functions, collations, operators with their
//! schema, casts to types of its catalogue, and subqueries that the engine can't plan but that read
//! relations which are empty here.

use std::ops::ControlFlow;

use anabranch_shared::Result;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::{
    AccessExpr, ArrayElemTypeDef, BinaryOperator, CastKind, DataType, Expr, Function,
    FunctionArgumentList, FunctionArguments, Ident, JoinOperator, ObjectName, ObjectNamePart,
    Query, Select, SelectItem, SetExpr, Statement as Sql, Subscript, TableFactor, Value, VisitMut,
    VisitorMut,
};

use super::PG_CATALOG;
use super::relations::{is_empty, table_of};
use crate::parameters::{call, placeholders};
use crate::spellings::of_name;

/// Rewrites a statement in place, for a session whose search path has so many schemas and whose
/// database is called so.
pub(super) fn rewrite(statement: &mut Statement, schemas: usize, database: &str) -> Result<()> {
    let sql = match statement {
        Statement::Statement(sql) => sql,
        Statement::Explain(explain) => {
            return rewrite(&mut explain.statement, schemas, database);
        }
        _ => return Ok(()),
    };
    // Neither ends early.
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) =
        VisitMut::visit(sql.as_mut(), &mut Names { database });
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) =
        VisitMut::visit(sql.as_mut(), &mut Spellings { schemas });
    Ok(())
}

fn last(name: &ObjectName) -> Option<String> {
    let part = name.0.last()?.as_ident()?;
    Some(match part.quote_style {
        Some(_) => part.value.clone(),
        None => part.value.to_lowercase(),
    })
}

fn first_is_catalog(name: &ObjectName) -> bool {
    name.0.len() == 2
        && name.0[0]
            .as_ident()
            .is_some_and(|part| part.value.eq_ignore_ascii_case(PG_CATALOG))
}

/// Names of relations with their schema and without their database, of functions without schema.
struct Names<'a> {
    database: &'a str,
}

impl VisitorMut for Names<'_> {
    type Break = ();

    fn pre_visit_relation(&mut self, name: &mut ObjectName) -> ControlFlow<()> {
        let database = name.0.first().and_then(|part| part.as_ident());
        if name.0.len() == 3 && database.is_some_and(|part| part.value == self.database) {
            name.0.remove(0);
        }
        let is_known = |name: &str| table_of(name).is_some();
        if name.0.len() == 1 && last(name).is_some_and(|name| is_known(&name)) {
            let schema = ObjectNamePart::Identifier(Ident::new(PG_CATALOG));
            name.0.insert(0, schema);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr {
            let schema = function.name.0.first().and_then(|part| part.as_ident());
            let is_known = schema.is_some_and(|s| {
                let s = s.value.to_lowercase();
                s == PG_CATALOG || s == "information_schema"
            });
            if function.name.0.len() == 2 && is_known {
                function.name.0.remove(0);
            }
        }
        ControlFlow::Continue(())
    }
}

struct Spellings {
    schemas: usize,
}

impl VisitorMut for Spellings {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        // A function that gives rows.
        if let TableFactor::Table {
            name,
            args: Some(_),
            ..
        } = factor
            && first_is_catalog(name)
        {
            name.0.remove(0);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        without_work(query.body.as_mut());
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Some(written) = written(expr, self.schemas) {
            *expr = written;
        }
        ControlFlow::Continue(())
    }
}

/// The engine's expression for one of PostgreSQL's, where it differs.
fn written(expr: &mut Expr, schemas: usize) -> Option<Expr> {
    match expr {
        Expr::Identifier(name) => of_name(name),
        Expr::Collate { expr, .. } => Some(expr.as_ref().clone()),
        Expr::BinaryOp { left, op, right } => match op {
            BinaryOperator::PGCustomBinaryOperator(path) => Some(Expr::BinaryOp {
                left: left.clone(),
                op: operator(path.last()?)?,
                right: right.clone(),
            }),
            BinaryOperator::Eq | BinaryOperator::NotEq => of_numbered_function(left, op, right),
            _ => None,
        },
        Expr::Like {
            negated,
            expr,
            pattern,
            escape_char,
            ..
        } => Some(Expr::Like {
            negated: *negated,
            any: false,
            expr: expr.clone(),
            pattern: Box::new(escaped_by_backslash(pattern, escape_char.take()?.value)?),
            escape_char: None,
        }),
        Expr::Cast {
            expr: inner,
            data_type,
            ..
        } => cast(inner, data_type),
        Expr::Subquery(query) if is_nothing(query) || is_of_domains(query) => {
            Some(Expr::value(Value::Null))
        }
        Expr::Subquery(query) => one_row(query),
        Expr::Exists { subquery, negated } if is_nothing(subquery) => {
            Some(Expr::value(Value::Boolean(*negated)))
        }
        Expr::Function(function) => of_function(function, schemas),
        Expr::CompoundFieldAccess { root, access_chain } => field(root, access_chain),
        _ => None,
    }
}

fn operator(name: &str) -> Option<BinaryOperator> {
    Some(match name {
        "~" => BinaryOperator::PGRegexMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "~~" => BinaryOperator::PGLikeMatch,
        "~~*" => BinaryOperator::PGILikeMatch,
        "!~~" => BinaryOperator::PGNotLikeMatch,
        "!~~*" => BinaryOperator::PGNotILikeMatch,
        "=" => BinaryOperator::Eq,
        "<>" => BinaryOperator::NotEq,
        "<" => BinaryOperator::Lt,
        "<=" => BinaryOperator::LtEq,
        ">" => BinaryOperator::Gt,
        ">=" => BinaryOperator::GtEq,
        "+" => BinaryOperator::Plus,
        "-" => BinaryOperator::Minus,
        "*" => BinaryOperator::Multiply,
        "/" => BinaryOperator::Divide,
        "||" => BinaryOperator::StringConcat,
        _ => return None,
    })
}

/// PostgreSQL's name of a type, where the engine does not know it.
fn type_name(data_type: &DataType) -> Option<String> {
    match data_type {
        DataType::Regclass => Some("regclass".to_owned()),
        DataType::Custom(name, _) if name.0.len() == 1 || first_is_catalog(name) => last(name),
        _ => None,
    }
}

/// The engine's type for one that it does not know.
fn plain_type(name: &str) -> Option<DataType> {
    Some(match name {
        "oid" | "xid" | "cid" => DataType::IntUnsigned(None),
        "int4" => DataType::Int(None),
        "int2" => DataType::SmallInt(None),
        "int8" => DataType::BigInt(None),
        "bool" => DataType::Boolean,
        "name" | "char" | "text" | "cstring" | "bpchar" | "regproc" | "regprocedure"
        | "regoper" | "regoperator" | "regnamespace" | "regrole" | "json" | "jsonb" | "uuid" => {
            DataType::Varchar(None)
        }
        _ => return None,
    })
}

/// Some columns hold functions: by name here, and compared with numbers by those who look for any.
fn of_numbered_function(left: &Expr, op: &BinaryOperator, right: &Expr) -> Option<Expr> {
    let column = match left {
        Expr::Identifier(name) => name,
        Expr::CompoundIdentifier(path) => path.last()?,
        _ => return None,
    };
    let is_function = ["typreceive", "typsend", "typinput", "typoutput"]
        .iter()
        .any(|known| column.value.eq_ignore_ascii_case(known));
    let Expr::Value(value) = right else {
        return None;
    };
    let Value::Number(number, _) = &value.value else {
        return None;
    };
    is_function.then(|| Expr::BinaryOp {
        left: Box::new(left.clone()),
        op: op.clone(),
        right: Box::new(Expr::value(Value::SingleQuotedString(number.clone()))),
    })
}

/// A pattern whose escapes begin with another character, with the engine's.
fn escaped_by_backslash(pattern: &Expr, escape: Value) -> Option<Expr> {
    let Value::SingleQuotedString(escape) = escape else {
        return None;
    };
    let text = |text: &str| Expr::value(Value::SingleQuotedString(text.to_owned()));
    match escape.as_str() {
        "\\" => Some(pattern.clone()),
        _ => Some(call(
            "replace",
            vec![pattern.clone(), text(&escape), text("\\")],
        )),
    }
}

/// Whether a query follows domains to their types: there are none.
fn is_of_domains(query: &Query) -> bool {
    query.with.as_ref().is_some_and(|with| {
        let of = |cte: &datafusion::sql::sqlparser::ast::Cte| cte.alias.name.value == "typebases";
        with.recursive && with.cte_tables.iter().any(of)
    })
}

/// A subquery over the catalogue that has one row, as the engine wants it said: by an aggregate.
fn one_row(query: &Query) -> Option<Expr> {
    let SetExpr::Select(select) = query.body.as_ref() else {
        return None;
    };
    let reads_catalog = select.from.iter().any(|table| {
        matches!(&table.relation, TableFactor::Table { name, args: None, .. } if first_is_catalog(name))
    });
    let [SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }] =
        select.projection.as_slice()
    else {
        return None;
    };
    let has_aggregate = [
        "array_agg(",
        "string_agg(",
        "count(",
        "max(",
        "min(",
        "bool_and(",
        "sum(",
    ]
    .iter()
    .any(|name| expr.to_string().to_lowercase().contains(name));
    if !reads_catalog || has_aggregate || query.with.is_some() || query.limit_clause.is_some() {
        return None;
    }
    let mut select = select.as_ref().clone();
    select.projection = vec![SelectItem::UnnamedExpr(call("max", vec![expr.clone()]))];
    let mut query = query.clone();
    query.order_by = None;
    query.body = Box::new(SetExpr::Select(Box::new(select)));
    Some(Expr::Subquery(Box::new(query)))
}

/// A cast to a type that only PostgreSQL has.
fn cast(inner: &Expr, data_type: &DataType) -> Option<Expr> {
    if let DataType::Array(ArrayElemTypeDef::SquareBracket(item, size)) = data_type {
        let item = Box::new(plain_type(&type_name(item)?)?);
        return Some(Expr::Cast {
            kind: CastKind::Cast,
            expr: Box::new(inner.clone()),
            data_type: DataType::Array(ArrayElemTypeDef::SquareBracket(item, *size)),
            array: false,
            format: None,
        });
    }
    let name = type_name(data_type)?;
    let is_text = matches!(
        inner,
        Expr::Value(value) if matches!(value.value, Value::SingleQuotedString(_))
    );
    let as_type = |data_type: DataType| Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(inner.clone()),
        data_type,
        array: false,
        format: None,
    };
    let text = match inner {
        Expr::Value(value) => value.value.clone().into_string(),
        _ => None,
    };
    Some(match (name.as_str(), is_text) {
        ("regclass", true) => call("pg_oid_of", vec![inner.clone()]),
        ("regclass", false) => call("pg_name_of", vec![inner.clone()]),
        ("regtype", true) => call("to_regtype", vec![inner.clone()]),
        ("regtype", false) => call("format_type", vec![inner.clone(), Expr::value(Value::Null)]),
        ("regproc", true) => {
            let text = text.unwrap_or_default();
            let text = text.strip_prefix("pg_catalog.").unwrap_or(&text);
            Expr::value(Value::SingleQuotedString(text.to_owned()))
        }
        (name, _) => as_type(plain_type(name)?),
    })
}

fn of_function(function: &Function, schemas: usize) -> Option<Expr> {
    let name = last(&function.name)?;
    match (name.as_str(), &function.args) {
        ("array", FunctionArguments::Subquery(query)) => {
            if is_nothing(query) {
                let none = call("make_array", vec![]);
                let list = Value::SingleQuotedString("List(Utf8)".to_owned());
                return Some(call("arrow_cast", vec![none, Expr::value(list)]));
            }
            let text = match query.body.as_ref() {
                // So that it may name what is around it.
                SetExpr::Select(select)
                    if query.order_by.is_none() && query.limit_clause.is_none() =>
                {
                    let mut select = select.as_ref().clone();
                    let [SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }] =
                        select.projection.as_slice()
                    else {
                        return None;
                    };
                    let all = call("array_agg", vec![expr.clone()]);
                    select.projection = vec![SelectItem::UnnamedExpr(all)];
                    select.to_string()
                }
                _ => format!("SELECT array_agg(x) FROM ({query}) AS t(x)"),
            };
            let Some(Statement::Statement(sql)) = DFParser::parse_sql(&text).ok()?.pop_front()
            else {
                return None;
            };
            match *sql {
                Sql::Query(query) => Some(Expr::Subquery(query)),
                _ => None,
            }
        }
        ("generate_subscripts", FunctionArguments::List(list)) => {
            let of = first_argument(list)?;
            let one = || Expr::value(Value::Number("1".to_owned(), false));
            let end = Expr::BinaryOp {
                left: Box::new(whole(call("cardinality", vec![of]))),
                op: BinaryOperator::Plus,
                right: Box::new(one()),
            };
            Some(call("unnest", vec![call("range", vec![one(), end])]))
        }
        ("_pg_expandarray", FunctionArguments::List(list)) => {
            let pairs = call("pg_expand_pairs", vec![first_argument(list)?]);
            Some(call("unnest", vec![pairs]))
        }
        ("array_upper", FunctionArguments::List(list)) => {
            let list = first_argument(list)?;
            let is_schemas =
                matches!(&list, Expr::Function(f) if last(&f.name)? == "current_schemas");
            Some(match is_schemas {
                // Where rows are made of it, it has to be a number.
                true => Expr::value(Value::Number(schemas.to_string(), false)),
                false => whole(call("array_length", vec![list])),
            })
        }
        _ => None,
    }
}

fn whole(expr: Expr) -> Expr {
    Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(expr),
        data_type: DataType::BigInt(None),
        array: false,
        format: None,
    }
}

fn first_argument(list: &FunctionArgumentList) -> Option<Expr> {
    use datafusion::sql::sqlparser::ast::{FunctionArg, FunctionArgExpr};
    match list.args.first()? {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    }
}

/// `(expression).field`.
fn field(root: &Expr, chain: &[AccessExpr]) -> Option<Expr> {
    let [AccessExpr::Dot(Expr::Identifier(name))] = chain else {
        return None;
    };
    let root = match root {
        Expr::Nested(inner) => inner.as_ref(),
        other => other,
    };
    let key = Expr::value(Value::SingleQuotedString(name.value.to_lowercase()));
    Some(Expr::CompoundFieldAccess {
        root: Box::new(root.clone()),
        access_chain: vec![AccessExpr::Subscript(Subscript::Index { index: key })],
    })
}

/// Whether a relation never has rows here.
fn is_empty_relation(relation: &TableFactor) -> bool {
    match relation {
        TableFactor::Table { name, args, .. } => match args {
            // Options of relations, which have none.
            Some(args) => {
                last(name).as_deref() == Some("unnest")
                    && args
                        .args
                        .iter()
                        .any(|a| a.to_string().ends_with("reloptions"))
            }
            None => first_is_catalog(name) && last(name).is_some_and(|name| is_empty(&name)),
        },
        TableFactor::Derived { subquery, .. } => is_nothing(subquery),
        _ => false,
    }
}

/// Whether a SELECT joins a relation that never has rows.
fn reads_nothing(select: &Select) -> bool {
    select.from.iter().any(|table| {
        let inner = table.joins.iter().filter(|join| {
            matches!(
                join.join_operator,
                JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_)
            )
        });
        is_empty_relation(&table.relation) || inner.clone().any(|j| is_empty_relation(&j.relation))
    })
}

/// Whether a query never has rows.
fn is_nothing(query: &Query) -> bool {
    match query.body.as_ref() {
        SetExpr::Select(select) => {
            // A count of no rows is a row.
            reads_nothing(select)
                && !select
                    .projection
                    .iter()
                    .any(|item| item.to_string().to_lowercase().contains("count("))
        }
        _ => false,
    }
}

/// A SELECT without rows needs to compute none of its columns.
fn without_work(body: &mut SetExpr) {
    let select = match body {
        SetExpr::Select(select) if reads_nothing(select) => select,
        SetExpr::SetOperation { left, right, .. } => {
            without_work(left);
            without_work(right);
            return;
        }
        _ => return,
    };
    let has_aggregates = select
        .projection
        .iter()
        .any(|item| item.to_string().to_lowercase().contains("count("));
    if has_aggregates {
        return;
    }
    // Its parameters stay, so that whoever prepared it may give them.
    let none = Expr::value(Value::Boolean(false));
    let given = placeholders(select).into_iter();
    select.selection = Some(given.fold(none, |none, parameter| Expr::BinaryOp {
        left: Box::new(none),
        op: BinaryOperator::And,
        right: Box::new(Expr::IsNull(Box::new(parameter))),
    }));
    for (nth, item) in select.projection.iter_mut().enumerate() {
        let (expr, alias) = match item {
            SelectItem::ExprWithAlias { expr, alias } => (expr.clone(), Some(alias.clone())),
            SelectItem::UnnamedExpr(expr) => (expr.clone(), None),
            _ => continue,
        };
        let is_plain = matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
        if is_plain {
            continue;
        }
        // Names of its own, because none may be there twice.
        let alias = alias.unwrap_or_else(|| Ident::with_quote('"', format!("?column?{}", nth + 1)));
        *item = SelectItem::ExprWithAlias {
            expr: Expr::value(Value::Null),
            alias,
        };
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn rewritten(sql: &str) -> String {
        let mut statement = DFParser::parse_sql(sql).unwrap().pop_front().unwrap();
        rewrite(&mut statement, 1, "any").unwrap();
        statement.to_string()
    }

    #[test]
    fn spellings_become_the_engines() {
        for (written, expected) in [
            (
                "SELECT pg_catalog.format_type(a, b) FROM pg_class",
                "SELECT format_type(a, b) FROM pg_catalog.pg_class",
            ),
            (
                "SELECT 1 FROM t WHERE n OPERATOR(pg_catalog.~) '^(t)$' COLLATE pg_catalog.default",
                "SELECT 1 FROM t WHERE n ~ '^(t)$'",
            ),
            (
                "SELECT current_schema FROM \"any\".\"public\".\"t\" AS t",
                "SELECT current_schema() FROM \"public\".\"t\" AS t",
            ),
            (
                "SELECT tgname FROM pg_trigger WHERE tgrelid = $1",
                "SELECT tgname FROM pg_catalog.pg_trigger WHERE false AND $1 IS NULL",
            ),
            (
                "SELECT 'hot'::pg_catalog.regclass::pg_catalog.oid",
                "SELECT CAST(pg_oid_of('hot') AS INT UNSIGNED)",
            ),
            (
                "SELECT c.oid::regclass, x::pg_catalog.text FROM t c",
                "SELECT pg_name_of(c.oid), CAST(x AS VARCHAR) FROM t c",
            ),
            (
                "SELECT (SELECT d.x FROM pg_attrdef d WHERE d.adrelid = a.y) FROM t a",
                "SELECT NULL FROM t a",
            ),
            (
                "SELECT polname, array(SELECT rolname FROM pg_roles) FROM pg_policy WHERE x",
                "SELECT polname, NULL AS \"?column?2\" FROM pg_catalog.pg_policy WHERE false",
            ),
        ] {
            assert_eq!(rewritten(written), expected);
        }
        assert!(rewritten("SELECT count(*) FROM pg_policy WHERE x").contains("WHERE x"));
    }
}
