//! Counters of a log, for metrics and for admission.

/// Upper bounds of the latency histogram's buckets, in microseconds; one more
/// bucket counts what is slower.
pub const LATENCY_BUCKETS_MICROS: [u64; 14] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000,
];

/// What a log has done since it was opened, and how it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Rounds: each is one write and one sync.
    pub rounds: u64,
    /// Syncs of the record stream. Equal to `rounds` unless one failed.
    pub syncs: u64,
    /// Entries made durable.
    pub entries: u64,
    /// Bytes written, with headers and padding.
    pub bytes: u64,
    /// Segments begun.
    pub rotations: u64,
    /// Times that the writer found the next segment not prepared.
    pub rotations_unprepared: u64,
    /// Rounds by duration of write and sync, see [`LATENCY_BUCKETS_MICROS`].
    pub round_micros: [u64; LATENCY_BUCKETS_MICROS.len() + 1],
    /// Sum of those durations, in microseconds.
    pub round_micros_sum: u64,
    /// Entries held in memory, and their bytes.
    pub tail_entries: u64,
    /// Bytes of payload held in memory.
    pub tail_bytes: u64,
    /// Bytes waiting for the writer.
    pub backlog_bytes: u64,
    /// Segments that entries lie in; others are kept to be used again.
    pub segments: u64,
    /// Bytes left in the segment that is being written.
    pub segment_bytes_left: u64,
    /// Whether the next segment is ready.
    pub next_prepared: bool,
    /// Why the next segment cannot be prepared, if so. The log works on until
    /// the segment that is being written is full; refuse writes while this is
    /// set.
    pub space_problem: Option<String>,
}

impl LogStats {
    pub(super) fn observe_round(&mut self, micros: u64) {
        let bucket = LATENCY_BUCKETS_MICROS.partition_point(|bound| *bound < micros);
        self.round_micros[bucket] += 1;
        self.round_micros_sum += micros;
    }
}
