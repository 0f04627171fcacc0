//! Whose data directory this is: the files `LOCK` and `NODE`.
//!
//! `NODE` binds a directory to one node of one cluster, for ever. It is written
//! before the node may vote or hold a log, so that a node without it is known to
//! have promised nothing.

use keelstone_proto::disk;
use prost::Message as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const NODE: &str = "NODE";
const NODE_NEXT: &str = "NODE.next";
const LOCK: &str = "LOCK";
const MAGIC: &[u8; 8] = b"KSNODE\0\x01";
const FORMAT: u32 = 1;

/// Whose data directory this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The cluster.
    pub cluster_id: [u8; 16],
    /// The node.
    pub node_id: u64,
    /// Whether the directory has held a log: one that is missing is then lost.
    pub held_log: bool,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process uses it.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// The operating system refused.
    #[error("{path}: {error}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// `NODE` is not what was written.
    #[error(
        "{0} is damaged; the node cannot know who it is. Let it rejoin with an empty directory under a new id"
    )]
    Damaged(PathBuf),
    /// `NODE` was written by a later version.
    #[error("{path} has format {format}, this version knows {FORMAT}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |error| IdentityError::Io { path, error }
}

/// A data directory that no other process uses.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: Mutex<Option<File>>,
}

impl DataDir {
    /// Makes the directory, with mode 0700, if it is not there, and locks it.
    ///
    /// # Errors
    ///
    /// See [`IdentityError`].
    pub fn open(path: &Path) -> Result<Self, IdentityError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path))?;
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), lock: Mutex::new(Some(lock)) }),
            Err(fs::TryLockError::WouldBlock) => Err(IdentityError::InUse(path.to_owned())),
            Err(fs::TryLockError::Error(error)) => Err(failed(&lock_path)(error)),
        }
    }

    /// Lets other processes use the directory.
    pub fn release(&self) {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Where the log is.
    pub fn log(&self) -> PathBuf {
        log_dir(&self.path)
    }

    /// Where the state is.
    pub fn state(&self) -> PathBuf {
        state_dir(&self.path)
    }

    /// Whose directory it is, if it is somebody's.
    ///
    /// # Errors
    ///
    /// See [`IdentityError`].
    pub fn identity(&self) -> Result<Option<NodeIdentity>, IdentityError> {
        read(&self.path)
    }

    /// Binds the directory, durably.
    ///
    /// # Errors
    ///
    /// After an error it is undecided whether it is bound.
    pub fn bind(&self, identity: &NodeIdentity) -> Result<(), IdentityError> {
        write(&self.path, identity)
    }
}

/// Where the log of a data directory is.
pub fn log_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("log")
}

/// Where the state of a data directory is.
pub fn state_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("state")
}

/// Whose data directory `dir` is, if it is somebody's.
///
/// # Errors
///
/// See [`IdentityError`].
pub fn read(dir: &Path) -> Result<Option<NodeIdentity>, IdentityError> {
    let path = dir.join(NODE);
    let mut bytes = Vec::new();
    match File::open(&path) {
        Ok(file) => file.take(64 * 1024).read_to_end(&mut bytes).map_err(failed(&path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&path)(error)),
    };
    let damaged = || IdentityError::Damaged(path.clone());
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(damaged)?;
    let (sum, message) = rest.split_at_checked(4).ok_or_else(damaged)?;
    if crc32c::crc32c(message).to_le_bytes() != sum {
        return Err(damaged());
    }
    let node = disk::NodeIdentity::decode(message).map_err(|_| damaged())?;
    if node.format != FORMAT {
        return Err(IdentityError::Format { path, format: node.format });
    }
    let cluster_id = <[u8; 16]>::try_from(&node.cluster_id[..]).map_err(|_| damaged())?;
    Ok(Some(NodeIdentity { cluster_id, node_id: node.node_id, held_log: node.held_log }))
}

/// Binds `dir` to a node, durably. The caller holds the directory's lock, or
/// has just made it.
///
/// # Errors
///
/// After an error it is undecided whether it is bound.
pub fn write(dir: &Path, identity: &NodeIdentity) -> Result<(), IdentityError> {
    let message = disk::NodeIdentity {
        format: FORMAT,
        cluster_id: identity.cluster_id.to_vec().into(),
        node_id: identity.node_id,
        held_log: identity.held_log,
    }
    .encode_to_vec();
    let mut bytes = MAGIC.to_vec();
    bytes.extend(crc32c::crc32c(&message).to_le_bytes());
    bytes.extend(message);
    let next = dir.join(NODE_NEXT);
    let written = || {
        let mut options = OpenOptions::new();
        let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&next, dir.join(NODE))?;
        File::open(dir)?.sync_all()
    };
    written().map_err(failed(&next))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: NodeIdentity =
        NodeIdentity { cluster_id: [7; 16], node_id: 3, held_log: false };

    #[test]
    fn an_identity_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        write(dir.path(), &IDENTITY).unwrap();
        let held = NodeIdentity { held_log: true, ..IDENTITY };
        write(dir.path(), &held).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(held));
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &IDENTITY).unwrap();
        let path = dir.path().join(NODE);
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 4;
            fs::write(&path, bytes).unwrap();
            assert!(matches!(read(dir.path()), Err(IdentityError::Damaged(_))), "byte {at}");
        }
    }

    #[test]
    fn two_processes_do_not_share_a_directory() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let first = DataDir::open(&path).unwrap();
        assert!(matches!(DataDir::open(&path), Err(IdentityError::InUse(_))));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(first);
        DataDir::open(&path).unwrap();
    }
}
