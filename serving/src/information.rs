//! `information_schema`: what there is to be queried, for programs that ask for that first, and for
//! `SHOW TABLES` and `SHOW COLUMNS`. Owns its tables `tables`, `views` and `columns`, which list every
//! relation, whether the query reads it or not, and those of constraints: views' keys; what it says of schemata, functions and settings is the engine's.

use std::sync::Arc;

use anabranch_shared::convert::sql_type;
use anabranch_shared::{Relation, Result};
use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use async_trait::async_trait;
use datafusion::catalog::information_schema::{INFORMATION_SCHEMA, InformationSchemaProvider};
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::common::{TableReference, plan_err};
use datafusion::datasource::MemTable;
use datafusion::execution::SessionState;
use datafusion::prelude::SessionContext;

use crate::described::{key_name, primary_key};

/// What `table_type` says of a relation that is no view, and of one that is.
const TABLE: &str = "BASE TABLE";
const VIEW: &str = "VIEW";

/// Tables of the standard about keys.
const OF_KEYS: [&str; 3] = [
    "table_constraints",
    "key_column_usage",
    "constraint_column_usage",
];

/// Tables of the standard about what is not here, with their columns: programs ask them for keys.
const EMPTY: [(&str, &[&str]); 1] = [(
    "referential_constraints",
    &[
        "constraint_catalog",
        "constraint_schema",
        "constraint_name",
        "unique_constraint_catalog",
        "unique_constraint_schema",
        "unique_constraint_name",
        "match_option",
        "update_rule",
        "delete_rule",
    ],
)];

/// The columns of a table that is always empty.
fn columns_of_empty(name: &str) -> Option<&'static [&'static str]> {
    let found = EMPTY.iter().find(|(empty, _)| *empty == name);
    found.map(|(_, columns)| *columns)
}

/// Whether a statement reads of `information_schema` where it names this.
pub(crate) fn is_of_information(reference: &TableReference) -> bool {
    reference.schema() == Some(INFORMATION_SCHEMA)
}

/// Makes `information_schema` known to a query's session.
pub(crate) fn register(context: &SessionContext, relations: &[Relation]) -> Result<()> {
    let state = context.state();
    let provider = Information::new(&state, relations)?;
    let catalog = &state.config_options().catalog.default_catalog;
    match context.catalog(catalog) {
        Some(catalog) => {
            catalog.register_schema(INFORMATION_SCHEMA, Arc::new(provider))?;
            Ok(())
        }
        None => Ok(plan_err!("there is no catalog `{catalog}`")?),
    }
}

/// The schema.
#[derive(Debug)]
struct Information {
    tables: Arc<MemTable>,
    views: Arc<MemTable>,
    columns: Arc<MemTable>,
    constraints: Arc<MemTable>,
    /// Which columns are in a key: as those that it has, and as those that it uses.
    keys: Arc<MemTable>,
    used: Arc<MemTable>,
    /// For everything else.
    engine: InformationSchemaProvider,
}

#[async_trait]
impl SchemaProvider for Information {
    fn table_names(&self) -> Vec<String> {
        table_names(&self.engine)
    }

    async fn table(
        &self,
        name: &str,
    ) -> datafusion::common::Result<Option<Arc<dyn TableProvider>>> {
        let name = name.to_ascii_lowercase();
        Ok(match name.as_str() {
            "tables" => Some(self.tables.clone()),
            "views" => Some(self.views.clone()),
            "columns" => Some(self.columns.clone()),
            "table_constraints" => Some(self.constraints.clone()),
            "key_column_usage" => Some(self.keys.clone()),
            "constraint_column_usage" => Some(self.used.clone()),
            name => match columns_of_empty(name) {
                Some(columns) => Some(empty(columns)?),
                None => self.engine.table(name).await?,
            },
        })
    }

    fn table_exist(&self, name: &str) -> bool {
        let small = name.to_ascii_lowercase();
        OF_KEYS.contains(&small.as_str())
            || columns_of_empty(&small).is_some()
            || self.engine.table_exist(name)
    }
}

fn table_names(engine: &InformationSchemaProvider) -> Vec<String> {
    let own = EMPTY.iter().map(|(name, _)| *name).chain(OF_KEYS);
    let own = own.map(str::to_owned);
    engine.table_names().into_iter().chain(own).collect()
}

/// A table without rows. Places in it are numbers, everything else is text.
fn empty(columns: &[&str]) -> datafusion::common::Result<Arc<dyn TableProvider>> {
    let field = |name: &&str| match name.contains("position") {
        true => Field::new(*name, DataType::UInt64, true),
        false => Field::new(*name, DataType::Utf8, true),
    };
    let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    Ok(Arc::new(MemTable::try_new(schema, vec![vec![]])?))
}

impl Information {
    fn new(state: &SessionState, relations: &[Relation]) -> Result<Self> {
        let mut relations: Vec<&Relation> = relations.iter().collect();
        relations.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        relations.dedup_by(|a, b| a.name == b.name);
        let engine = InformationSchemaProvider::new(state.catalog_list().clone())
            .with_table_functions(state.table_functions().clone());
        let names = &state.config_options().catalog;
        let (catalog, schema) = (&names.default_catalog, &names.default_schema);
        let in_schema = |r: &&Relation| Listed {
            schema: place(schema, r).0.to_owned(),
            name: place(schema, r).1.to_owned(),
            kind: match is_view(r) {
                true => VIEW,
                false => TABLE,
            },
        };
        let own = table_names(&engine).into_iter().map(|name| Listed {
            schema: INFORMATION_SCHEMA.to_owned(),
            name,
            kind: VIEW,
        });
        let all: Vec<Listed> = relations.iter().map(in_schema).chain(own).collect();
        let views = relations.iter().copied().filter(|r| is_view(r)).collect();
        let keys = keys(schema, &relations);
        Ok(Self {
            tables: table(tables(catalog, &all))?,
            views: table(of_views(catalog, schema, views))?,
            columns: table(columns(catalog, schema, &relations))?,
            constraints: table(constraints(catalog, &keys))?,
            keys: table(of_keys(catalog, &keys))?,
            used: table(used(catalog, &keys))?,
            engine,
        })
    }
}

/// The schema and the name of a relation: generations that don't answer have schemas of their own.
pub(crate) fn place<'a>(default: &'a str, relation: &'a Relation) -> (&'a str, &'a str) {
    let name = relation.name.as_str();
    name.split_once('.').unwrap_or((default, name))
}

pub(crate) fn is_view(relation: &Relation) -> bool {
    relation.kind == "view"
}

/// A relation in `tables`.
struct Listed {
    schema: String,
    name: String,
    kind: &'static str,
}

/// The columns of a table: name, and values.
type Columns = Vec<(&'static str, ArrayRef)>;

fn table(columns: Columns) -> Result<Arc<MemTable>> {
    let fields = columns.iter().map(|(name, values)| {
        let nullable = values.is_nullable();
        Field::new(*name, values.data_type().clone(), nullable)
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let values = columns.into_iter().map(|(_, values)| values).collect();
    let rows = RecordBatch::try_new(schema.clone(), values)?;
    Ok(Arc::new(MemTable::try_new(schema, vec![vec![rows]])?))
}

fn texts<'a>(texts: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(texts))
}

fn same(text: &str, rows: usize) -> ArrayRef {
    texts(std::iter::repeat_n(text, rows))
}

fn tables(catalog: &str, all: &[Listed]) -> Columns {
    vec![
        ("table_catalog", same(catalog, all.len())),
        ("table_schema", texts(all.iter().map(|t| t.schema.as_str()))),
        ("table_name", texts(all.iter().map(|t| t.name.as_str()))),
        ("table_type", texts(all.iter().map(|t| t.kind))),
        ("is_insertable_into", same("NO", all.len())),
    ]
}

/// The views with their SQL, under the engine's name for it and under the standard's.
fn of_views(catalog: &str, schema: &str, views: Vec<&Relation>) -> Columns {
    let sql = || -> ArrayRef {
        let all = views.iter().map(|v| v.view.as_ref());
        let all = all.map(|view| Some(view?.definition().sql.as_str()));
        Arc::new(all.collect::<StringArray>())
    };
    vec![
        ("table_catalog", same(catalog, views.len())),
        (
            "table_schema",
            texts(views.iter().map(|v| place(schema, v).0)),
        ),
        (
            "table_name",
            texts(views.iter().map(|v| place(schema, v).1)),
        ),
        ("definition", sql()),
        ("view_definition", sql()),
        ("check_option", same("NONE", views.len())),
        ("is_updatable", same("NO", views.len())),
    ]
}

/// A column of a relation's key.
struct KeyColumn<'a> {
    place: (&'a str, &'a str),
    constraint: String,
    column: &'a str,
    /// From 1.
    nth: u64,
}

fn keys<'a>(schema: &'a str, relations: &[&'a Relation]) -> Vec<KeyColumn<'a>> {
    let mut all = Vec::new();
    for relation in relations {
        let place = place(schema, relation);
        for (nth, at) in (1..).zip(primary_key(relation)) {
            all.push(KeyColumn {
                place,
                constraint: key_name(place.1),
                column: relation.schema.field(at).name(),
                nth,
            });
        }
    }
    all
}

/// Where constraints lie and what they are called, and where their tables lie.
fn places(catalog: &str, keys: &[&KeyColumn<'_>]) -> Columns {
    let schemas = || texts(keys.iter().map(|key| key.place.0));
    vec![
        ("constraint_catalog", same(catalog, keys.len())),
        ("constraint_schema", schemas()),
        (
            "constraint_name",
            texts(keys.iter().map(|key| key.constraint.as_str())),
        ),
        ("table_catalog", same(catalog, keys.len())),
        ("table_schema", schemas()),
        ("table_name", texts(keys.iter().map(|key| key.place.1))),
    ]
}

fn constraints(catalog: &str, keys: &[KeyColumn<'_>]) -> Columns {
    let first: Vec<&KeyColumn<'_>> = keys.iter().filter(|key| key.nth == 1).collect();
    let mut columns = places(catalog, &first);
    columns.extend([
        ("constraint_type", same("PRIMARY KEY", first.len())),
        ("is_deferrable", same("NO", first.len())),
        ("initially_deferred", same("NO", first.len())),
        ("enforced", same("YES", first.len())),
    ]);
    columns
}

fn of_keys(catalog: &str, keys: &[KeyColumn<'_>]) -> Columns {
    let all: Vec<&KeyColumn<'_>> = keys.iter().collect();
    let mut columns = places(catalog, &all);
    let numbers = all.iter().map(|key| key.nth);
    columns.extend([
        ("column_name", texts(all.iter().map(|key| key.column))),
        (
            "ordinal_position",
            Arc::new(UInt64Array::from_iter_values(numbers)) as ArrayRef,
        ),
        (
            "position_in_unique_constraint",
            Arc::new(UInt64Array::new_null(all.len())),
        ),
    ]);
    columns
}

fn used(catalog: &str, keys: &[KeyColumn<'_>]) -> Columns {
    let all: Vec<&KeyColumn<'_>> = keys.iter().collect();
    let mut columns = places(catalog, &all);
    columns.push(("column_name", texts(all.iter().map(|key| key.column))));
    columns
}

/// What the standard says of a number: digits, their base, and those behind the point.
fn digits(data_type: &DataType) -> Option<(u64, u64, Option<u64>)> {
    let whole = |bits| Some((bits, 2, Some(0)));
    match data_type {
        DataType::Int8 | DataType::UInt8 => whole(8),
        DataType::Int16 | DataType::UInt16 => whole(16),
        DataType::Int32 | DataType::UInt32 => whole(32),
        DataType::Int64 | DataType::UInt64 => whole(64),
        DataType::Float32 => Some((24, 2, None)),
        DataType::Float64 => Some((53, 2, None)),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => {
            Some((u64::from(*precision), 10, u64::try_from(*scale).ok()))
        }
        _ => None,
    }
}

fn columns(catalog: &str, schema: &str, relations: &[&Relation]) -> Columns {
    let mut all: Vec<((&str, &str), u64, &Field)> = Vec::new();
    for relation in relations {
        for (nth, field) in (1..).zip(relation.schema.fields()) {
            all.push((place(schema, relation), nth, field.as_ref()));
        }
    }
    let numbers = |of: &dyn Fn(&DataType) -> Option<u64>| -> ArrayRef {
        let all = all.iter().map(|(.., field)| of(field.data_type()));
        Arc::new(all.collect::<UInt64Array>())
    };
    let types: Vec<String> = all.iter().map(|c| sql_type(c.2.data_type())).collect();
    let nullable = |field: &Field| match field.is_nullable() {
        true => "YES",
        false => "NO",
    };
    let none = || -> ArrayRef { Arc::new(StringArray::new_null(all.len())) };
    let places = all.iter().map(|(_, place, _)| *place);
    let of_time = |t: &DataType| matches!(t, DataType::Timestamp(..)).then_some(6);
    vec![
        ("table_catalog", same(catalog, all.len())),
        ("table_schema", texts(all.iter().map(|c| c.0.0))),
        ("table_name", texts(all.iter().map(|c| c.0.1))),
        (
            "column_name",
            texts(all.iter().map(|c| c.2.name().as_str())),
        ),
        (
            "ordinal_position",
            Arc::new(UInt64Array::from_iter_values(places)),
        ),
        ("column_default", none()),
        ("is_nullable", texts(all.iter().map(|c| nullable(c.2)))),
        ("data_type", texts(types.iter().map(String::as_str))),
        ("character_maximum_length", numbers(&|_| None)),
        ("character_octet_length", numbers(&|_| None)),
        ("numeric_precision", numbers(&|t| Some(digits(t)?.0))),
        ("numeric_precision_radix", numbers(&|t| Some(digits(t)?.1))),
        ("numeric_scale", numbers(&|t| digits(t)?.2)),
        ("datetime_precision", numbers(&of_time)),
        ("interval_type", none()),
        ("udt_catalog", same(catalog, all.len())),
        ("udt_schema", same(schema, all.len())),
        ("udt_name", texts(types.iter().map(String::as_str))),
        ("is_identity", same("NO", all.len())),
        ("is_generated", same("NEVER", all.len())),
        ("is_updatable", same("NO", all.len())),
    ]
}
