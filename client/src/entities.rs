//! Entities whose documents are Rust types.

use crate::backoff::BackOff;
use crate::documents::{Documents, EntityPage, EntityPages};
use crate::entity::{
    Deletion, Entity, EntityEvent, EntityFilter, EntityType, EntityVersion, EnvelopeChange,
    History, NewEntity,
};
use crate::entity_watch::{EntityWatch, EntityWatchBuilder};
use crate::watch::Changes;
use crate::{Consistency, Error, ErrorKind, Outcome, Position, Precondition, Revision, merge};
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::marker::PhantomData;
use tokio::time::Instant;

/// How often [`Entities::modify`] tries before it gives up.
const MODIFY_TRIES: u32 = 16;

/// Entities whose documents are `T`s; made by
/// [`Client::entities`](crate::Client::entities).
pub struct Entities<T> {
    documents: Documents,
    document: PhantomData<fn() -> T>,
}

impl<T> Clone for Entities<T> {
    fn clone(&self) -> Self {
        Self { documents: self.documents.clone(), document: PhantomData }
    }
}

impl<T> fmt::Debug for Entities<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entities").finish_non_exhaustive()
    }
}

/// Why [`Entities::try_modify`] changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ModifyError<E> {
    /// The call failed.
    #[error(transparent)]
    Call(#[from] Error),
    /// The closure gave up.
    #[error("the change was given up: {0}")]
    GivenUp(E),
}

impl<T: EntityType> Entities<T> {
    pub(crate) fn new(documents: Documents) -> Self {
        Self { documents, document: PhantomData }
    }

    /// Creates an entity of type [`EntityType::TYPE_ID`].
    ///
    /// # Errors
    ///
    /// As [`Documents::create`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use keelstone_client::{Client, EntityType, Error, NewEntity};
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Cluster { phase: String }
    /// # impl EntityType for Cluster { const TYPE_ID: &'static str = "urn:vcloud:type:a:b:1.0.0"; }
    /// # async fn example(client: Client) -> Result<(), Error> {
    /// let clusters = client.entities::<Cluster>();
    /// let document = Cluster { phase: "provisioning".to_owned() };
    /// let created = clusters.create(NewEntity::named("prod-1").resolve(), &document).await?;
    /// println!("{} is {}", created.id, created.state);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create(&self, new: NewEntity, document: &T) -> Result<Entity<T>, Error> {
        self.documents.create(T::TYPE_ID, new, to_json(document)?).await?.parse()
    }

    /// The entity with this id, as of now.
    ///
    /// # Errors
    ///
    /// As [`Documents::get`]; and [`ErrorKind::Invalid`] if the document does
    /// not fit `T`.
    pub async fn get(&self, id: &str) -> Result<Entity<T>, Error> {
        self.documents.get(id).await?.parse()
    }

    /// Lists the entities whose type begins with [`EntityType::TYPE_PREFIX`].
    pub fn list(&self) -> TypedPages<T> {
        self.list_matching(EntityFilter::default())
    }

    /// Lists those of them that match the filter; its type prefix is ignored.
    pub fn list_matching(&self, filter: EntityFilter) -> TypedPages<T> {
        let filter =
            EntityFilter { type_prefix: T::TYPE_PREFIX.to_owned(), summary: false, ..filter };
        TypedPages { pages: self.documents.list(filter), document: PhantomData }
    }

    /// Replaces the whole document, with what others put into it. Most writers
    /// want [`Entities::modify`] or [`Entities::patch`].
    ///
    /// # Errors
    ///
    /// As [`Documents::update`].
    pub async fn update(
        &self,
        id: &str,
        precondition: Precondition,
        document: &T,
    ) -> Result<Entity<T>, Error> {
        let document = to_json(document)?;
        self.documents.update(id, precondition, document, EnvelopeChange::new()).await?.parse()
    }

    /// Applies an RFC 7396 merge patch at the server.
    ///
    /// # Errors
    ///
    /// As [`Documents::patch`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use keelstone_client::{Client, EntityType, Error, Precondition};
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Cluster { phase: String }
    /// # impl EntityType for Cluster { const TYPE_ID: &'static str = "urn:vcloud:type:a:b:1.0.0"; }
    /// # async fn example(client: Client, id: &str) -> Result<(), Error> {
    /// let patch = serde_json::json!({"status": {"vcdKe": {"state": "provisioned"}}});
    /// client.entities::<Cluster>().patch(id, Precondition::Unconditional, &patch).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn patch(
        &self,
        id: &str,
        precondition: Precondition,
        merge_patch: &(impl Serialize + Sync),
    ) -> Result<Entity<T>, Error> {
        let patch = to_json(merge_patch)?;
        self.documents.patch(id, precondition, patch, EnvelopeChange::new()).await?.parse()
    }

    /// Reads the entity, lets `change` change it, and writes the difference, on
    /// the condition that nobody else has written meanwhile. If somebody has,
    /// it does so again with what is there now, after a short random pause.
    ///
    /// `change` may run many times and should do nothing else than change its
    /// argument. What `T` does not know of the document survives. If `change`
    /// changes nothing, nothing is written.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`] if others were faster 16 times in a row;
    /// [`ErrorKind::DeadlineExceeded`] if the client's timeout, which counts for
    /// all tries together, was over first; else as [`Entities::get`] and
    /// [`Entities::patch`]. If [`Error::is_unknown`], the last try may have
    /// taken effect.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use keelstone_client::{Client, EntityType, Error};
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Cluster { phase: String }
    /// # impl EntityType for Cluster { const TYPE_ID: &'static str = "urn:vcloud:type:a:b:1.0.0"; }
    /// # async fn example(client: Client, id: &str) -> Result<(), Error> {
    /// let clusters = client.entities::<Cluster>();
    /// clusters.modify(id, |cluster| cluster.phase = "provisioned".to_owned()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn modify(
        &self,
        id: &str,
        mut change: impl FnMut(&mut T) + Send,
    ) -> Result<Entity<T>, Error> {
        let change = |document: &mut T| {
            change(document);
            Ok::<(), std::convert::Infallible>(())
        };
        match self.try_modify(id, change).await {
            Ok(entity) => Ok(entity),
            Err(ModifyError::Call(error)) => Err(error),
        }
    }

    /// As [`Entities::modify`], but `change` can give up, for example because
    /// what it finds is not what it expected.
    ///
    /// # Errors
    ///
    /// [`ModifyError::GivenUp`] with what `change` returned, in which case
    /// nothing was written; else as [`Entities::modify`].
    pub async fn try_modify<E: Send>(
        &self,
        id: &str,
        mut change: impl FnMut(&mut T) -> Result<(), E> + Send,
    ) -> Result<Entity<T>, ModifyError<E>> {
        let deadline = Instant::now() + self.documents.client().options().timeout;
        let mut back_off = BackOff::of_conflicts();
        let mut tries = 0;
        loop {
            tries += 1;
            let left = deadline.saturating_duration_since(Instant::now());
            let documents = self.documents.client().with_timeout(left).documents();
            let stored = documents.get(id).await?;
            let Some(patch) = patch_by(&stored, &mut change)? else {
                return Ok(stored.parse()?);
            };
            let guard = Precondition::IfRevision(stored.revision);
            let patched = documents.patch(id, guard, patch, EnvelopeChange::new()).await;
            let conflict = match patched {
                Ok(entity) => return Ok(entity.parse()?),
                Err(error) if error.is_conflict() => error,
                Err(error) => return Err(error.into()),
            };
            let pause = back_off.step();
            if tries == MODIFY_TRIES || Instant::now() + pause >= deadline {
                return Err(exhausted(id, tries, &conflict).into());
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// As [`Documents::delete`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn delete(&self, id: &str, precondition: Precondition) -> Result<Deletion, Error> {
        self.documents.delete(id, precondition).await
    }

    /// Validates the document, see [`Documents::resolve`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn resolve(&self, id: &str, precondition: Precondition) -> Result<Entity<T>, Error> {
        self.documents.resolve(id, precondition).await?.parse()
    }

    /// The kept versions, see [`Documents::history`]. They are not parsed: an
    /// old one may not fit `T`; use [`Entity::parse`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn history(
        &self,
        id: &str,
        limit: u32,
        before: Option<Revision>,
    ) -> Result<History<EntityVersion>, Error> {
        self.documents.history(id, limit, before).await
    }

    /// Streams the changes of the entities that [`Entities::list`] lists.
    pub fn watch(&self) -> TypedWatchBuilder<T> {
        let filter =
            EntityFilter { type_prefix: T::TYPE_PREFIX.to_owned(), ..EntityFilter::default() };
        TypedWatchBuilder { builder: self.documents.watch(filter), document: PhantomData }
    }

    /// Streams the changes of one entity.
    pub fn watch_one(&self, id: &str) -> TypedWatchBuilder<T> {
        TypedWatchBuilder { builder: self.documents.watch_one(id), document: PhantomData }
    }
}

/// The patch that `change` makes of what is stored; `None` if it changes
/// nothing.
fn patch_by<T: EntityType, E>(
    stored: &Entity,
    change: &mut impl FnMut(&mut T) -> Result<(), E>,
) -> Result<Option<Vec<u8>>, ModifyError<E>> {
    let mut document: T = stored.parse()?.document;
    let before = to_value(&document)?;
    change(&mut document).map_err(ModifyError::GivenUp)?;
    let after = to_value(&document)?;
    let raw: Value = stored.parse()?.document;
    let patch = merge::patch_of(&raw, &before, &after);
    Ok(patch.as_ref().map(to_json).transpose()?)
}

fn exhausted(id: &str, tries: u32, conflict: &Error) -> Error {
    let message = format!("others changed {id} in each of {tries} tries; nothing was written");
    let current_revision = match conflict.kind() {
        ErrorKind::Conflict { current_revision } => *current_revision,
        _ => Revision::ZERO,
    };
    Error::new(ErrorKind::Conflict { current_revision }, Outcome::NotApplied, message)
}

pub(crate) fn to_json(document: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(document).map_err(|error| not_json(&error))
}

fn to_value(document: &impl Serialize) -> Result<Value, Error> {
    serde_json::to_value(document).map_err(|error| not_json(&error))
}

fn not_json(error: &serde_json::Error) -> Error {
    Error::invalid("document", format!("the document cannot be written as JSON: {error}"))
}

/// A typed list in pages; made by [`Entities::list`].
#[must_use = "nothing is read until a page is asked for"]
pub struct TypedPages<T> {
    pages: EntityPages,
    document: PhantomData<fn() -> T>,
}

impl<T: EntityType> TypedPages<T> {
    /// See [`EntityPages::page_size`].
    pub fn page_size(mut self, entities: u32) -> Self {
        self.pages = self.pages.page_size(entities);
        self
    }

    /// See [`EntityPages::consistency`].
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.pages = self.pages.consistency(consistency);
        self
    }

    /// See [`EntityPages::next`].
    ///
    /// # Errors
    ///
    /// As there; and [`ErrorKind::Invalid`] if a document does not fit `T`.
    pub async fn next(&mut self) -> Result<Option<EntityPage<T>>, Error> {
        let Some(page) = self.pages.next().await? else { return Ok(None) };
        let entities = page.entities.iter().map(Entity::parse).collect::<Result<_, _>>()?;
        Ok(Some(EntityPage { entities, at: page.at }))
    }

    /// See [`EntityPages::all`].
    ///
    /// # Errors
    ///
    /// As [`TypedPages::next`].
    pub async fn all(self) -> Result<EntityPage<T>, Error> {
        let page = self.pages.all().await?;
        let entities = page.entities.iter().map(Entity::parse).collect::<Result<_, _>>()?;
        Ok(EntityPage { entities, at: page.at })
    }
}

impl<T> fmt::Debug for TypedPages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedPages").finish_non_exhaustive()
    }
}

/// A typed watch that has not begun; made by [`Entities::watch`].
#[must_use = "nothing is watched until it is started"]
pub struct TypedWatchBuilder<T> {
    builder: EntityWatchBuilder,
    document: PhantomData<fn() -> T>,
}

impl<T: EntityType> TypedWatchBuilder<T> {
    /// See [`EntityWatchBuilder::after`].
    pub fn after(mut self, position: impl Into<Position>) -> Self {
        self.builder = self.builder.after(position);
        self
    }

    /// See [`EntityWatchBuilder::start`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn start(self) -> Result<TypedWatch<T>, Error> {
        Ok(TypedWatch { watch: self.builder.start().await?, document: PhantomData })
    }
}

impl<T> fmt::Debug for TypedWatchBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedWatchBuilder").finish_non_exhaustive()
    }
}

/// A typed watch; made by [`TypedWatchBuilder::start`].
pub struct TypedWatch<T> {
    watch: EntityWatch,
    document: PhantomData<fn() -> T>,
}

/// A change of an entity, as far as its document could be read: one that does
/// not fit spoils only itself.
#[derive(Debug)]
#[non_exhaustive]
pub enum TypedEvent<T> {
    /// The document fits the type.
    Fits(EntityEvent<T>),
    /// It does not; the change as it came.
    Misfit {
        /// The change.
        event: EntityEvent,
        /// Why the document does not fit.
        error: Error,
    },
}

impl<T: EntityType> TypedWatch<T> {
    /// Waits for the next changes. `None` after an error has been returned. A
    /// document that does not fit `T` comes as it is, with the error.
    ///
    /// # Errors
    ///
    /// As [`Watch::next`](crate::Watch::next).
    pub async fn next(&mut self) -> Result<Option<Changes<TypedEvent<T>>>, Error> {
        let Some(changes) = self.watch.next().await? else { return Ok(None) };
        let parse = |event: EntityEvent| match event.parse() {
            Ok(parsed) => TypedEvent::Fits(parsed),
            Err(error) => TypedEvent::Misfit { event, error },
        };
        let events = changes.events.into_iter().map(parse).collect();
        Ok(Some(Changes { revision: changes.revision, events }))
    }

    /// See [`Watch::progress`](crate::Watch::progress).
    pub fn progress(&self) -> Position {
        self.watch.progress()
    }
}

impl<T> fmt::Debug for TypedWatch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedWatch").field("watch", &self.watch).finish_non_exhaustive()
    }
}
