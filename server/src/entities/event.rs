//! Changes of entities, as watchers see them: pure functions from the core's
//! events.

use keelstone_store::entity::keys;
use keelstone_store::entity::{DecodeError, Entity, EntityId, TypePrefix};
use keelstone_store::machine::{Event, Record};
use keelstone_store::{KeyRange, Revision};

/// A change of an entity.
#[derive(Clone, Debug, PartialEq)]
pub struct EntityEvent {
    /// What happened.
    pub kind: EntityEventKind,
    /// The entity afterwards; of a deleted one its last version.
    pub entity: Entity,
    /// The revision of the change.
    pub revision: Revision,
}

/// What happened to an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntityEventKind {
    /// It was created.
    Created,
    /// It was changed.
    Updated,
    /// It is gone.
    Deleted,
}

/// Which entities a watcher asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntityFilter {
    /// Only of these types.
    pub types: Option<TypePrefix>,
    /// Only of this org.
    pub org: Option<String>,
    /// Only this one.
    pub id: Option<EntityId>,
}

impl EntityFilter {
    /// The keys to watch. Not every change of them passes the filter.
    pub fn range(&self) -> KeyRange {
        match (&self.id, &self.types) {
            (Some(id), _) => KeyRange::single(&keys::entity(id)),
            (None, Some(types)) => keys::entities_of(&types.name),
            (None, None) => keys::entities(),
        }
    }

    /// What `event` means to the watcher. `None` if it passes the filter not.
    /// A change of type is shown if the type before or the type after is asked
    /// for, so that a watcher sees an entity leave.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if the store holds something that is not an entity.
    pub fn event(&self, event: &Event) -> Result<Option<EntityEvent>, DecodeError> {
        if !keys::is_entity(&event.key) {
            return Ok(None);
        }
        let decode = |record: &Option<Record>| record.as_ref().map(Entity::decode).transpose();
        let (now, before) = (decode(&event.record)?, decode(&event.previous)?);
        let passes = [&now, &before].into_iter().flatten().any(|entity| self.passes(entity));
        if !passes {
            return Ok(None);
        }
        let (kind, entity) = match (now, before) {
            (Some(now), None) => (EntityEventKind::Created, now),
            (Some(now), Some(_)) => (EntityEventKind::Updated, now),
            (None, Some(before)) => (EntityEventKind::Deleted, before),
            (None, None) => return Ok(None),
        };
        Ok(Some(EntityEvent { kind, entity, revision: event.revision }))
    }

    /// Whether the entity is asked for.
    pub fn passes(&self, entity: &Entity) -> bool {
        self.types.as_ref().is_none_or(|types| types.matches(&entity.type_id))
            && self.org.as_ref().is_none_or(|org| *org == entity.org)
            && self.id.as_ref().is_none_or(|id| *id == entity.id)
    }
}
