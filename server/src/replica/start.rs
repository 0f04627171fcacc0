//! From an address and a directory to a replica that takes part.

use super::bootstrap;
use super::desk::Desk;
use super::disk::{self, Sources};
use super::identity::{DataDir, IdentityError, NodeIdentity};
use super::pace::Pace;
use super::running::{Assembly, Replica};
use super::settings::{Components, Entry, ReplicaSettings};
use crate::changes::ChangeLog;
use crate::core::MemberStatus;
use crate::raft::{
    AppliedPosition, Calls, Consensus, Dialer, Parts, PeerPort, PeerService, Peers, Progress,
    Running, serve, spawn,
};
use keelstone_store::disk::log::{Log, LogError, LogWriter};
use keelstone_store::machine::View as _;
use keelstone_store::state::{State, StateError};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a connection to a peer may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a replica did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The list of initial members is wrong.
    #[error("cluster.members: {0}")]
    Members(&'static str),
    /// The directory belongs to another node.
    #[error(
        "node_id is {configured}, and the data directory belongs to node {found}: set node_id to \
         that, or data_dir to another directory"
    )]
    OtherNode {
        /// In the settings.
        configured: u64,
        /// In the directory.
        found: u64,
    },
    /// A member of the cluster starts with an empty directory.
    #[error(
        "node {node_id} is a member of a cluster that has begun, and this data directory is empty: \
         what the node promised is lost. Remove the member (`keelstone member remove {node_id}`), \
         start this node with cluster.mode = \"join\", and add it under a new id"
    )]
    LostDisk {
        /// The node.
        node_id: u64,
    },
    /// The directory has a log or a state and does not say whose.
    #[error("the data directory has a log or a state, but the file NODE is missing")]
    Orphaned,
    /// The directory has held a log, and it is gone.
    #[error(
        "the log of this data directory is missing: what the node promised is lost. Remove the \
         member and let it rejoin with an empty directory under a new id"
    )]
    LogLost,
    /// The directory of the log cannot be used.
    #[error("the log's directory: {0}")]
    LogDir(#[source] io::Error),
    /// The log cannot be opened.
    #[error(transparent)]
    LogOpen(#[from] keelstone_store::disk::log::OpenError),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The state cannot be opened.
    #[error(transparent)]
    StateOpen(#[from] keelstone_store::state::OpenError),
    /// The state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// A state that cannot be used could not be moved away.
    #[error("an unusable state could not be set aside: {0}")]
    SetAside(#[source] io::Error),
    /// The state is lost, the log does not reach back to its beginning, and
    /// there is no peer to take one from.
    #[error(
        "the state is lost and the log alone cannot rebuild it, and no other member is known: \
         restore a backup"
    )]
    NoSource,
    /// Consensus cannot go on from the log and the state.
    #[error("consensus could not start: {0}")]
    Consensus(String),
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(#[source] io::Error),
    /// It was told to stop meanwhile.
    #[error("the node was stopped while it started")]
    Stopped,
}

/// Why a replica cannot go on. The process must end.
pub type Failure = Arc<str>;

/// Where failures are told.
#[derive(Clone)]
pub(crate) struct Failures {
    sender: watch::Sender<Option<Failure>>,
}

impl Failures {
    fn new() -> Self {
        Self { sender: watch::channel(None).0 }
    }

    /// Tells a failure; the first one stays.
    pub(crate) fn report(&self, failure: &str) {
        let first = self.sender.send_if_modified(|told| {
            let first = told.is_none();
            if first {
                *told = Some(failure.into());
            }
            first
        });
        if first {
            tracing::error!(failure, "this replica cannot go on");
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Failure>> {
        self.sender.subscribe()
    }
}

fn member_of(entry: &Entry) -> MemberStatus {
    let unknown = || MemberStatus {
        id: 0,
        peer_address: String::new(),
        client_address: String::new(),
        labels: BTreeMap::new(),
        voter: false,
        lag: None,
    };
    match entry {
        Entry::Join { member, .. } => member.clone(),
        Entry::Form { node_id, members, .. } => {
            members.iter().find(|member| member.id == *node_id).cloned().unwrap_or_else(unknown)
        }
    }
}

impl Replica {
    /// Starts a replica, and returns when it takes part in consensus.
    ///
    /// A node without data may wait here for long: for all other initial
    /// members, or to be added. It serves reads and writes once it has
    /// recovered, see [`Replica::recovered`].
    ///
    /// # Errors
    ///
    /// See [`StartError`]. Nothing is left running.
    pub async fn start(
        settings: ReplicaSettings,
        components: Components,
    ) -> Result<Arc<Self>, StartError> {
        if let Entry::Form { node_id, members, .. } = &settings.entry {
            bootstrap::check(*node_id, members)?;
        }
        let dir = DataDir::open(&settings.data_dir)?;
        let tokens = Tokens::default();
        let guard = tokens.clone().stop_unless_kept();
        let desk = Arc::new(Desk::new(member_of(&settings.entry)));
        let service = PeerService::new(Arc::clone(&desk) as Arc<_>);
        let Components { clock, connector, acceptor, client_tls, server_tls, disk, metrics } =
            components;
        let port = PeerPort { tls: server_tls, connections_max: settings.peer_connections_max };
        let failures = Failures::new();
        open_port(service.clone(), acceptor, port, &tokens, failures.clone());

        let dialer = Dialer::new(connector, client_tls, CONNECT_TIMEOUT);
        let calls = Arc::new(Calls::new(dialer.clone()));
        let identity = bootstrap::identity(&dir, &settings.entry, &desk, &calls).await?;
        let peers = Arc::new(Peers::new(identity.cluster_id, identity.node_id, dialer));
        let opened =
            open(&dir, &identity, &settings, &disk, &failures, (&calls, &peers, &desk)).await?;
        let Opened { log, state, identity, held, writer } = opened;

        let position = position(&state)?;
        let changes = Arc::new(ChangeLog::new(position.revision, settings.changes_bytes));
        let progress = Arc::new(Progress::new(position, changes).counting(metrics));
        #[cfg(feature = "simulation")]
        if let super::settings::Disk::Simulated { apply_pace, .. } = &disk {
            progress.set_pace(apply_pace);
        }
        let consensus = Consensus::start(Parts {
            node_id: identity.node_id,
            cluster: hex(&identity.cluster_id),
            timing: settings.timing,
            log: log.clone(),
            state: Arc::clone(&state),
            progress: Arc::clone(&progress),
            peers: Arc::clone(&peers),
        })
        .await
        .map_err(StartError::Consensus)?;
        let consensus = Arc::new(consensus);
        let pace = Pace::new(clock, consensus.leadership(), Arc::clone(&state));
        let replica = Replica::assemble(Assembly {
            settings,
            dir,
            identity,
            pace: Arc::new(pace),
            log: log.clone(),
            log_writer: Mutex::new(writer),
            state: Arc::clone(&state),
            progress: Arc::clone(&progress),
            consensus: Arc::clone(&consensus),
            calls,
            peers,
            failures,
            tokens,
        });
        desk.running(consensus.leadership());
        service.run(Running {
            cluster_id: identity.cluster_id,
            node_id: identity.node_id,
            consensus,
            progress,
            state,
            log,
            leader: Arc::clone(&replica) as Arc<_>,
        });
        replica.begin(!held);
        guard.keep();
        Ok(replica)
    }
}

fn position(state: &State) -> Result<AppliedPosition, StateError> {
    let view = state.view()?;
    let index = view.applied().id.map(|id| id.index);
    Ok(AppliedPosition { index, revision: view.head().revision })
}

/// How a replica is told to end: first to take nothing new, then to close.
#[derive(Clone, Default)]
pub(crate) struct Tokens {
    /// No new connections of peers, no new work in the background.
    pub(crate) stop: CancellationToken,
    /// Connections of peers are closed.
    pub(crate) close: CancellationToken,
}

impl Tokens {
    fn stop_unless_kept(self) -> StopUnlessKept {
        StopUnlessKept(Some(self))
    }
}

/// Ends what was started if the start fails half way.
struct StopUnlessKept(Option<Tokens>);

impl StopUnlessKept {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for StopUnlessKept {
    fn drop(&mut self) {
        if let Some(tokens) = &self.0 {
            tokens.stop.cancel();
            tokens.close.cancel();
        }
    }
}

fn open_port(
    service: PeerService,
    acceptor: Box<dyn crate::raft::PeerAcceptor>,
    port: PeerPort,
    tokens: &Tokens,
    failures: Failures,
) {
    let (stop, close) = (tokens.stop.clone(), tokens.close.clone());
    spawn(async move {
        if let Err(error) = serve(service, acceptor, port, stop, close).await {
            failures.report(&format!("the peer port failed: {error}"));
        }
    });
}

/// A log and a state that fit together.
struct Opened {
    log: Log,
    state: Arc<State>,
    identity: NodeIdentity,
    /// Whether the log held anything.
    held: bool,
    writer: Option<std::thread::JoinHandle<()>>,
}

async fn open(
    dir: &DataDir,
    identity: &NodeIdentity,
    settings: &ReplicaSettings,
    disk: &super::settings::Disk,
    failures: &Failures,
    (calls, others, told): (&Calls, &Peers, &Desk),
) -> Result<Opened, StartError> {
    let failures = failures.clone();
    let on_failure = Arc::new(move |error: &LogError| failures.report(&error.to_string()));
    let (log, writer) = disk::open_log(dir, identity, settings, disk, on_failure).await?;
    let writer = run_writer(writer, disk).map_err(StartError::Thread)?;
    let recovered = log.recovered();
    let state = Arc::new(disk::open_state(dir, settings, disk)?);
    let held = recovered.last.is_some()
        || recovered.vote.is_some()
        || state.view()?.applied().id.is_some();
    told.opened(*identity, held);
    let members = known_members(settings, &state)?;
    let sources = Sources { calls, peers: others, members: &members };
    disk::reconcile(&log, &state, identity, &sources).await?;
    // Before the first vote or entry can be written.
    let held_before = identity.held_log;
    let identity = NodeIdentity { held_log: true, ..*identity };
    if !held_before {
        dir.bind(&identity)?;
    }
    Ok(Opened { log, state, identity, held, writer })
}

/// Those who may have a state: the members that are known here.
fn known_members(
    settings: &ReplicaSettings,
    state: &State,
) -> Result<Vec<MemberStatus>, StartError> {
    let mut members = match &settings.entry {
        Entry::Form { members, .. } => members.clone(),
        Entry::Join { ask, .. } => ask.clone(),
    };
    for member in state.view()?.applied().membership.members {
        members.retain(|it| it.peer_address != member.peer_address);
        members.push(MemberStatus {
            id: member.id,
            peer_address: member.peer_address,
            client_address: member.client_address,
            labels: member.labels,
            voter: true,
            lag: None,
        });
    }
    Ok(members)
}

#[cfg(not(feature = "simulation"))]
fn run_writer(
    writer: LogWriter,
    _disk: &super::settings::Disk,
) -> io::Result<Option<std::thread::JoinHandle<()>>> {
    let thread = std::thread::Builder::new().name("log-writer".to_owned());
    thread.spawn(move || writer.run()).map(Some)
}

/// Without threads the writer's rounds are a task, as fast as the disk is.
#[cfg(feature = "simulation")]
fn run_writer(
    mut writer: LogWriter,
    disk: &super::settings::Disk,
) -> io::Result<Option<std::thread::JoinHandle<()>>> {
    const ROUND: Duration = Duration::from_millis(1);
    let pace = match disk {
        super::settings::Disk::Simulated { pace, .. } => Some(Arc::clone(pace)),
        super::settings::Disk::Real => None,
    };
    spawn(async move {
        loop {
            tokio::time::sleep(pace.as_ref().map_or(ROUND, |pace| pace().max(ROUND))).await;
            match writer.round() {
                Ok(_) if writer.is_closed() => return,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    });
    Ok(None)
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}
