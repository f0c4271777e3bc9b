//! A clock that nobody sets and that all processes of a machine share: the time since it booted, sleep
//! included. What is removed for its age is judged by it, because a wall clock that is set ahead makes
//! everything old.

use std::sync::LazyLock;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::Ids;

/// A moment of this clock. Moments of one boot can be told apart by how much time lies between them;
/// those of different ones by the storage's clock, where it has one of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The boot of the machine.
    boot: String,
    /// The time since it, in milliseconds.
    ms: i64,
    /// The time by the storage's own clock, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    storage_ms: Option<i64>,
}

impl Stamp {
    /// This moment, with the time by the storage's clock if that is not the machine's.
    pub fn now(storage_ms: Option<i64>) -> Self {
        Self {
            boot: BOOT.clone(),
            ms: uptime_ms(),
            storage_ms,
        }
    }

    /// A moment of a clock that somebody else moves, as tests do.
    pub fn driven(ms: i64) -> Self {
        Self {
            boot: "driven".into(),
            ms,
            storage_ms: None,
        }
    }

    /// How much time has surely passed since another moment, in milliseconds; `None` where nobody
    /// knows.
    pub fn since(&self, earlier: &Self) -> Option<i64> {
        if self.boot == earlier.boot {
            return Some(self.ms - earlier.ms);
        }
        Some(self.storage_ms? - earlier.storage_ms?)
    }
}

/// The machine's boot, as the processes see it that see the same others.
static BOOT: LazyLock<String> = LazyLock::new(|| {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let others = std::fs::read_link("/proc/self/ns/pid");
    match (boot, others, read_uptime_ms()) {
        (Ok(boot), Ok(others), Some(_)) => format!("{} {}", boot.trim(), others.display()),
        // The clock is this process's alone.
        _ => Ids::default().fresh().to_string(),
    }
});

static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The time since the machine booted, in milliseconds; of this process where the system does not say.
pub(crate) fn uptime_ms() -> i64 {
    let since = || i64::try_from(BEGUN.elapsed().as_millis()).unwrap_or(i64::MAX);
    read_uptime_ms().unwrap_or_else(since)
}

fn read_uptime_ms() -> Option<i64> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    let (seconds, hundredths) = text.split(' ').next()?.split_once('.')?;
    let seconds: i64 = seconds.parse().ok()?;
    let hundredths: i64 = hundredths.parse().ok()?;
    Some(seconds * 1_000 + hundredths * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_different_boots_are_told_apart_by_the_storage_alone() {
        let at = |boot: &str, ms, storage_ms| Stamp {
            boot: boot.into(),
            ms,
            storage_ms,
        };
        let seen = at("a", 5_000, Some(100_000));
        // The storage's clock was set; the machine's goes on.
        assert_eq!(at("a", 6_000, Some(0)).since(&seen), Some(1_000));
        assert_eq!(at("b", 1, Some(160_000)).since(&seen), Some(60_000));
        assert_eq!(at("b", 1, None).since(&seen), None);
        let now = Stamp::now(None);
        assert!(Stamp::now(None).since(&now).is_some_and(|ms| ms >= 0));
    }
}
