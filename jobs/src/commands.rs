//! The commands of `anabranch`, one file each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub mod batch;
pub mod daemon;
pub mod dead_letters;
pub mod demo;
pub mod generate;
pub mod ingest;
pub mod init;
pub mod jobs;
pub mod maintain;
pub mod query;
pub mod schedule;
pub mod status;
pub mod tail;
pub mod verify;

/// The exit code when a command did its work and found something wrong with the data.
pub const FOUND_WRONG: u8 = 1;
/// The exit code when there were dead letters.
pub const DEAD_LETTERS: u8 = 2;

/// A flag that SIGINT and SIGTERM set.
pub fn stop_flag() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let set = stop.clone();
    tokio::spawn(async move {
        daemon::stop_signal().await;
        set.store(true, Ordering::Relaxed);
    });
    stop
}
