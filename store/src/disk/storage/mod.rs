//! The file layer under the write-ahead log.
//!
//! [`Storage`] is what the log needs of a directory, and no more: it names what
//! is durable after which call, because that is what the log is about.
//! [`FileStorage`] keeps the promises with real files, [`SimDisk`] with memory
//! that forgets whatever a power cut would have lost. The state engines talk to
//! the operating system themselves and do not pass through here.

mod files;
mod page;
mod sim;

pub use files::FileStorage;
pub use page::PageBuffer;
pub use sim::{Fault, SimDisk};

use std::io;
use std::sync::Arc;

/// The smallest piece that a disk writes whole or not at all, in bytes.
pub const SECTOR_BYTES: usize = 512;

/// The kernel's page, in bytes.
pub const PAGE_BYTES: usize = 4096;

/// Files by name in one directory.
///
/// A new, renamed or removed name is durable after [`sync_dir`](Self::sync_dir),
/// what a file contains after its own [`sync_data`](StorageFile::sync_data).
/// Until then a power cut may undo it.
pub trait Storage: Send + Sync {
    /// Creates a file of `bytes` zeros whose space is allocated, so that writing
    /// within it can neither change its size nor run out of space.
    ///
    /// # Errors
    ///
    /// Fails if the name is taken, or if there is no space; then nothing is left
    /// of the file.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn StorageFile>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    ///
    /// Fails if there is none of this name, or if the system refuses.
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;

    /// Removes a name. Open handles stay readable.
    ///
    /// # Errors
    ///
    /// Fails if there is no such file, or if the system refuses.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Renames a file, replacing one of the new name.
    ///
    /// # Errors
    ///
    /// Fails if there is no such file, or if the system refuses.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// The names of all files, ascending.
    ///
    /// # Errors
    ///
    /// Fails if the system refuses.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes the directory's names durable.
    ///
    /// # Errors
    ///
    /// After an error it is unknown which names are durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// Bytes that can still be allocated.
    ///
    /// # Errors
    ///
    /// Fails if the system refuses.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// An open file.
pub trait StorageFile: Send + Sync {
    /// The file's length in bytes.
    ///
    /// # Errors
    ///
    /// Fails if the system refuses.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    ///
    /// Fails if the system refuses.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    ///
    /// Fails if the file ends before the buffer is full, or on a read error.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, within the file's length.
    ///
    /// Whole pages from the start of one, in a [`PageBuffer`], may go to the disk
    /// past the kernel's cache. They are durable after a sync like any others.
    ///
    /// # Errors
    ///
    /// After an error any part of `bytes` may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes everything written so far durable.
    ///
    /// # Errors
    ///
    /// After an error the bytes written since the last success may be lost even
    /// though they can still be read, and a second call may report success
    /// without writing them: never call it again, and never trust the file
    /// before it was read past the cache.
    fn sync_data(&self) -> io::Result<()>;

    /// Forgets cached contents, so that the next read comes from the disk.
    /// Contents that were never synced may stay cached.
    ///
    /// # Errors
    ///
    /// Fails if the system refuses.
    fn drop_cache(&self) -> io::Result<()>;
}

/// Refuses names that could leave the directory.
fn check_name(name: &str) -> io::Result<()> {
    let plain = !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if plain {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("not a plain file name: {name:?}")))
    }
}
