//! Watching raw keys.
//!
//! What makes a watch survive lost connections is in `follow.rs`; this file
//! says what is watched and how a response is read.

use crate::call::{RESPONSE_BYTES_MAX, millis};
use crate::client::Client;
use crate::follow::{End, Feed, Follow, Step};
use crate::kv::KeyValue;
use crate::range::KeyRange;
use crate::{Error, ErrorKind, HistoryId, Outcome, Position, Revision};
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream};
use keelstone_proto::v1::{self, watch_canceled::Reason, watch_request, watch_response};
use std::fmt;
use std::time::Duration;
use tonic::{Status, Streaming};

/// How often a quiet watch hears from the cluster that nothing happened.
pub(crate) const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// One change of one key.
///
/// `Debug` shows sizes, not contents.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The key was put.
    Put {
        /// As it is now.
        kv: KeyValue,
        /// As it was before, if it existed and was asked for.
        previous: Option<KeyValue>,
    },
    /// The key was deleted.
    Delete {
        /// The key and, as `mod_revision`, the revision of the deletion.
        kv: KeyValue,
        /// As it was before, if it was asked for.
        previous: Option<KeyValue>,
    },
}

impl Event {
    /// The key, with what is known of it after the change.
    pub fn kv(&self) -> &KeyValue {
        match self {
            Self::Put { kv, .. } | Self::Delete { kv, .. } => kv,
        }
    }

    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        self.kv().mod_revision
    }
}

/// The changes that one transaction made to what is watched.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Changes<E> {
    /// The revision of the transaction.
    pub revision: Revision,
    /// At least one, in the order of the transaction's steps.
    pub events: Vec<E>,
}

/// A watch that has not begun; made by [`Kv::watch`](crate::Kv::watch).
#[must_use = "nothing is watched until it is started"]
#[derive(Clone, Debug)]
pub struct WatchBuilder {
    client: Client,
    create: v1::WatchCreate,
    after: Option<Position>,
}

impl WatchBuilder {
    pub(crate) fn new(client: Client, range: KeyRange) -> Self {
        let create = v1::WatchCreate {
            watch_id: 1,
            span: Some(range.into_wire()),
            progress_interval_ms: millis(PROGRESS_INTERVAL),
            ..v1::WatchCreate::default()
        };
        Self { client, create, after: None }
    }

    /// Begins with the first change after `position`, such as that of a
    /// [`RangeReply`](crate::RangeReply); without this call, with the first one
    /// after [`WatchBuilder::start`] returned. A bare [`Revision`] is taken as
    /// one of the present history.
    pub fn after(mut self, position: impl Into<Position>) -> Self {
        self.after = Some(position.into());
        self
    }

    /// Also says what was there before each change.
    pub fn previous(mut self) -> Self {
        self.create.previous = true;
        self
    }

    /// Leaves the values out.
    pub fn keys_only(mut self) -> Self {
        self.create.keys_only = true;
        self
    }

    /// Begins the watch.
    ///
    /// Each change is delivered exactly once, in revision order, across
    /// reconnects and nodes. Changes made by one transaction share a revision
    /// and arrive together. A slow consumer delays only itself: about 1 MiB is
    /// buffered here, and the rest is read from history when asked for.
    ///
    /// # Errors
    ///
    /// Without [`WatchBuilder::after`] the present revision is read first, which
    /// fails as every read does. What can end the watch later is said at
    /// [`Watch::next`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example(client: keelstone_client::Client) -> Result<(), keelstone_client::Error> {
    /// use keelstone_client::KeyRange;
    ///
    /// let range = KeyRange::prefix("jobs/");
    /// let now = client.kv().range(range.clone()).send().await?;
    /// let mut watch = client.kv().watch(range).after(now.at).start().await?;
    /// while let Some(changes) = watch.next().await? {
    ///     println!("{} changes at {}", changes.events.len(), changes.revision);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn start(self) -> Result<Watch, Error> {
        let feed = RawFeed { create: self.create };
        Ok(Watch(Follow::start(self.client, feed, self.after).await?))
    }
}

/// A watch of raw keys; made by [`WatchBuilder::start`]. Dropping it ends it.
#[derive(Debug)]
pub struct Watch(Follow<RawFeed>);

impl Watch {
    /// Waits for the next changes. `None` after an error has been returned.
    ///
    /// Can be cancelled without losing anything, as in `select!`.
    ///
    /// # Errors
    ///
    /// Lost connections are repaired unseen, for as long as it takes. An error
    /// ends the watch: [`ErrorKind::Compacted`] if the changes to go on with are
    /// gone, [`ErrorKind::HistoryChanged`] if the cluster was restored; in both
    /// cases read the range again and watch from the position of that read.
    pub async fn next(&mut self) -> Result<Option<Changes<Event>>, Error> {
        self.0.next().await
    }

    /// All changes up to this position have been returned by [`Watch::next`] or
    /// will be by its very next calls without waiting. It moves on even if
    /// nothing changes, but only while somebody waits in `next`.
    pub fn progress(&self) -> Position {
        self.0.progress()
    }

    /// The watch as a stream, which ends after the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Changes<Event>, Error>> + Send {
        self.0.into_stream()
    }
}

struct RawFeed {
    create: v1::WatchCreate,
}

impl fmt::Debug for RawFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RawFeed")
    }
}

impl Feed for RawFeed {
    type Response = v1::WatchResponse;
    type Event = Event;

    fn open(
        &self,
        channel: tonic::transport::Channel,
        start: Revision,
        history: HistoryId,
    ) -> BoxFuture<'static, Result<Streaming<Self::Response>, Status>> {
        let create = v1::WatchCreate {
            start_revision: start.get(),
            history: history.to_wire(),
            ..self.create.clone()
        };
        let request = v1::WatchRequest { request: Some(watch_request::Request::Create(create)) };
        async move {
            // Nothing more is asked: a half that stayed open would keep the watch
            // alive at the server after its responses are dropped here.
            let requests = futures::stream::iter([request]);
            let mut stub = v1::watch_client::WatchClient::new(channel)
                .max_decoding_message_size(RESPONSE_BYTES_MAX);
            Ok(stub.watch(requests).await?.into_inner())
        }
        .boxed()
    }

    fn read(&self, response: Self::Response) -> Step<Event> {
        match response.response {
            Some(watch_response::Response::Events(events)) => {
                Step::Events(events.events.into_iter().filter_map(event_of).collect())
            }
            Some(watch_response::Response::Progress(revision)) => Step::Progress(revision.into()),
            Some(watch_response::Response::Canceled(canceled)) => Step::End(end_of(&canceled)),
            Some(watch_response::Response::Created(_)) | None => Step::Nothing,
        }
    }
}

fn event_of(event: v1::Event) -> Option<(Revision, Event)> {
    let kind = event.kind();
    let kv: KeyValue = event.kv?.into();
    let previous = event.previous.map(Into::into);
    let revision = kv.mod_revision;
    Some(match kind {
        v1::event::Kind::Put => (revision, Event::Put { kv, previous }),
        v1::event::Kind::Delete => (revision, Event::Delete { kv, previous }),
    })
}

fn end_of(canceled: &v1::WatchCanceled) -> End {
    let error = |kind| {
        let message = format!("the watch was ended: {}", canceled.message);
        End::Final(Error::new(kind, Outcome::NotApplied, message))
    };
    match canceled.reason() {
        Reason::Compacted => {
            error(ErrorKind::Compacted { oldest: canceled.compact_revision.into() })
        }
        Reason::HistoryChanged => error(ErrorKind::HistoryChanged),
        Reason::Invalid => error(ErrorKind::Invalid { field: "watch".to_owned() }),
        Reason::Unspecified | Reason::Requested | Reason::Shutdown => End::Elsewhere,
    }
}
