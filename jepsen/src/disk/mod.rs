//! The disk of a replica: an XFS image in memory on a loop device, or a plain
//! directory where there are none.
//!
//! The image makes a power cut real: the file system is shut down without
//! writing anything more, so that what was not synced is lost, names in
//! directories included.

mod corrupt;
mod slow;

pub(crate) use corrupt::flip;
pub(crate) use slow::SlowDisk;

use crate::net::tool;
use anyhow::{Context as _, Result, bail, ensure};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Bytes of an image. Only what is written takes memory.
const IMAGE_BYTES: u64 = 1 << 30;
/// The file that takes the room of a full disk.
const BALLAST: &str = "ballast";

/// A replica's disk.
#[derive(Debug)]
pub(crate) struct Disk {
    mount: PathBuf,
    /// `None`: the mount is a plain directory.
    image: Option<PathBuf>,
}

impl Disk {
    /// A new empty disk mounted at `mount`, with its image in `images` if there
    /// are to be images.
    ///
    /// # Errors
    ///
    /// Fails if the image cannot be made or mounted.
    pub(crate) fn create(mount: PathBuf, images: Option<&Path>, name: &str) -> Result<Self> {
        std::fs::create_dir_all(&mount).context("make the directory of a disk")?;
        let Some(images) = images else { return Ok(Self { mount, image: None }) };
        let image = images.join(format!("{name}.img"));
        let file = File::create(&image).context("make an image")?;
        file.set_len(IMAGE_BYTES).context("size an image")?;
        tool::run("mkfs.xfs", &["-q", "-f", &image.display().to_string()])?;
        let disk = Self { mount, image: Some(image) };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount
    }

    /// Whether its power can be cut.
    pub(crate) fn is_image(&self) -> bool {
        self.image.is_some()
    }

    /// Cuts the power: what was not synced is gone when it is there again. No
    /// process may have files open.
    ///
    /// # Errors
    ///
    /// Fails if the disk is a plain directory or a tool refuses.
    pub(crate) fn cut_power(&self) -> Result<()> {
        ensure!(self.is_image(), "the disk is a plain directory: its power cannot be cut");
        let mount = self.mount.display().to_string();
        tool::run("xfs_io", &["-x", "-c", "shutdown", &mount])?;
        self.unmount()?;
        self.mount()
    }

    /// Fills it until less than `free` bytes are left.
    ///
    /// # Errors
    ///
    /// Fails if it is a plain directory: that would fill the machine's disk.
    pub(crate) fn fill(&self, free: u64) -> Result<()> {
        ensure!(self.is_image(), "the disk is a plain directory: it must not be filled");
        let stat = rustix::fs::statvfs(&self.mount).context("ask for the free space")?;
        let ballast = (stat.f_bavail * stat.f_frsize).saturating_sub(free);
        let path = self.mount.join(BALLAST);
        let path = path.display().to_string();
        tool::run("fallocate", &["-l", &ballast.max(1).to_string(), &path])?;
        Ok(())
    }

    /// Ends what [`Self::fill`] did.
    ///
    /// # Errors
    ///
    /// Fails if the file system refuses.
    pub(crate) fn empty(&self) -> Result<()> {
        match std::fs::remove_file(self.mount.join(BALLAST)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context("make room again")
            }
            _ => Ok(()),
        }
    }

    /// The block device, as `MAJOR:MINOR`.
    ///
    /// # Errors
    ///
    /// Fails if it has none of its own.
    pub(crate) fn device(&self) -> Result<String> {
        ensure!(self.is_image(), "a plain directory has no device");
        let device = rustix::fs::stat(&self.mount).context("find the device")?.st_dev;
        Ok(format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device)))
    }

    fn mount(&self) -> Result<()> {
        let Some(image) = &self.image else { bail!("there is no image to mount") };
        let (image, mount) = (image.display().to_string(), self.mount.display().to_string());
        tool::run("mount", &["-o", "loop", &image, &mount])?;
        Ok(())
    }

    fn unmount(&self) -> Result<()> {
        tool::run("umount", &[&self.mount.display().to_string()])?;
        Ok(())
    }
}
