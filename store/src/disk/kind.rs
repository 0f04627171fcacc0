//! Which engines there are, and how one is opened.

use super::buffered::{Buffered, Flushing};
use super::checked::Checked;
use super::engine::{Engine, EngineError};
use super::memory::MemoryEngine;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// A state engine by name, as the configuration chooses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// fjall 3, the default.
    #[default]
    Fjall,
    /// sled 0.34; needs the cargo feature `sled`.
    Sled,
    /// Nothing is kept on disk.
    Memory,
}

impl EngineKind {
    /// All kinds, whether this build has them or not.
    pub const ALL: [Self; 3] = [Self::Fjall, Self::Sled, Self::Memory];

    /// The name in configuration and on disk.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fjall => "fjall",
            Self::Sled => "sled",
            Self::Memory => "memory",
        }
    }

    /// Whether this build has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Fjall => cfg!(feature = "fjall"),
            Self::Sled => cfg!(feature = "sled"),
            Self::Memory => true,
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No engine has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no state engine {0:?}; choose fjall, sled or memory")]
pub struct UnknownEngine(pub String);

impl FromStr for EngineKind {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == name);
        kind.ok_or_else(|| UnknownEngine(name.to_owned()))
    }
}

/// What an engine may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Bytes of memory for blocks that were read.
    pub cache_bytes: u64,
    /// Bytes of memory in which batches are gathered before they are written as
    /// one; up to six times as much when the disk is slow.
    pub write_buffer_bytes: usize,
    /// Whether sled's own flush is taken for durable, which it is not: the
    /// power-cut test sets it to show that it finds such a loss.
    #[doc(hidden)]
    pub sled_without_fsync: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 16 * 1024 * 1024,
            write_buffer_bytes: 8 * 1024 * 1024,
            sled_without_fsync: false,
        }
    }
}

/// Opens or creates an engine in `dir`, under the layer that checks rows and a
/// write buffer.
///
/// # Errors
///
/// Fails if this build lacks the engine, if the directory cannot be used, or if
/// what is there cannot be read.
pub fn open_engine(
    kind: EngineKind,
    dir: &Path,
    options: &EngineOptions,
) -> Result<Arc<dyn Engine>, EngineError> {
    let engine: Box<dyn Engine> = match kind {
        #[cfg(feature = "fjall")]
        EngineKind::Fjall => Box::new(super::fjall::FjallEngine::open(dir, options)?),
        #[cfg(feature = "sled")]
        EngineKind::Sled => Box::new(super::sled::SledEngine::open(dir, options)?),
        EngineKind::Memory => Box::new(MemoryEngine::default()),
        #[cfg(not(all(feature = "fjall", feature = "sled")))]
        other => {
            let _ = (dir, options);
            let detail = format!("this build has no {other}: build with --features {other}");
            return Err(EngineError::Engine(detail));
        }
    };
    let checked = Box::new(Checked::open(engine)?);
    Ok(Arc::new(Buffered::new(checked, options.write_buffer_bytes, Flushing::Beside)?))
}
