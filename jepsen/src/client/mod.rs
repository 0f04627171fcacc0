//! Clients of the consistency workloads: raw stubs, one attempt, a deadline.
//!
//! The client library with its retries is a subject of other workloads, never
//! the measure.

mod actor;
mod caller;
mod classify;
mod directory;
mod lease;
mod raw;
mod wire;

pub(crate) use actor::{Actor, send};
pub(crate) use caller::Caller;
pub(crate) use classify::{Class, Failure};
pub(crate) use directory::Directory;
pub(crate) use raw::{Raw, once, within};
pub(crate) use wire::{key_value, prefix_span, revision, text};
