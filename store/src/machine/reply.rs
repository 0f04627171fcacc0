//! What the state machine answers.

use super::Rejection;
use crate::{Key, LeaseId, Revision};
use bytes::Bytes;
use std::fmt;

/// A key's value and where it comes from.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The value.
    pub value: Bytes,
    /// The revision that created the key.
    pub created: Revision,
    /// The revision of its last put.
    pub modified: Revision,
    /// 1 for a new key, one more with each put.
    pub version: u64,
    /// The lease that it is attached to, or none.
    pub lease: LeaseId,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Record({} bytes, {}..{}, version {})",
            self.value.len(),
            self.created,
            self.modified,
            self.version
        )
    }
}

/// A key with its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The key.
    pub key: Key,
    /// Its record.
    pub record: Record,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The store's revision after the command.
    pub revision: Revision,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// A transaction's answer.
    Txn(TxnReply),
    /// A lease was granted, with this time to live.
    Lease {
        /// The lease.
        id: LeaseId,
        /// Its time to live.
        ttl_ms: u64,
    },
    /// Renewals, in the order asked for; a time of zero means "no such lease".
    Renewed(Vec<(LeaseId, u64)>),
    /// Done; nothing more to say.
    Done,
    /// An earlier attempt of this write was applied, at the reply's revision.
    /// What it answered was too large to be remembered.
    Applied,
    /// Refused, without any effect.
    Rejected(Rejection),
}

/// The answer to a transaction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TxnReply {
    /// Whether all compares held.
    pub succeeded: bool,
    /// One for each operation of the branch that was done.
    pub ops: Vec<OpReply>,
}

/// The answer to one operation.
#[derive(Clone, Debug, PartialEq)]
pub enum OpReply {
    /// To a put: the record before, if it was asked for and there was one.
    Put {
        /// The record before.
        previous: Option<KeyRecord>,
    },
    /// To a delete.
    Delete {
        /// How many keys were deleted.
        deleted: u64,
        /// Their records, if they were asked for.
        previous: Vec<KeyRecord>,
    },
    /// To a range.
    Range(RangeReply),
    /// To a nested transaction.
    Txn(TxnReply),
}

/// The answer to a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeReply {
    /// In key order, at most as many as asked for.
    pub records: Vec<KeyRecord>,
    /// All keys of the range, whatever the limit.
    pub count: u64,
    /// Whether the limit left some out.
    pub more: bool,
}
