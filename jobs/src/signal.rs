//! SIGINT and SIGTERM: the first stops the work in order, the second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::tasks::flag_of;

/// The exit code of a process that was stopped before it had done its work.
const STOPPED: i32 = 75;

/// How often a flag is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Ends with SIGINT or SIGTERM, of which the first is noticed from this call on, and not only once
/// the future is polled.
pub fn stop_signal() -> impl Future<Output = ()> {
    use tokio::signal::unix::{Signal, SignalKind, signal};
    async fn next(signal: Option<Signal>) {
        match signal {
            Some(mut signal) => {
                signal.recv().await;
            }
            None => std::future::pending().await,
        }
    }
    let interrupt = signal(SignalKind::interrupt()).ok();
    let terminate = signal(SignalKind::terminate()).ok();
    async move {
        tokio::select! {
            () = next(interrupt) => {}
            () = next(terminate) => {}
        }
    }
}

/// What SIGINT and SIGTERM cancel. A second one ends the process at once.
pub fn stop_token() -> CancellationToken {
    let stop = CancellationToken::new();
    let told = stop.clone();
    let signal = stop_signal();
    tokio::spawn(async move {
        signal.await;
        let again = stop_signal();
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
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
