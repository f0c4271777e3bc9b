//! What is done where the process has little memory or few descriptors left. A thread looks at the
//! memory while there are services, because it may be short long before anything that a query does
//! would look.

use std::sync::{OnceLock, Weak};
use std::time::Duration;

use anabranch_shared::process::{most_descriptors, open_descriptors, resident_bytes};
use anabranch_shared::{Error, Result};
use parking_lot::Mutex;

/// How often the memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Of a process's descriptors so many are for what is not queries.
const FOR_OTHERS: (u64, u64) = (1, 4);

/// What takes memory, and is told how much of it the process has.
pub(crate) trait Watched: Send + Sync {
    /// The process has so many bytes resident.
    fn look(&self, resident: u64);
}

/// What is looked after.
static WATCHED: Mutex<Vec<Weak<dyn Watched>>> = Mutex::new(Vec::new());

/// Looks after something as long as it is there.
pub(crate) fn watch(watched: Weak<dyn Watched>) {
    WATCHED.lock().push(watched);
    static WATCH: OnceLock<()> = OnceLock::new();
    WATCH.get_or_init(|| {
        let thread = std::thread::Builder::new().name("query-watch".to_owned());
        // Without it queries are refused still, and none is stopped.
        if let Err(e) = thread.spawn(look_for_ever) {
            tracing::error!(error = %e, "can't start the thread that watches the memory of queries");
        }
    });
}

/// Lives as long as the process, as the threads for queries do.
fn look_for_ever() {
    loop {
        std::thread::sleep(LOOK_EVERY);
        let watched: Vec<_> = {
            let mut watched = WATCHED.lock();
            watched.retain(|w| w.strong_count() > 0);
            watched.iter().filter_map(Weak::upgrade).collect()
        };
        if let Some(resident) = resident_bytes().filter(|_| !watched.is_empty()) {
            watched.iter().for_each(|queries| queries.look(resident));
        }
    }
}

/// Whether there are descriptors for one more query.
///
/// # Errors
/// `NoRoom` where there are not.
pub(crate) fn spare_descriptors() -> Result<()> {
    let (Some(open), Some(most)) = (open_descriptors(), most_descriptors()) else {
        return Ok(());
    };
    let (part, of) = FOR_OTHERS;
    match open >= most - most / of * part {
        true => Err(Error::NoRoom(format!(
            "{open} of the process's {most} descriptors are open, the rest is for facts; try again soon, or raise the limit (`ulimit -n`)"
        ))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_has_descriptors_to_spare() {
        assert!(spare_descriptors().is_ok());
    }
}
