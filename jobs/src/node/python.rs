//! The Python module that steps import: it is in this program, and is put where Python finds it.

use std::path::{Path, PathBuf};

use anabranch_shared::{Error, Result};

/// The module.
const MODULE: &str = include_str!("../../python/anabranch/__init__.py");

/// Where it is put, in the folder of the WAL. No topic can have that name.
const FOLDER: &str = ".python";

/// Puts the module in its place. Returns the folder in which Python is to look for it.
pub(super) fn install(wal: &Path) -> Result<PathBuf> {
    let folder = wal.join(FOLDER);
    let package = folder.join("anabranch");
    let path = package.join("__init__.py");
    if std::fs::read(&path).is_ok_and(|found| found == MODULE.as_bytes()) {
        return Ok(folder);
    }
    let shown = path.display().to_string();
    std::fs::create_dir_all(&package)
        .and_then(|()| std::fs::write(&path, MODULE))
        .map_err(|e| Error::io(&shown, e))?;
    Ok(folder)
}
