//! The write-ahead log as the consensus library wants it.
//!
//! Every call is a copy into the log's buffer: the library awaits them in its
//! core task, where a slow one would stop elections and acknowledgements.

use super::convert;
use super::types::{Entry, LogId, Types, Vote};
use keelstone_store::disk::log::{Log, LogEntry, LogError};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of entries in one append to a follower, and in one read for apply,
/// unless a single entry is larger.
const READ_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of log between two marks.
const MARK_BYTES: u64 = 1024 * 1024;

/// The log of this node.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: Log,
    marks: Arc<Mutex<Marks>>,
}

/// Where in the log how many bytes were written, once in a while: enough to
/// choose how much of it to keep.
#[derive(Default)]
struct Marks {
    written: u64,
    marks: VecDeque<(u64, u64)>,
}

impl LogStore {
    pub(crate) fn new(log: Log) -> Self {
        Self { log, marks: Arc::default() }
    }

    /// Bytes of entries appended since the start of the process.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.marks().written
    }

    /// Bytes of the files that entries lie in.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.log.used_bytes()
    }

    /// The first entry of about the newest `bytes` bytes, if more than that was
    /// appended since the start of the process.
    pub(crate) fn index_before(&self, bytes: u64) -> Option<u64> {
        let mut marks = self.marks();
        let limit = marks.written.checked_sub(bytes)?;
        let passed = marks.marks.partition_point(|(_, written)| *written <= limit);
        let last = marks.marks.get(passed.checked_sub(1)?).map(|(index, _)| *index);
        marks.marks.drain(..passed - 1);
        last
    }

    fn marks(&self) -> std::sync::MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, entries: &[LogEntry]) {
        let mut marks = self.marks();
        for entry in entries {
            marks.written += entry.payload.len() as u64 + 32;
            let due = marks.marks.back().is_none_or(|(_, at)| marks.written >= at + MARK_BYTES);
            if due {
                let mark = (entry.id.index, marks.written);
                marks.marks.push_back(mark);
            }
        }
    }
}

fn failed(error: LogError) -> io::Error {
    io::Error::other(error)
}

/// What of `[from, until)` is there: the library tolerates less at both ends,
/// and a hole nowhere.
fn present(log: &Log, from: u64, until: u64) -> io::Result<(u64, u64)> {
    let recovered = log.recovered();
    let Some(last) = recovered.last else { return Ok((until, until)) };
    let first = match recovered.purged {
        Some(purged) => purged.index + 1,
        // Only in tests does a log begin elsewhere.
        None if from > 0 => from,
        None => log.read(0, u64::MAX, 1).map_err(failed)?.first().map_or(0, |it| it.id.index),
    };
    Ok((from.max(first), until.min(last.index + 1)))
}

fn limits(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index + 1,
        Bound::Unbounded => 0,
    };
    let until = match range.end_bound() {
        Bound::Included(index) => index + 1,
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    (from, until)
}

/// Entries that do not follow each other would corrupt a follower's log.
fn checked(from: u64, entries: Vec<LogEntry>, into: &mut Vec<Entry>) -> io::Result<u64> {
    let mut next = from;
    for entry in entries {
        if entry.id.index != next {
            let text = format!("the log has entry {} where {next} belongs", entry.id.index);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        next += 1;
        into.push(convert::entry_from_log(entry).map_err(io::Error::other)?);
    }
    Ok(next)
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, until) = limits(&range);
        let (mut from, until) = present(&self.log, from, until)?;
        let mut entries = Vec::new();
        while from < until {
            let read = self.log.read(from, until, READ_BYTES_MAX).map_err(failed)?;
            if read.is_empty() {
                let text = format!("the log lacks entry {from} of its own range");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            from = checked(from, read, &mut entries)?;
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.log.recovered().vote.map(convert::vote_from_store))
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        let (from, until) = present(&self.log, start, end)?;
        let mut entries = Vec::new();
        if from < until {
            let read = self.log.read(from, until, READ_BYTES_MAX).map_err(failed)?;
            checked(from, read, &mut entries)?;
        }
        Ok(entries)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let recovered = self.log.recovered();
        let purged = recovered.purged.map(convert::log_id_from_store);
        let last = recovered.last.map(convert::log_id_from_store);
        Ok(LogState { last_purged_log_id: purged, last_log_id: last.max(purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let done = Box::new(move |result| {
            // Nobody waits any more only if the core has stopped.
            let _ = sender.send(result);
        });
        self.log.save_vote(convert::vote_to_store(vote), done).map_err(failed)?;
        receiver.await.map_err(|_| io::Error::other("the log was closed"))?
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        match committed {
            None => Ok(()),
            Some(id) => self.log.save_committed(convert::log_id_to_store(&id)).map_err(failed),
        }
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.log.recovered().committed.map(convert::log_id_from_store))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().map(convert::entry_to_log).collect();
        self.mark(&entries);
        let done = Box::new(move |result| callback.io_completed(result));
        self.log.append(entries, done).map_err(failed)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.log.truncate_after(last.as_ref().map(convert::log_id_to_store)).map_err(failed)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.log.purge(convert::log_id_to_store(&upto)).map_err(failed)
    }
}
