//! Leases: which of several processes does a piece of work. Numbered entries, written by
//! put-if-absent; the highest is current. A lease saves work and nothing else: two processes may
//! both believe that they hold it, and then the commits themselves fence one of them off.
//!
//! Expiry is judged on the observer's own clock, from when it saw the newest entry: no two clocks
//! are ever compared. The newest entry is found by reading forward from the last known number;
//! the storage is listed only when a lease is opened and before one is taken over, because the
//! holder removes old entries, and who slept for long may stand before a gap.

use std::future::Future;
use std::time::Duration;

use object_store::path::Path;
use serde::{Deserialize, Serialize};

use crate::layout;
use crate::monotonic::Monotonic;
use crate::storage::{CreateOutcome, Storage};
use crate::{Error, Result};

/// The format of an entry; readers refuse a later one.
const FORMAT: u32 = 1;

/// So many entries stay below the newest, for those who read forward.
const KEPT: u64 = 8;

/// A holder renews when this share of the expiry has passed.
const RENEWALS_PER_EXPIRY: u32 = 3;

/// One entry of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseEntry {
    /// The format of the entry.
    pub format: u32,
    /// The entry's number, from 1.
    pub number: u64,
    /// A random id of who wrote it.
    pub holder: String,
    /// How long after this entry was seen others may take over, in milliseconds.
    pub expires_ms: u64,
    /// Whether the holder has given the lease up.
    pub released: bool,
}

/// What a process is to do about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseDecision {
    /// Nothing: it holds the lease, for at least this long.
    Keep(Duration),
    /// Write one more entry: it holds the lease, and has for a while.
    Renew,
    /// Write an entry: nobody holds the lease, or the holder has let it expire.
    Take,
    /// Leave the work to the holder, and look again after this long.
    Leave(Duration),
}

/// Decides about a lease of which `newest` was seen `age` ago. For an entry of one's own the age
/// counts from before it was written, so that a holder lets go before others may take over.
pub fn decide_lease(holder: &str, newest: Option<&LeaseEntry>, age: Duration) -> LeaseDecision {
    let Some(entry) = newest.filter(|e| !e.released) else {
        return LeaseDecision::Take;
    };
    let expires = Duration::from_millis(entry.expires_ms);
    if age >= expires {
        return LeaseDecision::Take;
    }
    if entry.holder != holder {
        return LeaseDecision::Leave(expires - age);
    }
    match expires / RENEWALS_PER_EXPIRY {
        renewal if age >= renewal => LeaseDecision::Renew,
        renewal => LeaseDecision::Keep(renewal - age),
    }
}

/// How a process stands to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseStanding {
    /// It holds the lease; look again after this long at the latest.
    Held(Duration),
    /// Somebody else does, and may for this long without a sign of life.
    Elsewhere(Duration),
}

/// One process's part in a lease.
#[derive(Debug)]
pub struct Lease {
    storage: Storage,
    name: String,
    holder: String,
    expires: Duration,
    clock: Monotonic,
    newest: Option<LeaseEntry>,
    seen_at: Duration,
}

impl Lease {
    /// Takes part in a lease, without taking it. `holder` is this process's alone, `name` is a
    /// path of its own in the storage.
    pub async fn open(
        storage: &Storage,
        name: &str,
        holder: String,
        expires: Duration,
        clock: Monotonic,
    ) -> Result<Self> {
        let mut lease = Self {
            storage: storage.clone(),
            name: name.to_owned(),
            holder,
            expires,
            clock,
            newest: None,
            seen_at: Duration::ZERO,
        };
        lease.find_newest().await?;
        Ok(lease)
    }

    fn path(&self, number: u64) -> Path {
        layout::lease_entry(&self.name, number)
    }

    fn number(&self) -> u64 {
        self.newest.as_ref().map_or(0, |e| e.number)
    }

    async fn read(&self, number: u64) -> Result<Option<LeaseEntry>> {
        let path = self.path(number);
        let Some(bytes) = self.storage.get(&path).await? else {
            return Ok(None);
        };
        let entry: LeaseEntry = serde_json::from_slice(&bytes)
            .map_err(|e| Error::Corrupt(format!("`{path}`: not an entry of a lease: {e}")))?;
        match entry.format > FORMAT {
            true => Err(Error::Conflict(format!(
                "`{path}` is of format {}, this version reads up to {FORMAT}; use a newer version",
                entry.format
            ))),
            false => Ok(Some(entry)),
        }
    }

    async fn numbers(&self) -> Result<Vec<u64>> {
        let folder = Path::from(layout::lease(&self.name));
        let found = self.storage.list_below(&folder).await?;
        let number = |name: &str| name.strip_suffix(".json")?.parse().ok();
        let mut numbers: Vec<u64> = found
            .iter()
            .filter_map(|o| number(o.location.filename()?))
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Finds the newest entry by listing.
    async fn find_newest(&mut self) -> Result<()> {
        let newest = self.numbers().await?.pop().unwrap_or(0);
        if newest > self.number()
            && let Some(entry) = self.read(newest).await?
        {
            self.see(entry);
        }
        self.read_forward().await
    }

    /// Finds newer entries by reading on from the one that is known.
    async fn read_forward(&mut self) -> Result<()> {
        while let Some(entry) = self.read(self.number() + 1).await? {
            self.see(entry);
        }
        Ok(())
    }

    fn see(&mut self, entry: LeaseEntry) {
        self.seen_at = self.clock.now();
        self.newest = Some(entry);
    }

    fn decide(&self) -> LeaseDecision {
        let age = self.clock.now().saturating_sub(self.seen_at);
        decide_lease(&self.holder, self.newest.as_ref(), age)
    }

    /// Looks at the lease, and takes or renews it where that is due.
    ///
    /// # Errors
    /// `Unavailable` when the storage does not answer: then the lease is not to be counted on.
    pub async fn step(&mut self) -> Result<LeaseStanding> {
        self.read_forward().await?;
        if self.decide() == LeaseDecision::Take {
            self.find_newest().await?;
        }
        match self.decide() {
            LeaseDecision::Keep(wait) => Ok(LeaseStanding::Held(wait)),
            LeaseDecision::Leave(wait) => Ok(LeaseStanding::Elsewhere(wait)),
            LeaseDecision::Take => self.write(false, Removal::AllOld).await,
            LeaseDecision::Renew => self.write(false, Removal::One).await,
        }
    }

    /// Gives the lease up, where it is held, so that nobody waits for it to expire.
    pub async fn release(&mut self) -> Result<()> {
        self.read_forward().await?;
        if let LeaseDecision::Keep(_) | LeaseDecision::Renew = self.decide() {
            self.write(true, Removal::One).await?;
        }
        Ok(())
    }

    /// Writes the next entry, and sees whose it became.
    async fn write(&mut self, released: bool, removal: Removal) -> Result<LeaseStanding> {
        let begun = self.clock.now();
        let entry = LeaseEntry {
            format: FORMAT,
            number: self.number() + 1,
            holder: self.holder.clone(),
            expires_ms: u64::try_from(self.expires.as_millis()).unwrap_or(u64::MAX),
            released,
        };
        let body = serde_json::to_vec(&entry).map_err(|e| Error::Internal(e.to_string()))?;
        let created = self.storage.create(&self.path(entry.number), body).await?;
        if created == CreateOutcome::Created {
            let number = entry.number;
            (self.newest, self.seen_at) = (Some(entry), begun);
            self.remove_old(number, removal).await?;
        } else {
            self.read_forward().await?;
        }
        Ok(match self.decide() {
            LeaseDecision::Keep(wait) => LeaseStanding::Held(wait),
            LeaseDecision::Renew => LeaseStanding::Held(Duration::ZERO),
            LeaseDecision::Leave(wait) => LeaseStanding::Elsewhere(wait),
            LeaseDecision::Take => LeaseStanding::Elsewhere(Duration::ZERO),
        })
    }

    async fn remove_old(&self, newest: u64, removal: Removal) -> Result<()> {
        let Some(last) = newest.checked_sub(KEPT).filter(|n| *n > 0) else {
            return Ok(());
        };
        let old = match removal {
            Removal::One => vec![last],
            Removal::AllOld => self.numbers().await?,
        };
        for number in old.into_iter().filter(|n| *n <= last) {
            self.storage.delete(&self.path(number)).await?;
        }
        Ok(())
    }

    /// Does some work, keeping the lease meanwhile. `lost` is called when somebody else has it, or
    /// when it can't be renewed; the work goes on then until it ends by itself.
    pub async fn while_held<T>(&mut self, work: impl Future<Output = T>, lost: impl Fn()) -> T {
        let mut work = std::pin::pin!(work);
        let mut wait = self.expires / RENEWALS_PER_EXPIRY;
        loop {
            match tokio::time::timeout(wait, &mut work).await {
                Ok(done) => return done,
                Err(_) => match self.step().await {
                    Ok(LeaseStanding::Held(next)) => wait = next.max(Duration::from_millis(1)),
                    Ok(LeaseStanding::Elsewhere(_)) => {
                        lost();
                        return work.await;
                    }
                    Err(e) => {
                        tracing::warn!(lease = %self.name, error = %e, "the lease can't be renewed");
                        lost();
                        return work.await;
                    }
                },
            }
        }
    }
}

/// Which old entries a new one removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removal {
    /// The one that is old now: others were removed before.
    One,
    /// All, also those that a former holder left.
    AllOld,
}

#[cfg(test)]
mod tests;
