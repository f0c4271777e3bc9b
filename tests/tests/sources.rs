//! What comes in: records of every kind, once each, and what can't be read.

pub(crate) mod bad_input;
mod bad_input_arrow;
mod dead_letters;
mod dedup;
mod fuzz;
mod idempotency;
mod kafka;
mod kafka_source;
mod steps;
