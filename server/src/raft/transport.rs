//! The byte streams that replicas speak over, and channels on top of them.
//!
//! Real nodes use TCP, with TLS when they are given it; the simulation brings
//! its own streams. Nothing here knows what is said.

use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls;
use tonic::transport::{Channel, Endpoint, Uri};

/// A connection to a peer.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// A connection to a peer, whatever it is made of.
pub type BoxStream = Box<dyn Stream>;

/// Opens connections to peers.
#[async_trait]
pub trait PeerConnector: Send + Sync + 'static {
    /// Connects to `address`, `host:port`. The caller sets the deadline.
    ///
    /// # Errors
    ///
    /// Fails if nothing answers there.
    async fn connect(&self, address: &str) -> io::Result<BoxStream>;
}

/// Takes connections from peers.
#[async_trait]
pub trait PeerAcceptor: Send + 'static {
    /// The next connection, and where it comes from.
    ///
    /// # Errors
    ///
    /// An error concerns one connection; the next call may succeed.
    async fn accept(&mut self) -> io::Result<(BoxStream, SocketAddr)>;
}

/// The TLS configuration for connections that this node opens to peers. Asked
/// for each connection, so that certificates can be replaced meanwhile.
pub type ClientConfigs = Arc<dyn Fn() -> Arc<rustls::ClientConfig> + Send + Sync>;

/// Connects over TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpConnector;

#[async_trait]
impl PeerConnector for TcpConnector {
    async fn connect(&self, address: &str) -> io::Result<BoxStream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

#[async_trait]
impl PeerAcceptor for TcpListener {
    async fn accept(&mut self) -> io::Result<(BoxStream, SocketAddr)> {
        let (stream, from) = Self::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok((Box::new(stream), from))
    }
}

/// Makes channels to peers.
#[derive(Clone)]
pub(crate) struct Dialer {
    connector: Arc<dyn PeerConnector>,
    tls: Option<ClientConfigs>,
    connect_timeout: Duration,
}

impl Dialer {
    pub(crate) fn new(
        connector: Arc<dyn PeerConnector>,
        tls: Option<ClientConfigs>,
        connect_timeout: Duration,
    ) -> Self {
        Self { connector, tls, connect_timeout }
    }

    /// A channel that connects when it is first used and again after a failure.
    pub(crate) fn channel(&self, address: &str) -> Channel {
        let address: Arc<str> = address.into();
        let dialer = self.clone();
        // The address is the connector's business: it may be a name that only
        // a simulated network knows.
        Endpoint::from_static("http://peer.keelstone")
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(8 * 1024 * 1024)
            .tcp_nodelay(true)
            .connect_with_connector_lazy(Connect { dialer, address })
    }

    async fn open(&self, address: &str) -> io::Result<BoxStream> {
        let connect = async {
            let stream = self.connector.connect(address).await?;
            match &self.tls {
                None => Ok(stream),
                Some(tls) => secure(stream, &tls(), address).await,
            }
        };
        tokio::time::timeout(self.connect_timeout, connect)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

async fn secure(
    stream: BoxStream,
    config: &Arc<rustls::ClientConfig>,
    address: &str,
) -> io::Result<BoxStream> {
    let host = address.rsplit_once(':').map_or(address, |(host, _port)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = rustls::pki_types::ServerName::try_from(host.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
    Ok(Box::new(connector.connect(name, stream).await?))
}

/// The connector of one channel, as tonic wants it.
#[derive(Clone)]
struct Connect {
    dialer: Dialer,
    address: Arc<str>,
}

impl tower::Service<Uri> for Connect {
    type Response = TokioIo<BoxStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(
        &mut self,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let Self { dialer, address } = self.clone();
        Box::pin(async move { dialer.open(&address).await.map(TokioIo::new) })
    }
}
