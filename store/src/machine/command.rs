//! Commands: everything that can be asked of the state machine.

use crate::{Key, KeyRange, LeaseId, Millis, Revision, SessionId};
use bytes::Bytes;
use std::fmt;

/// The commands of one log entry, in order, with the leader's time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The leader's clock when it packed the batch.
    pub now: Millis,
    /// At most [`BATCH_COMMANDS_MAX`](crate::limits::BATCH_COMMANDS_MAX).
    pub commands: Vec<Envelope>,
}

/// A command, and the place in a session that makes it apply once.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// Absent: the write has no identity and a retry may apply it twice.
    pub write_id: Option<WriteId>,
    /// What to do.
    pub command: Command,
}

/// The place of a write in a client session.
///
/// Every reply is remembered under it, with one exception: that of a
/// transaction that failed for good, which is one whose `otherwise` is empty and
/// that has a failed compare of the form "modified equals r", on a single key,
/// with r above zero and not above the store's revision. A key's modification
/// revision never returns to a number that it has left, so the same
/// transaction fails whenever it is applied again: there is nothing to
/// remember, and its planner may plan anew under the same write id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteId {
    /// The session.
    pub session: SessionId,
    /// Counts from 1.
    pub sequence: u64,
    /// Replies of lower sequences were received and may be forgotten.
    pub acked_below: u64,
}

/// What to do. See the state machine's `apply` for what each command means.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Compares, then one of two branches.
    Txn(Txn),
    /// Begins a lease. The leader has chosen the id.
    LeaseGrant {
        /// Positive and not in use.
        id: LeaseId,
        /// Within the limits; raised to the least.
        ttl_ms: u64,
    },
    /// Gives leases their full time again.
    LeaseRenew {
        /// At most [`LEASE_RENEW_MAX`](crate::limits::LEASE_RENEW_MAX).
        ids: Vec<LeaseId>,
    },
    /// Ends a lease and deletes its keys, at one revision.
    LeaseRevoke {
        /// The lease.
        id: LeaseId,
    },
    /// Ends leases that ran out. Names the expiry time that the leader saw: a
    /// lease that was renewed since has another one and is left alone.
    LeaseExpire {
        /// At most [`LEASE_EXPIRE_MAX`](crate::limits::LEASE_EXPIRE_MAX).
        leases: Vec<(LeaseId, Millis)>,
    },
    /// Forgets history below `revision`.
    Compact {
        /// Above the last compaction, at most the store's revision.
        revision: Revision,
    },
    /// Begins a session. The leader has chosen the id.
    SessionOpen {
        /// Not in use.
        id: SessionId,
        /// How long it is remembered while idle.
        ttl_ms: u64,
    },
    /// Ends a session.
    SessionClose {
        /// The session.
        id: SessionId,
    },
    /// Ends idle sessions, as [`Command::LeaseExpire`] does leases.
    SessionExpire {
        /// Sessions and the expiry times that the leader saw.
        sessions: Vec<(SessionId, Millis)>,
    },
    /// Raises the level of features that all replicas may use.
    FeatureLevel {
        /// Never lowers the level in force.
        level: u32,
    },
}

impl Command {
    /// The command's name, for spans and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Txn(_) => "txn",
            Self::LeaseGrant { .. } => "lease_grant",
            Self::LeaseRenew { .. } => "lease_renew",
            Self::LeaseRevoke { .. } => "lease_revoke",
            Self::LeaseExpire { .. } => "lease_expire",
            Self::Compact { .. } => "compact",
            Self::SessionOpen { .. } => "session_open",
            Self::SessionClose { .. } => "session_close",
            Self::SessionExpire { .. } => "session_expire",
            Self::FeatureLevel { .. } => "feature_level",
        }
    }
}

/// Compares, then the operations of one branch, all at one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Txn {
    /// All must hold for `then`.
    pub compares: Vec<Compare>,
    /// Done if all compares hold.
    pub then: Vec<Op>,
    /// Done otherwise.
    pub otherwise: Vec<Op>,
}

impl Txn {
    /// Whether no branch can write.
    pub fn is_read_only(&self) -> bool {
        let reads = |op: &Op| match op {
            Op::Range(_) => true,
            Op::Txn(txn) => txn.is_read_only(),
            Op::Put(_) | Op::Delete(_) => false,
        };
        self.then.iter().all(reads) && self.otherwise.iter().all(reads)
    }
}

/// A condition on every key of a range.
///
/// An absent key compares as one with zero revisions, version and lease; a
/// compare of its value fails. An empty range compares once, as an absent key.
#[derive(Clone, Debug, PartialEq)]
pub struct Compare {
    /// The keys.
    pub range: KeyRange,
    /// How the key's property must relate to the target.
    pub relation: Relation,
    /// The property and what it is compared with.
    pub target: Target,
}

/// How a property relates to its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// They are equal.
    Equal,
    /// The property is greater.
    Greater,
    /// The property is less.
    Less,
    /// They differ.
    NotEqual,
}

/// A property of a key and what it is compared with.
#[derive(Clone, PartialEq, Eq)]
pub enum Target {
    /// The revision at which the key was created.
    Created(Revision),
    /// The revision of its last put.
    Modified(Revision),
    /// Its version.
    Version(u64),
    /// Its value.
    Value(Bytes),
    /// Its lease.
    Lease(LeaseId),
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created(revision) => write!(f, "Created({revision})"),
            Self::Modified(revision) => write!(f, "Modified({revision})"),
            Self::Version(version) => write!(f, "Version({version})"),
            Self::Value(value) => write!(f, "Value({} bytes)", value.len()),
            Self::Lease(lease) => write!(f, "Lease({})", lease.0),
        }
    }
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Writes one key.
    Put(Put),
    /// Deletes the keys of a range.
    Delete(Delete),
    /// Reads the keys of a range.
    Range(Range),
    /// A transaction in the transaction. Its compares see the state before the
    /// outermost one.
    Txn(Txn),
}

/// Writes one key.
#[derive(Clone, PartialEq, Eq)]
pub struct Put {
    /// The key.
    pub key: Key,
    /// The new value; empty with `ignore_value`.
    pub value: Bytes,
    /// The lease to attach, or none; none with `ignore_lease`.
    pub lease: LeaseId,
    /// Answer with the record before.
    pub previous: bool,
    /// Keep the value that the key has; it must exist.
    pub ignore_value: bool,
    /// Keep the lease that the key has; it must exist.
    pub ignore_lease: bool,
}

impl Put {
    /// A put of `value` under `key`, without lease.
    pub fn new(key: Key, value: Bytes) -> Self {
        let lease = LeaseId::NONE;
        Self { key, value, lease, previous: false, ignore_value: false, ignore_lease: false }
    }
}

impl fmt::Debug for Put {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Put({:?}, {} bytes, lease {})", self.key, self.value.len(), self.lease.0)
    }
}

/// Deletes the keys of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// The keys.
    pub range: KeyRange,
    /// Answer with the records deleted.
    pub previous: bool,
}

/// Reads the keys of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The keys.
    pub range: KeyRange,
    /// [`Revision::ZERO`]: what the transaction sees, its own writes included.
    pub revision: Revision,
    /// Zero: no limit but the response's.
    pub limit: u64,
    /// Leave the values out.
    pub keys_only: bool,
    /// Answer with the count alone.
    pub count_only: bool,
}

impl Range {
    /// All of `range` as the reader sees it.
    pub fn all(range: KeyRange) -> Self {
        let revision = Revision::ZERO;
        Self { range, revision, limit: 0, keys_only: false, count_only: false }
    }
}
