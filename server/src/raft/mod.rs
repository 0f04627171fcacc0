//! Consensus: the replicated log, who leads it, and who takes part.
//!
//! The only module that names the consensus library (openraft, an alpha that is
//! pinned exactly). What the rest of the replica sees is [`Consensus`]: write a
//! batch, prove leadership for a read, change the members, in our own types.
//!
//! | file | what |
//! |---|---|
//! | `consensus` | the face of this module |
//! | `types`, `convert` | the library's types, and all conversions from and to ours |
//! | `log_store`, `state_machine` | the log and the state as the library wants them |
//! | `network`, `peers`, `calls` | what this node asks of its peers |
//! | `server`, `service`, `receive` | what peers ask of this node |
//! | `transport` | byte streams, with TLS or from a simulated network |
//! | `progress` | how far this replica has applied, and what its state hashed to |
//!
//! Rules that were paid for: nothing that the library awaits in its core task
//! may be slow; a responder is always answered; a snapshot install is only a
//! swap, and there is one at a time; whatever a peer sends is meant for this
//! node of this cluster or refused.

mod calls;
mod consensus;
mod convert;
mod log_store;
mod network;
mod offload;
mod outgoing;
mod peers;
mod progress;
mod receive;
mod runtime;
mod server;
mod service;
mod snapshot;
mod state_machine;
#[cfg(test)]
mod suite;
mod transport;
mod types;
mod window;

pub(crate) use calls::{CallError, Calls};
#[cfg(test)]
pub(crate) use consensus::Role;
pub use consensus::Timing;
pub(crate) use consensus::{
    Change, ChangeError, Consensus, Keep, Leadership, Members, Parts, ReadIndexError, WriteError,
};
pub(crate) use offload::blocking;
pub(crate) use peers::Peers;
pub(crate) use progress::{AppliedPosition, Diverged, Progress};
#[cfg(feature = "simulation")]
pub(crate) use runtime::enter;
pub(crate) use runtime::spawn;
pub(crate) use server::{PeerPort, serve};
pub(crate) use service::{Forwarded, LeaderRequests, PeerRequests, PeerService, Running};
pub(crate) use transport::Dialer;
pub use transport::{BoxStream, ClientConfigs, PeerAcceptor, PeerConnector, Stream, TcpConnector};
