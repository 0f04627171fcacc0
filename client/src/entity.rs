//! What an entity is, for programs.

use crate::types::time_of;
use crate::{Error, ErrorKind, Outcome, Revision};
use bytes::Bytes;
use keelstone_proto::v1;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::time::SystemTime;

/// A Rust type that the documents of an entity type are read into.
///
/// Fields of the document that the Rust type does not have are invisible to it;
/// [`Entities::modify`](crate::Entities::modify) and
/// [`Entities::patch`](crate::Entities::patch) leave them alone, while
/// [`Entities::update`](crate::Entities::update) replaces the whole document.
///
/// # Examples
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Cluster {
///     #[serde(rename = "apiVersion")]
///     api_version: String,
///     status: Option<serde_json::Value>,
/// }
///
/// impl keelstone_client::EntityType for Cluster {
///     const TYPE_ID: &'static str = "urn:vcloud:type:vmware:capvcdCluster:1.2.0";
/// }
/// ```
pub trait EntityType: Serialize + DeserializeOwned + Send + Sync {
    /// The URN of the type that new entities get.
    const TYPE_ID: &'static str;

    /// Which entities belong to the type when listing and watching: a type URN
    /// with a whole version, the beginning of one, or none. All entities of
    /// exactly [`EntityType::TYPE_ID`] if it is not given.
    const TYPE_PREFIX: &'static str = Self::TYPE_ID;
}

/// Where an entity is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum EntityState {
    /// Created, and not validated yet.
    PreCreated,
    /// The document is valid.
    Resolved,
    /// The document is not valid; [`Entity::message`] says why.
    ResolutionError,
    /// It was asked to go, and waits for its finalizers.
    InDeletion,
}

impl EntityState {
    /// Its name, as in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PreCreated => "PRE_CREATED",
            Self::Resolved => "RESOLVED",
            Self::ResolutionError => "RESOLUTION_ERROR",
            Self::InDeletion => "IN_DELETION",
        }
    }

    fn from_wire(state: v1::EntityState) -> Option<Self> {
        match state {
            v1::EntityState::PreCreated => Some(Self::PreCreated),
            v1::EntityState::Resolved => Some(Self::Resolved),
            v1::EntityState::ResolutionError => Some(Self::ResolutionError),
            v1::EntityState::InDeletion => Some(Self::InDeletion),
            v1::EntityState::Unspecified => None,
        }
    }
}

impl fmt::Display for EntityState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A document with its envelope. `D` is the document: bytes of JSON as they were
/// written, or a Rust type.
///
/// `Debug` of an untyped one shows the document's size only.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Entity<D = Bytes> {
    /// `urn:vcloud:entity:<vendor>:<nss>:<uuid>`, stable over type versions.
    pub id: String,
    /// `urn:vcloud:type:<vendor>:<nss>:<version>`.
    pub type_id: String,
    /// Not unique.
    pub name: String,
    /// Free for the owner's use.
    pub external_id: String,
    /// The organisation that it belongs to.
    pub org: String,
    /// Who owns it.
    pub owner: String,
    /// Where it is in its life.
    pub state: EntityState,
    /// Why the state is [`EntityState::ResolutionError`].
    pub message: String,
    /// The document; empty in a summary.
    pub document: D,
    /// The revision that created it.
    pub create_revision: Revision,
    /// The revision of its last change, which a
    /// [`Precondition`](crate::Precondition) names.
    pub revision: Revision,
    /// When it was created, by the cluster's time.
    pub created: SystemTime,
    /// When it was last changed, by the cluster's time.
    pub modified: SystemTime,
    /// Deletion waits until this is empty.
    pub finalizers: Vec<String>,
    /// What the server wants known, such as that the document is large.
    pub warnings: Vec<String>,
}

impl<D> fmt::Debug for Entity<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entity")
            .field("id", &self.id)
            .field("type_id", &self.type_id)
            .field("state", &self.state)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

impl Entity<Bytes> {
    pub(crate) fn from_wire(wire: v1::Entity) -> Result<Self, Error> {
        let state = EntityState::from_wire(wire.state())
            .ok_or_else(|| Error::unintelligible("the entity is in a state unknown here"))?;
        Ok(Self {
            id: wire.id,
            type_id: wire.type_id,
            name: wire.name,
            external_id: wire.external_id,
            org: wire.org,
            owner: wire.owner,
            state,
            message: wire.message,
            document: wire.document,
            create_revision: wire.create_revision.into(),
            revision: wire.revision.into(),
            created: time_of(wire.created_ms),
            modified: time_of(wire.modified_ms),
            finalizers: wire.finalizers,
            warnings: Vec::new(),
        })
    }

    /// Reads the document into a Rust type.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if the document does not fit the type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<Entity<T>, Error> {
        let document = serde_json::from_slice(&self.document).map_err(|error| {
            let message = format!("the document of {} does not fit the type: {error}", self.id);
            let kind = ErrorKind::Invalid { field: "document".to_owned() };
            Error::new(kind, Outcome::NotApplied, message)
        })?;
        Ok(self.with_document(document))
    }

    fn with_document<T>(&self, document: T) -> Entity<T> {
        Entity {
            id: self.id.clone(),
            type_id: self.type_id.clone(),
            name: self.name.clone(),
            external_id: self.external_id.clone(),
            org: self.org.clone(),
            owner: self.owner.clone(),
            state: self.state,
            message: self.message.clone(),
            document,
            create_revision: self.create_revision,
            revision: self.revision,
            created: self.created,
            modified: self.modified,
            finalizers: self.finalizers.clone(),
            warnings: self.warnings.clone(),
        }
    }
}

/// What a new entity is to be.
///
/// # Examples
///
/// ```
/// use keelstone_client::NewEntity;
///
/// let new = NewEntity::named("prod-1").org("acme").owner("alice").resolve();
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewEntity {
    pub(crate) name: String,
    pub(crate) external_id: String,
    pub(crate) org: String,
    pub(crate) owner: String,
    pub(crate) uuid: String,
    pub(crate) resolve: bool,
    pub(crate) finalizers: Vec<String>,
}

impl NewEntity {
    /// With this name, which need not be unique.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Free for the owner's use.
    #[must_use]
    pub fn external_id(mut self, id: impl Into<String>) -> Self {
        self.external_id = id.into();
        self
    }

    /// The organisation that it belongs to.
    #[must_use]
    pub fn org(mut self, org: impl Into<String>) -> Self {
        self.org = org.into();
        self
    }

    /// Who owns it.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = owner.into();
        self
    }

    /// The UUID part of the id; the server chooses one otherwise. With it, a
    /// second creation is refused.
    #[must_use]
    pub fn uuid(mut self, uuid: impl Into<String>) -> Self {
        self.uuid = uuid.into();
        self
    }

    /// Validates the document at once.
    #[must_use]
    pub fn resolve(mut self) -> Self {
        self.resolve = true;
        self
    }

    /// Deletion waits until this is taken away.
    #[must_use]
    pub fn finalizer(mut self, name: impl Into<String>) -> Self {
        self.finalizers.push(name.into());
        self
    }
}

/// Changes of the envelope that go along with one of the document. What is not
/// named stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvelopeChange {
    pub(crate) name: Option<String>,
    pub(crate) external_id: Option<String>,
    pub(crate) owner: Option<String>,
    pub(crate) type_id: Option<String>,
    pub(crate) finalizers: Option<Vec<String>>,
    pub(crate) in_deletion: bool,
}

impl EnvelopeChange {
    /// No change yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Another external id.
    #[must_use]
    pub fn external_id(mut self, id: impl Into<String>) -> Self {
        self.external_id = Some(id.into());
        self
    }

    /// Another owner.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// Another version of the same type; only with an update of the whole
    /// document.
    #[must_use]
    pub fn type_id(mut self, id: impl Into<String>) -> Self {
        self.type_id = Some(id.into());
        self
    }

    /// These finalizers instead of those that are there.
    #[must_use]
    pub fn finalizers<I>(mut self, names: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.finalizers = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Marks it as going; only with an update of the whole document.
    #[must_use]
    pub fn in_deletion(mut self) -> Self {
        self.in_deletion = true;
        self
    }

    pub(crate) fn finalizers_to_wire(&self) -> Option<v1::Finalizers> {
        self.finalizers.clone().map(|names| v1::Finalizers { names })
    }
}

/// Which entities to list or to watch. An empty field matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntityFilter {
    /// `urn:vcloud:type:<vendor>:<nss>` with or without a version or the
    /// beginning of one.
    pub type_prefix: String,
    /// The organisation.
    pub org: String,
    /// The name; not for watches.
    pub name: String,
    /// The state; not for watches.
    pub state: Option<EntityState>,
    /// Leaves the documents out.
    pub summary: bool,
}

/// What became of an entity that was asked to go.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Deletion {
    /// It is gone.
    Gone,
    /// Its finalizers keep it; it goes when they are taken away.
    Pending(Box<Entity>),
}

/// A change of an entity.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum EntityEvent<D = Bytes> {
    /// It is new.
    Created(Entity<D>),
    /// It is changed.
    Updated(Entity<D>),
    /// It is gone; this was its last version.
    Deleted(Entity<D>),
}

impl<D> EntityEvent<D> {
    /// The entity; of a deleted one its last version.
    pub fn entity(&self) -> &Entity<D> {
        match self {
            Self::Created(entity) | Self::Updated(entity) | Self::Deleted(entity) => entity,
        }
    }
}

impl EntityEvent<Bytes> {
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<EntityEvent<T>, Error> {
        Ok(match self {
            Self::Created(entity) => EntityEvent::Created(entity.parse()?),
            Self::Updated(entity) => EntityEvent::Updated(entity.parse()?),
            Self::Deleted(entity) => EntityEvent::Deleted(entity.parse()?),
        })
    }
}

/// One version of an entity.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct EntityVersion {
    /// The revision that made it.
    pub revision: Revision,
    /// The entity; `None` if that revision deleted it.
    pub entity: Option<Entity>,
}

/// The kept versions of something, newest first.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct History<V> {
    /// Newest first.
    pub versions: Vec<V>,
    /// History below this revision is gone.
    pub compact_revision: Revision,
    /// Whether there are older ones that are kept.
    pub more: bool,
}
