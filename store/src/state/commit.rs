//! What a transition becomes: rows, to be written in one batch.

use super::{StateError, StateView, codec, rows};
use crate::disk::{Table, WriteBatch};
use crate::machine::codec as machine_codec;
use crate::machine::{Event, Lease, Record, Session, Transition, View as _, Write};
use crate::{Key, LeaseId, Revision, SessionId};
use bytes::Bytes;
use std::collections::BTreeMap;

/// The rows that `transition` changes, given the state before it. The head and
/// the applied position are the caller's.
pub(super) fn rows_of(view: &StateView, transition: &Transition) -> Result<WriteBatch, StateError> {
    let mut rows = Rows::default();
    for write in &transition.writes {
        rows.add(write);
    }
    rows.finish(view, &transition.events)
}

/// Rows as they pile up. A key, lease or session that is written again and
/// again in one batch is stored once.
#[derive(Default)]
struct Rows<'a> {
    batch: WriteBatch,
    latest: BTreeMap<&'a Key, Option<&'a Record>>,
    leases: BTreeMap<LeaseId, Option<&'a Lease>>,
    attachments: BTreeMap<(LeaseId, &'a Key), bool>,
    sessions: BTreeMap<SessionId, Option<&'a Session>>,
    replies: BTreeMap<(SessionId, u64), Option<Bytes>>,
}

impl<'a> Rows<'a> {
    fn add(&mut self, write: &'a Write) {
        match write {
            Write::Put { key, record, previous } => {
                self.latest.insert(key, Some(record));
                if let Some(previous) = previous {
                    self.supersede(key, previous);
                }
            }
            Write::Delete { key, previous, revision } => {
                self.latest.insert(key, None);
                self.supersede(key, previous);
                let tombstone = rows::past_key(key.as_bytes(), *revision);
                self.batch.put(Table::Past, tombstone, rows::tombstone_row());
            }
            Write::Lease(lease) => drop(self.leases.insert(lease.id, Some(lease))),
            Write::LeaseGone(id) => drop(self.leases.insert(*id, None)),
            Write::Attach(id, key) => drop(self.attachments.insert((*id, key), true)),
            Write::Detach(id, key) => drop(self.attachments.insert((*id, key), false)),
            Write::Session(session) => drop(self.sessions.insert(session.id, Some(session))),
            Write::SessionGone(id) => drop(self.sessions.insert(*id, None)),
            Write::Remember(id, sequence, remembered) => {
                let row = machine_codec::encode_remembered(*id, *sequence, remembered);
                self.replies.insert((*id, *sequence), Some(row));
            }
            Write::Forget(id, sequence) => drop(self.replies.insert((*id, *sequence), None)),
        }
    }

    /// Keeps a record that is no longer the newest.
    fn supersede(&mut self, key: &Key, record: &Record) {
        let row = rows::past_key(key.as_bytes(), record.modified);
        self.batch.put(Table::Past, row, rows::record_row(record));
    }

    fn finish(mut self, view: &StateView, events: &[Event]) -> Result<WriteBatch, StateError> {
        for (key, record) in &self.latest {
            // A copy: the key is a slice of the whole log entry, which would
            // stay in memory as long as the engine holds on to it.
            let row = Bytes::copy_from_slice(key.as_bytes());
            self.batch.rows.push((Table::Latest, row, record.map(rows::record_row)));
        }
        for change in events.chunk_by(|a, b| a.revision == b.revision) {
            let revision = change[0].revision;
            let keys: Vec<_> = change.iter().map(changed_key).collect();
            let row = codec::change_row(revision, &keys);
            self.batch.put(Table::Changes, rows::change_key(revision), row);
        }
        self.finish_leases(view)?;
        self.finish_sessions(view)?;
        Ok(self.batch)
    }

    fn finish_leases(&mut self, view: &StateView) -> Result<(), StateError> {
        for (id, lease) in &self.leases {
            let index = |lease: &Lease| rows::expiry_key(lease.expires, lease.id.0.cast_unsigned());
            let before = view.lease(*id)?.as_ref().map(index);
            move_index(&mut self.batch, Table::Leases, before, lease.map(index));
            let row = lease.map(machine_codec::encode_lease);
            self.batch.rows.push((Table::Leases, rows::lease_key(*id), row));
        }
        for ((id, key), attached) in &self.attachments {
            let row = rows::attachment_key(*id, key.as_bytes());
            self.batch.rows.push((Table::Leases, row, attached.then(Bytes::new)));
        }
        Ok(())
    }

    fn finish_sessions(&mut self, view: &StateView) -> Result<(), StateError> {
        for (id, session) in &self.sessions {
            let index = |session: &Session| rows::expiry_key(session.expires, session.id.0);
            let before = view.session(*id)?.as_ref().map(index);
            move_index(&mut self.batch, Table::Sessions, before, session.map(index));
            let row = session.map(machine_codec::encode_session);
            self.batch.rows.push((Table::Sessions, rows::session_key(*id), row));
        }
        for ((id, sequence), row) in std::mem::take(&mut self.replies) {
            self.batch.rows.push((Table::Sessions, rows::reply_key(id, sequence), row));
        }
        Ok(())
    }
}

fn move_index(batch: &mut WriteBatch, table: Table, before: Option<Bytes>, now: Option<Bytes>) {
    if before == now {
        return;
    }
    if let Some(before) = before {
        batch.delete(table, before);
    }
    if let Some(now) = now {
        batch.put(table, now, Bytes::new());
    }
}

fn changed_key(event: &Event) -> codec::ChangedKey {
    codec::ChangedKey {
        key: event.key.clone(),
        deleted: event.record.is_none(),
        previous: event.previous.as_ref().map_or(Revision::ZERO, |record| record.modified),
    }
}
