//! Raw stubs to one replica: each call is one attempt with a deadline, and
//! nothing is ever sent twice.

use super::classify::Failure;
use anyhow::{Context as _, Result};
use keelstone_proto::v1::cluster_client::ClusterClient;
use keelstone_proto::v1::export_client::ExportClient;
use keelstone_proto::v1::kv_client::KvClient;
use keelstone_proto::v1::leases_client::LeasesClient;
use keelstone_proto::v1::watch_client::WatchClient;
use keelstone_proto::v1::{MembersRequest, StatusRequest, StatusResponse};
use std::time::Duration;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Response, Status};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// What the answer to a call may be late after the deadline that the server was
/// told, before the harness gives up by itself.
const LATE: Duration = Duration::from_millis(200);
/// The largest response: a final read of a whole keyspace.
const RESPONSE_BYTES_MAX: usize = 64 << 20;

/// One replica, reached over one connection.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    /// The replica.
    pub(crate) node: u64,
    channel: Channel,
}

impl Raw {
    /// A connection that is made when it is first used, and again when it broke.
    ///
    /// # Errors
    ///
    /// Fails if `endpoint` is not `HOST:PORT`.
    pub(crate) fn new(node: u64, endpoint: &str, tls: Option<&ClientTlsConfig>) -> Result<Self> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut builder = Endpoint::from_shared(format!("{scheme}://{endpoint}"))
            .context("make an endpoint of an address")?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true);
        if let Some(tls) = tls {
            builder = builder.tls_config(tls.clone()).context("set up TLS")?;
        }
        Ok(Self { node, channel: builder.connect_lazy() })
    }

    /// The connection, for services that have no method here.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Keys and transactions.
    pub(crate) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(RESPONSE_BYTES_MAX)
    }

    /// Leases.
    pub(crate) fn leases(&self) -> LeasesClient<Channel> {
        LeasesClient::new(self.channel.clone())
    }

    /// Watches.
    pub(crate) fn watch(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel.clone()).max_decoding_message_size(RESPONSE_BYTES_MAX)
    }

    /// The replica itself and the membership.
    pub(crate) fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    /// Copies of the store.
    pub(crate) fn export(&self) -> ExportClient<Channel> {
        ExportClient::new(self.channel.clone()).max_decoding_message_size(RESPONSE_BYTES_MAX)
    }

    /// What the replica says of itself.
    ///
    /// # Errors
    ///
    /// Fails if it does not answer within `timeout`.
    pub(crate) async fn status(&self, timeout: Duration) -> Result<StatusResponse, Failure> {
        let mut client = self.cluster();
        once(timeout, client.status(within(timeout, StatusRequest {}))).await
    }

    /// The members as a quorum knows them.
    ///
    /// # Errors
    ///
    /// Fails if the replica does not answer within `timeout`.
    pub(crate) async fn members(
        &self,
        timeout: Duration,
    ) -> Result<Vec<keelstone_proto::v1::Member>, Failure> {
        let mut client = self.cluster();
        let request = within(timeout, MembersRequest::default());
        Ok(once(timeout, client.members(request)).await?.members)
    }
}

/// `message` as a request that the server may take `timeout` for.
pub(crate) fn within<T>(timeout: Duration, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(timeout);
    request
}

/// One attempt: its answer, or what its failure means.
///
/// # Errors
///
/// Fails as the attempt does, or if there is no answer by the deadline.
pub(crate) async fn once<T>(
    timeout: Duration,
    attempt: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(timeout + LATE, attempt).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Failure::of(&status)),
        Err(_) => Err(Failure::timeout()),
    }
}
