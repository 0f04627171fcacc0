//! Reads of entities: one, a list of them, the history of one.

use super::page::{Place, rest};
use super::write::record_at;
use super::{Answer, Entities, EntityError};
use crate::core::Consistency;
use keelstone_store::entity::{Entity, EntityId, EntityState, TypePrefix, keys};
use keelstone_store::limits::RANGE_BYTES_MAX;
use keelstone_store::machine::{Record, Rejection, View as _};
use keelstone_store::state::StateView;
use keelstone_store::{Key, KeyRange, Revision};
use tokio::time::Instant;

/// Entities in a page, if the caller does not say.
const PAGE_SIZE_DEFAULT: usize = 100;
/// Entities in a page, at most.
const PAGE_SIZE_MAX: usize = 1000;
/// Rows that are looked at for one page; with a filter that few pass, a page
/// can be short or empty although more follow.
const PAGE_ROWS_MAX: usize = 20_000;
/// Rows that are read at once, with their values.
const CHUNK_ROWS: usize = 32;
/// Versions in an answer, if the caller does not say.
const HISTORY_DEFAULT: usize = 20;
/// Versions in an answer, at most.
const HISTORY_MAX: usize = 200;

/// Asks for a list of entities.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Of these types; all without.
    pub types: Option<TypePrefix>,
    /// Of this org; all without.
    pub org: Option<String>,
    /// Of this name; all without.
    pub name: Option<String>,
    /// In this state; all without.
    pub state: Option<EntityState>,
    /// Entities in a page; 0: 100. At most 1000, and at most 8 MiB.
    pub page_size: usize,
    /// Where to go on; empty: at the beginning.
    pub page_token: String,
    /// Leave the documents out.
    pub summary: bool,
    /// Of the first page; the later ones are read at its revision.
    pub consistency: Consistency,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct EntityPage {
    /// In the order of the keys.
    pub entities: Vec<Entity>,
    /// Where to go on; empty: this is the last page.
    pub next_page_token: String,
    /// The revision that all pages are read at.
    pub revision: Revision,
}

/// Asks for the history of an entity.
#[derive(Clone, Debug)]
pub struct HistoryQuery {
    /// The entity.
    pub id: EntityId,
    /// Versions in the answer; 0: 20. At most 200, and at most 8 MiB.
    pub limit: usize,
    /// Only versions below this revision; zero: all.
    pub before: Revision,
    /// Leave the documents out.
    pub summary: bool,
}

/// Versions of an entity.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// Newest first.
    pub versions: Vec<EntityVersion>,
    /// History below this revision is gone.
    pub compacted: Revision,
    /// Whether there are more.
    pub more: bool,
}

/// A version of an entity.
#[derive(Clone, Debug, PartialEq)]
pub struct EntityVersion {
    /// The revision that made it.
    pub revision: Revision,
    /// The entity; `None`: it was deleted.
    pub entity: Option<Entity>,
}

impl Entities {
    /// Reads an entity, now or at a revision.
    ///
    /// # Errors
    ///
    /// See [`EntityError`].
    pub async fn get(
        &self,
        id: &EntityId,
        revision: Revision,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<Answer<Entity>, EntityError> {
        let view = self.core.read(consistency, deadline).await?;
        let head = view.head();
        let at = if revision == Revision::ZERO { head.revision } else { revision };
        readable(&view, at)?;
        let record = record_at(&view, &keys::entity(id), at)?;
        let record = record.ok_or_else(|| Self::not_found(id))?;
        Ok(Answer::read(Entity::decode(&record)?, &head, consistency))
    }

    /// Reads a page of a list.
    ///
    /// # Errors
    ///
    /// See [`EntityError`].
    pub async fn list(
        &self,
        query: &ListQuery,
        deadline: Instant,
    ) -> Result<Answer<EntityPage>, EntityError> {
        let run = keys::run(query.types.as_ref(), query.org.as_deref());
        let print = query.fingerprint();
        let (view, place) = if query.page_token.is_empty() {
            let view = self.core.read(query.consistency, deadline).await?;
            let revision = view.head().revision;
            (view, Place { revision, from: run.start.clone() })
        } else {
            let place = Place::parse(&query.page_token, print.as_bytes(), &run)?;
            (self.view_at(place.revision, deadline).await?, place)
        };
        readable(&view, place.revision)?;
        let (entities, next) = query.page(&view, &run, &place)?;
        let next_page_token = next.map_or_else(String::new, |next| next.token(print.as_bytes()));
        let page = EntityPage { entities, next_page_token, revision: place.revision };
        Ok(Answer::read(page, &view.head(), query.consistency))
    }

    /// Reads the kept versions of an entity.
    ///
    /// # Errors
    ///
    /// See [`EntityError`].
    pub async fn history(
        &self,
        query: &HistoryQuery,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<Answer<History>, EntityError> {
        let view = self.core.read(consistency, deadline).await?;
        let below = (query.before != Revision::ZERO).then_some(query.before);
        let limit = amount(query.limit, HISTORY_DEFAULT, HISTORY_MAX);
        let found = view.versions(&keys::entity(&query.id), below, limit)?;
        if found.versions.is_empty() && below.is_none() {
            return Err(Self::not_found(&query.id));
        }
        let (mut versions, mut more, mut bytes) = (Vec::new(), found.more, 0);
        for (revision, record) in found.versions {
            let mut entity = record.as_ref().map(Entity::decode).transpose()?;
            bytes += entity.iter_mut().map(|entity| weigh(entity, query.summary)).sum::<usize>();
            if bytes > RANGE_BYTES_MAX && !versions.is_empty() {
                more = true;
                break;
            }
            versions.push(EntityVersion { revision, entity });
        }
        let history = History { versions, compacted: view.head().compacted, more };
        Ok(Answer::read(history, &view.head(), consistency))
    }
}

impl ListQuery {
    /// What makes two lists the same list, so that a token of one leads on in
    /// the other.
    fn fingerprint(&self) -> String {
        let types = self.types.as_ref().map(ToString::to_string);
        format!("entities {types:?} {:?} {:?} {:?}", self.org, self.name, self.state)
    }

    fn passes(&self, entity: &Entity) -> bool {
        self.types.as_ref().is_none_or(|types| types.matches(&entity.type_id))
            && self.org.as_ref().is_none_or(|org| *org == entity.org)
            && self.name.as_ref().is_none_or(|name| *name == entity.name)
            && self.state.is_none_or(|state| state == entity.state)
    }

    /// The page that begins at `place`, and where the next one does.
    fn page(
        &self,
        view: &StateView,
        run: &KeyRange,
        place: &Place,
    ) -> Result<(Vec<Entity>, Option<Place>), EntityError> {
        let size = amount(self.page_size, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX);
        let (mut entities, mut bytes, mut rows) = (Vec::new(), 0, 0);
        let mut from = place.from.clone();
        loop {
            let chunk = chunk(view, &rest(run, &from), place.revision)?;
            let last = chunk.len() < CHUNK_ROWS;
            for (row, record) in chunk {
                rows += 1;
                let full = entities.len() == size || bytes > RANGE_BYTES_MAX;
                if full || rows > PAGE_ROWS_MAX {
                    let next = Place { revision: place.revision, from: row.0.clone() };
                    return Ok((entities, Some(next)));
                }
                from = keys::after(&row);
                let Some(mut entity) = entity_of(view, &row, &record, place.revision)? else {
                    continue;
                };
                if self.passes(&entity) {
                    bytes += weigh(&mut entity, self.summary);
                    entities.push(entity);
                }
            }
            if last {
                return Ok((entities, None));
            }
        }
    }
}

/// The first rows of a run as they were at `revision`, in key order.
fn chunk(
    view: &StateView,
    run: &KeyRange,
    revision: Revision,
) -> Result<Vec<(Key, Record)>, EntityError> {
    let mut rows = Vec::new();
    let mut visit = |key, record| {
        rows.push((key, record));
        rows.len() < CHUNK_ROWS
    };
    if revision == view.head().revision {
        view.scan(run, &mut visit)?;
    } else {
        view.scan_at(run, revision, &mut visit)?;
    }
    Ok(rows)
}

/// The entity that a row stands for.
fn entity_of(
    view: &StateView,
    row: &Key,
    record: &Record,
    revision: Revision,
) -> Result<Option<Entity>, EntityError> {
    if keys::is_entity(row) {
        return Ok(Some(Entity::decode(record)?));
    }
    let Some(key) = keys::entity_of_row(row) else { return Ok(None) };
    let record = record_at(view, &key, revision)?;
    Ok(record.as_ref().map(Entity::decode).transpose()?)
}

/// What an entity takes in an answer; with `summary`, without its document.
fn weigh(entity: &mut Entity, summary: bool) -> usize {
    const ENVELOPE: usize = 512;
    if summary {
        entity.document.clear();
    }
    ENVELOPE + entity.document.len()
}

fn amount(asked: usize, default: usize, most: usize) -> usize {
    if asked == 0 { default } else { asked.min(most) }
}

/// Whether history keeps `revision`.
pub(crate) fn readable(view: &StateView, revision: Revision) -> Result<(), EntityError> {
    let head = view.head();
    if revision > head.revision {
        let current = head.revision;
        return Err(EntityError::machine(Rejection::FutureRevision { asked: revision, current }));
    }
    if revision < head.compacted {
        let compacted = head.compacted;
        return Err(EntityError::machine(Rejection::Compacted { asked: revision, compacted }));
    }
    Ok(())
}
