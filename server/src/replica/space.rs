//! Whether the disk has room for more.

use bytes::Bytes;
use keelstone_store::disk::log::Log;
use keelstone_store::machine::{Command, Op, Txn, codec};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Whether nothing is stored by a command, and something may be forgotten.
fn makes_room(command: &Command) -> bool {
    fn only_deletes(txn: &Txn) -> bool {
        txn.then.iter().chain(&txn.otherwise).all(|op| match op {
            Op::Delete(_) | Op::Range(_) => true,
            Op::Txn(txn) => only_deletes(txn),
            Op::Put(_) => false,
        })
    }
    match command {
        Command::Txn(txn) => only_deletes(txn),
        Command::Compact { .. }
        | Command::LeaseRevoke { .. }
        | Command::LeaseExpire { .. }
        // What a client deletes through; their number is bounded.
        | Command::SessionOpen { .. }
        | Command::SessionClose { .. }
        | Command::SessionExpire { .. } => true,
        Command::LeaseGrant { .. }
        | Command::LeaseRenew { .. }
        | Command::FeatureLevel { .. } => false,
    }
}

/// What was last seen of the disk's free space. Looked at in the background,
/// so that a write costs a load.
pub(super) struct Space {
    log: Log,
    reserve_bytes: u64,
    free_bytes: AtomicU64,
    /// The log cannot prepare its next segment.
    log_short: AtomicBool,
}

impl Space {
    pub(super) fn new(log: Log, reserve_bytes: u64) -> Self {
        let free_bytes = AtomicU64::new(u64::MAX);
        let space = Self { log, reserve_bytes, free_bytes, log_short: AtomicBool::new(false) };
        space.look();
        space
    }

    /// Looks at the disk.
    pub(super) fn look(&self) {
        match self.log.free_bytes() {
            Ok(free) => self.free_bytes.store(free, Ordering::Relaxed),
            Err(error) => tracing::warn!(%error, "the disk's free space is unknown"),
        }
        let short = self.log.stats().space_problem.is_some();
        self.log_short.store(short, Ordering::Relaxed);
    }

    /// Bytes free, and bytes kept in reserve.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.free_bytes.load(Ordering::Relaxed), self.reserve_bytes)
    }

    /// Whether a command is refused for want of room. What makes room is not.
    pub(super) fn refuses(&self, command: &Bytes) -> bool {
        self.problem().is_some()
            && !codec::decode_envelope(command.clone()).is_ok_and(|it| makes_room(&it.command))
    }

    /// Whether entries that a leader sends are taken. While a majority of the
    /// others has room, writes go on; this replica stands still before its engine
    /// runs into the end of the disk, and catches up when there is room. What is
    /// left of the reserve is for what the engine writes on its own.
    pub(super) fn takes_entries(&self) -> bool {
        let (free, reserve) = self.bytes();
        free >= reserve / 2
    }

    /// Why writes are refused, if they are.
    pub(super) fn problem(&self) -> Option<String> {
        let (free, reserve) = self.bytes();
        if free < reserve {
            return Some(format!(
                "the disk has {free} bytes left, {reserve} are kept in reserve: writes are refused"
            ));
        }
        let short = self.log_short.load(Ordering::Relaxed);
        short.then(|| "the log cannot grow on this disk: writes are refused".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelstone_store::machine::{Delete, Put};
    use keelstone_store::{Key, KeyRange, Revision, SessionId};

    fn txn(then: Vec<Op>) -> Command {
        Command::Txn(Txn { then, ..Txn::default() })
    }

    #[test]
    fn what_a_delete_takes_is_not_refused_where_there_is_no_room() {
        let key = || Key(Bytes::from_static(b"a"));
        let delete = || Op::Delete(Delete { range: KeyRange::single(&key()), previous: false });
        assert!(makes_room(&Command::SessionOpen { id: SessionId(7), ttl_ms: 1000 }));
        assert!(makes_room(&txn(vec![delete()])));
        assert!(makes_room(&Command::Compact { revision: Revision::new(3) }));
        let put = || Op::Put(Put::new(key(), Bytes::from_static(b"1")));
        assert!(!makes_room(&txn(vec![delete(), put()])));
        let nested = Txn { otherwise: vec![put()], ..Txn::default() };
        assert!(!makes_room(&txn(vec![Op::Txn(nested)])));
    }
}
