//! The HTTP face of a node: metrics and health.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | what the node counts, for Prometheus, see docs/metrics.md |
//! | `/livez` | 200 while the process answers: restart it if it does not |
//! | `/readyz` | 200, or 503 with the reasons why it should get no requests |
//! | `/version` | what runs, as JSON |
//!
//! It has a listener and limits of its own, so that a node that is loaded or
//! attacked on its client port can still be looked at. Nothing of it holds keys
//! or values.

#[cfg(test)]
mod tests;

use crate::config::LimitsConfig;
use crate::core::Core;
use crate::metrics::{Facts, Metrics};
use crate::tls::ServerConfigs;
use crate::tls::accept::{Connection, Demands, Listener, connections};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long a connection may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The text format that the metrics are rendered in.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is shown of a replica that has started.
#[derive(Clone)]
pub struct Shown {
    /// The replica.
    pub core: Arc<dyn Core>,
    /// What is known of the node besides.
    pub facts: Facts,
}

/// What the handlers know.
#[derive(Clone)]
struct Faces {
    /// Empty while the replica starts: it may wait for its peers, or replay a
    /// long log, and must not be restarted for that.
    shown: Arc<OnceLock<Shown>>,
    metrics: Arc<Metrics>,
}

const STARTING: (StatusCode, &str) =
    (StatusCode::SERVICE_UNAVAILABLE, "the replica has not started yet\n");

/// Serves metrics and health on `listener` until `stop`, and then for at most
/// `limits.drain_timeout` what was begun. `shown` is set once the replica runs;
/// until then only `/livez` and `/version` have anything to say.
pub async fn serve<L: Listener>(
    listener: L,
    shown: Arc<OnceLock<Shown>>,
    metrics: Arc<Metrics>,
    limits: &LimitsConfig,
    tls: Option<ServerConfigs>,
    stop: CancellationToken,
) {
    let demands = Demands {
        connections_max: limits.http_connections_max,
        handshake_timeout: limits.handshake_timeout,
        tls,
        observe: metrics.connection_observer("http"),
    };
    let close = CancellationToken::new();
    let mut incoming = connections(listener, demands, stop.clone(), close.clone());
    let router = router(Faces { shown, metrics });
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            connection = incoming.recv() => match connection {
                Some(connection) => {
                    tasks.spawn(serve_connection(connection, router.clone(), stop.clone()));
                }
                None => break,
            },
            Some(_) = tasks.join_next() => {}
        }
    }
    let drained = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain_timeout, drained).await.is_err() {
        close.cancel();
    }
}

async fn serve_connection<Io>(connection: Connection<Io>, router: Router, stop: CancellationToken)
where
    Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let serving = builder.serve_connection(TokioIo::new(connection), service);
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = &mut serving => served,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "an HTTP connection broke");
    }
}

fn router(faces: Faces) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/version", get(version))
        .with_state(faces)
}

async fn metrics(State(faces): State<Faces>) -> Response {
    let Some(shown) = faces.shown.get() else { return STARTING.into_response() };
    faces.metrics.observe(shown.facts.sample(shown.core.as_ref()).await);
    ([(header::CONTENT_TYPE, METRICS_TYPE)], faces.metrics.render()).into_response()
}

async fn ready(State(faces): State<Faces>) -> Response {
    let Some(shown) = faces.shown.get() else { return STARTING.into_response() };
    let reasons = shown.facts.unready(shown.core.as_ref());
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", reasons.join("\n"))).into_response()
}

async fn version(State(faces): State<Faces>) -> impl IntoResponse {
    let identity = faces.shown.get().map(|shown| shown.core.identity());
    let version = serde_json::json!({
        "name": "keelstone",
        "version": env!("CARGO_PKG_VERSION"),
        "api": "keelstone.v1",
        "cluster_id": identity.as_ref().map(|identity| hex(&identity.cluster_id)),
        "node_id": identity.as_ref().map(|identity| identity.node_id),
        "engine": faces.shown.get().map(|shown| shown.facts.engine),
    });
    ([(header::CONTENT_TYPE, "application/json")], format!("{version}\n"))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}
