//! What asks: statements in, answers out, whoever gives them.

use anabranch_serving::RelationInfo;
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
    /// What the answer leaves out of what is there, one line; empty where it leaves out nothing.
    pub freshness: String,
    /// What else a person should know, a line each.
    pub notes: Vec<String>,
}
