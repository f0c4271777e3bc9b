//! What clients meet: HTTP, statements, bounds, metrics, and daemons that ask each other.

mod answers;
mod as_of;
mod boards;
mod bounds;
mod changes;
mod console;
mod door;
mod flight;
pub(crate) mod gather;
mod jvm;
mod metrics;
mod openapi;
mod operations;
mod postgres;
mod queries;
mod receipts;
mod rows;
mod spellings;
mod tls;
mod users;
