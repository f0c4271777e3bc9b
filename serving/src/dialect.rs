//! What the clients of a door spell otherwise, and find besides. Owns where that enters a query; what
//! it is belongs to the door.

use anabranch_shared::{Relation, Result};
use datafusion::common::TableReference;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;

/// The dialect of a door.
pub(crate) trait Dialect: Send + Sync + std::fmt::Debug {
    /// Makes the engine's statement of one of this dialect.
    ///
    /// # Errors
    /// `Invalid` for what has no meaning here.
    fn rewrite(&self, statement: &mut Statement) -> Result<()>;

    /// Whether a relation is one of its own.
    fn owns(&self, relation: &TableReference) -> bool;

    /// Whether a statement needs to know which relations there are, although it names none of these.
    fn asks(&self, statement: &Statement) -> bool;

    /// Makes its functions and relations known to a query's session. Of all relations that there are
    /// it is told where the statement names one of its own.
    ///
    /// # Errors
    /// Those of the engine.
    fn register(&self, context: &SessionContext, relations: &[Relation]) -> Result<()>;
}
