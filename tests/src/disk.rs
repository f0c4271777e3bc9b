//! A small disk: a tmpfs of its own, where this process may mount one.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::skip::skipped;

/// A mounted file system of a fixed size; it is unmounted when this is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is being killed may still hold files in it.
        Command::new("umount")
            .arg("-l")
            .arg(&self.path)
            .status()
            .ok();
    }
}

impl SmallDisk {
    /// Mounts one over a folder, which is made; `None`, said aloud, where that is not allowed.
    pub fn mount(path: &Path, bytes: u64) -> anyhow::Result<Option<Self>> {
        std::fs::create_dir_all(path)?;
        let out = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "anabranch"])
            .arg(path)
            .output();
        match out {
            Ok(out) if out.status.success() => Ok(Some(Self {
                path: path.to_owned(),
            })),
            Ok(out) => {
                let why = String::from_utf8_lossy(&out.stderr);
                skipped(format!("no tmpfs can be mounted here: {}", why.trim()));
                Ok(None)
            }
            Err(e) => {
                skipped(format!("`mount` can't be run: {e}"));
                Ok(None)
            }
        }
    }

    fn ballast(&self) -> PathBuf {
        self.path.join(".ballast")
    }

    /// Takes all room but so many bytes.
    pub fn fill(&self, but: u64) -> anyhow::Result<()> {
        let mut file = File::create(self.ballast())?;
        let block = [0x55; 4096];
        let mut written = 0_u64;
        loop {
            match file.write_all(&block) {
                Ok(()) => written += block.len() as u64,
                Err(e) if e.kind() == ErrorKind::StorageFull => break,
                Err(e) => return Err(e.into()),
            }
        }
        // The last block may be there in part.
        Ok(file.set_len(written.saturating_sub(but))?)
    }

    /// Gives the room back.
    pub fn empty(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.ballast())?)
    }
}
