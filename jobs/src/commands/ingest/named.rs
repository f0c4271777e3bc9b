//! Content that has a name of its own, by `--id`: what it was is kept in the storage, so that other
//! content under the same name is a conflict, and not taken for what was ingested before.

use anabranch_shared::{CreateOutcome, Error, Result, Storage};
use object_store::path::Path;
use serde::{Deserialize, Serialize};

/// The folder of the names.
const NAMED: &str = "ingested";

/// What a name stands for.
#[derive(Debug, Serialize, Deserialize)]
struct Named {
    id: String,
    sha256: String,
}

fn path(topic: &str, id: &str) -> Result<Path> {
    // A name may hold what a path may not.
    let name = anabranch_speed::intake::files::sha256_of(&mut id.as_bytes());
    let name = name.map_err(|e| Error::Internal(e.to_string()))?;
    Ok(Path::from(format!(
        "{NAMED}/{topic}/{}.json",
        hex::encode(name)
    )))
}

/// Refuses content of another hash than that which the name stands for.
///
/// # Errors
/// `Conflict`.
pub(super) async fn check(storage: &Storage, topic: &str, id: &str, sha256: &str) -> Result<()> {
    let path = path(topic, id)?;
    let Some(body) = storage.get(&path).await? else {
        return Ok(());
    };
    let named: Named = serde_json::from_slice(&body)
        .map_err(|e| Error::Corrupt(format!("`{path}`: not the name of a content: {e}")))?;
    match named.sha256 == sha256 {
        true => Ok(()),
        false => Err(Error::Conflict(format!(
            "`--id {id}`: other content was ingested into topic `{topic}` under this name; give this content a name of its own"
        ))),
    }
}

/// Keeps what a name stands for.
///
/// # Errors
/// `Conflict` where another process was as quick with other content.
pub(super) async fn keep(storage: &Storage, topic: &str, id: &str, sha256: &str) -> Result<()> {
    let named = Named {
        id: id.to_owned(),
        sha256: sha256.to_owned(),
    };
    let body = serde_json::to_vec(&named).map_err(|e| Error::Internal(e.to_string()))?;
    match storage.create(&path(topic, id)?, body).await? {
        CreateOutcome::Created => Ok(()),
        CreateOutcome::Exists => check(storage, topic, id, sha256).await,
    }
}
