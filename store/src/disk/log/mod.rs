//! The write-ahead log: what a replica has promised, on its disk.
//!
//! Everything that Raft must not forget passes through one stream of records in
//! one order: entries, votes, truncations, purges and (best effort) how far the
//! log is committed. One order is what makes it correct: a vote cannot overtake
//! the entries it was given for, nor a truncation the entries that replace what
//! it removed.
//!
//! * [`Log`] is the handle that Raft talks to. Its calls take microseconds: they
//!   put records into a queue and entries into the *tail*, from which readers
//!   are served until it is trimmed.
//! * [`LogWriter`] is the one writer. Per round it takes all that is queued,
//!   writes it with one write, makes it durable with one `fdatasync`, and
//!   reports the newest append and every vote. What is queued meanwhile makes
//!   the next round: the batch grows with the load, and a lone write waits for
//!   nobody.
//! * Records live in *segments*, preallocated files, the next of which is prepared
//!   ahead: one that is no longer needed is used again, else a new one is made.
//!   So a write never changes a file's size, and space can run out only where it
//!   does no harm: while preparing.
//!
//! What is found on opening is told apart strictly. A round that a crash tore,
//! at the very end, was never acknowledged: it is cut off, and zeroed so that
//! it cannot come back. Anything else that cannot be read is damage to
//! something that may have been acknowledged; it is reported, never removed.
//!
//! After an error of a write or sync nothing is known of the disk: the log fails
//! for good, every waiting completion is told, and nothing is tried again.
//!
//! The format is drawn in `docs/disk-format.md`. What is not here: what an entry
//! means, and when to purge.

mod format;
mod handle;
mod index;
mod options;
mod problem;
mod recovery;
mod sectors;
mod shared;
mod stats;
mod upkeep;
mod writer;

pub use handle::Log;
pub use options::{FailureHook, LogOptions};
pub use problem::{Damage, LogError, OpenError};
pub use stats::{LATENCY_BUCKETS_MICROS, LogStats};
pub use writer::LogWriter;

use super::LogId;
use bytes::Bytes;
use std::io;

/// An entry of the replicated log.
#[derive(Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Where it stands.
    pub id: LogId,
    /// What it says; opaque to the log.
    pub payload: Bytes,
}

impl std::fmt::Debug for LogEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogEntry({:?}, {} bytes)", self.id, self.payload.len())
    }
}

/// A vote that this replica has given, for a term or for a leader of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// Whom the vote was given to.
    pub node: u64,
    /// Whether that node is known to have won.
    pub committed: bool,
}

/// Is called once when what it was given with is durable, or will never be.
pub type Completion = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The state of a log besides its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The newest vote.
    pub vote: Option<Vote>,
    /// The newest committed mark. It may lag behind what was saved last.
    pub committed: Option<LogId>,
    /// The last entry that was purged.
    pub purged: Option<LogId>,
    /// The last entry, or the purged one if the log is empty.
    pub last: Option<LogId>,
}

#[cfg(test)]
mod tests;
