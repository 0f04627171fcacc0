//! The small interface that state engines are kept behind.
//!
//! An engine keeps ordered rows in a few tables. Besides this interface no code
//! knows which engine there is, and one contract test runs on all of them.

use super::batch::WriteBatch;
use bytes::Bytes;
use std::ops::Bound;
use std::sync::Arc;

/// The tables that rows live in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// One row each for the head and the applied position.
    Meta,
    /// Live keys and their newest records.
    Latest,
    /// Superseded records and tombstones, by key and revision.
    Past,
    /// The keys that each revision changed.
    Changes,
    /// Leases, and the keys attached to them.
    Leases,
    /// Sessions, and the replies that they remember.
    Sessions,
}

impl Table {
    /// All tables.
    pub const ALL: [Self; 6] =
        [Self::Meta, Self::Latest, Self::Past, Self::Changes, Self::Leases, Self::Sessions];

    /// A stable number: part of each row's checksum, and of its key in engines
    /// that keep all tables in one.
    pub fn number(self) -> u8 {
        match self {
            Self::Meta => 0,
            Self::Latest => 1,
            Self::Past => 2,
            Self::Changes => 3,
            Self::Leases => 4,
            Self::Sessions => 5,
        }
    }

    /// A stable name, for engines that keep tables by name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Latest => "latest",
            Self::Past => "past",
            Self::Changes => "changes",
            Self::Leases => "leases",
            Self::Sessions => "sessions",
        }
    }
}

/// Why an engine failed. All but [`ViewExpired`](EngineError::ViewExpired)
/// stop the node.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The operating system refused.
    #[error("the state engine's disk failed: {0}")]
    Io(#[from] std::io::Error),
    /// A row's checksum does not match: what is on the disk is not what was
    /// written.
    #[error("a row of table {} is damaged: {detail}", table.name())]
    Damaged {
        /// The row's table.
        table: Table,
        /// What was found, without keys or values.
        detail: String,
    },
    /// The engine's own error.
    #[error("the state engine failed: {0}")]
    Engine(String),
    /// The view is so old that its engine no longer keeps what it shows. Only
    /// engines without snapshots of their own say so; the reader takes a new
    /// view and begins again.
    #[error("the view is too old to be read; take a new one")]
    ViewExpired,
}

/// An iterator over rows in key order.
pub type Rows<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes), EngineError>> + Send + 'a>;

/// A consistent state of all tables at one moment. Cheap to take and to hold.
pub trait EngineView: Send + Sync {
    /// One row.
    ///
    /// # Errors
    ///
    /// Fails if the row cannot be read or is damaged.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The rows between two keys, ascending or descending.
    fn scan(&self, table: Table, range: (Bound<Bytes>, Bound<Bytes>), descending: bool)
    -> Rows<'_>;
}

/// Ordered rows on a disk.
///
/// * [`commit`](Engine::commit) is atomic: after a crash all of a batch is there
///   or none of it, and if a batch is there, so are all before it.
/// * It is visible to views taken after it returned, and not durable.
/// * [`checkpoint`](Engine::checkpoint) makes all that was committed before it
///   durable, against a power cut too.
/// * Rows come back as they were written or not at all: each carries a checksum,
///   see [`Checked`](super::Checked).
/// * A row's key may be anything up to 16 KiB, also empty: `Checked` sees to it
///   that what is below it never gets an empty one.
pub trait Engine: Send + Sync {
    /// A consistent state that contains every batch committed so far.
    ///
    /// # Errors
    ///
    /// Fails if the engine has failed.
    fn view(&self) -> Result<Arc<dyn EngineView>, EngineError>;

    /// Writes a batch.
    ///
    /// # Errors
    ///
    /// After an error it is undecided whether the batch is there; the node must
    /// stop.
    fn commit(&self, batch: WriteBatch) -> Result<(), EngineError>;

    /// Whether a commit would have to wait for the disk now.
    fn is_behind(&self) -> bool {
        false
    }

    /// Makes everything committed so far durable.
    ///
    /// # Errors
    ///
    /// After an error nothing is known of what is durable; the node must stop.
    fn checkpoint(&self) -> Result<(), EngineError>;

    /// About how many bytes of disk the tables take.
    ///
    /// # Errors
    ///
    /// Fails if the engine cannot tell.
    fn size_bytes(&self) -> Result<u64, EngineError>;

    /// The engine's name: `fjall`, `sled` or `memory`.
    fn name(&self) -> &'static str;
}
