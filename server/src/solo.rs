//! A core without replicas: the state machine over a state in memory.
//!
//! It applies each command at once, as a cluster of one would, with everything
//! above [`Core`] unchanged. Tests of services run on it, and can make it
//! refuse, lose its memory of changes, or have its state replaced. It is not a
//! way to run a node: nothing is durable.

use crate::changes::ChangeLog;
use crate::core::{
    AdminError, Consistency, Core, CoreStatus, Identity, LeaderHint, MemberStatus, ProposeError,
    ReadError,
};
use async_trait::async_trait;
use keelstone_store::disk::LogId;
use keelstone_store::machine::{Command, Envelope, Reply, View as _, codec};
use keelstone_store::state::{Payload, State, StateView};
use keelstone_store::{Millis, Revision};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of recent changes kept in memory, if not said otherwise.
const CHANGES_BYTES: usize = 1024 * 1024;

/// A core without replicas.
pub struct Solo {
    state: Arc<State>,
    changes: Arc<ChangeLog>,
    applying: Mutex<Applying>,
    reads: Mutex<Option<ReadError>>,
}

struct Applying {
    index: u64,
    now: Millis,
    refusal: Option<ProposeError>,
    leader: Option<u64>,
    deadline: Option<Instant>,
}

impl Solo {
    /// An empty store with the cluster id `[7; 16]`.
    pub fn new() -> Arc<Self> {
        Self::with_changes_bytes(CHANGES_BYTES)
    }

    /// Like [`new`](Self::new), with this much memory for recent changes.
    pub fn with_changes_bytes(bytes: usize) -> Arc<Self> {
        Self::with_history([7; 16], bytes)
    }

    /// Like [`with_changes_bytes`](Self::with_changes_bytes), in this history.
    pub fn with_history(history: [u8; 16], bytes: usize) -> Arc<Self> {
        let state = State::in_memory();
        state.format(history).expect("a state in memory can be formatted");
        let revision = state.view().expect("a state in memory can be read").head().revision;
        Arc::new(Self {
            state: Arc::new(state),
            changes: Arc::new(ChangeLog::new(revision, bytes)),
            applying: Mutex::new(Applying {
                index: 0,
                now: Millis(1_000_000),
                refusal: None,
                leader: Some(1),
                deadline: None,
            }),
            reads: Mutex::new(None),
        })
    }

    /// Lets this much time pass.
    pub fn pass(&self, time: Duration) {
        let mut applying = self.applying();
        applying.now = applying.now.plus(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    }

    /// Refuses every proposal from now on, or accepts them again.
    pub fn refuse(&self, refusal: Option<ProposeError>) {
        self.applying().refusal = refusal;
    }

    /// Says from now on who leads; this node is 1.
    pub fn lead(&self, leader: Option<u64>) {
        self.applying().leader = leader;
    }

    /// The deadline that the last proposal came with.
    pub fn last_deadline(&self) -> Option<Instant> {
        self.applying().deadline
    }

    /// Refuses linearizable reads from now on, or serves them again.
    pub fn refuse_reads(&self, refusal: Option<ReadError>) {
        *self.reads.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
    }

    /// The state below.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Applies a command that has no place in a session.
    ///
    /// # Errors
    ///
    /// As told to [`refuse`](Self::refuse).
    pub fn apply_command(&self, command: Command) -> Result<Reply, ProposeError> {
        self.apply(&Envelope { write_id: None, command })
    }

    /// Applies a command at once.
    ///
    /// # Errors
    ///
    /// As told to [`refuse`](Self::refuse).
    pub fn apply(&self, command: &Envelope) -> Result<Reply, ProposeError> {
        let mut applying = self.applying();
        if let Some(refusal) = &applying.refusal {
            return Err(refusal.clone());
        }
        applying.index += 1;
        let batch = codec::encode_batch(applying.now, &[codec::encode_envelope(command)]);
        let id = LogId { term: 1, index: applying.index, leader: 1 };
        let mut entries = self
            .state
            .apply(&[(id, Payload::Batch(batch))])
            .expect("a state in memory can be applied to");
        let entry = entries.pop().expect("one entry was applied");
        self.changes.append(entry.events, entry.head.revision);
        Ok(entry.replies.into_iter().next().expect("one command was applied"))
    }

    /// Replaces the state by that of `other`, which must have applied at least
    /// as much, as a snapshot install does.
    pub fn install_from(&self, other: &Self) {
        let mut applying = self.applying();
        let mut snapshot = other.state.snapshot().expect("a state in memory can be read");
        let (applied, head) = snapshot.header();
        let revision = head.revision;
        let mut writer =
            self.state.begin_install(applied, head).expect("the other has applied as much");
        while let Some(chunk) = snapshot.next_chunk().expect("a state in memory can be read") {
            writer.write(chunk).expect("the chunk was just read");
        }
        let finished = writer.finish(&snapshot.trailer()).expect("all chunks were written");
        self.state.install(finished).expect("nothing was applied meanwhile");
        applying.index = other.applying().index;
        self.changes.reset(revision);
    }

    /// Removes what was compacted from the tables.
    pub fn remove_compacted(&self) {
        while self.state.compact_step(1000).expect("a state in memory can be compacted") {}
    }

    fn applying(&self) -> MutexGuard<'_, Applying> {
        self.applying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused() -> AdminError {
        AdminError::Refused {
            reason: "this store has no other replicas".to_owned(),
            remedy: "run a cluster".to_owned(),
        }
    }
}

#[async_trait]
impl Core for Solo {
    fn identity(&self) -> Identity {
        Identity { cluster_id: [7; 16], node_id: 1 }
    }

    fn status(&self) -> CoreStatus {
        let Applying { index, leader, .. } = *self.applying();
        CoreStatus {
            term: 1,
            role: if leader == Some(1) { "leader" } else { "follower" },
            leader,
            last_log_index: index,
            committed_index: index,
            applied_index: index,
            ..CoreStatus::default()
        }
    }

    fn leader_hint(&self) -> LeaderHint {
        LeaderHint { id: Some(1), client_address: Some("127.0.0.1:1".to_owned()) }
    }

    async fn propose(&self, command: Envelope, deadline: Instant) -> Result<Reply, ProposeError> {
        self.applying().deadline = Some(deadline);
        self.apply(&command)
    }

    async fn read(
        &self,
        consistency: Consistency,
        _deadline: Instant,
    ) -> Result<StateView, ReadError> {
        let refusal = self.reads.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let (Consistency::Linearizable, Some(refusal)) = (consistency, refusal) {
            return Err(refusal);
        }
        self.state.view().map_err(|error| ReadError::Failed(error.to_string()))
    }

    async fn wait_applied(&self, _revision: Revision, _deadline: Instant) -> Result<(), ReadError> {
        Ok(())
    }

    fn members(&self) -> Vec<MemberStatus> {
        vec![MemberStatus {
            id: 1,
            peer_address: String::new(),
            client_address: "127.0.0.1:1".to_owned(),
            labels: BTreeMap::new(),
            voter: true,
            lag: None,
        }]
    }

    async fn add_member(
        &self,
        _member: MemberStatus,
        _promote: bool,
        _timeout: Duration,
    ) -> Result<u64, AdminError> {
        Err(Self::refused())
    }

    async fn promote_member(
        &self,
        _id: u64,
        _force: bool,
        _timeout: Duration,
    ) -> Result<(), AdminError> {
        Err(Self::refused())
    }

    async fn remove_member(
        &self,
        _id: u64,
        _force: bool,
        _timeout: Duration,
    ) -> Result<(), AdminError> {
        Err(Self::refused())
    }

    async fn transfer_leader(&self, _to: Option<u64>, _: Duration) -> Result<u64, AdminError> {
        Err(Self::refused())
    }

    async fn drain_member(&self, _id: u64, _undo: bool, _: Duration) -> Result<(), AdminError> {
        Err(Self::refused())
    }

    fn changes(&self) -> Arc<ChangeLog> {
        self.changes.clone()
    }
}
