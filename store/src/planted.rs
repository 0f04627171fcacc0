//! Planted bugs: switches that make a replica break one promise each, so that
//! the harnesses can prove that they would notice.
//!
//! Without the feature `planted-bugs` there is nothing to switch: [`is`] is
//! constantly false, and what it guards is not compiled into the program. With
//! it, the environment variable `KEELSTONE_PLANTED_BUG` names the one bug of a
//! process; it is read once. Such a program is for tests only and says so loudly
//! when it starts.

/// The environment variable that names the bug.
pub const VARIABLE: &str = "KEELSTONE_PLANTED_BUG";

/// Declares the bugs with their names and what they stand for.
macro_rules! bugs {
    ($($(#[doc = $about:literal])+ $bug:ident = $name:literal, $class:literal;)*) => {
        /// A classic bug of stores like this one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug {
            $($(#[doc = $about])+ $bug,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$bug,)*];

            /// The name that switches it on.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$bug => $name,)* }
            }

            /// What it does, in one line.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$bug => concat!($($about),+).trim_ascii(),)* }
            }

            /// The class of bugs that it stands for.
            pub const fn class(self) -> &'static str {
                match self { $(Self::$bug => $class,)* }
            }
        }
    };
}

bugs! {
    /// The log says that a round is durable without syncing it.
    SkipLogFsync = "skip-log-fsync", "an acknowledged write is lost in a power cut";
    /// Rounds with a vote are not synced.
    SkipVoteFsync = "skip-vote-fsync", "a node votes twice after a power cut";
    /// The directory is not synced after a segment was named.
    SkipDirectorySync = "skip-directory-sync", "a file is gone after a power cut";
    /// A failed sync of the log counts as done.
    IgnoreFsyncError = "ignore-fsync-error", "a disk's failure is not noticed";
    /// An append that a peer did not answer counts as accepted.
    AckBeforeQuorum = "ack-before-quorum", "a commit without a majority";
    /// The leader answers reads without asking a majority whether it still leads.
    ReadWithoutIndex = "read-without-index", "a stale read from a deposed leader";
    /// A read index is used again for a second.
    ReuseReadIndex = "reuse-read-index", "a stale read from a proof that is too old";
    /// Followers leave out one entry of 64.
    SkipOneApply = "skip-one-apply", "replicas diverge";
    /// The first entry that is applied after a restart is applied twice.
    ApplyTwice = "apply-twice", "an entry is applied again after a restart";
    /// The newest entry of the log is forgotten at each start.
    LoseLogTail = "lose-log-tail", "an intact tail of the log is cut";
    /// Changes that came in a snapshot reach no watcher.
    WatchDropsAfterSnapshot = "watch-drops-after-snapshot", "a watch has a gap";
    /// A watch with a start delivers the revision before it as well.
    WatchTwiceOnResume = "watch-twice-on-resume", "a watch delivers twice";
    /// Each event goes into a response of its own.
    SplitRevision = "split-revision", "a watch tears a transaction apart";
    /// A progress notice names the revision after the newest.
    EarlyProgress = "early-progress", "a watch announces what it has not sent";
    /// Apply takes this machine's time instead of the log's.
    LeaseLocalTime = "lease-local-time", "leases expire by local clocks";
    /// A renewal that could not be proposed is answered from this node's state.
    LeaseRenewedByDeposed = "lease-renewed-by-deposed", "a lease is renewed without a majority";
    /// Snapshots leave out the remembered replies of sessions.
    DedupLostInSnapshot = "dedup-lost-in-snapshot", "a retried write is applied twice";
    /// A compare of the key that is written first sees what is written.
    CompareAfterWrite = "compare-after-write", "a guard is evaluated too late";
    /// Patches are proposed without the guard on what they were planned from.
    StaleDocument = "stale-document", "a lost update";
    /// Records and rows are taken whatever their checksums say.
    AcceptBadChecksum = "accept-bad-checksum", "damage is served";
    /// Half of a backup's records are those of some revisions before.
    BackupMovingRevision = "backup-moving-revision", "a backup that never was a state";
    /// A restored cluster goes on with the backup's revision.
    RestoreWithoutBump = "restore-without-bump", "revisions are given twice";
}

/// Whether this bug is switched on.
#[cfg(not(feature = "planted-bugs"))]
#[inline]
pub const fn is(_bug: Bug) -> bool {
    false
}

/// Whether this bug is switched on.
#[cfg(feature = "planted-bugs")]
pub fn is(bug: Bug) -> bool {
    active() == Some(bug)
}

/// The bug of this process; `None` if there is none, as always without the
/// feature.
#[cfg(not(feature = "planted-bugs"))]
pub const fn active() -> Option<Bug> {
    None
}

/// The bug of this process, if there is one.
///
/// # Panics
///
/// If the variable names no bug: a test that plants nothing proves nothing.
#[cfg(feature = "planted-bugs")]
pub fn active() -> Option<Bug> {
    static ACTIVE: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
    *ACTIVE.get_or_init(|| {
        let name = std::env::var(VARIABLE).ok().filter(|name| !name.is_empty())?;
        let known = Bug::ALL.iter().copied().find(|bug| bug.name() == name);
        assert!(known.is_some(), "{VARIABLE}={name}: there is no such bug");
        known
    })
}

/// This machine's time, which nothing but [`Bug::LeaseLocalTime`] may ask for.
#[cfg(feature = "planted-bugs")]
#[expect(clippy::disallowed_methods, reason = "the planted bug is to read a clock")]
pub(crate) fn local_now() -> crate::Millis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    crate::Millis(since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}

/// Nobody asks.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn local_now() -> crate::Millis {
    crate::Millis(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bugs_have_names_of_their_own_and_none_is_on() {
        let names: std::collections::BTreeSet<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        assert_eq!(names.len(), Bug::ALL.len());
        assert_eq!(Bug::ALL.len(), 22);
        for bug in Bug::ALL {
            assert!(!is(*bug), "{}", bug.name());
            assert!(!bug.about().is_empty() && !bug.class().is_empty());
        }
    }
}
