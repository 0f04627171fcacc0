//! Filling a new engine from rows: a snapshot beside the state in use, or a
//! restored state in a directory of its own.

use super::home::Home;
use super::snapshot::{SnapshotReader, SnapshotTrailer, parse_frames};
use super::{Applied, State, StateError, codec, put_position, rows};
use crate::disk::{Engine, EngineKind, Table, WriteBatch};
use crate::machine::codec as machine_codec;
use crate::machine::{Head, Lease, Record, Session};
use crate::{Key, LeaseId, Revision};
use bytes::Bytes;
use keelstone_proto::disk;
use keelstone_proto::disk::snapshot_row::Row;
use std::path::Path;
use std::sync::Arc;

/// Rows on their way into an empty engine, with the indexes that follow from
/// them.
struct Filling {
    engine: Arc<dyn Engine>,
    batch: WriteBatch,
    leases: u64,
    sessions: u64,
}

impl Filling {
    fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine, batch: WriteBatch::default(), leases: 0, sessions: 0 }
    }

    fn add(&mut self, row: Row) -> Result<(), StateError> {
        match row {
            Row::Latest(row) => {
                let (key, record) = key_record(row)?;
                self.latest(&key, &record);
            }
            Row::Past(row) => {
                let (key, record) = key_record(row)?;
                let row_key = rows::past_key(key.as_bytes(), record.modified);
                self.put_record(Table::Past, &row_key, &record);
            }
            Row::Tombstone(row) => {
                let row_key = rows::past_key(&row.key, Revision::new(row.revision));
                self.batch.put(Table::Past, row_key, rows::TOMBSTONE);
            }
            Row::Change(change) => {
                let row_key = rows::change_key(Revision::new(change.revision));
                let put_key = |row: &mut Vec<u8>| row.extend_from_slice(&row_key);
                self.batch.put_with(Table::Changes, put_key, |row| {
                    codec::put_message(row, &change);
                });
            }
            Row::Lease(lease) => self.lease(&machine_codec::lease_from_proto(&lease)),
            Row::Session(session) => self.session(&machine_codec::session_from_proto(&session)),
            Row::SessionReply(reply) => {
                let (id, sequence, remembered) =
                    machine_codec::remembered_from_proto(reply).map_err(bad_row)?;
                let row = machine_codec::encode_remembered(id, sequence, &remembered);
                self.batch.put(Table::Sessions, rows::reply_key(id, sequence), row);
            }
            Row::Head(_) | Row::Applied(_) => {
                return Err(bad("the head or the applied position is not at the beginning"));
            }
        }
        Ok(())
    }

    fn latest(&mut self, key: &Key, record: &Record) {
        if record.lease != LeaseId::NONE {
            let row = rows::attachment_key(record.lease, key.as_bytes());
            self.batch.put(Table::Leases, row, []);
        }
        self.put_record(Table::Latest, key.as_bytes(), record);
    }

    fn put_record(&mut self, table: Table, row_key: &[u8], record: &Record) {
        let put_key = |row: &mut Vec<u8>| row.extend_from_slice(row_key);
        self.batch.put_with(table, put_key, |row| rows::put_record(row, record));
    }

    fn lease(&mut self, lease: &Lease) {
        self.leases += 1;
        let index = rows::expiry_key(lease.expires, lease.id.0.cast_unsigned());
        self.batch.put(Table::Leases, index, []);
        let row = machine_codec::encode_lease(lease);
        self.batch.put(Table::Leases, rows::lease_key(lease.id), row);
    }

    fn session(&mut self, session: &Session) {
        self.sessions += 1;
        let index = rows::expiry_key(session.expires, session.id.0);
        self.batch.put(Table::Sessions, index, []);
        let row = machine_codec::encode_session(session);
        self.batch.put(Table::Sessions, rows::session_key(session.id), row);
    }

    fn commit(&mut self) -> Result<(), StateError> {
        Ok(self.engine.commit(std::mem::take(&mut self.batch))?)
    }

    /// Writes where the state stands, which makes it one, and makes it durable.
    fn finish(&mut self, head: &Head, applied: &Applied) -> Result<(), StateError> {
        put_position(&mut self.batch, head, applied, &Applied::default());
        self.commit()?;
        Ok(self.engine.checkpoint()?)
    }
}

fn bad(problem: &str) -> StateError {
    StateError::BadSnapshot(problem.to_owned())
}

#[expect(clippy::needless_pass_by_value, reason = "it is a mapper of errors")]
fn bad_row(error: machine_codec::DecodeError) -> StateError {
    StateError::BadSnapshot(error.to_string())
}

fn key_record(row: disk::KeyRecord) -> Result<(Key, Record), StateError> {
    let row = machine_codec::key_record_from_proto(row).map_err(bad_row)?;
    Ok((row.key, row.record))
}

impl State {
    /// A snapshot of everything applied so far. It is read beside apply.
    ///
    /// # Errors
    ///
    /// Fails if the engine does.
    pub fn snapshot(&self) -> Result<SnapshotReader, StateError> {
        Ok(SnapshotReader::new(self.view()?))
    }

    /// Begins to receive a snapshot, into an engine beside the one in use.
    ///
    /// # Errors
    ///
    /// [`StateError::InstallRunning`] if another one is being received;
    /// [`StateError::SnapshotBehind`] if it ends before this state.
    pub fn begin_install(
        self: &Arc<Self>,
        applied: Applied,
        head: Head,
    ) -> Result<SnapshotWriter, StateError> {
        let number = {
            let mut writer = self.writer();
            self.refuse_behind(&applied)?;
            if writer.installing.is_some() {
                return Err(StateError::InstallRunning);
            }
            writer.highest += 1;
            writer.installing = Some(writer.highest);
            writer.highest
        };
        let place = Place { state: Arc::clone(self), number, keep: false };
        // Without the lock: opening an engine takes a while.
        let engine = self.home.create(number)?;
        let filling = Filling::new(engine);
        let hasher = blake3::Hasher::new();
        Ok(SnapshotWriter { filling, place, applied, head, rows: 0, hasher })
    }

    fn refuse_behind(&self, applied: &Applied) -> Result<(), StateError> {
        let present = self.current().applied_ref().id;
        if applied.id < present {
            return Err(StateError::SnapshotBehind { snapshot: applied.id, applied: present });
        }
        Ok(())
    }

    /// Puts a received snapshot in the place of the state: a rename, a sync of
    /// the directory, and a pointer. The engine before is removed later, by
    /// [`compact_step`](State::compact_step), when nobody reads it any more.
    ///
    /// # Errors
    ///
    /// [`StateError::SnapshotBehind`] if more was applied meanwhile than it
    /// contains. After another error the replica must stop: the state is the
    /// old one or the new one, and complete.
    pub fn install(&self, finished: FinishedSnapshot) -> Result<(), StateError> {
        // The place first, so that on a refusal the engine is closed before it.
        let FinishedSnapshot { mut place, engine, applied, head } = finished;
        let mut writer = self.writer();
        self.refuse_behind(&applied)?;
        self.home.switch(place.number)?;
        place.keep = true;
        let before = std::mem::replace(&mut writer.engine, engine);
        let number = std::mem::replace(&mut writer.number, place.number);
        writer.retired.push((number, before));
        writer.cleared_below = Revision::ZERO;
        writer.recent.clear();
        let shown = self.show(&writer, head, applied);
        drop(writer);
        drop(place);
        shown
    }

    /// Begins a new state in `dir` from the rows of a backup.
    ///
    /// # Errors
    ///
    /// Fails if there is a state in `dir` already, or `dir` cannot be used.
    pub fn restore_writer(
        dir: &Path,
        kind: EngineKind,
        options: super::StateOptions,
    ) -> Result<RestoreWriter, super::OpenError> {
        let home = Home::Directory { dir: dir.to_owned(), kind, options: options.engine };
        let engine = home.create_first()?;
        Ok(RestoreWriter { filling: Filling::new(engine), home, root: super::export::Root::new() })
    }
}

/// The side engine of a snapshot that is being received; removed when dropped,
/// unless it has become the state.
struct Place {
    state: Arc<State>,
    number: u64,
    keep: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut writer = self.state.writer();
        writer.installing = None;
        drop(writer);
        if !self.keep
            && let Err(error) = self.state.home.remove(self.number)
        {
            // It is a leftover, removed at the next start at the latest.
            tracing::warn!(%error, "the rest of a snapshot could not be removed");
        }
    }
}

/// Receives a snapshot's chunks.
pub struct SnapshotWriter {
    // Before `place`: the engine is closed before its directory is removed.
    filling: Filling,
    place: Place,
    applied: Applied,
    head: Head,
    rows: u64,
    hasher: blake3::Hasher,
}

impl SnapshotWriter {
    /// Takes the next chunk.
    ///
    /// # Errors
    ///
    /// [`StateError::BadSnapshot`] if it is damaged: begin again with another
    /// snapshot. Otherwise the disk failed.
    pub fn write(&mut self, chunk: Bytes) -> Result<(), StateError> {
        self.hasher.update(&chunk);
        for row in parse_frames(chunk) {
            let row = row?;
            match (self.rows, row) {
                (0, Row::Head(head)) => {
                    let head = machine_codec::head_from_proto(&head).map_err(bad_row)?;
                    if head != self.head {
                        return Err(bad("its head is not the one it was announced with"));
                    }
                }
                (1, Row::Applied(applied)) => {
                    if codec::applied_from_proto(applied) != self.applied {
                        return Err(bad("its position is not the one it was announced with"));
                    }
                }
                (0 | 1, _) => return Err(bad("it does not begin with head and position")),
                (_, row) => self.filling.add(row)?,
            }
            self.rows += 1;
        }
        self.filling.commit()
    }

    /// Verifies that everything has come and makes it durable.
    ///
    /// # Errors
    ///
    /// [`StateError::BadSnapshot`] if something is missing or changed.
    /// Otherwise the disk failed.
    pub fn finish(self, trailer: &SnapshotTrailer) -> Result<FinishedSnapshot, StateError> {
        let Self { place, mut filling, applied, head, rows, hasher } = self;
        if rows != trailer.rows {
            return Err(bad("rows are missing"));
        }
        if hasher.finalize() != trailer.hash {
            return Err(bad("its hash does not match"));
        }
        if (filling.leases, filling.sessions) != (head.leases, head.sessions) {
            return Err(bad("the head counts other leases or sessions"));
        }
        filling.finish(&head, &applied)?;
        place.state.home.prepare_switch(place.number)?;
        Ok(FinishedSnapshot { engine: filling.engine, place, applied, head })
    }
}

/// A snapshot that was received whole and is durable beside the state.
pub struct FinishedSnapshot {
    engine: Arc<dyn Engine>,
    place: Place,
    applied: Applied,
    head: Head,
}

impl FinishedSnapshot {
    /// Where the snapshot ends.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }
}

/// Fills a new state directory from the rows of a backup: live records and
/// leases, in the order of the export.
pub struct RestoreWriter {
    filling: Filling,
    home: Home,
    root: super::export::Root,
}

impl RestoreWriter {
    /// Takes the next chunk of [`Export`](super::Export); the exported head is
    /// passed over.
    ///
    /// # Errors
    ///
    /// [`StateError::BadSnapshot`] if the chunk is damaged or holds rows that no
    /// export has. Otherwise the disk failed.
    pub fn write(&mut self, chunk: Bytes) -> Result<(), StateError> {
        for row in parse_frames(chunk) {
            match row? {
                Row::Head(_) => {}
                Row::Latest(row) => {
                    let (key, record) = key_record(row)?;
                    self.root.add(&key, &record);
                    self.filling.latest(&key, &record);
                }
                Row::Lease(lease) => self.filling.lease(&machine_codec::lease_from_proto(&lease)),
                _ => return Err(bad("a row does not belong into a backup")),
            }
        }
        self.filling.commit()
    }

    /// The state root of the records so far, to be compared with the backup's.
    pub fn state_root(&self) -> [u8; 32] {
        self.root.finish()
    }

    /// Makes the state durable and puts it in place. `head` should be beyond the
    /// backup's revision, compacted there, and in a new history; its counts of
    /// leases and sessions are set to what was restored.
    ///
    /// # Errors
    ///
    /// Fails if the disk does. The directory then holds no state.
    pub fn finish(mut self, mut head: Head, applied: &Applied) -> Result<(), StateError> {
        head.leases = self.filling.leases;
        head.sessions = 0;
        self.filling.finish(&head, applied)?;
        self.home.prepare_switch(super::home::FIRST)?;
        Ok(self.home.switch(super::home::FIRST)?)
    }
}
