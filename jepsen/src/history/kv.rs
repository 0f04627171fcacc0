//! The one form of all key-value operations: a transaction.
//!
//! A get is a transaction with one range in `success` and no compares; a put
//! has one put; a compare-and-set has a compare, a put and perhaps a range in
//! `failure`. So one checker judges them all.
//!
//! Keys and values are text here. Numbers that a record has default to 0, as on
//! the wire.

use serde::{Deserialize, Serialize};

/// A transaction: asked for, and in a completion with its reply.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Txn {
    /// All must hold for `success` to be done. They see the state before any write.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub compares: Vec<Compare>,
    /// Done in order if all compares hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub success: Vec<Action>,
    /// Done in order if one does not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failure: Vec<Action>,
    /// Whether it is asked to see all that was acknowledged before it. `false`
    /// for a read of one replica's own state; writes are always `true`.
    pub linearizable: bool,
    /// The past revision that a read asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The session and the sequence in it, if it is a write with an identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_id: Option<(u64, u64)>,
    /// Only in a completion of type `ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<TxnReply>,
}

/// The answer to a transaction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TxnReply {
    /// The store's revision after it, from the header.
    pub revision: u64,
    /// Whether all compares held.
    pub succeeded: bool,
    /// One for each action of the branch that was done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<ActionReply>,
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Sets a key.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// The lease that it is attached to; 0 for none.
        #[serde(default, skip_serializing_if = "is_zero")]
        lease: u64,
        /// Whether the reply tells what was there.
        #[serde(default, skip_serializing_if = "is_false")]
        prev: bool,
    },
    /// Deletes the keys in a span; see [`spans`].
    Delete {
        /// The first key.
        key: String,
        /// The end of the span.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        end: Option<String>,
        /// Whether the reply tells what was there.
        #[serde(default, skip_serializing_if = "is_false")]
        prev: bool,
    },
    /// Reads the keys in a span; see [`spans`].
    Range {
        /// The first key.
        key: String,
        /// The end of the span.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        end: Option<String>,
        /// At most so many keys; 0 for all.
        #[serde(default, skip_serializing_if = "is_zero")]
        limit: u64,
    },
}

/// The answer to one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActionReply {
    /// To a put.
    Put {
        /// What was there, if that was asked for and something was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prev: Option<KeyValue>,
    },
    /// To a delete.
    Delete {
        /// How many keys went.
        deleted: u64,
        /// What was there, if that was asked for.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        prev: Vec<KeyValue>,
    },
    /// To a range.
    Range {
        /// The keys, in order.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        kvs: Vec<KeyValue>,
        /// All keys in the span, whatever the limit.
        count: u64,
        /// Whether the limit cut the answer.
        #[serde(default, skip_serializing_if = "is_false")]
        more: bool,
    },
}

/// A key with all that the store says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
    /// The revision that created it.
    pub create: u64,
    /// The revision of its last put.
    #[serde(rename = "mod")]
    pub modified: u64,
    /// 1 for a new key, one more with each put.
    pub version: u64,
    /// The lease that it goes with; 0 for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lease: u64,
}

/// A demand on a key. An absent key has 0 for each number, and no value: no
/// relation holds for its value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compare {
    /// The key.
    pub key: String,
    /// What of it.
    pub target: Target,
    /// How it has to relate to the operand.
    pub op: Relation,
    /// Text for [`Target::Value`], a number for the others.
    pub operand: Operand,
}

/// What a compare looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The value.
    Value,
    /// How often it was put since it was created.
    Version,
    /// The revision that created it.
    Create,
    /// The revision of its last put.
    Mod,
    /// Its lease.
    Lease,
}

/// How the key's side has to relate to the operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relation {
    /// Equal.
    #[serde(rename = "=")]
    Equal,
    /// Not equal.
    #[serde(rename = "!=")]
    NotEqual,
    /// The key's side is less.
    #[serde(rename = "<")]
    Less,
    /// The key's side is greater.
    #[serde(rename = ">")]
    Greater,
}

/// What a compare compares with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Operand {
    /// For all targets but the value.
    Number(u64),
    /// For the value.
    Text(String),
}

impl Txn {
    /// Whether neither branch can change a key.
    pub fn is_read(&self) -> bool {
        let mut actions = self.success.iter().chain(&self.failure);
        actions.all(|action| matches!(action, Action::Range { .. }))
    }

    /// The actions that are done if the compares hold, or if they do not.
    pub fn branch(&self, succeeded: bool) -> &[Action] {
        if succeeded { &self.success } else { &self.failure }
    }
}

impl Action {
    /// Puts a key without a lease.
    pub fn put(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: 0, prev: false }
    }

    /// Deletes one key.
    pub fn delete(key: impl Into<String>) -> Self {
        Self::Delete { key: key.into(), end: None, prev: false }
    }

    /// Reads one key.
    pub fn get(key: impl Into<String>) -> Self {
        Self::Range { key: key.into(), end: None, limit: 0 }
    }

    /// Reads all keys that begin with `prefix`.
    pub fn prefix(prefix: &str) -> Self {
        Self::Range { key: prefix.to_owned(), end: Some(prefix_end(prefix)), limit: 0 }
    }
}

/// Whether the span from `key` to `end` has `candidate` in it: without an end
/// the one key, with an empty end all keys from `key` on, else those below `end`.
pub fn spans(key: &str, end: Option<&str>, candidate: &str) -> bool {
    match end {
        None => candidate == key,
        Some("") => candidate >= key,
        Some(end) => candidate >= key && candidate < end,
    }
}

/// The end of the span of all keys that begin with `prefix`: empty, which means
/// no end, for the empty prefix.
///
/// The last character is raised by one; histories use plain text for keys, whose
/// order of characters is that of their bytes.
pub fn prefix_end(prefix: &str) -> String {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        let raised = (last as u32 + 1..=char::MAX as u32).find_map(char::from_u32);
        if let Some(raised) = raised {
            end.push(raised);
            return end;
        }
    }
    end
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_false(flag: &bool) -> bool {
    !*flag
}
