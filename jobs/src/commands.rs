//! The commands of `anabranch`, one file each.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

pub mod batch;
pub mod check;
pub mod dead_letters;
pub mod demo;
pub mod generate;
pub mod ingest;
pub mod init;
pub mod jobs;
pub mod maintain;
pub mod queries;
pub mod status;
pub mod tail;
pub mod verify;

/// The exit code when a command did its work and found something wrong with the data.
pub const FOUND_WRONG: u8 = 1;
/// The exit code when there were dead letters.
pub const DEAD_LETTERS: u8 = 2;

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
