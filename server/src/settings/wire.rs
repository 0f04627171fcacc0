//! Where the API's messages about configuration become requests, and answers
//! become messages.

use super::read::{ConfigHistoryQuery, ConfigQuery, ConfigVersion};
use super::write::{ConfigDelete, ConfigPut};
use super::{ConfigEvent, ConfigPath, ConfigValue};
use crate::entities::EntityError;
use crate::entities::wire::{consistency, precondition, write_id};
use keelstone_proto::v1;
use keelstone_store::Revision;

/// Reads a put.
///
/// # Errors
///
/// [`EntityError::Rejected`] names the field.
pub fn put(request: v1::ConfigPutRequest) -> Result<ConfigPut, EntityError> {
    Ok(ConfigPut {
        path: path(&request.path)?,
        value: request.value,
        precondition: precondition(request.precondition)?,
        write_id: write_id(request.write_id),
    })
}

/// Reads a deletion.
///
/// # Errors
///
/// [`EntityError::Rejected`] names the field.
pub fn delete(request: &v1::ConfigDeleteRequest) -> Result<ConfigDelete, EntityError> {
    Ok(ConfigDelete {
        path: path(&request.path)?,
        precondition: precondition(request.precondition)?,
        recursive: request.recursive,
        write_id: write_id(request.write_id),
    })
}

/// Reads a path.
///
/// # Errors
///
/// [`EntityError::Rejected`] names the field.
pub fn path(text: &str) -> Result<ConfigPath, EntityError> {
    Ok(ConfigPath::parse(text)?)
}

/// Reads a path where the empty one is the whole tree, as lists and watches
/// have it.
///
/// # Errors
///
/// [`EntityError::Rejected`] names the field.
pub fn subtree(text: &str) -> Result<Option<ConfigPath>, EntityError> {
    if text.is_empty() { Ok(None) } else { path(text).map(Some) }
}

/// Reads a query for a subtree.
///
/// # Errors
///
/// [`EntityError::Rejected`] names the field.
pub fn list_query(request: v1::ConfigListRequest) -> Result<ConfigQuery, EntityError> {
    Ok(ConfigQuery {
        path: subtree(&request.path)?,
        page_size: usize::try_from(request.page_size).unwrap_or(usize::MAX),
        page_token: request.page_token,
        consistency: consistency(request.consistency)?,
    })
}

/// Reads a query for history.
///
/// # Errors
///
/// [`EntityError::Rejected`] names the field.
pub fn history_query(
    request: &v1::ConfigHistoryRequest,
) -> Result<ConfigHistoryQuery, EntityError> {
    Ok(ConfigHistoryQuery {
        path: path(&request.path)?,
        limit: usize::try_from(request.limit).unwrap_or(usize::MAX),
        before: Revision::new(request.before_revision),
    })
}

/// A value as the API shows it.
pub fn value_to_proto(value: ConfigValue) -> v1::ConfigValue {
    v1::ConfigValue {
        path: value.path.to_string(),
        value: value.value,
        create_revision: value.created.get(),
        revision: value.revision.get(),
        version: value.version,
    }
}

/// A version as the API shows it.
pub fn version_to_proto(version: ConfigVersion) -> v1::ConfigVersion {
    v1::ConfigVersion {
        revision: version.revision.get(),
        deleted: version.value.is_none(),
        value: version.value.map(value_to_proto),
    }
}

/// An event as the API shows it.
pub fn event_to_proto(event: ConfigEvent) -> v1::ConfigEvent {
    v1::ConfigEvent { deleted: event.deleted, value: Some(value_to_proto(event.value)) }
}
