//! How a client is made: endpoints, TLS, time limits.

use crate::Error;
use crate::client::Client;
use crate::endpoint::Endpoints;
use std::fmt;
use std::time::Duration;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// TLS towards the cluster.
///
/// The roots are the cluster's own; the machine's are not asked.
#[derive(Clone, Default)]
pub struct Tls {
    roots: Vec<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    domain_name: Option<String>,
}

impl Tls {
    /// Trusts the certificates in `pem` to sign those of the nodes.
    pub fn roots(pem: impl Into<Vec<u8>>) -> Self {
        Self { roots: vec![pem.into()], identity: None, domain_name: None }
    }

    /// Trusts these as well; for the time when a root is replaced.
    #[must_use]
    pub fn also_roots(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots.push(pem.into());
        self
    }

    /// Shows this certificate to the nodes (mutual TLS). Both are PEM.
    #[must_use]
    pub fn identity(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// Expects this name in the nodes' certificates, instead of the host of the
    /// endpoint.
    #[must_use]
    pub fn domain_name(mut self, name: impl Into<String>) -> Self {
        self.domain_name = Some(name.into());
        self
    }

    fn config(&self) -> ClientTlsConfig {
        let roots = self.roots.iter().map(Certificate::from_pem);
        let mut config = ClientTlsConfig::new().ca_certificates(roots);
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &self.domain_name {
            config = config.domain_name(name);
        }
        config
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("roots", &self.roots.len())
            .field("identity", &self.identity.is_some())
            .field("domain_name", &self.domain_name)
            .finish()
    }
}

/// How connections are made; the same for all of a client.
#[derive(Clone, Debug)]
pub(crate) struct ChannelOptions {
    tls: Option<Tls>,
    connect_timeout: Duration,
    keep_alive: Duration,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self {
            tls: None,
            connect_timeout: Duration::from_secs(2),
            keep_alive: Duration::from_secs(5),
        }
    }
}

impl ChannelOptions {
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub(crate) fn open_calls(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        Ok(self.endpoint(address)?.connect_lazy())
    }

    /// A stream that nobody reads holds at most its own window; the
    /// connection's is as wide as HTTP/2 allows, so that it holds up no other.
    pub(crate) fn open_streams(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        let endpoint = self
            .endpoint(address)?
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(i32::MAX.unsigned_abs());
        Ok(endpoint.connect_lazy())
    }

    fn endpoint(&self, address: &str) -> Result<Endpoint, tonic::transport::Error> {
        let scheme = if self.is_tls() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(self.keep_alive))
            .http2_keep_alive_interval(self.keep_alive)
            .keep_alive_timeout(self.keep_alive)
            .keep_alive_while_idle(true)
            .user_agent(concat!("keelstone-client/", env!("CARGO_PKG_VERSION")))?;
        match &self.tls {
            Some(tls) => endpoint.tls_config(tls.config()),
            None => Ok(endpoint),
        }
    }
}

/// Time limits and sessions of calls.
#[derive(Clone, Debug)]
pub(crate) struct CallOptions {
    pub(crate) timeout: Duration,
    pub(crate) attempt_timeout: Duration,
    pub(crate) sessions: bool,
    pub(crate) session_ttl: Duration,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(2),
            sessions: true,
            session_ttl: Duration::ZERO,
        }
    }
}

/// Collects what a [`Client`] needs; made by [`Client::builder`].
#[derive(Clone, Debug, Default)]
pub struct ClientBuilder {
    endpoints: Vec<String>,
    channel: ChannelOptions,
    call: CallOptions,
}

impl ClientBuilder {
    /// Adds nodes, as `host:port` or `http(s)://host:port`. Give all of them:
    /// the client finds the leader among them and goes on with the others when
    /// one is lost. At most 16.
    #[must_use]
    pub fn endpoints<I>(mut self, endpoints: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.endpoints.extend(endpoints.into_iter().map(Into::into));
        self
    }

    /// Speaks TLS. Without this call, connections are plain text.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.channel.tls = Some(tls);
        self
    }

    /// How long a call may take with all its attempts; 10 s if not set. See
    /// also [`Client::with_timeout`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.call.timeout = timeout;
        self
    }

    /// How long to wait for one node before the next is tried, for calls that
    /// are safe to repeat; 2 s if not set.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.call.attempt_timeout = timeout;
        self
    }

    /// How long making a connection may take; 2 s if not set.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.channel.connect_timeout = timeout;
        self
    }

    /// How often an idle connection is probed, and how long a probe may stay
    /// unanswered; 5 s if not set.
    #[must_use]
    pub fn keep_alive(mut self, interval: Duration) -> Self {
        self.channel.keep_alive = interval;
        self
    }

    /// Whether writes get an identity so that they can be repeated safely; they
    /// do unless this turns it off. Without, a write whose answer is lost ends
    /// as [`ErrorKind::Unknown`](crate::ErrorKind::Unknown) at once.
    #[must_use]
    pub fn sessions(mut self, sessions: bool) -> Self {
        self.call.sessions = sessions;
        self
    }

    /// How long the cluster remembers the writes of a client that is silent;
    /// the server's default, ten minutes, if not set.
    #[must_use]
    pub fn session_ttl(mut self, ttl: Duration) -> Self {
        self.call.session_ttl = ttl;
        self
    }

    /// Connects, and returns when a node has answered.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the endpoints or the
    /// TLS options cannot be used, or if the endpoints belong to two clusters;
    /// [`ErrorKind::DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded) or
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) if no node
    /// answered within the timeout. To start before the cluster does, use
    /// [`ClientBuilder::connect_lazy`].
    pub async fn connect(self) -> Result<Client, Error> {
        let client = self.connect_lazy()?;
        client.check_cluster().await?;
        Ok(client)
    }

    /// Makes a client that connects with its first call. Must be called in a
    /// tokio runtime.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the endpoints or the
    /// TLS options cannot be used.
    pub fn connect_lazy(self) -> Result<Client, Error> {
        let endpoints = Endpoints::new(&self.endpoints, self.channel)?;
        Ok(Client::new(endpoints, self.call))
    }
}
