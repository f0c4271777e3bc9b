//! Batch layer: reads the whole log, publishes master views.

mod build;
mod merge;

pub use build::{BatchOptions, BatchOutcome, rebuild, refresh};
pub use merge::merge_small_runs;
