//! What clean-up needs of the storage: listings with times, and what killed writers left in a
//! folder.

use std::fs;
use std::io;
use std::path::{Path as FsPath, PathBuf};
use std::time::UNIX_EPOCH;

use futures::TryStreamExt;
use object_store::ObjectMeta;
use object_store::path::Path;

use super::Storage;
use crate::blocking::blocking;
use crate::{Error, Result};

/// A file that a killed writer left in a folder, under a name that no reader sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// When it was last written to, in milliseconds since 1970.
    pub modified_ms: i64,
}

impl Storage {
    /// The objects right below a path, and the paths below it that hold more.
    pub async fn list_level(&self, below: &Path) -> Result<(Vec<ObjectMeta>, Vec<Path>)> {
        let found = self.store.list_with_delimiter(Some(below)).await?;
        Ok((found.objects, found.common_prefixes))
    }

    /// All objects below a path.
    pub async fn list_below(&self, below: &Path) -> Result<Vec<ObjectMeta>> {
        Ok(self.store.list(Some(below)).try_collect().await?)
    }

    /// The objects below a path whose own paths come after another path.
    pub async fn list_after(&self, below: &Path, after: &Path) -> Result<Vec<ObjectMeta>> {
        let found = self.store.list_with_offset(Some(below), after);
        Ok(found.try_collect().await?)
    }

    /// In a folder, the files that writers have staged: some are at it, others were killed. Other
    /// storages have none.
    pub async fn staged_files(&self) -> Result<Vec<StagedFile>> {
        let Some(folder) = self.as_folder().map(FsPath::to_owned) else {
            return Ok(Vec::new());
        };
        blocking(move || {
            let mut found = Vec::new();
            find_staged(&folder, &mut found).map_err(|e| Error::io(&folder, e))?;
            Ok(found)
        })
        .await
    }

    /// Removes staged files; one that is gone already is no error.
    pub async fn remove_staged(&self, files: Vec<StagedFile>) -> Result<()> {
        blocking(move || {
            for file in files {
                match fs::remove_file(&file.path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(Error::io(&file.path, e));
                    }
                    _ => {}
                }
            }
            Ok(())
        })
        .await
    }
}

/// Whether a name is one under which files are staged: an object's name, `#` and digits.
fn is_staged(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(of, digits)| {
        !of.is_empty() && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    })
}

fn find_staged(dir: &FsPath, found: &mut Vec<StagedFile>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        // Folders come and go while this looks.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let is_dir = entry.file_type()?.is_dir();
        if is_dir {
            find_staged(&entry.path(), found)?;
        } else if entry.file_name().to_str().is_some_and(is_staged) {
            let metadata = match entry.metadata() {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            let modified = metadata.modified()?.duration_since(UNIX_EPOCH);
            // A time before 1970 is long ago.
            let modified_ms = modified.map_or(0, |d| d.as_millis());
            found.push(StagedFile {
                path: entry.path(),
                size_bytes: metadata.len(),
                modified_ms: i64::try_from(modified_ms).unwrap_or(i64::MAX),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_staged_files() {
        assert!(is_staged("part-1.parquet#123") && is_staged("a#b#1"));
        for name in ["part-1.parquet", "a#", "#1", "a#1x", "a#1.json"] {
            assert!(!is_staged(name), "{name}");
        }
    }
}
