//! The commands of `anabranch`, one file each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anabranch_shared::Error;
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::tasks::flag_of;

pub mod batch;
pub mod check;
pub mod daemon;
pub mod dead_letters;
pub mod demo;
pub mod generate;
pub mod ingest;
pub mod init;
pub mod jobs;
pub mod maintain;
pub mod queries;
pub mod query;
pub mod schedule;
pub mod status;
pub mod tail;
pub mod verify;

/// The exit code when a command did its work and found something wrong with the data.
pub const FOUND_WRONG: u8 = 1;
/// The exit code when there were dead letters.
pub const DEAD_LETTERS: u8 = 2;

/// The exit code of a process that was stopped before it had done its work.
const STOPPED: i32 = 75;

/// How often progress is shown.
const SHOW_EVERY: Duration = Duration::from_millis(200);

/// Of how many looks at progress one becomes a line where there is no terminal.
const LINE_EVERY: u32 = 25;

/// A bar that is gone when the work is done; hidden unless `shown`.
fn progress_bar(template: &str, shown: bool) -> ProgressBar {
    let bar = match shown {
        true => ProgressBar::new(0).with_finish(ProgressFinish::AndClear),
        false => ProgressBar::hidden(),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// A view was named that is not among the known ones.
pub(crate) fn no_view<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Error {
    let known: Vec<&str> = known.map(String::as_str).collect();
    Error::NotFound(format!(
        "no view `{name}`; the views are: {}",
        known.join(", ")
    ))
}

/// What SIGINT and SIGTERM cancel. A second one ends the process at once.
pub fn stop_token() -> CancellationToken {
    let stop = CancellationToken::new();
    let told = stop.clone();
    let signal = daemon::stop_signal();
    tokio::spawn(async move {
        signal.await;
        let again = daemon::stop_signal();
        told.cancel();
        again.await;
        end_at_once();
    });
    stop
}

/// A flag that SIGINT and SIGTERM set, for what computes.
pub fn stop_flag() -> Arc<AtomicBool> {
    flag_of(&stop_token())
}

/// Ends the process where it was told to stop twice.
pub(crate) fn end_at_once() -> ! {
    tracing::warn!("told to stop a second time: the process ends at once");
    std::process::exit(STOPPED)
}

/// Ends soon after a flag was set.
pub async fn stopped(flag: &AtomicBool) {
    while !flag.load(Ordering::Relaxed) {
        tokio::time::sleep(SHOW_EVERY).await;
    }
}
