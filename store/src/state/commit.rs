//! What a transition becomes: rows, to be written in one batch.

use super::{StateError, StateView, codec, rows};
use crate::disk::{Table, WriteBatch};
use crate::machine::codec as machine_codec;
use crate::machine::{Event, Lease, Record, Session, Transition, View as _, Write};
use crate::{Key, LeaseId, Revision, SessionId};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Rows that every batch has besides: where the state stands.
const POSITION_ROWS: usize = 4;

/// The rows that `transition` changes, given the state before it. The head and
/// the applied position are the caller's.
pub(super) fn rows_of(view: &StateView, transition: &Transition) -> Result<WriteBatch, StateError> {
    let mut rows = Rows { batch: batch_for(&transition.writes), ..Rows::default() };
    for write in &transition.writes {
        rows.add(write);
    }
    rows.finish(view, &transition.events)
}

/// A batch with room for what writes take, usually.
fn batch_for(writes: &[Write]) -> WriteBatch {
    /// Of the three rows of a put, besides its key and values.
    const PUT_BYTES: usize = 160;
    let bytes_of = |write: &Write| match write {
        Write::Put { key, record, previous } => {
            let previous = previous.as_ref().map_or(0, |previous| previous.value.len());
            3 * key.as_bytes().len() + record.value.len() + previous
        }
        Write::Delete { key, previous, .. } => 4 * key.as_bytes().len() + previous.value.len(),
        _ => 0,
    };
    let bytes: usize = writes.iter().map(|write| PUT_BYTES + bytes_of(write)).sum();
    WriteBatch::with_capacity(3 * writes.len() + POSITION_ROWS, bytes)
}

/// Rows as they pile up. A lease or session that is written again and again in
/// one batch is stored once.
#[derive(Default)]
struct Rows<'a> {
    batch: WriteBatch,
    leases: BTreeMap<LeaseId, Option<&'a Lease>>,
    attachments: BTreeMap<(LeaseId, &'a Key), bool>,
    sessions: BTreeMap<SessionId, Option<&'a Session>>,
    replies: BTreeMap<(SessionId, u64), Option<Bytes>>,
}

impl<'a> Rows<'a> {
    fn add(&mut self, write: &'a Write) {
        match write {
            Write::Put { key, record, previous } => {
                self.put_record(|row| row.extend_from_slice(key.as_bytes()), Table::Latest, record);
                if let Some(previous) = previous {
                    self.supersede(key, previous);
                }
            }
            Write::Delete { key, previous, revision } => {
                self.batch.delete(Table::Latest, key.as_bytes());
                self.supersede(key, previous);
                let tombstone = rows::past_key(key.as_bytes(), *revision);
                self.batch.put(Table::Past, tombstone, rows::TOMBSTONE);
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
        let put_key = |row: &mut Vec<u8>| {
            rows::put_past_key(row, key.as_bytes(), record.modified);
        };
        self.put_record(put_key, Table::Past, record);
    }

    fn put_record(&mut self, key: impl FnOnce(&mut Vec<u8>), table: Table, record: &Record) {
        self.batch.put_with(table, key, |row| rows::put_record(row, record));
    }

    /// Puts a row, or deletes it.
    fn set(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) {
        match value {
            Some(value) => self.batch.put(table, key, value),
            None => self.batch.delete(table, key),
        }
    }

    fn finish(mut self, view: &StateView, events: &[Event]) -> Result<WriteBatch, StateError> {
        for change in events.chunk_by(|a, b| a.revision == b.revision) {
            let revision = change[0].revision;
            let message = codec::change_of(revision, change.iter().map(changed_key));
            self.batch.put_with(
                Table::Changes,
                |row| rows::put_change_key(row, revision),
                |row| codec::put_message(row, &message),
            );
        }
        self.finish_leases(view)?;
        self.finish_sessions(view)?;
        Ok(self.batch)
    }

    fn finish_leases(&mut self, view: &StateView) -> Result<(), StateError> {
        for (id, lease) in std::mem::take(&mut self.leases) {
            let index = |lease: &Lease| rows::expiry_key(lease.expires, lease.id.0.cast_unsigned());
            let before = view.lease(id)?.as_ref().map(index);
            move_index(&mut self.batch, Table::Leases, before, lease.map(index));
            let row = lease.map(machine_codec::encode_lease);
            self.set(Table::Leases, &rows::lease_key(id), row.as_deref());
        }
        for ((id, key), attached) in std::mem::take(&mut self.attachments) {
            let row = rows::attachment_key(id, key.as_bytes());
            self.set(Table::Leases, &row, attached.then_some(&[]));
        }
        Ok(())
    }

    fn finish_sessions(&mut self, view: &StateView) -> Result<(), StateError> {
        for (id, session) in std::mem::take(&mut self.sessions) {
            let index = |session: &Session| rows::expiry_key(session.expires, session.id.0);
            let before = view.session(id)?.as_ref().map(index);
            move_index(&mut self.batch, Table::Sessions, before, session.map(index));
            let row = session.map(machine_codec::encode_session);
            self.set(Table::Sessions, &rows::session_key(id), row.as_deref());
        }
        for ((id, sequence), row) in std::mem::take(&mut self.replies) {
            self.set(Table::Sessions, &rows::reply_key(id, sequence), row.as_deref());
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
        batch.put(table, now, []);
    }
}

fn changed_key(event: &Event) -> codec::ChangedKey {
    codec::ChangedKey {
        key: event.key.clone(),
        deleted: event.record.is_none(),
        previous: event.previous.as_ref().map_or(Revision::ZERO, |record| record.modified),
    }
}
