//! Why a value does not fit a field, in words for the person who sent it.

use arrow::datatypes::{DataType, FieldRef};

/// How many characters of a value a reason shows.
const SHOWN_CHARS: usize = 60;

/// What is wrong with a value, as the end of a sentence that begins "expected …, found …".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reject(&'static str);

impl Reject {
    /// It is of another kind.
    pub const TYPE: Self = Self("");
    /// The type can't hold it.
    pub const RANGE: Self = Self(", which is out of range");
    /// Digits would be lost.
    pub const FRACTION: Self = Self(", which has digits that would be lost");
    /// It has more digits than the type.
    pub const PRECISION: Self = Self(", which has too many digits");
    /// It is no timestamp in text.
    pub const TIMESTAMP: Self = Self("; send RFC 3339, such as \"2014-03-10T08:00:00Z\"");
    /// It is a number, and the field does not say what numbers count.
    pub const EPOCH: Self = Self(
        "; send RFC 3339, such as \"2014-03-10T08:00:00Z\", or say what numbers count by `epoch` in the field's settings",
    );
    /// It is a time that no clock of the field's zone shows.
    pub const SKIPPED: Self = Self(", which clocks in the field's zone have passed over");
    /// It is a timestamp of a year that some part can't hold.
    pub const YEARS: Self = Self(", which is outside the years 1678 to 2261");
    /// It is no date in text.
    pub const DATE: Self = Self("; send a date such as \"2014-03-10\"");
    /// It is a date of a year that a timestamp can't have.
    pub const DATE_YEARS: Self = Self(", which is outside the years 1678 to 2261");
    /// It is text that stands for no bytes.
    pub const BASE64: Self = Self("; send base64");
}

/// The middle of a reason: `expected bigint, found string "abc"`.
pub fn mismatch(expected: &DataType, found: &str, reject: Reject) -> String {
    format!("expected {}, found {found}{}", sql_type(expected), reject.0)
}

/// A type in SQL's words: that under which a topic declares it, for those that a topic can have.
pub fn sql_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int8 => "tinyint".to_owned(),
        DataType::Int16 => "smallint".to_owned(),
        DataType::Int32 => "int".to_owned(),
        DataType::Int64 => "bigint".to_owned(),
        DataType::UInt8 => "tinyint unsigned".to_owned(),
        DataType::UInt16 => "smallint unsigned".to_owned(),
        DataType::UInt32 => "int unsigned".to_owned(),
        DataType::UInt64 => "bigint unsigned".to_owned(),
        DataType::Float32 => "real".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "varchar".to_owned(),
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => "binary".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Timestamp(_, _) => "timestamp".to_owned(),
        DataType::Time32(_) | DataType::Time64(_) => "time".to_owned(),
        DataType::Interval(_) => "interval".to_owned(),
        DataType::Null => "null".to_owned(),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => format!("{}[]", sql_type(item.data_type())),
        DataType::Struct(fields) => {
            let field = |field: &FieldRef| {
                let of_type = sql_type(field.data_type());
                format!("{} {of_type}", field.name())
            };
            let fields: Vec<String> = fields.iter().map(field).collect();
            format!("struct({})", fields.join(", "))
        }
        DataType::Map(entry, _) => match entry.data_type() {
            DataType::Struct(pair) => {
                let sides: Vec<String> = pair.iter().map(|f| sql_type(f.data_type())).collect();
                format!("map({})", sides.join(", "))
            }
            other => sql_type(other),
        },
        DataType::Dictionary(_, values) => sql_type(values),
        DataType::RunEndEncoded(_, values) => sql_type(values.data_type()),
        other => other.to_string(),
    }
}

/// `text`, or its beginning and an ellipsis.
pub fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
