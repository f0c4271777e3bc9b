//! Whether a topic's WAL is what the catalogue says of it: looked at before a partition is claimed
//! for it, because nothing in a folder that lost its segments says that there were some.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::files::topic_dir;
use super::{Files, Wal, WalError, WalOptions};

/// What the catalogue says of a topic and a WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A partition belongs to the WAL.
    Claimed,
    /// None does.
    Unclaimed,
}

/// Checks that segments of `topic` are there where a partition belongs to the WAL, and that there is
/// no record where none does. Makes the first segment then, so that from the claim on there is one.
/// For that the caller holds the [`super::WalLock`] of `root`.
///
/// # Errors
///
/// [`WalError::Corrupt`] where that is not so; else those of [`Wal::open`].
pub fn check_claim(
    root: &Path,
    topic: &str,
    claim: Claim,
    files: Arc<dyn Files>,
) -> Result<(), WalError> {
    let dir = topic_dir(root, topic)?;
    let names = match files.list(&dir) {
        Ok(names) => names,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(WalError::io(&dir, "list", source)),
    };
    let has_segments = names.iter().any(|name| name.ends_with(".wal"));
    match (claim, has_segments) {
        (Claim::Claimed, true) => Ok(()),
        (Claim::Claimed, false) => Err(WalError::corrupt(
            &dir,
            0,
            "a partition of the topic belongs to this WAL, and no segment is there",
        )),
        (Claim::Unclaimed, _) => {
            let mut records = 0;
            Wal::open_each(root, topic, WalOptions::default(), files, &mut |_| {
                records += 1;
            })?;
            match records {
                0 => Ok(()),
                _ => Err(WalError::corrupt(
                    &dir,
                    0,
                    "it holds records, and no partition of the topic belongs to this WAL: the file `ID` beside it was exchanged, or it belongs to another storage",
                )),
            }
        }
    }
}
