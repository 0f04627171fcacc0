//! An entity: its envelope, its document, and how both are stored.

use super::DecodeError;
use super::state::EntityState;
use super::urn::{EntityId, TypeId};
use crate::limits::SECTIONS_MAX;
use crate::machine::Record;
use crate::{Millis, Revision};
use bytes::Bytes;
use keelstone_proto::disk::{StoredEntity, StoredEntityState};
use prost::Message as _;
use std::collections::BTreeMap;
use std::fmt;

/// Sections whose names are longer share one revision.
const SECTION_NAME_BYTES_MAX: usize = 256;
/// In a planned entity: the revision that its write will have.
const NOW: Revision = Revision::new(u64::MAX);

/// An entity as it is stored, or as a plan makes it.
#[derive(Clone, PartialEq, Eq)]
pub struct Entity {
    /// Its name, stable over versions of its type.
    pub id: EntityId,
    /// Its type.
    pub type_id: TypeId,
    /// For people; not unique.
    pub name: String,
    /// The id of what it stands for elsewhere; may be empty.
    pub external_id: String,
    /// The tenant that it belongs to, for good; may be empty.
    pub org: String,
    /// Who owns it; may be empty.
    pub owner: String,
    /// Its state.
    pub state: EntityState,
    /// Why the state is `RESOLUTION_ERROR`, else empty.
    pub message: String,
    /// Who has to agree to its deletion.
    pub finalizers: Vec<String>,
    /// When the parts of the document last changed.
    pub sections: Sections,
    /// The document: JSON as it was last written.
    pub document: Bytes,
    /// When it was created, in the log's time or later.
    pub created: Millis,
    /// When it was last changed, in the log's time or later.
    pub modified: Millis,
    /// The revision that created it; zero in a plan.
    pub create_revision: Revision,
    /// The revision of its last change; zero in a plan.
    pub revision: Revision,
}

/// Documents and names are user data: only what is safe to log is shown.
impl fmt::Debug for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, state, revision) = (self.document.len(), self.state, self.revision);
        write!(f, "Entity({}, {bytes} bytes, {state}, {revision})", self.type_id.short())
    }
}

impl Entity {
    /// The value of the entity's key.
    pub fn encode(&self) -> Bytes {
        let sections = self.sections.known.iter();
        let (others, others_now) = match self.sections.others {
            NOW => (0, true),
            at => (at.get(), false),
        };
        let stored = StoredEntity {
            id: self.id.to_string(),
            type_id: self.type_id.to_string(),
            name: self.name.clone(),
            external_id: self.external_id.clone(),
            org: self.org.clone(),
            owner: self.owner.clone(),
            state: stored_state(self.state).into(),
            message: self.message.clone(),
            finalizers: self.finalizers.clone(),
            sections: sections
                .map(|(name, at)| (name.clone(), if *at == NOW { 0 } else { at.get() }))
                .collect(),
            other_sections: others,
            other_sections_now: others_now,
            created_ms: self.created.0,
            modified_ms: self.modified.0,
            document: self.document.clone(),
        };
        stored.encode_to_vec().into()
    }

    /// Reads the value of an entity's key. The document is a slice of it.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if it is not one.
    pub fn decode(record: &Record) -> Result<Self, DecodeError> {
        let stored = StoredEntity::decode(record.value.clone())?;
        let revision = record.modified;
        let at = |number: u64| if number == 0 { revision } else { Revision::new(number) };
        let others =
            if stored.other_sections_now { revision } else { Revision::new(stored.other_sections) };
        let known = stored.sections.into_iter().map(|(name, number)| (name, at(number)));
        Ok(Self {
            id: stored.id.parse().map_err(|_| DecodeError::Field("id"))?,
            type_id: stored.type_id.parse().map_err(|_| DecodeError::Field("type_id"))?,
            name: stored.name,
            external_id: stored.external_id,
            org: stored.org,
            owner: stored.owner,
            state: state_of(stored.state).ok_or(DecodeError::Field("state"))?,
            message: stored.message,
            finalizers: stored.finalizers,
            sections: Sections { known: known.collect(), others },
            document: stored.document,
            created: Millis(stored.created_ms),
            modified: Millis(stored.modified_ms),
            create_revision: record.created,
            revision,
        })
    }

    /// This entity as it is once its plan was applied at `revision`.
    #[must_use]
    pub fn stored_at(mut self, revision: Revision) -> Self {
        if self.create_revision == Revision::ZERO {
            self.create_revision = revision;
        }
        self.revision = revision;
        self.sections.settle(revision);
        self
    }
}

/// The revisions at which the parts of a document last changed: of each
/// top-level member, up to [`SECTIONS_MAX`] of them, and one revision for all
/// others, those that were removed included. It may name too late a revision
/// for those, never too early a one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sections {
    known: BTreeMap<String, Revision>,
    others: Revision,
}

impl Sections {
    /// When the top-level member `name` last changed: written or removed;
    /// [`Revision::ZERO`] if it never was there.
    pub fn changed(&self, name: &str) -> Revision {
        self.known.get(name).copied().unwrap_or(self.others)
    }

    /// Notes that these members change now; `false` stands for a removal.
    pub(super) fn change(&mut self, changed: BTreeMap<String, bool>) {
        for (name, there) in changed {
            let room = self.known.contains_key(&name) || self.known.len() < SECTIONS_MAX;
            if there && room && name.len() <= SECTION_NAME_BYTES_MAX {
                self.known.insert(name, NOW);
            } else {
                self.known.remove(&name);
                self.others = NOW;
            }
        }
    }

    fn settle(&mut self, revision: Revision) {
        let all = self.known.values_mut().chain([&mut self.others]);
        for at in all.filter(|at| **at == NOW) {
            *at = revision;
        }
    }
}

fn stored_state(state: EntityState) -> StoredEntityState {
    match state {
        EntityState::PreCreated => StoredEntityState::PreCreated,
        EntityState::Resolved => StoredEntityState::Resolved,
        EntityState::ResolutionError => StoredEntityState::ResolutionError,
        EntityState::InDeletion => StoredEntityState::InDeletion,
    }
}

fn state_of(number: i32) -> Option<EntityState> {
    match StoredEntityState::try_from(number).ok()? {
        StoredEntityState::Unspecified => None,
        StoredEntityState::PreCreated => Some(EntityState::PreCreated),
        StoredEntityState::Resolved => Some(EntityState::Resolved),
        StoredEntityState::ResolutionError => Some(EntityState::ResolutionError),
        StoredEntityState::InDeletion => Some(EntityState::InDeletion),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(names: &[(&str, bool)]) -> BTreeMap<String, bool> {
        names.iter().map(|(name, there)| ((*name).to_owned(), *there)).collect()
    }

    fn stored(mut sections: Sections, names: &[(&str, bool)], revision: u64) -> Sections {
        sections.change(changed(names));
        sections.settle(Revision::new(revision));
        sections
    }

    #[test]
    fn sections_know_when_they_changed() {
        let first = stored(Sections::default(), &[("spec", true), ("status", true)], 5);
        assert_eq!(first.changed("spec"), Revision::new(5));
        assert_eq!(first.changed("other"), Revision::ZERO);
        let second = stored(first, &[("spec", false), ("status", true)], 9);
        assert_eq!(second.changed("spec"), Revision::new(9), "a removal is a change");
        assert_eq!(second.changed("status"), Revision::new(9));
        let third = stored(second, &[("spec", true)], 11);
        assert_eq!(third.changed("spec"), Revision::new(11));
        assert_eq!(third.changed("status"), Revision::new(9));
    }

    #[test]
    fn too_many_sections_share_a_revision() {
        let names: BTreeMap<_, _> = (0..300).map(|at| (format!("s{at:03}"), true)).collect();
        let mut sections = Sections::default();
        sections.change(names);
        sections.settle(Revision::new(4));
        assert_eq!(sections.known.len(), SECTIONS_MAX);
        let sections = stored(sections, &[("s299", true)], 6);
        assert_eq!(sections.changed("s000"), Revision::new(4));
        assert_eq!(sections.changed("s298"), Revision::new(6), "late is allowed, early is not");
    }

    #[test]
    fn an_entity_is_read_as_it_was_written() {
        let type_id: TypeId = "urn:vcloud:type:vmware:capvcdCluster:1.3.0".parse().unwrap();
        let uuid = "5e0a7b9c-0f3d-4f0e-9a53-0d1c2b3a4f5e";
        let mut sections = Sections::default();
        sections.change(changed(&[("spec", true), ("gone", false)]));
        let entity = Entity {
            id: EntityId::new(type_id.name.clone(), uuid).unwrap(),
            type_id,
            name: "demo".to_owned(),
            external_id: "urn:vcloud:vapp:1".to_owned(),
            org: "tenant".to_owned(),
            owner: "author".to_owned(),
            state: EntityState::ResolutionError,
            message: "/kind: not one of them".to_owned(),
            finalizers: vec!["machines".to_owned()],
            sections,
            document: Bytes::from_static(b"{ \"spec\": 1.50 }"),
            created: Millis(17),
            modified: Millis(19),
            create_revision: Revision::ZERO,
            revision: Revision::ZERO,
        };
        let (created, modified) = (Revision::new(7), Revision::new(7));
        let value = entity.encode();
        let record = Record { value, created, modified, ..Record::default() };
        assert_eq!(Entity::decode(&record), Ok(entity.stored_at(modified)));
        let broken = Record { value: Bytes::from_static(b"\x0a\x01x"), ..record };
        assert_eq!(Entity::decode(&broken), Err(DecodeError::Field("id")));
    }
}
