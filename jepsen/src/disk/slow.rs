//! Disks that take few writes a second, by a control group of the process.

use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};

/// Where the block controller is.
const CONTROLLER: &str = "/sys/fs/cgroup/blkio";
/// Writes a second that no disk here reaches: as good as no limit.
const UNLIMITED: u64 = 1_000_000;

/// A process with a limit on its disk. Removed when dropped.
#[derive(Debug)]
pub(crate) struct SlowDisk {
    group: PathBuf,
    device: String,
    pid: u32,
}

impl SlowDisk {
    /// Whether this machine can do it.
    pub(crate) fn is_possible() -> bool {
        Path::new(CONTROLLER).join("blkio.throttle.write_iops_device").exists()
            || Path::new(CONTROLLER).join("cgroup.procs").exists()
                && rustix::process::geteuid().is_root()
    }

    /// Lets process `pid` do `writes_per_second` writes on `device`
    /// (`MAJOR:MINOR`).
    ///
    /// # Errors
    ///
    /// Fails if the controller refuses.
    pub(crate) fn limit(pid: u32, device: &str, writes_per_second: u64) -> Result<Self> {
        // The number of a process is its own only within the enclosure; the
        // start time of the harness keeps runs apart.
        let name = format!("keelstone-jepsen-{}-{pid}", crate::net::run_mark());
        let group = Path::new(CONTROLLER).join(name);
        std::fs::create_dir_all(&group).context("make a control group")?;
        let slow = Self { group, device: device.to_owned(), pid };
        slow.set(writes_per_second)?;
        slow.put_into(&slow.group)?;
        Ok(slow)
    }

    fn set(&self, writes_per_second: u64) -> Result<()> {
        let limit = format!("{} {writes_per_second}", self.device);
        let file = self.group.join("blkio.throttle.write_iops_device");
        std::fs::write(file, limit).context("limit the writes on a disk")
    }

    fn put_into(&self, group: &Path) -> Result<()> {
        std::fs::write(group.join("cgroup.procs"), self.pid.to_string())
            .context("put a process into a control group")
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        self.set(UNLIMITED).ok();
        // It may be gone, and then it is in no group.
        self.put_into(Path::new(CONTROLLER)).ok();
        std::fs::remove_dir(&self.group).ok();
    }
}
