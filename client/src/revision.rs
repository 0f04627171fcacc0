//! Positions in the history of a cluster.

use std::fmt;

/// The position of a change in the history of the store.
///
/// A fresh store is at revision 1; each transaction that changes at least one
/// key advances it by exactly one. Revisions are compared, never averaged.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct Revision(u64);

impl Revision {
    /// Before everything: the revision of an object that does not exist.
    pub const ZERO: Self = Self(0);

    /// The revision with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The revision that follows this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for Revision {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

/// Names the history that revisions belong to. It changes when a cluster is
/// restored from a backup: revisions of two histories must not be compared.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct HistoryId([u8; 16]);

impl HistoryId {
    /// Its bytes; all zero if it is not known.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Whether a server named it.
    pub fn is_known(&self) -> bool {
        self.0 != [0; 16]
    }

    pub(crate) fn from_wire(bytes: &[u8]) -> Self {
        Self(bytes.try_into().unwrap_or_default())
    }

    pub(crate) fn to_wire(self) -> bytes::Bytes {
        if self.is_known() { bytes::Bytes::copy_from_slice(&self.0) } else { bytes::Bytes::new() }
    }
}

impl fmt::Debug for HistoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for HistoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A revision and the history that it belongs to: where a watch can go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The store's revision when the request was answered.
    pub revision: Revision,
    /// The history that it counts in.
    pub history: HistoryId,
}

impl Position {
    pub(crate) fn of(header: Option<&keelstone_proto::v1::ResponseHeader>) -> Self {
        header.map_or_else(Self::default, |header| Self {
            revision: Revision(header.revision),
            history: HistoryId::from_wire(&header.history),
        })
    }
}

/// A revision whose history is not checked.
impl From<Revision> for Position {
    fn from(revision: Revision) -> Self {
        Self { revision, history: HistoryId::default() }
    }
}

/// What a write demands. There is no default: `Unconditional` has to be
/// spelled out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// The object's modification revision is exactly this.
    IfRevision(Revision),
    /// The object does not exist.
    IfAbsent,
    /// Whatever is there is overwritten.
    Unconditional,
}

impl Precondition {
    pub(crate) fn to_wire(self) -> keelstone_proto::v1::Precondition {
        use keelstone_proto::v1::precondition::Condition;
        let condition = match self {
            Self::IfRevision(revision) => Condition::IfRevision(revision.get()),
            Self::IfAbsent => Condition::IfAbsent(true),
            Self::Unconditional => Condition::Unconditional(true),
        };
        keelstone_proto::v1::Precondition { condition: Some(condition) }
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// At least as new as every write acknowledged before the call.
    #[default]
    Linearizable,
    /// Some node's own state, which may be behind. Answered without a quorum.
    Serializable,
}

impl Consistency {
    pub(crate) fn to_wire(self) -> i32 {
        match self {
            Self::Linearizable => keelstone_proto::v1::Consistency::Linearizable.into(),
            Self::Serializable => keelstone_proto::v1::Consistency::Serializable.into(),
        }
    }
}
