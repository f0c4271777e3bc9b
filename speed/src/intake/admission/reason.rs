//! Why a record could not become a fact, in words for the person who sent it.

use anabranch_shared::convert::{cut, sql_type};
use arrow::datatypes::DataType;

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
