//! The numbers that order the store's history.

use std::fmt;

/// The position of a change in the history of the store.
///
/// A fresh store is at [`Revision::FIRST`], as etcd's is; each command that
/// changes at least one key advances it by exactly one. Revisions are compared,
/// never averaged: the type has no arithmetic besides [`Revision::next`] and
/// [`Revision::previous`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

impl Revision {
    /// No revision: the create and modification revision of an absent key.
    pub const ZERO: Self = Self(0);
    /// The revision of a store that has never been written.
    pub const FIRST: Self = Self(1);

    /// The revision of this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number of this revision.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The revision that follows this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("2^64 commands were applied"))
    }

    /// The revision before this one; [`Revision::ZERO`] has none and stays.
    #[must_use]
    pub fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

/// Names a lease. Positive; [`LeaseId::NONE`] stands for "no lease".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl LeaseId {
    /// No lease.
    pub const NONE: Self = Self(0);
}

/// Names a client session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Replicated time: milliseconds since the Unix epoch, as leaders stamped it.
///
/// It never goes back. It is data, not a clock: the core only compares it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// This time and `ttl_ms` milliseconds.
    #[must_use]
    pub fn plus(self, ttl_ms: u64) -> Self {
        Self(self.0.saturating_add(ttl_ms))
    }
}
