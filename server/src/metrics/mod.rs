//! What the node counts, in one table.
//!
//! * [`Metrics`]: what is counted where it happens -- requests, connections,
//!   watches, proposals, apply;
//! * [`Sample`]: what is read when somebody asks -- positions, the log, the disk,
//!   the process.
//!
//! Labels have few values and never hold a key, a value or a name that a user
//! chose. docs/metrics.md lists all of them and is kept true by a test.

mod facts;
mod process;
mod sample;

pub use facts::{Ask, Facts};
pub use process::Process;
pub use sample::Sample;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use sample::Latest;
use std::sync::{Arc, Mutex, PoisonError};

/// A method of the API, and what it answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Answered {
    /// The method, as `Service/Method`.
    pub method: &'static str,
    /// The gRPC code, in words.
    pub code: &'static str,
}

/// A method of the API.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Method {
    /// The method, as `Service/Method`.
    pub method: &'static str,
}

/// A port of the node: `client`, `peer` or `http`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Port {
    /// Which one.
    pub port: &'static str,
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Refused {
    /// Where.
    pub port: &'static str,
    /// A short stable word.
    pub reason: &'static str,
}

/// A short stable word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// The word.
    pub reason: &'static str,
}

/// The state that watches are in: `synced` or `behind`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WatchState {
    /// Which one.
    pub state: &'static str,
}

/// What the node counts. Cheap to update, from anywhere; nothing here waits.
#[derive(Debug)]
pub struct Metrics {
    /// Requests answered, by method and code.
    pub requests: Family<Answered, Counter>,
    /// How long they took, until the last byte of the answer was taken.
    pub request_seconds: Family<Method, Histogram, fn() -> Histogram>,
    /// Requests and streams that are worked on.
    pub requests_active: Gauge,
    /// Requests refused before they were worked on.
    pub requests_refused: Family<Reason, Counter>,
    /// Connections that are open.
    pub connections: Family<Port, Gauge>,
    /// Connections refused.
    pub connections_refused: Family<Refused, Counter>,
    /// Watch streams that are open.
    pub watch_streams: Gauge,
    /// Watches on them.
    pub watches: Family<WatchState, Gauge>,
    /// Events sent to watchers.
    pub watch_events: Counter,
    /// Times that a watcher's history was read from disk.
    pub watch_history_reads: Counter,
    /// Watches that were ended by the node.
    pub watches_canceled: Family<Reason, Counter>,
    /// Log entries proposed.
    pub proposal_batches: Counter,
    /// Commands in one log entry.
    pub proposal_commands: Histogram,
    /// Bytes of commands that wait for a quorum.
    pub proposal_bytes_waiting: Gauge,
    /// From the arrival of a command at the leader to its reply.
    pub proposal_seconds: Histogram,
    /// Commands refused before they were proposed.
    pub proposals_refused: Family<Reason, Counter>,
    /// How long applying took, per call.
    pub apply_seconds: Histogram,
    /// Log entries applied.
    pub apply_entries: Counter,
    /// Commands applied.
    pub apply_commands: Counter,
    /// Linearizable reads.
    pub reads: Counter,
    /// Rounds of asking the quorum for a read index. Each serves all reads that
    /// wait for it.
    pub read_rounds: Counter,
    /// Times that this node saw another leader, or none.
    pub leader_changes: Counter,
    /// Snapshots that a peer was sent and has installed.
    pub snapshots_sent: Counter,
    /// Snapshots that arrived whole.
    pub snapshots_received: Counter,
    latest: Arc<Mutex<Sample>>,
    registry: Registry,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let latest = Arc::new(Mutex::new(Sample::default()));
        let mut metrics = Self {
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            requests_active: Gauge::default(),
            requests_refused: Family::default(),
            connections: Family::default(),
            connections_refused: Family::default(),
            watch_streams: Gauge::default(),
            watches: Family::default(),
            watch_events: Counter::default(),
            watch_history_reads: Counter::default(),
            watches_canceled: Family::default(),
            proposal_batches: Counter::default(),
            proposal_commands: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
            proposal_bytes_waiting: Gauge::default(),
            proposal_seconds: seconds(),
            proposals_refused: Family::default(),
            apply_seconds: seconds(),
            apply_entries: Counter::default(),
            apply_commands: Counter::default(),
            reads: Counter::default(),
            read_rounds: Counter::default(),
            leader_changes: Counter::default(),
            snapshots_sent: Counter::default(),
            snapshots_received: Counter::default(),
            latest: latest.clone(),
            registry: Registry::with_prefix("keelstone"),
        };
        metrics.register_requests();
        metrics.register_core();
        metrics.registry.register_collector(Box::new(Latest(latest)));
        metrics
    }

    /// The table's first half. The library adds `_total` to counters, and the
    /// full stop to each text.
    fn register_requests(&mut self) {
        let r = &mut self.registry;
        r.register("requests", "Requests answered", self.requests.clone());
        r.register(
            "request_seconds",
            "Time from a request's first byte to its answer's last, streams included",
            self.request_seconds.clone(),
        );
        r.register(
            "requests_active",
            "Requests and streams that are worked on",
            self.requests_active.clone(),
        );
        r.register(
            "requests_refused",
            "Requests refused before they were worked on, because of a limit or a stop",
            self.requests_refused.clone(),
        );
        r.register("connections", "Connections that are open", self.connections.clone());
        r.register(
            "connections_refused",
            "Connections refused: too many, or a handshake that failed",
            self.connections_refused.clone(),
        );
        r.register("watch_streams", "Watch streams that are open", self.watch_streams.clone());
        r.register(
            "watches",
            "Watches: synced ones are told what happens, those behind read history",
            self.watches.clone(),
        );
        r.register("watch_events", "Events sent to watchers", self.watch_events.clone());
        r.register(
            "watch_history_reads",
            "Times that history was read from disk for a watcher that was behind",
            self.watch_history_reads.clone(),
        );
        r.register(
            "watches_canceled",
            "Watches that the node ended",
            self.watches_canceled.clone(),
        );
    }

    fn register_core(&mut self) {
        let r = &mut self.registry;
        r.register(
            "proposal_batches",
            "Log entries that this node proposed as leader",
            self.proposal_batches.clone(),
        );
        r.register(
            "proposal_commands",
            "Commands packed into one log entry",
            self.proposal_commands.clone(),
        );
        r.register(
            "proposal_waiting_bytes",
            "Bytes of commands that wait for a quorum",
            self.proposal_bytes_waiting.clone(),
        );
        r.register(
            "proposal_seconds",
            "Time from a command's arrival at the leader to its reply",
            self.proposal_seconds.clone(),
        );
        r.register(
            "proposals_refused",
            "Commands refused before they were proposed",
            self.proposals_refused.clone(),
        );
        r.register(
            "apply_seconds",
            "Time to apply what was committed, per call",
            self.apply_seconds.clone(),
        );
        r.register("apply_entries", "Log entries applied", self.apply_entries.clone());
        r.register("apply_commands", "Commands applied", self.apply_commands.clone());
        r.register("reads", "Linearizable reads", self.reads.clone());
        r.register(
            "read_rounds",
            "Rounds of asking a quorum for a read index, each for all reads that wait",
            self.read_rounds.clone(),
        );
        r.register(
            "leader_changes",
            "Times that this node saw another leader, or none",
            self.leader_changes.clone(),
        );
        r.register(
            "snapshots_sent",
            "Snapshots that a peer was sent and has installed",
            self.snapshots_sent.clone(),
        );
        r.register(
            "snapshots_received",
            "Snapshots that arrived whole",
            self.snapshots_received.clone(),
        );
    }

    /// Keeps what was read from the node, for the next [`render`](Self::render).
    pub fn observe(&self, sample: Sample) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = sample;
    }

    /// All of it in the Prometheus text format (`OpenMetrics` 1.0).
    pub fn render(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }

    /// What becomes of connections to a port, see
    /// [`Demands`](crate::tls::accept::Demands).
    pub fn connection_observer(
        self: &Arc<Self>,
        port: &'static str,
    ) -> Arc<dyn Fn(crate::tls::accept::Observed) + Send + Sync> {
        use crate::tls::accept::Observed;
        let metrics = self.clone();
        let refused = move |reason| {
            metrics.connections_refused.get_or_create(&Refused { port, reason }).inc();
        };
        let open = self.connections.get_or_create_owned(&Port { port });
        Arc::new(move |observed| match observed {
            Observed::Opened => drop(open.inc()),
            Observed::Closed => drop(open.dec()),
            Observed::TooMany => refused("too_many"),
            Observed::HandshakeFailed(reason) => refused(reason),
        })
    }
}

/// From a quarter of a millisecond to eight seconds.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 2.0, 16))
}

#[cfg(test)]
mod tests;
