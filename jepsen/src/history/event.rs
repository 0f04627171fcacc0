//! One line of a history, and the operations that it can tell of.
//!
//! In all operations a field that is an `Option` is part of the reply: absent in
//! the invocation, and in completions that are not `ok`.

use super::{KeyValue, Txn, Watch};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::collections::BTreeMap;
use std::fmt;

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// From 0, without gaps.
    pub index: u64,
    /// Nanoseconds since the start, on one monotonic clock.
    pub time: u64,
    /// Who.
    pub process: Process,
    /// Begin or end.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// What, in a completion with the reply.
    #[serde(flatten)]
    pub op: Op,
    /// The node that was asked, or that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<u64>,
    /// Why it failed or is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Who does operations, one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Process {
    /// A client; not used again after an unknown outcome.
    Client(u64),
    /// What makes the faults.
    Nemesis,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(number) => write!(f, "{number}"),
            Self::Nemesis => f.write_str("nemesis"),
        }
    }
}

impl Serialize for Process {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Client(number) => serializer.serialize_u64(*number),
            Self::Nemesis => serializer.serialize_str("nemesis"),
        }
    }
}

impl<'de> Deserialize<'de> for Process {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Wire {
            Number(u64),
            Name(String),
        }
        match Wire::deserialize(deserializer)? {
            Wire::Number(number) => Ok(Self::Client(number)),
            Wire::Name(name) if name == "nemesis" => Ok(Self::Nemesis),
            Wire::Name(_) => Err(de::Error::custom("a process is a number or \"nemesis\"")),
        }
    }
}

/// Whether an event begins or ends something, and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It is about to be asked.
    Invoke,
    /// It happened.
    Ok,
    /// It did not happen and never will.
    Fail,
    /// Nobody knows: it may have happened, or may still happen, or never.
    Info,
}

/// What was asked or done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "f", content = "value", rename_all = "kebab-case")]
pub enum Op {
    /// Any operation on raw keys.
    Txn(Txn),
    /// A watch, or a response of one.
    Watch(Watch),
    /// Forget history below a revision.
    Compact {
        /// The oldest revision that can still be read.
        revision: u64,
    },
    /// Begin a lease.
    LeaseGrant(LeaseGrant),
    /// Give a lease its full time again.
    LeaseRenew(LeaseRenew),
    /// End a lease.
    LeaseRevoke(LeaseRevoke),
    /// Ask for the time that a lease has left.
    LeaseTtl(LeaseTtl),
    /// Become the holder of a lock.
    LockAcquire(LockAcquire),
    /// Give a lock back.
    LockRelease(LockRelease),
    /// Write to the harness's own resource, which checks fencing tokens.
    ResourceWrite(ResourceWrite),
    /// Read the harness's own resource.
    ResourceRead(ResourceRead),
    /// Add to a counter, with retries.
    CounterAdd(CounterAdd),
    /// Read a counter.
    CounterRead(CounterRead),
    /// Add a job.
    Enqueue(Enqueue),
    /// Take a job.
    Claim(Claim),
    /// Complete a job that was taken.
    Finish(Finish),
    /// Change one section of a document.
    EntityPatch(EntityPatch),
    /// Read a document.
    EntityRead(EntityRead),
    /// Set a configuration value.
    ConfigSet(ConfigSet),
    /// Read a configuration value.
    ConfigGet(ConfigGet),
    /// Take a backup.
    Backup(Backup),
    /// Restore a backup into another cluster and read it.
    Restore(BackupRestore),
    /// Change who belongs to the cluster.
    MemberChange(MemberChange),
    /// Ask a node who belongs to the cluster.
    MemberView(MemberView),
    /// Ask a node for the hash of its state.
    StateHash(StateHash),
    /// A fault begins or ends.
    Nemesis(Fault),
}

impl Op {
    /// The word that stands in `f`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Txn(_) => "txn",
            Self::Watch(_) => "watch",
            Self::Compact { .. } => "compact",
            Self::LeaseGrant(_) => "lease-grant",
            Self::LeaseRenew(_) => "lease-renew",
            Self::LeaseRevoke(_) => "lease-revoke",
            Self::LeaseTtl(_) => "lease-ttl",
            Self::LockAcquire(_) => "lock-acquire",
            Self::LockRelease(_) => "lock-release",
            Self::ResourceWrite(_) => "resource-write",
            Self::ResourceRead(_) => "resource-read",
            Self::CounterAdd(_) => "counter-add",
            Self::CounterRead(_) => "counter-read",
            Self::Enqueue(_) => "enqueue",
            Self::Claim(_) => "claim",
            Self::Finish(_) => "finish",
            Self::EntityPatch(_) => "entity-patch",
            Self::EntityRead(_) => "entity-read",
            Self::ConfigSet(_) => "config-set",
            Self::ConfigGet(_) => "config-get",
            Self::Backup(_) => "backup",
            Self::Restore(_) => "restore",
            Self::MemberChange(_) => "member-change",
            Self::MemberView(_) => "member-view",
            Self::StateHash(_) => "state-hash",
            Self::Nemesis(_) => "nemesis",
        }
    }
}

/// Declares the operations that are plain records: a request, and a reply that
/// is absent until it is known.
macro_rules! records {
    ($($(#[$about:meta])* $name:ident {
        $($(#[$field_about:meta])* $field:ident: $type:ty,)*
        $(=> $($(#[$reply_about:meta])* $reply:ident: $reply_type:ty,)*)?
    })*) => {$(
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        pub struct $name {
            $($(#[$field_about])* pub $field: $type,)*
            $($(
                $(#[$reply_about])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $reply: Option<$reply_type>,
            )*)?
        }
    )*};
}

records! {
    /// A lease that was asked for.
    LeaseGrant {
        /// Its number; in the invocation 0 if the store chooses.
        lease: u64,
        /// The time to live that was asked for, in milliseconds.
        ttl_ms: u64,
        =>
        /// The time to live that was granted, in milliseconds.
        granted_ms: u64,
    }
    /// A renewal.
    LeaseRenew {
        /// The lease.
        lease: u64,
        =>
        /// The time that it has again, in milliseconds; 0: there is no such lease.
        ttl_ms: u64,
    }
    /// A revocation. One of a lease that does not exist is a `fail`.
    LeaseRevoke {
        /// The lease.
        lease: u64,
        =>
        /// The store's revision after it: its own if the lease had keys.
        revision: u64,
    }
    /// A question for the time left.
    LeaseTtl {
        /// The lease.
        lease: u64,
        =>
        /// Whether there is such a lease.
        found: bool,
        /// What is left, in milliseconds.
        remaining_ms: u64,
    }
    /// A try to become the holder; `ok` when it is, `fail` when it is not.
    LockAcquire {
        /// The lock.
        lock: String,
        /// Who asks; unique.
        owner: String,
        /// The lease that the holder's key is attached to.
        lease: u64,
        =>
        /// The fencing token: the revision that created the holder's key.
        token: u64,
    }
    /// The holder gives the lock back.
    LockRelease {
        /// The lock.
        lock: String,
        /// Who held it.
        owner: String,
        /// Its fencing token.
        token: u64,
    }
    /// A write to the harness's own resource, which refuses a token below the
    /// greatest that it has seen.
    ResourceWrite {
        /// The resource: the name of the lock that protects it.
        resource: String,
        /// The writer's fencing token.
        token: u64,
        /// What is written; unique.
        value: String,
        /// What the writer has read before, so that a lost update shows.
        seen: Option<String>,
        =>
        /// Whether the resource took it.
        accepted: bool,
    }
    /// What the harness's own resource has.
    ResourceRead {
        /// The resource.
        resource: String,
        =>
        /// The value; empty if there is none.
        value: String,
    }
    /// An addition, sent again under one identity until its outcome is known.
    CounterAdd {
        /// The counter.
        counter: String,
        /// What is added, above 0.
        delta: u64,
        /// The session, and the sequence in it.
        write_id: Option<(u64, u64)>,
        =>
        /// The counter afterwards, if the reply tells.
        total: u64,
        /// The store's revision after it.
        revision: u64,
    }
    /// A linearizable read of a counter.
    CounterRead {
        /// The counter.
        counter: String,
        =>
        /// What it had.
        total: u64,
        /// The store's revision.
        revision: u64,
    }
    /// A new job.
    Enqueue {
        /// The queue.
        queue: String,
        /// The job; unique.
        job: String,
        =>
        /// The revision that made it.
        revision: u64,
    }
    /// A worker takes a job: the one that it names, or any.
    Claim {
        /// The queue.
        queue: String,
        /// The worker; unique to a life of it.
        worker: String,
        /// The lease that the claim ends with.
        lease: u64,
        =>
        /// The job that it got.
        job: String,
        /// The claim's fencing token: the revision that made it.
        token: u64,
    }
    /// A worker completes a job, guarded by its claim.
    Finish {
        /// The queue.
        queue: String,
        /// The job.
        job: String,
        /// The worker.
        worker: String,
        /// Its claim's token.
        token: u64,
        =>
        /// Whether the store took it; `false` if the claim was gone.
        accepted: bool,
        /// The store's revision after it.
        revision: u64,
    }
    /// A merge patch of one section of one document.
    EntityPatch {
        /// The document.
        entity: String,
        /// The section, which one writer owns or several fight for.
        section: String,
        /// What the section has afterwards; unique.
        content: String,
        =>
        /// The revision that did it.
        revision: u64,
    }
    /// A linearizable read of a document.
    EntityRead {
        /// The document.
        entity: String,
        =>
        /// Each section's content.
        sections: BTreeMap<String, String>,
        /// The document's revision.
        revision: u64,
    }
    /// A configuration value is set.
    ConfigSet {
        /// The path.
        path: String,
        /// The value; unique.
        value: String,
        /// The revision that it must be at; 0: it must be absent; none: whatever.
        if_revision: Option<u64>,
        =>
        /// The revision that did it.
        revision: u64,
    }
    /// A linearizable read of a configuration value.
    ConfigGet {
        /// The path.
        path: String,
        =>
        /// Whether there is one.
        found: bool,
        /// The value, if there is one.
        value: String,
        /// The value's revision, if there is one.
        revision: u64,
    }
    /// A backup.
    Backup {
        /// Its name.
        name: String,
        =>
        /// The one revision that it is the state of.
        revision: u64,
        /// The root over its records, in hexadecimal.
        state_root: String,
    }
    /// A backup in another cluster, read there.
    BackupRestore {
        /// The backup's name.
        name: String,
        =>
        /// The revision of the backup, as the restore reports it.
        revision: u64,
        /// The new cluster's revision right after.
        new_revision: u64,
        /// All keys that the harness owns.
        kvs: Vec<KeyValue>,
        /// The root over the restored records, from each node, in hexadecimal.
        state_roots: Vec<String>,
    }
    /// A change of membership.
    MemberChange {
        /// What is done.
        action: MemberAction,
        /// To which member.
        member: u64,
    }
    /// A node's view of the membership.
    MemberView {
        /// The node that is asked.
        member: u64,
        =>
        /// The position in the log that made this membership.
        log_index: u64,
        /// The voters. During a change: of both configurations.
        voters: Vec<u64>,
        /// The learners.
        learners: Vec<u64>,
        /// The term that the node is in.
        term: u64,
        /// The leader that it follows, or 0.
        leader: u64,
    }
    /// A node's state in one hash.
    StateHash {
        /// The node that is asked.
        member: u64,
        =>
        /// How many transitions led to it. Equal positions have equal hashes.
        at: u64,
        /// The hash, in hexadecimal.
        hash: String,
    }
    /// A fault.
    Fault {
        /// Its name, such as `kill`.
        fault: String,
        /// Whether it begins, ends, or is over at once.
        phase: FaultPhase,
        /// The nodes that it strikes.
        targets: Vec<u64>,
        /// What else there is to say.
        parameters: BTreeMap<String, String>,
    }
}

/// How membership is changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberAction {
    /// A new learner, to be a voter when it has caught up.
    #[default]
    Add,
    /// A learner becomes a voter.
    Promote,
    /// A member goes for good.
    Remove,
    /// Leadership goes to it.
    Lead,
}

/// What an event of a fault stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultPhase {
    /// It lasts until the `stop` of the same name and targets, or until `heal`.
    Start,
    /// It is over.
    Stop,
    /// It had no length.
    #[default]
    Once,
    /// All faults are over; nothing is broken from here on until the next start.
    Heal,
    /// It was to be done and could not; counts as not tested.
    Skipped,
}
