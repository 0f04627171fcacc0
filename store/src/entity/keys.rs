//! Where types and entities are kept.
//!
//! ```text
//! t vendor:nss:version                          a type
//! e d vendor:nss:uuid                           an entity: envelope and document
//! e t vendor:nss:version 00 uuid                index by type version, empty value
//! e o org 00 vendor:nss:version 00 uuid         index by org, empty value
//! ```
//!
//! The first letter is the space's byte. Index rows are written in the
//! transaction that creates, deletes or retypes the entity and at no other time,
//! so that a patch writes one key. Every list is a scan of one run of keys, at
//! any revision that history keeps:
//!
//! | asked for | run |
//! | --- | --- |
//! | nothing | `e d` |
//! | a type, all versions | `e d vendor:nss:` |
//! | a type, versions that begin with 1 | `e t vendor:nss:1.` |
//! | a type, one version | `e t vendor:nss:1.2.3 00` |
//! | an org, or a type in an org | `e o org 00` and the like |

use super::urn::{EntityId, TypeId, TypeName, TypePrefix, VersionPrefix};
use crate::{Key, KeyRange, Space};
use bytes::Bytes;

const DOCUMENTS: u8 = b'd';
const BY_TYPE: u8 = b't';
const BY_ORG: u8 = b'o';
const END: u8 = 0;

/// The key of a type.
pub fn entity_type(id: &TypeId) -> Key {
    Space::Types.key(id.short().as_bytes())
}

/// The keys of the types of one vendor and nss, as far as they are given.
/// Without an nss, `versions` is not looked at.
pub fn types(vendor: Option<&str>, nss: Option<&str>, versions: &VersionPrefix) -> KeyRange {
    let mut name = Vec::new();
    if let Some(vendor) = vendor {
        name.extend_from_slice(vendor.as_bytes());
        name.push(b':');
        if let Some(nss) = nss {
            name.extend_from_slice(nss.as_bytes());
            name.push(b':');
            if versions.is_whole() {
                name.extend_from_slice(versions.to_string().as_bytes());
                return KeyRange::single(&Space::Types.key(&name));
            }
            push_versions(&mut name, versions);
        }
    }
    KeyRange::prefix(Space::Types.key(&name).0)
}

/// The key of an entity.
pub fn entity(id: &EntityId) -> Key {
    entities_key(DOCUMENTS, id.short().as_bytes())
}

/// All entities.
pub fn entities() -> KeyRange {
    KeyRange::prefix(entities_key(DOCUMENTS, b"").0)
}

/// All entities of a type, whatever the version.
pub fn entities_of(name: &TypeName) -> KeyRange {
    KeyRange::prefix(entities_key(DOCUMENTS, format!("{name}:").as_bytes()).0)
}

/// The index rows of an entity.
pub fn index_rows(id: &EntityId, type_id: &TypeId, org: &str) -> Vec<Key> {
    let mut rows = vec![entities_key(BY_TYPE, &typed(type_id, id))];
    if !org.is_empty() {
        let mut name = org_name(org);
        name.extend_from_slice(&typed(type_id, id));
        rows.push(entities_key(BY_ORG, &name));
    }
    rows
}

/// The run of keys that holds all entities of these types and this org, and at
/// most the entities of these types or of this org besides.
pub fn run(types: Option<&TypePrefix>, org: Option<&str>) -> KeyRange {
    let mut name = Vec::new();
    let kind = match (types, org) {
        (None, None) => return entities(),
        (Some(types), None) if types.versions.is_empty() => return entities_of(&types.name),
        (_, None) => BY_TYPE,
        (_, Some(org)) => {
            name = org_name(org);
            BY_ORG
        }
    };
    if let Some(types) = types {
        name.extend_from_slice(format!("{}:", types.name).as_bytes());
        push_versions(&mut name, &types.versions);
        if types.versions.is_whole() {
            name.push(END);
        }
    }
    KeyRange::prefix(entities_key(kind, &name).0)
}

/// The key of the entity that a row of a [`run`] stands for.
pub fn entity_of_row(row: &Key) -> Option<Key> {
    let name = row.name();
    let (kind, rest) = name.split_first()?;
    let rest = match *kind {
        DOCUMENTS => return Some(row.clone()),
        BY_TYPE => rest,
        BY_ORG => &rest[rest.iter().position(|byte| *byte == END)? + 1..],
        _ => return None,
    };
    let end = rest.iter().position(|byte| *byte == END)?;
    let (type_id, uuid) = (&rest[..end], &rest[end + 1..]);
    let versioned = type_id.iter().rposition(|byte| *byte == b':')?;
    let mut short = type_id[..=versioned].to_vec();
    short.extend_from_slice(uuid);
    Some(entities_key(DOCUMENTS, &short))
}

/// Whether `key` is that of an entity, not of an index row.
pub fn is_entity(key: &Key) -> bool {
    key.is_in(Space::Entities) && key.as_bytes().get(1) == Some(&DOCUMENTS)
}

/// The least key above `key`, for going on after it.
pub fn after(key: &Key) -> Bytes {
    let mut next = key.as_bytes().to_vec();
    next.push(0);
    next.into()
}

fn entities_key(kind: u8, name: &[u8]) -> Key {
    let mut full = Vec::with_capacity(name.len() + 1);
    full.push(kind);
    full.extend_from_slice(name);
    Space::Entities.key(&full)
}

fn typed(type_id: &TypeId, id: &EntityId) -> Vec<u8> {
    let mut name = type_id.short().into_bytes();
    name.push(END);
    name.extend_from_slice(id.uuid().as_bytes());
    name
}

fn org_name(org: &str) -> Vec<u8> {
    let mut name = org.as_bytes().to_vec();
    name.push(END);
    name
}

/// `1` becomes `1.`, so that it does not stand for `10`.
fn push_versions(name: &mut Vec<u8>, versions: &VersionPrefix) {
    name.extend_from_slice(versions.to_string().as_bytes());
    if !versions.is_empty() && !versions.is_whole() {
        name.push(b'.');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "5e0a7b9c-0f3d-4f0e-9a53-0d1c2b3a4f5e";

    fn type_id(version: &str) -> TypeId {
        format!("urn:vcloud:type:vmware:capvcdCluster:{version}").parse().unwrap()
    }

    #[test]
    fn each_row_leads_to_its_entity() {
        let id = EntityId::new(type_id("1.0.0").name, UUID).unwrap();
        let key = entity(&id);
        assert_eq!(entity_of_row(&key), Some(key.clone()));
        let rows = index_rows(&id, &type_id("1.3.0"), "urn:vcloud:org:tenant");
        assert_eq!(rows.len(), 2);
        for row in &rows {
            assert_eq!(entity_of_row(row), Some(key.clone()));
            assert!(!is_entity(row));
        }
        assert!(is_entity(&key));
        assert_eq!(index_rows(&id, &type_id("1.3.0"), "").len(), 1);
    }

    #[test]
    fn runs_hold_what_they_should() {
        let id = EntityId::new(type_id("1.0.0").name, UUID).unwrap();
        let check = |types: Option<&str>, org: Option<&str>, version: &str, expected: bool| {
            let types: Option<TypePrefix> =
                types.map(|types| format!("urn:vcloud:type:vmware:{types}").parse().unwrap());
            let run = run(types.as_ref(), org);
            let mut rows = index_rows(&id, &type_id(version), "tenant");
            rows.push(entity(&id));
            let found = rows.iter().filter(|row| run.contains(row.as_bytes())).count();
            assert_eq!(found, usize::from(expected), "{types:?} {org:?} {version}");
        };
        check(None, None, "1.3.0", true);
        check(Some("capvcdCluster"), None, "1.3.0", true);
        check(Some("capvcd"), None, "1.3.0", false);
        check(Some("capvcdCluster:1"), None, "1.3.0", true);
        check(Some("capvcdCluster:1"), None, "10.3.0", false);
        check(Some("capvcdCluster:1.3"), None, "1.3.0", true);
        check(Some("capvcdCluster:1.3"), None, "1.30.0", false);
        check(Some("capvcdCluster:1.3.0"), None, "1.3.0", true);
        check(None, Some("tenant"), "1.3.0", true);
        check(None, Some("ten"), "1.3.0", false);
        check(Some("capvcdCluster"), Some("tenant"), "1.3.0", true);
        check(Some("capvcdCluster:1.2"), Some("tenant"), "1.3.0", false);
        check(Some("other"), Some("tenant"), "1.3.0", false);
    }

    #[test]
    fn types_are_found_by_vendor_nss_and_version() {
        let key = entity_type(&type_id("1.3.0"));
        let check = |vendor, nss, versions: &str, expected| {
            let range = types(vendor, nss, &versions.parse().unwrap());
            assert_eq!(range.contains(key.as_bytes()), expected, "{vendor:?} {nss:?} {versions}");
        };
        check(None, None, "", true);
        check(Some("vmware"), None, "", true);
        check(Some("vm"), None, "", false);
        check(Some("vmware"), Some("capvcdCluster"), "", true);
        check(Some("vmware"), Some("capvcdCluster"), "1.3", true);
        check(Some("vmware"), Some("capvcdCluster"), "1.3.0", true);
        check(Some("vmware"), Some("capvcdCluster"), "1.4", false);
    }
}
