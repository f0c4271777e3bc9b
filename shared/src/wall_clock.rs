//! The time of day. What reads it is given it, so that a test can move it; what expires is judged by
//! [`Monotonic`](crate::Monotonic) instead, because a wall clock can be set.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};

/// A clock that says what time it is, as the machine's does, which somebody may set.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>);

impl WallClock {
    /// A clock that somebody else moves, as tests do.
    pub fn of(read: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The time.
    pub fn now(&self) -> DateTime<Utc> {
        (self.0)()
    }

    /// The time in milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        self.now().timestamp_millis()
    }

    /// The time in microseconds since 1970.
    pub fn now_us(&self) -> i64 {
        self.now().timestamp_micros()
    }
}

/// The machine's.
impl Default for WallClock {
    #[expect(clippy::disallowed_methods, reason = "the time enters here")]
    fn default() -> Self {
        Self::of(Utc::now)
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WallClock({})", self.now())
    }
}
