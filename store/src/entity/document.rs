//! Documents: what a caller sends, and what a merge patch makes of it.
//!
//! A document is kept as the bytes that were sent. A patch (RFC 7396) copies the
//! bytes of every member that it does not name, so that unknown fields, big
//! integers and exact decimals survive it.

use super::json::{Json, write_string};
use super::rejection::EntityRejection;
use crate::limits;
use std::collections::BTreeMap;

/// A document that was read and found to be a JSON object within the limits.
#[derive(Clone, Debug)]
pub struct Document<'t> {
    json: Json<'t>,
}

impl<'t> Document<'t> {
    /// Reads a document. `field` is what the request calls it.
    ///
    /// # Errors
    ///
    /// [`EntityRejection::TooLarge`], [`EntityRejection::NotJson`], or
    /// [`EntityRejection::InvalidField`] if it is not UTF-8 or not an object.
    pub fn parse(field: &'static str, bytes: &'t [u8]) -> Result<Self, EntityRejection> {
        let limit = limits::DOCUMENT_BYTES_MAX as u64;
        if bytes.len() as u64 > limit {
            let actual = bytes.len() as u64;
            return Err(EntityRejection::TooLarge { field, actual, limit });
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let problem = format!("it is not UTF-8 text from byte {} on", error.valid_up_to());
            EntityRejection::invalid(field, problem)
        })?;
        let json = Json::parse(text).map_err(|error| EntityRejection::NotJson { field, error })?;
        if json.as_object().is_none() {
            let problem = format!("it is {}, it has to be an object", json.kind());
            return Err(EntityRejection::invalid(field, problem));
        }
        Ok(Self { json })
    }

    /// The document as a tree.
    pub fn json(&self) -> &Json<'t> {
        &self.json
    }

    /// The names of the top-level members that differ between two documents,
    /// and whether each is still there in this one.
    pub fn sections_changed_since(&self, before: &Document<'_>) -> BTreeMap<String, bool> {
        let mut changed = BTreeMap::new();
        let (now, before) = (self.json.as_object(), before.json.as_object());
        let (now, before) = (now.expect("parsed as one"), before.expect("parsed as one"));
        for member in now {
            let same = before.get(&member.name).is_some_and(|old| old.same(&member.value));
            if !same {
                changed.insert(member.name.clone().into_owned(), true);
            }
        }
        for member in before.iter().filter(|member| now.get(&member.name).is_none()) {
            changed.insert(member.name.clone().into_owned(), false);
        }
        changed
    }
}

/// What `patch` makes of `target`, after RFC 7396.
pub fn merge(target: &Json<'_>, patch: &Json<'_>) -> String {
    let mut out = String::with_capacity(target.text.len() + patch.text.len());
    write_merged(Some(target), patch, &mut out);
    out
}

fn write_merged(target: Option<&Json<'_>>, patch: &Json<'_>, out: &mut String) {
    let Some(changes) = patch.as_object() else {
        out.push_str(patch.text);
        return;
    };
    let members = target.and_then(Json::as_object);
    let mut separator = '{';
    let mut name = |name: &str, out: &mut String| {
        out.push(separator);
        separator = ',';
        write_string(name, out);
        out.push(':');
    };
    for member in members.into_iter().flat_map(|members| members.iter()) {
        match changes.get(&member.name) {
            Some(change) if change.is_null() => {}
            Some(change) => {
                name(&member.name, out);
                write_merged(Some(&member.value), change, out);
            }
            None => {
                name(&member.name, out);
                out.push_str(member.value.text);
            }
        }
    }
    for change in changes {
        let known = members.is_some_and(|members| members.get(&change.name).is_some());
        if !known && !change.value.is_null() {
            name(&change.name, out);
            write_merged(None, &change.value, out);
        }
    }
    out.push_str(if separator == '{' { "{}" } else { "}" });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn merged(target: &str, patch: &str) -> String {
        merge(&Json::parse(target).unwrap(), &Json::parse(patch).unwrap())
    }

    /// RFC 7396, appendix A.
    #[test]
    fn the_examples_of_the_rfc() {
        let check = |target: &str, patch: &str, expected: &str| {
            assert_eq!(merged(target, patch), expected, "{target} {patch}");
        };
        check(r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#);
        check(r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#);
        check(r#"{"a":"b"}"#, r#"{"a":null}"#, r"{}");
        check(r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#);
        check(r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#);
        check(r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#);
        check(r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#);
        check(r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#);
        check(r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#);
        check(r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#);
        check(r#"{"a":"foo"}"#, r"null", r"null");
        check(r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#);
        check(r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#);
        check(r"[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#);
        check(r"{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#);
    }

    /// RFC 7396, section 3.
    #[test]
    fn the_worked_example_of_the_rfc() {
        let target = r#"{"title":"Goodbye!","author":{"givenName":"John","familyName":"Doe"},"tags":["example","sample"],"content":"This will be unchanged"}"#;
        let patch = r#"{"title":"Hello!","phoneNumber":"+01-123-456-7890","author":{"familyName":null},"tags":["example"]}"#;
        let expected = r#"{"title":"Hello!","author":{"givenName":"John"},"tags":["example"],"content":"This will be unchanged","phoneNumber":"+01-123-456-7890"}"#;
        assert_eq!(merged(target, patch), expected);
    }

    #[test]
    fn what_a_patch_does_not_name_keeps_its_bytes() {
        let target = r#"{"big": 123456789012345678901234567890, "exact": 0.10, "far": 1e999,
            "odd": { "spaced" :  [ 1 ,2 ] , "escaped": "\u00e9\/" }, "touched": {"x": 1.50, "y": 2}}"#;
        let expected = concat!(
            r#"{"big":123456789012345678901234567890,"exact":0.10,"far":1e999,"#,
            r#""odd":{ "spaced" :  [ 1 ,2 ] , "escaped": "\u00e9\/" },"#,
            r#""touched":{"x":1.50,"y":3}}"#
        );
        assert_eq!(merged(target, r#"{"touched":{"y":3}}"#), expected);
    }

    #[test]
    fn a_document_is_an_object_within_limits() {
        let check = |bytes: &[u8], expected: &str| {
            let error = Document::parse("document", bytes).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        check(b"[1]", "document: it is an array, it has to be an object");
        check(b"{\"a\":\xff}", "document: it is not UTF-8 text from byte 5 on");
        check(
            b"{\"a\":1,\"a\":2}",
            "document is not valid JSON: an object has the same member twice at line 1, column 12",
        );
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(limits::DOCUMENT_BYTES_MAX));
        check(large.as_bytes(), "document is 1048584, the limit is 1048576");
    }

    #[test]
    fn sections_change_by_meaning() {
        let check = |before: &str, now: &str, expected: &[(&str, bool)]| {
            let before = Document::parse("document", before.as_bytes()).unwrap();
            let now = Document::parse("document", now.as_bytes()).unwrap();
            let changed = now.sections_changed_since(&before);
            let changed: Vec<_> =
                changed.iter().map(|(name, there)| (name.as_str(), *there)).collect();
            assert_eq!(changed, expected);
        };
        check(r#"{"a":{"x":1,"y":2},"b":1}"#, r#"{"b":1, "a":{"y":2, "x":1}}"#, &[]);
        check(r#"{"a":1,"b":1}"#, r#"{"a":2,"c":1}"#, &[("a", true), ("b", false), ("c", true)]);
    }

    /// RFC 7396, section 2, as it is written there.
    fn model(target: Value, patch: &Value) -> Value {
        let Value::Object(changes) = patch else { return patch.clone() };
        let mut members = match target {
            Value::Object(members) => members,
            _ => serde_json::Map::new(),
        };
        for (name, change) in changes {
            if change.is_null() {
                members.shift_remove(name);
            } else {
                let target = members.get(name).cloned().unwrap_or(Value::Null);
                members.insert(name.clone(), model(target, change));
            }
        }
        Value::Object(members)
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i32>().prop_map(Into::into),
            "[a-c\"\\\\é]{0,3}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::vec(("[a-d/~\"]{1,2}", inner), 0..6).prop_map(|members| members
                    .into_iter()
                    .collect::<serde_json::Map<_, _>>()
                    .into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_is_what_the_rfc_says(target in value(), patch in value()) {
            let text = merged(&target.to_string(), &patch.to_string());
            let got: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(got, model(target, &patch));
        }

        #[test]
        fn patching_twice_changes_nothing_more(target in value(), patch in value()) {
            let once = merged(&target.to_string(), &patch.to_string());
            let twice = merged(&once, &patch.to_string());
            prop_assert_eq!(once, twice);
        }
    }
}
