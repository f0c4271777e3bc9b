//! What is wrong with a statement, and where.

use crate::ErrorKind;

/// What is wrong with a statement: what, where, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct StatementError {
    /// What whoever asked does next.
    pub kind: ErrorKind,
    /// The whole text: where the place is known it begins with that, and ends with the line and a caret.
    pub text: String,
    /// The same without the place.
    pub message: String,
    /// The code by which clients of SQL know it.
    pub sql_state: &'static str,
    /// Line and column, counted from 1.
    pub place: Option<(usize, usize)>,
}
