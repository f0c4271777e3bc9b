//! The schedulers of a storage: that one runs, as it makes known there (one object for each, renewed
//! while it runs), and which of several runs a job: a lease for each view. On what is made known
//! nothing depends; it is for people who wonder why no job runs, or where.

use std::collections::BTreeMap;
use std::time::Duration;

use anabranch_shared::{Error, Lease, LeaseStanding, Monotonic, Result, Storage, layout};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::clock::now_ms;
use crate::reader::presence::{RENEW_EVERY, host_name};

/// A scheduler that has not renewed for so long has ended without a word.
const GONE_AFTER: Duration = Duration::from_secs(60);

/// A scheduler that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduling {
    id: String,
    host: String,
    pid: u32,
    /// When it last renewed this, in milliseconds since 1970 by its own clock.
    seen_at_ms: i64,
}

impl Scheduling {
    /// The scheduler of this process.
    pub(crate) fn new(storage: &Storage) -> Self {
        Self {
            id: storage.ids().fresh().to_string(),
            host: host_name(),
            pid: std::process::id(),
            seen_at_ms: now_ms(),
        }
    }

    /// For people: where it runs.
    pub(crate) fn place(&self) -> String {
        format!("host {}, pid {}", self.host, self.pid)
    }

    fn path(&self) -> Path {
        Path::from(format!("{}/{}.json", layout::SCHEDULERS, self.id))
    }

    /// Keeps saying that it runs, until it is to stop, and then that it runs no more; says in the log
    /// which others run.
    pub(crate) async fn keep(mut self, storage: Storage, stop: CancellationToken) {
        let mut others = Vec::new();
        loop {
            self.seen_at_ms = now_ms();
            if let Err(e) = self.publish(&storage).await {
                tracing::debug!(error = %e, "that a scheduler runs is not made known; it is tried again");
            }
            match running(&storage).await {
                Ok(found) => self.tell_others(&mut others, found),
                Err(e) => tracing::debug!(error = %e, "can't look which schedulers run"),
            }
            tokio::select! {
                () = stop.cancelled() => return self.withdraw(&storage).await,
                () = tokio::time::sleep(RENEW_EVERY) => {}
            }
        }
    }

    /// Says which other schedulers run, where that is not what was said last.
    fn tell_others(&self, known: &mut Vec<String>, found: Vec<Self>) {
        let mut others: Vec<Self> = found.into_iter().filter(|s| s.id != self.id).collect();
        others.sort_by(|a, b| a.id.cmp(&b.id));
        let ids: Vec<String> = others.iter().map(|s| s.id.clone()).collect();
        if ids == *known {
            return;
        }
        let places: Vec<String> = others.iter().map(Self::place).collect();
        match places.is_empty() {
            true => tracing::info!("no other scheduler of this storage runs any more"),
            false => tracing::warn!(
                others = places.join("; "),
                "other schedulers of this storage run; each job runs once, by whichever is first"
            ),
        }
        *known = ids;
    }

    async fn publish(&self, storage: &Storage) -> Result<()> {
        let body = serde_json::to_vec(self).map_err(|e| Error::Internal(e.to_string()))?;
        storage.put_for_owner(&self.path(), body).await
    }

    /// Says that it runs no more.
    async fn withdraw(&self, storage: &Storage) {
        if let Err(e) = storage.delete(&self.path()).await {
            tracing::debug!(error = %e, "that a scheduler has ended is not made known");
        }
    }
}

/// The schedulers that run, as far as is known.
pub(crate) async fn running(storage: &Storage) -> Result<Vec<Scheduling>> {
    let found = storage.list_below(&Path::from(layout::SCHEDULERS)).await?;
    let read = found.iter().map(|object| storage.get(&object.location));
    let bodies = futures::future::try_join_all(read).await?;
    // What another version has written runs no job of this one.
    let read = |b: bytes::Bytes| serde_json::from_slice::<Scheduling>(&b).ok();
    let now = now_ms();
    let lives = |s: &Scheduling| {
        let silent = u64::try_from(now - s.seen_at_ms).unwrap_or(0);
        Duration::from_millis(silent) < GONE_AFTER
    };
    let known = bodies.into_iter().flatten().filter_map(read);
    Ok(known.filter(lives).collect())
}

/// How long after its last sign of life a scheduler that runs a job is taken for dead.
const JOB_EXPIRES: Duration = Duration::from_secs(30);

/// The jobs of views, as one scheduler claims them: of several, one at a time runs those of a view.
#[derive(Debug)]
pub(crate) struct Claims {
    storage: Storage,
    holder: String,
    clock: Monotonic,
    /// Kept, because only who has seen a lease for long knows that its holder is dead.
    leases: BTreeMap<String, Lease>,
}

impl Claims {
    /// The claims of one scheduler.
    pub(crate) fn new(storage: &Storage) -> Self {
        Self {
            storage: storage.clone(),
            holder: storage.ids().fresh().to_string(),
            clock: Monotonic::default(),
            leases: BTreeMap::new(),
        }
    }

    /// Claims the jobs of a view; `None` while another scheduler has them.
    ///
    /// # Errors
    /// `Unavailable` when the storage does not answer: then none is to be run.
    pub(crate) async fn claim(&mut self, view: &str) -> Result<Option<Claim<'_>>> {
        let name = format!("jobs/{view}");
        let lease = match self.leases.remove(view) {
            Some(lease) => lease,
            None => {
                let (holder, clock) = (self.holder.clone(), self.clock.clone());
                Lease::open(&self.storage, &name, holder, JOB_EXPIRES, clock).await?
            }
        };
        let lease = self.leases.entry(view.to_owned()).or_insert(lease);
        match lease.step().await? {
            LeaseStanding::Held(_) => Ok(Some(Claim { lease })),
            LeaseStanding::Elsewhere(_) => Ok(None),
        }
    }
}

/// The jobs of a view, while they are claimed.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    lease: &'a mut Lease,
}

impl Claim<'_> {
    /// Runs a job, keeping the claim meanwhile. Where it is lost the job goes on: another scheduler
    /// may run it too, and of two builds of the same the commits let one through.
    pub(crate) async fn run<T>(&mut self, job: impl Future<Output = T>) -> T {
        let lost = || {
            tracing::warn!(
                "the lease of a job that runs was lost; another scheduler may run it too"
            );
        };
        self.lease.while_held(job, lost).await
    }

    /// Lets others have the jobs of the view.
    pub(crate) async fn release(self) {
        if let Err(e) = self.lease.release().await {
            tracing::warn!(error = %e, "the lease of a job was not given up; it expires");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_scheduler_at_a_time_has_the_jobs_of_a_view() -> Result<()> {
        let dir = tempfile::tempdir().map_err(|e| Error::io("a folder", e))?;
        let storage = Storage::folder(dir.path())?;
        let (mut one, mut two) = (Claims::new(&storage), Claims::new(&storage));
        let mut held = one.claim("v").await?;
        assert!(held.is_some());
        assert!(two.claim("v").await?.is_none());
        assert!(two.claim("w").await?.is_some(), "of another view");
        if let Some(held) = &mut held {
            assert_eq!(held.run(async { 7 }).await, 7);
        }
        if let Some(held) = held {
            held.release().await;
        }
        assert!(two.claim("v").await?.is_some());
        assert!(one.claim("v").await?.is_none());
        Ok(())
    }

    #[tokio::test]
    async fn schedulers_see_each_other() -> Result<()> {
        let dir = tempfile::tempdir().map_err(|e| Error::io("a folder", e))?;
        let storage = Storage::folder(dir.path())?;
        let (one, two) = (Scheduling::new(&storage), Scheduling::new(&storage));
        let mut known = Vec::new();
        one.publish(&storage).await?;
        one.tell_others(&mut known, running(&storage).await?);
        assert!(known.is_empty());
        two.publish(&storage).await?;
        one.tell_others(&mut known, running(&storage).await?);
        assert_eq!(known, std::slice::from_ref(&two.id));
        two.withdraw(&storage).await;
        one.tell_others(&mut known, running(&storage).await?);
        assert!(known.is_empty());
        Ok(())
    }
}
