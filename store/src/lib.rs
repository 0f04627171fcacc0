//! What a Keelstone command means, and how it is kept on disk.
//!
//! * [`machine`]: the replicated state machine, pure;
//! * [`entity`]: types and entities as guarded transactions, pure;
//! * [`state`]: the machine's rows over a state engine, and snapshots of them;
//! * [`disk`]: the write-ahead log and the state engines;
//! * [`planted`]: bugs to be found, which are compiled out.
//!
//! Nothing here is async, and nothing here knows of a network.

pub mod disk;
pub mod entity;
mod key;
pub mod limits;
pub mod machine;
pub mod planted;
mod revision;
pub mod state;

pub use key::{Key, KeyRange, RangeEnd, Space};
pub use revision::{LeaseId, Millis, Revision, SessionId};
