//! Batch layer: reads the whole log, publishes master views.

mod build;
mod candidate;
mod clean;
mod compact;
mod export;
mod keep;
mod merge;
mod retain;
mod retire;
mod seen;

pub use build::{BatchOptions, BatchOutcome, rebuild, refresh};
pub use candidate::{build_up, take_states};
pub use clean::{
    CleanAction, CleanOptions, CleanReason, CleanReport, Cleaned, clean_storage, clean_table,
    clean_view,
};
pub use compact::{CompactOptions, CompactReport, compact, find_compaction};
pub use export::{ExportOutcome, ExportWhen, export};
pub use keep::{KeepReport, KeepRule, is_to_keep, keep_small};
pub use merge::merge_small_runs;
pub use retain::{RetainReport, RetentionRule, find_retention, retain};
pub use retire::{RetireRule, retire};
pub use seen::UpkeepTime;
