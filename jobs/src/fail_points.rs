//! Fail points of the process: inert unless the environment names some, as crash tests do. Builds for
//! use have none: there the environment is not asked.
//!
//! `FAILPOINTS` is what the `fail` crate defines. `ANABRANCH_STOP_AT=POINT:N` stops the process, as
//! SIGSTOP does, when a point is passed for the N-th time: whoever waits for that can kill it
//! exactly there, or let it go on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_shared::{Error, Result};
use fail::FailScenario;
use rustix::process::{Signal, getpid, kill_process};

/// The variable that names the point to stop at.
pub const STOP_AT: &str = "ANABRANCH_STOP_AT";

/// The signal may first reach another thread; this one must not go on before it is stopped too.
const UNTIL_STOPPED: Duration = Duration::from_millis(200);

/// Sets up what the environment asks for; it holds as long as the result lives. `None` in a build
/// without fail points.
///
/// # Errors
/// `Invalid` where [`STOP_AT`] is not a point and a number.
pub fn setup() -> Result<Option<FailScenario<'static>>> {
    if !fail::has_failpoints() {
        return Ok(None);
    }
    let scenario = FailScenario::setup();
    let Ok(stop_at) = std::env::var(STOP_AT) else {
        return Ok(Some(scenario));
    };
    let invalid = || {
        Error::Invalid(format!(
            "`{STOP_AT}` = `{stop_at}`: write a fail point and a number, for example `wal-after-fsync:3`"
        ))
    };
    let (point, nth) = stop_at.split_once(':').ok_or_else(invalid)?;
    let nth: u64 = nth.parse().map_err(|_| invalid())?;
    let passes = AtomicU64::new(0);
    let stop = move || {
        if passes.fetch_add(1, Ordering::Relaxed) + 1 == nth {
            match kill_process(getpid(), Signal::STOP) {
                Ok(()) => std::thread::sleep(UNTIL_STOPPED),
                Err(e) => tracing::error!(error = %e, "can't stop at the fail point"),
            }
        }
    };
    fail::cfg_callback(point, stop).map_err(|_| invalid())?;
    Ok(Some(scenario))
}
