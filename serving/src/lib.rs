//! Serving layer: joins a master view and its delta, answers SQL.

mod additive;
mod blame;
mod combine;
mod described;
mod encode;
mod http;
mod information;
mod layer;
mod leaf;
mod limits;
mod merge_states;
mod metrics;
mod naming;
mod nan_fence;
mod planning;
mod pool;
mod process;
mod reading;
mod running;
mod session;
mod statement;
mod stoppable;
mod temporary;
mod text_lossy;
mod topic_table;
mod workers;

pub use described::{ColumnInfo, RelationInfo};
pub use http::{SqlRequest, error_response, note_of, router, who};
pub use limits::QueryLimits;
pub use metrics::{Door, QueryMetrics};
pub use naming::distinct_names;
pub use reading::{Reading, SearchPath, Setting, setting};
pub use running::{QueryInfo, Verification, VerificationWork};
pub use session::{Answer, ServingOptions, SqlService, stopped_by};
pub use stoppable::stoppable;
pub use workers::compute;
