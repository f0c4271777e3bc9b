//! Why a record could not become a fact, in words for the person who sent it.

use arrow::datatypes::DataType;

/// How many characters of a value a reason shows.
const SHOWN_CHARS: usize = 60;

/// What is wrong with a value, as the end of a sentence that begins "expected …, found …".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reject(&'static str);

impl Reject {
    pub(super) const TYPE: Self = Self("");
    pub(super) const RANGE: Self = Self(", which is out of range");
    pub(super) const FRACTION: Self = Self(", which has digits that would be lost");
    pub(super) const PRECISION: Self = Self(", which has too many digits");
    pub(super) const TIMESTAMP: Self = Self("; send RFC 3339, such as \"2014-03-10T08:00:00Z\"");
    pub(super) const YEARS: Self = Self(", which is outside the years 1678 to 2261");
    pub(super) const DATE: Self = Self("; send a date such as \"2014-03-10\"");
    pub(super) const DATE_YEARS: Self = Self(", which is outside the years 1 to 9999");
    pub(super) const BASE64: Self = Self("; send base64");
}

/// A record's verdict: what to say, and the field it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) field: Option<String>,
    pub(super) reason: String,
}

impl Fault {
    pub(super) fn record(reason: impl Into<String>) -> Self {
        Self {
            field: None,
            reason: reason.into(),
        }
    }

    pub(super) fn field(name: &str, what: &str) -> Self {
        Self {
            field: Some(name.to_owned()),
            reason: format!("field `{}`: {what}", cut(name)),
        }
    }

    pub(super) fn missing(name: &str, expected: &DataType) -> Self {
        Self::field(
            name,
            &format!(
                "expected {}, found nothing; the field is not null",
                sql_type(expected)
            ),
        )
    }

    pub(super) fn null(name: &str, expected: &DataType) -> Self {
        Self::field(
            name,
            &format!(
                "expected {}, found null; the field is not null",
                sql_type(expected)
            ),
        )
    }

    pub(super) fn twice(name: &str) -> Self {
        Self::field(name, "appears more than once in the record")
    }

    pub(super) fn undeclared(name: &str) -> Self {
        Self::field(
            name,
            "not declared in the topic, which rejects undeclared fields",
        )
    }

    pub(super) fn oversized(size_bytes: u64, max_bytes: usize) -> Self {
        Self::record(format!(
            "record of {size_bytes} bytes is longer than the topic's limit of {max_bytes} bytes"
        ))
    }

    pub(super) fn not_utf8() -> Self {
        Self::record("record is not valid utf-8")
    }
}

/// The middle of a reason: `expected bigint, found string "abc"`.
pub(super) fn mismatch(expected: &DataType, found: &str, reject: Reject) -> String {
    format!("expected {}, found {found}{}", sql_type(expected), reject.0)
}

/// The name under which a topic declares a type.
pub(super) fn sql_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int8 => "tinyint".to_owned(),
        DataType::Int16 => "smallint".to_owned(),
        DataType::Int32 => "int".to_owned(),
        DataType::Int64 => "bigint".to_owned(),
        DataType::Float32 => "real".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Utf8View => "varchar".to_owned(),
        DataType::BinaryView => "binary".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Timestamp(_, _) => "timestamp".to_owned(),
        DataType::List(item) => format!("{}[]", sql_type(item.data_type())),
        other => other.to_string(),
    }
}

/// `text`, or its beginning and an ellipsis.
pub(super) fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
