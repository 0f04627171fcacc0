//! Refusals.

use crate::{LeaseId, Revision, SessionId};

/// Why a well-formed command was refused.
///
/// A rejection is part of the replicated history: it depends on the command and
/// the state alone, so every replica reaches it. Failures of one replica, such
/// as a full disk, are [`View::Error`](super::View::Error) and never become a
/// `Rejection`. A rejected command has had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The key of a put with `ignore_value` or `ignore_lease` does not exist.
    #[error("the key does not exist, so there is no value or lease to keep")]
    KeyNotFound,
    /// The lease does not exist, or no longer.
    #[error("lease {} does not exist", .0.0)]
    LeaseNotFound(LeaseId),
    /// The id is in use.
    #[error("lease {} already exists", .0.0)]
    LeaseExists(LeaseId),
    /// A put or grant beyond a limit.
    #[error("{what}: {actual}, the limit is {limit}")]
    TooLarge {
        /// The field.
        what: &'static str,
        /// Its size or number.
        actual: u64,
        /// The limit.
        limit: u64,
    },
    /// The history asked for is gone.
    #[error("revision {asked} is compacted, history begins at {compacted}")]
    Compacted {
        /// The revision asked for.
        asked: Revision,
        /// The oldest that can be read.
        compacted: Revision,
    },
    /// The revision does not exist yet.
    #[error("revision {asked} is in the future, the store is at {current}")]
    FutureRevision {
        /// The revision asked for.
        asked: Revision,
        /// The newest.
        current: Revision,
    },
    /// One branch writes a key twice.
    #[error("one branch of the transaction writes the same key twice")]
    DuplicateKey,
    /// The session expired or never was. The write did not take effect under
    /// this command, but an earlier attempt may have.
    #[error("session {} does not exist or has expired", .0.0)]
    SessionNotFound(SessionId),
    /// The id is in use.
    #[error("session {} already exists", .0.0)]
    SessionExists(SessionId),
    /// The reply was forgotten because the client acknowledged it, or more
    /// than the window of writes were in flight.
    #[error("sequence {sequence} is below the session's window, which begins at {oldest}")]
    ReplyForgotten {
        /// The sequence asked for.
        sequence: u64,
        /// The oldest that is remembered.
        oldest: u64,
    },
    /// The command is malformed in a way that a checked request cannot be.
    #[error("the command is invalid: {0}")]
    Invalid(&'static str),
}
