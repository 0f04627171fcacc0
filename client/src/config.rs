//! Configuration values: a tree of JSON values with history.

use crate::call::{RESPONSE_BYTES_MAX, Route, millis};
use crate::client::Client;
use crate::entities::to_json;
use crate::entity::History;
use crate::follow::{Feed, Follow, Step};
use crate::types::missing;
use crate::watch::{Changes, PROGRESS_INTERVAL};
use crate::{Error, HistoryId, Position, Precondition, Revision};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream};
use keelstone_proto::v1;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use tonic::{Status, Streaming};

/// A value at a path. `Debug` shows its size only.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigValue {
    /// Segments separated by `/`, such as `cse/server-1/syslog/port`.
    pub path: String,
    /// JSON, as it was written.
    pub value: Bytes,
    /// The revision that created it.
    pub create_revision: Revision,
    /// The revision of its last change, which a [`Precondition`] names.
    pub revision: Revision,
    /// 1 for a new value, one more with each change.
    pub version: u64,
}

impl ConfigValue {
    /// Reads the value into a Rust type.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if it does not fit.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.value).map_err(|error| {
            let message = format!("the value at {} does not fit the type: {error}", self.path);
            Error::invalid("value", message)
        })
    }
}

impl fmt::Debug for ConfigValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigValue")
            .field("path", &self.path)
            .field("value_bytes", &self.value.len())
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

impl From<v1::ConfigValue> for ConfigValue {
    fn from(wire: v1::ConfigValue) -> Self {
        Self {
            path: wire.path,
            value: wire.value,
            create_revision: wire.create_revision.into(),
            revision: wire.revision.into(),
            version: wire.version,
        }
    }
}

/// All values at and below a path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigTree {
    /// By path.
    pub values: Vec<ConfigValue>,
    /// Where they were read; a watch can begin after it.
    pub at: Position,
}

/// One version of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigVersion {
    /// The revision that made it.
    pub revision: Revision,
    /// The value; `None` if that revision deleted it.
    pub value: Option<ConfigValue>,
}

/// A change of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigEvent {
    /// It was put.
    Put(ConfigValue),
    /// It was deleted.
    Deleted {
        /// Where it was.
        path: String,
    },
}

/// Configuration values; made by [`Client::config`].
///
/// A path has at most 16 segments of letters, digits, `.`, `_` and `-`,
/// separated by `/`, and at most 512 bytes.
///
/// # Examples
///
/// ```no_run
/// # use keelstone_client::{Client, Error, Precondition};
/// # async fn example(client: Client) -> Result<(), Error> {
/// let config = client.config();
/// config.put("cse/syslog/port", &514, Precondition::IfAbsent).await?;
/// let port: u16 = config.get("cse/syslog/port").await?.parse()?;
/// # let _ = port; Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    client: Client,
}

impl Config {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Sets the value at `path`, as JSON.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) or
    /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists) if the precondition
    /// does not hold, [`Invalid`](crate::ErrorKind::Invalid) if the path is
    /// malformed or the value is not JSON; and as every write, see
    /// [`Put::send`](crate::Put::send).
    pub async fn put(
        &self,
        path: &str,
        value: &(impl Serialize + Sync + ?Sized),
        precondition: Precondition,
    ) -> Result<ConfigValue, Error> {
        self.put_json(path, to_json(&value)?, precondition).await
    }

    /// Sets the value at `path` to these bytes of JSON.
    ///
    /// # Errors
    ///
    /// As [`Config::put`].
    pub async fn put_json(
        &self,
        path: &str,
        value: impl Into<Bytes>,
        precondition: Precondition,
    ) -> Result<ConfigValue, Error> {
        let value = value.into();
        let value = &value;
        let response = self.client.write(|attempt| {
            let request = v1::ConfigPutRequest {
                path: path.to_owned(),
                value: value.clone(),
                precondition: Some(precondition.to_wire()),
                write_id: attempt.write_id,
            };
            async move { attempt.config().put(attempt.request(request)).await }
        });
        Ok(response.await?.value.ok_or_else(|| missing("value"))?.into())
    }

    /// The value at `path`, as of now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound), and as every read.
    pub async fn get(&self, path: &str) -> Result<ConfigValue, Error> {
        self.get_at(path, Revision::ZERO).await
    }

    /// The value at `path` as it was at `revision`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Compacted`](crate::ErrorKind::Compacted) if that history is
    /// gone; else as [`Config::get`].
    pub async fn get_at(&self, path: &str, revision: Revision) -> Result<ConfigValue, Error> {
        let response = self.client.read(Route::Leader, |attempt| {
            let revision = revision.get();
            let request = v1::ConfigGetRequest { path: path.to_owned(), revision, consistency: 0 };
            async move { attempt.config().get(attempt.request(request)).await }
        });
        Ok(response.await?.value.ok_or_else(|| missing("value"))?.into())
    }

    /// All values at and below `path`, or of the whole tree if it is empty, read
    /// at one revision.
    ///
    /// # Errors
    ///
    /// As every read.
    pub async fn list(&self, path: &str) -> Result<ConfigTree, Error> {
        let mut request =
            v1::ConfigListRequest { path: path.to_owned(), ..v1::ConfigListRequest::default() };
        let mut values = Vec::new();
        loop {
            let page = &request;
            let response = self.client.read(Route::Leader, |attempt| {
                let request = page.clone();
                async move { attempt.config().list(attempt.request(request)).await }
            });
            let response = response.await?;
            values.extend(response.values.into_iter().map(ConfigValue::from));
            if response.next_page_token.is_empty() {
                let mut at = Position::of(response.header.as_ref());
                at.revision = response.revision.into();
                return Ok(ConfigTree { values, at });
            }
            request.page_token = response.next_page_token;
        }
    }

    /// Deletes the value at `path`; returns how many were there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) if the precondition
    /// does not hold; and as every write.
    pub async fn delete(&self, path: &str, precondition: Precondition) -> Result<u64, Error> {
        self.delete_as(path, precondition, false).await
    }

    /// Deletes everything at and below `path`, at one revision; returns how many
    /// values were there.
    ///
    /// # Errors
    ///
    /// As every write.
    pub async fn delete_tree(&self, path: &str) -> Result<u64, Error> {
        self.delete_as(path, Precondition::Unconditional, true).await
    }

    async fn delete_as(
        &self,
        path: &str,
        precondition: Precondition,
        recursive: bool,
    ) -> Result<u64, Error> {
        let response = self.client.write(|attempt| {
            let request = v1::ConfigDeleteRequest {
                path: path.to_owned(),
                precondition: Some(precondition.to_wire()),
                recursive,
                write_id: attempt.write_id,
            };
            async move { attempt.config().delete(attempt.request(request)).await }
        });
        Ok(response.await?.deleted)
    }

    /// At most `limit` of the kept versions of the value at `path` below
    /// revision `before`, newest first.
    ///
    /// # Errors
    ///
    /// As every read.
    pub async fn history(
        &self,
        path: &str,
        limit: u32,
        before: Option<Revision>,
    ) -> Result<History<ConfigVersion>, Error> {
        let response = self.client.read(Route::Leader, |attempt| {
            let before_revision = before.unwrap_or_default().get();
            let request =
                v1::ConfigHistoryRequest { path: path.to_owned(), limit, before_revision };
            async move { attempt.config().history(attempt.request(request)).await }
        });
        let response = response.await?;
        let version = |version: v1::ConfigVersion| ConfigVersion {
            revision: version.revision.into(),
            value: version.value.filter(|_| !version.deleted).map(Into::into),
        };
        Ok(History {
            versions: response.versions.into_iter().map(version).collect(),
            compact_revision: response.compact_revision.into(),
            more: response.more,
        })
    }

    /// Streams the changes at and below `path` after `after`; without it, from
    /// now on. The promises are those of
    /// [`WatchBuilder::start`](crate::WatchBuilder::start).
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn watch(&self, path: &str, after: Option<Position>) -> Result<ConfigWatch, Error> {
        let feed = ConfigFeed { path: path.to_owned() };
        Ok(ConfigWatch(Follow::start(self.client.clone(), feed, after).await?))
    }
}

/// A watch of configuration values; made by [`Config::watch`]. Dropping it ends
/// it.
#[derive(Debug)]
pub struct ConfigWatch(Follow<ConfigFeed>);

impl ConfigWatch {
    /// Waits for the next changes. `None` after an error has been returned.
    ///
    /// # Errors
    ///
    /// As [`Watch::next`](crate::Watch::next).
    pub async fn next(&mut self) -> Result<Option<Changes<ConfigEvent>>, Error> {
        self.0.next().await
    }

    /// See [`Watch::progress`](crate::Watch::progress).
    pub fn progress(&self) -> Position {
        self.0.progress()
    }

    /// The watch as a stream, which ends after the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Changes<ConfigEvent>, Error>> + Send {
        self.0.into_stream()
    }
}

#[derive(Debug)]
struct ConfigFeed {
    path: String,
}

impl Feed for ConfigFeed {
    type Response = v1::ConfigWatchResponse;
    type Event = ConfigEvent;

    fn open(
        &self,
        channel: tonic::transport::Channel,
        start: Revision,
        history: HistoryId,
    ) -> BoxFuture<'static, Result<Streaming<Self::Response>, Status>> {
        let request = v1::ConfigWatchRequest {
            path: self.path.clone(),
            start_revision: start.get(),
            history: history.to_wire(),
            progress_interval_ms: millis(PROGRESS_INTERVAL),
        };
        async move {
            let mut stub = v1::config_client::ConfigClient::new(channel)
                .max_decoding_message_size(RESPONSE_BYTES_MAX);
            Ok(stub.watch(request).await?.into_inner())
        }
        .boxed()
    }

    fn read(&self, response: Self::Response) -> Step<ConfigEvent> {
        if response.events.is_empty() {
            return match response.progress {
                0 => Step::Nothing,
                revision => Step::Progress(revision.into()),
            };
        }
        let event = |event: v1::ConfigEvent| {
            let value: ConfigValue = event.value?.into();
            let revision = value.revision;
            Some(if event.deleted {
                (revision, ConfigEvent::Deleted { path: value.path })
            } else {
                (revision, ConfigEvent::Put(value))
            })
        };
        Step::Events(response.events.into_iter().filter_map(event).collect())
    }
}
