//! That a scheduler runs, as it makes known in the storage: one object for each, renewed while it
//! runs. Nothing depends on it; it is for people who wonder why no job runs.

use std::time::Duration;

use anabranch_shared::{Error, Result, Storage, layout};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::clock::now_ms;
use crate::reader::presence::{RENEW_EVERY, host_name};

/// The folder of the schedulers in the storage.

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
    pub(crate) fn new() -> Self {
        Self {
            id: uuid::Uuid::new_v4().to_string(),
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

    /// Keeps saying that it runs, until it is to stop, and then that it runs no more.
    pub(crate) async fn keep(mut self, storage: Storage, stop: CancellationToken) {
        loop {
            self.seen_at_ms = now_ms();
            if let Err(e) = self.publish(&storage).await {
                tracing::debug!(error = %e, "that a scheduler runs is not made known; it is tried again");
            }
            tokio::select! {
                () = stop.cancelled() => return self.withdraw(&storage).await,
                () = tokio::time::sleep(RENEW_EVERY) => {}
            }
        }
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
