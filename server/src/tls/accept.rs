//! From a listener to connections that may speak.
//!
//! tonic and hyper bring no limit on connections, no bound on a TLS handshake,
//! and wait for ever for the first bytes of HTTP. Here all three are bounded:
//! a connection counts from the moment it is accepted, and what has not spoken
//! in time is closed.

use super::{Caller, ServerConfigs, Subject, subject_of};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Connections that wait for their server to take them.
const READY_MAX: usize = 64;
/// Bytes that begin every HTTP/2 connection: whoever sent them speaks.
const FIRST_BYTES: usize = 24;

/// Something that connections come from: TCP, or a simulated network.
pub trait Listener: Send + 'static {
    /// What carries the bytes.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection.
    ///
    /// # Errors
    ///
    /// Fails as the operating system does; the caller waits and asks again.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, SocketAddr)>> + Send;
}

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, address) = Self::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok((stream, address))
    }
}

/// What a port demands of its connections.
#[derive(Clone)]
pub struct Demands {
    /// At most this many at once, handshakes included. More are closed.
    pub connections_max: usize,
    /// Bounds the TLS handshake, and then the first bytes.
    pub handshake_timeout: Duration,
    /// `None`: plaintext.
    pub tls: Option<ServerConfigs>,
    /// Told of what becomes of connections.
    pub observe: Arc<dyn Fn(Observed) + Send + Sync>,
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Observed {
    /// It may speak.
    Opened,
    /// One that might speak is gone.
    Closed,
    /// There are too many.
    TooMany,
    /// Its handshake failed, for this reason: a short stable word.
    HandshakeFailed(&'static str),
}

/// Accepts connections until `stop`; those that passed come out of the channel.
///
/// `close` ends all of them at once, whatever they do.
pub fn connections<L: Listener>(
    mut listener: L,
    demands: Demands,
    stop: CancellationToken,
    close: CancellationToken,
) -> mpsc::Receiver<Connection<L::Io>> {
    let (passed, receiver) = mpsc::channel(READY_MAX);
    let permits = Arc::new(Semaphore::new(demands.connections_max));
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                () = passed.closed() => return,
                accepted = listener.accept() => accepted,
            };
            let (io, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Mostly too many open files: a pause lets some close.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Ok(permit) = permits.clone().try_acquire_owned() else {
                tracing::debug!(%address, "too many connections");
                (demands.observe)(Observed::TooMany);
                continue;
            };
            let (demands, passed, close) = (demands.clone(), passed.clone(), close.clone());
            tokio::spawn(async move {
                let shaken = tokio::select! {
                    () = close.cancelled() => return,
                    shaken = handshake(io, &demands) => shaken,
                };
                match shaken {
                    Ok((stream, subject)) => {
                        let caller = Caller { subject, address };
                        let guard = Guard::new(&demands, close, permit);
                        let connection = Connection { stream, caller, guard };
                        // The server is gone: so is the connection.
                        let _ = passed.send(connection).await;
                    }
                    Err(reason) => {
                        tracing::info!(%address, reason, "a handshake failed");
                        (demands.observe)(Observed::HandshakeFailed(reason));
                    }
                }
            });
        }
    });
    receiver
}

async fn handshake<Io>(io: Io, demands: &Demands) -> Result<(Stream<Io>, Subject), &'static str>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let Some(configs) = &demands.tls else { return Ok((Stream::Plain(io), Subject::Anonymous)) };
    let accept = TlsAcceptor::from(configs()).accept(io);
    let stream = tokio::time::timeout(demands.handshake_timeout, accept)
        .await
        .map_err(|_| "timeout")?
        .map_err(|error| reason_of(&error))?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let subject = match certificate {
        Some(certificate) => subject_of(certificate).map_err(|_| "wrong_role")?,
        None => Subject::Anonymous,
    };
    Ok((Stream::Tls(Box::new(stream)), subject))
}

/// A short stable word for a metric.
fn reason_of(error: &io::Error) -> &'static str {
    use rustls::CertificateError as C;
    let Some(error) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) else {
        return "connection_lost";
    };
    match error {
        rustls::Error::NoCertificatesPresented => "no_certificate",
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            C::Expired | C::ExpiredContext { .. } => "expired",
            C::NotValidYet | C::NotValidYetContext { .. } => "not_yet_valid",
            C::UnknownIssuer => "unknown_issuer",
            C::InvalidPurpose | C::InvalidPurposeContext { .. } | C::Other(_) => "wrong_role",
            _ => "bad_certificate",
        },
        rustls::Error::InvalidMessage(_) => "not_tls",
        rustls::Error::PeerIncompatible(_) => "incompatible",
        rustls::Error::AlertReceived(_) => "refused_by_peer",
        _ => "protocol",
    }
}

/// A connection that passed, and who it belongs to.
pub struct Connection<Io> {
    stream: Stream<Io>,
    caller: Caller,
    guard: Guard,
}

impl<Io> Connection<Io> {
    /// Who it belongs to.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}

enum Stream<Io> {
    Plain(Io),
    Tls(Box<TlsStream<Io>>),
}

/// Ends a connection that stays silent or that is told to close, and counts it
/// until it is dropped.
struct Guard {
    /// Until the first bytes came.
    silence: Option<Pin<Box<Sleep>>>,
    first_bytes: usize,
    close: Pin<Box<WaitForCancellationFutureOwned>>,
    observe: Arc<dyn Fn(Observed) + Send + Sync>,
    _permit: OwnedSemaphorePermit,
}

impl Guard {
    fn new(demands: &Demands, close: CancellationToken, permit: OwnedSemaphorePermit) -> Self {
        (demands.observe)(Observed::Opened);
        Self {
            silence: Some(Box::pin(tokio::time::sleep(demands.handshake_timeout))),
            first_bytes: 0,
            close: Box::pin(close.cancelled_owned()),
            observe: demands.observe.clone(),
            _permit: permit,
        }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.close.as_mut().poll(context).is_ready() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the node stops"));
        }
        if let Some(silence) = &mut self.silence
            && silence.as_mut().poll(context).is_ready()
        {
            (self.observe)(Observed::HandshakeFailed("silent"));
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the connection said nothing"));
        }
        Ok(())
    }

    fn heard(&mut self, bytes: usize) {
        if self.silence.is_some() {
            self.first_bytes += bytes;
            if self.first_bytes >= FIRST_BYTES {
                self.silence = None;
            }
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        (self.observe)(Observed::Closed);
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncRead for Connection<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.guard.check(context)?;
        let before = buffer.filled().len();
        ready!(match &mut self.stream {
            Stream::Plain(io) => Pin::new(io).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        })?;
        self.guard.heard(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Connection<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(io) => Pin::new(io).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(io) => Pin::new(io).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(io) => Pin::new(io).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(io) => Pin::new(io).poll_write_vectored(context, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(io) => io.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
