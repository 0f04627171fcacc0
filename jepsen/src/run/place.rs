//! Where a run puts things: its directory, and memory for disks.

use crate::net::{Enclosure, tool};
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};

/// A run's directories. The disks' one is removed when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    /// What stays: plan, history, logs, verdict.
    pub(crate) dir: PathBuf,
    /// What goes: images and their mounts; `None`: plain directories below
    /// [`Self::dir`].
    pub(crate) images: Option<PathBuf>,
}

impl Place {
    /// Makes the directories.
    ///
    /// # Errors
    ///
    /// Fails if they cannot be made.
    pub(crate) fn make(out: &Path, name: &str, images: Option<&Path>) -> Result<Self> {
        let mut dir = out.join(name);
        for again in 2.. {
            if !dir.exists() {
                break;
            }
            dir = out.join(format!("{name}-{again}"));
        }
        std::fs::create_dir_all(dir.join("nodes")).context("make the run's directory")?;
        let dir = dir.canonicalize().context("find the run's directory")?;
        cover_memory()?;
        let images = match images {
            Some(images) => {
                let own = images.join(format!("keelstone-jepsen-{}", crate::net::run_mark()));
                std::fs::create_dir_all(&own).context("make the directory of the disks")?;
                Some(own)
            }
            None => None,
        };
        Ok(Self { dir, images })
    }
}

/// Puts a file system of this run's own over the machine's memory: what is left
/// there, by images of disks and by libraries, is gone with the run's mounts,
/// however it ends.
fn cover_memory() -> Result<()> {
    if Enclosure::current().is_some_and(Enclosure::has_networks) {
        tool::run("mount", &["-t", "tmpfs", "-o", "size=90%", "none", "/dev/shm"])?;
    }
    Ok(())
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(images) = &self.images else { return };
        if let Ok(disks) = std::fs::read_dir(images) {
            for disk in disks.flatten().filter(|disk| disk.path().is_dir()) {
                // Lazily: a process that was killed may not be gone yet.
                tool::run("umount", &["-l", &disk.path().display().to_string()]).ok();
            }
        }
        std::fs::remove_dir_all(images).ok();
    }
}
