//! The recent changes of this replica, in memory, shared by all watchers.
//!
//! Apply appends to it and never waits: it is bounded in bytes, and the oldest
//! changes leave when there are too many. A watcher has a cursor (a revision);
//! one whose cursor has left the log reads history from disk instead.

use keelstone_store::Revision;
use keelstone_store::machine::Event;
use keelstone_store::planted::{self, Bug};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// All events of one revision.
#[derive(Debug)]
pub struct Change {
    /// The revision.
    pub revision: Revision,
    /// Its events, in the order of the operations.
    pub events: Vec<Event>,
    bytes: usize,
}

impl Change {
    /// Events in revision order, each revision's together.
    pub fn group(events: Vec<Event>) -> impl Iterator<Item = Self> {
        let mut rest = events.into_iter().peekable();
        std::iter::from_fn(move || {
            let first = rest.next()?;
            let revision = first.revision;
            let mut events = vec![first];
            while let Some(event) = rest.next_if(|event| event.revision == revision) {
                events.push(event);
            }
            let bytes = events.iter().map(event_bytes).sum();
            Some(Self { revision, events, bytes })
        })
    }
}

/// What a cursor finds in the log.
#[derive(Debug)]
pub enum Next {
    /// The changes from the cursor on, at least one.
    Changes(Vec<Arc<Change>>),
    /// Nothing newer was applied: everything up to this revision is known.
    UpToDate(Revision),
    /// The cursor's revision is no longer in memory: read it from disk.
    TooOld,
}

/// The shared log of recent changes.
#[derive(Debug)]
pub struct ChangeLog {
    inner: Mutex<Inner>,
    newest: watch::Sender<Position>,
    bytes_max: usize,
}

/// How far this replica has applied, and in which history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The newest applied revision.
    pub revision: Revision,
    /// Counts snapshot installs and the like: after such a jump the changes
    /// between are only on disk.
    pub epoch: u64,
}

#[derive(Debug)]
struct Inner {
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
    /// Every revision from this one on that changed something is in `changes`.
    complete_from: Revision,
}

impl ChangeLog {
    /// An empty log of a replica whose state is at `revision`.
    pub fn new(revision: Revision, bytes_max: usize) -> Self {
        let (changes, complete_from) = (VecDeque::new(), revision.next());
        let inner = Inner { changes, bytes: 0, complete_from };
        let (newest, _) = watch::channel(Position { revision, epoch: 0 });
        Self { inner: Mutex::new(inner), newest, bytes_max }
    }

    /// Adds what one log entry changed. `revision` is the store's afterwards,
    /// even if nothing changed. Never waits.
    pub fn append(&self, events: Vec<Event>, revision: Revision) {
        if !events.is_empty() {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            for change in Change::group(events) {
                inner.bytes += change.bytes;
                inner.changes.push_back(Arc::new(change));
            }
            while inner.bytes > self.bytes_max {
                let Some(oldest) = inner.changes.pop_front() else { break };
                inner.bytes -= oldest.bytes;
                inner.complete_from = oldest.revision.next();
            }
        }
        self.newest.send_if_modified(|position| {
            let moved = position.revision != revision;
            position.revision = revision;
            moved
        });
    }

    /// The state was replaced by a snapshot at `revision`: what led there is
    /// not in memory.
    pub fn reset(&self, revision: Revision) {
        {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.changes.clear();
            inner.bytes = 0;
            if !planted::is(Bug::WatchDropsAfterSnapshot) {
                inner.complete_from = revision.next();
            }
        }
        self.newest.send_modify(|position| {
            position.revision = revision;
            position.epoch += 1;
        });
    }

    /// What follows for a watcher that has seen everything below `from`. At
    /// most `changes_max` changes are returned.
    pub fn next(&self, from: Revision, changes_max: usize) -> Next {
        let newest = *self.newest.borrow();
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if from > newest.revision {
            return Next::UpToDate(newest.revision);
        }
        if from < inner.complete_from {
            return Next::TooOld;
        }
        let first = inner.changes.partition_point(|change| change.revision < from);
        let found: Vec<_> = inner.changes.iter().skip(first).take(changes_max).cloned().collect();
        if found.is_empty() { Next::UpToDate(newest.revision) } else { Next::Changes(found) }
    }

    /// Tells when something new was applied.
    pub fn subscribe(&self) -> watch::Receiver<Position> {
        self.newest.subscribe()
    }
}

fn event_bytes(event: &Event) -> usize {
    const OVERHEAD: usize = 160;
    let record = event.record.as_ref().map_or(0, |record| record.value.len());
    let previous = event.previous.as_ref().map_or(0, |record| record.value.len());
    OVERHEAD + event.key.as_bytes().len() + record + previous
}
