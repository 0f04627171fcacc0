//! Data directories under construction.
//!
//! A directory is built beside its place, under a name that no node is pointed
//! at, and renamed when it is complete and durable. Its identity is written
//! last, so that a node that were pointed at a half-built one refuses it.

use super::document;
use super::error::BackupError;
use super::rows::Origin;
use crate::replica::identity::{self, NodeIdentity};
use keelstone_store::disk::EngineKind;
use keelstone_store::disk::log::{Log, LogOptions, Vote};
use keelstone_store::disk::storage::FileStorage;
use keelstone_store::machine::Head;
use keelstone_store::state::{Applied, RestoreWriter, State, StateOptions};
use serde::Serialize;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Held by whoever builds, for as long as that lasts.
const LOCK: &str = "LOCK";
/// What a restored directory tells about where it comes from.
const RESTORED: &str = "RESTORED.json";
/// Nothing is written to the log but where it begins.
const LOG_SEGMENT_BYTES: u64 = 64 * 1024;

/// Places for directories, all of which are free.
pub(super) struct Site {
    places: Vec<(u64, PathBuf)>,
}

impl Site {
    /// Looks whether all places are free, and touches nothing.
    pub(super) fn survey(directories: &[(u64, PathBuf)]) -> Result<Self, BackupError> {
        let mut places: Vec<(u64, PathBuf)> = Vec::new();
        for (id, directory) in directories {
            let place = std::path::absolute(directory)
                .map_err(BackupError::io(format!("find {}", directory.display())))?;
            if place.file_name().is_none() || place.parent().is_none() {
                return Err(occupied(&place, "is the root of a file system"));
            }
            if places.iter().any(|(_, other)| *other == place) {
                return Err(occupied(&place, "is named twice"));
            }
            match fs::read_dir(&place) {
                Ok(mut entries) => {
                    if entries.next().is_some() {
                        return Err(occupied(&place, "is not empty"));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                    return Err(occupied(&place, "is not a directory"));
                }
                Err(error) => {
                    return Err(BackupError::io(format!("look into {}", place.display()))(error));
                }
            }
            places.push((*id, place));
        }
        Ok(Self { places })
    }

    /// Makes the directories to build in. What a killed restore left there is
    /// removed; what a running one builds is not.
    pub(super) fn begin(self) -> Result<Vec<Plot>, BackupError> {
        self.places.into_iter().map(|(id, place)| Plot::begin(id, place)).collect()
    }
}

fn occupied(place: &Path, how: &str) -> BackupError {
    BackupError::refused(
        format!("{} {how}", place.display()),
        "a restore builds new directories and overwrites none: move it away or name another",
    )
}

/// A directory under construction. It is removed unless it is put in place.
pub(super) struct Plot {
    node_id: u64,
    place: PathBuf,
    building: PathBuf,
    _lock: File,
    state: Option<RestoreWriter>,
    done: bool,
}

impl Plot {
    fn begin(node_id: u64, place: PathBuf) -> Result<Self, BackupError> {
        let name = place.file_name().expect("surveyed").to_string_lossy();
        let parent = place.parent().expect("surveyed");
        let building = parent.join(format!(".{name}.restoring"));
        let what = format!("make {}", building.display());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&building)
            .map_err(BackupError::io(what.clone()))?;
        let lock = lock(&building).map_err(BackupError::io(what.clone()))?;
        let Some(lock) = lock else {
            return Err(BackupError::refused(
                format!("another restore is building {}", place.display()),
                "wait for it",
            ));
        };
        clear(&building).map_err(BackupError::io(what))?;
        Ok(Self { node_id, place, building, _lock: lock, state: None, done: false })
    }

    /// Begins the state.
    pub(super) fn open_state(&mut self, engine: EngineKind) -> Result<(), BackupError> {
        let dir = identity::state_dir(&self.building);
        let writer = State::restore_writer(&dir, engine, StateOptions::default());
        self.state = Some(writer.map_err(|error| BackupError::State(error.to_string()))?);
        Ok(())
    }

    /// Loads rows.
    pub(super) fn load(&mut self, chunk: bytes::Bytes) -> Result<(), BackupError> {
        let state = self.state.as_mut().expect("the state was begun");
        state.write(chunk).map_err(|error| BackupError::State(error.to_string()))
    }

    /// Completes the state, if it is what the backup says.
    pub(super) fn finish_state(
        &mut self,
        root: &str,
        head: &Head,
        applied: &Applied,
    ) -> Result<(), BackupError> {
        let state = self.state.take().expect("the state was begun");
        if super::create::hex(&state.state_root()) != root {
            return Err(BackupError::State("it has another root than the backup".into()));
        }
        let finished = state.finish(head.clone(), applied);
        finished.map_err(|error| BackupError::State(error.to_string()))
    }

    /// Begins the log after the first entry. The vote says that this node knows
    /// of that entry's term, in which it therefore elects nobody.
    pub(super) fn write_log(&self) -> Result<(), BackupError> {
        let dir = identity::log_dir(&self.building);
        let storage =
            FileStorage::open(&dir).map_err(BackupError::io(format!("make {}", dir.display())))?;
        let options = LogOptions {
            segment_bytes: LOG_SEGMENT_BYTES,
            zero_ahead: false,
            ..LogOptions::default()
        };
        let failed =
            |error: &dyn std::fmt::Display| BackupError::State(format!("the log: {error}"));
        let (log, mut writer) =
            Log::open(Arc::new(storage), options).map_err(|error| failed(&error))?;
        let first = super::restore::FIRST_ENTRY;
        let vote = Vote { term: first.term, node: self.node_id, committed: false };
        let (sender, done) = std::sync::mpsc::sync_channel(1);
        log.save_vote(vote, Box::new(move |saved| drop(sender.send(saved))))
            .and_then(|()| log.purge(first))
            .and_then(|()| log.save_committed(first))
            .map_err(|error| failed(&error))?;
        while writer.round().map_err(|error| failed(&error))? {}
        match done.try_recv() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => Err(failed(&"its writer said nothing")),
        }
    }

    /// Says where it comes from, and whose it is.
    pub(super) fn write_identity(
        &self,
        cluster_id: [u8; 16],
        origin: &Origin,
    ) -> Result<(), BackupError> {
        #[derive(Serialize)]
        struct Told<'a> {
            format: u64,
            cluster_uid: String,
            node_id: u64,
            origin: &'a Origin,
        }
        let told = Told {
            format: document::FORMAT,
            cluster_uid: super::create::hex(&cluster_id),
            node_id: self.node_id,
            origin,
        };
        let path = self.building.join(RESTORED);
        write_durably(&path, &document::seal(&told))
            .map_err(BackupError::io(format!("write {}", path.display())))?;
        let node = NodeIdentity { cluster_id, node_id: self.node_id, held_log: true };
        identity::write(&self.building, &node)
            .map_err(|error| BackupError::State(error.to_string()))
    }

    /// Renames the finished directory to its place, durably.
    pub(super) fn put_in_place(mut self) -> Result<PathBuf, BackupError> {
        let what = format!("put {} in place", self.place.display());
        let put = || {
            File::open(&self.building)?.sync_all()?;
            // An empty directory gives way; one that was filled meanwhile does not.
            fs::rename(&self.building, &self.place)?;
            File::open(self.place.parent().expect("surveyed"))?.sync_all()
        };
        put().map_err(BackupError::io(what))?;
        self.done = true;
        Ok(self.place.clone())
    }
}

impl Drop for Plot {
    fn drop(&mut self) {
        // The engine is closed before its files go.
        self.state = None;
        if !self.done
            && let Err(error) = fs::remove_dir_all(&self.building)
        {
            let left = self.building.display();
            tracing::warn!(%error, %left, "an unfinished restore could not be removed");
        }
    }
}

/// The lock of a directory, or `None` if somebody else has it.
fn lock(dir: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).mode(0o600).open(dir.join(LOCK))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Removes everything but the lock.
fn clear(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == LOCK {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
