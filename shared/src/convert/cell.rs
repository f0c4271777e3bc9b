//! One value on its way into a column, whatever it came from.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Float16Type,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::temporal_conversions::timestamp_us_to_datetime;

use super::reason::cut;

/// A value as its source states it.
#[derive(Debug, Clone, Copy)]
pub enum Cell<'a> {
    /// No value.
    Null,
    /// A boolean.
    Bool(bool),
    /// The text of a JSON number.
    Number(&'a str),
    /// A string of a typed source.
    Text(&'a str),
    /// A string of a source without types (CSV), which may mean any type.
    Untyped(&'a str),
    /// A whole number.
    Int(i128),
    /// A number in single precision.
    Single(f32),
    /// A number in double precision.
    Double(f64),
    /// Unscaled value and scale.
    Decimal(i128, i8),
    /// Bytes.
    Bytes(&'a [u8]),
    /// Microseconds since the epoch.
    Micros(i64),
    /// A time of a calendar and a clock without a zone, as if it were UTC, in microseconds since the epoch.
    Naive(i64),
    /// Days since the epoch.
    Days(i64),
    /// A JSON array or object, as text.
    Json(&'a str),
    /// A value of an Arrow type that no field can take.
    Other(&'a DataType),
}

impl Cell<'_> {
    /// The value in a reason: `string "abc"`, cut where it is long.
    pub fn describe(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => format!("boolean {value}"),
            Self::Number(text) => format!("number {}", cut(text)),
            Self::Text(text) | Self::Untyped(text) => format!("string \"{}\"", cut(text)),
            Self::Int(value) => format!("number {value}"),
            Self::Single(value) => format!("number {value}"),
            Self::Double(value) => format!("number {value}"),
            Self::Decimal(value, scale) => format!("decimal {value}e{}", -i32::from(*scale)),
            Self::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Self::Micros(micros) | Self::Naive(micros) => match timestamp_us_to_datetime(*micros) {
                Some(time) => format!("timestamp {time}"),
                None => format!("timestamp {micros} microseconds from 1970"),
            },
            Self::Days(days) => format!("date {days} days from 1970"),
            Self::Json(text) if text.starts_with('[') => format!("array {}", cut(text)),
            Self::Json(text) => format!("object {}", cut(text)),
            Self::Other(data_type) => {
                format!("a value of Arrow type {}", cut(&data_type.to_string()))
            }
        }
    }
}

/// The value of `array` at `row`. Dictionaries and run-end encodings must have been unpacked. Strings are typed ones.
pub fn cell(array: &dyn Array, row: usize) -> Cell<'_> {
    if array.is_null(row) {
        return Cell::Null;
    }
    macro_rules! int {
        ($type:ty) => {
            Cell::Int(i128::from(array.as_primitive::<$type>().value(row)))
        };
    }
    macro_rules! value {
        ($type:ty) => {
            array.as_primitive::<$type>().value(row)
        };
    }
    match array.data_type() {
        DataType::Null => Cell::Null,
        DataType::Boolean => Cell::Bool(array.as_boolean().value(row)),
        DataType::Int8 => int!(Int8Type),
        DataType::Int16 => int!(Int16Type),
        DataType::Int32 => int!(Int32Type),
        DataType::Int64 => int!(Int64Type),
        DataType::UInt8 => int!(UInt8Type),
        DataType::UInt16 => int!(UInt16Type),
        DataType::UInt32 => int!(UInt32Type),
        DataType::UInt64 => int!(UInt64Type),
        DataType::Float16 => Cell::Single(array.as_primitive::<Float16Type>().value(row).to_f32()),
        DataType::Float32 => Cell::Single(array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => Cell::Double(array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal32(_, s) => Cell::Decimal(
            i128::from(array.as_primitive::<Decimal32Type>().value(row)),
            *s,
        ),
        DataType::Decimal64(_, s) => Cell::Decimal(
            i128::from(array.as_primitive::<Decimal64Type>().value(row)),
            *s,
        ),
        DataType::Decimal128(_, s) => {
            Cell::Decimal(array.as_primitive::<Decimal128Type>().value(row), *s)
        }
        DataType::Utf8 => Cell::Text(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Cell::Text(array.as_string::<i64>().value(row)),
        DataType::Utf8View => Cell::Text(array.as_string_view().value(row)),
        DataType::Binary => Cell::Bytes(array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => Cell::Bytes(array.as_binary::<i64>().value(row)),
        DataType::BinaryView => Cell::Bytes(array.as_binary_view().value(row)),
        DataType::FixedSizeBinary(_) => Cell::Bytes(array.as_fixed_size_binary().value(row)),
        DataType::Date32 => Cell::Days(i64::from(array.as_primitive::<Date32Type>().value(row))),
        // What saturates is out of every accepted range, before as after. Nanoseconds are cut towards the past, as the
        // digits of a text are.
        DataType::Date64 => Cell::Naive(value!(Date64Type).saturating_mul(1_000)),
        DataType::Timestamp(unit, zone) => {
            let micros = match unit {
                TimeUnit::Second => value!(TimestampSecondType).saturating_mul(1_000_000),
                TimeUnit::Millisecond => value!(TimestampMillisecondType).saturating_mul(1_000),
                TimeUnit::Microsecond => value!(TimestampMicrosecondType),
                TimeUnit::Nanosecond => value!(TimestampNanosecondType).div_euclid(1_000),
            };
            match zone {
                Some(_) => Cell::Micros(micros),
                None => Cell::Naive(micros),
            }
        }
        other => Cell::Other(other),
    }
}

/// The items of a list of any kind at `row`; `None` where `array` isn't one.
pub fn items(array: &dyn Array, row: usize) -> Option<ArrayRef> {
    match array.data_type() {
        DataType::List(_) => Some(array.as_list::<i32>().value(row)),
        DataType::LargeList(_) => Some(array.as_list::<i64>().value(row)),
        DataType::ListView(_) => Some(array.as_list_view::<i32>().value(row)),
        DataType::LargeListView(_) => Some(array.as_list_view::<i64>().value(row)),
        DataType::FixedSizeList(_, _) => Some(array.as_fixed_size_list().value(row)),
        _ => None,
    }
}
