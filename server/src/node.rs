//! A node: a replica, the ports it serves, and the order in which it ends.

use crate::config::{ClusterMode, Config, Engine, InitialMember};
use crate::core::{Core, MemberStatus};
use crate::entities::Entities;
use crate::http::Shown;
use crate::metrics::{Facts, Metrics};
use crate::replica::{
    ClientConfigs, Clock as _, Components, Entry, Replica, ReplicaSettings, StartError, SystemClock,
};
use crate::rpc::Services;
use crate::settings::Settings;
use crate::tls::{LOOK_INTERVAL, Tls, TlsError};
use crate::watch::{self, Hub};
use crate::{http, rpc};
use keelstone_store::Millis;
use keelstone_store::disk::EngineKind;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Why a node ended other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A certificate or a key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address cannot be listened on.
    #[error("listen on {address} for {what}: {source}")]
    Listen {
        /// Who was to be served there.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The replica did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The replica cannot go on. Its supervisor should start it again.
    #[error("{0}")]
    Failed(Arc<str>),
    /// Clients could not be served any longer.
    #[error(transparent)]
    Serve(#[from] rpc::ServeError),
}

/// Runs a node until `stop` is cancelled or it cannot go on.
///
/// # Errors
///
/// See [`NodeError`]. What was accepted before is in the log.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), NodeError> {
    if let Some(bug) = keelstone_store::planted::active() {
        let (name, about) = (bug.name(), bug.about());
        tracing::error!(name, about, "THIS PROGRAM HAS A PLANTED BUG: IT WILL LOSE DATA");
    }
    warn_of_insecure(&config);
    let tls = Tls::open(&config)?;
    let ports = Ports::bind(&config).await?;
    let metrics = Arc::new(Metrics::new());
    // Cancelled when the node ends, whether it was asked to or failed.
    let over = CancellationToken::new();
    let _ends_with_this = over.clone().drop_guard();
    tokio::spawn(Arc::clone(&tls).keep_current(LOOK_INTERVAL, over.clone()));

    let components = Components {
        client_tls: peer_client_configs(&tls),
        server_tls: tls.peer_configs(),
        metrics: Arc::clone(&metrics),
        ..Components::real(ports.peer)
    };
    // Before the replica starts: that may take longer than whoever watches over
    // this process waits for a sign of life.
    let shown = Arc::new(OnceLock::new());
    let http_tls = if config.http.tls { tls.http_configs() } else { None };
    let (limits, http_over) = (config.limits.clone(), over.clone());
    let (showing, counted) = (Arc::clone(&shown), metrics.clone());
    let faces = tokio::spawn(async move {
        http::serve(ports.http, showing, counted, &limits, http_tls, http_over).await;
    });

    let starting = Replica::start(replica_settings(&config), components);
    let replica = tokio::select! {
        replica = starting => replica?,
        () = stop.cancelled() => return Ok(()),
    };
    let facts = facts(&config, &replica, &tls);
    let core: Arc<dyn Core> = Arc::<Replica>::clone(&replica);
    shown.get_or_init(|| Shown { core: Arc::clone(&core), facts: facts.clone() });

    let refuse = over.child_token();
    let limits = watch::Limits {
        streams_max: config.limits.watch_streams_max,
        watches_per_stream_max: config.limits.watches_per_stream_max,
        bytes_max: config.limits.watch_bytes_max,
    };
    let hub = Hub::new(Arc::clone(&core), limits, metrics.clone(), refuse.clone());
    let clock = Arc::new(|| Millis(SystemClock.now_ms()));
    let services = Services {
        entities: Arc::new(Entities::new(Arc::clone(&core), clock)),
        settings: Arc::new(Settings::new(Arc::clone(&core))),
        core,
        hub,
        metrics,
        facts,
        limits: config.limits.clone(),
    };
    let serving = rpc::serve(ports.client, services, tls.client_configs(), refuse.clone());
    end(&replica, serving, &stop, &refuse).await?;
    over.cancel();
    // So that nobody is told of this node when it is over. Its panics were
    // printed, and it keeps nothing that matters now.
    drop(faces.await);
    Ok(())
}

/// Serves clients until the node is asked to stop or cannot go on; then ends in
/// order: writes are refused and watches end, requests drain, leadership is
/// handed over, log and state are closed.
async fn end(
    replica: &Arc<Replica>,
    serving: impl Future<Output = Result<(), rpc::ServeError>>,
    stop: &CancellationToken,
    refuse: &CancellationToken,
) -> Result<(), NodeError> {
    let mut serving = std::pin::pin!(serving);
    let mut failure = replica.failure();
    // Gives the lock back before anything else is awaited.
    let failed =
        async { failure.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone()) };
    tokio::select! {
        reason = failed => {
            // Nothing is promised any more: no draining, no handing over.
            return Err(NodeError::Failed(reason.unwrap_or_else(|| "the replica is gone".into())));
        }
        served = &mut serving => {
            replica.shutdown().await;
            return served.map_err(Into::into);
        }
        () = stop.cancelled() => {}
    }
    refuse.cancel();
    let served = serving.await;
    replica.shutdown().await;
    served.map_err(Into::into)
}

/// The TLS configuration for each connection to a peer; `None`: plaintext.
fn peer_client_configs(tls: &Arc<Tls>) -> Option<ClientConfigs> {
    tls.peer_client_config()?;
    let tls = Arc::clone(tls);
    Some(Arc::new(move || tls.peer_client_config().expect("it was there above")))
}

/// Where health and metrics ask.
fn facts(config: &Config, replica: &Arc<Replica>, tls: &Arc<Tls>) -> Facts {
    let (state, log) = (Arc::clone(replica.state()), replica.log().clone());
    let moments = Arc::clone(&state);
    let (free, recovered) = (replica.log().clone(), replica.recovered());
    let engine = state.engine_name();
    Facts {
        engine,
        state_bytes: Arc::new(move || state.size_bytes().unwrap_or_default()),
        state_moments: Arc::new(move || moments.moments_held()),
        log: Arc::new(move || log.stats()),
        disk_free_bytes: Arc::new(move || free.free_bytes().unwrap_or_default()),
        disk_reserve_bytes: config.state.disk_reserve_bytes,
        tls: Some(Arc::clone(tls)),
        unready: Arc::new(move || {
            let recovered = *recovered.borrow();
            if recovered { Vec::new() } else { vec!["the replica is recovering".to_owned()] }
        }),
    }
}

/// The addresses of a node, bound before anything else is done: a port that is
/// taken should cost nothing.
struct Ports {
    client: TcpListener,
    peer: TcpListener,
    http: TcpListener,
}

impl Ports {
    async fn bind(config: &Config) -> Result<Self, NodeError> {
        let client = bind("clients", config.client.listen).await?;
        let peer = bind("peers", config.peer.listen).await?;
        let http = bind("health and metrics", config.http.listen).await?;
        Ok(Self { client, peer, http })
    }
}

async fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address).await.map_err(|source| NodeError::Listen { what, address, source })
}

fn warn_of_insecure(config: &Config) {
    for option in config.insecure_options() {
        tracing::warn!(
            option,
            "INSECURE: whoever reaches this port can read and change everything"
        );
    }
}

/// What the replica is told.
fn replica_settings(config: &Config) -> ReplicaSettings {
    let entry = match config.cluster.mode {
        ClusterMode::Join => Entry::Join {
            member: MemberStatus {
                id: 0,
                peer_address: config.peer_advertise(),
                client_address: config.client_advertise(),
                labels: config.labels.clone(),
                voter: false,
                lag: None,
            },
            ask: config.cluster.members.iter().map(member_status).collect(),
        },
        ClusterMode::Form => Entry::Form {
            node_id: config.node_id,
            token: config.cluster.token.clone(),
            members: config.cluster.members.iter().map(member_status).collect(),
        },
    };
    let mut settings = ReplicaSettings::new(config.data_dir.clone(), entry);
    settings.timing.heartbeat_interval = config.raft.heartbeat_interval;
    settings.timing.election_timeout_min = config.raft.election_timeout_min;
    settings.timing.election_timeout_max = config.raft.election_timeout_max;
    settings.timing.snapshot_timeout = config.raft.snapshot_install_timeout;
    settings.timing.snapshot_bytes_per_second = config.raft.snapshot_bytes_per_second;
    settings.engine = match config.state.engine {
        Engine::Fjall => EngineKind::Fjall,
        Engine::Sled => EngineKind::Sled,
        Engine::Memory => EngineKind::Memory,
    };
    settings.state.engine.cache_bytes = config.state.cache_bytes;
    settings.log.segment_bytes = config.log.segment_bytes;
    settings.log.tail_bytes_max = to_usize(config.log.tail_bytes);
    settings.log_direct_io = config.log.direct_io;
    settings.checkpoint_bytes = config.log.checkpoint_bytes;
    settings.keep_log_entries = config.log.keep_entries;
    settings.changes_bytes = to_usize(config.state.changes_bytes);
    settings.history_max = config.state.history_max;
    settings.disk_reserve_bytes = config.state.disk_reserve_bytes;
    settings.waiting_bytes_max = to_usize(config.limits.proposals_bytes_max);
    settings.peer_connections_max = config.limits.peer_connections_max;
    settings
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn member_status(member: &InitialMember) -> MemberStatus {
    MemberStatus {
        id: member.id,
        peer_address: member.peer.clone(),
        client_address: member.client.clone(),
        labels: member.labels.clone(),
        voter: true,
        lag: None,
    }
}
