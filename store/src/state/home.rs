//! Where engines live: which one is in use, and how another takes its place.
//!
//! A state directory holds one engine directory, `engine-000001`, and the file
//! `CURRENT` that names it and its kind. A snapshot is received into the next
//! directory; renaming a new `CURRENT` over the old one is the moment at which
//! it takes over. Whatever `CURRENT` does not name is a leftover.

use super::error::OpenError;
use crate::disk::{
    Buffered, Checked, Engine, EngineError, EngineKind, EngineOptions, Flushing, MemoryDisk,
    open_engine,
};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CURRENT: &str = "CURRENT";
const CURRENT_NEXT: &str = "CURRENT.next";
const ENGINE_PREFIX: &str = "engine-";
/// The number of the first engine.
pub(super) const FIRST: u64 = 1;

/// The engines of one replica.
pub(super) enum Home {
    /// In a directory.
    Directory {
        /// The state directory.
        dir: PathBuf,
        /// The kind of its engines.
        kind: EngineKind,
        /// How they are opened.
        options: EngineOptions,
    },
    /// In memory, for simulation.
    Memory(MemoryDisk),
}

fn engine_name(number: u64) -> String {
    format!("{ENGINE_PREFIX}{number:06}")
}

fn engine_number(name: &str) -> Option<u64> {
    name.strip_prefix(ENGINE_PREFIX)?.parse().ok()
}

impl Home {
    /// The number of the engine in use and the engine. Creates the first one
    /// in an empty home, and removes leftovers.
    pub(super) fn open(&self) -> Result<(u64, Arc<dyn Engine>), OpenError> {
        match self {
            Self::Directory { dir, kind, options } => open_directory(dir, *kind, options),
            Self::Memory(disk) => {
                let number = disk.current().and_then(|name| engine_number(&name));
                let (number, is_new) = (number.unwrap_or(FIRST), number.is_none());
                for name in disk.names().iter().filter(|name| **name != engine_name(number)) {
                    disk.remove(name);
                }
                let engine =
                    in_memory(disk, &engine_name(number)).map_err(|error| unreadable(&error))?;
                if is_new {
                    disk.switch(&engine_name(number));
                }
                Ok((number, engine))
            }
        }
    }

    /// A new, empty engine in a home that has none. It is not in use until
    /// [`switch`](Home::switch).
    pub(super) fn create_first(&self) -> Result<Arc<dyn Engine>, OpenError> {
        if let Self::Directory { dir, kind, .. } = self {
            let failed = |error| OpenError::Directory { dir: dir.clone(), error };
            if !kind.is_available() {
                return Err(OpenError::Unavailable(*kind));
            }
            create_private_dir(dir).map_err(failed)?;
            if read_current(dir)?.is_some() {
                return Err(failed(io::ErrorKind::AlreadyExists.into()));
            }
            remove_leftovers(dir, None).map_err(failed)?;
        }
        self.create(FIRST).map_err(|error| unreadable(&error))
    }

    /// A new, empty engine beside the one in use.
    pub(super) fn create(&self, number: u64) -> Result<Arc<dyn Engine>, EngineError> {
        let name = engine_name(number);
        match self {
            Self::Directory { dir, kind, options } => {
                remove_tree(&dir.join(&name))?;
                open_engine(*kind, &dir.join(&name), options)
            }
            Self::Memory(disk) => {
                disk.remove(&name);
                in_memory(disk, &name)
            }
        }
    }

    /// Prepares [`switch`](Home::switch): what it can do before, it does here.
    pub(super) fn prepare_switch(&self, number: u64) -> io::Result<()> {
        let Self::Directory { dir, kind, .. } = self else { return Ok(()) };
        let mut file = File::create(dir.join(CURRENT_NEXT))?;
        writeln!(file, "{kind} {}", engine_name(number))?;
        file.sync_all()?;
        sync_dir(dir)
    }

    /// Makes the engine the one in use: one rename and one sync of the
    /// directory.
    pub(super) fn switch(&self, number: u64) -> io::Result<()> {
        match self {
            Self::Directory { dir, .. } => {
                fs::rename(dir.join(CURRENT_NEXT), dir.join(CURRENT))?;
                sync_dir(dir)
            }
            Self::Memory(disk) => {
                disk.switch(&engine_name(number));
                Ok(())
            }
        }
    }

    /// Removes an engine that is neither in use nor open.
    pub(super) fn remove(&self, number: u64) -> io::Result<()> {
        match self {
            Self::Directory { dir, .. } => remove_tree(&dir.join(engine_name(number))),
            Self::Memory(disk) => {
                disk.remove(&engine_name(number));
                Ok(())
            }
        }
    }
}

/// Bytes of the write buffer before an engine in memory: small, so that
/// simulations see many of them written.
const MEMORY_BUFFER_BYTES: usize = 64 * 1024;

fn in_memory(disk: &MemoryDisk, name: &str) -> Result<Arc<dyn Engine>, EngineError> {
    let checked = Box::new(Checked::open(Box::new(disk.engine(name)))?);
    Ok(Arc::new(Buffered::new(checked, MEMORY_BUFFER_BYTES, Flushing::Within)?))
}

fn unreadable(error: &dyn std::fmt::Display) -> OpenError {
    OpenError::Unreadable(error.to_string())
}

fn open_directory(
    dir: &Path,
    kind: EngineKind,
    options: &EngineOptions,
) -> Result<(u64, Arc<dyn Engine>), OpenError> {
    if !kind.is_available() {
        return Err(OpenError::Unavailable(kind));
    }
    let failed = |error| OpenError::Directory { dir: dir.to_owned(), error };
    create_private_dir(dir).map_err(failed)?;
    let current = read_current(dir)?;
    let (number, is_new) = match current {
        Some((found, _)) if found != kind => {
            return Err(OpenError::OtherEngine { found, wanted: kind });
        }
        Some((_, number)) => (number, false),
        None => (FIRST, true),
    };
    let engine_dir = dir.join(engine_name(number));
    remove_leftovers(dir, (!is_new).then_some(number)).map_err(failed)?;
    // fjall would create anew what is not there, and the state would be empty.
    if !is_new && !engine_dir.is_dir() {
        return Err(OpenError::Unreadable(format!("{} is missing", engine_name(number))));
    }
    let engine = open_engine(kind, &engine_dir, options).map_err(|error| unreadable(&error))?;
    if is_new {
        let home = Home::Directory { dir: dir.to_owned(), kind, options: options.clone() };
        engine.checkpoint().map_err(|error| unreadable(&error))?;
        home.prepare_switch(number).and_then(|()| home.switch(number)).map_err(failed)?;
    }
    Ok((number, engine))
}

/// The kind and number of the engine in use.
fn read_current(dir: &Path) -> Result<Option<(EngineKind, u64)>, OpenError> {
    let text = match fs::read_to_string(dir.join(CURRENT)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(OpenError::Unreadable("CURRENT is not text".to_owned()));
        }
        Err(error) => return Err(OpenError::Directory { dir: dir.to_owned(), error }),
    };
    let parsed = text
        .trim_end()
        .split_once(' ')
        .and_then(|(kind, name)| Some((kind.parse::<EngineKind>().ok()?, engine_number(name)?)));
    match parsed {
        Some(current) => Ok(Some(current)),
        None => Err(OpenError::Unreadable("CURRENT names no engine".to_owned())),
    }
}

/// Removes engines other than `current`, which a crash may have left. Other
/// files are not ours and stay.
fn remove_leftovers(dir: &Path, current: Option<u64>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(engine_number);
        if number.is_some() && number != current {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_file(dir.join(CURRENT_NEXT)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Creates a directory that only this user can read, and what it stands in.
fn create_private_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if dir.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// See [`State::set_aside`](super::State::set_aside).
pub(super) fn set_aside(dir: &Path, reason: &str) -> io::Result<PathBuf> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let free = (1..).map(|number| parent.join(format!("{name}.aside-{number}")));
    let aside = free
        .into_iter()
        .find(|path| !path.exists())
        .expect("a number is free among more than there are files");
    fs::rename(dir, &aside)?;
    sync_dir(parent)?;
    // For the person who finds it. The rename is what matters.
    fs::write(aside.join("REASON"), format!("{reason}\n"))?;
    Ok(aside)
}
