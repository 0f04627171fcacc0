//! What can go wrong with a call, sorted by what the caller can do about it.
//!
//! How a gRPC status becomes one of these is in `status.rs`, and nowhere else.

use crate::Revision;
use std::fmt;

/// Whether a write that failed can still take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has not taken effect and will not. Doing it again is safe.
    NotApplied,
    /// It may have taken effect, or may yet. Read before doing it again.
    Unknown,
}

/// What went wrong, named by the reaction that it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The precondition does not hold. Read the object again, decide again.
    Conflict {
        /// The object's revision now; [`Revision::ZERO`] if it does not exist
        /// or the server did not say.
        current_revision: Revision,
    },
    /// The object, type, lease or member does not exist.
    NotFound,
    /// The object exists already.
    AlreadyExists,
    /// The request is wrong and stays wrong: correct the field.
    Invalid {
        /// The field at fault; empty if no single one is.
        field: String,
    },
    /// The request is beyond a limit: make it smaller.
    TooLarge {
        /// The field that is too large.
        field: String,
        /// The limit.
        limit: u64,
        /// What the request had; 0 if nobody measured it.
        actual: u64,
    },
    /// The history asked for is gone: read the present state and go on from
    /// the revision of that read.
    Compacted {
        /// The oldest revision that can be read.
        oldest: Revision,
    },
    /// The cluster was restored: revisions seen before mean nothing now. Drop
    /// what was cached, read again.
    HistoryChanged,
    /// The server does not know who is calling.
    Unauthenticated,
    /// The caller may not do this.
    Denied,
    /// The cluster refused because it has too much to do, or no room left. The
    /// client has waited and tried again for as long as it was allowed.
    Overloaded,
    /// No node could serve the request; it has had no effect.
    Unavailable,
    /// Nobody can say whether the write took effect.
    Unknown,
    /// The call's time was up.
    DeadlineExceeded {
        /// Whether the write can still take effect; of a read,
        /// [`Outcome::NotApplied`].
        outcome: Outcome,
    },
    /// The server does not have this call: it is older than this client.
    Unsupported,
    /// The answer makes no sense, or the server failed inside.
    Internal,
}

/// Why a call failed.
///
/// Match on [`Error::kind`] to react, ask [`Error::outcome`] what became of a
/// write, and print the error itself for people.
#[derive(Clone)]
pub struct Error(Box<Fields>);

#[derive(Clone)]
struct Fields {
    kind: ErrorKind,
    outcome: Outcome,
    message: String,
    reason: String,
    remedy: String,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, outcome: Outcome, message: impl Into<String>) -> Self {
        let (message, reason, remedy) = (message.into(), String::new(), String::new());
        Self(Box::new(Fields { kind, outcome, message, reason, remedy }))
    }

    /// An error that was found before anything was sent.
    pub(crate) fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid { field: field.to_owned() }, Outcome::NotApplied, message)
    }

    /// An answer that breaks the contract. The request itself was done.
    pub(crate) fn unintelligible(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, Outcome::Unknown, message)
    }

    pub(crate) fn with_advice(mut self, reason: String, remedy: String) -> Self {
        self.0.reason = reason;
        self.0.remedy = remedy;
        self
    }

    /// The reaction that the error asks for.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// Whether the write can still take effect. Reads have no effect: theirs is
    /// always [`Outcome::NotApplied`].
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// Whether nobody can say what became of the write.
    pub fn is_unknown(&self) -> bool {
        self.0.outcome == Outcome::Unknown
    }

    /// Whether a precondition did not hold, of which "exists already" is one.
    pub fn is_conflict(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Conflict { .. } | ErrorKind::AlreadyExists)
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.0.kind == ErrorKind::NotFound
    }

    /// What happened, in a sentence, without the remedy.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The server's stable name of the error; empty if it did not come from
    /// the server.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// What the server advises; may be empty.
    pub fn remedy(&self) -> &str {
        &self.0.remedy
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if !self.0.remedy.is_empty() {
            write!(f, " ({})", self.0.remedy)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("outcome", &self.0.outcome)
            .field("message", &self.0.message)
            .field("reason", &self.0.reason)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Error {}
