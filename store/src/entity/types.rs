//! Types: a name, a version, and a schema whose content never changes.

use super::diff::Difference;
use super::json::Json;
use super::rejection::EntityRejection;
use super::schema::{Schema, SchemaError};
use super::urn::TypeId;
use super::{DecodeError, keys, text};
use crate::limits;
use crate::machine::{Compare, Op, Put, Record, Relation, Target, Txn};
use crate::{KeyRange, Millis, Revision};
use bytes::Bytes;
use keelstone_proto::disk::StoredType;
use prost::Message as _;

/// A type as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntityType {
    /// Its name.
    pub id: TypeId,
    /// For people.
    pub name: String,
    /// For people.
    pub description: String,
    /// The schema as it was registered.
    pub schema: Bytes,
    /// BLAKE3 of the schema's canonical form.
    pub content_hash: [u8; 32],
    /// When it was registered.
    pub created: Millis,
    /// At which revision.
    pub revision: Revision,
}

/// A type to register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its name.
    pub id: TypeId,
    /// For people; empty: the nss.
    pub name: String,
    /// For people.
    pub description: String,
    /// A JSON Schema.
    pub schema: Bytes,
}

/// What registering a type comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Registered {
    /// The content is registered already.
    Known(EntityType),
    /// It is new: the transaction registers it, unless somebody was faster.
    New(EntityType, Txn),
}

/// Plans the registration of a type; `known` is what is registered under its
/// name.
///
/// # Errors
///
/// [`EntityRejection::InvalidSchema`] if the schema cannot be used,
/// [`EntityRejection::TypeDiffers`] if another one is registered.
pub fn register(
    request: &Registration,
    known: Option<EntityType>,
    now: Millis,
) -> Result<Registered, EntityRejection> {
    text::check("name", &request.name, limits::ENTITY_NAME_BYTES_MAX)?;
    text::check("description", &request.description, limits::ENTITY_TEXT_BYTES_MAX)?;
    if let Some(known) = known {
        return same(request, known);
    }
    Schema::compile(&request.schema)?;
    let content_hash = content_hash(&request.schema)?;
    let name = match request.name.as_str() {
        "" => request.id.name.nss(),
        name => name,
    };
    let new = EntityType {
        id: request.id.clone(),
        name: name.to_owned(),
        description: request.description.clone(),
        schema: request.schema.clone(),
        content_hash,
        created: now,
        revision: Revision::ZERO,
    };
    let key = keys::entity_type(&new.id);
    let absent = Compare {
        range: KeyRange::single(&key),
        relation: Relation::Equal,
        target: Target::Modified(Revision::ZERO),
    };
    let put = Op::Put(Put::new(key, new.encode()));
    let txn = Txn { compares: vec![absent], then: vec![put], otherwise: Vec::new() };
    Ok(Registered::New(new, txn))
}

fn same(request: &Registration, known: EntityType) -> Result<Registered, EntityRejection> {
    if content_hash(&request.schema)? == known.content_hash {
        return Ok(Registered::Known(known));
    }
    let (old, new) = (utf8(&known.schema)?, utf8(&request.schema)?);
    let (old, new) = (Json::parse(old), Json::parse(new));
    let (old, new) = (old.map_err(SchemaError::from)?, new.map_err(SchemaError::from)?);
    let difference = Difference::between(&old, &new);
    Err(EntityRejection::TypeDiffers { id: request.id.clone(), difference })
}

/// BLAKE3 of the canonical form of a schema: the order of members, space and
/// the spelling of strings do not matter.
///
/// # Errors
///
/// [`SchemaError`] if it is too large or not JSON.
pub fn content_hash(schema: &[u8]) -> Result<[u8; 32], SchemaError> {
    let limit = limits::SCHEMA_BYTES_MAX;
    if schema.len() > limit {
        return Err(SchemaError::TooLarge { actual: schema.len(), limit });
    }
    let json = Json::parse(utf8(schema)?)?;
    Ok(*blake3::hash(json.canonical().as_bytes()).as_bytes())
}

fn utf8(bytes: &[u8]) -> Result<&str, SchemaError> {
    std::str::from_utf8(bytes).map_err(|_| SchemaError::NotUtf8)
}

impl EntityType {
    /// The value of the type's key.
    pub fn encode(&self) -> Bytes {
        let stored = StoredType {
            id: self.id.to_string(),
            name: self.name.clone(),
            description: self.description.clone(),
            schema: self.schema.clone(),
            content_hash: Bytes::copy_from_slice(&self.content_hash),
            created_ms: self.created.0,
        };
        stored.encode_to_vec().into()
    }

    /// Reads the value of a type's key.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if it is not one.
    pub fn decode(record: &Record) -> Result<Self, DecodeError> {
        let stored = StoredType::decode(record.value.clone())?;
        let content_hash = stored.content_hash.as_ref().try_into();
        Ok(Self {
            id: stored.id.parse().map_err(|_| DecodeError::Field("id"))?,
            name: stored.name,
            description: stored.description,
            schema: stored.schema,
            content_hash: content_hash.map_err(|_| DecodeError::Field("content_hash"))?,
            created: Millis(stored.created_ms),
            revision: record.modified,
        })
    }
}
