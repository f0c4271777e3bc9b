//! What keeps a storage small and readable for others: merges, retention, exports.

mod changes;
mod compaction;
mod export;
mod maintain;
mod open_formats;
mod retention;
