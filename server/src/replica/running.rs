//! A running replica: its parts, and what the services ask of it.

use super::forwarder::Forwarder;
use super::identity::{DataDir, NodeIdentity};
use super::pace::Pace;
use super::proposer;
use super::reader::{Round, Rounds};
use super::settings::{Entry, ReplicaSettings};
use super::space::Space;
use super::start::{Failure, Failures, Tokens};
use super::waiting::{Admission, Answer};
use super::{bootstrap, upkeep};
use crate::core::{Consistency, CoreStatus, Identity, LeaderHint, ProposeError, ReadError};
use crate::raft::{
    Calls, Consensus, Diverged, Forwarded, LeaderRequests, Leadership, Peers, Progress,
    ReadIndexError, spawn,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use keelstone_store::Revision;
use keelstone_store::disk::log::Log;
use keelstone_store::machine::check::{self, Problem};
use keelstone_store::machine::{Envelope, Outcome, Rejection, Reply, codec};
use keelstone_store::planted::{self, Bug};
use keelstone_store::state::{State, StateView};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a request waits for a leader before it is told that there is none:
/// an election, and a second one.
const LEADER_WAIT: Duration = Duration::from_secs(3);
/// How long one ReadIndex call to the leader may take.
const READ_INDEX_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a read waits for its own state to catch up with the index.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait before asking again after a refusal.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// The parts of a replica.
pub(super) struct Assembly {
    pub(super) settings: ReplicaSettings,
    pub(super) dir: DataDir,
    pub(super) identity: NodeIdentity,
    pub(super) pace: Arc<Pace>,
    pub(super) log: Log,
    pub(super) log_writer: Mutex<Option<std::thread::JoinHandle<()>>>,
    pub(super) state: Arc<State>,
    pub(super) progress: Arc<Progress>,
    pub(super) consensus: Arc<Consensus>,
    pub(super) calls: Arc<Calls>,
    pub(super) peers: Arc<Peers>,
    pub(super) failures: Failures,
    pub(super) tokens: Tokens,
}

/// A replica of the cluster, at work.
pub struct Replica {
    /// Itself, for tasks that it starts.
    me: Weak<Self>,
    pub(super) parts: Assembly,
    pub(super) leadership: watch::Receiver<Leadership>,
    pub(super) space: Space,
    pub(super) stopping: AtomicBool,
    pub(super) drained: AtomicBool,
    /// Members that leadership is kept away from.
    pub(super) drained_members: Mutex<std::collections::BTreeSet<u64>>,
    /// One change of members at a time.
    pub(super) changing: tokio::sync::Mutex<()>,
    pub(super) here: Admission,
    away: Admission,
    indexes: Arc<Rounds<LeaderIndex>>,
    reads: Rounds<ReadRound>,
    pub(super) recovered: watch::Sender<bool>,
}

impl Replica {
    pub(super) fn assemble(parts: Assembly) -> Arc<Self> {
        let settings = &parts.settings;
        let (bytes_max, commands_max) = (settings.waiting_bytes_max, settings.waiting_commands_max);
        let (here, proposals) = Admission::new(bytes_max, commands_max);
        let (away, forwards) = Admission::new(bytes_max, commands_max);
        let metrics = Arc::clone(parts.progress.metrics());
        let (consensus, pace) = (Arc::clone(&parts.consensus), Arc::clone(&parts.pace));
        proposer::start(consensus, pace, metrics, proposals);
        let leadership = parts.consensus.leadership();
        let forwarder = Forwarder {
            calls: Arc::clone(&parts.calls),
            peers: Arc::clone(&parts.peers),
            leadership: leadership.clone(),
        };
        forwarder.start(forwards);
        let consensus = Arc::clone(&parts.consensus);
        let indexes =
            Arc::new(Rounds::start(Arc::new(LeaderIndex { consensus, proof: Mutex::default() })));
        let reads = Rounds::start(Arc::new(ReadRound {
            indexes: Arc::clone(&indexes),
            calls: Arc::clone(&parts.calls),
            peers: Arc::clone(&parts.peers),
            leadership: leadership.clone(),
            progress: Arc::clone(&parts.progress),
            state: Arc::clone(&parts.state),
        }));
        let space = Space::new(parts.log.clone(), parts.settings.disk_reserve_bytes);
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            parts,
            leadership,
            space,
            stopping: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            drained_members: Mutex::default(),
            changing: tokio::sync::Mutex::new(()),
            here,
            away,
            indexes,
            reads,
            recovered: watch::channel(false).0,
        })
    }

    /// Starts what runs in the background. `new`: this node has never held a
    /// log, so that its cluster may have yet to begin.
    pub(super) fn begin(self: &Arc<Self>, new: bool) {
        if new {
            self.begin_cluster();
        }
        self.watch_recovery();
        self.watch_consensus();
        self.count_leaders();
        upkeep::start(self);
    }

    /// Writes the first entry, if that is for this node to do.
    fn begin_cluster(self: &Arc<Self>) {
        let Entry::Form { node_id, members, .. } = &self.parts.settings.entry else { return };
        if members.iter().map(|member| member.id).min() != Some(*node_id) {
            return;
        }
        let (replica, members) = (Arc::clone(self), members.clone());
        spawn(async move {
            let parts = &replica.parts;
            let begin = async {
                if bootstrap::all_ready(&parts.identity, &members, &parts.calls).await {
                    match parts.consensus.initialise(&members).await {
                        Ok(()) => tracing::info!("the cluster begins"),
                        Err(error) => tracing::error!(error, "the cluster could not begin"),
                    }
                }
            };
            tokio::select! {
                () = begin => {}
                () = parts.tokens.stop.cancelled() => {}
            }
        });
    }

    /// Counts how often another leader is seen, or none.
    fn count_leaders(&self) {
        let mut leadership = self.leadership.clone();
        let metrics = Arc::clone(self.parts.progress.metrics());
        let mut last = leadership.borrow_and_update().leader;
        spawn(async move {
            while leadership.changed().await.is_ok() {
                let leader = leadership.borrow_and_update().leader;
                if leader != last {
                    last = leader;
                    metrics.leader_changes.inc();
                }
            }
        });
    }

    fn watch_recovery(self: &Arc<Self>) {
        let replica = Arc::clone(self);
        spawn(async move {
            if replica.parts.consensus.recovered().await.is_ok() {
                tracing::info!(
                    revision = replica.parts.progress.position().revision.get(),
                    "recovered"
                );
                replica.recovered.send_replace(true);
            }
        });
    }

    fn watch_consensus(self: &Arc<Self>) {
        let replica = Arc::clone(self);
        let mut ended = self.parts.consensus.ended();
        let mut failed = self.parts.failures.subscribe();
        spawn(async move {
            tokio::select! {
                ended = ended.wait_for(Option::is_some) => {
                    let reason = match ended {
                        Ok(reason) => reason.clone().unwrap_or_default(),
                        Err(_) => "its core is gone".to_owned(),
                    };
                    if !replica.is_stopping() {
                        replica.parts.failures.report(&format!("consensus ended: {reason}"));
                    }
                }
                failed = failed.wait_for(Option::is_some) => drop(failed),
            }
            // Nothing more is promised or answered; the process ends.
            replica.stopping.store(true, Ordering::Release);
            replica.parts.tokens.stop.cancel();
            replica.parts.tokens.close.cancel();
            replica.parts.consensus.stop().await;
        });
    }

    /// Tells when this replica cannot go on: the process must end, with a code
    /// that makes its supervisor start it again.
    pub fn failure(&self) -> watch::Receiver<Option<Failure>> {
        self.parts.failures.subscribe()
    }

    /// Becomes true when everything that this node may have shown before it
    /// restarted is applied again, so that it serves.
    pub fn recovered(&self) -> watch::Receiver<bool> {
        self.recovered.subscribe()
    }

    /// The state of this node, for backups and metrics.
    pub fn state(&self) -> &Arc<State> {
        &self.parts.state
    }

    /// The log of this node, for metrics.
    pub fn log(&self) -> &Log {
        &self.parts.log
    }

    /// Bytes of commands that wait for a quorum.
    pub fn waiting_bytes(&self) -> u64 {
        self.here.waiting_bytes() + self.away.waiting_bytes()
    }

    pub(super) fn me(&self) -> Arc<Self> {
        self.me.upgrade().expect("its methods are called through an Arc")
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn hint(&self) -> LeaderHint {
        let leadership = self.leadership.borrow();
        let member = leadership.leader.and_then(|id| leadership.members.all.get(&id));
        LeaderHint {
            id: leadership.leader,
            client_address: member.map(|member| member.client_address.clone()),
        }
    }

    pub(super) fn node_id(&self) -> u64 {
        self.parts.identity.node_id
    }

    /// Waits for news of a leader, for a moment at least and until `deadline`
    /// at most.
    async fn pause(&self, deadline: Instant) {
        let mut leadership = self.leadership.clone();
        leadership.mark_unchanged();
        let known = leadership.borrow().leader.is_some();
        let pause = if known { RETRY_PAUSE } else { RETRY_PAUSE * 10 };
        tokio::select! {
            _ = leadership.changed() => {}
            () = tokio::time::sleep_until(deadline.min(Instant::now() + pause)) => {}
        }
    }

    /// Proposes an encoded command once, here or at the leader.
    async fn propose_once(&self, command: &Bytes, deadline: Instant) -> Answer {
        let (leads, leader) = {
            let leadership = self.leadership.borrow();
            (leadership.leads(), leadership.leader)
        };
        if leads {
            if self.space.refuses(command) {
                return Answer::NoSpace(Some(self.space.bytes()));
            }
            self.here.submit(command.clone(), deadline).await
        } else if leader.is_some_and(|id| id != self.node_id()) {
            self.away.submit(command.clone(), deadline).await
        } else {
            Answer::NotLeader
        }
    }

    pub(super) async fn propose_encoded(
        &self,
        command: Bytes,
        deadline: Instant,
    ) -> Result<Reply, ProposeError> {
        let patience = deadline.min(Instant::now() + LEADER_WAIT);
        loop {
            if self.is_stopping() {
                return Err(ProposeError::Stopping);
            }
            let answer = self.propose_once(&command, deadline).await;
            match answer {
                Answer::Replied(reply) => return Ok(reply),
                Answer::NotLeader if Instant::now() < patience => self.pause(patience).await,
                Answer::NotLeader => return Err(ProposeError::NotLeader(self.hint())),
                Answer::Stopped => return Err(ProposeError::Stopping),
                Answer::Unknown(reason) => return Err(ProposeError::Unknown(reason)),
                Answer::Overloaded => {
                    let (waiting_bytes, limit_bytes) =
                        (self.waiting_bytes(), self.here.limit_bytes());
                    return Err(ProposeError::Overloaded { waiting_bytes, limit_bytes });
                }
                Answer::NoSpace(Some((free_bytes, reserve_bytes))) => {
                    return Err(ProposeError::NoSpace { free_bytes, reserve_bytes });
                }
                Answer::NoSpace(None) => return Err(ProposeError::NoSpaceAtLeader),
            }
        }
    }

    /// Refuses what must not reach the log.
    fn checked(&self, envelope: &Envelope) -> Result<Option<Reply>, ProposeError> {
        let Err(violation) = check::envelope(envelope) else { return Ok(None) };
        match violation.problem {
            Problem::TooLarge => Err(ProposeError::TooLarge {
                field: violation.field,
                actual: violation.actual,
                limit: violation.limit,
            }),
            // Apply would say the same; it need not be asked.
            Problem::Malformed(_) => {
                let revision = self.parts.progress.position().revision;
                let outcome = Outcome::Rejected(Rejection::from(violation));
                Ok(Some(Reply { revision, outcome }))
            }
        }
    }

    pub(super) async fn propose_envelope(
        &self,
        envelope: &Envelope,
        deadline: Instant,
    ) -> Result<Reply, ProposeError> {
        if let Some(refusal) = self.checked(envelope)? {
            return Ok(refusal);
        }
        let command = codec::encode_envelope(envelope);
        if let Err(violation) = check::encoded_bytes(command.len()) {
            let (field, actual, limit) = (violation.field, violation.actual, violation.limit);
            return Err(ProposeError::TooLarge { field, actual, limit });
        }
        self.propose_encoded(command, deadline).await
    }

    pub(super) async fn read_view(
        &self,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<StateView, ReadError> {
        if self.is_stopping() {
            return Err(ReadError::Stopping);
        }
        self.wait_recovered(deadline).await?;
        match consistency {
            Consistency::Serializable => {
                self.parts.state.view().map_err(|error| ReadError::Failed(error.to_string()))
            }
            Consistency::Linearizable => self.read_linearizable(deadline).await,
        }
    }

    async fn wait_recovered(&self, deadline: Instant) -> Result<(), ReadError> {
        if *self.recovered.borrow() {
            return Ok(());
        }
        let mut recovered = self.recovered.subscribe();
        match tokio::time::timeout_at(deadline, recovered.wait_for(|recovered| *recovered)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopping),
            Err(_elapsed) => Err(ReadError::NoQuorum(self.hint())),
        }
    }

    async fn read_linearizable(&self, deadline: Instant) -> Result<StateView, ReadError> {
        let patience = deadline.min(Instant::now() + LEADER_WAIT);
        loop {
            if self.is_stopping() {
                return Err(ReadError::Stopping);
            }
            match tokio::time::timeout_at(deadline, self.reads.join()).await {
                Ok(Some(Ok(view))) => return Ok(view),
                Ok(Some(Err(RoundError::Failed(error)))) => {
                    return Err(ReadError::Failed(error.to_string()));
                }
                Ok(Some(Err(RoundError::Again))) if Instant::now() < patience => {
                    self.pause(patience).await;
                }
                Ok(_) | Err(_) => return Err(ReadError::NoQuorum(self.hint())),
            }
        }
    }

    pub(super) async fn applied_revision(
        &self,
        revision: Revision,
        deadline: Instant,
    ) -> Result<(), ReadError> {
        let mut position = self.parts.progress.subscribe();
        let applied = position.wait_for(|position| position.revision >= revision);
        match tokio::time::timeout_at(deadline, applied).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopping),
            Err(_elapsed) => Err(ReadError::NoQuorum(self.hint())),
        }
    }

    pub(super) fn core_identity(&self) -> Identity {
        let NodeIdentity { cluster_id, node_id, .. } = self.parts.identity;
        Identity { cluster_id, node_id }
    }

    pub(super) fn core_status(&self) -> CoreStatus {
        let leadership = self.leadership.borrow().clone();
        let positions = self.parts.consensus.positions();
        let mut problems = Vec::new();
        if let Some(failure) = self.parts.failures.subscribe().borrow().as_ref() {
            problems.push(failure.to_string());
        }
        if !*self.recovered.borrow() {
            problems.push("this node has not recovered yet".to_owned());
        }
        if self.drained.load(Ordering::Acquire) {
            problems.push("this node is drained: it does not lead".to_owned());
        }
        if leadership.members.is_joint() {
            problems.push("a change of members is under way".to_owned());
        }
        CoreStatus {
            term: leadership.term,
            role: leadership.role.name(),
            leader: leadership.leader,
            last_log_index: positions.last.unwrap_or(0),
            committed_index: positions.committed.unwrap_or(0),
            applied_index: positions.applied.unwrap_or(0),
            snapshot_index: positions.snapshot.unwrap_or(0),
            purged_index: positions.purged.unwrap_or(0),
            log_bytes: self.parts.log.size_bytes(),
            problems,
        }
    }
}

#[async_trait]
impl LeaderRequests for Replica {
    async fn read_index(&self) -> Result<u64, ReadIndexError> {
        self.indexes.join().await.unwrap_or(Err(ReadIndexError::Stopped))
    }

    async fn propose_here(&self, commands: Vec<Bytes>, timeout: Duration) -> Vec<Forwarded> {
        let deadline = Instant::now() + timeout;
        let propose = commands.into_iter().map(async |command| {
            if self.is_stopping() || !self.leadership.borrow().leads() {
                return Forwarded::NotLeader(self.leader());
            }
            if self.space.refuses(&command) {
                return Forwarded::NoSpace;
            }
            match self.here.submit(command, deadline).await {
                Answer::Replied(reply) => Forwarded::Replied(reply),
                Answer::NotLeader | Answer::Stopped => Forwarded::NotLeader(self.leader()),
                Answer::Overloaded => Forwarded::Overloaded,
                Answer::NoSpace(_) => Forwarded::NoSpace,
                Answer::Unknown(_) => Forwarded::Unknown,
            }
        });
        futures::future::join_all(propose).await
    }

    fn leader(&self) -> Option<u64> {
        self.leadership.borrow().leader
    }

    fn set_drained(&self, drained: bool) {
        self.drain_here(drained);
    }

    fn has_room(&self) -> bool {
        self.space.takes_entries()
    }

    fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Acquire)
    }

    fn diverged(&self, diverged: Diverged) {
        self.parts.failures.report(&diverged.to_string());
    }
}

/// A proof of leadership, on the leader.
struct LeaderIndex {
    consensus: Arc<Consensus>,
    /// For [`Bug::ReuseReadIndex`]: the newest proof and when it was made.
    proof: Mutex<Option<(Instant, u64)>>,
}

impl LeaderIndex {
    /// The planted bug: a proof of the last second.
    fn reused(&self) -> Option<u64> {
        let proof = *self.proof.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = proof.filter(|(at, _)| at.elapsed() < Duration::from_secs(1));
        fresh.filter(|_| planted::is(Bug::ReuseReadIndex)).map(|(_, index)| index)
    }
}

impl Round for LeaderIndex {
    type Output = Result<u64, ReadIndexError>;

    fn begin(self: Arc<Self>) -> BoxFuture<'static, Self::Output> {
        Box::pin(async move {
            if let Some(index) = self.reused() {
                return Ok(index);
            }
            let index = self.consensus.read_index().await?;
            if planted::is(Bug::ReuseReadIndex) {
                let mut proof = self.proof.lock().unwrap_or_else(PoisonError::into_inner);
                *proof = Some((Instant::now(), index));
            }
            Ok(index)
        })
    }
}

/// Why a round has no view.
#[derive(Clone, Debug)]
enum RoundError {
    /// Another round may have one.
    Again,
    /// The state cannot be read.
    Failed(Arc<str>),
}

/// A read index from whoever leads, and a state that contains it.
struct ReadRound {
    indexes: Arc<Rounds<LeaderIndex>>,
    calls: Arc<Calls>,
    peers: Arc<Peers>,
    leadership: watch::Receiver<Leadership>,
    progress: Arc<Progress>,
    state: Arc<State>,
}

impl ReadRound {
    async fn index(&self) -> Result<u64, ReadIndexError> {
        let leader = {
            let leadership = self.leadership.borrow();
            if leadership.leads() {
                None
            } else {
                let leader = leadership.leader.and_then(|id| leadership.members.all.get(&id));
                let leader = leader.ok_or(ReadIndexError::NotLeader)?;
                Some((leader.id, leader.peer_address.clone()))
            }
        };
        match leader {
            None if planted::is(Bug::ReadWithoutIndex) => Ok(0),
            None => self.indexes.join().await.unwrap_or(Err(ReadIndexError::Stopped)),
            Some((id, address)) => {
                let target = (id, address.as_str());
                self.calls.read_index(&self.peers, target, READ_INDEX_TIMEOUT).await
            }
        }
    }

    async fn view(&self) -> Result<StateView, RoundError> {
        let index = self.index().await.map_err(|_| RoundError::Again)?;
        let mut position = self.progress.subscribe();
        let applied = position.wait_for(|position| position.index >= Some(index));
        match tokio::time::timeout(CATCH_UP_TIMEOUT, applied).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return Err(RoundError::Again),
        }
        self.state.view().map_err(|error| RoundError::Failed(error.to_string().into()))
    }
}

impl Round for ReadRound {
    type Output = Result<StateView, RoundError>;

    fn begin(self: Arc<Self>) -> BoxFuture<'static, Self::Output> {
        self.progress.metrics().read_rounds.inc();
        Box::pin(async move { self.view().await })
    }
}
