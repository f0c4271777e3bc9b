//! The head of a table's log where old entries are removed. Owns how a process that has slept for
//! long notices that the entries after the one it knows are gone: otherwise it would take the gap
//! for the head, wait there for ever, or commit into it what nobody will read.
//!
//! Entries are removed only below a checkpoint, [`ENTRIES_STAY_MS`] after that was written at the
//! earliest. So an entry that is absent shortly after the head was seen is the head; only when more
//! time has passed the checkpoints are asked.

use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::{Action, Table, checkpoint};
use crate::monotonic::Monotonic;
use crate::{Error, LogVersion, Result};

/// How long entries stay at least that a checkpoint holds, in milliseconds.
pub const ENTRIES_STAY_MS: i64 = 10 * 60 * 1_000;

/// How long a head that was seen is relied on; far less than entries stay.
const RELIED_ON: Duration = Duration::from_secs(2 * 60);

/// A point in time, by two clocks: one that can't be set, and one that also runs while the machine
/// sleeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    monotonic: Duration,
    wall: SystemTime,
}

/// When the head of a table was last seen.
#[derive(Debug)]
pub(super) struct HeadSeen {
    clock: Monotonic,
    at: Mutex<Moment>,
}

impl HeadSeen {
    /// A table that is being opened: its checkpoint is looked for now.
    pub(super) fn new(clock: &Monotonic) -> Self {
        Self {
            at: Mutex::new(now(clock)),
            clock: clock.clone(),
        }
    }

    pub(super) fn now(&self) -> Moment {
        now(&self.clock)
    }

    pub(super) fn set(&self, at: Moment) {
        *self.at.lock() = at;
    }

    /// Whether so little time had passed at a moment that no entry after the head can be gone.
    pub(super) fn is_recent(&self, at: &Moment) -> bool {
        let seen = *self.at.lock();
        let asleep = at.wall.duration_since(seen.wall).unwrap_or_default();
        at.monotonic.saturating_sub(seen.monotonic) < RELIED_ON && asleep < RELIED_ON
    }
}

fn now(clock: &Monotonic) -> Moment {
    Moment {
        monotonic: clock.now(),
        wall: SystemTime::now(),
    }
}

impl Table {
    /// The version of the newest checkpoint.
    pub async fn newest_checkpoint(&self) -> Result<Option<LogVersion>> {
        checkpoint::hint(&self.storage, &self.root).await
    }

    /// Begins again from the newest checkpoint, where that is past the known version. Returns
    /// whether it was.
    pub(super) async fn jump(&self) -> Result<bool> {
        let newest = self.newest_checkpoint().await?;
        if newest <= self.with_state(|s| s.version) {
            return Ok(false);
        }
        let Some(state) = checkpoint::read_latest(&self.storage, &self.root).await? else {
            return Ok(false);
        };
        let mut known = self.state.write();
        if state.version <= known.version {
            return Ok(false);
        }
        *known = state;
        Ok(true)
    }

    /// Whether a commit of ours was put where entries were removed, so that nobody will read it;
    /// then it is taken back, and the state is that of the newest checkpoint.
    ///
    /// # Errors
    /// `Unavailable` where that can't be told.
    pub(super) async fn is_lost(&self, version: LogVersion, actions: &[Action]) -> Result<bool> {
        if self.head_seen.is_recent(&self.head_seen.now()) {
            return Ok(false);
        }
        let Some(newest) = self.newest_checkpoint().await?.filter(|c| *c >= version) else {
            return Ok(false);
        };
        let unknown = || {
            let root = &self.root;
            Error::Unavailable(format!(
                "`{root}`: this process was asleep while it committed version {version}, and whether others have read that is not known; try again"
            ))
        };
        let at = checkpoint::read(&self.storage, &self.root, newest).await?;
        let state = at.ok_or_else(unknown)?;
        // The name of a file is random: where one of ours is known, the commit was read.
        let adds = actions.iter().filter_map(|a| match a {
            Action::Add(add) => Some(&add.path),
            _ => None,
        });
        let read = |path| state.files.contains_key(path) || state.removed.contains_key(path);
        let adds: Vec<bool> = adds.map(read).collect();
        if adds.iter().any(|read| *read) {
            return Ok(false);
        }
        *self.state.write() = state;
        if adds.is_empty() {
            return Err(unknown());
        }
        self.storage.delete(&self.entry_path(version)).await?;
        Ok(true)
    }
}
