//! A clock that only goes forward: what expiry is judged by, because a wall clock can be set.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A clock that only goes forward. Its zero means nothing; only differences do.
#[derive(Clone)]
pub struct Monotonic(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Monotonic {
    /// A clock that somebody else moves, as tests do.
    pub fn of(read: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The time since the clock's zero.
    pub fn now(&self) -> Duration {
        (self.0)()
    }
}

impl Default for Monotonic {
    fn default() -> Self {
        let begun = Instant::now();
        Self::of(move || begun.elapsed())
    }
}

impl fmt::Debug for Monotonic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Monotonic({:?})", self.now())
    }
}
