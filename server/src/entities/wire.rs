//! Where the API's messages become requests, and answers become messages.
//!
//! Everything that the messages leave open is decided here: what an empty text
//! means, that a precondition has to be there, which id a creation gets.

use super::event::{EntityEvent, EntityEventKind};
use super::read::{EntityVersion, HistoryQuery, ListQuery};
use super::types::TypeQuery;
use super::write::{Write, derived_id};
use super::{EntityError, EntityFilter};
use crate::core::Consistency;
use keelstone_proto::v1;
use keelstone_store::entity::request::{Create, Delete, EnvelopeChange, Patch, Resolve, Update};
use keelstone_store::entity::types::Registration;
use keelstone_store::entity::{
    Entity, EntityId, EntityRejection, EntityState, EntityType, Precondition, Request, TypeId,
    TypeName, TypePrefix,
};
use keelstone_store::machine::WriteId;
use keelstone_store::{Revision, SessionId};

/// A creation whose id may still have to be chosen.
#[derive(Clone, Debug)]
pub struct Creation {
    request: v1::EntityCreateRequest,
    type_id: TypeId,
    write_id: Option<WriteId>,
}

/// Reads a registration.
///
/// # Errors
///
/// [`EntityError::Rejected`] names the field.
pub fn registration(request: v1::TypeRegisterRequest) -> Result<Registration, EntityError> {
    let name = TypeName::new(&request.vendor, &request.nss).map_err(EntityRejection::urn("vendor"));
    let version = request.version.parse().map_err(EntityRejection::urn("version"));
    Ok(Registration {
        id: TypeId { name: name?, version: version? },
        name: request.name,
        description: request.description,
        schema: request.schema,
    })
}

/// Reads a type's id.
///
/// # Errors
///
/// [`EntityError::Rejected`] names the field.
pub fn type_id(text: &str) -> Result<TypeId, EntityError> {
    Ok(text.parse().map_err(EntityRejection::urn("type_id"))?)
}

/// Reads an entity's id.
///
/// # Errors
///
/// [`EntityError::Rejected`] names the field.
pub fn entity_id(text: &str) -> Result<EntityId, EntityError> {
    Ok(text.parse().map_err(EntityRejection::urn("id"))?)
}

/// Reads a query for types.
///
/// # Errors
///
/// [`EntityError::Rejected`] names the field.
pub fn type_query(request: v1::TypeListRequest) -> Result<TypeQuery, EntityError> {
    let consistency = consistency(request.consistency)?;
    let versions = request.version_prefix.parse();
    let versions = versions.map_err(EntityRejection::urn("version_prefix"))?;
    let (vendor, nss) = (some(request.vendor), some(request.nss));
    // Checked as names, so that none of them reaches over the separator.
    let part = |text: &Option<String>| text.clone().unwrap_or_else(|| "any".to_owned());
    TypeName::new(&part(&vendor), &part(&nss)).map_err(EntityRejection::urn("vendor"))?;
    if nss.is_some() && vendor.is_none() {
        return Err(EntityRejection::invalid("nss", "it needs a vendor").into());
    }
    if nss.is_none() && !request.version_prefix.is_empty() {
        return Err(EntityRejection::invalid("version_prefix", "it needs an nss").into());
    }
    Ok(TypeQuery {
        vendor,
        nss,
        versions,
        page_size: size(request.page_size),
        page_token: request.page_token,
        summary: request.summary,
        consistency,
    })
}

/// Reads a creation.
///
/// # Errors
///
/// [`EntityError::Rejected`] names the field.
pub fn create(mut request: v1::EntityCreateRequest) -> Result<Creation, EntityError> {
    let type_id = type_id(&request.type_id)?;
    let write_id = write_id(request.write_id.take());
    Ok(Creation { request, type_id, write_id })
}

impl Creation {
    /// The write, with the caller's UUID, or one computed from the write id,
    /// or `fresh`. `history` is the store's.
    pub(super) fn write(
        self,
        history: [u8; 16],
        fresh: impl FnOnce() -> uuid::Uuid,
    ) -> Result<Write, EntityError> {
        let Self { request, type_id, write_id } = self;
        let new = |uuid: &str| {
            EntityId::new(type_id.name.clone(), uuid).map_err(EntityRejection::urn("uuid"))
        };
        let id = match (request.uuid.as_str(), write_id) {
            ("", None) => new(&fresh().to_string())?,
            ("", Some(write_id)) => {
                derived_id(write_id, history, &type_id, &request.name, &request.document)
            }
            (uuid, _) => new(uuid)?,
        };
        let create = Create {
            id,
            type_id,
            name: request.name,
            external_id: request.external_id,
            org: request.org,
            owner: request.owner,
            document: request.document,
            resolve: request.resolve,
            finalizers: request.finalizers,
        };
        Ok(Write { request: Request::Create(create), write_id })
    }
}

/// Reads an update.
///
/// # Errors
///
/// [`EntityError::Rejected`] names the field.
pub fn update(request: v1::EntityUpdateRequest) -> Result<Write, EntityError> {
    let begin_deletion = match state(request.state)? {
        None => false,
        Some(EntityState::InDeletion) => true,
        Some(other) => return Err(EntityRejection::StateNotForAsking(other).into()),
    };
    let update = Update {
        id: entity_id(&request.id)?,
        precondition: precondition(request.precondition)?,
        document: request.document,
        envelope: EnvelopeChange {
            name: request.name,
            external_id: request.external_id,
            owner: request.owner,
            finalizers: request.finalizers.map(|finalizers| finalizers.names),
        },
        type_id: request.type_id.as_deref().map(type_id).transpose()?,
        begin_deletion,
    };
    Ok(Write { request: Request::Update(update), write_id: write_id(request.write_id) })
}

/// Reads a patch.
///
/// # Errors
///
/// [`EntityError::Rejected`] names the field.
pub fn patch(request: v1::EntityPatchRequest) -> Result<Write, EntityError> {
    let patch = Patch {
        id: entity_id(&request.id)?,
        precondition: precondition(request.precondition)?,
        merge_patch: request.merge_patch,
        envelope: EnvelopeChange {
            name: request.name,
            external_id: request.external_id,
            owner: request.owner,
            finalizers: request.finalizers.map(|finalizers| finalizers.names),
        },
    };
    Ok(Write { request: Request::Patch(patch), write_id: write_id(request.write_id) })
}

/// Reads a deletion.
///
/// # Errors
///
/// [`EntityError::Rejected`] names the field.
pub fn delete(request: &v1::EntityDeleteRequest) -> Result<Write, EntityError> {
    let delete =
        Delete { id: entity_id(&request.id)?, precondition: precondition(request.precondition)? };
    Ok(Write { request: Request::Delete(delete), write_id: write_id(request.write_id) })
}

/// Reads a resolution, for which a precondition may be left out.
///
/// # Errors
///
/// [`EntityError::Rejected`] names the field.
pub fn resolve(request: &v1::EntityResolveRequest) -> Result<Write, EntityError> {
    let precondition = match request.precondition {
        None => Precondition::Unconditional,
        some => precondition(some)?,
    };
    let resolve = Resolve { id: entity_id(&request.id)?, precondition };
    Ok(Write { request: Request::Resolve(resolve), write_id: write_id(request.write_id) })
}

/// Reads a query for entities.
///
/// # Errors
///
/// [`EntityError::Rejected`] names the field.
pub fn list_query(request: v1::EntityListRequest) -> Result<ListQuery, EntityError> {
    let state = |text: String| text.parse::<EntityState>();
    let state = some(request.state).map(state).transpose();
    Ok(ListQuery {
        types: type_prefix(&request.type_prefix)?,
        org: org(request.org)?,
        name: some(request.name),
        state: state.map_err(|error| EntityRejection::invalid("state", error.to_string()))?,
        page_size: size(request.page_size),
        page_token: request.page_token,
        summary: request.summary,
        consistency: consistency(request.consistency)?,
    })
}

/// Reads a query for history.
///
/// # Errors
///
/// [`EntityError::Rejected`] names the field.
pub fn history_query(request: &v1::EntityHistoryRequest) -> Result<HistoryQuery, EntityError> {
    Ok(HistoryQuery {
        id: entity_id(&request.id)?,
        limit: size(request.limit),
        before: Revision::new(request.before_revision),
        summary: request.summary,
    })
}

/// Reads what a watch asks for.
///
/// # Errors
///
/// [`EntityError::Rejected`] names the field.
pub fn filter(request: &v1::EntityWatchRequest) -> Result<EntityFilter, EntityError> {
    let id = match request.id.as_str() {
        "" => None,
        id => Some(entity_id(id)?),
    };
    let org = org(request.org.clone())?;
    Ok(EntityFilter { types: type_prefix(&request.type_prefix)?, org, id })
}

/// Reads a precondition, which has to be there.
///
/// # Errors
///
/// [`EntityRejection::Precondition`] if it is not, or says nothing.
pub fn precondition(
    precondition: Option<v1::Precondition>,
) -> Result<Precondition, EntityRejection> {
    use v1::precondition::Condition;
    match precondition.and_then(|precondition| precondition.condition) {
        Some(Condition::IfRevision(revision)) => {
            Ok(Precondition::IfRevision(Revision::new(revision)))
        }
        Some(Condition::IfAbsent(true)) => Ok(Precondition::IfAbsent),
        Some(Condition::Unconditional(true)) => Ok(Precondition::Unconditional),
        Some(Condition::IfAbsent(false) | Condition::Unconditional(false)) => {
            Err(EntityRejection::Precondition("a precondition that is false says nothing"))
        }
        None => Err(EntityRejection::Precondition(
            "there is no precondition; a write has to say what it demands of the present",
        )),
    }
}

/// Reads a write id.
pub fn write_id(write_id: Option<v1::WriteId>) -> Option<WriteId> {
    write_id.map(|id| WriteId {
        session: SessionId(id.session),
        sequence: id.sequence,
        acked_below: id.acked_below,
    })
}

/// Reads a consistency.
///
/// # Errors
///
/// [`EntityRejection::InvalidField`] if the number has no meaning.
pub fn consistency(number: i32) -> Result<Consistency, EntityRejection> {
    match v1::Consistency::try_from(number) {
        Ok(v1::Consistency::Linearizable) => Ok(Consistency::Linearizable),
        Ok(v1::Consistency::Serializable) => Ok(Consistency::Serializable),
        Err(_) => Err(EntityRejection::invalid("consistency", "the number has no meaning")),
    }
}

/// A type as the API shows it.
pub fn entity_type_to_proto(entity_type: EntityType) -> v1::EntityType {
    v1::EntityType {
        id: entity_type.id.to_string(),
        vendor: entity_type.id.name.vendor().to_owned(),
        nss: entity_type.id.name.nss().to_owned(),
        version: entity_type.id.version.to_string(),
        name: entity_type.name,
        description: entity_type.description,
        schema: entity_type.schema,
        content_hash: entity_type.content_hash.to_vec().into(),
        created_ms: entity_type.created.0,
        revision: entity_type.revision.get(),
    }
}

/// An entity as the API shows it.
pub fn entity_to_proto(entity: Entity) -> v1::Entity {
    v1::Entity {
        id: entity.id.to_string(),
        type_id: entity.type_id.to_string(),
        name: entity.name,
        external_id: entity.external_id,
        org: entity.org,
        owner: entity.owner,
        state: state_to_proto(entity.state).into(),
        message: entity.message,
        document: entity.document,
        create_revision: entity.create_revision.get(),
        revision: entity.revision.get(),
        created_ms: entity.created.0,
        modified_ms: entity.modified.0,
        finalizers: entity.finalizers,
    }
}

/// A version as the API shows it.
pub fn version_to_proto(version: EntityVersion) -> v1::EntityVersion {
    v1::EntityVersion {
        revision: version.revision.get(),
        deleted: version.entity.is_none(),
        entity: version.entity.map(entity_to_proto),
    }
}

/// An event as the API shows it; with `summary`, without the document.
pub fn event_to_proto(event: EntityEvent, summary: bool) -> v1::EntityEvent {
    let kind = match event.kind {
        EntityEventKind::Created => v1::entity_event::Kind::Created,
        EntityEventKind::Updated => v1::entity_event::Kind::Updated,
        EntityEventKind::Deleted => v1::entity_event::Kind::Deleted,
    };
    let mut entity = event.entity;
    if summary {
        entity.document.clear();
    }
    let revision = event.revision.get();
    v1::EntityEvent { kind: kind.into(), entity: Some(entity_to_proto(entity)), revision }
}

fn state_to_proto(state: EntityState) -> v1::EntityState {
    match state {
        EntityState::PreCreated => v1::EntityState::PreCreated,
        EntityState::Resolved => v1::EntityState::Resolved,
        EntityState::ResolutionError => v1::EntityState::ResolutionError,
        EntityState::InDeletion => v1::EntityState::InDeletion,
    }
}

fn state(number: i32) -> Result<Option<EntityState>, EntityRejection> {
    Ok(Some(match v1::EntityState::try_from(number) {
        Ok(v1::EntityState::Unspecified) => return Ok(None),
        Ok(v1::EntityState::PreCreated) => EntityState::PreCreated,
        Ok(v1::EntityState::Resolved) => EntityState::Resolved,
        Ok(v1::EntityState::ResolutionError) => EntityState::ResolutionError,
        Ok(v1::EntityState::InDeletion) => EntityState::InDeletion,
        Err(_) => return Err(EntityRejection::invalid("state", "the number has no meaning")),
    }))
}

fn type_prefix(text: &str) -> Result<Option<TypePrefix>, EntityError> {
    match text {
        "" => Ok(None),
        text => Ok(Some(text.parse().map_err(EntityRejection::urn("type_prefix"))?)),
    }
}

/// An org to look for: it becomes part of a key, so it must not have the
/// byte that separates.
fn org(text: String) -> Result<Option<String>, EntityError> {
    if text.chars().any(char::is_control) {
        return Err(EntityRejection::invalid("org", "it has control characters").into());
    }
    Ok(some(text))
}

fn some(text: String) -> Option<String> {
    if text.is_empty() { None } else { Some(text) }
}

fn size(size: u32) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}
