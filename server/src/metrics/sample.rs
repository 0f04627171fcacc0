//! What is read when somebody asks for metrics.

use super::Process;
use crate::core::CoreStatus;
use keelstone_store::disk::log::{LATENCY_BUCKETS_MICROS, LogStats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How the node is at one moment.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// The replica.
    pub status: CoreStatus,
    /// This node's id.
    pub node_id: u64,
    /// The store's revision.
    pub revision: u64,
    /// The oldest revision that can be read.
    pub compacted: u64,
    /// Transitions that the state hash covers.
    pub transitions: u64,
    /// Leases.
    pub leases: u64,
    /// Client sessions.
    pub sessions: u64,
    /// Replicated time in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The write-ahead log.
    pub log: LogStats,
    /// Bytes of state on disk.
    pub state_bytes: u64,
    /// Moments of the state that reads hold, the newest included.
    pub state_moments: u64,
    /// Bytes left on the data directory's disk.
    pub disk_free_bytes: u64,
    /// Bytes that are kept in reserve there.
    pub disk_reserve_bytes: u64,
    /// When the certificates of the client port and of the peer port run out.
    pub certificates_expire: [Option<SystemTime>; 2],
    /// What the operating system says of this process.
    pub process: Process,
}

/// Shows the newest sample as metrics.
#[derive(Debug)]
pub(super) struct Latest(pub(super) Arc<Mutex<Sample>>);

impl Collector for Latest {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        let sample = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        sample.encode_positions(&mut encoder)?;
        sample.encode_log(&mut encoder)?;
        sample.encode_machine(&mut encoder)
    }
}

impl Sample {
    fn encode_positions(&self, to: &mut DescriptorEncoder) -> Result<(), Error> {
        let status = &self.status;
        let leads = status.leader == Some(self.node_id);
        gauge(to, "raft_term", "The replica's term", status.term)?;
        gauge(to, "raft_is_leader", "1 if this node leads", leads.into())?;
        let known = status.leader.is_some().into();
        gauge(to, "raft_has_leader", "1 if this node knows a leader", known)?;
        gauge(to, "raft_last_index", "The last entry of the log", status.last_log_index)?;
        gauge(
            to,
            "raft_committed_index",
            "The last entry known to be committed",
            status.committed_index,
        )?;
        gauge(to, "raft_applied_index", "The last entry applied", status.applied_index)?;
        gauge(
            to,
            "raft_snapshot_index",
            "The entry of the last checkpoint",
            status.snapshot_index,
        )?;
        gauge(to, "raft_purged_index", "The last entry that left the log", status.purged_index)?;
        gauge(
            to,
            "problems",
            "Things that an operator should know, see the status",
            status.problems.len() as u64,
        )?;
        gauge(to, "revision", "The store's revision", self.revision)?;
        gauge(to, "compacted_revision", "The oldest revision that can be read", self.compacted)?;
        gauge(to, "transitions", "Transitions that the state hash covers", self.transitions)?;
        gauge(to, "leases", "Leases", self.leases)?;
        gauge(to, "sessions", "Client sessions", self.sessions)?;
        gauge(to, "time_ms", "Replicated time, milliseconds since the Unix epoch", self.time_ms)
    }

    fn encode_log(&self, to: &mut DescriptorEncoder) -> Result<(), Error> {
        let log = &self.log;
        counter(to, "log_syncs", "Syncs of the write-ahead log", log.syncs)?;
        counter(to, "log_entries", "Entries made durable", log.entries)?;
        counter(
            to,
            "log_written_bytes",
            "Bytes written to the log, with headers and padding",
            log.bytes,
        )?;
        counter(to, "log_rotations", "Segments begun", log.rotations)?;
        counter(
            to,
            "log_rotations_unprepared",
            "Times that the next segment was not ready when it was needed",
            log.rotations_unprepared,
        )?;
        gauge(to, "log_segments", "Segments of the log that entries lie in", log.segments)?;
        gauge(
            to,
            "log_bytes",
            "Bytes of log on the disk, spare segments included",
            self.status.log_bytes,
        )?;
        gauge(to, "log_tail_bytes", "Bytes of recent entries in memory", log.tail_bytes)?;
        gauge(to, "log_backlog_bytes", "Bytes that wait for the log's writer", log.backlog_bytes)?;
        let mut encoder = to.encode_descriptor(
            "log_sync_seconds",
            "Time of one write and sync of the log.",
            None,
            MetricType::Histogram,
        )?;
        let bounds = LATENCY_BUCKETS_MICROS
            .iter()
            .map(|micros| Duration::from_micros(*micros).as_secs_f64());
        let buckets: Vec<(f64, u64)> =
            bounds.chain([f64::INFINITY]).zip(log.round_micros.iter().copied()).collect();
        let sum = Duration::from_micros(log.round_micros_sum).as_secs_f64();
        let count = log.round_micros.iter().sum();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn encode_machine(&self, to: &mut DescriptorEncoder) -> Result<(), Error> {
        gauge(to, "state_bytes", "Bytes of state on the disk", self.state_bytes)?;
        gauge(
            to,
            "state_moments",
            "Moments of the state that reads hold, the newest included",
            self.state_moments,
        )?;
        gauge(
            to,
            "disk_free_bytes",
            "Bytes left on the data directory's disk",
            self.disk_free_bytes,
        )?;
        gauge(
            to,
            "disk_reserve_bytes",
            "Bytes there below which writes are refused",
            self.disk_reserve_bytes,
        )?;
        gauge(to, "process_resident_bytes", "Memory of the process", self.process.resident_bytes)?;
        gauge(
            to,
            "process_open_files",
            "Open files and sockets of the process",
            self.process.open_files,
        )?;
        gauge(to, "process_threads", "Threads of the process", self.process.threads)?;
        let mut encoder = to.encode_descriptor(
            "certificate_expires_seconds",
            "When the certificate of a port runs out, Unix time.",
            None,
            MetricType::Gauge,
        )?;
        for (port, expires) in ["client", "peer"].into_iter().zip(self.certificates_expire) {
            let Some(expires) = expires else { continue };
            let seconds = expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            ConstGauge::new(seconds).encode(encoder.encode_family(&[("port", port)])?)?;
        }
        let mut encoder =
            to.encode_descriptor("build", "The version that runs.", None, MetricType::Gauge)?;
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        ConstGauge::new(1_u64).encode(encoder.encode_family(&version)?)
    }
}

fn gauge(to: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> Result<(), Error> {
    ConstGauge::new(value).encode(to.encode_descriptor(
        name,
        &format!("{help}."),
        None,
        MetricType::Gauge,
    )?)
}

fn counter(to: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> Result<(), Error> {
    ConstCounter::new(value).encode(to.encode_descriptor(
        name,
        &format!("{help}."),
        None,
        MetricType::Counter,
    )?)
}
