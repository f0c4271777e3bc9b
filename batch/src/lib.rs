//! Batch layer: reads the whole log, publishes master views.

mod build;
mod export;
mod merge;

pub use build::{BatchOptions, BatchOutcome, rebuild, refresh};
pub use export::{ExportOutcome, ExportWhen, export};
pub use merge::merge_small_runs;
