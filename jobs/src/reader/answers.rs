//! What asks: statements in, answers out, whoever gives them.

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;

/// What answers queries.
#[async_trait]
pub trait Session: Send + Sync {
    /// Answers one statement, given without its `;`. Dropping the future stops the query.
    ///
    /// # Errors
    ///
    /// Its text says what is wrong and what to do; it is printed as it is.
    async fn query(&self, sql: &str) -> anabranch_shared::Result<Answer>;

    /// The relations that can be queried now, in the order in which `\d` lists them.
    ///
    /// # Errors
    ///
    /// As for [`Session::query`].
    async fn relations(&self) -> anabranch_shared::Result<Vec<RelationInfo>>;
}

/// The answer to one statement.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The columns; none for a statement that has no rows to give.
    pub schema: SchemaRef,
    /// The rows, each batch with `schema`.
    pub batches: Vec<RecordBatch>,
    /// Up to when and where the answer reaches, one line; empty where that has no meaning.
    pub freshness: String,
    /// What else a person should know, a line each.
    pub notes: Vec<String>,
}

/// A relation as `\d` and completion show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationInfo {
    /// The name as SQL resolves it, without quotes; parts joined by dots.
    pub name: String,
    /// What it is: `topic`, `view`, ….
    pub kind: String,
    /// Name, type in SQL's words, and whether NULL is allowed.
    pub columns: Vec<(String, String, bool)>,
}
