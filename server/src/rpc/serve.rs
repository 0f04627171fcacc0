//! The services on a listener.

use super::cluster::ClusterService;
use super::config::ConfigService;
use super::context::{Context, Services};
use super::entities::EntityService;
use super::export::ExportService;
use super::gather::Gathering;
use super::kv::KvService;
use super::layer::Guard;
use super::leases::LeaseService;
use super::sessions::SessionService;
use super::types::TypeService;
use super::watch::WatchService;
use crate::config::LimitsConfig;
use crate::tls::accept::{Connection, Demands, Listener, connections};
use crate::tls::{Caller, ServerConfigs};
use keelstone_proto::v1::cluster_server::ClusterServer;
use keelstone_proto::v1::config_server::ConfigServer;
use keelstone_proto::v1::entities_server::EntitiesServer;
use keelstone_proto::v1::export_server::ExportServer;
use keelstone_proto::v1::kv_server::KvServer;
use keelstone_proto::v1::leases_server::LeasesServer;
use keelstone_proto::v1::sessions_server::SessionsServer;
use keelstone_proto::v1::types_server::TypesServer;
use keelstone_proto::v1::watch_server::WatchServer;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// Bytes of a message on a stream whose messages are small: watches, renewals.
const SMALL_MESSAGE_BYTES: usize = 64 * 1024;
/// Bytes of all headers of a request.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// Bytes in flight on a connection, and on one of its streams, that the client
/// may send before it is read.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
const STREAM_WINDOW: u32 = 1024 * 1024;
/// How often health follows readiness.
const HEALTH_INTERVAL: Duration = Duration::from_millis(250);

/// Why serving ended otherwise than by request.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The transport failed.
    #[error("serving failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors of the API cannot be served.
    #[error("the API's descriptors cannot be served: {0}")]
    Reflection(String),
}

/// Serves the API on `listener` until `stop`. Then writes are refused, watches
/// end (the hub's own token has to be cancelled with this one), and requests
/// that are worked on get `limits.drain_timeout` to finish; what is left is cut
/// off.
///
/// # Errors
///
/// See [`ServeError`].
pub async fn serve<L: Listener>(
    listener: L,
    services: Services,
    tls: Option<ServerConfigs>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let limits = services.limits.clone();
    let metrics = services.metrics.clone();
    let demands = Demands {
        connections_max: limits.connections_max,
        handshake_timeout: limits.handshake_timeout,
        tls,
        observe: metrics.connection_observer("client"),
    };
    let close = CancellationToken::new();
    let incoming = connections(listener, demands, stop.clone(), close.clone());
    let incoming =
        ReceiverStream::new(incoming).map(|io| Ok::<_, io::Error>(Incoming(Gathering::new(io))));
    let guard = Guard::new(&limits, metrics);
    let (routes, health) = routes(services, stop.clone())?;
    let health = tokio::spawn(health);
    let serving = server(&limits)
        .layer(guard)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let cut_off = async {
        stop.cancelled().await;
        tokio::time::sleep(limits.drain_timeout).await;
    };
    let served = tokio::select! {
        served = serving => served,
        () = cut_off => {
            tracing::warn!(timeout = ?limits.drain_timeout, "requests were cut off by the stop");
            Ok(())
        }
    };
    close.cancel();
    health.abort();
    served.map_err(Into::into)
}

fn server(limits: &LimitsConfig) -> Server {
    Server::builder()
        .max_concurrent_streams(limits.streams_per_connection_max)
        .http2_keepalive_interval(Some(limits.keepalive_interval))
        .http2_keepalive_timeout(Some(limits.keepalive_timeout))
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        // Handlers keep deadlines themselves and say what became of the request;
        // this is for what they might forget.
        .timeout(limits.request_timeout_max + Duration::from_secs(1))
}

/// All services, and the task that keeps health true.
fn routes(
    services: Services,
    stop: CancellationToken,
) -> Result<(Routes, impl Future<Output = ()> + Send), ServeError> {
    let request_max = services.limits.request_bytes_max;
    let facts = services.facts.clone();
    let context = Context::new(services, stop.clone());
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(keelstone_proto::FILE_DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| ServeError::Reflection(error.to_string()))?;
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let routes = Routes::new(health_service)
        .add_service(reflection)
        .add_service(
            KvServer::new(KvService(context.clone())).max_decoding_message_size(request_max),
        )
        .add_service(
            LeasesServer::new(LeaseService(context.clone()))
                .max_decoding_message_size(SMALL_MESSAGE_BYTES),
        )
        .add_service(
            SessionsServer::new(SessionService(context.clone()))
                .max_decoding_message_size(SMALL_MESSAGE_BYTES),
        )
        .add_service(
            WatchServer::new(WatchService(context.clone()))
                .max_decoding_message_size(SMALL_MESSAGE_BYTES),
        )
        .add_service(
            TypesServer::new(TypeService(context.clone())).max_decoding_message_size(request_max),
        )
        .add_service(
            EntitiesServer::new(EntityService(context.clone()))
                .max_decoding_message_size(request_max),
        )
        .add_service(
            ConfigServer::new(ConfigService(context.clone()))
                .max_decoding_message_size(request_max),
        )
        .add_service(
            ClusterServer::new(ClusterService(context.clone()))
                .max_decoding_message_size(SMALL_MESSAGE_BYTES),
        )
        .add_service(
            ExportServer::new(ExportService(context.clone()))
                .max_decoding_message_size(SMALL_MESSAGE_BYTES),
        );
    Ok((routes, keep_health(reporter, context, facts, stop)))
}

/// Health of the whole server (the empty name): serving while the node is ready.
async fn keep_health(
    reporter: HealthReporter,
    context: Arc<Context>,
    facts: crate::metrics::Facts,
    stop: CancellationToken,
) {
    loop {
        let ready = !stop.is_cancelled() && facts.unready(context.core.as_ref()).is_empty();
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status("", status).await;
        if stop.is_cancelled() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(HEALTH_INTERVAL) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// An accepted connection, as tonic wants it: every request on it carries its
/// [`Caller`].
struct Incoming<Io>(Gathering<Connection<Io>>);

impl<Io> Connected for Incoming<Io> {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.0.get_ref().caller().clone()
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncRead for Incoming<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Incoming<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
