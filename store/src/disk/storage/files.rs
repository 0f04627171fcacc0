//! Real files in a real directory.

use super::{Storage, StorageFile, check_name, page};
use rustix::fs::{
    Advice, FallocateFlags, FlockOperation, OFlags, fadvise, fallocate, fdatasync, flock,
};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A directory of real files, locked against other processes while it is open.
///
/// The directory is readable and writable by its owner only (0700), and so are
/// its files (0600).
pub struct FileStorage {
    path: PathBuf,
    /// Open for `fsync`, and it holds the lock.
    dir: File,
    direct: bool,
}

impl FileStorage {
    /// Opens `path`, which is created if it is missing.
    ///
    /// # Errors
    ///
    /// Fails if the directory cannot be created or opened, or if another
    /// process has it open ([`io::ErrorKind::WouldBlock`]).
    pub fn open(path: &Path) -> io::Result<Self> {
        create_dir(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o700))?;
        let dir = File::open(path)?;
        flock(&dir, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { path: path.to_owned(), dir, direct: true })
    }

    /// Whether whole pages are written past the kernel's cache (`O_DIRECT`) where
    /// the file system can do it. They are by default.
    #[must_use]
    pub fn with_direct_io(self, direct: bool) -> Self {
        Self { direct, ..self }
    }

    fn real(&self, path: &Path, file: File) -> io::Result<Arc<dyn StorageFile>> {
        let direct = if self.direct { open_direct(path)? } else { None };
        Ok(Arc::new(RealFile { file, direct, refused: AtomicBool::new(false) }))
    }

    fn file(&self, name: &str) -> io::Result<PathBuf> {
        check_name(name)?;
        Ok(self.path.join(name))
    }
}

/// Creates a directory and those above it, each durable in its parent.
fn create_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_dir(parent)?;
    }
    DirBuilder::new().mode(0o700).create(path)?;
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

impl Storage for FileStorage {
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        let path = self.file(name)?;
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        allocate(&file, bytes).and_then(|()| self.real(&path, file)).or_else(|error| {
            // Half a file is worth nothing, and removing it gives its space back.
            std::fs::remove_file(&path)?;
            Err(error)
        })
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let path = self.file(name)?;
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        self.real(&path, file)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.file(name)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.file(from)?, self.file(to)?)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.dir.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let fs = rustix::fs::fstatvfs(&self.dir)?;
        Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
    }
}

/// Opens a file to write past the kernel's cache. Nothing if its file system
/// cannot do that: then the cache has to do.
fn open_direct(path: &Path) -> io::Result<Option<File>> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    match OpenOptions::new().write(true).custom_flags(flags).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Allocates space; by writing zeros where the file system cannot do better.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let zeros = vec![0; 1 << 16];
            let mut at = 0;
            while at < bytes {
                let piece = zeros.len().min(usize::try_from(bytes - at).unwrap_or(usize::MAX));
                file.write_all_at(&zeros[..piece], at)?;
                at += piece as u64;
            }
            Ok(())
        }
        Err(errno) => Err(errno.into()),
    }
}

struct RealFile {
    file: File,
    /// The same file, past the kernel's cache.
    direct: Option<File>,
    /// Whether the file system took `O_DIRECT` and then refused a write.
    refused: AtomicBool,
}

impl StorageFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Some(direct) = &self.direct
            && page::is_in_pages(bytes, offset)
            && !self.refused.load(Ordering::Relaxed)
        {
            match direct.write_all_at(bytes, offset) {
                // It wants another alignment than a page's.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.refused.store(true, Ordering::Relaxed);
                }
                done => return done,
            }
        }
        self.file.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        // No retry, not even on EINTR: a second call can lie about the first.
        Ok(fdatasync(&self.file)?)
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(fadvise(&self.file, 0, None, Advice::DontNeed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PAGE_BYTES, PageBuffer};
    use super::*;

    /// Pages and parts of pages, written alternately, are read back, past the cache
    /// and through it.
    #[test]
    fn what_is_written_is_read_back_either_way() {
        for direct in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let storage = FileStorage::open(dir.path()).unwrap().with_direct_io(direct);
            let file = storage.create("a", 16 * PAGE_BYTES as u64).unwrap();
            let mut expected = vec![0; 16 * PAGE_BYTES];
            let mut pages = PageBuffer::default();
            for n in 0..14_u8 {
                let at = usize::from(n) * PAGE_BYTES;
                pages.begin(2 * PAGE_BYTES);
                pages.extend_from_slice(&vec![n + 1; 2 * PAGE_BYTES]);
                file.write_at(&pages, at as u64).unwrap();
                expected[at..at + 2 * PAGE_BYTES].fill(n + 1);
                let part = at + 100..at + 1100;
                file.write_at(&vec![n + 101; 1000], part.start as u64).unwrap();
                expected[part].fill(n + 101);
                let mut seen = vec![0; expected.len()];
                file.read_at(&mut seen, 0).unwrap();
                assert!(seen == expected, "direct {direct}, page {n}");
            }
            file.sync_data().unwrap();
            file.drop_cache().unwrap();
            drop(file);
            let mut seen = vec![0; expected.len()];
            storage.open("a").unwrap().read_at(&mut seen, 0).unwrap();
            assert!(seen == expected, "direct {direct}, after opening");
        }
    }
}
