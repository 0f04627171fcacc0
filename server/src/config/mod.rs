//! The settings of a node, read once at its start.
//!
//! * [`Config`]: what can be set, with its defaults;
//! * [`load`]: where it comes from -- flag over environment over file over
//!   default;
//! * [`Config::problems`]: everything that is wrong with it, at once.
//!
//! Settings are data. What a node needs besides them (a clock, a disk, a
//! network) is given to it when it is built, so that tests and the simulation
//! can give something else.

mod address;
mod load;
mod problems;

pub use address::{InitialMember, ParseMemberError, check_address};
pub use load::{Flags, LoadError, Loaded, load};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// A node's settings.
///
/// An unknown field is an error, so that a typo cannot silently mean the
/// default. Changes need a restart, except those of certificates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// This node's number in the cluster: positive, and never used again by
    /// another node, nor by this one after it lost its disk.
    pub node_id: u64,
    /// Where the node keeps its log, its state and its identity. Made with
    /// mode 0700 if it is not there.
    pub data_dir: PathBuf,
    /// Allows plaintext on addresses that other machines can reach. Whoever
    /// reaches the ports can then read and change everything.
    pub insecure: bool,
    /// Failure domains that this node is in, such as `host`, `rack`,
    /// `datastore` and `site`.
    pub labels: BTreeMap<String, String>,
    /// The cluster that the node forms or joins.
    pub cluster: ClusterConfig,
    /// Where clients are served (gRPC).
    pub client: ClientConfig,
    /// Where the other replicas are served (gRPC).
    pub peer: PeerConfig,
    /// Where metrics and health are served (HTTP).
    pub http: HttpConfig,
    /// Timing of the consensus.
    pub raft: RaftConfig,
    /// The write-ahead log.
    pub log: LogConfig,
    /// The state and its history.
    pub state: StateConfig,
    /// What a node takes on at most.
    pub limits: LimitsConfig,
    /// What the process says on its standard error.
    pub logging: LoggingConfig,
}

/// The cluster that the node forms or joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// `form`: this node is one of `members`, which form a new cluster.
    /// `join`: it was added to a cluster with `keelstone member add`. Of no
    /// effect once the node belongs to a cluster.
    pub mode: ClusterMode,
    /// Tells clusters apart that are formed on the same addresses: nodes with
    /// different tokens do not form a cluster together.
    pub token: String,
    /// The first members, `ID=PEER_ADDRESS/CLIENT_ADDRESS`, with labels after
    /// it if there are any: `1=10.0.0.1:7702/10.0.0.1:7701?rack=a&site=b`. The
    /// same list on every node. With `join`: members to ask, at least one.
    pub members: Vec<InitialMember>,
}

/// How a node comes into its cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClusterMode {
    /// With the other initial members.
    #[default]
    Form,
    /// As a learner that was added.
    Join,
}

/// Where clients are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientConfig {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// `HOST:PORT` that clients are told. Empty: the address listened on.
    pub advertise: String,
    /// TLS towards clients.
    pub tls: ClientTls,
}

/// TLS towards clients. Off while `certificate` is not set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientTls {
    /// PEM file: the server's certificate and what leads to its root.
    pub certificate: Option<PathBuf>,
    /// PEM file: the certificate's private key.
    pub key: Option<PathBuf>,
    /// PEM file: the roots that client certificates must lead to. Without it
    /// clients are not asked for a certificate.
    pub client_roots: Option<PathBuf>,
    /// Refuses clients without a certificate. With `false` they are anonymous.
    pub client_certificate_required: bool,
}

/// Where the other replicas are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeerConfig {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// `HOST:PORT` that the other replicas are told. Empty: the address
    /// listened on.
    pub advertise: String,
    /// TLS between replicas.
    pub tls: PeerTls,
}

/// TLS between replicas, always mutual. Off while `certificate` is not set.
///
/// A certificate of a replica names its role in a URI name,
/// `keelstone://peer/<node id>`; others are refused whatever signed them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeerTls {
    /// PEM file: this replica's certificate and what leads to its root.
    pub certificate: Option<PathBuf>,
    /// PEM file: the certificate's private key.
    pub key: Option<PathBuf>,
    /// PEM file: the roots that the other replicas' certificates must lead to.
    /// Not those of clients.
    pub roots: Option<PathBuf>,
}

/// Where metrics and health are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// Serves HTTPS with the certificate of `client.tls`. What is served holds
    /// no keys and no values, so that plaintext beyond loopback is allowed
    /// with `plaintext`.
    pub tls: bool,
    /// Allows plaintext on an address that other machines can reach.
    pub plaintext: bool,
}

/// Timing of the consensus. The same on every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RaftConfig {
    /// How often a leader shows that it lives. Also the longest that an answer
    /// may take, so not below the round trip between the replicas.
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    /// How long a leader may stay silent, at least, before the others elect a
    /// new one. Each election waits a random time up to the maximum.
    #[serde(with = "humantime_serde")]
    pub election_timeout_min: Duration,
    /// See the minimum.
    #[serde(with = "humantime_serde")]
    pub election_timeout_max: Duration,
    /// How long a replica may take nothing of the snapshot that it is sent, or
    /// take to install it.
    #[serde(with = "humantime_serde")]
    pub snapshot_install_timeout: Duration,
    /// Bytes per second at which a snapshot is sent to a replica, at most. The
    /// faster it goes, the more writes wait meanwhile, and the sooner an empty
    /// replica votes.
    pub snapshot_bytes_per_second: u64,
}

/// The write-ahead log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Bytes of one file of the log. Files are allocated whole.
    pub segment_bytes: u64,
    /// Bytes of recent entries kept in memory for apply and replication.
    pub tail_bytes: u64,
    /// Bytes of log after which the state is checkpointed, so that the log
    /// before it may go.
    pub checkpoint_bytes: u64,
    /// Entries that are kept behind a checkpoint, so that a replica that was
    /// away for a short time catches up from the log and needs no snapshot.
    pub keep_entries: u64,
    /// Whether the log is written past the kernel's cache, where the file
    /// system can do it. That is faster; turn it off for a file system that
    /// does it badly.
    pub direct_io: bool,
}

/// The state and its history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StateConfig {
    /// The state engine: `fjall`, `sled` (if built in), or `memory` for tests.
    pub engine: Engine,
    /// Bytes of memory for the engine's cache.
    pub cache_bytes: u64,
    /// How long superseded values can be read and watched from. Older history
    /// is compacted away. Zero: it is compacted by request only.
    #[serde(with = "humantime_serde")]
    pub history_max: Duration,
    /// Bytes of recent changes kept in memory for watchers; a watcher that is
    /// further behind reads from disk.
    pub changes_bytes: u64,
    /// Free bytes on the data directory's disk below which writes are refused,
    /// so that what was accepted can be finished. A replica that does not lead
    /// takes no entries below half of it.
    pub disk_reserve_bytes: u64,
}

/// A state engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// The default.
    #[default]
    Fjall,
    /// For those who ask for it; needs the cargo feature `sled`.
    Sled,
    /// Nothing is kept over a restart: for tests and the simulation.
    Memory,
}

impl Engine {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fjall => "fjall",
            Self::Sled => "sled",
            Self::Memory => "memory",
        }
    }
}

/// What a node takes on at most. More is refused with a clear error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Connections of clients, handshakes included.
    pub connections_max: usize,
    /// Connections of the other replicas.
    pub peer_connections_max: usize,
    /// Connections to the HTTP port.
    pub http_connections_max: usize,
    /// Requests and watch streams on one connection at once.
    pub streams_per_connection_max: u32,
    /// Requests that are worked on at once, streams not counted.
    pub requests_max: usize,
    /// Bytes of one request message.
    pub request_bytes_max: usize,
    /// Bytes of all requests that are worked on at once.
    pub requests_bytes_max: usize,
    /// Bytes of writes that may wait for a quorum.
    pub proposals_bytes_max: u64,
    /// How long a request may take that does not say it.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// How long a request may take, whatever it says.
    #[serde(with = "humantime_serde")]
    pub request_timeout_max: Duration,
    /// How long a TLS handshake and the first bytes after it may take.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// How often a silent connection is asked whether it lives.
    #[serde(with = "humantime_serde")]
    pub keepalive_interval: Duration,
    /// How long the answer to that may take.
    #[serde(with = "humantime_serde")]
    pub keepalive_timeout: Duration,
    /// Watch streams of all clients.
    pub watch_streams_max: usize,
    /// Watches on one stream.
    pub watches_per_stream_max: usize,
    /// Bytes of events that are prepared for one stream at once, unless one
    /// revision alone is larger.
    pub watch_bytes_max: usize,
    /// How long a stop waits for requests that are worked on.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
}

/// What the process says on its standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoggingConfig {
    /// `text` for people, `json` for programs.
    pub format: LogFormat,
    /// What is logged, in the syntax of `RUST_LOG`.
    pub filter: String,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

const MIB: u64 = 1024 * 1024;

impl Default for Config {
    fn default() -> Self {
        Self {
            node_id: 1,
            data_dir: PathBuf::from("keelstone.data"),
            insecure: false,
            labels: BTreeMap::new(),
            cluster: ClusterConfig::default(),
            client: ClientConfig::default(),
            peer: PeerConfig::default(),
            http: HttpConfig::default(),
            raft: RaftConfig::default(),
            log: LogConfig::default(),
            state: StateConfig::default(),
            limits: LimitsConfig::default(),
            logging: LoggingConfig::default(),
        }
    }
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self { mode: ClusterMode::Form, token: "keelstone".to_owned(), members: Vec::new() }
    }
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self { listen: loopback(7701), advertise: String::new(), tls: ClientTls::default() }
    }
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self { listen: loopback(7702), advertise: String::new(), tls: PeerTls::default() }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { listen: loopback(7703), tls: false, plaintext: false }
    }
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(250),
            election_timeout_max: Duration::from_millis(500),
            snapshot_install_timeout: Duration::from_mins(2),
            snapshot_bytes_per_second: 16 * MIB,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * MIB,
            tail_bytes: 16 * MIB,
            checkpoint_bytes: 256 * MIB,
            keep_entries: 10_000,
            direct_io: true,
        }
    }
}

impl Default for StateConfig {
    fn default() -> Self {
        Self {
            engine: Engine::Fjall,
            cache_bytes: 32 * MIB,
            history_max: Duration::from_hours(1),
            changes_bytes: 16 * MIB,
            disk_reserve_bytes: 256 * MIB,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            peer_connections_max: 64,
            http_connections_max: 64,
            streams_per_connection_max: 256,
            requests_max: 4096,
            request_bytes_max: 2 * 1024 * 1024 + 64 * 1024,
            requests_bytes_max: 128 * 1024 * 1024,
            proposals_bytes_max: 32 * MIB,
            request_timeout: Duration::from_secs(10),
            request_timeout_max: Duration::from_mins(1),
            handshake_timeout: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            watch_streams_max: 10_000,
            watches_per_stream_max: 1024,
            watch_bytes_max: 1024 * 1024,
            drain_timeout: Duration::from_secs(5),
        }
    }
}

impl Default for LoggingConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info,openraft=warn".to_owned() }
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

impl Config {
    /// `HOST:PORT` that clients are told.
    pub fn client_advertise(&self) -> String {
        advertised(&self.client.advertise, self.client.listen)
    }

    /// `HOST:PORT` that the other replicas are told.
    pub fn peer_advertise(&self) -> String {
        advertised(&self.peer.advertise, self.peer.listen)
    }

    /// Options in force that make the node less safe, to be said loudly at
    /// every start.
    pub fn insecure_options(&self) -> Vec<&'static str> {
        let mut options = Vec::new();
        if self.insecure {
            options.push("insecure: plaintext is allowed on addresses that others can reach");
        }
        if self.http.plaintext && !self.http.tls && !self.http.listen.ip().is_loopback() {
            options.push("http.plaintext: metrics and health are served without TLS");
        }
        if self.client.tls.certificate.is_some() && !self.client.tls.client_certificate_required {
            options
                .push("client.tls.client_certificate_required is false: clients may be anonymous");
        }
        if self.state.engine == Engine::Memory {
            options.push("state.engine is memory: the state is rebuilt from the log at each start");
        }
        options
    }
}

fn advertised(advertise: &str, listen: SocketAddr) -> String {
    if advertise.is_empty() { listen.to_string() } else { advertise.to_owned() }
}

#[cfg(test)]
mod tests;
