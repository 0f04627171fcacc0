//! One watch with a filter of its own: what entities and configuration are
//! watched through.

use super::{End, Hub, Progress, Read, Slot, check_place};
use crate::changes::{Change, Position};
use crate::metrics::WatchState;
use keelstone_store::Revision;
use keelstone_store::machine::Event;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// What a feed says.
#[derive(Debug, PartialEq)]
pub enum Fed<T> {
    /// What the filter made of all events of one revision, at least one.
    Events(Revision, Vec<T>),
    /// All events up to and including this revision were told before.
    Progress(Revision),
}

/// A filter: what to tell of an event, if anything.
type Select<T> = Box<dyn Fn(&Event) -> Option<T> + Send>;

/// One watch. It does nothing by itself: whoever owns it asks for what is
/// [next](Feed::next).
pub struct Feed<T> {
    hub: Arc<Hub>,
    select: Select<T>,
    /// Every change below this revision was looked at.
    next: Revision,
    ready: VecDeque<(Revision, Vec<T>)>,
    position: watch::Receiver<Position>,
    epoch: u64,
    history: [u8; 16],
    progress: Option<Progress>,
    _slot: Slot,
}

impl<T> Feed<T> {
    /// Watches from `start` on (zero: whatever comes next), which belongs to
    /// `history` (empty: not checked).
    ///
    /// # Errors
    ///
    /// See [`End`].
    pub async fn open(
        hub: Arc<Hub>,
        start: Revision,
        history: &[u8],
        progress_interval: Duration,
        select: impl Fn(&Event) -> Option<T> + Send + 'static,
    ) -> Result<Self, End> {
        if hub.stop.is_cancelled() {
            return Err(End::Stopping);
        }
        let slot = hub.slot()?;
        let position = hub.changes.subscribe();
        let Position { revision, epoch } = *position.borrow();
        let head = hub.head().await?;
        check_place(&head, start, history)?;
        let next = if start == Revision::ZERO { revision.next() } else { start };
        let progress = Some(progress_interval).filter(|interval| !interval.is_zero());
        hub.metrics.watches.get_or_create(&WatchState { state: "synced" }).inc();
        Ok(Self {
            hub,
            select: Box::new(select),
            next,
            ready: VecDeque::new(),
            position,
            epoch,
            history: head.history,
            progress: progress.and_then(Progress::every),
            _slot: slot,
        })
    }

    /// The history that revisions of this feed belong to.
    pub fn history(&self) -> [u8; 16] {
        self.history
    }

    /// The newest revision that this node has applied.
    pub fn newest(&self) -> Revision {
        self.position.borrow().revision
    }

    /// Waits for what is next. Can be cancelled without losing anything.
    ///
    /// # Errors
    ///
    /// See [`End`]; the feed is over then.
    pub async fn next(&mut self) -> Result<Fed<T>, End> {
        let end = loop {
            match self.advance().await {
                Ok(Some(fed)) => return Ok(fed),
                Ok(None) => {}
                Err(end) => break end,
            }
        };
        self.hub.count_end(&end);
        Err(end)
    }

    async fn advance(&mut self) -> Result<Option<Fed<T>>, End> {
        if let Some((revision, events)) = self.ready.pop_front() {
            self.progress.iter_mut().for_each(Progress::postpone);
            return Ok(Some(Fed::Events(revision, events)));
        }
        if self.hub.stop.is_cancelled() {
            return Err(End::Stopping);
        }
        let position = *self.position.borrow_and_update();
        if position.epoch != self.epoch {
            if self.hub.head().await?.history != self.history {
                return Err(End::HistoryChanged);
            }
            self.epoch = position.epoch;
        }
        match self.hub.read(self.next).await? {
            Read::Changes(changes) => {
                self.look_at(&changes);
                tokio::task::yield_now().await;
                return Ok(None);
            }
            Read::UpToDate(revision) if revision >= self.next => {
                self.next = revision.next();
                return Ok(None);
            }
            Read::UpToDate(revision) => {
                // A start in the future: nothing was reached that it asked about.
                let reached = self.next <= revision.next();
                if let Some(progress) = &mut self.progress
                    && progress.due <= Instant::now()
                {
                    progress.postpone();
                    return Ok(reached.then_some(Fed::Progress(revision)));
                }
            }
        }
        self.wait().await?;
        Ok(None)
    }

    fn look_at(&mut self, changes: &[Arc<Change>]) {
        for change in changes {
            let events: Vec<T> = change.events.iter().filter_map(&self.select).collect();
            if !events.is_empty() {
                self.hub.metrics.watch_events.inc_by(events.len() as u64);
                self.ready.push_back((change.revision, events));
            }
            self.next = change.revision.next();
        }
    }

    async fn wait(&mut self) -> Result<(), End> {
        let due = self.progress.map(|progress| progress.due);
        let notice = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.position.changed() => changed.map_err(|_| End::Stopping),
            () = notice => Ok(()),
            () = self.hub.stop.cancelled() => Err(End::Stopping),
        }
    }
}

impl<T> Drop for Feed<T> {
    fn drop(&mut self) {
        self.hub.metrics.watches.get_or_create(&WatchState { state: "synced" }).dec();
    }
}
