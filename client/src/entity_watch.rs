//! Watching entities.

use crate::call::{RESPONSE_BYTES_MAX, millis};
use crate::client::Client;
use crate::documents::event_of;
use crate::entity::{EntityEvent, EntityFilter};
use crate::follow::{End, Feed, Follow, Step};
use crate::watch::{Changes, PROGRESS_INTERVAL};
use crate::{Error, HistoryId, Position, Revision};
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream};
use keelstone_proto::v1;
use std::fmt;
use tonic::{Status, Streaming};

/// A watch that has not begun; made by
/// [`Documents::watch`](crate::Documents::watch).
#[must_use = "nothing is watched until it is started"]
#[derive(Clone, Debug)]
pub struct EntityWatchBuilder {
    client: Client,
    request: v1::EntityWatchRequest,
    after: Option<Position>,
}

impl EntityWatchBuilder {
    pub(crate) fn new(client: Client, filter: EntityFilter) -> Self {
        let request = v1::EntityWatchRequest {
            type_prefix: filter.type_prefix,
            org: filter.org,
            summary: filter.summary,
            progress_interval_ms: millis(PROGRESS_INTERVAL),
            ..v1::EntityWatchRequest::default()
        };
        Self { client, request, after: None }
    }

    pub(crate) fn of_one(client: Client, id: &str) -> Self {
        let mut builder = Self::new(client, EntityFilter::default());
        id.clone_into(&mut builder.request.id);
        builder
    }

    /// Begins with the first change after `position`, such as that of an
    /// [`EntityPage`](crate::EntityPage); without this call, with the first one
    /// after [`EntityWatchBuilder::start`] returned.
    pub fn after(mut self, position: impl Into<Position>) -> Self {
        self.after = Some(position.into());
        self
    }

    /// Leaves the documents out.
    pub fn summary(mut self) -> Self {
        self.request.summary = true;
        self
    }

    /// Begins the watch, with the promises of
    /// [`WatchBuilder::start`](crate::WatchBuilder::start).
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn start(self) -> Result<EntityWatch, Error> {
        let feed = EntityFeed { request: self.request };
        Ok(EntityWatch(Follow::start(self.client, feed, self.after).await?))
    }
}

/// A watch of entities; made by [`EntityWatchBuilder::start`]. Dropping it ends
/// it.
#[derive(Debug)]
pub struct EntityWatch(Follow<EntityFeed>);

impl EntityWatch {
    /// Waits for the next changes. `None` after an error has been returned.
    ///
    /// # Errors
    ///
    /// As [`Watch::next`](crate::Watch::next).
    pub async fn next(&mut self) -> Result<Option<Changes<EntityEvent>>, Error> {
        self.0.next().await
    }

    /// See [`Watch::progress`](crate::Watch::progress).
    pub fn progress(&self) -> Position {
        self.0.progress()
    }

    /// The watch as a stream, which ends after the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Changes<EntityEvent>, Error>> + Send {
        self.0.into_stream()
    }
}

struct EntityFeed {
    request: v1::EntityWatchRequest,
}

impl fmt::Debug for EntityFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EntityFeed")
    }
}

impl Feed for EntityFeed {
    type Response = v1::EntityWatchResponse;
    type Event = EntityEvent;

    fn open(
        &self,
        channel: tonic::transport::Channel,
        start: Revision,
        history: HistoryId,
    ) -> BoxFuture<'static, Result<Streaming<Self::Response>, Status>> {
        let request = v1::EntityWatchRequest {
            start_revision: start.get(),
            history: history.to_wire(),
            ..self.request.clone()
        };
        async move {
            let mut stub = v1::entities_client::EntitiesClient::new(channel)
                .max_decoding_message_size(RESPONSE_BYTES_MAX);
            Ok(stub.watch(request).await?.into_inner())
        }
        .boxed()
    }

    fn read(&self, response: Self::Response) -> Step<EntityEvent> {
        if response.events.is_empty() {
            return match response.progress {
                0 => Step::Nothing,
                revision => Step::Progress(revision.into()),
            };
        }
        let events = response.events.into_iter().map(event_of);
        match events.collect::<Result<_, _>>() {
            Ok(events) => Step::Events(events),
            Err(error) => Step::End(End::Final(error)),
        }
    }
}
