//! A replica: one copy of the store, kept equal to the others by consensus.
//!
//! * [`Replica::start`] opens a data directory, comes to an identity
//!   (`bootstrap`), makes log and state fit together (`disk`) and takes part;
//! * `proposer` packs writes into entries, `forwarder` passes those on that came
//!   to a follower, `waiting` bounds both;
//! * `reader` lets reads share one proof of leadership;
//! * `upkeep` ends leases and sessions, takes checkpoints, forgets history;
//! * `membership` changes who belongs to the cluster and who leads it;
//! * [`Replica::shutdown`] ends it well, [`Replica::failure`] says that it ended
//!   badly.
//!
//! What is not here: what commands mean (`keelstone_store::machine`), how
//! consensus is reached (`crate::raft`), what clients see (`crate::rpc`).

mod bootstrap;
mod desk;
mod disk;
mod domains;
mod forwarder;
pub mod identity;
mod membership;
mod pace;
mod proposer;
mod reader;
mod running;
mod served;
mod settings;
mod shutdown;
mod space;
mod start;
mod upkeep;
mod waiting;

pub use crate::raft::{
    BoxStream, ClientConfigs, PeerAcceptor, PeerConnector, Stream, TcpConnector, Timing,
};
pub use running::Replica;
pub use settings::{
    Clock, Components, Delay, Disk, Entry, FEATURE_LEVEL, INITIAL_ID_MAX, ReplicaSettings,
    SystemClock,
};
pub use start::{Failure, StartError};

#[cfg(test)]
mod tests;
