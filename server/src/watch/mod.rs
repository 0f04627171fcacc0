//! The watch hub: from applied changes to streams of them.
//!
//! Apply appends to the [`ChangeLog`] and knows nothing of watchers. A stream is
//! *pulled*: it reads on when its client has taken what was prepared before, so
//! that what a slow client costs is one step's worth of events, and nobody else
//! notices it. A watcher that is so slow that its place has left the memory of
//! recent changes reads history from disk, and goes on from memory once it has
//! caught up.
//!
//! * [`Session`]: many watches of raw keys on one stream;
//! * [`Feed`]: one watch with a filter of its own, for entities and
//!   configuration.
//!
//! # What a watch promises
//!
//! Events that match, each exactly once, in revision order, all of one revision
//! in one response, with the record before. Nothing below its start, and nothing
//! at all before a start in the future is reached. A progress notice for
//! revision R comes after all events up to R. A place that is no longer in
//! history ends the watch with the oldest revision that is; a place in another
//! history ends it as well. A snapshot that replaces this node's state changes
//! nothing of this: places are revisions, and a place only moves forward.
//!
//! Nothing here knows gRPC; the services turn the outcome into messages.

mod feed;
mod session;
#[cfg(test)]
mod tests;

pub use feed::{Fed, Feed};
pub use session::{Create, Output, Refusal, Session, Shape};

use crate::changes::{Change, ChangeLog, Next};
use crate::core::{Consistency, Core, ReadError};
use crate::metrics::{Metrics, Reason};
use keelstone_store::Revision;
use keelstone_store::machine::{Head, Rejection, View as _};
use keelstone_store::state::StateView;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Changes taken from memory in one step.
const STEP_CHANGES: usize = 256;
/// Events read from disk in one step.
const STEP_EVENTS: usize = 1024;
/// A local read needs no quorum; this bounds one on a node that is stopping.
const LOCAL_READ: Duration = Duration::from_secs(5);
/// The shortest interval of progress notices.
const PROGRESS_MIN: Duration = Duration::from_millis(100);

/// What streams may cost.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Streams of all clients.
    pub streams_max: usize,
    /// Watches on one stream.
    pub watches_per_stream_max: usize,
    /// Bytes of events in one response, and of history read in one step, unless
    /// one revision alone is larger.
    pub bytes_max: usize,
}

/// What all streams of a node share.
pub struct Hub {
    core: Arc<dyn Core>,
    changes: Arc<ChangeLog>,
    limits: Limits,
    metrics: Arc<Metrics>,
    streams: Arc<Semaphore>,
    stop: CancellationToken,
}

/// Why a watch ended, or did not begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// The client asked for it.
    #[error("the watch was cancelled by request")]
    Requested,
    /// Its place is no longer in history.
    #[error("history begins at {oldest}: read again, then watch from the revision of that read")]
    Compacted {
        /// The oldest revision that can be read.
        oldest: Revision,
    },
    /// Its place is in another history.
    #[error("the cluster was restored, the revision belongs to another history: read again")]
    HistoryChanged,
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// There are too many streams.
    #[error("{limit} watch streams are open, which is the limit: close some, or ask another node")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The node stops: go on elsewhere.
    #[error("the node is shutting down: go on at another one")]
    Stopping,
    /// The node's state could not be read.
    #[error("the node's state could not be read: go on at another one")]
    Failed,
}

impl End {
    /// A short stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Compacted { .. } => "compacted",
            Self::HistoryChanged => "history_changed",
            Self::Invalid(_) => "invalid",
            Self::TooMany { .. } => "too_many",
            Self::Stopping => "stopping",
            Self::Failed => "state_failed",
        }
    }
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Stopping | ReadError::NoQuorum(_) => Self::Stopping,
            ReadError::Failed(error) => {
                tracing::error!(%error, "a watcher's history could not be read");
                Self::Failed
            }
        }
    }
}

/// What follows a place in history.
enum Read {
    /// At least one change, whole revisions.
    Changes(Vec<Arc<Change>>),
    /// Nothing: all up to this revision is known.
    UpToDate(Revision),
}

/// A stream's place among those that are allowed, until it is dropped.
struct Slot {
    metrics: Arc<Metrics>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.metrics.watch_streams.dec();
    }
}

impl Hub {
    /// A hub over the changes of `core`. All streams end when `stop` is
    /// cancelled.
    pub fn new(
        core: Arc<dyn Core>,
        limits: Limits,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let changes = core.changes();
        let streams = Arc::new(Semaphore::new(limits.streams_max));
        Arc::new(Self { core, changes, limits, metrics, streams, stop })
    }

    fn slot(&self) -> Result<Slot, End> {
        let permit = self.streams.clone().try_acquire_owned();
        let permit = permit.map_err(|_| End::TooMany { limit: self.limits.streams_max })?;
        self.metrics.watch_streams.inc();
        Ok(Slot { metrics: self.metrics.clone(), _permit: permit })
    }

    /// This node's own state.
    async fn view(&self) -> Result<StateView, End> {
        let deadline = Instant::now() + LOCAL_READ;
        Ok(self.core.read(Consistency::Serializable, deadline).await?)
    }

    async fn head(&self) -> Result<Head, End> {
        Ok(self.view().await?.head())
    }

    /// What follows `from`, from memory or else from disk.
    async fn read(&self, from: Revision) -> Result<Read, End> {
        match self.changes.next(from, STEP_CHANGES) {
            Next::Changes(changes) => Ok(Read::Changes(changes)),
            Next::UpToDate(revision) => Ok(Read::UpToDate(revision)),
            Next::TooOld => self.read_history(from).await,
        }
    }

    async fn read_history(&self, from: Revision) -> Result<Read, End> {
        let view = self.view().await?;
        self.metrics.watch_history_reads.inc();
        let events = view.events_from(from, STEP_EVENTS, self.limits.bytes_max);
        let events = events.map_err(|error| End::from(ReadError::Failed(error.to_string())))?;
        let events = events.map_err(|rejection| match rejection {
            Rejection::Compacted { compacted, .. } => End::Compacted { oldest: compacted },
            other => End::Invalid(other.to_string()),
        })?;
        if events.is_empty() {
            return Ok(Read::UpToDate(view.head().revision));
        }
        Ok(Read::Changes(Change::group(events).map(Arc::new).collect()))
    }

    fn count_end(&self, end: &End) {
        self.metrics.watches_canceled.get_or_create(&Reason { reason: end.reason() }).inc();
    }
}

/// Checks a place that a client brings: its history, and that it is kept.
fn check_place(head: &Head, start: Revision, history: &[u8]) -> Result<(), End> {
    if !history.is_empty() && history != head.history {
        return Err(End::HistoryChanged);
    }
    if start != Revision::ZERO && start < head.compacted {
        return Err(End::Compacted { oldest: head.compacted });
    }
    Ok(())
}

/// When to say that nothing happened.
#[derive(Clone, Copy, Debug)]
struct Progress {
    interval: Duration,
    due: Instant,
}

impl Progress {
    /// `None` for an interval of zero.
    fn every(interval: Duration) -> Option<Self> {
        let interval = interval.max(PROGRESS_MIN);
        (!interval.is_zero()).then(|| Self { interval, due: Instant::now() + interval })
    }

    fn postpone(&mut self) {
        self.due = Instant::now() + self.interval;
    }
}
