//! The schemas of dead letters and of their retries: at rest, and as they are queried.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::topic::{OFFSET, PARTITION, timestamp_type};

/// The schema of dead letters at rest.
pub fn dead_letter_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("topic", DataType::Utf8View, false),
        Field::new(PARTITION, DataType::Int32, false),
        Field::new(OFFSET, DataType::Int64, false),
        Field::new("received_at", timestamp_type(), false),
        Field::new("source", DataType::Utf8View, true),
        Field::new("line", DataType::Int64, true),
        Field::new("reason", DataType::Utf8View, false),
        Field::new("field", DataType::Utf8View, true),
        Field::new("raw", DataType::BinaryView, false),
    ]))
}

/// The columns of `dead_letters` as they are queried: the bytes as text too, and when each was last
/// retried.
pub fn dead_letters_queried() -> SchemaRef {
    let mut fields = Vec::new();
    for field in dead_letter_schema().fields() {
        match field.name().as_str() {
            "raw" => {
                fields.push(Field::new("raw", DataType::Utf8View, true));
                fields.push(Field::new("raw_bytes", DataType::BinaryView, false));
            }
            _ => fields.push(field.as_ref().clone()),
        }
    }
    fields.push(Field::new("retried_at", timestamp_type(), true));
    Arc::new(Schema::new(fields))
}

/// The schema of retries of dead letters at rest.
pub fn retry_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("topic", DataType::Utf8View, false),
        Field::new(PARTITION, DataType::Int32, false),
        Field::new(OFFSET, DataType::Int64, false),
        Field::new("retried_at", timestamp_type(), false),
        Field::new("outcome", DataType::Utf8View, false),
        Field::new("_new_partition", DataType::Int32, true),
        Field::new("_new_offset", DataType::Int64, true),
    ]))
}
