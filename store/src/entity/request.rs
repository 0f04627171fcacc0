//! What can be asked of an entity.

use super::Entity;
use super::urn::{EntityId, TypeId};
use crate::Revision;
use bytes::Bytes;

/// What a write demands of the present. There is no default: `Unconditional`
/// has to be spelled out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// The object's revision is exactly this.
    IfRevision(Revision),
    /// The object does not exist.
    IfAbsent,
    /// Whatever is there.
    Unconditional,
}

/// An operation on one entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Creates it.
    Create(Create),
    /// Replaces its document.
    Update(Update),
    /// Merges a patch into its document.
    Patch(Patch),
    /// Deletes it, or begins its deletion.
    Delete(Delete),
    /// Validates its document.
    Resolve(Resolve),
}

/// Creates an entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// Chosen by the caller or by the server; of the type's vendor and nss.
    pub id: EntityId,
    /// Its type, which has to be registered.
    pub type_id: TypeId,
    /// Not empty.
    pub name: String,
    /// May be empty.
    pub external_id: String,
    /// May be empty.
    pub org: String,
    /// May be empty.
    pub owner: String,
    /// A JSON object.
    pub document: Bytes,
    /// Validate at once.
    pub resolve: bool,
    /// Who has to agree to its deletion.
    pub finalizers: Vec<String>,
}

/// Changes of the envelope; what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvelopeChange {
    /// Not empty.
    pub name: Option<String>,
    /// May be empty.
    pub external_id: Option<String>,
    /// May be empty.
    pub owner: Option<String>,
    /// All of them.
    pub finalizers: Option<Vec<String>>,
}

/// Replaces the document of an entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The entity.
    pub id: EntityId,
    /// What must hold.
    pub precondition: Precondition,
    /// A JSON object.
    pub document: Bytes,
    /// What else changes.
    pub envelope: EnvelopeChange,
    /// Another version of its type.
    pub type_id: Option<TypeId>,
    /// Asks for `IN_DELETION`.
    pub begin_deletion: bool,
}

/// Merges a patch into the document of an entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// The entity.
    pub id: EntityId,
    /// What must hold.
    pub precondition: Precondition,
    /// A JSON object, after RFC 7396.
    pub merge_patch: Bytes,
    /// What else changes.
    pub envelope: EnvelopeChange,
}

/// Deletes an entity, or begins its deletion if finalizers hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// The entity.
    pub id: EntityId,
    /// What must hold.
    pub precondition: Precondition,
}

/// Validates the document of an entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolve {
    /// The entity.
    pub id: EntityId,
    /// What must hold.
    pub precondition: Precondition,
}

impl Request {
    /// The entity that it is about.
    pub fn id(&self) -> &EntityId {
        match self {
            Self::Create(request) => &request.id,
            Self::Update(request) => &request.id,
            Self::Patch(request) => &request.id,
            Self::Delete(request) => &request.id,
            Self::Resolve(request) => &request.id,
        }
    }

    /// What it demands of the present.
    pub fn precondition(&self) -> Precondition {
        match self {
            Self::Create(_) => Precondition::IfAbsent,
            Self::Update(request) => request.precondition,
            Self::Patch(request) => request.precondition,
            Self::Delete(request) => request.precondition,
            Self::Resolve(request) => request.precondition,
        }
    }

    /// The type whose schema the plan needs, given the entity as it is now.
    /// `None`: it needs none.
    pub fn type_id<'a>(&'a self, existing: Option<&'a Entity>) -> Option<&'a TypeId> {
        let present = existing.map(|existing| &existing.type_id);
        match self {
            Self::Create(request) => Some(&request.type_id),
            Self::Update(request) => request.type_id.as_ref().or(present),
            Self::Patch(_) | Self::Resolve(_) => present,
            Self::Delete(_) => None,
        }
    }

    /// The operation's name, for spans and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => "entity_create",
            Self::Update(_) => "entity_update",
            Self::Patch(_) => "entity_patch",
            Self::Delete(_) => "entity_delete",
            Self::Resolve(_) => "entity_resolve",
        }
    }
}
