//! What the consensus library is told about our types. Written by hand, because
//! its macro cannot name a generic responder.

use bytes::Bytes;
use keelstone_store::machine::Reply;
use openraft::RaftTypeConfig;
use openraft::impls::leader_id_std;
use openraft::vote::RaftLeaderId;
use std::collections::BTreeMap;
use std::fmt;

/// The runtime that consensus tasks run on. The simulation swaps in one whose
/// random numbers come from a seed.
#[cfg(not(feature = "simulation"))]
pub(crate) type Runtime = openraft_rt_tokio::TokioRuntime;
/// The runtime that consensus tasks run on, with random numbers from a seed.
#[cfg(feature = "simulation")]
pub(crate) type Runtime =
    openraft_rt::deterministic_rng::DeterministicRng<openraft_rt_tokio::TokioRuntime>;

/// The type configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl RaftTypeConfig for Types {
    type D = Request;
    type R = Response;
    type NodeId = u64;
    type Node = Node;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Request, u64, Node>;
    type Entry = openraft::impls::Entry<CommittedLeader, Self::Payload>;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = openraft::impls::OneshotResponder<Self, T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::AnyError;
}

pub(crate) type LeaderId = leader_id_std::LeaderId<u64, u64>;
pub(crate) type CommittedLeader = <LeaderId as RaftLeaderId>::Committed;
pub(crate) type Vote = openraft::impls::Vote<LeaderId>;
pub(crate) type LogId = openraft::LogId<CommittedLeader>;
pub(crate) type Payload = openraft::EntryPayload<Request, u64, Node>;
pub(crate) type Entry = openraft::impls::Entry<CommittedLeader, Payload>;
pub(crate) type Membership = openraft::Membership<u64, Node>;
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeader, u64, Node>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeader, u64, Node>;
pub(crate) type Snapshot<D> = openraft::Snapshot<CommittedLeader, u64, Node, D>;

/// A batch of commands on its way through the log.
///
/// Holds the encoded log payload, so that the log, the wire and apply share the
/// same bytes and a clone costs a reference count.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// An encoded `EntryPayload` whose payload is a batch.
    pub(crate) payload: Bytes,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({} bytes)", self.payload.len())
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What apply answers to an entry: one reply for each command of its batch,
/// none for entries that carry no batch.
#[derive(Debug, Default)]
pub(crate) struct Response {
    pub(crate) replies: Vec<Reply>,
}

/// Where a member is and which failure domains it is in. Its id is beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) peer_address: String,
    pub(crate) client_address: String,
    pub(crate) labels: BTreeMap<String, String>,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.peer_address)
    }
}
