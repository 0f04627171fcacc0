//! Types: register, read, list.

use super::page::{Place, rest};
use super::{Answer, Entities, EntityError};
use crate::core::Consistency;
use keelstone_store::entity::types::{Registered, Registration, register};
use keelstone_store::entity::{EntityRejection, EntityType, TypeId, VersionPrefix, keys};
use keelstone_store::limits::RANGE_BYTES_MAX;
use keelstone_store::machine::{Command, Envelope, Outcome, TxnReply, View as _};
use tokio::time::Instant;

/// Types in a page, if the caller does not say.
const PAGE_SIZE_DEFAULT: usize = 100;
/// Types in a page, at most.
const PAGE_SIZE_MAX: usize = 1000;

/// A registered type.
#[derive(Clone, Debug, PartialEq)]
pub struct TypeRegistered {
    /// The type.
    pub entity_type: EntityType,
    /// False if the same content was registered before.
    pub created: bool,
}

/// Asks for a list of types.
#[derive(Clone, Debug, Default)]
pub struct TypeQuery {
    /// Of this vendor; all without.
    pub vendor: Option<String>,
    /// Of this nss; only together with a vendor.
    pub nss: Option<String>,
    /// Of these versions; only together with an nss.
    pub versions: VersionPrefix,
    /// Types in a page; 0: 100. At most 1000, and at most 8 MiB.
    pub page_size: usize,
    /// Where to go on; empty: at the beginning.
    pub page_token: String,
    /// Leave the schemas out.
    pub summary: bool,
    /// How fresh.
    pub consistency: Consistency,
}

/// A page of a list of types.
#[derive(Clone, Debug, PartialEq)]
pub struct TypePage {
    /// In the order of their names.
    pub types: Vec<EntityType>,
    /// Where to go on; empty: this is the last page.
    pub next_page_token: String,
}

impl Entities {
    /// Registers a type. A retry needs no write id: registering twice is
    /// registering once.
    ///
    /// # Errors
    ///
    /// See [`EntityError`]; a second content under one version is
    /// [`EntityRejection::TypeDiffers`].
    pub async fn register_type(
        &self,
        request: &Registration,
        deadline: Instant,
    ) -> Result<Answer<TypeRegistered>, EntityError> {
        // Twice at most: who fails to be first finds the type there, for good.
        for _ in 0..2 {
            let view = self.core.read(Consistency::Linearizable, deadline).await?;
            let record = view.get(&keys::entity_type(&request.id))?;
            let known = record.as_ref().map(EntityType::decode).transpose()?;
            let (entity_type, txn) = match register(request, known, self.now(&view))? {
                Registered::Known(entity_type) => {
                    let value = TypeRegistered { entity_type, created: false };
                    return Ok(Answer::read(value, &view.head(), Consistency::Linearizable));
                }
                Registered::New(entity_type, txn) => (entity_type, txn),
            };
            let envelope = Envelope { write_id: None, command: Command::Txn(txn) };
            let reply = self.core.propose(envelope, deadline).await?;
            match reply.outcome {
                Outcome::Txn(TxnReply { succeeded: false, .. }) => {}
                Outcome::Rejected(rejection) => return Err(EntityError::machine(rejection)),
                _ => {
                    let revision = reply.revision;
                    let entity_type = EntityType { revision, ..entity_type };
                    let value = TypeRegistered { entity_type, created: true };
                    let history = view.head().history;
                    return Ok(Answer { value, revision, history, serializable: false });
                }
            }
        }
        Err(EntityError::Contended { tries: 2 })
    }

    /// Reads a type.
    ///
    /// # Errors
    ///
    /// See [`EntityError`].
    pub async fn get_type(
        &self,
        id: &TypeId,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<Answer<EntityType>, EntityError> {
        let view = self.core.read(consistency, deadline).await?;
        let record = view.get(&keys::entity_type(id))?;
        let record = record.ok_or_else(|| EntityRejection::TypeNotFound(id.clone()))?;
        Ok(Answer::read(EntityType::decode(&record)?, &view.head(), consistency))
    }

    /// Reads a page of the types. Types never change and never go, so pages
    /// are not pinned to a revision: a later one can show a newer type.
    ///
    /// # Errors
    ///
    /// See [`EntityError`].
    pub async fn list_types(
        &self,
        query: &TypeQuery,
        deadline: Instant,
    ) -> Result<Answer<TypePage>, EntityError> {
        let run = keys::types(query.vendor.as_deref(), query.nss.as_deref(), &query.versions);
        let print = format!("types {:?} {:?} {}", query.vendor, query.nss, query.versions);
        let view = self.core.read(query.consistency, deadline).await?;
        let from = match query.page_token.as_str() {
            "" => run.start.clone(),
            token => Place::parse(token, print.as_bytes(), &run)?.from,
        };
        let size = match query.page_size {
            0 => PAGE_SIZE_DEFAULT,
            size => size.min(PAGE_SIZE_MAX),
        };
        let (mut records, mut bytes, mut next) = (Vec::new(), 0, None);
        view.scan(&rest(&run, &from), &mut |key, record| {
            let full = records.len() == size || bytes > RANGE_BYTES_MAX;
            if full {
                next = Some(key);
                return false;
            }
            bytes += record.value.len();
            records.push(record);
            true
        })?;
        let mut types = Vec::with_capacity(records.len());
        for record in &records {
            let mut entity_type = EntityType::decode(record)?;
            if query.summary {
                entity_type.schema.clear();
            }
            types.push(entity_type);
        }
        let revision = view.head().revision;
        let next_page_token = next.map_or_else(String::new, |key| {
            Place { revision, from: key.0 }.token(print.as_bytes())
        });
        let page = TypePage { types, next_page_token };
        Ok(Answer::read(page, &view.head(), query.consistency))
    }
}
