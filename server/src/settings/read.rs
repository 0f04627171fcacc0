//! Reads of configuration values: one, a subtree, the history of one.

use super::{ConfigPath, ConfigValue, Settings, run};
use crate::core::Consistency;
use crate::entities::page::{Place, rest};
use crate::entities::{Answer, EntityError, readable, record_at};
use keelstone_store::Revision;
use keelstone_store::limits::RANGE_BYTES_MAX;
use keelstone_store::machine::View as _;
use tokio::time::Instant;

/// Values in a page, if the caller does not say.
const PAGE_SIZE_DEFAULT: usize = 500;
/// Values in a page, at most.
const PAGE_SIZE_MAX: usize = 5000;
/// Versions in an answer, if the caller does not say.
const HISTORY_DEFAULT: usize = 20;
/// Versions in an answer, at most.
const HISTORY_MAX: usize = 200;

/// Asks for the values at and below a path.
#[derive(Clone, Debug, Default)]
pub struct ConfigQuery {
    /// Without: the whole tree.
    pub path: Option<ConfigPath>,
    /// Values in a page; 0: 500. At most 5000, and at most 8 MiB.
    pub page_size: usize,
    /// Where to go on; empty: at the beginning.
    pub page_token: String,
    /// Of the first page; the later ones are read at its revision.
    pub consistency: Consistency,
}

/// A page of values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigPage {
    /// In the order of their paths, segment by segment.
    pub values: Vec<ConfigValue>,
    /// Where to go on; empty: this is the last page.
    pub next_page_token: String,
    /// The revision that all pages are read at.
    pub revision: Revision,
}

/// Asks for the history of a value.
#[derive(Clone, Debug)]
pub struct ConfigHistoryQuery {
    /// Where.
    pub path: ConfigPath,
    /// Versions in the answer; 0: 20. At most 200, and at most 8 MiB.
    pub limit: usize,
    /// Only versions below this revision; zero: all.
    pub before: Revision,
}

/// Versions of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigHistory {
    /// Newest first.
    pub versions: Vec<ConfigVersion>,
    /// History below this revision is gone.
    pub compacted: Revision,
    /// Whether there are more.
    pub more: bool,
}

/// A version of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigVersion {
    /// The revision that made it.
    pub revision: Revision,
    /// The value; `None`: it was deleted.
    pub value: Option<ConfigValue>,
}

impl Settings {
    /// Reads a value, now or at a revision.
    ///
    /// # Errors
    ///
    /// See [`EntityError`]; [`EntityError::NoValue`] if there is none.
    pub async fn get(
        &self,
        path: &ConfigPath,
        revision: Revision,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<Answer<ConfigValue>, EntityError> {
        let view = self.core.read(consistency, deadline).await?;
        let head = view.head();
        let at = if revision == Revision::ZERO { head.revision } else { revision };
        readable(&view, at)?;
        let record = record_at(&view, &path.key(), at)?.ok_or(EntityError::NoValue)?;
        Ok(Answer::read(ConfigValue::of(path.clone(), record), &head, consistency))
    }

    /// Reads a page of the values at and below a path.
    ///
    /// # Errors
    ///
    /// See [`EntityError`].
    pub async fn list(
        &self,
        query: &ConfigQuery,
        deadline: Instant,
    ) -> Result<Answer<ConfigPage>, EntityError> {
        let run = run(query.path.as_ref());
        let print = format!("config {:?}", query.path);
        let (view, place) = if query.page_token.is_empty() {
            let view = self.core.read(query.consistency, deadline).await?;
            let revision = view.head().revision;
            (view, Place { revision, from: run.start.clone() })
        } else {
            let place = Place::parse(&query.page_token, print.as_bytes(), &run)?;
            self.core.wait_applied(place.revision, deadline).await?;
            (self.core.read(Consistency::Serializable, deadline).await?, place)
        };
        readable(&view, place.revision)?;
        let size = match query.page_size {
            0 => PAGE_SIZE_DEFAULT,
            size => size.min(PAGE_SIZE_MAX),
        };
        let (mut values, mut bytes, mut next) = (Vec::new(), 0, None);
        view.scan_at(&rest(&run, &place.from), place.revision, &mut |key, record| {
            if values.len() == size || bytes > RANGE_BYTES_MAX {
                next = Some(key);
                return false;
            }
            bytes += record.value.len();
            let path = ConfigPath::of_key(&key);
            values.extend(path.map(|path| ConfigValue::of(path, record)));
            true
        })?;
        let revision = place.revision;
        let next_page_token = next.map_or_else(String::new, |key| {
            Place { revision, from: key.0 }.token(print.as_bytes())
        });
        let page = ConfigPage { values, next_page_token, revision };
        Ok(Answer::read(page, &view.head(), query.consistency))
    }

    /// Reads the kept versions of a value.
    ///
    /// # Errors
    ///
    /// See [`EntityError`]; [`EntityError::NoValue`] if there never was one
    /// that history keeps.
    pub async fn history(
        &self,
        query: &ConfigHistoryQuery,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<Answer<ConfigHistory>, EntityError> {
        let view = self.core.read(consistency, deadline).await?;
        let below = (query.before != Revision::ZERO).then_some(query.before);
        let limit = match query.limit {
            0 => HISTORY_DEFAULT,
            limit => limit.min(HISTORY_MAX),
        };
        let found = view.versions(&query.path.key(), below, limit)?;
        if found.versions.is_empty() && below.is_none() {
            return Err(EntityError::NoValue);
        }
        let (mut versions, mut more, mut bytes) = (Vec::new(), found.more, 0);
        for (revision, record) in found.versions {
            bytes += record.as_ref().map_or(0, |record| record.value.len());
            if bytes > RANGE_BYTES_MAX && !versions.is_empty() {
                more = true;
                break;
            }
            let value = record.map(|record| ConfigValue::of(query.path.clone(), record));
            versions.push(ConfigVersion { revision, value });
        }
        let history = ConfigHistory { versions, compacted: view.head().compacted, more };
        Ok(Answer::read(history, &view.head(), consistency))
    }
}
