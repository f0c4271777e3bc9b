//! What clients meet: HTTP, statements, bounds, metrics, and daemons that ask each other.

mod answers;
mod bounds;
mod door;
pub(crate) mod gather;
mod metrics;
mod postgres;
mod queries;
mod rows;
mod tls;
mod users;
