//! The replicas themselves, for operators.
//!
//! Changes of the membership have no identity, so they are sent again only when
//! the cluster said that nothing was done; else they end as unknown. Look at
//! [`Cluster::members`] then.

use crate::call::{Attempt, Route};
use crate::client::Client;
use crate::export::Export;
use crate::status::{Failure, read_error};
use crate::{Consistency, Error, Outcome, Position, Revision};
use bytes::Bytes;
use keelstone_proto::v1;
use std::collections::BTreeMap;
use std::time::SystemTime;

/// What one node is and knows.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NodeStatus {
    /// Names the cluster, 16 bytes.
    pub cluster_id: Bytes,
    /// Names the node in the cluster.
    pub node_id: u64,
    /// The newest revision of its state, and the history.
    pub at: Position,
    /// Its raft term.
    pub term: u64,
    /// The version of its program.
    pub version: String,
    /// Whom it believes to lead.
    pub leader: Option<u64>,
    /// `leader`, `follower`, `candidate` or `learner`.
    pub role: String,
    /// The last entry of its log.
    pub last_log_index: u64,
    /// What it knows to be committed.
    pub committed_index: u64,
    /// What its state contains.
    pub applied_index: u64,
    /// What its last snapshot contains.
    pub snapshot_index: u64,
    /// Up to here the log is gone.
    pub purged_index: u64,
    /// History below this revision is gone.
    pub compact_revision: Revision,
    /// The hash over all transitions.
    pub state_hash: Bytes,
    /// How many transitions the hash covers.
    pub transitions: u64,
    /// Bytes of state on disk.
    pub state_bytes: u64,
    /// Bytes of log on disk.
    pub log_bytes: u64,
    /// The state engine.
    pub engine: String,
    /// What an operator should know.
    pub problems: Vec<String>,
    /// The level of features in force.
    pub feature_level: u32,
    /// The cluster's time.
    pub time: SystemTime,
}

impl From<v1::StatusResponse> for NodeStatus {
    fn from(wire: v1::StatusResponse) -> Self {
        let at = Position::of(wire.header.as_ref());
        let header = wire.header.unwrap_or_default();
        Self {
            cluster_id: header.cluster_id,
            node_id: header.node_id,
            at,
            term: header.term,
            version: wire.version,
            leader: (wire.leader != 0).then_some(wire.leader),
            role: wire.role,
            last_log_index: wire.last_log_index,
            committed_index: wire.committed_index,
            applied_index: wire.applied_index,
            snapshot_index: wire.snapshot_index,
            purged_index: wire.purged_index,
            compact_revision: wire.compact_revision.into(),
            state_hash: wire.state_hash,
            transitions: wire.transitions,
            state_bytes: wire.state_bytes,
            log_bytes: wire.log_bytes,
            engine: wire.engine,
            problems: wire.problems,
            feature_level: wire.feature_level,
            time: crate::types::time_of(wire.time_ms),
        }
    }
}

/// One replica, as the membership has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// Its id, never used again.
    pub id: u64,
    /// Where it serves peers.
    pub peer_address: String,
    /// Where it serves clients.
    pub client_address: String,
    /// Failure domains: host, rack, datastore, site.
    pub labels: BTreeMap<String, String>,
    /// Whether it votes; a learner does not.
    pub voter: bool,
    /// Whether it leads.
    pub leader: bool,
    /// Log entries that the leader knows it lacks.
    pub lag: Option<u64>,
}

impl From<v1::Member> for Member {
    fn from(wire: v1::Member) -> Self {
        Self {
            voter: wire.role() == v1::member::Role::Voter,
            id: wire.id,
            peer_address: wire.peer_address,
            client_address: wire.client_address,
            labels: wire.labels.into_iter().collect(),
            leader: wire.leader,
            lag: wire.lag,
        }
    }
}

/// A node that is to join.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewMember {
    /// `None`: the leader chooses one that was never used.
    pub id: Option<u64>,
    /// Where it serves peers.
    pub peer_address: String,
    /// Where it serves clients.
    pub client_address: String,
    /// Failure domains: host, rack, datastore, site.
    pub labels: BTreeMap<String, String>,
    /// Whether it becomes a voter when it has caught up.
    pub promote: bool,
}

/// The replicas; made by [`Client::cluster`].
#[derive(Clone, Debug)]
pub struct Cluster {
    client: Client,
}

impl Cluster {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// What some node is and knows.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded) if no
    /// node answered.
    pub async fn status(&self) -> Result<NodeStatus, Error> {
        let response = self.client.read(Route::Leader, |attempt| async move {
            attempt.cluster().status(attempt.request(v1::StatusRequest {})).await
        });
        Ok(response.await?.into())
    }

    /// What every endpoint that the client knows says, each with its address,
    /// asked at once and once.
    ///
    /// # Errors
    ///
    /// Each endpoint has its own.
    pub async fn status_of_each(&self) -> Vec<(String, Result<NodeStatus, Error>)> {
        let limit = self.client.options().attempt_timeout;
        let asked = self.client.endpoints().all().into_iter().map(|endpoint| async move {
            let attempt = Attempt::new(endpoint.calls(), limit);
            let mut stub = attempt.cluster();
            let status = stub.status(attempt.request(v1::StatusRequest {}));
            let result = match tokio::time::timeout(limit, status).await {
                Ok(Ok(response)) => Ok(response.into_inner().into()),
                Ok(Err(status)) => Err(read_error(&status)),
                Err(_elapsed) => {
                    Err(Failure::silent(endpoint.address()).into_error(Outcome::NotApplied))
                }
            };
            (endpoint.address().to_owned(), result)
        });
        futures::future::join_all(asked).await
    }

    /// All replicas.
    ///
    /// # Errors
    ///
    /// As every read.
    pub async fn members(&self) -> Result<Vec<Member>, Error> {
        self.members_as(Consistency::Linearizable).await
    }

    /// All replicas, as fresh as asked for. A serializable read answers even
    /// when there is no quorum.
    ///
    /// # Errors
    ///
    /// As every read.
    pub async fn members_as(&self, consistency: Consistency) -> Result<Vec<Member>, Error> {
        let response = self.client.read(Route::Leader, |attempt| async move {
            let request = v1::MembersRequest { consistency: consistency.to_wire() };
            attempt.cluster().members(attempt.request(request)).await
        });
        Ok(response.await?.members.into_iter().map(Into::into).collect())
    }

    /// Adds a learner, and returns its id. With
    /// [`promote`](NewMember::promote) it becomes a voter when it has caught up.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyExists`](crate::ErrorKind::AlreadyExists) if the id or
    /// an address is in use; [`Invalid`](crate::ErrorKind::Invalid); and
    /// [`Unknown`](crate::ErrorKind::Unknown) if the answer was lost.
    pub async fn add(&self, new: NewMember) -> Result<u64, Error> {
        let request = v1::MemberAddRequest {
            id: new.id.unwrap_or_default(),
            peer_address: new.peer_address,
            client_address: new.client_address,
            labels: new.labels.into_iter().collect(),
            promote: new.promote,
        };
        let request = &request;
        let response = self.client.change(|attempt| {
            let request = request.clone();
            async move { attempt.cluster().add(attempt.request(request)).await }
        });
        Ok(response.await?.id)
    }

    /// Makes a learner that has caught up a voter. With `force` even if a
    /// majority of voters then share a failure domain.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound),
    /// [`Invalid`](crate::ErrorKind::Invalid) if it lags or the domains forbid
    /// it, [`Unknown`](crate::ErrorKind::Unknown) if the answer was lost.
    pub async fn promote(&self, id: u64, force: bool) -> Result<(), Error> {
        let response = self.client.change(|attempt| async move {
            let request = v1::MemberPromoteRequest { id, force };
            attempt.cluster().promote(attempt.request(request)).await
        });
        response.await.map(drop)
    }

    /// Removes a replica. With `force` even if a majority of those that are left
    /// share a failure domain.
    ///
    /// # Errors
    ///
    /// As [`Cluster::promote`].
    pub async fn remove(&self, id: u64, force: bool) -> Result<(), Error> {
        let response = self.client.change(|attempt| async move {
            let request = v1::MemberRemoveRequest { id, force };
            attempt.cluster().remove(attempt.request(request)).await
        });
        response.await.map(drop)
    }

    /// Hands leadership to the voter `to`, or to the one that is furthest ahead;
    /// returns who leads then.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) or
    /// [`Invalid`](crate::ErrorKind::Invalid) if that node cannot lead.
    pub async fn transfer(&self, to: Option<u64>) -> Result<u64, Error> {
        let response = self.client.change(|attempt| async move {
            let request = v1::TransferRequest { to: to.unwrap_or_default() };
            attempt.cluster().transfer(attempt.request(request)).await
        });
        Ok(response.await?.leader)
    }

    /// Moves leadership away from a node and keeps it away, until it restarts or
    /// until `undo`.
    ///
    /// # Errors
    ///
    /// As [`Cluster::transfer`].
    pub async fn drain(&self, id: u64, undo: bool) -> Result<(), Error> {
        let response = self.client.change(|attempt| async move {
            let request = v1::DrainRequest { id, undo };
            attempt.cluster().drain(attempt.request(request)).await
        });
        response.await.map(drop)
    }

    /// Reads a consistent copy of the whole store at `revision`, or at the
    /// newest, for a backup.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Compacted`](crate::ErrorKind::Compacted) if the revision is
    /// gone; and as every read. What can go wrong later is said at
    /// [`Export::next`].
    pub async fn export(&self, revision: Option<Revision>) -> Result<Export, Error> {
        Export::start(&self.client, revision).await
    }
}
