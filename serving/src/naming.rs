//! What the columns of an answer are called where the query does not say it: as psql calls them, by
//! the function (`count`), the column, the type of a cast, or `?column?`. The engine would call them
//! by its own spelling of the expression. Owns the names of answers alone: within a statement, and in
//! views, a column keeps the engine's name, because other SQL may already refer to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    DataType, Expr, Function, Ident, ObjectName, Query, Select, SelectItem, SetExpr,
    Statement as Sql, TableFactor, Value, WildcardAdditionalOptions,
};
use futures::StreamExt;

/// The name of a column that has none.
const NAMELESS: &str = "?column?";

/// Functions that give several columns, so that what follows them has no place that is known.
const SPREADING: [&str; 1] = ["unnest"];

/// How a column is called for the engine that has the name of another one.
const APART: &str = "__column_";

/// The names of a query's columns, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ColumnNames {
    names: Vec<Name>,
    /// By the engine's names of columns that were [`ColumnNames::apart`], what they are called.
    apart: BTreeMap<String, String>,
}

/// What is known of one column, or of several.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    /// It has the name that the query gives it, or that its relation has for it.
    Kept,
    /// This one.
    Given(String),
    /// A wildcard stands here, for any number of columns that keep their names.
    Several,
}

/// The queries that stand in WITH, by their names.
type Ctes = BTreeMap<String, Vec<Name>>;

impl ColumnNames {
    /// The names of a statement's answer. What is no query keeps the engine's.
    pub(crate) fn of(statement: &Statement) -> Self {
        let names = match statement {
            Statement::Statement(sql) => match sql.as_ref() {
                Sql::Query(query) => of_query(query, &Ctes::new()),
                _ => vec![Name::Several],
            },
            _ => vec![Name::Several],
        };
        Self {
            names,
            apart: BTreeMap::new(),
        }
    }

    /// The statement with columns of one name apart, which the engine refuses: each further one is
    /// called otherwise within it, and as before in the answer. None where no two are alike.
    pub(crate) fn apart(&mut self, statement: &Statement) -> Option<Statement> {
        let mut apart = statement.clone();
        let Statement::Statement(sql) = &mut apart else {
            return None;
        };
        let Sql::Query(query) = sql.as_mut() else {
            return None;
        };
        let is_ordered = query.order_by.is_some();
        let SetExpr::Select(select) = query.body.as_mut() else {
            return None;
        };
        let is_wild = |item: &SelectItem| {
            matches!(
                item,
                SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)
            )
        };
        // What a wildcard stands for may have any column's name.
        let beside_wildcard = select.projection.iter().any(is_wild);
        let mut taken = BTreeSet::new();
        for (n, item) in select.projection.iter_mut().enumerate() {
            let (expr, key, name) = match item {
                SelectItem::UnnamedExpr(expr) => {
                    let name = named(expr, &Ctes::new()).unwrap_or_else(|| NAMELESS.to_owned());
                    // What the engine calls an expression is its own to say.
                    let key = column_name(expr);
                    (expr, key, name)
                }
                // What an order by the name means is not known any more.
                SelectItem::ExprWithAlias { expr, alias } if !is_ordered => {
                    let name = folded(alias);
                    (expr, Some(name.clone()), name)
                }
                _ => continue,
            };
            let is_new = key.is_some_and(|key| taken.insert(key));
            if is_new && !(beside_wildcard && column_name(expr).is_some()) {
                continue;
            }
            let own = format!("{APART}{}", n + 1);
            *item = SelectItem::ExprWithAlias {
                expr: expr.clone(),
                alias: Ident::with_quote('"', own.clone()),
            };
            self.apart.insert(own, name);
        }
        (!self.apart.is_empty()).then_some(apart)
    }

    /// The schema of the answer, given that of the engine.
    pub(crate) fn applied(&self, schema: &SchemaRef) -> SchemaRef {
        let columns = schema.fields().len();
        let is_one = |name: &&Name| **name != Name::Several;
        let front: Vec<&Name> = self.names.iter().take_while(is_one).collect();
        let back: Vec<&Name> = match front.len() == self.names.len() {
            true => Vec::new(),
            false => self.names.iter().rev().take_while(is_one).collect(),
        };
        let is_whole = back.is_empty() && front.len() == self.names.len();
        // In doubt nothing is renamed, but what has another name only for the engine.
        let in_doubt = front.len() + back.len() > columns || (is_whole && front.len() != columns);
        let name_of = |at: usize| {
            let known = front.get(at).or_else(|| back.get(columns - 1 - at));
            let known = known.filter(|_| !in_doubt);
            match (self.apart.get(schema.field(at).name()), known) {
                (Some(name), _) | (None, Some(Name::Given(name))) => Some(name.as_str()),
                _ => None,
            }
        };
        let fields = schema.fields().iter().enumerate();
        let fields = fields.map(|(at, field)| match name_of(at) {
            Some(name) if name != field.name() => {
                Arc::new(Field::clone(field).with_name(name.to_owned()))
            }
            _ => field.clone(),
        });
        let fields: Vec<_> = fields.collect();
        Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
    }

    /// The rows under these names, given the engine's rows and its schema of them.
    pub(crate) fn rename(
        &self,
        schema: &SchemaRef,
        rows: SendableRecordBatchStream,
    ) -> SendableRecordBatchStream {
        let named = self.applied(schema);
        let of_rows = named.clone();
        let rows = rows.map(move |batch| under(&of_rows, &batch?));
        Box::pin(RecordBatchStreamAdapter::new(named, rows))
    }
}

/// A batch under the names of a schema, with its own types.
pub(crate) fn under(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let own = batch.schema();
    let pairs = own.fields().iter().zip(schema.fields());
    let fields = pairs.map(|(own, named)| match own.name() == named.name() {
        true => own.clone(),
        false => Arc::new(Field::clone(own).with_name(named.name())),
    });
    let fields: Vec<_> = fields.collect();
    let schema = Schema::new_with_metadata(fields, own.metadata().clone());
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = batch.columns().to_vec();
    Ok(RecordBatch::try_new_with_options(
        Arc::new(schema),
        columns,
        &options,
    )?)
}

/// A schema whose columns all have different names, for what can't hold a name twice: an object of
/// JSON. The second `count` becomes `count_2`, and so on; nothing else of the schema changes.
pub fn distinct_names(schema: &SchemaRef) -> SchemaRef {
    let mut taken = std::collections::HashSet::new();
    let given: std::collections::HashSet<&String> =
        schema.fields().iter().map(|field| field.name()).collect();
    if given.len() == schema.fields().len() {
        return schema.clone();
    }
    let mut fields = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let mut name = field.name().clone();
        let mut count = 1;
        while taken.contains(&name) || (count > 1 && given.contains(&name)) {
            count += 1;
            name = format!("{}_{count}", field.name());
        }
        taken.insert(name.clone());
        fields.push(Arc::new(Field::clone(field).with_name(name)));
    }
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// The name of a column that an expression is, and nothing else.
fn column_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::CompoundIdentifier(parts) => parts.last().map(folded),
        Expr::Identifier(name) => Some(folded(name)),
        _ => None,
    }
}

fn of_query(query: &Query, outer: &Ctes) -> Vec<Name> {
    let mut ctes = outer.clone();
    for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
        let names = match cte.alias.columns.is_empty() {
            true => of_query(&cte.query, &ctes),
            false => vec![Name::Several],
        };
        ctes.insert(folded(&cte.alias.name), names);
    }
    of_body(&query.body, &ctes)
}

fn of_body(body: &SetExpr, ctes: &Ctes) -> Vec<Name> {
    match body {
        SetExpr::Select(select) => of_select(select, ctes),
        SetExpr::Query(query) => of_query(query, ctes),
        SetExpr::SetOperation { left, .. } => of_body(left, ctes),
        _ => vec![Name::Several],
    }
}

fn of_select(select: &Select, ctes: &Ctes) -> Vec<Name> {
    let mut names = Vec::new();
    for item in &select.projection {
        match item {
            SelectItem::UnnamedExpr(expr) => names.push(of_item(expr, ctes)),
            SelectItem::ExprWithAlias { .. } => names.push(Name::Kept),
            SelectItem::Wildcard(options) if is_plain(options) => {
                names.extend(of_source(select, ctes));
            }
            SelectItem::ExprWithAliases { .. }
            | SelectItem::Wildcard(_)
            | SelectItem::QualifiedWildcard(..) => names.push(Name::Several),
        }
    }
    names
}

/// What `*` stands for, where it stands for the columns of one query that is written out.
fn of_source(select: &Select, ctes: &Ctes) -> Vec<Name> {
    let several = || vec![Name::Several];
    let [from] = select.from.as_slice() else {
        return several();
    };
    if !from.joins.is_empty() {
        return several();
    }
    match &from.relation {
        TableFactor::Derived {
            subquery, alias, ..
        } if alias.as_ref().is_none_or(|a| a.columns.is_empty()) => of_query(subquery, ctes),
        TableFactor::Table {
            name: ObjectName(parts),
            alias,
            args: None,
            ..
        } if alias.as_ref().is_none_or(|a| a.columns.is_empty()) => match parts.as_slice() {
            [part] => {
                let cte = part.as_ident().and_then(|name| ctes.get(&folded(name)));
                cte.cloned().unwrap_or_else(several)
            }
            _ => several(),
        },
        _ => several(),
    }
}

fn is_plain(options: &WildcardAdditionalOptions) -> bool {
    options.opt_ilike.is_none()
        && options.opt_exclude.is_none()
        && options.opt_except.is_none()
        && options.opt_replace.is_none()
        && options.opt_rename.is_none()
        && options.opt_alias.is_none()
}

fn of_item(expr: &Expr, ctes: &Ctes) -> Name {
    match expr {
        Expr::Nested(inner) => of_item(inner, ctes),
        Expr::Identifier(_) => Name::Kept,
        Expr::Function(f) if SPREADING.contains(&function(f).unwrap_or_default().as_str()) => {
            Name::Several
        }
        expr => Name::Given(named(expr, ctes).unwrap_or_else(|| NAMELESS.to_owned())),
    }
}

/// The name that an expression gives to its column, if it gives one.
fn named(expr: &Expr, ctes: &Ctes) -> Option<String> {
    let word = |word: &str| Some(word.to_owned());
    match expr {
        Expr::Identifier(name) => Some(folded(name)),
        Expr::CompoundIdentifier(parts) => parts.last().map(folded),
        Expr::Nested(inner)
        | Expr::Collate { expr: inner, .. }
        | Expr::CompoundFieldAccess { root: inner, .. } => named(inner, ctes),
        Expr::Cast {
            expr, data_type, ..
        } => named(expr, ctes).or_else(|| Some(type_name(data_type))),
        Expr::TypedString(text) => Some(type_name(&text.data_type)),
        Expr::Function(f) => function(f),
        Expr::Subquery(query) => of_subquery(query, ctes),
        Expr::Case { else_result, .. } => {
            let otherwise = else_result.as_ref().and_then(|e| named(e, ctes));
            otherwise.or_else(|| word("case"))
        }
        Expr::Value(value) => match value.value {
            Value::Boolean(_) => word("bool"),
            _ => None,
        },
        Expr::Exists { .. } => word("exists"),
        Expr::Extract { .. } => word("extract"),
        Expr::AtTimeZone { .. } => word("timezone"),
        Expr::Ceil { .. } => word("ceil"),
        Expr::Floor { .. } => word("floor"),
        Expr::Position { .. } => word("position"),
        Expr::Substring { .. } => word("substring"),
        Expr::Trim { .. } => word("trim"),
        Expr::Overlay { .. } => word("overlay"),
        Expr::Interval(_) => word("interval"),
        Expr::Array(_) => word("array"),
        Expr::Map(_) => word("map"),
        Expr::Tuple(_) | Expr::Struct { .. } => word("row"),
        _ => None,
    }
}

/// A query in the place of a value is called as its one column is.
fn of_subquery(query: &Query, ctes: &Ctes) -> Option<String> {
    let SetExpr::Select(select) = query.body.as_ref() else {
        return None;
    };
    match select.projection.as_slice() {
        [SelectItem::UnnamedExpr(expr)] => named(expr, ctes),
        [SelectItem::ExprWithAlias { alias, .. }] => Some(folded(alias)),
        _ => None,
    }
}

fn function(f: &Function) -> Option<String> {
    f.name.0.last().and_then(|part| part.as_ident()).map(folded)
}

/// A type as it is written, without its numbers.
fn type_name(data_type: &DataType) -> String {
    let written = data_type.to_string().to_lowercase();
    match written.split_once('(') {
        Some((name, _)) => name.trim_end().to_owned(),
        None => written,
    }
}

/// A name as SQL means it: in lower case unless it is quoted.
fn folded(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use anabranch_shared::sql;
    use anabranch_shared::view::planning_session;
    use arrow::datatypes::DataType as ArrowType;

    use super::*;

    /// The names of an answer whose columns the engine calls `0`, `1`, ….
    fn names(text: &str, columns: usize) -> Vec<String> {
        let state = planning_session().unwrap().state();
        let statement = sql::parse(&state, text).unwrap();
        let fields = (0..columns).map(|at| Field::new(at.to_string(), ArrowType::Int64, true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let named = ColumnNames::of(&statement).applied(&schema);
        named.fields().iter().map(|f| f.name().clone()).collect()
    }

    #[test]
    fn columns_are_called_as_psql_calls_them() {
        let one = [
            ("SELECT count(*) FROM t", "count"),
            ("SELECT MAX(x) FROM t", "max"),
            ("SELECT (((sum(x)))) FROM t", "sum"),
            ("SELECT row_number() OVER (ORDER BY x) FROM t", "row_number"),
            ("SELECT count(*) FILTER (WHERE x > 1) FROM t", "count"),
            ("SELECT 1", "?column?"),
            ("SELECT 'a' || 'b'", "?column?"),
            ("SELECT -x FROM t", "?column?"),
            ("SELECT x IS NULL FROM t", "?column?"),
            ("SELECT NULL", "?column?"),
            ("SELECT true", "bool"),
            ("SELECT CAST(1 AS BIGINT)", "bigint"),
            ("SELECT '1.5'::decimal(10,2)", "decimal"),
            ("SELECT x::varchar FROM t", "x"),
            ("SELECT max(x)::int FROM t", "max"),
            ("SELECT TIMESTAMP '2026-01-01T00:00:00Z'", "timestamp"),
            ("SELECT extract(year FROM ts) FROM t", "extract"),
            ("SELECT substring('abc' FROM 2)", "substring"),
            ("SELECT CASE WHEN x THEN 1 END FROM t", "case"),
            ("SELECT CASE WHEN x THEN 1 ELSE url END FROM t", "url"),
            ("SELECT (SELECT max(x) FROM t)", "max"),
            ("SELECT (SELECT x AS most FROM t)", "most"),
            ("SELECT EXISTS (SELECT 1)", "exists"),
            ("SELECT [1, 2]", "array"),
            ("SELECT tags[1] FROM t", "tags"),
            ("SELECT t.url FROM t", "url"),
            ("SELECT ts AT TIME ZONE 'UTC' FROM t", "timezone"),
            ("SELECT 1 UNION SELECT count(*) FROM t", "?column?"),
            ("(SELECT count(*) FROM t) ORDER BY 1 LIMIT 1", "count"),
            ("SELECT DISTINCT lower(url) FROM t", "lower"),
            ("SELECT * FROM (SELECT count(*) FROM t) AS s", "count"),
            ("WITH c AS (SELECT max(x) FROM t) SELECT * FROM c", "max"),
        ];
        for (text, expected) in one {
            assert_eq!(names(text, 1), [expected], "{text}");
        }
    }

    #[test]
    fn what_has_a_name_keeps_it() {
        let kept = [
            "SELECT url FROM t",
            "SELECT count(*) AS n FROM t",
            "SELECT * FROM t",
            "SELECT t.* FROM t",
            "SELECT \"count(*)\" FROM t",
            "VALUES (1)",
            "SHOW ALL",
            "SELECT * FROM (SELECT count(*) FROM t) AS s(n)",
            "WITH c(n) AS (SELECT count(*) FROM t) SELECT * FROM c",
            "SELECT unnest(x) FROM t",
        ];
        for text in kept {
            assert_eq!(names(text, 1), ["0"], "{text}");
        }
        assert_eq!(
            names("SELECT *, count(*), x FROM t", 5),
            ["0", "1", "2", "count", "4"]
        );
        assert_eq!(names("SELECT max(x), * FROM t", 3), ["max", "1", "2"]);
        assert_eq!(
            names("SELECT 1, a.*, max(x), b.*, 2 FROM a, b", 6),
            ["?column?", "1", "2", "3", "4", "?column?"]
        );
        // In doubt the engine's names stay.
        assert_eq!(names("SELECT 1, 2", 3), ["0", "1", "2"]);
    }

    #[test]
    fn names_that_repeat_are_told_apart() {
        let fields = ["count", "max", "count", "count_2", "count"];
        let fields = fields.map(|name| Field::new(name, ArrowType::Int64, false));
        let schema = Arc::new(Schema::new(fields.to_vec()));
        let distinct = distinct_names(&schema);
        let names: Vec<&str> = distinct
            .fields()
            .iter()
            .map(|f| f.name().as_str())
            .collect();
        assert_eq!(names, ["count", "max", "count_3", "count_2", "count_4"]);
        assert!(!distinct.field(2).is_nullable());
    }

    #[test]
    fn columns_of_one_name_are_apart_within_and_alike_in_the_answer() {
        let state = planning_session().unwrap().state();
        let answered = |text: &str| {
            let statement = sql::parse(&state, text).unwrap();
            let mut names = ColumnNames::of(&statement);
            let apart = names.apart(&statement)?.to_string();
            // As the engine calls what is apart, in the order in which it is written.
            let of_engine = apart.match_indices(APART).map(|(at, _)| {
                let rest = &apart[at..];
                rest[..rest.find('"').unwrap()].to_owned()
            });
            let fields = of_engine.map(|name| Field::new(name, ArrowType::Int64, true));
            let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
            let named = names.applied(&schema);
            Some(
                named
                    .fields()
                    .iter()
                    .map(|f| f.name().clone())
                    .collect::<Vec<_>>(),
            )
        };
        for (text, expected) in [
            ("SELECT count(*), COUNT(*) FROM t", &["count", "count"][..]),
            ("SELECT NULL, NULL", &["?column?", "?column?"]),
            ("SELECT x, x FROM t", &["x"]),
            ("SELECT x, x::varchar FROM t", &["x"]),
            ("SELECT x AT TIME ZONE 'UTC', x FROM t", &["timezone"]),
            ("SELECT *, x FROM t", &["x"]),
            ("SELECT a AS x, b AS X FROM t", &["x"]),
            ("SELECT t.x, x FROM t ORDER BY x", &["x"]),
        ] {
            let expected = expected.iter().map(|name| (*name).to_owned());
            assert_eq!(answered(text), Some(expected.collect()), "{text}");
        }
        for other in [
            "SELECT x, y FROM t",
            "SELECT a AS x, b AS x FROM t ORDER BY x",
            "SELECT * FROM t",
            "SELECT 1 UNION SELECT 1",
        ] {
            assert_eq!(answered(other), None, "{other}");
        }
    }
}
