//! The loop over the real state machine, without replicas.

mod contention;
mod lifecycle;
mod lists;
mod retries;

use super::wire;
use super::*;
use crate::changes::ChangeLog;
use crate::core::{
    AdminError, CoreStatus, Identity, LeaderHint, MemberStatus, ProposeError, ReadError,
};
use crate::samples;
use crate::solo::Solo;
use async_trait::async_trait;
use bytes::Bytes;
use keelstone_proto::v1;
use keelstone_store::SessionId;
use keelstone_store::entity::request::{Delete, EnvelopeChange, Patch, Resolve, Update};
use keelstone_store::entity::types::Registration;
use keelstone_store::entity::{Entity, EntityState, Precondition, Request};
use keelstone_store::machine::{Command, Envelope, Reply, WriteId};
use std::sync::Mutex;
use std::time::Duration;

const TYPE: &str = "urn:vcloud:type:acme:thing:1.0.0";
const UUID: &str = "5e0a7b9c-0f3d-4f0e-9a53-0d1c2b3a4f5e";
/// The size of a thing is a number; nothing else is said.
const SCHEMA: &str = r#"{"type": "object", "properties": {"size": {"type": "integer", "minimum": 0}, "part": {"type": "object"}}}"#;

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// The services of one node over a store that can be bent.
struct Bench {
    core: Arc<Bent>,
    entities: Arc<Entities>,
}

impl Bench {
    async fn new() -> Self {
        let bench = Self::over(Solo::new());
        bench.register(TYPE, SCHEMA).await.unwrap();
        bench
    }

    fn over(solo: Arc<Solo>) -> Self {
        let core = Arc::new(Bent { solo, bend: Mutex::default() });
        let clock: Clock = Arc::new(|| Millis(5_000_000));
        Self { entities: Arc::new(Entities::new(core.clone(), clock)), core }
    }

    fn solo(&self) -> &Arc<Solo> {
        &self.core.solo
    }

    fn bend(&self, bend: impl FnOnce(&mut Bend)) {
        bend(&mut self.core.bend.lock().unwrap());
    }

    fn head_revision(&self) -> Revision {
        self.solo().state().view().unwrap().head().revision
    }

    fn open_session(&self, id: u64) -> SessionId {
        let id = SessionId(id);
        self.solo().apply_command(Command::SessionOpen { id, ttl_ms: 60_000 }).unwrap();
        id
    }

    async fn register(
        &self,
        id: &str,
        schema: &str,
    ) -> Result<Answer<TypeRegistered>, EntityError> {
        let registration = Registration {
            id: id.parse().unwrap(),
            name: String::new(),
            description: String::new(),
            schema: Bytes::copy_from_slice(schema.as_bytes()),
        };
        self.entities.register_type(&registration, deadline()).await
    }

    async fn create(&self, document: &str) -> Entity {
        self.create_with(creation(document)).await.unwrap()
    }

    async fn create_with(&self, request: v1::EntityCreateRequest) -> Result<Entity, EntityError> {
        let created = self.entities.create(wire::create(request)?, deadline()).await?;
        Ok(created.value.entity.unwrap())
    }

    async fn write(&self, request: Request) -> Result<Answer<Written>, EntityError> {
        self.write_as(request, None).await
    }

    async fn write_as(
        &self,
        request: Request,
        write_id: Option<WriteId>,
    ) -> Result<Answer<Written>, EntityError> {
        self.entities.write(&Write { request, write_id }, deadline()).await
    }

    async fn get(&self, id: &EntityId) -> Result<Entity, EntityError> {
        let linearizable = Consistency::Linearizable;
        Ok(self.entities.get(id, Revision::ZERO, linearizable, deadline()).await?.value)
    }
}

fn creation(document: &str) -> v1::EntityCreateRequest {
    v1::EntityCreateRequest {
        type_id: TYPE.to_owned(),
        name: "thing".to_owned(),
        org: "urn:vcloud:org:acme".to_owned(),
        document: Bytes::copy_from_slice(document.as_bytes()),
        uuid: UUID.to_owned(),
        resolve: true,
        ..v1::EntityCreateRequest::default()
    }
}

fn update(id: &EntityId, precondition: Precondition, document: &str) -> Update {
    Update {
        id: id.clone(),
        precondition,
        document: Bytes::copy_from_slice(document.as_bytes()),
        envelope: EnvelopeChange::default(),
        type_id: None,
        begin_deletion: false,
    }
}

fn patch(id: &EntityId, precondition: Precondition, merge_patch: &str) -> Request {
    Request::Patch(Patch {
        id: id.clone(),
        precondition,
        merge_patch: Bytes::copy_from_slice(merge_patch.as_bytes()),
        envelope: EnvelopeChange::default(),
    })
}

fn delete(id: &EntityId, precondition: Precondition) -> Request {
    Request::Delete(Delete { id: id.clone(), precondition })
}

fn resolve(id: &EntityId) -> Request {
    let precondition = Precondition::Unconditional;
    Request::Resolve(Resolve { id: id.clone(), precondition })
}

fn text(entity: &Entity) -> &str {
    std::str::from_utf8(&entity.document).unwrap()
}

/// What goes wrong.
#[derive(Default)]
struct Bend {
    /// Local reads see this old state.
    stale: Option<StateView>,
    /// Called before each proposal, to be faster.
    before_proposal: Option<Box<dyn FnMut() + Send>>,
    /// So many next proposals are applied and their replies lost.
    lose_replies: u32,
    /// Others get a turn between a read and what follows it.
    yields: bool,
    /// Proposals so far.
    proposals: u32,
    /// Linearizable reads so far.
    linearizable: u32,
}

/// A core that things go wrong with.
struct Bent {
    solo: Arc<Solo>,
    bend: Mutex<Bend>,
}

#[async_trait]
impl Core for Bent {
    fn identity(&self) -> Identity {
        self.solo.identity()
    }

    fn status(&self) -> CoreStatus {
        self.solo.status()
    }

    fn leader_hint(&self) -> LeaderHint {
        self.solo.leader_hint()
    }

    async fn propose(&self, command: Envelope, deadline: Instant) -> Result<Reply, ProposeError> {
        if self.bend.lock().unwrap().yields {
            tokio::task::yield_now().await;
        }
        let lost = {
            let mut bend = self.bend.lock().unwrap();
            bend.proposals += 1;
            if let Some(faster) = &mut bend.before_proposal {
                faster();
            }
            let lost = bend.lose_replies > 0;
            bend.lose_replies = bend.lose_replies.saturating_sub(1);
            lost
        };
        let reply = self.solo.propose(command, deadline).await;
        if lost { Err(ProposeError::Unknown("the reply was lost")) } else { reply }
    }

    async fn read(
        &self,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<StateView, ReadError> {
        let (yields, stale) = {
            let mut bend = self.bend.lock().unwrap();
            bend.linearizable += u32::from(consistency == Consistency::Linearizable);
            (bend.yields, bend.stale.clone())
        };
        let view = match (consistency, stale) {
            (Consistency::Serializable, Some(stale)) => stale,
            _ => self.solo.read(consistency, deadline).await?,
        };
        if yields {
            tokio::task::yield_now().await;
        }
        Ok(view)
    }

    async fn wait_applied(&self, revision: Revision, deadline: Instant) -> Result<(), ReadError> {
        self.bend.lock().unwrap().stale = None;
        self.solo.wait_applied(revision, deadline).await
    }

    fn members(&self) -> Vec<MemberStatus> {
        self.solo.members()
    }

    async fn add_member(
        &self,
        member: MemberStatus,
        promote: bool,
        timeout: Duration,
    ) -> Result<u64, AdminError> {
        self.solo.add_member(member, promote, timeout).await
    }

    async fn promote_member(
        &self,
        id: u64,
        force: bool,
        timeout: Duration,
    ) -> Result<(), AdminError> {
        self.solo.promote_member(id, force, timeout).await
    }

    async fn remove_member(
        &self,
        id: u64,
        force: bool,
        timeout: Duration,
    ) -> Result<(), AdminError> {
        self.solo.remove_member(id, force, timeout).await
    }

    async fn transfer_leader(&self, to: Option<u64>, timeout: Duration) -> Result<u64, AdminError> {
        self.solo.transfer_leader(to, timeout).await
    }

    async fn drain_member(&self, id: u64, undo: bool, timeout: Duration) -> Result<(), AdminError> {
        self.solo.drain_member(id, undo, timeout).await
    }

    fn changes(&self) -> Arc<ChangeLog> {
        self.solo.changes()
    }
}
