//! What an operation on an entity does, computed from what was read.
//!
//! [`plan`] is pure. It takes the request, the entity as it was read and the
//! schema of the type that the entity will have, and returns a transaction that
//! is guarded by the revision read: if the entity has changed since, the
//! transaction fails and the caller reads and plans anew. Validation happens
//! here and never in apply, so that two versions of a validator cannot make
//! replicas diverge.
//!
//! Time comes in as `now`: the replicated time that was read, or the planning
//! node's clock if that is later. An entity's times never go back.

use super::document::{Document, merge};
use super::rejection::EntityRejection;
use super::request::{
    Create, Delete, EnvelopeChange, Patch, Precondition, Request, Resolve, Update,
};
use super::schema::{Invalid, Schema};
use super::state::{EntityState, Next, Step, first, next};
use super::urn::TypeId;
use super::{Entity, Sections, keys, text};
use crate::limits;
use crate::machine::{Compare, Delete as DeleteKeys, Op, Put, Relation, Target, Txn};
use crate::{Key, KeyRange, Millis, Revision};
use bytes::Bytes;
use std::collections::BTreeMap;

/// What an operation comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// What is to be done about it.
    pub action: Action,
    /// The entity afterwards, or as it is if nothing changes, or as it was at
    /// last if it goes. In a plan its revisions are not settled; see
    /// [`Entity::stored_at`].
    pub entity: Entity,
    /// What the caller should know although it is no error.
    pub warnings: Vec<String>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Nothing: the entity is already as it should be.
    Nothing,
    /// This transaction writes the entity.
    Write(Txn),
    /// This transaction deletes it.
    Delete(Txn),
}

/// Plans `request` for the entity as it was read. `schema` is that of
/// [`Request::type_id`], `None` if it is not registered.
///
/// # Errors
///
/// [`EntityRejection`]: a judgement on what was read.
pub fn plan(
    request: &Request,
    existing: Option<&Entity>,
    schema: Option<&Schema>,
    now: Millis,
) -> Result<Planned, EntityRejection> {
    if let Request::Create(request) = request {
        return create(request, existing, schema, now);
    }
    let existing = existing.ok_or_else(|| EntityRejection::NotFound(request.id().clone()))?;
    demand(existing, request.precondition())?;
    let now = now.max(existing.modified);
    match request {
        Request::Create(_) => unreachable!("answered above"),
        Request::Update(request) => update(request, existing, schema, now),
        Request::Patch(request) => patch(request, existing, schema, now),
        Request::Delete(request) => delete(request, existing, now),
        Request::Resolve(request) => resolve(request, existing, schema, now),
    }
}

fn demand(existing: &Entity, precondition: Precondition) -> Result<(), EntityRejection> {
    let current = existing.revision;
    match precondition {
        Precondition::Unconditional => Ok(()),
        Precondition::IfRevision(expected) if expected == current => Ok(()),
        Precondition::IfRevision(expected) => {
            Err(EntityRejection::Conflict { id: existing.id.clone(), expected, current })
        }
        Precondition::IfAbsent => Err(EntityRejection::Precondition(
            "if_absent makes no sense for an entity that has to be there",
        )),
    }
}

fn create(
    request: &Create,
    existing: Option<&Entity>,
    schema: Option<&Schema>,
    now: Millis,
) -> Result<Planned, EntityRejection> {
    text::check_some("name", &request.name, limits::ENTITY_NAME_BYTES_MAX)?;
    text::check("external_id", &request.external_id, limits::ENTITY_TEXT_BYTES_MAX)?;
    text::check("owner", &request.owner, limits::ENTITY_TEXT_BYTES_MAX)?;
    text::check("org", &request.org, limits::ENTITY_ORG_BYTES_MAX)?;
    text::check_finalizers(&request.finalizers)?;
    let document = Document::parse("document", &request.document)?;
    if let Some(existing) = existing {
        let (id, current) = (existing.id.clone(), existing.revision);
        return Err(EntityRejection::Exists { id, current });
    }
    let type_id = &request.type_id;
    let schema = schema.ok_or_else(|| EntityRejection::TypeNotFound(type_id.clone()))?;
    let judged = judge(first(request.resolve), &document, schema, type_id)?;
    let mut sections = Sections::default();
    let empty = Document::parse("document", b"{}").expect("an object");
    sections.change(document.sections_changed_since(&empty));
    let entity = Entity {
        id: request.id.clone(),
        type_id: type_id.clone(),
        name: request.name.clone(),
        external_id: request.external_id.clone(),
        org: request.org.clone(),
        owner: request.owner.clone(),
        state: judged.state,
        message: judged.message,
        finalizers: request.finalizers.clone(),
        sections,
        document: request.document.clone(),
        created: now,
        modified: now,
        create_revision: Revision::ZERO,
        revision: Revision::ZERO,
    };
    Ok(written(entity, None))
}

fn update(
    request: &Update,
    existing: &Entity,
    schema: Option<&Schema>,
    now: Millis,
) -> Result<Planned, EntityRejection> {
    let type_id = request.type_id.as_ref().unwrap_or(&existing.type_id);
    if type_id.name != existing.type_id.name {
        let (from, to) = (Box::new(existing.type_id.clone()), Box::new(type_id.clone()));
        return Err(EntityRejection::OtherType { from, to });
    }
    let after = Document::parse("document", &request.document)?;
    let before = Document::parse("document", &existing.document)?;
    let change = Change {
        bytes: request.document.clone(),
        sections: after.sections_changed_since(&before),
        document: &after,
        type_id,
        envelope: &request.envelope,
        begin_deletion: request.begin_deletion,
    };
    change.plan(existing, schema, now)
}

fn patch(
    request: &Patch,
    existing: &Entity,
    schema: Option<&Schema>,
    now: Millis,
) -> Result<Planned, EntityRejection> {
    let patch = Document::parse("merge_patch", &request.merge_patch)?;
    let before = Document::parse("document", &existing.document)?;
    let merged = Bytes::from(merge(before.json(), patch.json()));
    let after = Document::parse("document", &merged)?;
    let sections = after.sections_changed_since(&before);
    let change = Change {
        // A patch that changes no meaning changes no spelling either.
        bytes: if sections.is_empty() { existing.document.clone() } else { merged.clone() },
        sections,
        document: &after,
        type_id: &existing.type_id,
        envelope: &request.envelope,
        begin_deletion: false,
    };
    change.plan(existing, schema, now)
}

fn delete(request: &Delete, existing: &Entity, now: Millis) -> Result<Planned, EntityRejection> {
    debug_assert_eq!(request.id, existing.id);
    let held = !existing.finalizers.is_empty();
    let step = if held { Step::DeleteHeld } else { Step::DeleteFree };
    let mut entity = existing.clone();
    match next(existing.state, step)? {
        Next::Gone => Ok(deleted(entity)),
        Next::Unchecked(state) => {
            entity.state = state;
            entity.message.clear();
            Ok(changed(entity, existing, now))
        }
        Next::Checked(_) | Next::Verdict => unreachable!("a deletion asks for no verdict"),
    }
}

fn resolve(
    request: &Resolve,
    existing: &Entity,
    schema: Option<&Schema>,
    now: Millis,
) -> Result<Planned, EntityRejection> {
    debug_assert_eq!(request.id, existing.id);
    let next = next(existing.state, Step::Resolve)?;
    let schema = schema.ok_or_else(|| EntityRejection::TypeNotFound(existing.type_id.clone()))?;
    let document = Document::parse("document", &existing.document)?;
    let judged = judge(next, &document, schema, &existing.type_id)?;
    let mut entity = existing.clone();
    entity.state = judged.state;
    entity.message = judged.message;
    Ok(changed(entity, existing, now))
}

/// What an update and a patch have in common.
struct Change<'r> {
    /// The document afterwards.
    bytes: Bytes,
    /// What it says.
    document: &'r Document<'r>,
    /// Which parts of it change.
    sections: BTreeMap<String, bool>,
    type_id: &'r TypeId,
    envelope: &'r EnvelopeChange,
    begin_deletion: bool,
}

impl Change<'_> {
    fn plan(
        self,
        existing: &Entity,
        schema: Option<&Schema>,
        now: Millis,
    ) -> Result<Planned, EntityRejection> {
        let mut entity = existing.clone();
        self.envelope.apply(&mut entity)?;
        let step = self.step(existing, &entity);
        let to = next(existing.state, step)?;
        if to == Next::Gone {
            let mut planned = deleted(entity);
            planned.warnings.push("its last finalizer is gone, and so is the entity".to_owned());
            return Ok(planned);
        }
        let type_id = self.type_id;
        let schema = schema.ok_or_else(|| EntityRejection::TypeNotFound(type_id.clone()))?;
        let judged = judge(to, self.document, schema, type_id)?;
        if judged.state != existing.state || step == Step::Write {
            entity.message = judged.message;
        }
        entity.state = judged.state;
        entity.type_id = type_id.clone();
        entity.sections.change(self.sections);
        entity.document = self.bytes;
        Ok(changed(entity, existing, now))
    }

    fn step(&self, existing: &Entity, entity: &Entity) -> Step {
        let leaving = existing.state == EntityState::InDeletion;
        if leaving && !existing.finalizers.is_empty() && entity.finalizers.is_empty() {
            Step::ReleaseLast
        } else if self.begin_deletion {
            Step::BeginDeletion
        } else if !self.sections.is_empty() || *self.type_id != existing.type_id {
            Step::Write
        } else {
            Step::Touch
        }
    }
}

impl EnvelopeChange {
    /// Changes what is to change.
    fn apply(&self, entity: &mut Entity) -> Result<(), EntityRejection> {
        if let Some(name) = &self.name {
            text::check_some("name", name, limits::ENTITY_NAME_BYTES_MAX)?;
            entity.name.clone_from(name);
        }
        if let Some(external_id) = &self.external_id {
            text::check("external_id", external_id, limits::ENTITY_TEXT_BYTES_MAX)?;
            entity.external_id.clone_from(external_id);
        }
        if let Some(owner) = &self.owner {
            text::check("owner", owner, limits::ENTITY_TEXT_BYTES_MAX)?;
            entity.owner.clone_from(owner);
        }
        if let Some(finalizers) = &self.finalizers {
            text::check_finalizers(finalizers)?;
            let added = finalizers.iter().any(|name| !entity.finalizers.contains(name));
            if added && entity.state == EntityState::InDeletion {
                return Err(EntityRejection::FinalizerAdded);
            }
            entity.finalizers.clone_from(finalizers);
        }
        Ok(())
    }
}

/// A state that a document is allowed to have, and the message to it.
struct Judged {
    state: EntityState,
    message: String,
}

fn judge(
    next: Next,
    document: &Document<'_>,
    schema: &Schema,
    type_id: &TypeId,
) -> Result<Judged, EntityRejection> {
    let validate = || schema.validate(document.json());
    let invalid =
        |invalid: Invalid| EntityRejection::InvalidDocument { type_id: type_id.clone(), invalid };
    let (state, message) = match next {
        Next::Unchecked(state) => (state, String::new()),
        Next::Checked(state) => {
            validate().map_err(invalid)?;
            (state, String::new())
        }
        Next::Verdict => match validate() {
            Ok(()) => (EntityState::Resolved, String::new()),
            Err(invalid) => (EntityState::ResolutionError, invalid.to_string()),
        },
        Next::Gone => unreachable!("what goes needs no verdict"),
    };
    Ok(Judged { state, message })
}

/// Writes `entity` if it differs from what is there.
fn changed(mut entity: Entity, existing: &Entity, now: Millis) -> Planned {
    if entity == *existing {
        return Planned { action: Action::Nothing, entity, warnings: Vec::new() };
    }
    entity.modified = now;
    written(entity, Some(existing))
}

fn written(entity: Entity, existing: Option<&Entity>) -> Planned {
    let key = keys::entity(&entity.id);
    let revision = existing.map_or(Revision::ZERO, |existing| existing.revision);
    let rows = |entity: &Entity| keys::index_rows(&entity.id, &entity.type_id, &entity.org);
    let mut then = vec![Op::Put(Put::new(key.clone(), entity.encode()))];
    let (old, new) = (existing.map(rows).unwrap_or_default(), rows(&entity));
    then.extend(old.iter().filter(|row| !new.contains(row)).map(remove));
    then.extend(
        new.iter()
            .filter(|row| !old.contains(row))
            .map(|row| Op::Put(Put::new(row.clone(), Bytes::new()))),
    );
    let txn = Txn { compares: vec![unchanged(&key, revision)], then, otherwise: Vec::new() };
    let mut warnings = Vec::new();
    let (bytes, warn) = (entity.document.len(), limits::DOCUMENT_BYTES_WARN);
    if bytes > warn {
        warnings.push(format!(
            "the document is {bytes} bytes; from {warn} on every change of it is slow"
        ));
    }
    Planned { action: Action::Write(txn), entity, warnings }
}

fn deleted(entity: Entity) -> Planned {
    let key = keys::entity(&entity.id);
    let compares = vec![unchanged(&key, entity.revision)];
    let mut then = vec![remove(&key)];
    then.extend(keys::index_rows(&entity.id, &entity.type_id, &entity.org).iter().map(remove));
    let txn = Txn { compares, then, otherwise: Vec::new() };
    Planned { action: Action::Delete(txn), entity, warnings: Vec::new() }
}

/// The guard of every write: the key is as it was read.
fn unchanged(key: &Key, revision: Revision) -> Compare {
    Compare {
        range: KeyRange::single(key),
        relation: Relation::Equal,
        target: Target::Modified(revision),
    }
}

fn remove(key: &Key) -> Op {
    Op::Delete(DeleteKeys { range: KeyRange::single(key), previous: false })
}
