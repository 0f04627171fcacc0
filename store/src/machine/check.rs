//! The form of commands: what can be refused by looking at a command alone.
//!
//! Servers call [`envelope`] and [`encoded_bytes`] before a command reaches the
//! log and tell the client what is wrong. Apply asks the same questions again,
//! because a log entry may come from anywhere, and turns a [`Violation`] into a
//! [`Rejection`]; so a malformed command cannot do harm.
//!
//! What depends on the state -- whether a lease exists, a revision can be read --
//! is not decided here, nor whether a transaction writes a key twice, which is
//! apply's to say.

use super::{Command, Compare, Envelope, Op, Put, Rejection, Target, Txn, WriteId};
use crate::limits::{
    BOUND_BYTES_MAX, COMMAND_BYTES_MAX, KEY_BYTES_MAX, LEASE_EXPIRE_MAX, LEASE_RENEW_MAX,
    LEASE_TTL_MS_MAX, SESSION_EXPIRE_MAX, SESSION_TTL_MS_MAX, TXN_DEPTH_MAX, TXN_OPS_MAX,
    VALUE_BYTES_MAX,
};
use crate::{KeyRange, LeaseId, RangeEnd, SessionId};
use std::fmt;

/// What is wrong with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field that is wrong, with its unit if it has one.
    pub field: &'static str,
    /// The field's limit.
    pub limit: u64,
    /// The field's size, number or value.
    pub actual: u64,
    /// How it is wrong.
    pub problem: Problem,
    /// What the caller can do.
    pub remedy: &'static str,
}

/// How a field is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It is beyond its limit.
    TooLarge,
    /// It has a value that it cannot have; the text is one of [`text::ALL`].
    Malformed(&'static str),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, limit, actual, problem, remedy } = self;
        match problem {
            Problem::TooLarge => write!(f, "{field}: {actual}, the limit is {limit}; {remedy}"),
            Problem::Malformed(problem) => write!(f, "{field}: {problem}; {remedy}"),
        }
    }
}

impl std::error::Error for Violation {}

impl From<Violation> for Rejection {
    fn from(violation: Violation) -> Self {
        let Violation { field, limit, actual, problem, .. } = violation;
        match problem {
            Problem::TooLarge => Self::TooLarge { what: field, actual, limit },
            Problem::Malformed(problem) => Self::Invalid(problem),
        }
    }
}

/// The words of refusals. They are stored with remembered replies, so that a
/// text is never changed, only added.
pub mod text {
    /// A text of another version.
    pub const UNKNOWN: &str = "a limit or rule of another version";
    pub(in crate::machine) const KEY: &str = "key bytes";
    pub(in crate::machine) const BOUND: &str = "range bound bytes";
    pub(in crate::machine) const VALUE: &str = "value bytes";
    pub(in crate::machine) const COMMAND: &str = "command bytes";
    pub(in crate::machine) const OPERATIONS: &str = "compares and operations";
    pub(in crate::machine) const NESTING: &str = "levels of nested transactions";
    pub(in crate::machine) const LEASE: &str = "lease id";
    pub(in crate::machine) const LEASE_TTL: &str = "lease ttl in milliseconds";
    pub(in crate::machine) const LEASES: &str = "leases";
    pub(in crate::machine) const RENEWED: &str = "leases to renew";
    pub(in crate::machine) const EXPIRED_LEASES: &str = "leases to expire";
    pub(in crate::machine) const SESSION: &str = "session id";
    pub(in crate::machine) const SESSION_TTL: &str = "session ttl in milliseconds";
    pub(in crate::machine) const SESSIONS: &str = "sessions";
    pub(in crate::machine) const EXPIRED_SESSIONS: &str = "sessions to expire";
    pub(in crate::machine) const SEQUENCE: &str = "sequence";
    pub(in crate::machine) const EMPTY_KEY: &str = "the key is empty";
    pub(in crate::machine) const VALUE_GIVEN: &str = "a value is given and to be ignored";
    pub(in crate::machine) const LEASE_GIVEN: &str = "a lease is given and to be ignored";
    pub(in crate::machine) const LEASE_NOT_POSITIVE: &str = "the lease id is not positive";
    pub(in crate::machine) const SESSION_ZERO: &str = "the session id is zero";
    pub(in crate::machine) const SEQUENCE_ZERO: &str = "the sequence is zero";
    pub(in crate::machine) const ACKED_AHEAD: &str = "more is acknowledged than was sent";
    pub(in crate::machine) const NOT_READ_ONLY: &str = "a transaction that writes was sent to read";

    /// All texts that a rejection can carry.
    pub const ALL: &[&str] = &[
        KEY,
        BOUND,
        VALUE,
        COMMAND,
        OPERATIONS,
        NESTING,
        LEASE,
        LEASE_TTL,
        LEASES,
        RENEWED,
        EXPIRED_LEASES,
        SESSION,
        SESSION_TTL,
        SESSIONS,
        EXPIRED_SESSIONS,
        SEQUENCE,
        EMPTY_KEY,
        VALUE_GIVEN,
        LEASE_GIVEN,
        LEASE_NOT_POSITIVE,
        SESSION_ZERO,
        SEQUENCE_ZERO,
        ACKED_AHEAD,
        NOT_READ_ONLY,
    ];

    /// The text that reads so, or [`UNKNOWN`].
    pub(in crate::machine) fn known(bytes: &[u8]) -> &'static str {
        ALL.iter().find(|text| text.as_bytes() == bytes).copied().unwrap_or(UNKNOWN)
    }
}

/// Checks a command and its place in a session.
///
/// # Errors
///
/// Names the first field that is wrong, in the order of the fields.
pub fn envelope(envelope: &Envelope) -> Result<(), Violation> {
    if let Some(id) = envelope.write_id {
        write_id(id)?;
    }
    command(&envelope.command)
}

/// Checks the size of an encoded command.
///
/// # Errors
///
/// Fails if it is beyond [`COMMAND_BYTES_MAX`].
pub fn encoded_bytes(len: usize) -> Result<(), Violation> {
    let remedy = "split the transaction, or store large values outside of the store";
    at_most(text::COMMAND, len, COMMAND_BYTES_MAX, remedy)
}

/// Checks the place of a write in its session.
pub(super) fn write_id(id: WriteId) -> Result<(), Violation> {
    session_id(id.session)?;
    let wrong = |actual, problem, remedy| Violation {
        field: text::SEQUENCE,
        limit: id.sequence,
        actual,
        problem: Problem::Malformed(problem),
        remedy,
    };
    if id.sequence == 0 {
        return Err(wrong(0, text::SEQUENCE_ZERO, "count a session's writes from 1"));
    }
    if id.acked_below > id.sequence {
        let remedy = "acknowledge only sequences whose replies were received";
        return Err(wrong(id.acked_below, text::ACKED_AHEAD, remedy));
    }
    Ok(())
}

/// Checks a command.
pub(super) fn command(command: &Command) -> Result<(), Violation> {
    const EXPIRE: &str = "expire the rest with another command";
    match command {
        Command::Txn(outermost) => txn(outermost),
        Command::LeaseGrant { id, ttl_ms } => {
            lease_id(*id)?;
            beyond(text::LEASE_TTL, *ttl_ms, LEASE_TTL_MS_MAX, "ask for a shorter time to live")
        }
        Command::LeaseRenew { ids } => {
            let remedy = "renew the rest with another request";
            at_most(text::RENEWED, ids.len(), LEASE_RENEW_MAX, remedy)
        }
        Command::LeaseExpire { leases } => {
            at_most(text::EXPIRED_LEASES, leases.len(), LEASE_EXPIRE_MAX, EXPIRE)
        }
        Command::SessionOpen { id, ttl_ms } => {
            session_id(*id)?;
            let remedy = "ask for a shorter time to live";
            beyond(text::SESSION_TTL, *ttl_ms, SESSION_TTL_MS_MAX, remedy)
        }
        Command::SessionExpire { sessions } => {
            at_most(text::EXPIRED_SESSIONS, sessions.len(), SESSION_EXPIRE_MAX, EXPIRE)
        }
        Command::LeaseRevoke { .. }
        | Command::Compact { .. }
        | Command::SessionClose { .. }
        | Command::FeatureLevel { .. } => Ok(()),
    }
}

/// Checks a transaction with all that are nested in it.
pub(super) fn txn(txn: &Txn) -> Result<(), Violation> {
    let mut sums = Sums::default();
    sums.add_txn(txn, 0)?;
    encoded_bytes(sums.bytes)
}

/// Checks the keys that a range read asks for.
pub(super) fn key_range(range: &KeyRange) -> Result<(), Violation> {
    const REMEDY: &str = "use shorter keys";
    if range.end == RangeEnd::Single {
        return key(&range.start);
    }
    at_most(text::BOUND, range.start.len(), BOUND_BYTES_MAX, REMEDY)?;
    match &range.end {
        RangeEnd::Until(until) => at_most(text::BOUND, until.len(), BOUND_BYTES_MAX, REMEDY),
        RangeEnd::Single | RangeEnd::Unbounded => Ok(()),
    }
}

/// What a transaction's parts add up to. The limits are tested on the way, so
/// that a hostile one is not walked to its end.
#[derive(Default)]
struct Sums {
    operations: usize,
    bytes: usize,
}

impl Sums {
    fn add_txn(&mut self, txn: &Txn, depth: usize) -> Result<(), Violation> {
        at_most(text::NESTING, depth, TXN_DEPTH_MAX, "nest transactions less deeply")?;
        self.operations += txn.compares.len() + txn.then.len() + txn.otherwise.len();
        let remedy = "split the transaction";
        at_most(text::OPERATIONS, self.operations, TXN_OPS_MAX, remedy)?;
        for compare in &txn.compares {
            self.add_compare(compare)?;
        }
        for op in txn.then.iter().chain(&txn.otherwise) {
            match op {
                Op::Put(put) => self.add_put(put)?,
                Op::Delete(delete) => self.add_range(&delete.range)?,
                Op::Range(range) => self.add_range(&range.range)?,
                Op::Txn(nested) => self.add_txn(nested, depth + 1)?,
            }
        }
        Ok(())
    }

    fn add_compare(&mut self, compare: &Compare) -> Result<(), Violation> {
        if let Target::Value(target) = &compare.target {
            value(target.len())?;
            self.bytes += target.len();
        }
        self.add_range(&compare.range)
    }

    fn add_range(&mut self, range: &KeyRange) -> Result<(), Violation> {
        let end = if let RangeEnd::Until(until) = &range.end { until.len() } else { 0 };
        self.bytes += range.start.len() + end;
        key_range(range)
    }

    fn add_put(&mut self, put: &Put) -> Result<(), Violation> {
        key(put.key.as_bytes())?;
        value(put.value.len())?;
        self.bytes += put.key.as_bytes().len() + put.value.len();
        if put.ignore_value && !put.value.is_empty() {
            return Err(malformed(text::VALUE, text::VALUE_GIVEN, "leave the value out"));
        }
        if put.ignore_lease && put.lease != LeaseId::NONE {
            return Err(malformed(text::LEASE, text::LEASE_GIVEN, "leave the lease out"));
        }
        if put.lease == LeaseId::NONE { Ok(()) } else { lease_id(put.lease) }
    }
}

fn key(key: &[u8]) -> Result<(), Violation> {
    if key.is_empty() {
        return Err(malformed(text::KEY, text::EMPTY_KEY, "name a key"));
    }
    at_most(text::KEY, key.len(), KEY_BYTES_MAX, "use shorter keys")
}

fn value(len: usize) -> Result<(), Violation> {
    let remedy = "split the value, or store it outside of the store";
    at_most(text::VALUE, len, VALUE_BYTES_MAX, remedy)
}

fn lease_id(id: LeaseId) -> Result<(), Violation> {
    if id.0 > 0 {
        return Ok(());
    }
    Err(malformed(text::LEASE, text::LEASE_NOT_POSITIVE, "use an id that a grant returned"))
}

fn session_id(id: SessionId) -> Result<(), Violation> {
    if id.0 > 0 {
        return Ok(());
    }
    Err(malformed(text::SESSION, text::SESSION_ZERO, "use an id that opening a session returned"))
}

fn malformed(field: &'static str, problem: &'static str, remedy: &'static str) -> Violation {
    Violation { field, limit: 0, actual: 0, problem: Problem::Malformed(problem), remedy }
}

fn at_most(
    field: &'static str,
    actual: usize,
    limit: usize,
    remedy: &'static str,
) -> Result<(), Violation> {
    beyond(field, actual as u64, limit as u64, remedy)
}

fn beyond(
    field: &'static str,
    actual: u64,
    limit: u64,
    remedy: &'static str,
) -> Result<(), Violation> {
    if actual <= limit {
        return Ok(());
    }
    Err(Violation { field, limit, actual, problem: Problem::TooLarge, remedy })
}
