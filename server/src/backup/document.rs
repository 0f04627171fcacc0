//! The JSON documents of a repository: canonical, sealed, readable by people.
//!
//! A document is a JSON object whose keys are sorted, indented by two spaces,
//! with a last line end: one value has exactly one text. Its member `seal` has
//! the BLAKE3 of the text without that member, and the place for a signature
//! over this hash. So every changed byte is noticed, and a later version can add
//! members that this one does not know.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// The newest format that this version writes and reads.
pub(super) const FORMAT: u64 = 1;

/// Why a document is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DocumentError {
    #[error("it is not JSON")]
    NotJson,
    #[error("it is not in canonical form")]
    NotCanonical,
    #[error("it does not match its seal")]
    Seal,
    #[error("it needs a reader of format {0}, this program reads up to {FORMAT}")]
    Newer(u64),
    #[error("a member is missing or of another kind: {0}")]
    Members(String),
}

/// The text of a value, sealed.
///
/// # Panics
///
/// If the value is not a JSON object; documents are structs.
pub(super) fn seal<T: Serialize>(value: &T) -> Vec<u8> {
    let value = serde_json::to_value(value).expect("structs with string keys become JSON");
    let Value::Object(mut members) = value else { panic!("documents are JSON objects") };
    let hash = blake3::hash(&canonical(&Value::Object(members.clone())));
    members.insert("seal".into(), json!({ "b3": hash.to_hex().as_str(), "signature": null }));
    canonical(&Value::Object(members))
}

/// Reads a sealed text.
pub(super) fn open<T: DeserializeOwned>(text: &[u8]) -> Result<T, DocumentError> {
    let value: Value = serde_json::from_slice(text).map_err(|_| DocumentError::NotJson)?;
    if canonical(&value) != text {
        return Err(DocumentError::NotCanonical);
    }
    // Before the seal, which a newer format may make in another way.
    match value.get("min_reader").and_then(Value::as_u64) {
        Some(newer) if newer > FORMAT => return Err(DocumentError::Newer(newer)),
        _ => {}
    }
    let Value::Object(mut members) = value else { return Err(DocumentError::NotJson) };
    let seal = members.remove("seal").ok_or(DocumentError::Seal)?;
    let value = Value::Object(members);
    let hash = blake3::hash(&canonical(&value)).to_hex();
    // The hash does not cover the seal, so all of it is compared. A version that
    // signs has a newer format.
    if seal != json!({ "b3": hash.as_str(), "signature": null }) {
        return Err(DocumentError::Seal);
    }
    serde_json::from_value(value).map_err(|error| DocumentError::Members(error.to_string()))
}

/// The one text of a value.
fn canonical(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(&sorted(value)).expect("a JSON value has a text");
    text.push(b'\n');
    text
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut names: Vec<_> = members.keys().collect();
            names.sort();
            let members = names.into_iter().map(|name| (name.clone(), sorted(&members[name])));
            Value::Object(members.collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Document {
        zebra: u64,
        apple: Vec<String>,
        min_reader: u64,
    }

    fn document() -> Document {
        Document { zebra: 7, apple: vec!["x\u{1}ü".into()], min_reader: 1 }
    }

    #[test]
    fn a_document_comes_back() {
        let text = seal(&document());
        assert_eq!(open::<Document>(&text).unwrap(), document());
        assert!(text.starts_with(b"{\n  \"apple\""), "sorted, for people");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let text = seal(&document());
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut flipped = text.clone();
                flipped[at] ^= 1 << bit;
                assert!(open::<Document>(&flipped).is_err(), "byte {at}, bit {bit}");
            }
            assert!(open::<Document>(&text[..at]).is_err());
        }
    }

    #[test]
    fn a_newer_document_is_refused_and_unknown_members_are_not() {
        let text = seal(&json!({ "min_reader": 2 }));
        assert_eq!(open::<Value>(&text), Err(DocumentError::Newer(2)));
        let text = seal(&json!({ "min_reader": 1, "zebra": 1, "apple": [], "new": true }));
        assert!(open::<Document>(&text).is_ok());
    }
}
