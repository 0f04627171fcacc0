//! What happened: the events of revisions, and the versions of a key.

use super::{StateError, StateView, codec, past, rows};
use crate::disk::Table;
use crate::machine::{Event, Record, Rejection, View as _};
use crate::{Key, Revision};
use std::ops::Bound;

/// The versions of a key, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// The revision of each version and its record; without one the key was
    /// deleted there.
    pub versions: Vec<(Revision, Option<Record>)>,
    /// The limit left older versions out.
    pub more: bool,
    /// Older versions may have been compacted: the last of these is the one
    /// that was in force when history was cut.
    pub compacted: bool,
}

impl StateView {
    /// The events of the revisions from `from` on, oldest first, with the
    /// records before them: whole revisions, until `changes_max` events or
    /// `bytes_max` bytes are reached, and at least one revision if there is any.
    ///
    /// An empty answer means that nothing has happened since.
    ///
    /// # Errors
    ///
    /// The rejection is [`Rejection::Compacted`] if `from` is below the oldest
    /// revision that can be read. Fails if the state cannot be read.
    pub fn events_from(
        &self,
        from: Revision,
        changes_max: usize,
        bytes_max: usize,
    ) -> Result<Result<Vec<Event>, Rejection>, StateError> {
        let compacted = self.head_ref().compacted;
        if from < compacted {
            return Ok(Err(Rejection::Compacted { asked: from, compacted }));
        }
        let mut events = Vec::new();
        let mut bytes = 0;
        let bounds = (Bound::Included(rows::change_key(from)), Bound::Unbounded);
        for row in self.rows().scan(Table::Changes, bounds, false) {
            let (row_key, row) = row?;
            let revision = rows::parse_change_key(&row_key)?;
            for changed in codec::parse_change(row)? {
                let event = self.event(revision, changed)?;
                bytes += event_bytes(&event);
                events.push(event);
            }
            if events.len() >= changes_max || bytes >= bytes_max {
                break;
            }
        }
        Ok(Ok(events))
    }

    fn event(&self, revision: Revision, changed: codec::ChangedKey) -> Result<Event, StateError> {
        let codec::ChangedKey { key, deleted, previous } = changed;
        let record = if deleted { None } else { Some(self.record_of(&key, revision)?) };
        let previous = match previous {
            Revision::ZERO => None,
            // It was superseded by this change, so it cannot be the latest.
            before => Some(self.past_record(&key, before)?),
        };
        Ok(Event { revision, key, record, previous })
    }

    /// The record that was put at exactly `revision`.
    fn record_of(&self, key: &Key, revision: Revision) -> Result<Record, StateError> {
        match self.get(key)? {
            Some(record) if record.modified == revision => Ok(record),
            _ => self.past_record(key, revision),
        }
    }

    fn past_record(&self, key: &Key, revision: Revision) -> Result<Record, StateError> {
        let row = self.rows().get(Table::Past, &rows::past_key(key.as_bytes(), revision))?;
        let row = row.filter(|row| !row.is_empty());
        let row = row.ok_or(StateError::Incomplete("a change's record is missing"))?;
        rows::parse_record(Table::Past, row)
    }

    /// The versions of `key` below revision `below` (all without one), newest
    /// first, at most `limit`. The first of the next page is found with `below`
    /// at the last revision of this one.
    ///
    /// # Errors
    ///
    /// Fails if the state cannot be read.
    pub fn versions(
        &self,
        key: &Key,
        below: Option<Revision>,
        limit: usize,
    ) -> Result<Versions, StateError> {
        let newest = match below {
            Some(Revision::ZERO) => return Ok(Versions::default()),
            Some(below) => below.previous(),
            None => Revision::new(u64::MAX),
        };
        let latest = self.get(key)?.filter(|record| record.modified <= newest);
        let latest = latest.map(|record| Ok((record.modified, Some(record))));
        let older = past::past_rows(self.rows(), key, newest).map(|row| {
            let (revision, row) = row?;
            let record = (!row.is_empty()).then(|| rows::parse_record(Table::Past, row));
            Ok((revision, record.transpose()?))
        });
        self.cut(latest.into_iter().chain(older), limit)
    }

    /// Ends with the version in force at the compaction, whether what is below
    /// it has been removed from the tables yet or not.
    fn cut(
        &self,
        versions: impl Iterator<Item = Result<(Revision, Option<Record>), StateError>>,
        limit: usize,
    ) -> Result<Versions, StateError> {
        let compacted = self.head_ref().compacted;
        let mut answer = Versions { compacted: compacted > Revision::ZERO, ..Versions::default() };
        for version in versions {
            let (revision, record) = version?;
            let is_oldest = revision <= compacted;
            // A deletion below the compaction has no history to show: whether
            // its row is still there differs between replicas.
            if is_oldest && record.is_none() && revision < compacted {
                break;
            }
            if answer.versions.len() == limit {
                answer.more = true;
                break;
            }
            answer.versions.push((revision, record));
            if is_oldest {
                break;
            }
        }
        answer.compacted &= !answer.more;
        Ok(answer)
    }
}

fn event_bytes(event: &Event) -> usize {
    let value = |record: &Option<Record>| record.as_ref().map_or(0, |record| record.value.len());
    event.key.as_bytes().len() + value(&event.record) + value(&event.previous)
}
