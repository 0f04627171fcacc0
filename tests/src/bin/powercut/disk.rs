//! Disks whose power can be cut: file systems on loop devices, and copies of
//! their images.

use anyhow::{Context, Result, ensure};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Bytes of the device that the writer uses, and of the one around it.
const DISK_BYTES: u64 = 1 << 30;
const OUTER_BYTES: u64 = DISK_BYTES + (256 << 20);

/// How long a device is without a write before it counts as at rest, and how
/// long to wait for that.
const REST: Duration = Duration::from_millis(10);
const REST_MAX: Duration = Duration::from_secs(2);

/// What a device does with a write that was not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cache {
    /// It keeps it.
    Durable,
    /// It loses it.
    Volatile,
}

/// A directory in memory for images and mount points.
pub(crate) struct Scratch {
    dir: TempDir,
    names: AtomicU64,
}

impl Scratch {
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("powercut").tempdir_in(dir)?;
        Ok(Self { dir, names: AtomicU64::new(0) })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path that was not used before.
    fn fresh(&self, name: &str) -> PathBuf {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        self.path(&format!("{name}-{number}"))
    }
}

/// Runs a program, and returns what it prints.
pub(crate) fn run(program: &str, arguments: &[impl AsRef<OsStr>]) -> Result<String> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("run {program}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}", complaint.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A loop device over an image; detached when it is dropped.
struct Loop {
    device: String,
}

impl Loop {
    fn attach(image: &Path) -> Result<Self> {
        let image = image.as_os_str();
        let device = run("losetup", &[OsStr::new("--find"), OsStr::new("--show"), image])?;
        Ok(Self { device })
    }

    /// Writes completed and requests in flight, from the kernel's counters.
    fn activity(&self) -> Result<(u64, u64)> {
        let name = self.device.trim_start_matches("/dev/");
        let line = fs::read_to_string(format!("/sys/block/{name}/stat"))?;
        let field = |at: usize| line.split_whitespace().nth(at).and_then(|text| text.parse().ok());
        Ok((field(4).context("writes")?, field(8).context("requests in flight")?))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // The kernel detaches it when the last user is gone.
        let _ = run("losetup", &["--detach", &self.device]);
    }
}

/// A mounted file system; unmounted when it is dropped.
struct Mount {
    at: PathBuf,
    // After the mount point in the order of dropping.
    device: Loop,
}

impl Mount {
    /// Mounts the file system in an image; a journal is replayed.
    fn new(scratch: &Scratch, image: &Path) -> Result<Self> {
        let device = Loop::attach(image)?;
        let at = scratch.fresh("mount");
        fs::create_dir(&at)?;
        let kind = [OsStr::new("-t"), OsStr::new("ext4"), device.device.as_ref(), at.as_os_str()];
        run("mount", &kind)?;
        Ok(Self { at, device })
    }

    /// Makes an image and a file system in it.
    fn create(scratch: &Scratch, image: &Path, bytes: u64) -> Result<Self> {
        fs::File::create(image)?.set_len(bytes)?;
        format(image)?;
        Self::new(scratch, image)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // An engine's threads may hold files for a moment after it was dropped.
        for _ in 0..100 {
            if run("umount", &[&self.at]).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn format(image: &Path) -> Result<()> {
    let quiet = [OsStr::new("-q"), OsStr::new("-F"), OsStr::new("-E"), OsStr::new("nodiscard")];
    run("mkfs.ext4", &quiet.into_iter().chain([image.as_os_str()]).collect::<Vec<_>>()).map(drop)
}

/// A disk in use.
pub(crate) struct Disk<'a> {
    scratch: &'a Scratch,
    // Dropped from the inside out.
    inner: Mount,
    outer: Option<Mount>,
    image: PathBuf,
}

/// The name of the inner image in the outer file system.
const INNER: &str = "inner.img";

impl<'a> Disk<'a> {
    pub(crate) fn new(scratch: &'a Scratch, cache: Cache) -> Result<Self> {
        let image = scratch.fresh("image");
        match cache {
            Cache::Durable => {
                let inner = Mount::create(scratch, &image, DISK_BYTES)?;
                Ok(Self { scratch, inner, outer: None, image })
            }
            Cache::Volatile => {
                let outer = Mount::create(scratch, &image, OUTER_BYTES)?;
                let inner = Mount::create(scratch, &outer.at.join(INNER), DISK_BYTES)?;
                // The file system itself is there before the story begins.
                run("sync", &["-f", &outer.at.to_string_lossy()])?;
                Ok(Self { scratch, inner, outer: Some(outer), image })
            }
        }
    }

    pub(crate) fn mount_point(&self) -> &Path {
        &self.inner.at
    }

    /// Copies the disk as it would be found after a power cut, and mounts the
    /// copy. Nothing if the disk was written meanwhile.
    pub(crate) fn copy(&self) -> Result<Option<Copy>> {
        let device = &self.outer.as_ref().unwrap_or(&self.inner).device;
        let before = rested(device)?;
        if before.1 > 0 {
            return Ok(None);
        }
        let image = self.scratch.fresh("copy");
        let from_to = [OsStr::new("--sparse=always"), self.image.as_os_str(), image.as_os_str()];
        run("cp", &from_to)?;
        if device.activity()? != before {
            fs::remove_file(image)?;
            return Ok(None);
        }
        let first = Mount::new(self.scratch, &image)?;
        let (inner, outer) = match self.outer {
            None => (first, None),
            Some(_) => (Mount::new(self.scratch, &first.at.join(INNER))?, Some(first)),
        };
        Ok(Some(Copy { inner, outer, image }))
    }

    pub(crate) fn close(self) -> Result<()> {
        close(self.inner, self.outer, &self.image)
    }
}

/// Waits a while for what the kernel is writing already, and returns the
/// device's activity.
fn rested(device: &Loop) -> Result<(u64, u64)> {
    let begun = Instant::now();
    let mut before = device.activity()?;
    loop {
        thread::sleep(REST);
        let now = device.activity()?;
        if (now == before && now.1 == 0) || begun.elapsed() > REST_MAX {
            return Ok(now);
        }
        before = now;
    }
}

/// A disk as it was found.
pub(crate) struct Copy {
    inner: Mount,
    outer: Option<Mount>,
    image: PathBuf,
}

impl Copy {
    pub(crate) fn mount_point(&self) -> &Path {
        &self.inner.at
    }

    pub(crate) fn close(self) -> Result<()> {
        close(self.inner, self.outer, &self.image)
    }
}

fn close(inner: Mount, outer: Option<Mount>, image: &Path) -> Result<()> {
    drop(inner);
    drop(outer);
    fs::remove_file(image).context("remove an image")
}

/// Whether disks can be made here.
pub(crate) fn try_out(scratch: &Scratch) -> Result<()> {
    let disk = Disk::new(scratch, Cache::Volatile)?;
    fs::write(disk.mount_point().join("probe"), b"probe")?;
    disk.close()
}
