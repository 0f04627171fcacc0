//! Many watches of raw keys on one stream.
//!
//! Watches that are up to date share one place in history and are given each
//! change together; one that is behind has a place of its own and catches up a
//! step at a time, in turn with the others. A session does nothing by itself:
//! whoever owns it takes what is [ready](Session::take) and then lets it
//! [advance](Session::advance).

use super::{End, Hub, Progress, Read, Slot, check_place};
use crate::changes::{Change, Next, Position};
use crate::metrics::WatchState;
use keelstone_store::machine::Event;
use keelstone_store::planted::{self, Bug};
use keelstone_store::{KeyRange, Revision};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// What a client wants to watch.
#[derive(Clone, Debug)]
pub struct Create {
    /// Unique in the stream.
    pub id: u64,
    /// The keys.
    pub range: KeyRange,
    /// The first revision of interest; zero: whatever comes next.
    pub start: Revision,
    /// The history that `start` belongs to; empty: not checked.
    pub history: Vec<u8>,
    /// What to show of events.
    pub shape: Shape,
    /// Zero: never.
    pub progress_interval: Duration,
}

/// What is shown of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// The record before.
    pub previous: bool,
    /// No values.
    pub keys_only: bool,
}

/// Something to tell the client. What is told is in the order that it has to
/// arrive in.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// A watch begins. Always the first of its id.
    Created {
        /// The watch.
        id: u64,
        /// The first revision that it will report.
        start: Revision,
    },
    /// Events that match: whole revisions.
    Events {
        /// The watch.
        id: u64,
        /// At least one, in order.
        events: Vec<Event>,
        /// What to show of them.
        shape: Shape,
    },
    /// All events up to and including this revision were told before.
    Progress {
        /// The watch.
        id: u64,
        /// The revision.
        revision: Revision,
    },
    /// A watch has ended, or does not begin. Always the last of its id.
    Canceled {
        /// The watch.
        id: u64,
        /// Why.
        end: End,
    },
}

/// The client broke the protocol: the stream ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct Refusal {
    /// The field at fault.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

/// One stream with its watches.
pub struct Session {
    hub: Arc<Hub>,
    watches: BTreeMap<u64, Watch>,
    /// Synced watches were given every change below this revision.
    reached: Revision,
    position: watch::Receiver<Position>,
    /// The epoch of the position for which `history` was read.
    epoch: u64,
    history: [u8; 16],
    ready: VecDeque<Output>,
    ended: bool,
    _slot: Slot,
}

#[derive(Debug)]
struct Watch {
    range: KeyRange,
    shape: Shape,
    /// Nothing below this revision is told.
    from: Revision,
    state: State,
    progress: Option<Progress>,
    /// The client asked how far it is, when this was the newest revision.
    asked: Option<Revision>,
}

/// Where a watch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is given changes together with the others.
    Synced,
    /// It was given every change below this revision, and reads on by itself.
    Behind(Revision),
}

impl Session {
    /// A stream without watches.
    ///
    /// # Errors
    ///
    /// Fails if there are too many streams, or the node stops.
    pub async fn open(hub: Arc<Hub>) -> Result<Self, End> {
        if hub.stop.is_cancelled() {
            return Err(End::Stopping);
        }
        let slot = hub.slot()?;
        let position = hub.changes.subscribe();
        // Before the history: a change in between is seen as one of the epoch.
        let Position { revision, epoch } = *position.borrow();
        let history = hub.head().await?.history;
        let reached = revision.next();
        let (watches, ready) = (BTreeMap::new(), VecDeque::new());
        let ended = false;
        Ok(Self { hub, watches, reached, position, epoch, history, ready, ended, _slot: slot })
    }

    /// The history that revisions of this stream belong to.
    pub fn history(&self) -> [u8; 16] {
        self.history
    }

    /// The newest revision that this node has applied.
    pub fn newest(&self) -> Revision {
        self.position.borrow().revision
    }

    /// The next thing to tell the client, if one is ready.
    pub fn take(&mut self) -> Option<Output> {
        self.ready.pop_front()
    }

    /// Whether the stream is over once all that is ready was taken.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether there is anything to watch.
    pub fn is_idle(&self) -> bool {
        self.watches.is_empty()
    }

    /// Begins a watch. What became of it is among what is ready then.
    ///
    /// # Errors
    ///
    /// Fails if the id is in use: no answer could tell the two apart.
    pub async fn create(&mut self, create: Create) -> Result<(), Refusal> {
        let id = create.id;
        self.check_unused(id)?;
        match self.begin(create).await {
            Ok((start, watch)) => {
                self.count(watch.state, 1);
                self.watches.insert(id, watch);
                self.ready.push_back(Output::Created { id, start });
            }
            Err(end) => self.tell_end(id, end),
        }
        Ok(())
    }

    /// Says why a watch does not begin that could not even be understood.
    ///
    /// # Errors
    ///
    /// Fails if the id is in use, as [`create`](Self::create) does.
    pub fn refuse(&mut self, id: u64, end: End) -> Result<(), Refusal> {
        self.check_unused(id)?;
        self.tell_end(id, end);
        Ok(())
    }

    fn check_unused(&self, id: u64) -> Result<(), Refusal> {
        if !self.watches.contains_key(&id) {
            return Ok(());
        }
        let problem = format!("watch {id} exists: choose ids that are unique in the stream");
        Err(Refusal { field: "create.watch_id", problem })
    }

    async fn begin(&self, create: Create) -> Result<(Revision, Watch), End> {
        let limit = self.hub.limits.watches_per_stream_max;
        if self.watches.len() >= limit {
            let problem =
                format!("the stream has {limit} watches, which is the limit: open another");
            return Err(End::Invalid(problem));
        }
        if create.range.is_empty() {
            return Err(End::Invalid("span: no key can be in it".to_owned()));
        }
        check_place(&self.hub.head().await?, create.start, &create.history)?;
        let start = match create.start {
            Revision::ZERO => self.newest().next(),
            start => start,
        };
        let again = create.start != Revision::ZERO && planted::is(Bug::WatchTwiceOnResume);
        let from = if again { start.previous() } else { start };
        let state = if from >= self.reached { State::Synced } else { State::Behind(from) };
        let watch = Watch {
            range: create.range,
            shape: create.shape,
            from,
            state,
            progress: Some(create.progress_interval)
                .filter(|interval| !interval.is_zero())
                .and_then(Progress::every),
            asked: None,
        };
        Ok((start, watch))
    }

    /// Ends a watch. Of one that is not there nothing is said.
    pub fn cancel(&mut self, id: u64) {
        if self.watches.contains_key(&id) {
            self.end(id, End::Requested);
        }
    }

    /// Tells how far a watch is, as soon as it is up to date. Of one that is
    /// not there nothing is said.
    pub fn ask_progress(&mut self, id: u64) {
        let newest = self.newest();
        if let Some(watch) = self.watches.get_mut(&id) {
            watch.asked = Some(newest);
        }
    }

    /// Waits until something is ready. Can be cancelled without losing anything.
    pub async fn advance(&mut self) {
        while self.ready.is_empty() && !self.ended {
            if self.hub.stop.is_cancelled() {
                self.end_all(&End::Stopping);
                return;
            }
            let position = *self.position.borrow_and_update();
            if let Err(end) = self.keep_history(position).await {
                self.end_all(&end);
                return;
            }
            let more = self.step_synced(position.revision) | self.step_behind().await;
            self.tell_progress();
            if !self.ready.is_empty() {
                return;
            }
            if more {
                tokio::task::yield_now().await;
            } else {
                self.wait().await;
            }
        }
    }

    /// Until something was applied, a notice is due, or the node stops.
    async fn wait(&mut self) {
        let due = self.watches.values().filter_map(|watch| Some(watch.progress?.due)).min();
        let notice = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        let stopped = tokio::select! {
            changed = self.position.changed() => changed.is_err(),
            () = notice => false,
            () = self.hub.stop.cancelled() => true,
        };
        if stopped {
            self.end_all(&End::Stopping);
        }
    }

    /// After a jump such as a snapshot install the state may be another
    /// cluster's: a place in the old history means nothing there.
    async fn keep_history(&mut self, position: Position) -> Result<(), End> {
        if position.epoch == self.epoch {
            return Ok(());
        }
        if self.hub.head().await?.history != self.history {
            return Err(End::HistoryChanged);
        }
        self.epoch = position.epoch;
        Ok(())
    }

    /// Gives the synced watches what is new. Whether there may be more.
    fn step_synced(&mut self, newest: Revision) -> bool {
        if !self.watches.values().any(|watch| watch.state == State::Synced) {
            self.reached = self.reached.max(newest.next());
            return false;
        }
        match self.hub.changes.next(self.reached, super::STEP_CHANGES) {
            Next::UpToDate(revision) => {
                self.reached = self.reached.max(revision.next());
                false
            }
            Next::Changes(changes) => {
                let synced = |watch: &Watch| watch.state == State::Synced;
                let ids: Vec<u64> =
                    self.watches.iter().filter(|(_, w)| synced(w)).map(|(id, _)| *id).collect();
                for id in ids {
                    self.give(id, &changes);
                }
                self.reached = changes.last().map_or(self.reached, |last| last.revision.next());
                true
            }
            Next::TooOld => {
                self.fall_behind(newest);
                true
            }
        }
    }

    /// The stream was too slow: its place has left the memory. Each watch reads
    /// on by itself, and joins the others again where they will be.
    fn fall_behind(&mut self, newest: Revision) {
        let reached = self.reached;
        let mut fallen = 0;
        for watch in self.watches.values_mut().filter(|watch| watch.state == State::Synced) {
            watch.state = State::Behind(watch.from.max(reached));
            fallen += 1;
        }
        self.count(State::Synced, -fallen);
        self.count(State::Behind(reached), fallen);
        self.reached = reached.max(newest.next());
    }

    /// Lets every watch that is behind read one step. Whether there may be more.
    async fn step_behind(&mut self) -> bool {
        let behind: Vec<(u64, Revision)> = self
            .watches
            .iter()
            .filter_map(|(id, watch)| match watch.state {
                State::Behind(next) => Some((*id, next)),
                State::Synced => None,
            })
            .collect();
        let more = !behind.is_empty();
        for (id, next) in behind {
            match self.hub.read(next).await {
                Ok(Read::Changes(changes)) => {
                    let next = changes.last().map_or(next, |last| last.revision.next());
                    self.give(id, &changes);
                    self.moved(id, next);
                }
                Ok(Read::UpToDate(revision)) => self.moved(id, next.max(revision.next())),
                Err(end) => self.end(id, end),
            }
        }
        more
    }

    /// A watch that is behind was given every change below `next`.
    fn moved(&mut self, id: u64, next: Revision) {
        let Some(watch) = self.watches.get_mut(&id) else { return };
        if next < self.reached {
            watch.state = State::Behind(next);
            return;
        }
        // It may be ahead of the others: what they are given below this it had.
        watch.from = watch.from.max(next);
        watch.state = State::Synced;
        self.count(State::Behind(next), -1);
        self.count(State::Synced, 1);
    }

    /// Readies what matches, whole revisions, in responses of bounded size.
    fn give(&mut self, id: u64, changes: &[Arc<Change>]) {
        let Some(watch) = self.watches.get_mut(&id) else { return };
        let shape = watch.shape;
        let (mut events, mut bytes, mut count) = (Vec::new(), 0, 0_u64);
        for change in changes.iter().filter(|change| change.revision >= watch.from) {
            let matching = change.events.iter();
            let matching = matching.filter(|event| watch.range.contains(event.key.as_bytes()));
            let before = events.len();
            events.extend(matching.cloned());
            bytes += events[before..].iter().map(|event| shown_bytes(event, shape)).sum::<usize>();
            count += (events.len() - before) as u64;
            if planted::is(Bug::SplitRevision) {
                let alone =
                    events.drain(..).map(|event| Output::Events { id, events: vec![event], shape });
                self.ready.extend(alone);
            }
            if bytes >= self.hub.limits.bytes_max {
                self.ready.push_back(Output::Events { id, events, shape });
                (events, bytes) = (Vec::new(), 0);
            }
        }
        if !events.is_empty() {
            self.ready.push_back(Output::Events { id, events, shape });
        }
        if count > 0 {
            self.hub.metrics.watch_events.inc_by(count);
            watch.progress.iter_mut().for_each(Progress::postpone);
        }
    }

    /// After a step: what synced watches were given is among what is ready, so a
    /// notice comes after it.
    fn tell_progress(&mut self) {
        let now = Instant::now();
        let revision = self.reached.previous();
        let revision = if planted::is(Bug::EarlyProgress) { revision.next() } else { revision };
        for (id, watch) in &mut self.watches {
            // A start in the future: nothing was reached that it asked about.
            if watch.state != State::Synced || watch.from > self.reached {
                continue;
            }
            let due = watch.progress.is_some_and(|progress| progress.due <= now);
            let asked = watch.asked.is_some_and(|newest| newest <= revision);
            if due || asked {
                watch.asked = None;
                watch.progress.iter_mut().for_each(Progress::postpone);
                self.ready.push_back(Output::Progress { id: *id, revision });
            }
        }
        // Notices that are due and cannot be given must not keep us awake.
        for progress in self.watches.values_mut().filter_map(|watch| watch.progress.as_mut()) {
            if progress.due <= now {
                progress.postpone();
            }
        }
    }

    fn end(&mut self, id: u64, end: End) {
        let Some(watch) = self.watches.remove(&id) else { return };
        self.count(watch.state, -1);
        self.tell_end(id, end);
    }

    fn tell_end(&mut self, id: u64, end: End) {
        self.hub.count_end(&end);
        self.ready.push_back(Output::Canceled { id, end });
    }

    fn end_all(&mut self, end: &End) {
        self.ended = true;
        let ids: Vec<u64> = self.watches.keys().copied().collect();
        for id in ids {
            self.end(id, end.clone());
        }
    }

    fn count(&self, state: State, change: i64) {
        let state = match state {
            State::Synced => "synced",
            State::Behind(_) => "behind",
        };
        self.hub.metrics.watches.get_or_create(&WatchState { state }).inc_by(change);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for watch in self.watches.values() {
            self.count(watch.state, -1);
        }
    }
}

fn shown_bytes(event: &Event, shape: Shape) -> usize {
    const OVERHEAD: usize = 64;
    let value = |shown: bool, record: &Option<keelstone_store::machine::Record>| {
        record.as_ref().filter(|_| shown).map_or(0, |record| record.value.len())
    };
    OVERHEAD
        + event.key.as_bytes().len()
        + value(!shape.keys_only, &event.record)
        + value(!shape.keys_only && shape.previous, &event.previous)
}
