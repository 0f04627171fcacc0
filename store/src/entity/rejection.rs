//! Why an operation on a type or an entity is refused.
//!
//! A refusal is a judgement on what was read and asked, made before the log:
//! the operation has had no effect. Values of documents are never part of it,
//! only names, places and limits.

use super::diff::Difference;
use super::json::JsonError;
use super::schema::{Invalid, SchemaError};
use super::state::{EntityState, WrongState};
use super::urn::{EntityId, TypeId, UrnError};
use crate::Revision;

/// Why an operation is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EntityRejection {
    /// There is no such entity.
    #[error("entity {0} does not exist")]
    NotFound(EntityId),
    /// There is no such type.
    #[error("type {0} is not registered")]
    TypeNotFound(TypeId),
    /// The entity to create exists.
    #[error("entity {id} already exists, at {current}")]
    Exists {
        /// The entity.
        id: EntityId,
        /// Its revision.
        current: Revision,
    },
    /// The precondition names another revision than the entity has.
    #[error("the precondition names {expected}, entity {id} is at {current}")]
    Conflict {
        /// The entity.
        id: EntityId,
        /// The revision that the precondition names.
        expected: Revision,
        /// The revision that the entity has.
        current: Revision,
    },
    /// No precondition, or one that makes no sense here.
    #[error("{0}")]
    Precondition(&'static str),
    /// A field of the request is not what it has to be.
    #[error("{field}: {problem}")]
    InvalidField {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A field of the request is not JSON.
    #[error("{field} is not valid JSON: {error}")]
    NotJson {
        /// The field.
        field: &'static str,
        /// Where, and what is wrong.
        error: JsonError,
    },
    /// A field of the request passes a limit.
    #[error("{field} is {actual}, the limit is {limit}")]
    TooLarge {
        /// The field.
        field: &'static str,
        /// Its size in bytes, or its number.
        actual: u64,
        /// The limit.
        limit: u64,
    },
    /// The document does not match its type's schema.
    #[error("the document is not a valid {type_id}: {invalid}")]
    InvalidDocument {
        /// The type.
        type_id: TypeId,
        /// What is wrong with it.
        invalid: Invalid,
    },
    /// The entity's state does not allow it.
    #[error(transparent)]
    WrongState(#[from] WrongState),
    /// An update asks for a state that cannot be asked for.
    #[error("the state {0} cannot be asked for")]
    StateNotForAsking(EntityState),
    /// An update changes to another type, not to another version.
    #[error("{to} is not another version of {from}")]
    OtherType {
        /// The type that the entity has.
        from: Box<TypeId>,
        /// The type asked for.
        to: Box<TypeId>,
    },
    /// A finalizer is added to an entity that is being deleted.
    #[error("no finalizer can be added to an entity that is IN_DELETION")]
    FinalizerAdded,
    /// The schema is not usable.
    #[error("the schema cannot be used: {0}")]
    InvalidSchema(#[from] SchemaError),
    /// The version is registered with another content.
    #[error("{id} is registered with another schema; registered (-), offered (+):\n{difference}")]
    TypeDiffers {
        /// The type.
        id: TypeId,
        /// What differs.
        difference: Difference,
    },
}

impl EntityRejection {
    /// A field that is not what it has to be.
    pub fn invalid(field: &'static str, problem: impl Into<String>) -> Self {
        Self::InvalidField { field, problem: problem.into() }
    }

    /// A field that is not the URN that it has to be.
    pub fn urn(field: &'static str) -> impl FnOnce(UrnError) -> Self {
        move |error| Self::invalid(field, error.to_string())
    }

    /// The stable name of the refusal's kind.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "entity_not_found",
            Self::TypeNotFound(_) => "type_not_found",
            Self::Exists { .. } => "already_exists",
            Self::Conflict { .. } => "conflict",
            Self::Precondition(_) => "precondition_invalid",
            Self::InvalidField { .. } => "field_invalid",
            Self::NotJson { .. } => "not_json",
            Self::TooLarge { .. } => "too_large",
            Self::InvalidDocument { .. } => "document_invalid",
            Self::WrongState(_) | Self::StateNotForAsking(_) => "wrong_state",
            Self::OtherType { .. } => "other_type",
            Self::FinalizerAdded => "finalizer_added",
            Self::InvalidSchema(_) => "schema_invalid",
            Self::TypeDiffers { .. } => "type_differs",
        }
    }

    /// The field of the request that is at fault.
    pub fn field(&self) -> &'static str {
        match self {
            Self::NotFound(_) | Self::Exists { .. } | Self::WrongState(_) => "id",
            Self::TypeNotFound(_) | Self::OtherType { .. } => "type_id",
            Self::Conflict { .. } | Self::Precondition(_) => "precondition",
            Self::InvalidField { field, .. }
            | Self::NotJson { field, .. }
            | Self::TooLarge { field, .. } => field,
            Self::InvalidDocument { .. } => "document",
            Self::StateNotForAsking(_) => "state",
            Self::FinalizerAdded => "finalizers",
            Self::InvalidSchema(_) | Self::TypeDiffers { .. } => "schema",
        }
    }

    /// What the caller can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "check the id, or create the entity",
            Self::TypeNotFound(_) => "register the type first, or name a version that is",
            Self::Exists { .. } => "read it and update it, or create it under another id",
            Self::Conflict { .. } => "read the entity again and decide anew",
            Self::Precondition(_) => "spell out if_revision or unconditional",
            Self::InvalidField { .. } => "correct the field",
            Self::NotJson { .. } => "send UTF-8 JSON in which no object has a member twice",
            Self::TooLarge { .. } => "send less: split the document, or drop old events from it",
            Self::InvalidDocument { .. } => "correct the document at the places named",
            Self::WrongState(_) => "see the table of states in docs/entities.md",
            Self::StateNotForAsking(_) => "ask for IN_DELETION or for none; resolve does the rest",
            Self::OtherType { .. } => "create a new entity of the other type",
            Self::FinalizerAdded => "leave the finalizers as they are, or take some away",
            Self::InvalidSchema(_) => "correct the schema; inline what it refers to elsewhere",
            Self::TypeDiffers { .. } => "register the schema under a new version",
        }
    }

    /// The revision that the object has now, if the refusal is about that.
    pub fn current_revision(&self) -> Option<Revision> {
        match self {
            Self::Exists { current, .. } | Self::Conflict { current, .. } => Some(*current),
            _ => None,
        }
    }

    /// The limit and the actual size, if the refusal is about that.
    pub fn limit(&self) -> Option<(u64, u64)> {
        match self {
            Self::TooLarge { limit, actual, .. } => Some((*limit, *actual)),
            _ => None,
        }
    }
}
