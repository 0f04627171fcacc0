//! JSON Schema, draft-04 to 2020-12, as real types need it.
//!
//! A schema that does not name its draft is draft-04, keywords that the draft
//! does not know are ignored, and everything that it refers to has to be in it.
//! A member that is null where the schema does not allow null counts as absent;
//! `docs/decisions/0101-null-counts-as-absent.md` says how and why.

use super::json::{Json, JsonError};
use super::view::{Tree, to_value};
use crate::limits;
use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, PatternOptions, Uri, ValidationError, Validator};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Problems that are reported of one document.
const PROBLEMS_MAX: usize = 20;
/// Characters of one problem's message.
const MESSAGE_CHARS_MAX: usize = 240;
/// How often null members are dropped and the rest is validated again. Each
/// time drops at least one; more than a few are needed only if dropping one
/// makes the schema look at others, through `if` or `dependencies`.
const NULL_ROUNDS_MAX: usize = 8;
/// Steps that a regular expression may go back.
const BACKTRACK_MAX: usize = 100_000;

/// A compiled schema.
pub struct Schema {
    validator: Validator<Tree>,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Schema")
    }
}

/// Why a schema cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// It is not JSON.
    #[error("it is not valid JSON: {0}")]
    NotJson(#[from] JsonError),
    /// It is not UTF-8.
    #[error("it is not UTF-8 text")]
    NotUtf8,
    /// It is not an object.
    #[error("it is {0}, not an object")]
    NotAnObject(&'static str),
    /// It is too large.
    #[error("it is {actual} bytes, the limit is {limit}")]
    TooLarge {
        /// Its size in bytes.
        actual: usize,
        /// The limit.
        limit: usize,
    },
    /// `$schema` names something that is not a known draft.
    #[error("$schema names {0}, which is none of draft-04, 06, 07, 2019-09 and 2020-12")]
    UnknownDraft(String),
    /// It refers to something that is not in it.
    #[error("it refers to {0}, which is not in it; references to other documents are not followed")]
    RemoteRef(String),
    /// It breaks the rules of its draft.
    #[error("{message} (at {pointer})")]
    Invalid {
        /// Where in the schema.
        pointer: String,
        /// What is wrong there.
        message: String,
    },
}

/// What is wrong with a document, at most twenty problems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The first ones.
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub more: usize,
}

/// One thing that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: a JSON pointer, empty for the whole document.
    pub pointer: String,
    /// What: the schema's demand, without the document's value.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.pointer.is_empty() { "/" } else { &self.pointer };
        write!(f, "{place}: {}", self.message)
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{problem}")?;
        }
        if self.more == 0 { Ok(()) } else { write!(f, "; and {} more", self.more) }
    }
}

impl Schema {
    /// Compiles a schema.
    ///
    /// # Errors
    ///
    /// [`SchemaError`] says what is wrong with it.
    pub fn compile(bytes: &[u8]) -> Result<Self, SchemaError> {
        let text = text_of(bytes)?;
        let json = Json::parse(text)?;
        if json.as_object().is_none() {
            return Err(SchemaError::NotAnObject(json.kind()));
        }
        let draft = draft_of(&json)?;
        let schema = to_value(&json);
        let patterns = PatternOptions::fancy_regex().backtrack_limit(BACKTRACK_MAX);
        let options = jsonschema::options_for::<Tree>()
            .with_draft(draft)
            .with_retriever(NothingElsewhere)
            .with_pattern_options(patterns);
        let validator = options.build(&schema).map_err(|error| explain(&error))?;
        Ok(Self { validator })
    }

    /// Whether `document` matches the schema, with null members that the
    /// schema does not allow counted as absent.
    ///
    /// # Errors
    ///
    /// [`Invalid`] with the problems that are left when those nulls are dropped.
    pub fn validate(&self, document: &Json<'_>) -> Result<(), Invalid> {
        if self.validator.is_valid(document) {
            return Ok(());
        }
        let mut rest = document.clone();
        for _ in 0..NULL_ROUNDS_MAX {
            let refused = self.refused_nulls(&rest);
            if refused.is_empty() {
                break;
            }
            let mut dropped = false;
            for pointer in refused {
                dropped |= rest.remove(&pointer);
            }
            if self.validator.is_valid(&rest) {
                return Ok(());
            }
            if !dropped {
                break;
            }
        }
        Err(self.problems(&rest))
    }

    /// Where the schema refuses a null.
    fn refused_nulls(&self, document: &Json<'_>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for error in self.validator.iter_errors(document) {
            collect_nulls(document, &error, &mut found);
        }
        found
    }

    fn problems(&self, document: &Json<'_>) -> Invalid {
        let mut errors = self.validator.iter_errors(document);
        let problem = |error: ValidationError<'_>| Problem {
            pointer: shortened(error.instance_path().as_str()),
            message: shortened(&error.masked().to_string()),
        };
        let problems = errors.by_ref().take(PROBLEMS_MAX).map(problem).collect();
        Invalid { problems, more: errors.count() }
    }
}

fn text_of(bytes: &[u8]) -> Result<&str, SchemaError> {
    let limit = limits::SCHEMA_BYTES_MAX;
    if bytes.len() > limit {
        return Err(SchemaError::TooLarge { actual: bytes.len(), limit });
    }
    std::str::from_utf8(bytes).map_err(|_| SchemaError::NotUtf8)
}

/// The draft that the schema names, draft-04 if it names none.
fn draft_of(schema: &Json<'_>) -> Result<Draft, SchemaError> {
    let Some(named) = schema.pointer("/$schema") else { return Ok(Draft::Draft4) };
    let super::json::Value::String(uri) = &named.value else {
        return Err(SchemaError::UnknownDraft(named.kind().to_owned()));
    };
    let plain = uri.trim_end_matches('#').trim_start_matches("http").trim_start_matches('s');
    Ok(match plain {
        "://json-schema.org/draft-04/schema" => Draft::Draft4,
        "://json-schema.org/draft-06/schema" => Draft::Draft6,
        "://json-schema.org/draft-07/schema" => Draft::Draft7,
        "://json-schema.org/draft/2019-09/schema" => Draft::Draft201909,
        "://json-schema.org/draft/2020-12/schema" => Draft::Draft202012,
        _ => return Err(SchemaError::UnknownDraft(shortened(uri))),
    })
}

/// Nothing is fetched: what a type means must not depend on a network.
struct NothingElsewhere;

impl jsonschema::Retrieve for NothingElsewhere {
    fn retrieve(
        &self,
        _uri: &Uri<String>,
    ) -> Result<serde_json::Value, Box<dyn std::error::Error + Send + Sync>> {
        Err("references to other documents are not followed".into())
    }
}

fn explain(error: &ValidationError<'_>) -> SchemaError {
    if let ValidationErrorKind::Referencing(jsonschema::ReferencingError::Unretrievable {
        uri,
        ..
    }) = error.kind()
    {
        let reference = uri.strip_prefix("json-schema:///").unwrap_or(uri);
        return SchemaError::RemoteRef(shortened(reference));
    }
    let pointer = error.instance_path().as_str();
    let pointer = if pointer.is_empty() { "/" } else { pointer }.to_owned();
    SchemaError::Invalid { pointer, message: shortened(&error.to_string()) }
}

/// Adds where `error` is about a null, also inside of alternatives.
fn collect_nulls(document: &Json<'_>, error: &ValidationError<'_>, found: &mut BTreeSet<String>) {
    let pointer = error.instance_path().as_str();
    if document.pointer(pointer).is_some_and(Json::is_null) {
        found.insert(pointer.to_owned());
        return;
    }
    if let ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } =
        error.kind()
    {
        for inner in context.iter().flatten() {
            collect_nulls(document, inner, found);
        }
    }
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(MESSAGE_CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// Compiled schemas by the hash of their content, the most recently used ones.
#[derive(Debug)]
pub struct SchemaCache {
    schemas_max: usize,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    clock: u64,
    schemas: BTreeMap<[u8; 32], (u64, Arc<Schema>)>,
}

impl SchemaCache {
    /// A cache that keeps at most `schemas_max` of them.
    pub fn new(schemas_max: usize) -> Self {
        Self { schemas_max: schemas_max.max(1), known: Mutex::default() }
    }

    /// The compiled form of the schema whose content has this hash.
    ///
    /// # Errors
    ///
    /// [`SchemaError`] if it cannot be used. That is not remembered.
    pub fn get(&self, hash: [u8; 32], schema: &[u8]) -> Result<Arc<Schema>, SchemaError> {
        if let Some(schema) = self.find(hash) {
            return Ok(schema);
        }
        // Compiled without the lock: it takes milliseconds. Two at once do the
        // work twice, and the second takes the place of the first.
        let compiled = Arc::new(Schema::compile(schema)?);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.clock += 1;
        let now = known.clock;
        known.schemas.insert(hash, (now, compiled.clone()));
        while known.schemas.len() > self.schemas_max {
            let least = known.schemas.iter().min_by_key(|(_, (last, _))| *last);
            let Some(oldest) = least.map(|(hash, _)| *hash) else { break };
            known.schemas.remove(&oldest);
        }
        Ok(compiled)
    }

    fn find(&self, hash: [u8; 32]) -> Option<Arc<Schema>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.clock += 1;
        let now = known.clock;
        let (last, schema) = known.schemas.get_mut(&hash)?;
        *last = now;
        Some(schema.clone())
    }

    /// How many are kept at the moment.
    pub fn len(&self) -> usize {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).schemas.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(text: &str) -> Schema {
        Schema::compile(text.as_bytes()).unwrap()
    }

    /// The problems, one on each line; empty if the document is valid.
    fn judge(schema: &Schema, document: &str) -> String {
        match schema.validate(&Json::parse(document).unwrap()) {
            Ok(()) => String::new(),
            Err(invalid) => invalid.to_string(),
        }
    }

    fn refused(text: &str) -> String {
        Schema::compile(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_null_that_the_schema_refuses_counts_as_absent() {
        let schema = schema(
            r##"{
            "definitions": {"release": {"type": "object", "required": ["version"]}},
            "required": ["kind"],
            "properties": {
                "kind": {"enum": ["Cluster"]},
                "size": {"type": "integer"},
                "note": {"type": ["string", "null"], "minLength": 1},
                "set": {"type": "array", "items": {"type": "object"}},
                "upgrade": {"properties": {
                    "current": {"$ref": "#/definitions/release"},
                    "previous": {"$ref": "#/definitions/release"}}},
                "either": {"anyOf": [
                    {"type": "object", "properties": {"a": {"type": "string"}}},
                    {"type": "string"}]},
                "one": {"oneOf": [{"properties": {"b": {"type": "string"}}, "required": ["c"]}]}
            }}"##,
        );
        let check = |document: &str, expected: &str| {
            assert_eq!(judge(&schema, document), expected, "{document}");
        };
        check(r#"{"kind": "Cluster", "size": null}"#, "");
        check(r#"{"kind": "Cluster", "note": null}"#, "");
        check(r#"{"kind": "Cluster", "set": null}"#, "");
        check(r#"{"kind": "Cluster", "unknown": null}"#, "");
        let previous =
            r#"{"kind": "Cluster", "upgrade": {"current": {"version": 1}, "previous": null}}"#;
        check(previous, "");
        check(r#"{"kind": "Cluster", "either": {"a": null}}"#, "");
        check(r#"{"kind": "Cluster", "one": {"b": null, "c": 1}}"#, "");
        check(r#"{"kind": null}"#, "/: \"kind\" is a required property");
        check(r#"{"kind": "Cluster", "set": [null]}"#, "/set/0: value is not of type \"object\"");
        check(
            r#"{"kind": "Cluster", "size": null, "upgrade": {"current": {"version": null}}}"#,
            "",
        );
        check(
            r#"{"kind": "Cluster", "size": "secret", "note": "", "upgrade": {"current": {}}}"#,
            "/size: value is not of type \"integer\"; \
             /note: value is shorter than 1 character; \
             /upgrade/current: \"version\" is a required property",
        );
    }

    #[test]
    fn slips_of_real_schemas_are_borne() {
        let names_for_items = schema(
            r#"{"properties": {"ends": {"type": "array", "items": {"host": {"type": "string"}}}}}"#,
        );
        assert_eq!(judge(&names_for_items, r#"{"ends": [{"host": 1}, 2]}"#), "");
        let tuple = schema(r#"{"properties": {"list": {"items": [{"type": "integer"}]}}}"#);
        assert_eq!(judge(&tuple, r#"{"list": [1, "more"]}"#), "");
        assert_eq!(
            judge(&tuple, r#"{"list": ["x"]}"#),
            "/list/0: value is not of type \"integer\""
        );
        let unknown = schema(
            r#"{"x-vcloud-restricted": ["private", 1], "properties": {"a": {"type": "string", "if": 3, "const": 1}}}"#,
        );
        assert_eq!(judge(&unknown, r#"{"a": "x"}"#), "", "draft-04 knows neither if nor const");
    }

    #[test]
    fn each_draft_has_its_own_keywords() {
        let check = |draft: &str, body: &str, document: &str, valid: bool| {
            let text = format!("{{\"$schema\": \"{draft}\", {body}}}");
            assert_eq!(judge(&schema(&text), document).is_empty(), valid, "{text} {document}");
        };
        let constant = r#""properties": {"a": {"const": 1}}"#;
        check("http://json-schema.org/draft-04/schema#", constant, r#"{"a": 2}"#, true);
        check("http://json-schema.org/draft-06/schema#", constant, r#"{"a": 2}"#, false);
        check("http://json-schema.org/draft-07/schema", constant, r#"{"a": 2}"#, false);
        let dependent = r#""dependentRequired": {"a": ["b"]}"#;
        check("http://json-schema.org/draft-07/schema#", dependent, r#"{"a": 2}"#, true);
        check("https://json-schema.org/draft/2019-09/schema", dependent, r#"{"a": 2}"#, false);
        let prefix = r#""properties": {"a": {"prefixItems": [{"type": "string"}]}}"#;
        check("https://json-schema.org/draft/2019-09/schema", prefix, r#"{"a": [2]}"#, true);
        check("https://json-schema.org/draft/2020-12/schema", prefix, r#"{"a": [2]}"#, false);
        let integer = r#""properties": {"a": {"type": "integer"}}"#;
        check("http://json-schema.org/draft-04/schema#", integer, r#"{"a": 1.0}"#, false);
        check("http://json-schema.org/draft-07/schema#", integer, r#"{"a": 1.0}"#, true);
        let long = r#"{"a": 123456789012345678901234567890}"#;
        check("http://json-schema.org/draft-04/schema#", integer, long, true);
    }

    #[test]
    fn unusable_schemas_are_refused_with_the_reason() {
        let check = |text: &str, expected: &str| assert_eq!(refused(text), expected, "{text}");
        check("[]", "it is an array, not an object");
        check(
            "{",
            "it is not valid JSON: the text ends in the middle of a value at line 1, column 2",
        );
        check(
            r#"{"$schema": "http://example.com/mine"}"#,
            "$schema names http://example.com/mine, which is none of draft-04, 06, 07, 2019-09 and 2020-12",
        );
        let elsewhere = "which is not in it; references to other documents are not followed";
        for reference in ["https://example.com/a.json", "other.json"] {
            let text = format!("{{\"properties\": {{\"a\": {{\"$ref\": \"{reference}\"}}}}}}");
            check(&text, &format!("it refers to {reference}, {elsewhere}"));
        }
        let wrong = refused(r#"{"properties": {"a": {"type": "strng"}}}"#);
        assert!(wrong.contains("(at /properties/a/type)"), "{wrong}");
        let nowhere = refused(r##"{"properties": {"a": {"$ref": "#/definitions/none"}}}"##);
        assert!(nowhere.contains("/definitions/none"), "{nowhere}");
        let pattern = refused(r#"{"properties": {"a": {"pattern": "("}}}"#);
        assert!(pattern.contains("/properties/a/pattern"), "{pattern}");
        let large = Schema::compile(&vec![b' '; limits::SCHEMA_BYTES_MAX + 1]).unwrap_err();
        assert_eq!(large.to_string(), "it is 524289 bytes, the limit is 524288");
    }

    #[test]
    fn a_schema_that_refers_to_itself_ends() {
        let tree =
            schema(r##"{"properties": {"child": {"$ref": "#"}, "n": {"type": "integer"}}}"##);
        let deep = format!("{}{{\"n\": 1}}{}", "{\"child\":".repeat(60), "}".repeat(60));
        assert_eq!(judge(&tree, &deep), "");
        assert_eq!(judge(&tree, &deep.replace('1', "\"1\"")).matches("integer").count(), 1);
        if let Ok(loops) = Schema::compile(br##"{"$ref": "#"}"##) {
            let _ = judge(&loops, "{}");
        }
    }

    #[test]
    fn problems_are_bounded() {
        let schema = schema(r#"{"additionalProperties": {"type": "integer"}}"#);
        let members: Vec<_> =
            (0..100).map(|at| format!("\"{}{at}\": \"x\"", "k".repeat(500))).collect();
        let text = format!("{{{}}}", members.join(","));
        let invalid = schema.validate(&Json::parse(&text).unwrap()).unwrap_err();
        assert_eq!((invalid.problems.len(), invalid.more), (PROBLEMS_MAX, 100 - PROBLEMS_MAX));
        assert!(invalid.to_string().len() < 20_000);
    }

    #[test]
    fn the_cache_keeps_the_ones_in_use() {
        let cache = SchemaCache::new(2);
        let text = |number: u8| format!("{{\"minProperties\": {number}}}");
        let get = |number: u8| cache.get([number; 32], text(number).as_bytes()).unwrap();
        let (first, second) = (get(1), get(2));
        assert!(Arc::ptr_eq(&first, &get(1)));
        get(3);
        assert_eq!(cache.len(), 2);
        assert!(Arc::ptr_eq(&first, &get(1)), "used more recently than the second");
        assert!(!Arc::ptr_eq(&second, &get(2)), "compiled anew");
        assert!(cache.get([9; 32], b"{").is_err());
        assert_eq!(cache.len(), 2);
    }
}
