//! Serving layer: joins a master view and its delta, answers SQL.

mod additive;
mod blame;
mod combine;
mod encode;
mod http;
mod layer;
mod leaf;
mod nan_fence;
mod session;
mod statement;
mod text_lossy;
mod topic_table;
mod workers;

pub use http::{SqlRequest, error_response, note_of, router};
pub use session::{Answer, ServingOptions, SqlService, read_setting};
pub use workers::compute;
