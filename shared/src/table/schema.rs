//! Arrow schemas as Delta schemas. Delta knows fewer types than Arrow: a column of a type that it
//! lacks is stored as one it has, without loss, and cast back when it is read.

use arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};
use serde_json::{Value, json};
use std::sync::Arc;

use crate::{Error, Result};

/// The type as which a column of an Arrow type is stored: itself where Delta has it, otherwise one
/// to which and from which a cast loses nothing.
///
/// # Errors
/// `Invalid` for a type that has no such counterpart.
pub fn storage_type(data_type: &DataType) -> Result<DataType> {
    if let Some(same) = plain_type(data_type) {
        return Ok(same);
    }
    Ok(match data_type {
        DataType::LargeUtf8 => DataType::Utf8View,
        // Of more digits than Delta has: 32 bytes each, most significant first.
        DataType::LargeBinary | DataType::FixedSizeBinary(_) | DataType::Decimal256(..) => {
            DataType::BinaryView
        }
        DataType::Timestamp(TimeUnit::Microsecond, Some(tz)) if tz.as_ref() == "UTC" => {
            data_type.clone()
        }
        DataType::Timestamp(..)
        | DataType::Duration(_)
        | DataType::Date64
        | DataType::Time64(_) => DataType::Int64,
        DataType::Time32(_) => DataType::Int32,
        DataType::Dictionary(_, value) => storage_type(value)?,
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) => {
            DataType::List(storage_field(item)?)
        }
        DataType::Struct(fields) => DataType::Struct(
            fields
                .iter()
                .map(storage_field)
                .collect::<Result<Fields>>()?,
        ),
        other => {
            return Err(Error::Invalid(format!(
                "the type {other} can't be stored in a Delta table; cast it, for example to varchar"
            )));
        }
    })
}

/// The type of a column whose values another engine reads as they are meant: itself where Delta has
/// it, otherwise a wider one. `None` where the meaning is more than the value, as in times.
pub(crate) fn plain_type(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Date32
        | DataType::Utf8
        | DataType::Utf8View
        | DataType::Binary
        | DataType::BinaryView
        | DataType::Decimal128(_, 0..) => data_type.clone(),
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        // Counts and sums of counts: below 2^63 for ever.
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Null => DataType::Boolean,
        _ => return None,
    })
}

fn storage_field(field: &Arc<Field>) -> Result<Arc<Field>> {
    let data_type = storage_type(field.data_type())?;
    Ok(Arc::new(Field::new(field.name(), data_type, true)))
}

/// An Arrow schema of stored types as the JSON of a Delta schema.
///
/// # Errors
/// `Invalid` for a type that Delta lacks.
pub fn delta_schema(schema: &Schema) -> Result<Value> {
    struct_type(schema.fields())
}

fn struct_type(fields: &Fields) -> Result<Value> {
    let fields = fields
        .iter()
        .map(|f| {
            Ok(json!({
                "name": f.name(),
                "type": delta_type(f.data_type())?,
                "nullable": f.is_nullable(),
                "metadata": {},
            }))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(json!({ "type": "struct", "fields": fields }))
}

fn delta_type(data_type: &DataType) -> Result<Value> {
    Ok(match data_type {
        DataType::Boolean => "boolean".into(),
        DataType::Int8 => "byte".into(),
        DataType::Int16 => "short".into(),
        DataType::Int32 => "integer".into(),
        DataType::Int64 => "long".into(),
        DataType::Float32 => "float".into(),
        DataType::Float64 => "double".into(),
        DataType::Date32 => "date".into(),
        DataType::Utf8 | DataType::Utf8View => "string".into(),
        DataType::Binary | DataType::BinaryView => "binary".into(),
        DataType::Decimal128(p, s) => format!("decimal({p},{s})").into(),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "timestamp".into(),
        DataType::List(item) => json!({
            "type": "array",
            "elementType": delta_type(item.data_type())?,
            "containsNull": true,
        }),
        DataType::Struct(fields) => struct_type(fields)?,
        other => {
            return Err(Error::Invalid(format!(
                "the type {other} is not one that Delta has"
            )));
        }
    })
}
