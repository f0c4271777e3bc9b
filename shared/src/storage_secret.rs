//! The secret of a storage, by which its processes know each other and sign what they hand out: it lies
//! in it, because whoever reads the storage reads everything.

use object_store::path::Path;
use sha2::{Digest, Sha256};

use crate::{CreateOutcome, Error, ErrorKind, Ids, Result, Storage, layout};

/// How often it is tried to write it, where nothing says whether that went well.
const TRIES: u32 = 3;

/// What the secret begins with.
const PREFIX: &str = "abs_";

/// The secret of a storage.
#[derive(Clone)]
pub struct StorageSecret(String);

impl std::fmt::Debug for StorageSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StorageSecret")
    }
}

impl StorageSecret {
    /// The secret of a storage, if it has one.
    ///
    /// # Errors
    /// Those of the storage; `Corrupt` for one that is cut off.
    pub async fn find(storage: &Storage) -> Result<Option<Self>> {
        let path = Path::from(layout::DAEMONS_SECRET);
        let Some(body) = storage.get(&path).await? else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        match text.starts_with(PREFIX) && text.len() > 60 {
            true => Ok(Some(Self(text))),
            false => Err(Error::Corrupt(format!(
                "`{path}` is no secret; remove it, and start the daemons anew"
            ))),
        }
    }

    /// The secret of a storage, made where it has none.
    ///
    /// # Errors
    /// As [`StorageSecret::find`].
    pub async fn of(storage: &Storage) -> Result<Self> {
        if let Some(found) = Self::find(storage).await? {
            return Ok(found);
        }
        // 244 random bits: two numbers of 122.
        let random =
            [Ids::default().fresh(), Ids::default().fresh()].map(|u| u.simple().to_string());
        let text = format!("{PREFIX}{}", random.concat());
        let path = Path::from(layout::DAEMONS_SECRET);
        let mut tries = 0;
        loop {
            tries += 1;
            match storage.create_for_owner(&path, text.clone()).await {
                Ok(CreateOutcome::Created) => return Ok(Self(text)),
                Ok(CreateOutcome::Exists) => {
                    return Self::find(storage).await?.ok_or_else(|| {
                        Error::Conflict(format!("`{path}` was removed meanwhile; try again"))
                    });
                }
                // It may be there, or come later: then it is the one, whoever wrote it.
                Err(e) if e.kind() == ErrorKind::Unavailable && tries < TRIES => {
                    if let Some(found) = Self::find(storage).await? {
                        return Ok(found);
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Whether a text is the secret. The time that this takes tells nothing: digests are compared.
    pub fn is(&self, text: &str) -> bool {
        Sha256::digest(text) == Sha256::digest(&self.0)
    }

    /// The text, to be shown to a daemon of the storage.
    pub fn text(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_storage_has_one_secret() -> Result<()> {
        let dir = tempfile::tempdir().map_err(|e| Error::io("a folder", e))?;
        let storage = Storage::folder(dir.path())?;
        assert!(StorageSecret::find(&storage).await?.is_none());
        let (one, other) =
            tokio::try_join!(StorageSecret::of(&storage), StorageSecret::of(&storage))?;
        assert!(one.is(other.text()) && !one.is("") && !one.is(&format!("{}x", one.text())));
        let path = Path::from(layout::DAEMONS_SECRET);
        storage.put(&path, b"abs_".to_vec()).await?;
        let found = StorageSecret::find(&storage).await;
        assert!(matches!(found, Err(Error::Corrupt(_))));
        Ok(())
    }
}
