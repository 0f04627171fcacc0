//! Types and entities: the loop around the pure planner.
//!
//! A write reads, plans ([`keelstone_store::entity::plan()`]), proposes a
//! transaction that is guarded by the revision it read, and does all of that
//! again if the guard failed: at most [`TRIES_MAX`] times, with pauses, until the
//! deadline. Then the answer is [`EntityError::Contended`], never success.
//!
//! The first plan is made from this node's own state, which costs no round trip:
//! if it was behind, the guard fails. A refusal, or the finding that nothing is to
//! be done, is believed only if it was made from a linearizable read.
//!
//! How a write that is sent again finds its answer is told in
//! `docs/entities.md`, "Retried writes"; the code is in `write`.

mod error;
mod event;
mod latch;
pub(crate) mod page;
mod read;
mod types;
pub mod wire;
mod write;

#[cfg(test)]
mod tests;

use crate::core::{Consistency, Core};
pub use error::EntityError;
pub use event::{EntityEvent, EntityEventKind, EntityFilter};
use keelstone_store::entity::EntityId;
use keelstone_store::entity::schema::SchemaCache;
use keelstone_store::machine::{Head, View as _};
use keelstone_store::state::StateView;
use keelstone_store::{Millis, Revision};
use latch::Latches;
pub(crate) use read::readable;
pub use read::{EntityPage, EntityVersion, History, HistoryQuery, ListQuery};
use std::sync::Arc;
use tokio::time::Instant;
pub use types::{TypePage, TypeQuery, TypeRegistered};
pub use wire::Creation;
pub(crate) use write::record_at;
pub use write::{Write, Written};

/// How often a write is planned before it is given up.
pub const TRIES_MAX: u32 = 10;

/// Compiled schemas that are kept.
const SCHEMAS_MAX: usize = 128;

/// Tells the time, in milliseconds since the Unix epoch. A component, not a
/// setting: simulations bring their own.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// Chooses the UUIDs of new entities whose creation has neither a UUID nor a
/// write id.
pub type Uuids = Arc<dyn Fn() -> uuid::Uuid + Send + Sync>;

/// The services for types and entities of one node.
pub struct Entities {
    core: Arc<dyn Core>,
    clock: Clock,
    uuids: Uuids,
    schemas: SchemaCache,
    latches: Latches,
}

/// An answer, and what a response's header says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    /// The answer.
    pub value: T,
    /// Of a write its own revision, of a read the one that it was read at.
    pub revision: Revision,
    /// The history that the revision belongs to.
    pub history: [u8; 16],
    /// Whether it is this node's own state, which may be behind.
    pub serializable: bool,
}

impl<T> Answer<T> {
    pub(crate) fn read(value: T, head: &Head, consistency: Consistency) -> Self {
        let serializable = consistency == Consistency::Serializable;
        Self { value, revision: head.revision, history: head.history, serializable }
    }
}

impl Entities {
    /// The services over `core`.
    pub fn new(core: Arc<dyn Core>, clock: Clock) -> Self {
        let schemas = SchemaCache::new(SCHEMAS_MAX);
        let uuids = Arc::new(uuid::Uuid::new_v4);
        Self { core, clock, uuids, schemas, latches: Latches::default() }
    }

    /// With another source of UUIDs than this machine's randomness.
    #[must_use]
    pub fn with_uuids(mut self, uuids: Uuids) -> Self {
        self.uuids = uuids;
        self
    }

    /// The time that a plan made from `view` is stamped with.
    fn now(&self, view: &StateView) -> Millis {
        view.head().now.max((self.clock)())
    }

    /// A view that has applied `revision`, of this node's own state.
    async fn view_at(
        &self,
        revision: Revision,
        deadline: Instant,
    ) -> Result<StateView, EntityError> {
        self.core.wait_applied(revision, deadline).await?;
        Ok(self.core.read(Consistency::Serializable, deadline).await?)
    }

    fn not_found(id: &EntityId) -> EntityError {
        keelstone_store::entity::EntityRejection::NotFound(id.clone()).into()
    }
}
