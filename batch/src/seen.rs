//! Since when upkeep has seen things as needless: a note in the storage, so that a later run, of
//! whatever process, knows it. Only what was seen so for its grace is removed, by a clock that nobody
//! sets (see [`Stamp`]); a wall clock that is ahead removes nothing.
//!
//! A note that is lost, damaged or overwritten by another process at the same time makes things stay
//! longer, never shorter.

use std::collections::BTreeMap;

use anabranch_shared::{Result, Stamp, Storage, layout};
use object_store::path::Path;

/// The time at which upkeep runs.
#[derive(Clone, Debug)]
pub struct UpkeepTime {
    /// The time by the storage's clock, in milliseconds since 1970. In a folder that is the machine's.
    pub now_ms: i64,
    /// The moment by a clock that nobody sets.
    pub stamp: Stamp,
}

impl UpkeepTime {
    /// The time of a run that may write to the storage.
    pub async fn of(storage: &Storage) -> Result<Self> {
        let own = storage.own_time_ms().await?;
        Ok(Self {
            now_ms: own.unwrap_or_else(|| storage.wall().now_ms()),
            stamp: Stamp::now(own),
        })
    }

    /// The time of a run that only looks: by the machine's clock.
    pub fn to_look(storage: &Storage) -> Self {
        Self {
            now_ms: storage.wall().now_ms(),
            stamp: Stamp::now(None),
        }
    }

    /// A time of clocks that somebody else moves, as tests do.
    pub fn driven(now_ms: i64) -> Self {
        Self {
            now_ms,
            stamp: Stamp::driven(now_ms),
        }
    }
}

/// What is needless in one part of the storage, and when it was first seen so: by each machine that
/// looks, as they don't know each other's clocks.
pub(crate) struct Seen {
    path: Path,
    /// By earlier runs.
    before: BTreeMap<String, Vec<Stamp>>,
    /// By this one.
    now: BTreeMap<String, Vec<Stamp>>,
    stamp: Stamp,
}

/// Of so many machines that look at one folder the first sights are kept.
const MACHINES: usize = 8;

impl Seen {
    /// What earlier runs have seen of a part.
    pub(crate) async fn read(storage: &Storage, part: &str, time: &UpkeepTime) -> Result<Self> {
        let path = layout::seen(part);
        let note = storage.get(&path).await?;
        let before = note.and_then(|note| serde_json::from_slice(&note).ok());
        Ok(Self {
            path,
            before: before.unwrap_or_default(),
            now: BTreeMap::new(),
            stamp: time.stamp.clone(),
        })
    }

    /// Whether something, which is needless now, has been seen so for a time in milliseconds.
    pub(crate) fn for_ms(&mut self, what: &str, grace_ms: i64) -> bool {
        let mut sights = self.before.get(what).cloned().unwrap_or_default();
        // One that is to come is of a clock that was moved after all.
        sights.retain(|sight| self.stamp.since(sight).is_none_or(|passed| passed >= 0));
        let passed = sights.iter().filter_map(|sight| self.stamp.since(sight));
        let passed = passed.max();
        if passed.is_none() {
            sights.push(self.stamp.clone());
            sights.drain(..sights.len().saturating_sub(MACHINES));
        }
        self.now.insert(what.to_owned(), sights);
        passed.unwrap_or(0) >= grace_ms
    }

    /// What earlier runs have noted that begins so, without that beginning.
    pub(crate) fn noted(&self, beginning: &str) -> Vec<String> {
        let noted = self.before.keys();
        let rest = noted.filter_map(|what| what.strip_prefix(beginning));
        rest.map(str::to_owned).collect()
    }

    /// Forgets what was removed.
    pub(crate) fn forget(&mut self, what: &str) {
        self.now.remove(what);
    }

    /// Removes the note of a part, which is no more.
    pub(crate) async fn forget_all(storage: &Storage, part: &str) -> Result<()> {
        storage.delete(&layout::seen(part)).await
    }

    /// Notes what this run has seen, for later ones.
    pub(crate) async fn write(self, storage: &Storage) -> Result<()> {
        if self.now == self.before {
            return Ok(());
        }
        if self.now.is_empty() {
            return storage.delete(&self.path).await;
        }
        let note = serde_json::to_vec(&self.now)
            .map_err(|e| anabranch_shared::Error::Internal(e.to_string()))?;
        storage.put(&self.path, note).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_seen_long_enough_is_told_by_a_clock_that_nobody_sets() -> Result<()> {
        let dir = tempfile::tempdir().map_err(|e| anabranch_shared::Error::io("a folder", e))?;
        let storage = Storage::folder(dir.path())?;
        let run = async |ms: i64, what: &[&str]| -> Result<Vec<bool>> {
            let mut seen = Seen::read(&storage, "a/b", &UpkeepTime::driven(ms)).await?;
            let found = what.iter().map(|w| seen.for_ms(w, 100)).collect();
            seen.write(&storage).await?;
            Ok(found)
        };
        assert_eq!(run(0, &["x", "y"]).await?, [false, false]);
        assert_eq!(run(99, &["x", "z"]).await?, [false, false]);
        // `y` was needed meanwhile, so it counts anew.
        assert_eq!(run(100, &["x", "y", "z"]).await?, [true, false, false]);
        // A clock that went back begins again.
        assert_eq!(run(-50, &["x"]).await?, [false]);
        assert_eq!(run(49, &["x"]).await?, [false]);
        assert_eq!(run(50, &["x"]).await?, [true]);
        let path = Path::from("upkeep/seen/a/b.json");
        storage.put(&path, "damaged").await?;
        assert_eq!(run(200, &["x"]).await?, [false]);
        run(300, &[]).await?;
        assert_eq!(storage.get(&path).await?, None);
        Ok(())
    }
}
