//! Puts and deletions of configuration values.

use super::{ConfigPath, ConfigValue, Settings, run};
use crate::core::Consistency;
use crate::entities::{Answer, EntityError};
use bytes::Bytes;
use keelstone_store::entity::json::Json;
use keelstone_store::entity::{EntityRejection, Precondition};
use keelstone_store::limits::CONFIG_VALUE_BYTES_MAX;
use keelstone_store::machine::{
    Command, Compare, Delete, Envelope, Op, OpReply, Outcome, Put, Range, Record, Relation, Target,
    Txn, TxnReply, View as _, WriteId,
};
use keelstone_store::{KeyRange, Revision};
use tokio::time::Instant;

/// Puts a value.
#[derive(Clone, Debug)]
pub struct ConfigPut {
    /// Where.
    pub path: ConfigPath,
    /// JSON of any kind.
    pub value: Bytes,
    /// What must hold.
    pub precondition: Precondition,
    /// Its place in a session.
    pub write_id: Option<WriteId>,
}

/// Deletes a value, or a subtree.
#[derive(Clone, Debug)]
pub struct ConfigDelete {
    /// Where.
    pub path: ConfigPath,
    /// What must hold; unconditional for a subtree.
    pub precondition: Precondition,
    /// With everything below, at one revision.
    pub recursive: bool,
    /// Its place in a session.
    pub write_id: Option<WriteId>,
}

impl Settings {
    /// Puts a value.
    ///
    /// # Errors
    ///
    /// See [`EntityError`]; [`EntityError::ValueConflict`] if the precondition
    /// does not hold.
    pub async fn put(
        &self,
        request: ConfigPut,
        deadline: Instant,
    ) -> Result<Answer<ConfigValue>, EntityError> {
        check_value(&request.value)?;
        let key = request.path.key();
        let txn = Txn {
            compares: guard(&request.path, request.precondition)?,
            // What it comes to is read behind the put, without the value, so
            // that the reply is small enough for a session to remember.
            then: vec![
                Op::Put(Put::new(key.clone(), request.value.clone())),
                Op::Range(facts(&request.path)),
            ],
            otherwise: vec![Op::Range(facts(&request.path))],
        };
        let (position, answer) = self.transact(txn, request.write_id, deadline).await?;
        let [OpReply::Put { .. }, OpReply::Range(range)] = answer.ops.as_slice() else {
            return Err(EntityError::WriteIdReused);
        };
        let record = range.records.first().filter(|found| found.key == key);
        let record = record.ok_or(EntityError::WriteIdReused)?.record.clone();
        let value = ConfigValue::of(request.path, Record { value: request.value, ..record });
        Ok(position.carry(value))
    }

    /// Deletes a value or a subtree, and tells how many values that were.
    ///
    /// # Errors
    ///
    /// See [`EntityError`]; [`EntityError::ValueConflict`] if the precondition
    /// does not hold.
    pub async fn delete(
        &self,
        request: ConfigDelete,
        deadline: Instant,
    ) -> Result<Answer<u64>, EntityError> {
        if request.precondition == Precondition::IfAbsent {
            let problem = "if_absent makes no sense for a value that is to be deleted";
            return Err(EntityRejection::Precondition(problem).into());
        }
        let range = if request.recursive {
            if request.precondition != Precondition::Unconditional {
                let problem = "a subtree has no revision; delete it unconditionally";
                return Err(EntityRejection::Precondition(problem).into());
            }
            run(Some(&request.path))
        } else {
            KeyRange::single(&request.path.key())
        };
        let txn = Txn {
            compares: guard(&request.path, request.precondition)?,
            then: vec![Op::Delete(Delete { range, previous: false })],
            otherwise: vec![Op::Range(facts(&request.path))],
        };
        let (position, answer) = self.transact(txn, request.write_id, deadline).await?;
        let [OpReply::Delete { deleted, .. }] = answer.ops.as_slice() else {
            return Err(EntityError::WriteIdReused);
        };
        Ok(position.carry(*deleted))
    }

    /// Proposes a transaction and takes a failed precondition out of its reply.
    async fn transact(
        &self,
        txn: Txn,
        write_id: Option<WriteId>,
        deadline: Instant,
    ) -> Result<(Position, TxnReply), EntityError> {
        // Asked first: behind the write nothing may fail any more.
        let view = self.core.read(Consistency::Serializable, deadline).await?;
        let history = view.head().history;
        let envelope = Envelope { write_id, command: Command::Txn(txn) };
        let reply = self.core.propose(envelope, deadline).await?;
        let answer = match &reply.outcome {
            Outcome::Txn(answer) => answer.clone(),
            Outcome::Rejected(rejection) => return Err(EntityError::machine(rejection.clone())),
            _ => return Err(EntityError::WriteIdReused),
        };
        if answer.succeeded {
            return Ok((Position { revision: reply.revision, history }, answer));
        }
        let found = match answer.ops.first() {
            Some(OpReply::Range(range)) => range.records.first(),
            _ => None,
        };
        let current = found.map_or(Revision::ZERO, |found| found.record.modified);
        Err(EntityError::ValueConflict { current })
    }
}

/// Where a write came to stand.
struct Position {
    revision: Revision,
    history: [u8; 16],
}

impl Position {
    fn carry<T>(&self, value: T) -> Answer<T> {
        let Self { revision, history } = *self;
        Answer { value, revision, history, serializable: false }
    }
}

/// Checks that a value is JSON within the limits.
fn check_value(value: &[u8]) -> Result<(), EntityRejection> {
    let (field, limit) = ("value", CONFIG_VALUE_BYTES_MAX as u64);
    let actual = value.len() as u64;
    if actual > limit {
        return Err(EntityRejection::TooLarge { field, actual, limit });
    }
    let text = std::str::from_utf8(value)
        .map_err(|_| EntityRejection::invalid(field, "it is not UTF-8 text"))?;
    Json::parse(text).map_err(|error| EntityRejection::NotJson { field, error })?;
    Ok(())
}

fn guard(path: &ConfigPath, precondition: Precondition) -> Result<Vec<Compare>, EntityRejection> {
    let modified = match precondition {
        Precondition::Unconditional => return Ok(Vec::new()),
        Precondition::IfAbsent => Revision::ZERO,
        Precondition::IfRevision(Revision::ZERO) => {
            let problem = "no value is at revision 0; if_absent says that there is none";
            return Err(EntityRejection::Precondition(problem));
        }
        Precondition::IfRevision(revision) => revision,
    };
    Ok(vec![Compare {
        range: KeyRange::single(&path.key()),
        relation: Relation::Equal,
        target: Target::Modified(modified),
    }])
}

/// The revisions and the version of a value, without the value.
fn facts(path: &ConfigPath) -> Range {
    Range { keys_only: true, ..Range::all(KeyRange::single(&path.key())) }
}
