//! What a replica keeps on its disk: the write-ahead log and the state engine.
//!
//! The log is durable, the state is a cache of it: an acknowledged write is in
//! the logs of a quorum, and each replica's state carries the id of the last
//! log entry that it contains, in the same atomic batch as that entry's
//! effects. A state that is behind is brought up to date from the log; a state
//! that is lost or unreadable is rebuilt from the log or from a peer.

mod batch;
mod buffered;
mod checked;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod damage;
mod engine;
#[cfg(feature = "fjall")]
mod fjall;
mod kind;
pub mod log;
mod log_id;
mod memory;
mod priority;
#[cfg(feature = "sled")]
mod sled;
pub mod storage;

pub use batch::{Row, WriteBatch};
pub(crate) use buffered::{Buffered, Flushing};
pub use checked::Checked;
pub use engine::{Engine, EngineError, EngineView, Rows, Table};
pub use kind::{EngineKind, EngineOptions, UnknownEngine, open_engine};
pub use log_id::LogId;
pub use memory::{MemoryDisk, MemoryEngine};
