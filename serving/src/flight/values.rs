//! What clients bind to parameters, as expressions of a statement.

use std::sync::Arc;

use anabranch_shared::{Error, Result};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::sql::sqlparser::ast::{Expr, Value};

use crate::parameters::{list, literal};

/// The items that a list may have.
const MOST_ITEMS: usize = 1_000_000;

/// The values of a row, in the order of its columns.
///
/// # Errors
/// `Invalid` for a value that no statement takes.
pub(super) fn expressions(row: &RecordBatch) -> Result<Vec<Expr>> {
    let columns = row.columns().iter().zip(1..);
    columns
        .map(|(column, nth)| expression(nth, column))
        .collect()
}

/// The types that a row's values state for their parameters.
pub(super) fn types(row: &RecordBatch) -> Vec<Option<DataType>> {
    let types = row
        .schema_ref()
        .fields()
        .iter()
        .map(|f| stated(f.data_type()));
    types.collect()
}

/// The type that a value of a type states: text and bytes in the form that everybody knows.
fn stated(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        DataType::Null => return None,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Dictionary(_, value) => return stated(value),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => {
            crate::parameters::list_of(&stated(item.data_type()).unwrap_or(DataType::Utf8))
        }
        other => other.clone(),
    })
}

fn expression(nth: usize, column: &ArrayRef) -> Result<Expr> {
    let wrong = |why: String| Error::Invalid(format!("parameter ${nth}: {why}"));
    let Some(data_type) = stated(column.data_type()) else {
        return Ok(Expr::value(Value::Null));
    };
    let as_stated = cast(column, &data_type).map_err(|e| wrong(e.to_string()))?;
    let DataType::List(item) = &data_type else {
        let texts = texts(&as_stated).map_err(wrong)?;
        return Ok(literal(&data_type, texts[0].as_deref()));
    };
    let lists = as_stated.as_list::<i32>();
    if lists.is_null(0) {
        return Ok(literal(&data_type, None));
    }
    let items = lists.value(0);
    if items.len() > MOST_ITEMS {
        return Err(wrong(format!("a list of more than {MOST_ITEMS} items")));
    }
    Ok(list(item.data_type(), &texts(&items).map_err(wrong)?))
}

/// The texts of values, as the engine reads them; of bytes their hexadecimal digits.
fn texts(values: &ArrayRef) -> std::result::Result<Vec<Option<String>>, String> {
    match values.data_type() {
        DataType::Binary => {
            let bytes = values.as_binary::<i32>().iter();
            return Ok(bytes.map(|bytes| bytes.map(hex::encode)).collect());
        }
        other if other.is_nested() => {
            return Err(format!("a value of type {other} can't be bound"));
        }
        _ => {}
    }
    let texts = cast(values, &DataType::Utf8).map_err(|e| e.to_string())?;
    let texts = texts.as_string::<i32>().iter();
    Ok(texts.map(|text| text.map(str::to_owned)).collect())
}

/// The schema of parameters of these types.
pub(super) fn schema(types: &[DataType]) -> Schema {
    let fields = types.iter().zip(1..);
    let fields = fields.map(|(data_type, nth)| {
        let plain = stated(data_type).unwrap_or(DataType::Null);
        Arc::new(Field::new(format!("${nth}"), plain, true))
    });
    Schema::new(fields.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use arrow::array::{
        BinaryArray, BooleanArray, Decimal128Array, DictionaryArray, Float64Array, Int32Array,
        Int64Array, ListArray, NullArray, StringArray, StringViewArray, TimestampMicrosecondArray,
    };
    use arrow::datatypes::{Int8Type, Int32Type};

    use super::*;

    fn row(columns: Vec<ArrayRef>) -> RecordBatch {
        let named = columns.into_iter().zip(1..);
        let named = named.map(|(column, nth)| (format!("{nth}"), column, true));
        RecordBatch::try_from_iter_with_nullable(named).unwrap()
    }

    /// The engine gives back what was bound, of the type that was stated.
    #[tokio::test]
    async fn values_are_what_was_bound() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![i64::MIN])),
            Arc::new(Int32Array::from(vec![-7])),
            Arc::new(Float64Array::from(vec![f64::NAN])),
            Arc::new(Float64Array::from(vec![0.1 + 0.2])),
            Arc::new(StringArray::from(vec!["it's $1; ü\u{0}"])),
            Arc::new(StringViewArray::from(vec![None::<&str>])),
            Arc::new(BinaryArray::from_vec(vec![b"\x00\xff"])),
            Arc::new(BooleanArray::from(vec![false])),
            Arc::new(
                Decimal128Array::from(vec![-123_456_789_012_345_678_901_234_567])
                    .with_precision_and_scale(38, 4)
                    .unwrap(),
            ),
            Arc::new(
                TimestampMicrosecondArray::from(vec![1_700_000_000_123_456]).with_timezone("UTC"),
            ),
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
                Some(vec![Some(1), None]),
            ])),
            Arc::new(
                vec![Some("in a dictionary")]
                    .into_iter()
                    .collect::<DictionaryArray<Int8Type>>(),
            ),
            Arc::new(NullArray::new(1)),
        ];
        let row = row(columns);
        let shown: Vec<String> = expressions(&row)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        let session = datafusion::prelude::SessionContext::new();
        let sql = format!("SELECT {}", shown.join(", "));
        let answer = session.sql(&sql).await.unwrap().collect().await.unwrap();
        for (nth, (asked, given)) in answer[0].columns().iter().zip(row.columns()).enumerate() {
            let (asked, given) = (
                cast(asked, given.data_type()).unwrap(),
                cast(given, given.data_type()).unwrap(),
            );
            assert_eq!(&asked, &given, "{nth}");
        }
    }
}
