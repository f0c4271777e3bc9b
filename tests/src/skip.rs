//! What a test says that can't run here.

use std::fmt::Display;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Says that the test of this thread, or a part of it, is skipped, and how many were so far. It is
/// said past the test runner, which counts such a test as passed and shows nothing of it.
pub fn skipped(why: impl Display) {
    static SO_FAR: AtomicUsize = AtomicUsize::new(0);
    let so_far = SO_FAR.fetch_add(1, Ordering::Relaxed) + 1;
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a thread");
    let line = format!("skipped: {why} ({test}; {so_far} so far)\n");
    // With standard error gone there is nobody to tell.
    std::io::stderr().lock().write_all(line.as_bytes()).ok();
}
