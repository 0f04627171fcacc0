//! What can go wrong with a log.

use std::io;

/// Why a call on a log failed. Apart from [`Closed`](LogError::Closed) each of
/// these must end the replica: its memory and its disk may no longer agree.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// A write or sync failed, now or earlier. What is on the disk is unknown
    /// until the log is opened anew.
    #[error("the log failed while {doing}: {detail}")]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// The system's error.
        kind: io::ErrorKind,
        /// The system's words.
        detail: String,
    },
    /// The log was closed, or its writer is gone.
    #[error("the log is closed")]
    Closed,
    /// Entries must follow each other without a hole.
    #[error("the log continues at index {expected}, the entry has index {actual}")]
    Hole {
        /// The next index of the log.
        expected: u64,
        /// The index that was offered.
        actual: u64,
    },
    /// An entry is larger than the format allows.
    #[error("an entry of {bytes} bytes is larger than the log takes ({bytes_max})")]
    TooLarge {
        /// The entry's bytes.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// More is waiting for the disk than may.
    #[error("{bytes} bytes wait for the log's disk, {bytes_max} may")]
    Backlog {
        /// Bytes that would wait.
        bytes: usize,
        /// See [`LogOptions::backlog_bytes_max`](super::LogOptions::backlog_bytes_max).
        bytes_max: usize,
    },
    /// An entry was read back and is not what was written.
    #[error("{0}")]
    Damaged(Damage),
}

impl LogError {
    pub(super) fn failed(doing: &'static str, error: &io::Error) -> Self {
        Self::Failed { doing, kind: error.kind(), detail: error.to_string() }
    }

    /// The same as an IO error, for completions.
    pub(super) fn to_io(&self) -> io::Error {
        let kind = match self {
            Self::Failed { kind, .. } => *kind,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, self.to_string())
    }
}

/// A place of the log that cannot be what was written there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the log is damaged: segment {segment}, offset {offset}: expected {expected}, found {found}"
)]
pub struct Damage {
    /// The segment's file name.
    pub segment: String,
    /// Where in the file.
    pub offset: u64,
    /// What should be there.
    pub expected: String,
    /// What is there, or what shows that it was there.
    pub found: String,
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refused.
    #[error("cannot open the log: {doing}: {error}")]
    Io {
        /// What was being done.
        doing: String,
        /// The system's error.
        #[source]
        error: io::Error,
    },
    /// Something that may have been acknowledged cannot be read. Nothing was
    /// changed on the disk. Keep the directory for examination, and let the
    /// replica rejoin with an empty one under a new id.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The log was written by another version of this program.
    #[error("the log's segment {segment} has format {found}; this program reads format {expected}")]
    Format {
        /// The segment's file name.
        segment: String,
        /// The version found.
        found: u32,
        /// The version that this program reads and writes.
        expected: u32,
    },
    /// An option is out of its bounds.
    #[error("log option {option} is {actual}, the least is {least}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// Its value.
        actual: u64,
        /// The least value.
        least: u64,
    },
}

impl OpenError {
    pub(super) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |error| Self::Io { doing, error }
    }
}
