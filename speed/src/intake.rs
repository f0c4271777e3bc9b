//! From a record to a fact: how bodies and files are read, what is taken, what is a duplicate, what
//! came before.

pub mod admission;
pub(crate) mod arrow_stream;
pub(crate) mod body;
pub(crate) mod counts;
pub(crate) mod dedup;
pub mod files;
pub(crate) mod idempotency;
pub(crate) mod payload;
pub(crate) mod room;
pub(crate) mod turns;
