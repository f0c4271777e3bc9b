//! The columns of `pg_catalog`'s relations, those of PostgreSQL 17, and tables of their rows.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use anabranch_shared::{Error, Result};
use arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Float64Array, Int16Array, Int16Builder, Int32Array,
    Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder, UInt32Array, UInt32Builder,
    new_null_array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use serde_json::{Map, Value};

use super::Rows;
use crate::parameters::list_of;
use crate::postgres::types::VECTOR;

/// A relation a line: its name, and for each column `NAME:LETTER`, see [`data_type`].
const TEXT: &str = include_str!("relations.txt");

/// The relations that have rows here; all others are empty.
const WITH_ROWS: [&str; 13] = [
    "pg_am",
    "pg_attribute",
    "pg_class",
    "pg_constraint",
    "pg_database",
    "pg_description",
    "pg_index",
    "pg_namespace",
    "pg_roles",
    "pg_settings",
    "pg_tables",
    "pg_type",
    "pg_views",
];

static ALL: LazyLock<BTreeMap<&'static str, SchemaRef>> = LazyLock::new(|| {
    let line = |line: &'static str| {
        let (name, columns) = line.split_once(' ')?;
        let field = |column: &str| {
            let (name, letter) = column.split_once(':')?;
            let field = Field::new(name, data_type(letter), true);
            let is_vector = matches!(letter, "V" | "W");
            let extension = ("ARROW:extension:name".to_owned(), VECTOR.to_owned());
            Some(match is_vector {
                true => field.with_metadata([extension].into()),
                false => field,
            })
        };
        let fields: Option<Vec<Field>> = columns.split(' ').map(field).collect();
        Some((name, Arc::new(Schema::new(fields?))))
    };
    TEXT.lines().filter_map(line).collect()
});

fn data_type(letter: &str) -> DataType {
    match letter {
        "b" => DataType::Boolean,
        "s" => DataType::Int16,
        "i" => DataType::Int32,
        // The numbers of things.
        "o" => DataType::UInt32,
        "l" => DataType::Int64,
        "f" => DataType::Float32,
        "d" => DataType::Float64,
        "z" => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
        "S" | "V" => list_of(&DataType::Int16),
        "I" | "W" => list_of(&DataType::UInt32),
        "T" => list_of(&DataType::Utf8),
        _ => DataType::Utf8,
    }
}

/// The columns of a relation, if there is one of this name.
pub(super) fn table_of(name: &str) -> Option<&'static SchemaRef> {
    ALL.get(name)
}

/// Whether a relation of this name is there and never has rows.
pub(super) fn is_empty(name: &str) -> bool {
    ALL.contains_key(name) && !WITH_ROWS.contains(&name) && name != "pg_user"
}

/// All relations, with their rows.
///
/// # Errors
/// `Internal` for rows of no relation, or with a column that it does not have.
pub(super) fn tables(rows: &Rows) -> Result<Vec<(&'static str, Arc<dyn TableProvider>)>> {
    let of = |(name, schema): (&&'static str, &SchemaRef)| {
        let rows = rows.get(name).map(Vec::as_slice).unwrap_or_default();
        let table: Arc<dyn TableProvider> = Arc::new(table(name, schema, rows)?);
        Ok((*name, table))
    };
    ALL.iter().map(of).collect()
}

fn table(name: &str, schema: &SchemaRef, rows: &[Map<String, Value>]) -> Result<MemTable> {
    if let Some(column) = rows
        .iter()
        .flat_map(Map::keys)
        .find(|column| schema.field_with_name(column).is_err())
    {
        return Err(Error::Internal(format!(
            "`{name}` has no column `{column}`"
        )));
    }
    if rows.is_empty() {
        return Ok(MemTable::try_new(schema.clone(), vec![vec![]])?);
    }
    let columns = schema.fields().iter().map(|field| column(field, rows));
    let batch = RecordBatch::try_new(schema.clone(), columns.collect())?;
    Ok(MemTable::try_new(schema.clone(), vec![vec![batch]])?)
}

/// A column of rows. Numbers and truths that a row leaves out are 0 and false, everything else NULL.
fn column(field: &Field, rows: &[Map<String, Value>]) -> ArrayRef {
    let values = rows.iter().map(|row| row.get(field.name()));
    let whole = |value: Option<&Value>| value.and_then(Value::as_i64).unwrap_or(0);
    match field.data_type() {
        DataType::Boolean => {
            let all = values.map(|v| Some(v.and_then(Value::as_bool).unwrap_or(false)));
            Arc::new(all.collect::<BooleanArray>())
        }
        DataType::Int16 => {
            let all = values.map(|v| i16::try_from(whole(v)).unwrap_or_default());
            Arc::new(Int16Array::from_iter_values(all))
        }
        DataType::Int32 => {
            let all = values.map(|v| i32::try_from(whole(v)).unwrap_or_default());
            Arc::new(Int32Array::from_iter_values(all))
        }
        DataType::UInt32 => {
            let all = values.map(|v| u32::try_from(whole(v)).unwrap_or_default());
            Arc::new(UInt32Array::from_iter_values(all))
        }
        DataType::Int64 => Arc::new(Int64Array::from_iter_values(values.map(whole))),
        DataType::Float32 => {
            let all = values.map(|v| v.and_then(Value::as_f64).unwrap_or(0.0) as f32);
            Arc::new(Float32Array::from_iter_values(all))
        }
        DataType::Float64 => {
            let all = values.map(|v| v.and_then(Value::as_f64).unwrap_or(0.0));
            Arc::new(Float64Array::from_iter_values(all))
        }
        DataType::Utf8 => {
            let all = values.map(|v| v.and_then(Value::as_str));
            Arc::new(all.collect::<StringArray>())
        }
        DataType::List(item) => {
            let items = |v: Option<&Value>| v.and_then(Value::as_array).cloned();
            match item.data_type() {
                DataType::Int16 => {
                    let mut lists = ListBuilder::new(Int16Builder::new());
                    for value in values {
                        match items(value) {
                            Some(items) => {
                                let all = items.iter().map(|v| Some(whole(Some(v)) as i16));
                                lists.append_value(all);
                            }
                            None => lists.append_null(),
                        }
                    }
                    Arc::new(lists.finish())
                }
                DataType::UInt32 => {
                    let mut lists = ListBuilder::new(UInt32Builder::new());
                    for value in values {
                        match items(value) {
                            Some(items) => {
                                let all = items.iter().map(|v| Some(whole(Some(v)) as u32));
                                lists.append_value(all);
                            }
                            None => lists.append_null(),
                        }
                    }
                    Arc::new(lists.finish())
                }
                _ => {
                    let mut lists = ListBuilder::new(StringBuilder::new());
                    for _ in values {
                        lists.append_null();
                    }
                    Arc::new(lists.finish())
                }
            }
        }
        other => new_null_array(other, rows.len()),
    }
}
