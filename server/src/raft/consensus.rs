//! The consensus of this node, in our own words: what the replica asks of it
//! and hears from it. Nothing above this file knows which library does it.

use super::convert;
use super::log_store::LogStore;
use super::network::NetworkFactory;
use super::outgoing::Outgoing;
use super::peers::Peers;
use super::progress::Progress;
use super::snapshot::SendLimits;
use super::state_machine::StateMachine;
use super::types::{Node, Request, Response, Types};
use crate::core::MemberStatus;
use keelstone_store::disk::log::Log;
use keelstone_store::machine::Reply;
use keelstone_store::state::State;
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, Fatal, LinearizableReadError, RaftError};
use openraft::impls::OneshotResponder;
use openraft::raft::ClientWriteResult;
use openraft::{ChangeMembers, Config, Precondition, ReadPolicy, ServerState, SnapshotPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

type Raft = openraft::Raft<Types, StateMachine>;

/// Pace and patience of the consensus. The same on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often a leader shows that it lives, and how long an answer to that
    /// may take.
    pub heartbeat_interval: Duration,
    /// An election waits a random time between the two; a leader that is
    /// silent for the longer one is taken for dead.
    pub election_timeout_min: Duration,
    /// See the minimum.
    pub election_timeout_max: Duration,
    /// How long a peer may take nothing of a snapshot, or install it.
    pub snapshot_timeout: Duration,
    /// Bytes per second of a snapshot that is sent.
    pub snapshot_bytes_per_second: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(250),
            election_timeout_max: Duration::from_millis(500),
            snapshot_timeout: Duration::from_mins(2),
            snapshot_bytes_per_second: 16 * 1024 * 1024,
        }
    }
}

/// What is kept of the log behind a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    /// About how many bytes, from which slow members catch up.
    pub(crate) bytes: u64,
    /// At least how many entries.
    pub(crate) entries: u64,
    /// Bytes up to which the log may grow for the receivers of snapshots.
    pub(crate) held_bytes_max: u64,
}

/// What this node is to the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Role {
    /// Takes the log, has no vote.
    #[default]
    Learner,
    Follower,
    Candidate,
    Leader,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Learner => "learner",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        }
    }
}

/// Who leads, as far as this node knows, and the members in force.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Leadership {
    pub(crate) term: u64,
    pub(crate) role: Role,
    pub(crate) leader: Option<u64>,
    pub(crate) members: Arc<Members>,
}

impl Leadership {
    pub(crate) fn leads(&self) -> bool {
        self.role == Role::Leader
    }
}

/// The members of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members {
    /// One set of voters, or two while a change is under way.
    pub(crate) voters: Vec<BTreeSet<u64>>,
    /// All members, by id. `lag` is not set.
    pub(crate) all: BTreeMap<u64, MemberStatus>,
}

impl Members {
    pub(crate) fn is_voter(&self, id: u64) -> bool {
        self.voters.iter().any(|set| set.contains(&id))
    }

    pub(crate) fn is_joint(&self) -> bool {
        self.voters.len() > 1
    }

    pub(crate) fn voter_ids(&self) -> BTreeSet<u64> {
        self.voters.iter().flatten().copied().collect()
    }
}

/// Why a batch has no replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteError {
    /// It was not taken into the log.
    NotLeader,
    /// It may or may not be applied.
    Unknown,
    /// The node is stopping; the batch was not taken into the log.
    Stopped,
}

/// A batch that was applied.
#[derive(Debug)]
pub(crate) struct Written {
    /// Where it stands in the log.
    pub(crate) index: u64,
    /// One for each command.
    pub(crate) replies: Vec<Reply>,
}

/// Why there is no read index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadIndexError {
    NotLeader,
    NoQuorum,
    Stopped,
}

/// Why a change of members failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChangeError {
    NotLeader,
    /// Nothing was changed.
    Refused(String),
    /// It may or may not take effect.
    Unknown(String),
    Stopped,
}

/// A change of members.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    AddLearner(MemberStatus),
    Promote(u64),
    /// A voter or a learner.
    Remove(u64),
    /// Ends a change that was left half done.
    Settle,
}

/// Positions in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogPositions {
    pub(crate) last: Option<u64>,
    pub(crate) committed: Option<u64>,
    pub(crate) applied: Option<u64>,
    pub(crate) snapshot: Option<u64>,
    pub(crate) purged: Option<u64>,
    /// How far each other member's log is known to match; on the leader only.
    pub(crate) matched: BTreeMap<u64, Option<u64>>,
    /// How long ago each other member was heard of; on the leader only.
    pub(crate) heard: BTreeMap<u64, Duration>,
}

/// What a consensus is made of.
pub(crate) struct Parts {
    pub(crate) node_id: u64,
    pub(crate) cluster: String,
    pub(crate) timing: Timing,
    pub(crate) log: Log,
    pub(crate) state: Arc<State>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) peers: Arc<Peers>,
}

/// The consensus of this node.
pub(crate) struct Consensus {
    raft: Raft,
    log: LogStore,
    progress: Arc<Progress>,
    outgoing: Arc<Outgoing>,
    limits: SendLimits,
    leadership: watch::Receiver<Leadership>,
    ended: watch::Receiver<Option<String>>,
}

fn config(cluster: String, timing: &Timing) -> Result<Config, String> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: cluster,
        heartbeat_interval: millis(timing.heartbeat_interval),
        heartbeat_min_interval: Some(millis(timing.heartbeat_interval) / 2),
        election_timeout_min: millis(timing.election_timeout_min),
        election_timeout_max: millis(timing.election_timeout_max),
        install_snapshot_timeout: millis(timing.snapshot_timeout),
        max_payload_entries: 1024,
        api_channel_size: Some(4096),
        // Each commit is one message to apply. When they are too many, the
        // library's core waits for apply, and this node neither votes nor
        // acknowledges meanwhile: a state engine that stalls for a second would
        // stop the cluster.
        state_machine_channel_size: Some(64 * 1024),
        // Both are decided by bytes, which the library does not count: see
        // `Consensus::checkpoint` and `Consensus::purge`.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        purge_batch_size: 1024,
        enable_pre_vote: Some(true),
        // Breaks the deadlock of a leader that reaches followers which cannot
        // reach it: they would renew its lease for ever.
        quorum_loss_probe_interval: Some(millis(timing.election_timeout_max) * 2),
        // A leader that restarts wins an election before it leads again.
        enable_leader_restore: Some(false),
        backoff: "100ms".to_owned(),
        ..Config::default()
    };
    config.validate().map_err(|error| error.to_string())
}

impl Consensus {
    /// Starts it from what the log and the state contain.
    ///
    /// # Errors
    ///
    /// Says why the log and the state cannot be continued from.
    pub(crate) async fn start(parts: Parts) -> Result<Self, String> {
        let Parts { node_id, cluster, timing, log, state, progress, peers } = parts;
        let config = Arc::new(config(cluster, &timing)?);
        let log = LogStore::new(log);
        let machine = StateMachine::new(state, Arc::clone(&progress));
        let outgoing = Arc::<Outgoing>::default();
        let limits = SendLimits {
            bytes_per_second: timing.snapshot_bytes_per_second,
            silence_max: timing.snapshot_timeout,
        };
        let network = NetworkFactory {
            peers,
            progress: Arc::clone(&progress),
            outgoing: Arc::clone(&outgoing),
            limits,
        };
        let raft = Raft::new(node_id, config, network, log.clone(), machine.clone())
            .await
            .map_err(|error| error.to_string())?;
        machine.started();
        let (leadership, ended) = follow(&raft);
        Ok(Self { raft, log, progress, outgoing, limits, leadership, ended })
    }

    /// The library's own handle, for the service that peers call.
    pub(super) fn raft(&self) -> &Raft {
        &self.raft
    }

    /// How snapshots are sent.
    pub(super) fn send_limits(&self) -> SendLimits {
        self.limits
    }

    /// Who leads, now and whenever it changes.
    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Why the consensus stopped, once it has.
    pub(crate) fn ended(&self) -> watch::Receiver<Option<String>> {
        self.ended.clone()
    }

    /// Puts a batch into the log and returns a future of its replies.
    ///
    /// # Errors
    ///
    /// Only if the consensus has stopped; everything else comes with the
    /// future.
    pub(crate) async fn write(
        &self,
        batch: &[u8],
    ) -> Result<impl Future<Output = Result<Written, WriteError>> + Send + use<>, WriteError> {
        let request = Request { payload: convert::payload_of_batch(batch) };
        let (responder, answer) = OneshotResponder::new_pair();
        self.raft.write(request).responder(responder).await.map_err(|_| WriteError::Stopped)?;
        Ok(async move {
            match answer.await {
                Ok(result) => written(result),
                // Dropped with the core, after it took the request.
                Err(_) => Err(WriteError::Unknown),
            }
        })
    }

    /// Proves that this node leads and returns the entry that a read has to
    /// wait for.
    ///
    /// # Errors
    ///
    /// See [`ReadIndexError`].
    pub(crate) async fn read_index(&self) -> Result<u64, ReadIndexError> {
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(linearizer.read_log_id().index()),
            Err(RaftError::Fatal(_)) => Err(ReadIndexError::Stopped),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => {
                Err(ReadIndexError::NotLeader)
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(ReadIndexError::NoQuorum)
            }
        }
    }

    /// Begins the cluster with these voters. To be called on one node only,
    /// after it is certain that none of them has belonged to a cluster.
    ///
    /// # Errors
    ///
    /// Says why it was refused.
    pub(crate) async fn initialise(&self, members: &[MemberStatus]) -> Result<(), String> {
        let nodes: BTreeMap<u64, Node> =
            members.iter().map(|member| (member.id, node_of(member))).collect();
        self.raft.initialize(nodes).await.map_err(|error| error.to_string())
    }

    /// Changes the members, provided that they are still those of `expected`.
    ///
    /// # Errors
    ///
    /// See [`ChangeError`].
    pub(crate) async fn change(&self, change: Change) -> Result<(), ChangeError> {
        let stored = self.raft.metrics().borrow_watched().membership_config.clone();
        let voters: BTreeSet<u64> = stored.voter_ids().collect();
        let (changes, retain) = match change {
            Change::AddLearner(member) => {
                let node = BTreeMap::from([(member.id, node_of(&member))]);
                (ChangeMembers::AddNodes(node), true)
            }
            Change::Promote(id) => (ChangeMembers::AddVoterIds(BTreeSet::from([id])), true),
            Change::Remove(id) if voters.contains(&id) => {
                (ChangeMembers::RemoveVoters(BTreeSet::from([id])), false)
            }
            Change::Remove(id) => (ChangeMembers::RemoveNodes(BTreeSet::from([id])), true),
            Change::Settle => (ChangeMembers::AddVoterIds(BTreeSet::new()), true),
        };
        let unchanged =
            Precondition::LastMembershipLogId { last_membership_log_id: *stored.log_id() };
        match self.raft.change_membership_if(changes, retain, [unchanged]).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(error)) => Err(change_failed(&error)),
            Err(RaftError::Fatal(_)) => Err(ChangeError::Stopped),
        }
    }

    /// Asks `to` to take over. It refuses nothing: the caller has checked that
    /// `to` is a voter that has caught up.
    ///
    /// # Errors
    ///
    /// Fails if the consensus has stopped.
    pub(crate) async fn transfer(&self, to: u64) -> Result<(), String> {
        self.raft.trigger().transfer_leader(to).await.map_err(|error| error.to_string())
    }

    /// Whether this node stands for election.
    pub(crate) fn set_elects(&self, elects: bool) {
        self.raft.runtime_config().elect(elects);
    }

    /// Bytes of entries appended since the start of the process.
    pub(crate) fn log_written_bytes(&self) -> u64 {
        self.log.written_bytes()
    }

    /// Makes the state durable, in the background, so that the log below it
    /// may go.
    ///
    /// # Errors
    ///
    /// Fails if the consensus has stopped.
    pub(crate) async fn checkpoint(&self) -> Result<(), String> {
        self.raft.trigger().snapshot().await.map_err(|error| error.to_string())
    }

    /// Lets the log go up to the last checkpoint, but for what is kept.
    ///
    /// # Errors
    ///
    /// Fails if the consensus has stopped.
    pub(crate) async fn purge(&self, keep: Keep) -> Result<(), String> {
        let positions = self.positions();
        let Some(snapshot) = positions.snapshot else { return Ok(()) };
        let Some(by_entries) = snapshot.checked_sub(keep.entries) else { return Ok(()) };
        let before = match self.log.index_before(keep.bytes) {
            Some(before) => before,
            // What was written before this process began is not known to the
            // byte; it may stay until it is too much.
            None if self.log.used_bytes() > keep.bytes.saturating_mul(2) => by_entries,
            None => return Ok(()),
        };
        let upto = before.min(by_entries);
        let upto = if self.log.used_bytes() > keep.held_bytes_max {
            upto
        } else {
            self.outgoing.purge_limit(upto, &positions.matched, Instant::now())
        };
        if positions.purged.is_some_and(|purged| purged >= upto) {
            return Ok(());
        }
        self.raft.trigger().purge_log(upto).await.map_err(|error| error.to_string())
    }

    /// Where the log and the members stand.
    pub(crate) fn positions(&self) -> LogPositions {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let index = |id: Option<super::types::LogId>| id.map(|id| id.index);
        let matched = metrics.replication.unwrap_or_default();
        let heard = metrics.heartbeat.unwrap_or_default();
        let heard = heard.into_iter().filter_map(|(id, at)| Some((id, at?.elapsed())));
        LogPositions {
            last: metrics.last_log_index,
            committed: index(metrics.local_committed),
            applied: self.progress.position().index,
            snapshot: index(metrics.snapshot),
            purged: index(metrics.purged),
            heard: heard.collect(),
            matched: matched.into_iter().map(|(id, at)| (id, index(at))).collect(),
        }
    }

    /// Waits until everything that this node may have shown before it
    /// restarted is applied again.
    ///
    /// # Errors
    ///
    /// Fails if the consensus has stopped.
    pub(crate) async fn recovered(&self) -> Result<(), String> {
        self.raft.wait_for_recovery(None).await.map(drop).map_err(|error| error.to_string())
    }

    /// Ends all tasks of the consensus.
    pub(crate) async fn stop(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "consensus did not end cleanly");
        }
    }
}

fn written(result: ClientWriteResult<Types>) -> Result<Written, WriteError> {
    match result {
        Ok(response) => {
            let Response { replies } = response.data;
            Ok(Written { index: response.log_id.index, replies })
        }
        Err(ClientWriteError::ForwardToLeader(_)) => Err(WriteError::NotLeader),
        Err(_) => Err(WriteError::Unknown),
    }
}

fn change_failed(error: &ClientWriteError<Types>) -> ChangeError {
    match error {
        ClientWriteError::ForwardToLeader(_) => ChangeError::NotLeader,
        ClientWriteError::LogEntryDiscarded(_) => ChangeError::Unknown(error.to_string()),
        ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
            ChangeError::Refused(error.to_string())
        }
    }
}

fn node_of(member: &MemberStatus) -> Node {
    Node {
        peer_address: member.peer_address.clone(),
        client_address: member.client_address.clone(),
        labels: member.labels.clone(),
    }
}

fn members_of(stored: &super::types::StoredMembership) -> Members {
    let voters = stored.get_joint_config().clone();
    let voting: BTreeSet<u64> = voters.iter().flatten().copied().collect();
    let member = |(id, node): (&u64, &Node)| {
        let status = MemberStatus {
            id: *id,
            peer_address: node.peer_address.clone(),
            client_address: node.client_address.clone(),
            labels: node.labels.clone(),
            voter: voting.contains(id),
            lag: None,
        };
        (*id, status)
    };
    Members { all: stored.nodes().map(member).collect(), voters }
}

/// Translates what the library tells about leaders and failures.
fn follow(raft: &Raft) -> (watch::Receiver<Leadership>, watch::Receiver<Option<String>>) {
    // These change with the leader and the members, not with each entry.
    let mut source = raft.server_metrics();
    let metrics = raft.metrics();
    let (leadership, leadership_seen) = watch::channel(Leadership::default());
    let (ended, ended_seen) = watch::channel(None);
    let node = *raft.node_id();
    super::runtime::spawn(async move {
        loop {
            let seen = {
                let server = source.borrow_watched();
                let members = Arc::new(members_of(&server.membership_config));
                Leadership {
                    term: server.vote.leader_id.term,
                    role: role_of(server.state, &members, node),
                    leader: server.current_leader,
                    members,
                }
            };
            leadership.send_if_modified(|now| {
                let changed = *now != seen;
                *now = seen;
                changed
            });
            if source.changed().await.is_err() {
                break;
            }
        }
        let failure = metrics.borrow_watched().running_state.clone();
        let text = failure.err().map_or_else(
            || "its core ended without a reason".to_owned(),
            |failure| failure_text(&failure),
        );
        ended.send_replace(Some(text));
    });
    (leadership_seen, ended_seen)
}

fn role_of(state: ServerState, members: &Members, node: u64) -> Role {
    match state {
        ServerState::Leader => Role::Leader,
        ServerState::Candidate => Role::Candidate,
        _ if members.is_voter(node) => Role::Follower,
        _ => Role::Learner,
    }
}

fn failure_text(failure: &Fatal<Types>) -> String {
    match failure {
        Fatal::StorageError(error) => format!("storage failed: {error}"),
        Fatal::Panicked => "its core panicked".to_owned(),
        Fatal::Stopped => "it was stopped".to_owned(),
    }
}
