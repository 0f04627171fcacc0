//! What the services need of a replica, and nothing about how it is done.
//!
//! The gRPC handlers, the entity loop and the watch hub stand above this trait;
//! openraft, the log and the state engine stand below it. The simulation runs
//! the same code on both sides of it.

use async_trait::async_trait;
use keelstone_store::Revision;
use keelstone_store::machine::{Envelope, Reply};
use keelstone_store::state::StateView;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Who this replica is, for the header of every response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Chosen when the cluster formed.
    pub cluster_id: [u8; 16],
    /// Never used again by another node of the cluster.
    pub node_id: u64,
}

/// Where the leader is, as far as this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderHint {
    /// Its id.
    pub id: Option<u64>,
    /// Where it serves clients.
    pub client_address: Option<String>,
}

/// Why a command has no reply.
///
/// Only [`ProposeError::Unknown`] leaves it open whether the command takes
/// effect; after every other error it has not and will not.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// There is no leader that could be reached. The command was not proposed.
    #[error("no leader is known or reachable; the write was not proposed")]
    NotLeader(LeaderHint),
    /// Too much is waiting for a quorum. The command was not proposed.
    #[error("{waiting_bytes} bytes of writes are waiting, the limit is {limit_bytes}")]
    Overloaded {
        /// Bytes of commands that wait.
        waiting_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The command is larger than a limit. It was not proposed.
    #[error("{field} is {actual}, the limit is {limit}")]
    TooLarge {
        /// The field.
        field: &'static str,
        /// Its size.
        actual: u64,
        /// The limit.
        limit: u64,
    },
    /// The disk is nearly full: the reserve is kept for what is in flight. The
    /// command was not proposed.
    #[error("the disk has {free_bytes} bytes left, {reserve_bytes} are kept in reserve")]
    NoSpace {
        /// Bytes left.
        free_bytes: u64,
        /// The reserve.
        reserve_bytes: u64,
    },
    /// The same, of the leader's disk, where this node does not lead.
    #[error("the leader's disk has less left than is kept in reserve")]
    NoSpaceAtLeader,
    /// The node is stopping. The command was not proposed.
    #[error("the node is shutting down; the write was not proposed")]
    Stopping,
    /// The deadline passed, or the leader was lost, after the command was
    /// proposed. It may or may not take effect.
    #[error("the write may or may not take effect: {0}")]
    Unknown(&'static str),
}

/// Why a read has no answer. A read has no effect, so it can always be retried.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// No quorum could be asked before the deadline.
    #[error("no quorum confirmed the read in time")]
    NoQuorum(LeaderHint),
    /// The node is stopping or has failed.
    #[error("the node is shutting down")]
    Stopping,
    /// The state could not be read; the node is about to stop.
    #[error("the state could not be read: {0}")]
    Failed(String),
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// At least as new as every write acknowledged before the request came.
    #[default]
    Linearizable,
    /// This node's own state, marked as such.
    Serializable,
}

/// A replica of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its id.
    pub id: u64,
    /// Where it serves peers.
    pub peer_address: String,
    /// Where it serves clients.
    pub client_address: String,
    /// Failure domains: host, rack, datastore, site.
    pub labels: BTreeMap<String, String>,
    /// Whether it votes; a learner does not.
    pub voter: bool,
    /// Entries that it lacks; known to the leader only.
    pub lag: Option<u64>,
}

/// What a replica is and knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreStatus {
    /// Its term.
    pub term: u64,
    /// `leader`, `follower`, `candidate` or `learner`.
    pub role: &'static str,
    /// Whom it believes to lead.
    pub leader: Option<u64>,
    /// The last entry of its log.
    pub last_log_index: u64,
    /// What it knows to be committed.
    pub committed_index: u64,
    /// What its state contains.
    pub applied_index: u64,
    /// What its last checkpoint contains.
    pub snapshot_index: u64,
    /// Below this the log is gone.
    pub purged_index: u64,
    /// Bytes of log on disk.
    pub log_bytes: u64,
    /// What an operator should know.
    pub problems: Vec<String>,
}

/// Why a membership change or a transfer was refused or failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AdminError {
    /// Only the leader can do it.
    #[error("this node does not lead")]
    NotLeader(LeaderHint),
    /// It would be wrong or dangerous; `remedy` says what to do instead.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// It was begun and not finished in time; ask for the members to see.
    #[error("not finished in time; it may still take effect: {0}")]
    Unknown(String),
    /// The node is stopping.
    #[error("the node is shutting down")]
    Stopping,
}

/// A replica, as the services above it see it.
#[async_trait]
pub trait Core: Send + Sync + 'static {
    /// Who this is.
    fn identity(&self) -> Identity;

    /// What it is and knows. Cheap: no quorum is asked.
    fn status(&self) -> CoreStatus;

    /// Its term, for the header of every response: cheaper than the status.
    fn term(&self) -> u64 {
        self.status().term
    }

    /// Where the leader is, as far as this node knows.
    fn leader_hint(&self) -> LeaderHint;

    /// Replicates a command and returns its reply once it is applied. On a
    /// follower the command is passed on to the leader.
    ///
    /// # Errors
    ///
    /// See [`ProposeError`]; only [`ProposeError::Unknown`] leaves it open
    /// whether the command takes effect.
    async fn propose(&self, command: Envelope, deadline: Instant) -> Result<Reply, ProposeError>;

    /// A consistent state of the store. Works on every node: a follower asks
    /// the leader for the read index.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    async fn read(
        &self,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<StateView, ReadError>;

    /// Waits until this node has applied `revision`, so that a watcher or a
    /// client that has seen it elsewhere does not go back in time.
    ///
    /// # Errors
    ///
    /// [`ReadError::NoQuorum`] if it is not applied in time.
    async fn wait_applied(&self, revision: Revision, deadline: Instant) -> Result<(), ReadError>;

    /// The members, as this node has applied them.
    fn members(&self) -> Vec<MemberStatus>;

    /// Adds a learner, and with `promote` makes it a voter once it has caught
    /// up, without waiting for that. Returns its id: `member.id`, or a fresh
    /// one if that is zero.
    ///
    /// # Errors
    ///
    /// See [`AdminError`].
    async fn add_member(
        &self,
        member: MemberStatus,
        promote: bool,
        timeout: Duration,
    ) -> Result<u64, AdminError>;

    /// Makes a learner that has caught up a voter.
    ///
    /// # Errors
    ///
    /// See [`AdminError`].
    async fn promote_member(
        &self,
        id: u64,
        force: bool,
        timeout: Duration,
    ) -> Result<(), AdminError>;

    /// Removes a member. A leader that removes itself hands over first.
    ///
    /// # Errors
    ///
    /// See [`AdminError`].
    async fn remove_member(
        &self,
        id: u64,
        force: bool,
        timeout: Duration,
    ) -> Result<(), AdminError>;

    /// Hands leadership to `to`, or to the voter that is furthest ahead, and
    /// returns who leads then.
    ///
    /// # Errors
    ///
    /// See [`AdminError`].
    async fn transfer_leader(&self, to: Option<u64>, timeout: Duration) -> Result<u64, AdminError>;

    /// Keeps leadership away from a node until it restarts, or again allows it.
    ///
    /// # Errors
    ///
    /// See [`AdminError`].
    async fn drain_member(&self, id: u64, undo: bool, timeout: Duration) -> Result<(), AdminError>;

    /// Changes as this node applies them, for the watch hub.
    fn changes(&self) -> Arc<crate::changes::ChangeLog>;
}
