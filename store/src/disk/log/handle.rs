//! The log as Raft uses it.

use super::format::{self, Position, Record};
use super::index::Located;
use super::sectors;
use super::shared::Shared;
use super::upkeep::{Upkeep, segment_name};
use super::{
    Completion, Damage, LogEntry, LogError, LogOptions, LogStats, LogWriter, OpenError, Recovered,
    Vote, recovery,
};
use crate::disk::LogId;
use crate::disk::storage::{PAGE_BYTES, Storage};
use bytes::Bytes;
use std::io;
use std::sync::Arc;

/// Bytes of other records between two entries that are rather read than skipped.
const GAP_BYTES_MAX: usize = 64 * 1024;

/// A handle on a log. Cheap to clone; the log is closed with the last one.
#[derive(Clone)]
pub struct Log {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    upkeep: Arc<Upkeep>,
    storage: Arc<dyn Storage>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Log {
    /// Opens the log in `storage`, and creates it if there is none.
    ///
    /// Everything found is verified, and what is accepted is durable on return.
    /// A round at the end that a crash tore is cut off. The writer must be run
    /// (or driven) for anything to become durable.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; after [`OpenError::Damaged`] the files are as they were.
    pub fn open(
        storage: Arc<dyn Storage>,
        options: LogOptions,
    ) -> Result<(Self, LogWriter), OpenError> {
        let segment_bytes = options.segment_bytes.next_multiple_of(PAGE_BYTES as u64);
        let options = LogOptions { segment_bytes, ..options };
        let opened = recovery::open(&storage, &options)?;
        let upkeep = Arc::new(Upkeep::new(Arc::clone(&storage), &options, opened.next));
        let shared = Arc::new(Shared::new(options, opened.now, opened.index));
        upkeep.remove(opened.dead);
        let writer = LogWriter::new(Arc::clone(&shared), Arc::clone(&upkeep), opened.active);
        Ok((Self { handle: Arc::new(Handle { shared, upkeep, storage }) }, writer))
    }

    /// The present state, with all that was queued: after opening, what was
    /// recovered.
    pub fn recovered(&self) -> Recovered {
        self.handle.shared.lock().now
    }

    /// Appends entries that follow the last one without a hole; an empty log
    /// that was never purged may begin anywhere.
    ///
    /// The entries are readable on return. `done` is a watermark: it reports
    /// them and everything before them durable, and it is dropped without a call
    /// if a newer append is reported in the same round. Both it and an error of
    /// the disk are reported from the writer's thread.
    ///
    /// # Errors
    ///
    /// Nothing was appended and `done` is dropped.
    pub fn append(&self, entries: Vec<LogEntry>, done: Completion) -> Result<(), LogError> {
        self.handle.shared.append(entries, done)
    }

    /// Saves a vote, in order with appends. `done` is always called, unless this
    /// call fails.
    ///
    /// # Errors
    ///
    /// Nothing was saved and `done` is dropped.
    pub fn save_vote(&self, vote: Vote, done: Completion) -> Result<(), LogError> {
        self.handle.shared.save_vote(vote, done)
    }

    /// Notes how far the log is committed. The note rides with the next round
    /// and causes none; the newest replaces older ones.
    ///
    /// # Errors
    ///
    /// Fails if the log has failed or was closed.
    pub fn save_committed(&self, id: LogId) -> Result<(), LogError> {
        self.handle.shared.save_committed(id)
    }

    /// Removes the entries after `last_kept`, or all. Entries appended afterwards
    /// are never durable without it.
    ///
    /// # Errors
    ///
    /// Fails if the log has failed or was closed.
    pub fn truncate_after(&self, last_kept: Option<LogId>) -> Result<(), LogError> {
        self.handle.shared.truncate_after(last_kept)
    }

    /// Removes the entries up to `upto`, which may be past the last one: then
    /// the log is empty and continues after it. Files are removed later, when
    /// the purge is durable.
    ///
    /// # Errors
    ///
    /// Fails if the log has failed or was closed.
    pub fn purge(&self, upto: LogId) -> Result<(), LogError> {
        self.handle.shared.purge(upto)
    }

    /// The entries from index `from` to before `until` that the log has. At least
    /// one if there is any, and no more than there are in `bytes_max` bytes of
    /// payload; the caller asks again for the rest.
    ///
    /// Recent entries are clones of what was appended. Older ones are read from
    /// the disk, and verified.
    ///
    /// # Errors
    ///
    /// Fails if the log has failed, if the disk cannot be read, or if what is
    /// there is not what was written.
    pub fn read(&self, from: u64, until: u64, bytes_max: usize) -> Result<Vec<LogEntry>, LogError> {
        // The guard ends with the statement: the disk is read without it.
        let plan = self.handle.shared.lock().plan(from, until, bytes_max)?;
        if plan.located.is_empty() { Ok(plan.entries) } else { read_located(&plan.located) }
    }

    /// Bytes of disk that the log takes, spare segments included.
    pub fn size_bytes(&self) -> u64 {
        self.used_bytes() + self.handle.upkeep.spare_bytes()
    }

    /// Bytes of the segments that entries lie in.
    pub fn used_bytes(&self) -> u64 {
        self.handle.shared.lock().index.segments().iter().map(|segment| segment.bytes).sum()
    }

    /// Bytes that can still be allocated on the log's disk.
    ///
    /// # Errors
    ///
    /// Fails if the system does not tell.
    pub fn free_bytes(&self) -> io::Result<u64> {
        self.handle.storage.free_bytes()
    }

    /// What the log has done since it was opened, and how it is.
    pub fn stats(&self) -> LogStats {
        let mut stats = self.handle.shared.stats();
        self.handle.upkeep.report(&mut stats);
        stats
    }

    /// Closes the log: the writer writes what is queued, marks the end as clean,
    /// and returns. Happens by itself when the last handle is dropped.
    pub fn close(&self) {
        self.handle.shared.close();
    }
}

/// Reads entries from the disk, neighbours together.
fn read_located(located: &[Located]) -> Result<Vec<LogEntry>, LogError> {
    let mut entries = Vec::with_capacity(located.len());
    let near = |a: &Located, b: &Located| {
        a.sequence == b.sequence
            && b.place.offset > a.place.offset
            && (b.place.offset - a.place.offset) as usize - a.place.bytes as usize <= GAP_BYTES_MAX
    };
    for group in located.chunk_by(near) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let start = first.place.offset;
        let length = (last.place.offset - start + last.place.bytes) as usize;
        let stream = u64::from(start);
        let range = sectors::file_range(&(stream..stream + length as u64));
        let mut buffer = vec![0; usize::try_from(range.end - range.start).unwrap_or(usize::MAX)];
        first
            .file
            .read_at(&mut buffer, range.start)
            .map_err(|error| LogError::failed("reading entries", &error))?;
        sectors::strip(&mut buffer, stream);
        let buffer = Bytes::from(buffer);
        for entry in group {
            entries.push(verified(&buffer, start, entry)?);
        }
    }
    Ok(entries)
}

/// The entry in `buffer`, which was read from `start` on, if it is the right one.
fn verified(buffer: &Bytes, start: u32, located: &Located) -> Result<LogEntry, LogError> {
    let at = (located.place.offset - start) as usize;
    let whole = &buffer[at..at + located.place.bytes as usize];
    let position = Position { segment: located.sequence, offset: u64::from(located.place.offset) };
    let found = match format::decode(whole, position) {
        Ok(decoded) => match decoded.record {
            Record::Entry(id, payload) if id.index == located.index => {
                return Ok(LogEntry { id, payload: buffer.slice_ref(payload) });
            }
            _ => "another record".to_owned(),
        },
        Err(flaw) => flaw.to_string(),
    };
    Err(LogError::Damaged(Damage {
        segment: segment_name(located.sequence),
        offset: sectors::file_offset(position.offset),
        expected: format!("the entry of index {}", located.index),
        found,
    }))
}
