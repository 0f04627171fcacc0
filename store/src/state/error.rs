//! Why a state could not be opened, read, written or replaced.

use crate::disk::{EngineError, EngineKind, LogId, Table};
use std::path::PathBuf;

/// Why an operation on the state failed.
///
/// All but the refusals of snapshots and [`EngineError::ViewExpired`] mean that
/// this replica's state can no longer be trusted: the node stops.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The engine failed, or a row is damaged.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A row is not what the layout says, though its checksum matches.
    #[error("a row of table {} cannot be understood: {problem}", table.name())]
    Malformed {
        /// The row's table.
        table: Table,
        /// What is wrong, without keys or values.
        problem: &'static str,
    },
    /// Something encoded, in the log or in the state, cannot be decoded.
    #[error("{what} cannot be decoded: {detail}")]
    Undecodable {
        /// What it is.
        what: &'static str,
        /// What the decoder said.
        detail: String,
    },
    /// History that the state must hold is not there.
    #[error("history is incomplete: {0}")]
    Incomplete(&'static str),
    /// The snapshot ends before the state does. Nothing was changed.
    #[error("the snapshot ends at {snapshot:?}, this state is at {applied:?} already")]
    SnapshotBehind {
        /// Where the snapshot ends.
        snapshot: Option<LogId>,
        /// Where the state is.
        applied: Option<LogId>,
    },
    /// The snapshot is damaged or incomplete. Nothing was changed.
    #[error("the snapshot is not usable: {0}")]
    BadSnapshot(String),
    /// Another snapshot is being received. Nothing was changed.
    #[error("another snapshot is being received")]
    InstallRunning,
    /// The state directory could not be read or changed.
    #[error("the state directory failed: {0}")]
    Directory(#[from] std::io::Error),
}

impl StateError {
    pub(super) fn malformed(table: Table, problem: &'static str) -> Self {
        Self::Malformed { table, problem }
    }
}

/// Why a state could not be opened. Nothing was changed: the caller decides
/// whether to set it aside and to rebuild it, see
/// [`State::set_aside`](super::State::set_aside).
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be used at all: no reason to set it aside.
    #[error("the state directory {} cannot be used: {error}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// The build lacks the engine: no reason to set the state aside.
    #[error("this build has no state engine {0}: build it with the cargo feature {0}")]
    Unavailable(EngineKind),
    /// The state was written by another engine.
    #[error("the state was written by {found}, the configuration asks for {wanted}")]
    OtherEngine {
        /// The engine in the directory.
        found: EngineKind,
        /// The engine asked for.
        wanted: EngineKind,
    },
    /// A part of the state is missing, damaged or of an unknown format.
    #[error("the state cannot be read: {0}")]
    Unreadable(String),
}

impl OpenError {
    /// Whether the state is lost, so that setting it aside and rebuilding it is
    /// the remedy.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Unreadable(_))
    }
}
