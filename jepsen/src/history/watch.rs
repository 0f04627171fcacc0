//! Watches in histories: one event for each response that a client received.

use super::KeyValue;
use serde::{Deserialize, Serialize};

/// A watch that was asked for, or one of its responses.
///
/// What identifies the watch is repeated in each of its events, so that a
/// history that begins in the middle can be judged from there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// A number of its own for each stream: a watch that goes on elsewhere after
    /// its stream broke has a new one.
    pub watch: u64,
    /// The same for all watches that continue each other: a reader with a place.
    /// A continuation starts right after what the one before has delivered.
    pub reader: u64,
    /// The first key of the span; see [`super::spans`].
    pub key: String,
    /// The end of the span.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// The first revision that was asked for; 0: what comes after the creation.
    pub start: u64,
    /// Whether the values before were asked for.
    #[serde(default)]
    pub prev: bool,
    /// The store's revision in the header of the response, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// What happened.
    pub step: WatchStep,
}

/// What happened to a watch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WatchStep {
    /// It was asked for: the event of type `invoke`.
    Create,
    /// It began.
    Created {
        /// The first revision that it will report.
        start: u64,
    },
    /// A response with changes, as it came: all of a revision are in one.
    Changes(Vec<Change>),
    /// All changes up to and including this revision were sent before.
    Progress(u64),
    /// The server ended it.
    Canceled {
        /// Why: `compacted`, `history-changed`, `shutdown` or another word.
        reason: String,
        /// With `compacted`: the oldest revision that can be read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        compact_revision: Option<u64>,
    },
    /// The stream broke, or the client left it.
    Closed,
}

/// One change that a watch delivered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The revision that made it.
    pub revision: u64,
    /// Put or deleted.
    pub kind: ChangeKind,
    /// The key.
    pub key: String,
    /// What was put; absent for a deletion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv: Option<KeyValue>,
    /// What was there before, if that was asked for and something was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<KeyValue>,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// It has a new value.
    Put,
    /// It is gone.
    Delete,
}
