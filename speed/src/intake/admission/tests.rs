//! What becomes of records, type by type and path by path.
#![expect(clippy::unwrap_used, reason = "tests")]

mod batches;
mod forms;
mod lines;
mod properties;
mod raw;

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;

use super::{Admission, Admitted};
use anabranch_shared::settings::UnknownFields;

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn list(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, true)))
}

/// One field of each type, named for it; only the event time is not null.
fn schema() -> SchemaRef {
    let fields = [
        ("b", DataType::Boolean),
        ("i8", DataType::Int8),
        ("i16", DataType::Int16),
        ("i32", DataType::Int32),
        ("i64", DataType::Int64),
        ("f32", DataType::Float32),
        ("f64", DataType::Float64),
        ("dec", DataType::Decimal128(10, 2)),
        ("dec38", DataType::Decimal128(38, 0)),
        ("text", DataType::Utf8View),
        ("bytes", DataType::BinaryView),
        ("day", DataType::Date32),
        ("at", timestamp()),
        ("ints", list(DataType::Int64)),
        ("texts", list(DataType::Utf8View)),
        ("nested", list(list(DataType::Int64))),
        ("times", list(timestamp())),
    ];
    let mut all = vec![Field::new("ts", timestamp(), false)];
    all.extend(fields.map(|(name, data_type)| Field::new(name, data_type, true)));
    Arc::new(Schema::new(all))
}

fn admission(unknown: UnknownFields) -> Admission {
    Admission::new(&schema(), "ts", unknown, 1_000_000).unwrap()
}

/// Admits lines, keeping undeclared fields, and checks that the accounts balance.
fn admit(lines: impl AsRef<[u8]>) -> Admitted {
    let admitted = admission(UnknownFields::Keep)
        .ndjson(&Bytes::copy_from_slice(lines.as_ref()))
        .unwrap();
    check_accounts(&admitted);
    admitted
}

fn check_accounts(admitted: &Admitted) {
    assert_eq!(admitted.facts.num_rows(), admitted.records.len());
    assert!(admitted.records.is_sorted() && admitted.dead.is_sorted_by_key(|dead| dead.record));
    let mut all: Vec<u64> = admitted
        .records
        .iter()
        .copied()
        .chain(admitted.dead.iter().map(|d| d.record))
        .collect();
    all.sort_unstable();
    assert_eq!(all, (0..admitted.record_count).collect::<Vec<_>>());
    admitted
        .facts
        .schema()
        .fields()
        .iter()
        .zip(admitted.facts.columns())
        .for_each(|(field, array)| {
            assert_eq!(field.data_type(), array.data_type());
        });
}

/// The value of a column's row as text; `NULL` for none.
fn shown(batch: &RecordBatch, column: &str, row: usize) -> String {
    let array = batch.column_by_name(column).unwrap();
    let array = match array.data_type() {
        // Without a table of zones Arrow can show plain timestamps only.
        DataType::Timestamp(unit, _) => {
            arrow::compute::cast(array, &DataType::Timestamp(*unit, None)).unwrap()
        }
        DataType::List(item) if matches!(item.data_type(), DataType::Timestamp(_, _)) => {
            arrow::compute::cast(
                array,
                &list(DataType::Timestamp(TimeUnit::Microsecond, None)),
            )
            .unwrap()
        }
        _ => array.clone(),
    };
    if array.is_null(row) {
        return "NULL".to_owned();
    }
    arrow::util::display::array_value_to_string(&array, row).unwrap()
}

/// What a JSON value becomes in `field`: the value as text, or the reason of the dead letter.
fn of_json(field: &str, value: &str) -> Result<String, String> {
    let mut admitted = admit(format!(
        "{{\"ts\":\"2014-03-10T08:00:00Z\",\"{field}\":{value}}}"
    ));
    match admitted.dead.pop() {
        Some(dead) => {
            assert_eq!(dead.field.as_deref(), Some(field));
            Err(dead
                .reason
                .strip_prefix(&format!("field `{field}`: "))
                .unwrap()
                .to_owned())
        }
        None => Ok(shown(&admitted.facts, field, 0)),
    }
}
