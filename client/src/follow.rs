//! What makes a stream of changes survive lost connections: raw keys, entities
//! and configuration values are watched through this.
//!
//! It remembers the first revision that was not delivered yet. Whatever happens
//! to a connection, the next one begins there, so that no change is lost; and
//! what a server sends from below it is dropped, so that none comes twice.
//!
//! A node that is cut off from the others still answers, and has nothing new to
//! tell. So a quiet watch asks the cluster from time to time how far it is, and
//! goes to another node if its own does not get there.
//!
//! There is no task and no queue behind it: a watch that nobody polls holds
//! what HTTP/2's window holds, and the server waits.

use crate::backoff::BackOff;
use crate::client::Client;
use crate::endpoint::Chosen;
use crate::status::Failure;
use crate::watch::{Changes, PROGRESS_INTERVAL};
use crate::{Error, ErrorKind, HistoryId, Outcome, Position, Revision};
use futures::Stream;
use futures::future::BoxFuture;
use keelstone_proto::v1::ResponseHeader;
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// A connection that is silent for this long is given up: the server says
/// something every [`PROGRESS_INTERVAL`].
const SILENCE_MAX: Duration = PROGRESS_INTERVAL.saturating_mul(5);
/// How long opening a stream may take.
const OPEN_MAX: Duration = Duration::from_secs(5);

/// How long a watch is quiet before it asks how far the cluster is.
const QUIET: Duration = Duration::from_secs(4);
/// How long its node then has to get there; more than [`PROGRESS_INTERVAL`].
const CATCH_UP_MAX: Duration = PROGRESS_INTERVAL.saturating_mul(2);

/// What is watched.
pub(crate) trait Feed: Send {
    /// A response of the stream.
    type Response: Headed + Send + 'static;
    /// One change.
    type Event: Send;

    /// Opens a stream that begins with `start`.
    fn open(
        &self,
        channel: Channel,
        start: Revision,
        history: HistoryId,
    ) -> BoxFuture<'static, Result<Streaming<Self::Response>, Status>>;

    /// Reads a response.
    fn read(&self, response: Self::Response) -> Step<Self::Event>;
}

/// A response that says where it comes from.
pub(crate) trait Headed {
    /// The header, if it has one.
    fn header(&self) -> Option<&ResponseHeader>;
}

macro_rules! headed {
    ($($response:ident),*) => {
        $(impl Headed for keelstone_proto::v1::$response {
            fn header(&self) -> Option<&ResponseHeader> {
                self.header.as_ref()
            }
        })*
    };
}

headed!(WatchResponse, EntityWatchResponse, ConfigWatchResponse);

/// What a response says.
pub(crate) enum Step<E> {
    /// Changes with their revisions, in order, each revision complete.
    Events(Vec<(Revision, E)>),
    /// All changes up to this revision were sent.
    Progress(Revision),
    /// No more of this stream.
    End(End),
    /// Nothing to act on.
    Nothing,
}

/// Why a server ended a stream.
pub(crate) enum End {
    /// Another node may go on with it.
    Elsewhere,
    /// Nobody can.
    Final(Error),
}

/// Whether the node that serves a quiet watch keeps up with the cluster.
enum Check {
    /// To be asked then.
    At(Instant),
    /// The cluster is being asked.
    Asking(BoxFuture<'static, Result<Position, Error>>),
    /// The node has to be there by then.
    Due(Revision, Instant),
}

impl Check {
    /// Completes when something follows from it. Can be cancelled.
    async fn step(&mut self, client: &Client, progress: Revision) -> Keeps {
        match self {
            Self::At(moment) => {
                tokio::time::sleep_until(*moment).await;
                let client = client.clone();
                *self = Self::Asking(Box::pin(async move { client.recent_position().await }));
                Keeps::Up
            }
            Self::Asking(asking) => {
                let now = asking.await;
                *self = match now {
                    Ok(at) if at.revision > progress => {
                        Self::Due(at.revision, Instant::now() + CATCH_UP_MAX)
                    }
                    // Nobody can say, or all is well.
                    Ok(_) | Err(_) => Self::At(Instant::now() + QUIET),
                };
                Keeps::Up
            }
            Self::Due(revision, until) => {
                if progress < *revision {
                    tokio::time::sleep_until(*until).await;
                }
                let keeps = if progress < *revision { Keeps::Behind } else { Keeps::Up };
                *self = Self::At(Instant::now() + QUIET);
                keeps
            }
        }
    }
}

/// Whether a node keeps up.
enum Keeps {
    Up,
    Behind,
}

/// A stream of changes that goes on whatever connection is lost.
pub(crate) struct Follow<F: Feed> {
    client: Client,
    feed: F,
    /// The first revision that was not taken from a server yet.
    next: Revision,
    history: HistoryId,
    ready: VecDeque<Changes<F::Event>>,
    /// The open stream, and where it comes from.
    open: Option<(Streaming<F::Response>, Chosen)>,
    back_off: BackOff,
    /// Streams that were opened, or not, since one last said something.
    fruitless: u32,
    /// When the server last said anything.
    heard: Instant,
    check: Check,
    ended: bool,
}

impl<F: Feed> Follow<F> {
    /// # Errors
    ///
    /// Without `after`, those of the read that finds the present revision.
    pub(crate) async fn start(
        client: Client,
        feed: F,
        after: Option<Position>,
    ) -> Result<Self, Error> {
        let after = match after {
            Some(after) => after,
            None => client.position().await?,
        };
        Ok(Self {
            client,
            feed,
            next: after.revision.next(),
            history: after.history,
            ready: VecDeque::new(),
            open: None,
            back_off: BackOff::of_streams(),
            fruitless: 0,
            heard: Instant::now(),
            check: Check::At(Instant::now() + QUIET),
            ended: false,
        })
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Changes<F::Event>>, Error> {
        loop {
            if let Some(changes) = self.ready.pop_front() {
                return Ok(Some(changes));
            }
            if self.ended {
                return Ok(None);
            }
            if let Err(error) = self.advance().await {
                self.ended = true;
                self.open = None;
                return Err(error);
            }
        }
    }

    pub(crate) fn progress(&self) -> Position {
        let revision = Revision::new(self.next.get().saturating_sub(1));
        Position { revision, history: self.history }
    }

    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<Changes<F::Event>, Error>> + Send
    where
        F: 'static,
    {
        futures::stream::unfold(self, |mut follow| async move {
            let item = follow.next().await.transpose()?;
            Some((item, follow))
        })
    }

    /// Takes one response, or repairs the connection. Nothing is held across an
    /// await that a cancelled call would lose.
    async fn advance(&mut self) -> Result<(), Error> {
        let progress = self.progress().revision;
        let Some((stream, chosen)) = &mut self.open else { return self.reopen().await };
        let message = tokio::time::timeout_at(self.heard + SILENCE_MAX, stream.message());
        let answer = tokio::select! {
            biased;
            answer = message => answer,
            keeps = self.check.step(&self.client, progress) => {
                return match keeps {
                    Keeps::Up => Ok(()),
                    Keeps::Behind => {
                        let failure = Failure::behind(chosen.endpoint.address());
                        self.lose(Some(failure))
                    }
                };
            }
        };
        let failure = match answer {
            Ok(Ok(Some(response))) => return self.take(response),
            Ok(Ok(None)) => None,
            Ok(Err(status)) => Some(Failure::of(&status)),
            Err(_elapsed) => Some(Failure::silent(chosen.endpoint.address())),
        };
        self.lose(failure)
    }

    /// Gives the stream up. Final failures end the watch.
    fn lose(&mut self, failure: Option<Failure>) -> Result<(), Error> {
        let Some((_, chosen)) = self.open.take() else { return Ok(()) };
        let Some(failure) = failure else { return Ok(()) };
        chosen.endpoint.stream_failed(&failure);
        if failure.transient {
            return Ok(());
        }
        Err(failure.into_error(Outcome::NotApplied))
    }

    async fn reopen(&mut self) -> Result<(), Error> {
        if self.fruitless > 0 {
            tokio::time::sleep(self.back_off.step()).await;
        }
        self.fruitless += 1;
        let chosen = self.client.endpoints().any();
        let opening = self.feed.open(chosen.endpoint.streams(), self.next, self.history);
        let failure = match tokio::time::timeout(OPEN_MAX, opening).await {
            Ok(Ok(stream)) => {
                self.open = Some((stream, chosen));
                self.heard = Instant::now();
                self.check = Check::At(Instant::now() + QUIET);
                return Ok(());
            }
            Ok(Err(status)) => Failure::of(&status),
            Err(_elapsed) => Failure::silent(chosen.endpoint.address()),
        };
        chosen.endpoint.stream_failed(&failure);
        if failure.transient {
            return Ok(());
        }
        Err(failure.into_error(Outcome::NotApplied))
    }

    fn take(&mut self, response: F::Response) -> Result<(), Error> {
        self.heard = Instant::now();
        self.check_history(response.header())?;
        match self.feed.read(response) {
            Step::Events(events) => {
                self.queue(events);
                self.check = Check::At(Instant::now() + QUIET);
            }
            Step::Progress(revision) => self.next = self.next.max(revision.next()),
            Step::End(End::Final(error)) => return Err(error),
            Step::End(End::Elsewhere) => {
                self.open = None;
                return Ok(());
            }
            Step::Nothing => return Ok(()),
        }
        self.fruitless = 0;
        self.back_off = BackOff::of_streams();
        Ok(())
    }

    /// Learns the history from the first response, and ends when it changes.
    fn check_history(&mut self, header: Option<&ResponseHeader>) -> Result<(), Error> {
        let now = header.map_or_else(HistoryId::default, |h| HistoryId::from_wire(&h.history));
        if !now.is_known() || now == self.history {
            return Ok(());
        }
        if self.history.is_known() {
            let message = "the cluster was restored: it is at another history now";
            return Err(Error::new(ErrorKind::HistoryChanged, Outcome::NotApplied, message));
        }
        self.history = now;
        Ok(())
    }

    /// Groups events by revision and drops what was taken before. A response has
    /// each of its revisions complete.
    fn queue(&mut self, events: Vec<(Revision, F::Event)>) {
        let first = self.next;
        for (revision, event) in events.into_iter().filter(|(revision, _)| *revision >= first) {
            match self.ready.back_mut() {
                Some(changes) if changes.revision == revision => changes.events.push(event),
                _ => self.ready.push_back(Changes { revision, events: vec![event] }),
            }
            self.next = revision.next();
        }
    }
}

impl<F: Feed> fmt::Debug for Follow<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow")
            .field("next", &self.next)
            .field("history", &self.history)
            .field("connected", &self.open.is_some())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
