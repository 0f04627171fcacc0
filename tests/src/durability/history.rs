//! The operations on a log, each following from the seed, its number, and the
//! state before it.

use super::Random;
use bytes::Bytes;
use keelstone_store::disk::LogId;
use keelstone_store::disk::log::{LogEntry, Vote};
use std::collections::VecDeque;

/// Entries that a log keeps at most, before it is purged.
const ENTRIES_MAX: usize = 400;

/// Entries at the end that may still be truncated.
const UNSETTLED: usize = 40;

/// An operation on a log.
#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    Append(LogId),
    Vote(Vote),
    Truncate(Option<LogId>),
    Purge(LogId),
}

/// A log after a number of operations.
pub(super) struct History {
    seed: u64,
    /// Operations so far.
    pub(super) count: u64,
    term: u64,
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
    /// What may be said to be committed: it is never truncated.
    pub(super) committed: Option<LogId>,
    pub(super) ids: VecDeque<LogId>,
}

impl History {
    pub(super) fn new(seed: u64) -> Self {
        let ids = VecDeque::new();
        let (vote, purged, last, committed) = (None, None, None, None);
        Self { seed, count: 0, term: 1, vote, purged, last, committed, ids }
    }

    /// The log after `count` operations.
    pub(super) fn at(seed: u64, count: u64) -> Self {
        let mut history = Self::new(seed);
        while history.count < count {
            history.step();
        }
        history
    }

    /// Performs the next operation, and returns it.
    pub(super) fn step(&mut self) -> Op {
        self.count += 1;
        let mut random = Random::of(self.seed, self.count);
        if self.ids.len() > ENTRIES_MAX {
            let upto = self.ids[ENTRIES_MAX / 2 + random.below_usize(ENTRIES_MAX / 2)];
            self.ids.retain(|id| id.index > upto.index);
            self.purged = Some(upto);
            self.committed = self.committed.max(self.purged);
            return Op::Purge(upto);
        }
        match random.below(60) {
            0 | 1 => {
                self.term += 1;
                let vote = Vote { term: self.term, node: random.below(3), committed: false };
                self.vote = Some(vote);
                Op::Vote(vote)
            }
            2 if self.ids.len() > 20 => {
                self.term += 1;
                let settled = self.ids.partition_point(|id| Some(*id) <= self.committed);
                let kept = self.ids.len() - 1 - random.below_usize(20);
                self.ids.truncate(kept.max(settled));
                self.last = self.ids.back().copied().or(self.purged);
                Op::Truncate(self.last)
            }
            _ => {
                let index = self.last.map_or(0, |last| last.index + 1);
                let id = LogId { term: self.term, index, leader: self.term % 3 };
                self.ids.push_back(id);
                self.last = Some(id);
                if let Some(settled) = self.ids.len().checked_sub(UNSETTLED) {
                    self.committed = self.committed.max(Some(self.ids[settled]));
                }
                Op::Append(id)
            }
        }
    }

    /// The entry of an id: mostly small, now and then large.
    pub(super) fn entry(&self, id: LogId) -> LogEntry {
        let mut random = Random::of(self.seed ^ id.term << 40, id.index);
        let bound = [64, 600, 600, 4000, 60_000][random.below_usize(5)];
        let length = random.below_usize(bound);
        LogEntry { id, payload: Bytes::from(random.bytes(length)) }
    }
}
