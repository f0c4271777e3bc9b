//! The Python module that steps import: it is in this program, and is put where Python finds it.

use std::path::{Path, PathBuf};

use anabranch_shared::{Error, Result};

/// The module's files.
const MODULE: [(&str, &str); 2] = [
    (
        "__init__.py",
        include_str!("../../python/anabranch/__init__.py"),
    ),
    (
        "client.py",
        include_str!("../../python/anabranch/client.py"),
    ),
];

/// Where it is put, in the folder of the WAL. No topic can have that name.
const FOLDER: &str = ".python";

/// Puts the module in its place. Returns the folder in which Python is to look for it.
pub(super) fn install(wal: &Path) -> Result<PathBuf> {
    let folder = wal.join(FOLDER);
    let package = folder.join("anabranch");
    for (name, text) in MODULE {
        let path = package.join(name);
        if std::fs::read(&path).is_ok_and(|found| found == text.as_bytes()) {
            continue;
        }
        let shown = path.display().to_string();
        std::fs::create_dir_all(&package)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|e| Error::io(&shown, e))?;
    }
    Ok(folder)
}
