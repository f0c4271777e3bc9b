//! Where queries write what has no room in memory: a folder of the project, in it one for each
//! process, with a bound on all of a service's files together. It is made once it is needed, and
//! what processes left that did not end well is removed then.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::execution::disk_manager::{DiskManager, DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::{SpillFile, TempFileFactory};
use parking_lot::Mutex;

use crate::limits::QueryLimits;

/// Files that are merged, and open, at once in one merge.
const MERGED_AT_ONCE: usize = 16;

/// What manages temporary files within limits.
pub(crate) fn manager(limits: &QueryLimits) -> DiskManagerBuilder {
    let builder = DiskManager::builder()
        .with_max_temp_directory_size(limits.spill_bytes)
        .with_max_spill_merge_fan_in(MERGED_AT_ONCE);
    match (&limits.spill_dir, limits.spill_bytes) {
        (_, 0) => builder.with_mode(DiskManagerMode::Disabled),
        (None, _) => builder,
        (Some(dir), bytes) => builder.with_temp_file_factory(Arc::new(Folder {
            dir: dir.clone(),
            bytes,
            manager: Mutex::default(),
        })),
    }
}

/// A folder that is made once it is needed.
struct Folder {
    dir: PathBuf,
    bytes: u64,
    manager: Mutex<Option<Arc<DiskManager>>>,
}

impl Folder {
    fn own(&self) -> PathBuf {
        self.dir.join(std::process::id().to_string())
    }

    fn open(&self) -> Result<Arc<DiskManager>> {
        remove_left(&self.dir);
        let own = self.own();
        std::fs::create_dir_all(&own)?;
        let manager = DiskManager::builder()
            .with_mode(DiskManagerMode::Directories(vec![own]))
            .with_max_temp_directory_size(self.bytes)
            .build()?;
        Ok(Arc::new(manager))
    }
}

impl TempFileFactory for Folder {
    fn create_temp_file(&self, description: &str) -> Result<Arc<dyn SpillFile>> {
        let mut manager = self.manager.lock();
        let manager = match &*manager {
            Some(manager) => manager.clone(),
            None => manager.insert(self.open()?).clone(),
        };
        manager.create_tmp_file(description)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.manager.lock().take().is_some() {
            // Another service of the process may still use it.
            std::fs::remove_dir(self.own()).ok();
        }
    }
}

/// Removes the folders of processes of this machine that don't run any more.
fn remove_left(dir: &Path) {
    let proc = Path::new("/proc");
    if !proc.join("self").exists() {
        return;
    }
    for folder in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = folder.file_name();
        let is_left = name
            .to_str()
            .is_some_and(|pid| pid.parse::<u32>().is_ok() && !proc.join(pid).exists());
        if is_left && let Err(e) = std::fs::remove_dir_all(folder.path()) {
            tracing::warn!(path = %folder.path().display(), error = %e, "temporary files of a query stay until the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn files_are_in_the_folder_and_what_others_left_is_removed() {
        let dir = std::env::temp_dir().join(format!("anabranch-queries-{}", std::process::id()));
        // No process has this number.
        let left = dir.join("4194305");
        std::fs::create_dir_all(&left).unwrap();
        std::fs::write(left.join("file"), "x").unwrap();
        let limits = QueryLimits {
            spill_dir: Some(dir.clone()),
            spill_bytes: 10,
            ..Default::default()
        };
        let manager = Arc::new(manager(&limits).build().unwrap());
        assert!(left.exists());
        let file = manager.create_tmp_file("a test").unwrap();
        assert!(!left.exists());
        assert!(file.path().unwrap().starts_with(&dir));
        let mut writer = file.open_writer().unwrap();
        writer.write_all(b"12345").unwrap();
        assert!(writer.write_all(b"1234567").is_err());
        drop((writer, file, manager));
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        std::fs::remove_dir(&dir).unwrap();
    }
}
