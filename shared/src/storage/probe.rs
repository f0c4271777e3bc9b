//! Finds out whether a bucket's server keeps the promise that everything rests on: of several
//! puts-if-absent of one name exactly one succeeds, also at the same moment. A server that breaks
//! it would let two commits of one version both count, so it is refused.

use futures::future::join_all;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Bucket, CreateOutcome, Kind, Storage};
use crate::layout;
use crate::{Error, Result};

/// Rounds of the race, each for a fresh name. A server that checks and then writes, without a lock,
/// loses nearly every one.
const ROUNDS: usize = 6;

/// Puts of one round.
const RACERS: usize = 8;

/// What is remembered of a server that was found to keep the promise.
#[derive(Serialize, Deserialize)]
struct Verdict {
    server: String,
    rounds: usize,
}

impl Storage {
    /// Makes sure that the storage can be trusted with put-if-absent. A folder can; a bucket's
    /// server is put to the test when the storage is first opened, and a success is remembered
    /// there.
    ///
    /// # Errors
    /// `NotFound` where there is no such bucket, `Invalid` where the keys are refused,
    /// `Unavailable` where the server does not answer, `Conflict` where it breaks the promise.
    pub async fn probe(&self) -> Result<()> {
        let Kind::Bucket(bucket) = &self.kind else {
            return Ok(());
        };
        let known = verdict_path(&bucket.server);
        let answered = |e| explain(e, bucket);
        let found = self.get(&known).await.map_err(answered)?;
        let passed = found.and_then(|bytes| serde_json::from_slice::<Verdict>(&bytes).ok());
        if passed.is_some_and(|verdict| verdict.server == bucket.server) {
            return Ok(());
        }
        // Who only reads makes no promise that rests on it.
        if self.is_read_only() {
            return Ok(());
        }
        for _ in 0..ROUNDS {
            let winners = self.race().await.map_err(answered)?;
            if winners > 1 {
                return Err(Error::Conflict(format!(
                    "the S3 server at {} let {winners} writers create one object: it does not honour `If-None-Match: *` under a race, so commits could be lost; use a server that does",
                    bucket.server
                )));
            }
        }
        let verdict = Verdict {
            server: bucket.server.clone(),
            rounds: ROUNDS,
        };
        let body = serde_json::to_vec(&verdict).map_err(|e| Error::Internal(e.to_string()))?;
        self.put(&known, body).await.map_err(answered)
    }

    /// One round: how many of several puts-if-absent of one name say that they succeeded. None may,
    /// where the answer to the one that did was lost.
    async fn race(&self) -> Result<usize> {
        let path = Path::from(format!("{}/{}", layout::PROBE, self.ids().fresh()));
        let puts = (0..RACERS).map(|i| self.create(&path, format!("{i}")));
        let outcomes = join_all(puts).await;
        let body = self.get(&path).await;
        self.delete(&path).await?;
        let mut winners = Vec::new();
        for (i, outcome) in outcomes.into_iter().enumerate() {
            if outcome? == CreateOutcome::Created {
                winners.push(i);
            }
        }
        let mine = body?.is_some_and(|b| winners.iter().any(|i| b == format!("{i}")));
        // Who was told that it won and does not find its own bytes shares the victory.
        Ok(winners.len() + usize::from(!winners.is_empty() && !mine))
    }
}

fn verdict_path(server: &str) -> Path {
    let key = hex::encode(Sha256::digest(server));
    Path::from(format!("{}/server-{}.json", layout::PROBE, &key[..16]))
}

/// Says of a first request's failure what to do about it.
fn explain(e: Error, bucket: &Bucket) -> Error {
    let Bucket { name, server, .. } = bucket;
    let Error::Store(cause) = &e else {
        return e;
    };
    match cause {
        object_store::Error::NotFound { .. } => Error::NotFound(format!(
            "no bucket `{name}` at {server}; create it, or correct `url` in `[storage]`"
        )),
        object_store::Error::PermissionDenied { source, .. }
        | object_store::Error::Unauthenticated { source, .. } => Error::Invalid(format!(
            "bucket `{name}`: the keys in the environment are refused by {server}; it needs reading, writing, listing and deleting: {source}"
        )),
        cause => Error::Unavailable(format!(
            "bucket `{name}`: {server} does not answer as it should: {cause}; is `endpoint` in `[storage]` (or `AWS_ENDPOINT_URL`) right?"
        )),
    }
}
