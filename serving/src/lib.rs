//! Serving layer: joins a master view and its delta, answers SQL.

mod additive;
mod blame;
mod combine;
mod http;
mod layer;
mod leaf;
mod session;
mod statement;
mod topic_table;
mod workers;

pub use http::{SqlRequest, router};
pub use session::{Answer, ServingOptions, SqlService, read_setting};
