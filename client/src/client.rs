//! The client itself: what all handles share.

use crate::builder::{CallOptions, ClientBuilder};
use crate::call::{Attempt, Route};
use crate::endpoint::Endpoints;
use crate::session::Session;
use crate::{Cluster, Config, Documents, Entities, EntityType, Error, Kv, Leases, Position, Types};
use keelstone_proto::v1::{KeySpan, RangeRequest, SessionCloseRequest, StatusRequest};
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// A connection to a Keelstone cluster. Cheap to clone; clones share
/// connections and session.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), keelstone_client::Error> {
/// use keelstone_client::Client;
///
/// let client = Client::builder()
///     .endpoints(["10.0.0.1:7701", "10.0.0.2:7701", "10.0.0.3:7701"])
///     .connect()
///     .await?;
/// client.kv().put("greeting", "hello").send().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    options: Arc<CallOptions>,
}

struct Shared {
    endpoints: Endpoints,
    session: Arc<Session>,
    /// The newest position that was read for quiet watches, and when.
    recent: Mutex<Option<(Instant, Position)>>,
}

impl Client {
    /// Collects what a client needs.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    pub(crate) fn new(endpoints: Endpoints, options: CallOptions) -> Self {
        let shared = Shared { endpoints, session: Arc::default(), recent: Mutex::default() };
        Self { shared: Arc::new(shared), options: Arc::new(options) }
    }

    /// The same client with another limit for its calls: how long one may take
    /// with all its attempts.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        let options = CallOptions { timeout, ..(*self.options).clone() };
        Self { shared: self.shared.clone(), options: Arc::new(options) }
    }

    /// Raw keys: put, range, delete, transactions, watch.
    pub fn kv(&self) -> Kv {
        Kv::new(self.clone())
    }

    /// Leases.
    pub fn leases(&self) -> Leases {
        Leases::new(self.clone())
    }

    /// Entity types.
    pub fn types(&self) -> Types {
        Types::new(self.clone())
    }

    /// Entities whose documents are `T`s.
    pub fn entities<T: EntityType>(&self) -> Entities<T> {
        Entities::new(self.documents())
    }

    /// Entities of all types; their documents are bytes of JSON.
    pub fn documents(&self) -> Documents {
        Documents::new(self.clone())
    }

    /// Configuration values.
    pub fn config(&self) -> Config {
        Config::new(self.clone())
    }

    /// The replicas themselves, and backups.
    pub fn cluster(&self) -> Cluster {
        Cluster::new(self.clone())
    }

    /// The newest revision, after every write acknowledged before the call.
    ///
    /// # Errors
    ///
    /// As every read: [`ErrorKind::DeadlineExceeded`](crate::ErrorKind) when no
    /// quorum could be asked in time.
    pub async fn position(&self) -> Result<Position, Error> {
        let response = self
            .read(Route::Leader, |attempt| async move {
                let span = KeySpan { key: bytes::Bytes::from_static(&[0]), end: None };
                let request =
                    RangeRequest { span: Some(span), count_only: true, ..RangeRequest::default() };
                attempt.kv().range(attempt.request(request)).await
            })
            .await?;
        Ok(Position::of(response.header.as_ref()))
    }

    /// The newest revision of a moment ago: all watches of a client share one
    /// read per second.
    pub(crate) async fn recent_position(&self) -> Result<Position, Error> {
        let mut recent = self.shared.recent.lock().await;
        match *recent {
            Some((read, position)) if read.elapsed() < Duration::from_secs(1) => Ok(position),
            _ => {
                let asked = Instant::now();
                let position = self.with_timeout(Duration::from_secs(5)).position().await?;
                *recent = Some((asked, position));
                Ok(position)
            }
        }
    }

    /// Ends the session, so that the cluster need not remember it until it
    /// expires. The client can still be used; a write opens another.
    ///
    /// # Errors
    ///
    /// As every call. To ignore them does no harm: the session expires.
    pub async fn close(&self) -> Result<(), Error> {
        let Some(session) = self.shared.session.take() else { return Ok(()) };
        self.change(|attempt| async move {
            attempt.sessions().close(attempt.request(SessionCloseRequest { session })).await
        })
        .await?;
        Ok(())
    }

    pub(crate) fn endpoints(&self) -> &Endpoints {
        &self.shared.endpoints
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.shared.session
    }

    pub(crate) fn options(&self) -> &CallOptions {
        &self.options
    }

    /// Waits until a node answers, and looks whether those that do belong
    /// together.
    pub(crate) async fn check_cluster(&self) -> Result<(), Error> {
        self.read(Route::Any, |attempt| async move {
            attempt.cluster().status(attempt.request(StatusRequest {})).await
        })
        .await?;
        let known: OnceLock<(String, bytes::Bytes)> = OnceLock::new();
        let limit = self.options.attempt_timeout.min(Duration::from_millis(500));
        let asked = self.shared.endpoints.all().into_iter().map(|endpoint| async move {
            let attempt = Attempt::new(endpoint.calls(), limit);
            let mut stub = attempt.cluster();
            let status = stub.status(attempt.request(StatusRequest {}));
            let answer = tokio::time::timeout(limit, status).await;
            (endpoint, answer)
        });
        for (endpoint, answer) in futures::future::join_all(asked).await {
            let Ok(Ok(response)) = answer else { continue };
            let id = response.into_inner().header.unwrap_or_default().cluster_id;
            let (first, expected) =
                known.get_or_init(|| (endpoint.address().to_owned(), id.clone()));
            if *expected != id {
                let second = endpoint.address();
                let message = format!("{first} and {second} belong to different clusters");
                return Err(Error::invalid("endpoints", message));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints = self.shared.endpoints.all();
        let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address()).collect();
        f.debug_struct("Client").field("endpoints", &addresses).finish_non_exhaustive()
    }
}
