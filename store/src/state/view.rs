//! A consistent state at one moment, and the reads of its newest revision.

use super::{Applied, StateError, codec, past, rows};
use crate::disk::{EngineView, Table};
use crate::machine::{
    self, Head, Lease, Range, RangeReply, Record, Rejection, Remembered, Session, View,
};
use crate::{Key, KeyRange, LeaseId, Millis, RangeEnd, Revision, SessionId};
use std::sync::Arc;

/// A consistent state of the store at one moment: cheap to take, hold and clone.
///
/// It does not change, whatever is applied meanwhile; a long-lived one keeps
/// the engine from reclaiming what it shows.
#[derive(Clone)]
pub struct StateView {
    moment: Arc<Moment>,
}

struct Moment {
    rows: Arc<dyn EngineView>,
    head: Head,
    applied: Applied,
    /// Counts the moments that are held.
    _held: Arc<()>,
}

impl StateView {
    pub(super) fn new(
        rows: Arc<dyn EngineView>,
        head: Head,
        applied: Applied,
        held: &Arc<()>,
    ) -> Self {
        Self { moment: Arc::new(Moment { rows, head, applied, _held: Arc::clone(held) }) }
    }

    pub(super) fn rows(&self) -> &dyn EngineView {
        self.moment.rows.as_ref()
    }

    pub(super) fn head_ref(&self) -> &Head {
        &self.moment.head
    }

    /// The last log entry that this state contains, and the membership there.
    pub fn applied(&self) -> Applied {
        self.moment.applied.clone()
    }

    pub(super) fn applied_ref(&self) -> &Applied {
        &self.moment.applied
    }

    /// Reads keys, at this view's revision or an earlier one.
    ///
    /// # Errors
    ///
    /// The rejection says that the revision is compacted or in the future.
    /// Fails if the state cannot be read.
    pub fn range(&self, range: &Range) -> Result<Result<RangeReply, Rejection>, StateError> {
        machine::read_range(self, range)
    }

    /// Leases from `from` on, in the order of their ids (which are positive), at
    /// most `limit`.
    ///
    /// # Errors
    ///
    /// Fails if the state cannot be read.
    pub fn leases(&self, from: LeaseId, limit: usize) -> Result<Vec<Lease>, StateError> {
        let bounds =
            (std::ops::Bound::Included(rows::lease_key(from)), rows::all_of(rows::Kind::Lease).1);
        let leases = self
            .rows()
            .scan(Table::Leases, bounds, false)
            .take(limit)
            .map(|row| codec::parse_lease(row?.1));
        leases.collect()
    }

    /// Leases that have run out at `now`, at most `limit`, about in the order
    /// of their expiry.
    ///
    /// # Errors
    ///
    /// Fails if the state cannot be read.
    pub fn expiring_leases(&self, now: Millis, limit: usize) -> Result<Vec<Lease>, StateError> {
        self.due(Table::Leases, now, limit, |id| {
            let lease = self.lease(LeaseId(id.cast_signed()))?;
            Ok(lease.filter(|lease| lease.expires <= now))
        })
    }

    /// Sessions that have run out at `now`, at most `limit`.
    ///
    /// # Errors
    ///
    /// Fails if the state cannot be read.
    pub fn expiring_sessions(&self, now: Millis, limit: usize) -> Result<Vec<Session>, StateError> {
        self.due(Table::Sessions, now, limit, |id| {
            let session = self.session(SessionId(id))?;
            Ok(session.filter(|session| session.expires <= now))
        })
    }

    fn due<T>(
        &self,
        table: Table,
        now: Millis,
        limit: usize,
        find: impl Fn(u64) -> Result<Option<T>, StateError>,
    ) -> Result<Vec<T>, StateError> {
        let mut due = Vec::new();
        for entry in self.rows().scan(table, rows::due_bounds(now), false) {
            if due.len() == limit {
                break;
            }
            let (key, _) = entry?;
            due.extend(find(rows::parse_expiry_id(table, &key)?)?);
        }
        Ok(due)
    }
}

impl View for StateView {
    type Error = StateError;

    fn head(&self) -> Head {
        self.moment.head.clone()
    }

    fn get(&self, key: &Key) -> Result<Option<Record>, StateError> {
        let row = self.rows().get(Table::Latest, key.as_bytes())?;
        row.map(|row| rows::parse_record(Table::Latest, row)).transpose()
    }

    fn scan(
        &self,
        range: &KeyRange,
        visit: &mut dyn FnMut(Key, Record) -> bool,
    ) -> Result<(), StateError> {
        if range.end == RangeEnd::Single {
            let key = Key(range.start.clone());
            if let Some(record) = self.get(&key)? {
                visit(key, record);
            }
            return Ok(());
        }
        for row in self.rows().scan(Table::Latest, rows::latest_bounds(range), false) {
            let (key, row) = row?;
            if !visit(Key(key), rows::parse_record(Table::Latest, row)?) {
                break;
            }
        }
        Ok(())
    }

    fn scan_at(
        &self,
        range: &KeyRange,
        revision: Revision,
        visit: &mut dyn FnMut(Key, Record) -> bool,
    ) -> Result<(), StateError> {
        if revision >= self.head_ref().revision {
            return self.scan(range, visit);
        }
        past::scan_at(self.rows(), range, revision, visit)
    }

    fn lease(&self, id: LeaseId) -> Result<Option<Lease>, StateError> {
        let row = self.rows().get(Table::Leases, &rows::lease_key(id))?;
        row.map(codec::parse_lease).transpose()
    }

    fn lease_keys(&self, id: LeaseId) -> Result<Vec<Key>, StateError> {
        let attachments = self.rows().scan(Table::Leases, rows::attachments_of(id), false);
        attachments.map(|row| Ok(rows::parse_attachment(&row?.0))).collect()
    }

    fn session(&self, id: SessionId) -> Result<Option<Session>, StateError> {
        let row = self.rows().get(Table::Sessions, &rows::session_key(id))?;
        row.map(codec::parse_session).transpose()
    }

    fn session_reply(
        &self,
        id: SessionId,
        sequence: u64,
    ) -> Result<Option<Remembered>, StateError> {
        let row = self.rows().get(Table::Sessions, &rows::reply_key(id, sequence))?;
        row.map(codec::parse_remembered).transpose()
    }
}
