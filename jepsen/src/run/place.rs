//! Where a run puts things: its directory, and memory for disks.

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
    /// Makes the directories. In an enclosure with mounts of its own the disks
    /// live in a file system that is gone with it, however it ends.
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
        let images = match images {
            Some(images) => {
                let own = images.join(format!("keelstone-jepsen-{}", crate::net::run_mark()));
                std::fs::create_dir_all(&own).context("make the directory of the disks")?;
                let shown = own.display().to_string();
                crate::net::tool::run("mount", &["-t", "tmpfs", "-o", "size=90%", "none", &shown])?;
                Some(own)
            }
            None => None,
        };
        Ok(Self { dir, images })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(images) = &self.images {
            // Lazily: a process that was killed may not be gone yet.
            crate::net::tool::run("umount", &["-l", &images.display().to_string()]).ok();
            std::fs::remove_dir(images).ok();
        }
    }
}
