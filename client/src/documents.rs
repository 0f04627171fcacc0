//! Entities of all types, their documents as bytes of JSON.
//!
//! [`Entities`](crate::Entities) puts Rust types over this.

use crate::call::Route;
use crate::client::Client;
use crate::entity::{
    Deletion, Entity, EntityEvent, EntityFilter, EntityVersion, EnvelopeChange, History, NewEntity,
};
use crate::entity_watch::EntityWatchBuilder;
use crate::types::missing;
use crate::{Consistency, Error, Position, Precondition, Revision};
use bytes::Bytes;
use keelstone_proto::v1;

/// Entities of all types; made by [`Client::documents`].
#[derive(Clone, Debug)]
pub struct Documents {
    client: Client,
}

impl Documents {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Creates an entity of the type with this URN.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) if the type is not
    /// registered, [`AlreadyExists`](crate::ErrorKind::AlreadyExists) if the
    /// UUID is in use, [`Invalid`](crate::ErrorKind::Invalid) if the document is
    /// not a JSON object or a field is malformed,
    /// [`TooLarge`](crate::ErrorKind::TooLarge); and as every write, see
    /// [`Put::send`](crate::Put::send).
    pub async fn create(
        &self,
        type_id: &str,
        new: NewEntity,
        document: impl Into<Bytes>,
    ) -> Result<Entity, Error> {
        let request = v1::EntityCreateRequest {
            type_id: type_id.to_owned(),
            name: new.name,
            external_id: new.external_id,
            org: new.org,
            owner: new.owner,
            document: document.into(),
            uuid: new.uuid,
            resolve: new.resolve,
            finalizers: new.finalizers,
            write_id: None,
        };
        let request = &request;
        let response = self.client.write(|attempt| {
            let write_id = attempt.write_id;
            let request = v1::EntityCreateRequest { write_id, ..request.clone() };
            async move { attempt.entities().create(attempt.request(request)).await }
        });
        entity_of(response.await?)
    }

    /// The entity with this id, as of now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound), and as every read.
    pub async fn get(&self, id: &str) -> Result<Entity, Error> {
        self.get_as(id, Revision::ZERO, Consistency::Linearizable).await
    }

    /// The entity with this id, as it was at `revision`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Compacted`](crate::ErrorKind::Compacted) if that history is
    /// gone, [`NotFound`](crate::ErrorKind::NotFound) if it did not exist then;
    /// and as every read.
    pub async fn get_at(&self, id: &str, revision: Revision) -> Result<Entity, Error> {
        self.get_as(id, revision, Consistency::Linearizable).await
    }

    /// The entity with this id, from some node's own state, which may be behind.
    ///
    /// # Errors
    ///
    /// As [`Documents::get`].
    pub async fn get_serializable(&self, id: &str) -> Result<Entity, Error> {
        self.get_as(id, Revision::ZERO, Consistency::Serializable).await
    }

    async fn get_as(
        &self,
        id: &str,
        revision: Revision,
        consistency: Consistency,
    ) -> Result<Entity, Error> {
        let request = v1::EntityGetRequest {
            id: id.to_owned(),
            revision: revision.get(),
            consistency: consistency.to_wire(),
        };
        let route = match consistency {
            Consistency::Linearizable => Route::Leader,
            Consistency::Serializable => Route::Any,
        };
        let request = &request;
        let response = self.client.read(route, |attempt| {
            let request = request.clone();
            async move { attempt.entities().get(attempt.request(request)).await }
        });
        entity_of(response.await?)
    }

    /// Lists the entities that match, in pages that are all read at one
    /// revision.
    pub fn list(&self, filter: EntityFilter) -> EntityPages {
        let request = v1::EntityListRequest {
            type_prefix: filter.type_prefix,
            org: filter.org,
            name: filter.name,
            summary: filter.summary,
            state: filter.state.map_or_else(String::new, |state| state.as_str().to_owned()),
            ..v1::EntityListRequest::default()
        };
        EntityPages { client: self.client.clone(), request, done: false }
    }

    /// Replaces the document.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) if the precondition
    /// does not hold; else as [`Documents::create`].
    pub async fn update(
        &self,
        id: &str,
        precondition: Precondition,
        document: impl Into<Bytes>,
        envelope: EnvelopeChange,
    ) -> Result<Entity, Error> {
        let state = if envelope.in_deletion {
            v1::EntityState::InDeletion
        } else {
            v1::EntityState::Unspecified
        };
        let request = v1::EntityUpdateRequest {
            id: id.to_owned(),
            precondition: Some(precondition.to_wire()),
            document: document.into(),
            finalizers: envelope.finalizers_to_wire(),
            name: envelope.name,
            external_id: envelope.external_id,
            owner: envelope.owner,
            type_id: envelope.type_id,
            state: state.into(),
            write_id: None,
        };
        let request = &request;
        let response = self.client.write(|attempt| {
            let write_id = attempt.write_id;
            let request = v1::EntityUpdateRequest { write_id, ..request.clone() };
            async move { attempt.entities().update(attempt.request(request)).await }
        });
        entity_of(response.await?)
    }

    /// Changes parts of the document by an RFC 7396 merge patch, at the server.
    /// What the patch does not name stays as it is, whoever wrote it.
    ///
    /// # Errors
    ///
    /// As [`Documents::update`].
    pub async fn patch(
        &self,
        id: &str,
        precondition: Precondition,
        merge_patch: impl Into<Bytes>,
        envelope: EnvelopeChange,
    ) -> Result<Entity, Error> {
        if envelope.type_id.is_some() || envelope.in_deletion {
            let message = "a patch changes neither type nor state; update the whole document";
            return Err(Error::invalid("envelope", message));
        }
        let request = v1::EntityPatchRequest {
            id: id.to_owned(),
            precondition: Some(precondition.to_wire()),
            merge_patch: merge_patch.into(),
            finalizers: envelope.finalizers_to_wire(),
            name: envelope.name,
            external_id: envelope.external_id,
            owner: envelope.owner,
            write_id: None,
        };
        let request = &request;
        let response = self.client.write(|attempt| {
            let write_id = attempt.write_id;
            let request = v1::EntityPatchRequest { write_id, ..request.clone() };
            async move { attempt.entities().patch(attempt.request(request)).await }
        });
        entity_of(response.await?)
    }

    /// Deletes the entity, or marks it as going if finalizers keep it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound),
    /// [`Conflict`](crate::ErrorKind::Conflict); and as every write.
    pub async fn delete(&self, id: &str, precondition: Precondition) -> Result<Deletion, Error> {
        let response = self.client.write(|attempt| {
            let request = v1::EntityDeleteRequest {
                id: id.to_owned(),
                precondition: Some(precondition.to_wire()),
                write_id: attempt.write_id,
            };
            async move { attempt.entities().delete(attempt.request(request)).await }
        });
        let response = response.await?;
        if response.gone {
            return Ok(Deletion::Gone);
        }
        let entity = response.entity.ok_or_else(|| missing("entity"))?;
        Ok(Deletion::Pending(Box::new(Entity::from_wire(entity)?)))
    }

    /// Validates the document against its type's schema. The entity that comes
    /// back is [`Resolved`](crate::EntityState::Resolved) or
    /// [`ResolutionError`](crate::EntityState::ResolutionError), which is no
    /// error of the call.
    ///
    /// # Errors
    ///
    /// As [`Documents::delete`].
    pub async fn resolve(&self, id: &str, precondition: Precondition) -> Result<Entity, Error> {
        let response = self.client.write(|attempt| {
            let request = v1::EntityResolveRequest {
                id: id.to_owned(),
                precondition: Some(precondition.to_wire()),
                write_id: attempt.write_id,
            };
            async move { attempt.entities().resolve(attempt.request(request)).await }
        });
        entity_of(response.await?)
    }

    /// At most `limit` of the kept versions of an entity below revision
    /// `before`, newest first; from the newest on without `before`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound), and as every read.
    pub async fn history(
        &self,
        id: &str,
        limit: u32,
        before: Option<Revision>,
    ) -> Result<History<EntityVersion>, Error> {
        let response = self.client.read(Route::Leader, |attempt| {
            let request = v1::EntityHistoryRequest {
                id: id.to_owned(),
                limit,
                before_revision: before.unwrap_or_default().get(),
                summary: false,
            };
            async move { attempt.entities().history(attempt.request(request)).await }
        });
        let response = response.await?;
        let versions = response.versions.into_iter().map(|version| {
            let entity = version.entity.map(Entity::from_wire).transpose()?;
            Ok(EntityVersion { revision: version.revision.into(), entity })
        });
        Ok(History {
            versions: versions.collect::<Result<_, Error>>()?,
            compact_revision: response.compact_revision.into(),
            more: response.more,
        })
    }

    /// Streams the changes of the entities that match.
    pub fn watch(&self, filter: EntityFilter) -> EntityWatchBuilder {
        EntityWatchBuilder::new(self.client.clone(), filter)
    }

    /// Streams the changes of one entity.
    pub fn watch_one(&self, id: &str) -> EntityWatchBuilder {
        EntityWatchBuilder::of_one(self.client.clone(), id)
    }
}

fn entity_of(response: v1::EntityResponse) -> Result<Entity, Error> {
    let mut entity = Entity::from_wire(response.entity.ok_or_else(|| missing("entity"))?)?;
    entity.warnings = response.warnings;
    Ok(entity)
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct EntityPage<D = Bytes> {
    /// By id.
    pub entities: Vec<Entity<D>>,
    /// Where all pages of the list are read; a watch can begin after it.
    pub at: Position,
}

/// A list in pages; made by [`Documents::list`].
#[must_use = "nothing is read until a page is asked for"]
#[derive(Clone, Debug)]
pub struct EntityPages {
    client: Client,
    request: v1::EntityListRequest,
    done: bool,
}

impl EntityPages {
    /// At most so many entities per page; the server's choice otherwise.
    pub fn page_size(mut self, entities: u32) -> Self {
        self.request.page_size = entities;
        self
    }

    /// How fresh the list must be.
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.request.consistency = consistency.to_wire();
        self
    }

    /// The next page, or `None` after the last. A page that failed can be asked
    /// for again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Compacted`](crate::ErrorKind::Compacted) if paging took
    /// longer than history is kept: begin anew. And as every read.
    pub async fn next(&mut self) -> Result<Option<EntityPage>, Error> {
        if self.done {
            return Ok(None);
        }
        let request = &self.request;
        let response = self.client.read(Route::Leader, |attempt| {
            let request = request.clone();
            async move { attempt.entities().list(attempt.request(request)).await }
        });
        let response = response.await?;
        let entities = response.entities.into_iter().map(Entity::from_wire);
        let entities = entities.collect::<Result<_, _>>()?;
        let mut at = Position::of(response.header.as_ref());
        at.revision = response.revision.into();
        self.done = response.next_page_token.is_empty();
        self.request.page_token = response.next_page_token;
        Ok(Some(EntityPage { entities, at }))
    }

    /// All pages at once. For lists that are known to be short: everything is
    /// kept in memory.
    ///
    /// # Errors
    ///
    /// As [`EntityPages::next`].
    pub async fn all(mut self) -> Result<EntityPage, Error> {
        let mut all = EntityPage { entities: Vec::new(), at: Position::default() };
        while let Some(page) = self.next().await? {
            all.entities.extend(page.entities);
            all.at = page.at;
        }
        Ok(all)
    }
}

/// A change as the wire has it.
pub(crate) fn event_of(event: v1::EntityEvent) -> Result<(Revision, EntityEvent), Error> {
    let kind = event.kind();
    let entity = Entity::from_wire(event.entity.ok_or_else(|| missing("entity"))?)?;
    let event_of = match kind {
        v1::entity_event::Kind::Created => EntityEvent::Created,
        v1::entity_event::Kind::Updated => EntityEvent::Updated,
        v1::entity_event::Kind::Deleted => EntityEvent::Deleted,
    };
    Ok((event.revision.into(), event_of(entity)))
}
