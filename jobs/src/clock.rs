//! The time of this machine, as commands and what a node runs see it.

use anabranch_shared::WallClock;
use chrono::{DateTime, Utc};

/// The time.
pub fn now() -> DateTime<Utc> {
    WallClock::default().now()
}

/// The time, in microseconds since 1970.
pub fn now_us() -> i64 {
    now().timestamp_micros()
}

/// The time, in milliseconds since 1970.
pub fn now_ms() -> i64 {
    now_us() / 1_000
}
