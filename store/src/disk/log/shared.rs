//! What the handles, the readers and the writer of a log share.
//!
//! One mutex, held for microseconds: never over a system call, a checksum or a
//! completion.

use super::index::{Index, Place, SegmentPlaces, later};
use super::{Completion, LogEntry, LogError, LogOptions, LogStats, Recovered, Vote, format};
use crate::disk::LogId;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Something for the writer, in stream order.
pub(super) enum Item {
    Entry {
        entry: LogEntry,
        ticket: u64,
    },
    /// All entries of an append are before this.
    Appended(Completion),
    Vote(Vote, Completion),
    Truncate(Option<LogId>),
    Purge(LogId),
}

impl Item {
    /// Bytes that it takes in a round.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Entry { entry, .. } => format::entry_bytes(entry.payload.len()),
            Self::Appended(_) => 0,
            Self::Vote(..) | Self::Truncate(_) | Self::Purge(_) => format::CONTROL_BYTES_MAX,
        }
    }
}

/// What the writer takes at once.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
    pub(super) committed: Option<LogId>,
    /// Whether these are the last ones.
    pub(super) closed: bool,
}

/// A change of the index that became durable.
pub(super) enum Placed {
    Segment(SegmentPlaces),
    Entry(LogId, Place),
    Truncate(Option<LogId>),
    Purge(LogId),
}

/// A round that became durable.
#[derive(Default)]
pub(super) struct Settled {
    pub(super) placed: Vec<Placed>,
    /// The newest entry's ticket.
    pub(super) ticket: Option<u64>,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) micros: u64,
    pub(super) backlog_bytes: usize,
    pub(super) segment_bytes_left: u64,
}

/// Recent entries, in memory for readers.
#[derive(Default)]
struct Tail {
    entries: VecDeque<(LogEntry, u64)>,
    bytes: usize,
    /// Entries up to this ticket are durable, and may be read from the disk.
    durable: u64,
}

impl Tail {
    fn first(&self) -> Option<u64> {
        self.entries.front().map(|(entry, _)| entry.id.index)
    }

    fn push(&mut self, entry: LogEntry, ticket: u64) {
        self.bytes += entry.payload.len();
        self.entries.push_back((entry, ticket));
    }

    /// Keeps entries below `next`.
    fn truncate(&mut self, next: u64) {
        while let Some((entry, _)) = self.entries.back()
            && entry.id.index >= next
        {
            self.bytes -= entry.payload.len();
            self.entries.pop_back();
        }
    }

    /// Drops entries up to `index`.
    fn purge(&mut self, index: u64) {
        while let Some((entry, _)) = self.entries.front()
            && entry.id.index <= index
        {
            self.bytes -= entry.payload.len();
            self.entries.pop_front();
        }
    }

    /// Drops the oldest durable entries until `bytes_max` is kept.
    fn trim(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max
            && let Some((entry, ticket)) = self.entries.front()
            && *ticket <= self.durable
        {
            self.bytes -= entry.payload.len();
            self.entries.pop_front();
        }
    }

    /// Entries from `from`, which is in the tail, to before `until`.
    fn read(&self, from: u64, until: u64, bytes_max: usize, into: &mut Vec<LogEntry>) {
        let Some(first) = self.first() else { return };
        let skip = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        let mut bytes = into.iter().map(|entry| entry.payload.len()).sum::<usize>();
        for (entry, _) in self.entries.range(skip.min(self.entries.len())..) {
            bytes += entry.payload.len();
            if entry.id.index >= until || (bytes > bytes_max && !into.is_empty()) {
                return;
            }
            into.push(entry.clone());
        }
    }
}

/// What the mutex guards.
pub(super) struct State {
    /// As Raft sees it: with everything that is queued.
    pub(super) now: Recovered,
    queue: Vec<Item>,
    /// Bytes queued or being written.
    backlog_bytes: usize,
    /// Whether something in the queue waits for the disk.
    urgent: bool,
    committed: Option<LogId>,
    tickets: u64,
    tail: Tail,
    pub(super) index: Index,
    pub(super) stats: LogStats,
    closed: bool,
    failed: Option<LogError>,
    writer_waits: bool,
}

/// See the module.
pub(super) struct Shared {
    pub(super) options: LogOptions,
    state: Mutex<State>,
    work: Condvar,
}

impl Shared {
    pub(super) fn new(options: LogOptions, now: Recovered, index: Index) -> Self {
        let state = State {
            now,
            queue: Vec::new(),
            backlog_bytes: 0,
            urgent: false,
            committed: None,
            tickets: 0,
            tail: Tail::default(),
            index,
            stats: LogStats::default(),
            closed: false,
            failed: None,
            writer_waits: false,
        };
        Self { options, state: Mutex::new(state), work: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state consistent or panics on a bug;
        // a poisoned log is then ended by `failed`, not by a second panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the lock, and wakes the writer if it waits. That it waits is noted
    /// under the lock and before it sleeps, so it is never missed; and it need not
    /// wait for the lock when it wakes.
    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let waits = std::mem::take(&mut state.writer_waits);
        drop(state);
        if waits {
            self.work.notify_all();
        }
    }

    pub(super) fn append(&self, entries: Vec<LogEntry>, done: Completion) -> Result<(), LogError> {
        let mut state = self.lock();
        let bytes = state.check_append(&entries, self.options.backlog_bytes_max)?;
        state.queue.reserve(entries.len() + 1);
        for entry in entries {
            state.tickets += 1;
            let ticket = state.tickets;
            state.now.last = Some(entry.id);
            state.tail.push(entry.clone(), ticket);
            state.queue.push(Item::Entry { entry, ticket });
        }
        state.queue.push(Item::Appended(done));
        state.backlog_bytes += bytes;
        state.urgent = true;
        state.tail.trim(self.options.tail_bytes_max);
        self.wake(state);
        Ok(())
    }

    pub(super) fn save_vote(&self, vote: Vote, done: Completion) -> Result<(), LogError> {
        let mut state = self.lock();
        state.check_open()?;
        state.now.vote = Some(vote);
        state.push(Item::Vote(vote, done), true);
        self.wake(state);
        Ok(())
    }

    pub(super) fn save_committed(&self, id: LogId) -> Result<(), LogError> {
        let mut state = self.lock();
        state.check_open()?;
        state.now.committed = Some(id);
        state.committed = Some(id);
        Ok(())
    }

    pub(super) fn truncate_after(&self, kept: Option<LogId>) -> Result<(), LogError> {
        let mut state = self.lock();
        state.check_open()?;
        let next = kept.map_or(0, |kept| kept.index + 1);
        if state.now.last.is_none_or(|last| last.index < next) {
            return Ok(());
        }
        state.tail.truncate(next);
        state.now.last = later(kept, state.now.purged);
        // Not urgent: if it is lost, so are the entries that would have followed.
        state.push(Item::Truncate(kept), false);
        Ok(())
    }

    pub(super) fn purge(&self, upto: LogId) -> Result<(), LogError> {
        let mut state = self.lock();
        state.check_open()?;
        if state.now.purged.is_some_and(|purged| purged.index >= upto.index) {
            return Ok(());
        }
        state.now.purged = Some(upto);
        state.now.last = later(state.now.last, Some(upto));
        state.tail.purge(upto.index);
        state.push(Item::Purge(upto), true);
        self.wake(state);
        Ok(())
    }

    /// What the writer shall write, or nothing.
    pub(super) fn take(&self) -> Option<Batch> {
        let mut state = self.lock();
        state.take()
    }

    /// Waits until there is something to write, or until the log is closed.
    pub(super) fn wait(&self) -> Batch {
        let mut state = self.lock();
        loop {
            if let Some(batch) = state.take() {
                return batch;
            }
            state.writer_waits = true;
            // Waits without a bound: every call that needs the writer wakes it, and
            // so does closing the log.
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets readers see what a round has made durable.
    pub(super) fn settle(&self, settled: Settled) -> Vec<SegmentPlaces> {
        let mut state = self.lock();
        let mut purged = false;
        for placed in settled.placed {
            match placed {
                Placed::Segment(segment) => {
                    state.index.add_segment(segment);
                    state.stats.rotations += 1;
                }
                Placed::Entry(id, place) => state.index.append(id, place),
                Placed::Truncate(kept) => state.index.truncate(kept),
                Placed::Purge(upto) => {
                    state.index.purge(upto);
                    purged = true;
                }
            }
        }
        if let Some(ticket) = settled.ticket {
            state.tail.durable = ticket;
            state.tail.trim(self.options.tail_bytes_max);
        }
        state.backlog_bytes -= settled.backlog_bytes;
        let counters = &mut state.stats;
        counters.rounds += 1;
        counters.syncs += 1;
        counters.entries += settled.entries;
        counters.bytes += settled.bytes;
        counters.segment_bytes_left = settled.segment_bytes_left;
        counters.observe_round(settled.micros);
        if purged { state.index.take_dead() } else { Vec::new() }
    }

    /// Ends the log after an error; returns what was still queued.
    pub(super) fn fail(&self, error: &LogError) -> Vec<Item> {
        let mut state = self.lock();
        state.failed.get_or_insert_with(|| error.clone());
        std::mem::take(&mut state.queue)
    }

    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.wake(state);
    }

    pub(super) fn stats(&self) -> LogStats {
        let state = self.lock();
        LogStats {
            tail_entries: state.tail.entries.len() as u64,
            tail_bytes: state.tail.bytes as u64,
            backlog_bytes: state.backlog_bytes as u64,
            segments: state.index.segments().len() as u64,
            ..state.stats.clone()
        }
    }
}

/// What a reader finds in memory, and what it has to read from the disk before.
pub(super) struct ReadPlan {
    pub(super) located: Vec<super::index::Located>,
    pub(super) entries: Vec<LogEntry>,
}

impl State {
    fn check_open(&self) -> Result<(), LogError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.closed => Err(LogError::Closed),
            None => Ok(()),
        }
    }

    /// Checks that entries may be appended, and returns their bytes in the log.
    fn check_append(&self, entries: &[LogEntry], backlog_max: usize) -> Result<usize, LogError> {
        self.check_open()?;
        let mut expected = self.now.last.map(|last| last.index + 1);
        let mut bytes = 0;
        for entry in entries {
            let actual = entry.id.index;
            if let Some(expected) = expected
                && expected != actual
            {
                return Err(LogError::Hole { expected, actual });
            }
            if entry.payload.len() > format::PAYLOAD_BYTES_MAX {
                let bytes = entry.payload.len();
                return Err(LogError::TooLarge { bytes, bytes_max: format::PAYLOAD_BYTES_MAX });
            }
            expected = Some(actual + 1);
            bytes += format::entry_bytes(entry.payload.len());
        }
        let waiting = self.backlog_bytes + bytes;
        if waiting > backlog_max {
            return Err(LogError::Backlog { bytes: waiting, bytes_max: backlog_max });
        }
        Ok(bytes)
    }

    fn push(&mut self, item: Item, urgent: bool) {
        self.backlog_bytes += item.bytes();
        self.queue.push(item);
        self.urgent |= urgent;
    }

    fn take(&mut self) -> Option<Batch> {
        if !self.urgent && !self.closed {
            return None;
        }
        self.urgent = false;
        let items = std::mem::take(&mut self.queue);
        Some(Batch { items, committed: self.committed.take(), closed: self.closed })
    }

    /// Plans a read of the entries from `from` to before `until`.
    pub(super) fn plan(
        &self,
        from: u64,
        until: u64,
        bytes_max: usize,
    ) -> Result<ReadPlan, LogError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let from = from.max(self.now.purged.map_or(0, |purged| purged.index + 1));
        let until = until.min(self.now.last.map_or(0, |last| last.index + 1));
        let mut plan = ReadPlan { located: Vec::new(), entries: Vec::new() };
        if from >= until {
            return Ok(plan);
        }
        let tail_first = self.tail.first().unwrap_or(until);
        if from < tail_first {
            plan.located = self.index.locate(from, until.min(tail_first), bytes_max);
        }
        // Also if nothing precedes the tail: a log may begin after `from`.
        if plan.located.is_empty() {
            self.tail.read(from.max(tail_first), until, bytes_max, &mut plan.entries);
        }
        Ok(plan)
    }
}
