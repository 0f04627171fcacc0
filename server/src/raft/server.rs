//! The peer port: serves peers on the connections that passed its demands.

use super::service::PeerService;
use super::transport::{BoxStream, PeerAcceptor};
use crate::tls::ServerConfigs;
use crate::tls::accept::{Connection, Demands, Listener, Observed, connections};
use futures::Stream;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Connected;

/// How long a peer may take for its TLS handshake and its first bytes.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Streams on one connection.
const STREAMS_MAX: u32 = 256;

/// What the peer port demands of connections.
#[derive(Clone)]
pub(crate) struct PeerPort {
    pub(crate) tls: Option<ServerConfigs>,
    pub(crate) connections_max: usize,
}

/// Serves peers until `stop`, and closes their connections at `close`.
pub(crate) async fn serve(
    service: PeerService,
    acceptor: Box<dyn PeerAcceptor>,
    port: PeerPort,
    stop: CancellationToken,
    close: CancellationToken,
) -> Result<(), String> {
    let demands = Demands {
        connections_max: port.connections_max,
        handshake_timeout: HANDSHAKE_MAX,
        tls: port.tls,
        observe: Arc::new(|seen| {
            if let Observed::HandshakeFailed(reason) = seen {
                tracing::warn!(reason, "a peer was refused");
            }
        }),
    };
    let incoming = connections(AnyListener(acceptor), demands, stop.clone(), close);
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024)
        .add_service(service.into_server())
        .serve_with_incoming_shutdown(Incoming(incoming), stop.cancelled_owned())
        .await
        .map_err(|error| error.to_string())
}

/// A peer acceptor where a listener is wanted.
struct AnyListener(Box<dyn PeerAcceptor>);

impl Listener for AnyListener {
    type Io = BoxStream;

    async fn accept(&mut self) -> io::Result<(BoxStream, SocketAddr)> {
        self.0.accept().await
    }
}

struct Incoming(mpsc::Receiver<Connection<BoxStream>>);

impl Stream for Incoming {
    type Item = io::Result<Peer>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|connection| connection.map(|it| Ok(Peer(it))))
    }
}

/// A peer's connection, as tonic wants it.
struct Peer(Connection<BoxStream>);

impl Connected for Peer {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
