//! Types and entities as guarded transactions over the core, pure.
//!
//! The core knows bytes. This layer gives them a meaning: it reads documents,
//! judges them by their type's schema, decides what an operation does
//! ([`plan()`]) and writes it down as a transaction that is guarded by the
//! revision that was read. It does no IO and reads no clock; the loop around it,
//! which reads, plans, proposes and plans again, is the server's.
//!
//! * [`urn`]: the names of types and entities;
//! * [`json`], [`document`]: documents, byte-exact, and merge patches;
//! * [`schema`], [`diff`]: JSON Schema as real types need it, and how two differ;
//! * [`state`]: the table of states and steps;
//! * [`request`], [`plan`](mod@plan), [`types`]: what is asked, and what it does;
//! * [`keys`], [`record`]: where and how it is stored.

pub mod diff;
pub mod document;
pub mod json;
pub mod keys;
pub mod plan;
pub mod record;
pub mod rejection;
pub mod request;
pub mod schema;
pub mod state;
mod text;
pub mod types;
pub mod urn;
mod view;

pub use plan::{Action, Planned, plan};
pub use record::{Entity, Sections};
pub use rejection::EntityRejection;
pub use request::{Precondition, Request};
pub use state::EntityState;
pub use types::EntityType;
pub use urn::{EntityId, TypeId, TypeName, TypePrefix, VersionPrefix};

/// A stored value is not what its key says: it was written by something else,
/// or is damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The value is not a message.
    #[error("a stored value cannot be decoded: {0}")]
    Message(#[from] prost::DecodeError),
    /// A field of it is not what it should be.
    #[error("the field {0} of a stored value is not valid")]
    Field(&'static str),
}
