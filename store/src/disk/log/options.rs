//! Settings of a log.

use super::LogError;
use std::sync::Arc;

/// Is called once, from the writer, when the log fails.
pub type FailureHook = Arc<dyn Fn(&LogError) + Send + Sync>;

/// Settings of a log. None of them is part of the format: they may differ from
/// one opening to the next.
#[derive(Clone)]
pub struct LogOptions {
    /// Bytes of a segment, at least [`SEGMENT_BYTES_MIN`](Self::SEGMENT_BYTES_MIN),
    /// and rounded up to whole pages of 4,096. An entry that does not fit gets a larger segment for itself.
    pub segment_bytes: u64,
    /// Bytes of recent entries kept in memory for readers. Entries that are not
    /// durable yet are kept beyond it.
    pub tail_bytes_max: usize,
    /// Bytes written in one round, unless a single record is larger.
    pub round_bytes_max: usize,
    /// Bytes that may wait for the writer. Whoever admits writes must stay below
    /// it: an append that passes it is refused, which ends the replica.
    pub backlog_bytes_max: usize,
    /// Whether the next segment is overwritten with zeros ahead of its use. It
    /// costs a second write of everything and saves the file system's journal
    /// in each sync.
    pub zero_ahead: bool,
    /// Is called once when the log fails, after all completions.
    pub on_failure: Option<FailureHook>,
}

impl LogOptions {
    /// The smallest segment.
    pub const SEGMENT_BYTES_MIN: u64 = 16 * 1024;
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * 1024 * 1024,
            tail_bytes_max: 32 * 1024 * 1024,
            round_bytes_max: 4 * 1024 * 1024,
            backlog_bytes_max: 512 * 1024 * 1024,
            zero_ahead: true,
            on_failure: None,
        }
    }
}

impl std::fmt::Debug for LogOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogOptions")
            .field("segment_bytes", &self.segment_bytes)
            .field("tail_bytes_max", &self.tail_bytes_max)
            .field("round_bytes_max", &self.round_bytes_max)
            .field("backlog_bytes_max", &self.backlog_bytes_max)
            .field("zero_ahead", &self.zero_ahead)
            .finish_non_exhaustive()
    }
}
