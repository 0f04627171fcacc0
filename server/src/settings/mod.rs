//! Configuration: a tree of JSON values over the core's keys.
//!
//! Each write is one transaction whose guard is the caller's precondition, so
//! there is nothing to plan and nothing to try again, and a retried write gets
//! its first answer from the session. A transaction that fails answers with the
//! value that made it fail.

mod path;
mod read;
pub mod wire;
mod write;

#[cfg(test)]
mod tests;

use crate::core::Core;
use bytes::Bytes;
use keelstone_store::Revision;
use keelstone_store::machine::{Event, Record};
pub use path::{ConfigPath, run};
pub use read::{ConfigHistory, ConfigHistoryQuery, ConfigPage, ConfigQuery, ConfigVersion};
use std::sync::Arc;
pub use write::{ConfigDelete, ConfigPut};

/// The services for configuration values of one node.
pub struct Settings {
    core: Arc<dyn Core>,
}

/// A configuration value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigValue {
    /// Where it is.
    pub path: ConfigPath,
    /// JSON, as it was put.
    pub value: Bytes,
    /// The revision that created it.
    pub created: Revision,
    /// The revision of its last put.
    pub revision: Revision,
    /// 1 for a new value, one more with each put.
    pub version: u64,
}

/// A change of a configuration value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEvent {
    /// Whether the value is gone; then only its path and the revision are told.
    pub deleted: bool,
    /// The value.
    pub value: ConfigValue,
}

impl Settings {
    /// The services over `core`.
    pub fn new(core: Arc<dyn Core>) -> Self {
        Self { core }
    }
}

impl ConfigValue {
    fn of(path: ConfigPath, record: Record) -> Self {
        Self {
            path,
            value: record.value,
            created: record.created,
            revision: record.modified,
            version: record.version,
        }
    }
}

/// What an event of the core means for configuration; `None` if it is about
/// something else. The keys to watch are those of a [`run`].
pub fn event(event: &Event) -> Option<ConfigEvent> {
    let path = ConfigPath::of_key(&event.key)?;
    let deleted = event.record.is_none();
    let gone = Record { modified: event.revision, ..Record::default() };
    let record = event.record.clone().unwrap_or(gone);
    Some(ConfigEvent { deleted, value: ConfigValue::of(path, record) })
}
