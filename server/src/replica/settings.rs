//! What a replica is told, and what it is made of.

use crate::core::MemberStatus;
use crate::metrics::Metrics;
use crate::raft::{ClientConfigs, PeerAcceptor, PeerConnector, TcpConnector, Timing};
use crate::tls::ServerConfigs;
use keelstone_store::disk::log::LogOptions;
use keelstone_store::disk::{EngineKind, MemoryDisk, storage::Storage};
use keelstone_store::state::StateOptions;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How a node without data comes into a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// With the other initial members, all of which must be up once for the
    /// cluster to form. Their ids are at most [`INITIAL_ID_MAX`].
    Form {
        /// This node's id.
        node_id: u64,
        /// The same on all of them.
        token: String,
        /// All initial members with this one; the same on all of them.
        members: Vec<MemberStatus>,
    },
    /// It waits until it is added, and is given its id then.
    Join {
        /// How it wants to be known; its id is ignored.
        member: MemberStatus,
        /// Members that it may take a state from, should it lose its own.
        ask: Vec<MemberStatus>,
    },
}

/// The largest id of an initial member. Ids given later are above it, so that
/// no id is ever given twice.
pub const INITIAL_ID_MAX: u64 = 99;

/// The level of features that this version knows. The cluster's level is raised
/// to it when all members know it.
pub const FEATURE_LEVEL: u32 = 1;

/// Settings of a replica.
#[derive(Clone, Debug)]
pub struct ReplicaSettings {
    /// Where its identity, log and state are.
    pub data_dir: PathBuf,
    /// How it comes into a cluster. Of no effect once it belongs to one.
    pub entry: Entry,
    /// Timing of the consensus.
    pub timing: Timing,
    /// The state engine.
    pub engine: EngineKind,
    /// How the state is kept.
    pub state: StateOptions,
    /// How the log is kept.
    pub log: LogOptions,
    /// Whether the log is written past the kernel's cache.
    pub log_direct_io: bool,
    /// Bytes of log after which the state is checkpointed.
    pub checkpoint_bytes: u64,
    /// Entries of log after which the state is checkpointed.
    pub checkpoint_entries: u64,
    /// About how many bytes of log are kept behind a checkpoint.
    pub keep_log_bytes: u64,
    /// How many entries at least are kept behind a checkpoint.
    pub keep_log_entries: u64,
    /// Bytes of recent changes in memory, for watchers.
    pub changes_bytes: usize,
    /// How long superseded values can be read. Zero: until compacted by
    /// request.
    pub history_max: Duration,
    /// Free bytes of disk below which writes are refused.
    pub disk_reserve_bytes: u64,
    /// Bytes of commands that may wait for a quorum.
    pub waiting_bytes_max: usize,
    /// Commands that may wait for a quorum.
    pub waiting_commands_max: usize,
    /// Connections of peers.
    pub peer_connections_max: usize,
}

impl ReplicaSettings {
    /// Settings with defaults for all but where and who.
    pub fn new(data_dir: PathBuf, entry: Entry) -> Self {
        Self {
            data_dir,
            entry,
            timing: Timing::default(),
            engine: EngineKind::default(),
            state: StateOptions::default(),
            log: LogOptions::default(),
            log_direct_io: true,
            checkpoint_bytes: 64 * 1024 * 1024,
            checkpoint_entries: 100_000,
            keep_log_bytes: 256 * 1024 * 1024,
            keep_log_entries: 10_000,
            changes_bytes: 64 * 1024 * 1024,
            history_max: Duration::from_hours(1),
            disk_reserve_bytes: 256 * 1024 * 1024,
            waiting_bytes_max: 64 * 1024 * 1024,
            waiting_commands_max: 16 * 1024,
            peer_connections_max: 256,
        }
    }
}

/// The leader's clock. Only its value matters: time enters the core as data.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;
}

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Where the log and the state are kept.
#[derive(Clone, Default)]
pub enum Disk {
    /// In the data directory.
    #[default]
    Real,
    /// In memory that outlives the replica, for the simulation.
    Simulated {
        /// Holds the log.
        log: Arc<dyn Storage>,
        /// Holds the state.
        state: MemoryDisk,
        /// How long the log's next round takes to be written and synced.
        pace: Delay,
        /// How long the state takes for the next batch of entries.
        apply_pace: Delay,
    },
}

/// How long a simulated disk takes: asked before each round of the log, and
/// before each batch of the state.
pub type Delay = Arc<dyn Fn() -> Duration + Send + Sync>;

/// What a replica is made of, besides its settings.
pub struct Components {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Opens connections to peers.
    pub connector: Arc<dyn PeerConnector>,
    /// Takes connections from peers.
    pub acceptor: Box<dyn PeerAcceptor>,
    /// TLS of connections to peers. `None`: plaintext.
    pub client_tls: Option<ClientConfigs>,
    /// TLS of connections from peers. `None`: plaintext.
    pub server_tls: Option<ServerConfigs>,
    /// Where the log and the state are kept.
    pub disk: Disk,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Components {
    /// A real clock, disk and network, in plaintext, on a bound listener.
    pub fn real(listener: tokio::net::TcpListener) -> Self {
        Self {
            clock: Arc::new(SystemClock),
            connector: Arc::new(TcpConnector),
            acceptor: Box::new(listener),
            client_tls: None,
            server_tls: None,
            disk: Disk::Real,
            metrics: Arc::new(Metrics::new()),
        }
    }
}
