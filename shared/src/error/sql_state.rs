//! The five-character codes by which clients of SQL know errors (PostgreSQL's documentation, appendix
//! A). Owns which of ours has which: drivers decide by them whether to try again, to prepare again or
//! to tell a person.

use arrow::error::ArrowError;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;

use super::Error;
use crate::error::ErrorKind;

impl Error {
    /// The code of the error.
    pub fn sql_state(&self) -> &'static str {
        match self.root() {
            Self::Statement(e) => e.sql_state,
            Self::Query(e) => of_engine(e).unwrap_or_else(|| of_kind(self.kind())),
            Self::OutOfRange { .. } => "22003",
            Self::TimedOut(_) | Self::Cancelled(_) => "57014",
            Self::NoRoom(_) => "53200",
            Self::Store(_) | Self::Io { .. } => "58030",
            root => of_kind(root.kind()),
        }
    }
}

fn of_kind(kind: ErrorKind) -> &'static str {
    match kind {
        // Syntax error or access rule violation.
        ErrorKind::Invalid => "42000",
        ErrorKind::NotFound => "42704",
        ErrorKind::Denied => "42501",
        // Try again.
        ErrorKind::Conflict => "40001",
        ErrorKind::Unavailable => "57P03",
        ErrorKind::Corrupt => "XX001",
        ErrorKind::Internal => "XX000",
    }
}

fn of_engine(e: &DataFusionError) -> Option<&'static str> {
    let root = e.find_root();
    Some(match root {
        DataFusionError::SQL(..) => "42601",
        DataFusionError::SchemaError(e, _) => match e.as_ref() {
            SchemaError::AmbiguousReference { .. } => "42702",
            SchemaError::FieldNotFound { .. } => "42703",
            _ => "42701",
        },
        DataFusionError::NotImplemented(_) => "0A000",
        DataFusionError::ResourcesExhausted(_) => "53200",
        DataFusionError::ArrowError(e, _) => match e.as_ref() {
            ArrowError::DivideByZero => "22012",
            ArrowError::ArithmeticOverflow(_) => "22003",
            ArrowError::CastError(_) | ArrowError::ParseError(_) => "22P02",
            _ => return None,
        },
        DataFusionError::Plan(text) => match text {
            text if text.contains("table '") && text.contains("not found") => "42P01",
            text if text.contains("Invalid function") => "42883",
            text if text.contains("Placeholder") || text.contains("placeholder") => "42P02",
            text if text.contains("must be in the GROUP BY") => "42803",
            text if text.contains("coerce") || text.contains("No function matches") => "42883",
            _ => return None,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn the_engines_errors_have_the_codes_of_postgresql() {
        let context = SessionContext::new();
        for (sql, state) in [
            ("SELEC 1", "42601"),
            ("SELECT * FROM nowhere", "42P01"),
            ("SELECT a FROM (VALUES (1)) AS t(b)", "42703"),
            ("SELECT nofunction(1)", "42883"),
            ("SELECT 1 / 0", "22012"),
            ("SELECT CAST('x' AS INT)", "22P02"),
        ] {
            let e = async { context.sql(sql).await?.collect().await }.await;
            let e = Error::from(e.unwrap_err());
            assert_eq!(e.sql_state(), state, "{sql}: {e}");
        }
        assert_eq!(Error::Conflict(String::new()).sql_state(), "40001");
    }
}
