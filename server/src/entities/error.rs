//! Why a request about types or entities has no answer.
//!
//! Each error says what was wrong, where, and what to do, and whether the write
//! can still take effect. The status that it becomes is the edge's business.

use crate::core::{ProposeError, ReadError};
use keelstone_store::Revision;
use keelstone_store::entity::{DecodeError, EntityRejection};
use keelstone_store::machine::Rejection;
use keelstone_store::state::StateError;

/// Why a request about types or entities, or about configuration, has no answer.
///
/// After [`EntityError::Propose`] with [`ProposeError::Unknown`] nobody knows
/// whether the write takes effect, and after [`EntityError::Session`] an earlier
/// attempt may have; after every other error it has not and will not.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EntityError {
    /// It was refused.
    #[error(transparent)]
    Rejected(#[from] EntityRejection),
    /// Others changed the entity again and again while this write was planned.
    #[error("the entity was changed by others {tries} times while the write was planned")]
    Contended {
        /// How often it was planned; zero: the deadline passed while it waited
        /// for other writes of the entity.
        tries: u32,
    },
    /// The session does not know the write, or no longer: an earlier attempt
    /// may have taken effect.
    #[error(transparent)]
    Session(Rejection),
    /// The state machine refused it.
    #[error(transparent)]
    Machine(Rejection),
    /// A write with this write id was refused before.
    #[error("a write with this write id was refused before")]
    RefusedBefore,
    /// The write id belongs to another write.
    #[error("this write id was used for another write")]
    WriteIdReused,
    /// There is no configuration value at the path.
    #[error("there is no configuration value at this path")]
    NoValue,
    /// The precondition of a configuration value does not hold.
    #[error("the precondition does not hold: the configuration value is at {current}")]
    ValueConflict {
        /// The revision that the value has; zero if there is none.
        current: Revision,
    },
    /// The page token is not one of this list.
    #[error("the page token {0}")]
    PageToken(&'static str),
    /// It was not replicated, or nobody knows.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The state could not be read at the asked freshness.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What is stored is not an entity.
    #[error("the store holds something that is not what its key says: {0}")]
    Damaged(String),
}

impl EntityError {
    /// The stable name of the error's kind.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Rejected(rejection) => rejection.reason(),
            Self::Contended { .. } => "contended",
            Self::Session(Rejection::ReplyForgotten { .. }) => "reply_forgotten",
            Self::Session(_) => "session_not_found",
            Self::Machine(Rejection::Compacted { .. }) => "compacted",
            Self::Machine(Rejection::FutureRevision { .. }) => "future_revision",
            Self::Machine(Rejection::TooLarge { .. }) => "too_large",
            Self::Machine(_) => "rejected",
            Self::RefusedBefore => "refused_before",
            Self::WriteIdReused => "write_id_reused",
            Self::NoValue => "value_not_found",
            Self::ValueConflict { .. } => "conflict",
            Self::PageToken(_) => "page_token_invalid",
            Self::Propose(ProposeError::Unknown(_)) => "unknown",
            Self::Propose(_) => "not_proposed",
            Self::Read(_) => "read_failed",
            Self::Damaged(_) => "damaged",
        }
    }

    /// The field of the request that is at fault; empty if none is.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Rejected(rejection) => rejection.field(),
            Self::Session(_) | Self::RefusedBefore | Self::WriteIdReused => "write_id",
            Self::Machine(Rejection::Compacted { .. } | Rejection::FutureRevision { .. }) => {
                "revision"
            }
            Self::NoValue => "path",
            Self::ValueConflict { .. } => "precondition",
            Self::PageToken(_) => "page_token",
            _ => "",
        }
    }

    /// What the caller can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Rejected(rejection) => rejection.remedy(),
            Self::Contended { .. } => "wait a moment and send it again",
            Self::Session(_) => "read the entity to see what became of the write; open a session",
            Self::Machine(Rejection::Compacted { .. }) => {
                "read a newer revision; history is kept for a limited time"
            }
            Self::Machine(Rejection::FutureRevision { .. }) => {
                "ask a node that has seen the revision, or check the history's name"
            }
            Self::Machine(_) => "see the message",
            Self::RefusedBefore => "send it with the session's next sequence",
            Self::WriteIdReused => "give each write a sequence of its own",
            Self::NoValue => "check the path; list the one above it to see what is there",
            Self::ValueConflict { .. } => "read the value again and decide anew",
            Self::PageToken(_) => "begin the list anew",
            Self::Propose(ProposeError::Unknown(_)) => {
                "send it again with the same write id, or read what became of it"
            }
            Self::Propose(_) | Self::Read(_) => "send it again, to another node if need be",
            Self::Damaged(_) => "verify this replica and a backup; do not write to the key",
        }
    }

    /// The revision that the object has now, if the error is about that.
    pub fn current_revision(&self) -> Option<Revision> {
        match self {
            Self::Rejected(rejection) => rejection.current_revision(),
            Self::ValueConflict { current } => Some(*current),
            _ => None,
        }
    }

    /// The limit and the actual size, if the error is about that.
    pub fn limit(&self) -> Option<(u64, u64)> {
        match self {
            Self::Rejected(rejection) => rejection.limit(),
            Self::Machine(Rejection::TooLarge { actual, limit, .. }) => Some((*limit, *actual)),
            _ => None,
        }
    }

    /// Whether the write may have taken effect, or may yet.
    pub fn may_take_effect(&self) -> bool {
        matches!(self, Self::Session(_) | Self::Propose(ProposeError::Unknown(_)))
    }

    /// A refusal by the state machine.
    pub(crate) fn machine(rejection: Rejection) -> Self {
        match rejection {
            Rejection::SessionNotFound(_) | Rejection::ReplyForgotten { .. } => {
                Self::Session(rejection)
            }
            other => Self::Machine(other),
        }
    }
}

impl From<DecodeError> for EntityError {
    fn from(error: DecodeError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<StateError> for EntityError {
    fn from(error: StateError) -> Self {
        Self::Read(ReadError::Failed(error.to_string()))
    }
}
