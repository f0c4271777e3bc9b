//! What clients meet: HTTP, statements, bounds, metrics, and daemons that ask each other.

mod bounds;
mod door;
pub(crate) mod gather;
mod metrics;
mod queries;
