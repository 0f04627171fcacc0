//! Writes of entities: read, plan, propose, and again.

use super::{Answer, Creation, Entities, EntityError, TRIES_MAX};
use crate::core::Consistency;
use keelstone_store::entity::schema::Schema;
use keelstone_store::entity::{
    Action, Entity, EntityId, EntityRejection, EntityType, Planned, Request, TypeId, keys, plan,
};
use keelstone_store::machine::{
    Command, Compare, Envelope, Outcome, Record, Rejection, Relation, Remembered, Reply, Target,
    Txn, TxnReply, View as _, WriteId,
};
use keelstone_store::planted::{self, Bug};
use keelstone_store::state::StateView;
use keelstone_store::{Key, KeyRange, Revision};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{debug, warn};

/// The longest pause between two tries.
const PAUSE_MS_MAX: u64 = 64;

/// A write of an entity.
#[derive(Clone, Debug)]
pub struct Write {
    /// What to do.
    pub request: Request,
    /// Its place in a session, so that a retry is applied once.
    pub write_id: Option<WriteId>,
}

/// What became of a write that was not refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The entity as the write left it, or as it was at last if it is gone.
    /// `None` only if the write was applied by an earlier attempt whose history
    /// is compacted.
    pub entity: Option<Entity>,
    /// Whether the entity is gone.
    pub gone: bool,
    /// What the caller should know.
    pub warnings: Vec<String>,
}

/// What a session says of a write.
enum Earlier {
    /// Nothing: it was not applied, or there is no session to ask.
    Unknown,
    /// It was applied at this revision.
    Applied(Revision),
    /// It was refused, and will be whenever it is sent.
    Refused,
}

/// What one try comes to.
enum Step {
    /// The answer.
    Done(Box<Answer<Written>>),
    /// It has to be made from a fresher read.
    Fresher,
    /// The entity has changed meanwhile.
    Changed,
}

impl Entities {
    /// Creates an entity.
    ///
    /// # Errors
    ///
    /// As for [`write`](Entities::write).
    pub async fn create(
        &self,
        creation: Creation,
        deadline: Instant,
    ) -> Result<Answer<Written>, EntityError> {
        let view = self.core.read(Consistency::Serializable, deadline).await?;
        let write = creation.write(view.head().history, || (self.uuids)())?;
        self.write(&write, deadline).await
    }

    /// Does a write.
    ///
    /// Order: the answer carries the write's own revision. If nothing was to be
    /// done, it carries that of the read which found so.
    ///
    /// # Errors
    ///
    /// See [`EntityError`]; [`EntityError::may_take_effect`] tells when it is
    /// open whether the write takes effect.
    pub async fn write(
        &self,
        write: &Write,
        deadline: Instant,
    ) -> Result<Answer<Written>, EntityError> {
        let name = write.request.id().to_string();
        let latch = self.latches.enter(&name, deadline).await;
        let _latch = latch.ok_or(EntityError::Contended { tries: 0 })?;
        let mut freshness = Consistency::Serializable;
        let mut tries = 0;
        while tries < TRIES_MAX {
            match self.attempt(write, freshness, deadline).await? {
                Step::Done(answer) => return Ok(*answer),
                Step::Fresher => freshness = Consistency::Linearizable,
                Step::Changed => {
                    tries += 1;
                    freshness = Consistency::Linearizable;
                    let pause = self.pause(write, tries);
                    if Instant::now() + pause >= deadline {
                        break;
                    }
                    debug!(command = write.request.name(), tries, "the entity has changed");
                    tokio::time::sleep(pause).await;
                }
            }
        }
        warn!(command = write.request.name(), tries, "given up a contended write");
        Err(EntityError::Contended { tries })
    }

    async fn attempt(
        &self,
        write: &Write,
        freshness: Consistency,
        deadline: Instant,
    ) -> Result<Step, EntityError> {
        let view = self.core.read(freshness, deadline).await?;
        let stale = freshness == Consistency::Serializable;
        let earlier = match Self::earlier(&view, write.write_id) {
            Err(EntityError::Session(_)) if stale => return Ok(Step::Fresher),
            earlier => earlier?,
        };
        if let Earlier::Applied(revision) = earlier {
            let answer = self.applied(write, revision, None, deadline).await?;
            return Ok(Step::Done(Box::new(answer)));
        }
        let planned = match self.plan(&view, &write.request) {
            Err(EntityError::Rejected(_)) if stale => return Ok(Step::Fresher),
            Err(EntityError::Rejected(rejection)) => {
                let answer = self.refuse(write, &earlier, rejection, deadline).await?;
                return Ok(Step::Done(Box::new(answer)));
            }
            planned => planned?,
        };
        if matches!(earlier, Earlier::Refused) {
            return Err(EntityError::RefusedBefore);
        }
        match &planned.action {
            Action::Nothing if stale => Ok(Step::Fresher),
            Action::Nothing => {
                let Planned { entity, warnings, .. } = planned;
                let value = Written { entity: Some(entity), gone: false, warnings };
                let answer = Answer::read(value, &view.head(), freshness);
                Ok(Step::Done(Box::new(answer)))
            }
            Action::Write(txn) | Action::Delete(txn) => {
                let mut txn = txn.clone();
                if planted::is(Bug::StaleDocument) {
                    txn.compares.clear();
                }
                let reply = self.propose(write, txn, deadline).await?;
                self.settle(write, planned, reply, &view, deadline).await
            }
        }
    }

    /// What the reply to the proposed transaction means.
    async fn settle(
        &self,
        write: &Write,
        planned: Planned,
        reply: Reply,
        view: &StateView,
        deadline: Instant,
    ) -> Result<Step, EntityError> {
        match reply.outcome {
            Outcome::Txn(TxnReply { succeeded: false, .. }) => Ok(Step::Changed),
            Outcome::Txn(_) if write.write_id.is_none() => {
                let answer = fresh(planned, reply.revision, view.head().history);
                Ok(Step::Done(Box::new(answer)))
            }
            // The reply may be that of an earlier attempt, which was planned
            // from another state: what it wrote is read, not assumed.
            Outcome::Txn(_) | Outcome::Applied => {
                let planned = Some((planned, view.head().history));
                let answer = self.applied(write, reply.revision, planned, deadline).await?;
                Ok(Step::Done(Box::new(answer)))
            }
            Outcome::Rejected(rejection) => Err(EntityError::machine(rejection)),
            Outcome::Lease { .. } | Outcome::Renewed(_) | Outcome::Done => {
                Err(EntityError::WriteIdReused)
            }
        }
    }

    /// What the session knows of the write.
    fn earlier(view: &StateView, write_id: Option<WriteId>) -> Result<Earlier, EntityError> {
        let Some(id) = write_id else { return Ok(Earlier::Unknown) };
        let Some(session) = view.session(id.session)? else {
            return Err(EntityError::Session(Rejection::SessionNotFound(id.session)));
        };
        let (sequence, oldest) = (id.sequence, session.forgotten_below);
        if sequence < oldest {
            return Err(EntityError::Session(Rejection::ReplyForgotten { sequence, oldest }));
        }
        Ok(match view.session_reply(id.session, sequence)? {
            None => Earlier::Unknown,
            Some(Remembered::AppliedAt(revision)) => Earlier::Applied(revision),
            Some(Remembered::Reply(reply)) => match reply.outcome {
                Outcome::Txn(txn) if txn.succeeded && !txn.ops.is_empty() => {
                    Earlier::Applied(reply.revision)
                }
                Outcome::Applied => Earlier::Applied(reply.revision),
                Outcome::Txn(_) | Outcome::Rejected(_) => Earlier::Refused,
                Outcome::Lease { .. } | Outcome::Renewed(_) | Outcome::Done => {
                    return Err(EntityError::WriteIdReused);
                }
            },
        })
    }

    fn plan(&self, view: &StateView, request: &Request) -> Result<Planned, EntityError> {
        let record = view.get(&keys::entity(request.id()))?;
        let existing = record.as_ref().map(Entity::decode).transpose()?;
        let schema = match request.type_id(existing.as_ref()) {
            Some(type_id) => self.schema(view, type_id)?,
            None => None,
        };
        Ok(plan(request, existing.as_ref(), schema.as_deref(), self.now(view))?)
    }

    /// The compiled schema of a type, `None` if it is not registered.
    fn schema(&self, view: &StateView, id: &TypeId) -> Result<Option<Arc<Schema>>, EntityError> {
        let Some(record) = view.get(&keys::entity_type(id))? else { return Ok(None) };
        let registered = EntityType::decode(&record)?;
        let schema = self.schemas.get(registered.content_hash, &registered.schema);
        // It was compiled before it was registered; that it cannot be now means
        // that another version of the validator did that.
        schema.map(Some).map_err(|error| EntityError::Damaged(format!("schema of {id}: {error}")))
    }

    async fn propose(
        &self,
        write: &Write,
        txn: Txn,
        deadline: Instant,
    ) -> Result<Reply, EntityError> {
        let envelope = Envelope { write_id: write.write_id, command: Command::Txn(txn) };
        Ok(self.core.propose(envelope, deadline).await?)
    }

    /// Refuses a write so that no earlier attempt can be applied later.
    ///
    /// A guard that names a revision cannot hold any more, once the entity has
    /// left it. The guard of a creation, "the id is free", can, so its write
    /// id is used up, unless that has happened already.
    async fn refuse(
        &self,
        write: &Write,
        earlier: &Earlier,
        rejection: EntityRejection,
        deadline: Instant,
    ) -> Result<Answer<Written>, EntityError> {
        let taken = matches!(rejection, EntityRejection::Exists { .. });
        if !taken || write.write_id.is_none() || matches!(earlier, Earlier::Refused) {
            return Err(rejection.into());
        }
        let free = Compare {
            range: KeyRange::single(&keys::entity(write.request.id())),
            relation: Relation::Equal,
            target: Target::Modified(Revision::ZERO),
        };
        let nothing = Txn { compares: vec![free], ..Txn::default() };
        let reply = self.propose(write, nothing, deadline).await?;
        match reply.outcome {
            Outcome::Txn(txn) if !txn.succeeded || txn.ops.is_empty() => Err(rejection.into()),
            Outcome::Rejected(rejection) => Err(EntityError::machine(rejection)),
            // An earlier attempt was faster.
            _ => self.applied(write, reply.revision, None, deadline).await,
        }
    }

    /// The answer to a write that was applied at `revision`, from what it left
    /// there. If this node does not get there in time, or history is gone, the
    /// plan stands in: the write has succeeded in any case.
    async fn applied(
        &self,
        write: &Write,
        revision: Revision,
        planned: Option<(Planned, [u8; 16])>,
        deadline: Instant,
    ) -> Result<Answer<Written>, EntityError> {
        let key = keys::entity(write.request.id());
        let (view, warnings) = match (self.view_at(revision, deadline).await, planned) {
            (Err(_), Some((planned, history))) => return Ok(fresh(planned, revision, history)),
            (view, planned) => {
                let warnings = planned.map(|(planned, _)| planned.warnings);
                (view?, warnings.unwrap_or_default())
            }
        };
        let head = view.head();
        let mut value = if revision < head.compacted {
            let newest = view.get(&key)?;
            let entity = newest.as_ref().map(Entity::decode).transpose()?;
            let gone = entity.is_none() && matches!(write.request, Request::Delete(_));
            Written { entity, gone, warnings: Vec::new() }
        } else {
            left_at(&view, &key, revision)?
        };
        value.warnings = warnings;
        Ok(Answer { value, revision, history: head.history, serializable: false })
    }

    /// How long to wait before the next try: longer each time, and different
    /// for each node, which is what two nodes that collide need.
    fn pause(&self, write: &Write, tries: u32) -> Duration {
        let mut hasher = DefaultHasher::new();
        (self.core.identity().node_id, write.request.id(), tries).hash(&mut hasher);
        let most = (1_u64 << tries.min(16)).min(PAUSE_MS_MAX) * 1000;
        Duration::from_micros(hasher.finish() % most)
    }
}

/// The answer to a write that was applied as it was planned.
fn fresh(planned: Planned, revision: Revision, history: [u8; 16]) -> Answer<Written> {
    let gone = matches!(planned.action, Action::Delete(_));
    let entity = if gone { planned.entity } else { planned.entity.stored_at(revision) };
    let value = Written { entity: Some(entity), gone, warnings: planned.warnings };
    Answer { value, revision, history, serializable: false }
}

/// What a write at `revision` left of the entity.
fn left_at(view: &StateView, key: &Key, revision: Revision) -> Result<Written, EntityError> {
    let after = record_at(view, key, revision)?;
    let (record, gone) = match after {
        Some(record) if record.modified == revision => (Some(record), false),
        Some(_) => return Err(EntityError::WriteIdReused),
        None if revision > view.head().compacted => {
            let before = record_at(view, key, revision.previous())?;
            (Some(before.ok_or(EntityError::WriteIdReused)?), true)
        }
        None => (None, true),
    };
    let entity = record.as_ref().map(Entity::decode).transpose()?;
    Ok(Written { entity, gone, warnings: Vec::new() })
}

/// The record of a key at a revision that history keeps.
pub(crate) fn record_at(
    view: &StateView,
    key: &Key,
    revision: Revision,
) -> Result<Option<Record>, EntityError> {
    if revision == view.head().revision {
        return Ok(view.get(key)?);
    }
    let mut found = None;
    view.scan_at(&KeyRange::single(key), revision, &mut |_, record| {
        found = Some(record);
        false
    })?;
    Ok(found)
}

/// The id of an entity whose creation names none: computed from the write id
/// and the content, so that a retry means the same entity.
pub(super) fn derived_id(
    write_id: WriteId,
    history: [u8; 16],
    type_id: &TypeId,
    name: &str,
    document: &[u8],
) -> EntityId {
    let mut hasher = blake3::Hasher::new_derive_key("keelstone entity id of a retried creation");
    hasher.update(&history);
    hasher.update(&write_id.session.0.to_le_bytes());
    hasher.update(&write_id.sequence.to_le_bytes());
    for part in [type_id.to_string().as_bytes(), name.as_bytes(), document] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    let uuid = uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string();
    EntityId::new(type_id.name.clone(), &uuid).expect("a UUID was just formatted")
}
