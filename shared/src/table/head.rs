//! The head of a table's log. Owns how it is told from a gap: where an entry is lost and later ones
//! are there, and where a process has slept so long that the entries after the one it knows were
//! removed. Otherwise it would take the gap for the head, wait there for ever, or commit into it
//! what nobody will read.
//!
//! Entries are removed only below a checkpoint, [`ENTRIES_STAY_MS`] after that was written at the
//! earliest. So an entry that is absent shortly after the head was seen by listing is the head; only
//! at opening, and when more time has passed, what there is is listed.

use std::time::Duration;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;

use super::{Action, Table, checkpoint};
use crate::damage::lost;
use crate::monotonic::Monotonic;
use crate::{Error, LogVersion, Result, Storage, WallClock, planted};

/// How long entries stay at least that a checkpoint holds, in milliseconds.
pub const ENTRIES_STAY_MS: i64 = 10 * 60 * 1_000;

/// How long a head that was seen is relied on; far less than entries stay.
const RELIED_ON: Duration = Duration::from_secs(2 * 60);

/// A point in time, by two clocks: one that can't be set, and one that also runs while the machine
/// sleeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    monotonic: Duration,
    wall: DateTime<Utc>,
}

/// When the head of a table was last seen.
#[derive(Debug)]
pub(super) struct HeadSeen {
    clock: Monotonic,
    wall: WallClock,
    at: Mutex<Moment>,
    /// When it was last seen by listing; an entry that is lost, with later ones there, shows in
    /// nothing else.
    listed: Mutex<Option<Moment>>,
}

impl HeadSeen {
    /// A table that is being opened.
    pub(super) fn new(storage: &Storage) -> Self {
        let (clock, wall) = (storage.clock().clone(), storage.wall().clone());
        Self {
            at: Mutex::new(now(&clock, &wall)),
            listed: Mutex::new(None),
            clock,
            wall,
        }
    }

    pub(super) fn now(&self) -> Moment {
        now(&self.clock, &self.wall)
    }

    pub(super) fn set(&self, at: Moment) {
        *self.at.lock() = at;
    }

    /// When it was last seen.
    pub(super) fn last(&self) -> Moment {
        *self.at.lock()
    }

    fn set_listed(&self, at: Moment) {
        *self.listed.lock() = Some(at);
    }

    /// Whether so little time had passed at a moment that no entry after the head can be gone.
    pub(super) fn is_recent(&self, at: &Moment) -> bool {
        at.is_soon_after(&self.at.lock())
    }

    /// Whether an entry that is absent at a moment needs no listing to be taken for the head.
    pub(super) fn is_sure(&self, at: &Moment) -> bool {
        let listed = *self.listed.lock();
        self.is_recent(at) && listed.is_some_and(|listed| at.is_soon_after(&listed))
    }
}

impl Moment {
    fn is_soon_after(&self, seen: &Self) -> bool {
        let asleep = (self.wall - seen.wall).to_std().unwrap_or_default();
        self.monotonic.saturating_sub(seen.monotonic) < RELIED_ON && asleep < RELIED_ON
    }
}

fn now(clock: &Monotonic, wall: &WallClock) -> Moment {
    Moment {
        monotonic: clock.now(),
        wall: wall.now(),
    }
}

impl Table {
    /// The version of the newest checkpoint.
    pub async fn newest_checkpoint(&self) -> Result<Option<LogVersion>> {
        checkpoint::hint(&self.storage, &self.root).await
    }

    /// Whether an entry that is absent is the head, by what else there is. Begins again from the
    /// newest checkpoint where that is past the known version.
    ///
    /// # Errors
    /// `Corrupt` where later entries are there: it is lost.
    pub(super) async fn is_head(&self, absent: LogVersion, looked: Moment) -> Result<bool> {
        let known = self.with_state(|s| s.version);
        let later = checkpoint::list_later(&self.storage, &self.root, known).await?;
        if let Some(newest) = later.checkpoint
            && let Some(state) = checkpoint::read(&self.storage, &self.root, newest).await?
        {
            self.replace(state);
            return Ok(false);
        }
        if later.entries.range(absent..).next().is_none() {
            self.head_seen.set_listed(looked);
            return Ok(true);
        }
        // It may have come after it was looked for.
        match self.read_entry(absent).await? {
            Some(_) => Ok(false),
            None if planted("planted-damage-read") => Ok(true),
            None => Err(lost(self.entry_path(absent))),
        }
    }

    /// Whether a commit of ours was put where entries were removed, so that nobody will read it;
    /// then it is taken back, and the state is that of the newest checkpoint or a later one. `seen`
    /// is when the head had last been seen before the commit was decided.
    ///
    /// # Errors
    /// `Unavailable` where that can't be told.
    pub(super) async fn is_lost(
        &self,
        version: LogVersion,
        actions: &[Action],
        seen: &Moment,
    ) -> Result<bool> {
        if self.head_seen.now().is_soon_after(seen) {
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
        // Who has refreshed meanwhile may have come further.
        if self.with_state(|known| known.version <= state.version) {
            self.replace(state);
        }
        if adds.is_empty() {
            return Err(unknown());
        }
        self.storage.delete(&self.entry_path(version)).await?;
        Ok(true)
    }
}
