//! Where an entry stands in the replicated log.

/// The id of a log entry: the term and the leader that wrote it, and its index.
///
/// Ordered by term, then index, as Raft compares logs; the leader is told for
/// diagnosis, since a term has one leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The leader's term.
    pub term: u64,
    /// Position in the log, from 0 on: openraft's first entry has index 0.
    pub index: u64,
    /// The leader's node id.
    pub leader: u64,
}
