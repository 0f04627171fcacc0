//! The API over real sockets, on a core without replicas.

#![expect(clippy::unnecessary_wraps, reason = "messages have most of their fields as options")]

mod documents;
mod input;
mod keys;
mod limits;
mod streams;
mod trust;

use super::{Services, serve};
use crate::config::{Config, LimitsConfig};
use crate::entities::Entities;
use crate::metrics::{Facts, Metrics};
use crate::settings::Settings;
use crate::solo::Solo;
use crate::tls::ServerConfigs;
use crate::watch::{Hub, Limits};
use keelstone_proto::v1::ErrorDetail;
use keelstone_proto::v1::config_client::ConfigClient;
use keelstone_proto::v1::entities_client::EntitiesClient;
use keelstone_proto::v1::kv_client::KvClient;
use keelstone_proto::v1::leases_client::LeasesClient;
use keelstone_proto::v1::types_client::TypesClient;
use keelstone_proto::v1::watch_client::WatchClient;
use keelstone_proto::v1::{self, key_span::End};
use keelstone_store::Millis;
use prost::Message as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// A node's client port over a [`Solo`].
struct Node {
    core: Arc<Solo>,
    metrics: Arc<Metrics>,
    address: SocketAddr,
    stop: CancellationToken,
    served: JoinHandle<Result<(), super::ServeError>>,
}

impl Node {
    async fn open() -> Self {
        Self::with(|_| {}, None).await
    }

    async fn with(change: impl FnOnce(&mut LimitsConfig), tls: Option<ServerConfigs>) -> Self {
        let mut limits = Config::default().limits;
        limits.drain_timeout = Duration::from_millis(500);
        limits.handshake_timeout = Duration::from_millis(500);
        change(&mut limits);
        let (core, metrics) = (Solo::new(), Arc::new(Metrics::new()));
        let stop = CancellationToken::new();
        let watch_limits = Limits {
            streams_max: limits.watch_streams_max,
            watches_per_stream_max: limits.watches_per_stream_max,
            bytes_max: limits.watch_bytes_max,
        };
        let hub = Hub::new(core.clone(), watch_limits, metrics.clone(), stop.clone());
        let services = Services {
            core: core.clone(),
            hub,
            entities: Arc::new(Entities::new(core.clone(), Arc::new(|| Millis(2_000_000)))),
            settings: Arc::new(Settings::new(core.clone())),
            metrics: metrics.clone(),
            facts: Facts::of_memory(),
            limits,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(serve(listener, services, tls, stop.clone()));
        Self { core, metrics, address, stop, served }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap()
    }

    async fn channel(&self) -> Channel {
        self.endpoint().connect().await.unwrap()
    }

    async fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel().await)
    }

    async fn leases(&self) -> LeasesClient<Channel> {
        LeasesClient::new(self.channel().await)
    }

    async fn watch(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel().await)
    }

    async fn types(&self) -> TypesClient<Channel> {
        TypesClient::new(self.channel().await)
    }

    async fn entities(&self) -> EntitiesClient<Channel> {
        EntitiesClient::new(self.channel().await)
    }

    async fn config(&self) -> ConfigClient<Channel> {
        ConfigClient::new(self.channel().await)
    }
}

fn put(key: &str, value: &str) -> v1::PutRequest {
    v1::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..v1::PutRequest::default()
    }
}

fn single(key: &str) -> Option<v1::KeySpan> {
    Some(v1::KeySpan { key: key.to_owned().into(), end: None })
}

fn prefix(key: &str) -> Option<v1::KeySpan> {
    Some(v1::KeySpan { key: key.to_owned().into(), end: Some(End::Prefix(true)) })
}

fn everything() -> Option<v1::KeySpan> {
    Some(v1::KeySpan { key: bytes::Bytes::new(), end: Some(End::Unbounded(true)) })
}

fn range(span: Option<v1::KeySpan>) -> v1::RangeRequest {
    v1::RangeRequest { span, ..v1::RangeRequest::default() }
}

/// The detail that every refusal of ours carries.
fn detail(status: &Status) -> ErrorDetail {
    let bytes = status.metadata().get_bin("keelstone-error-bin");
    let bytes = bytes.unwrap_or_else(|| panic!("no detail: {status:?}")).to_bytes().unwrap();
    ErrorDetail::decode(bytes).unwrap()
}

/// A refusal as one line: code, reason, field, limit/actual, outcome. It must
/// also say what to do.
fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> String {
    let status = answer.unwrap_err();
    let detail = detail(&status);
    assert!(!detail.remedy.is_empty(), "no remedy: {status:?}");
    assert!(!status.message().is_empty());
    let numbers = match (detail.limit, detail.actual) {
        (0, 0) => String::new(),
        (limit, actual) => format!(" {actual}/{limit}"),
    };
    let outcome = match detail.outcome() {
        v1::Outcome::NotApplied => "",
        v1::Outcome::Unknown => " maybe",
    };
    let field = if detail.field.is_empty() { String::new() } else { format!(" {}", detail.field) };
    format!("{:?} {}{field}{numbers}{outcome}", status.code(), detail.reason)
}
