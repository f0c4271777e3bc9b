//! What must hold across the layers: one binary, because linking the engine takes long.

mod bad_input;
mod bad_input_arrow;
mod bad_views;
mod bounds;
mod clock;
mod compaction;
mod crash;
mod dead_letters;
mod dedup;
mod evolution;
mod export;
mod faults;
mod gather;
mod idempotency;
mod kafka;
mod kafka_source;
mod law;
mod maintain;
mod old_states;
mod open_formats;
mod retention;
mod s3;
mod tables;
mod two_processes;
mod view_errors;
mod weblog;
