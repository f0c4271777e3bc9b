//! The time of this machine.

/// The time, in microseconds since 1970.
pub fn now_us() -> i64 {
    chrono::Utc::now().timestamp_micros()
}

/// The time, in milliseconds since 1970.
pub fn now_ms() -> i64 {
    now_us() / 1_000
}
