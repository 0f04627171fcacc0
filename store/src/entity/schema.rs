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
            pointer: error.instance_path().as_str().to_owned(),
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
    uses: Mutex<Uses>,
}

#[derive(Debug, Default)]
struct Uses {
    clock: u64,
    schemas: BTreeMap<[u8; 32], (u64, Arc<Schema>)>,
}

impl SchemaCache {
    /// A cache that keeps at most `schemas_max` of them.
    pub fn new(schemas_max: usize) -> Self {
        Self { schemas_max: schemas_max.max(1), uses: Mutex::default() }
    }

    /// The compiled form of the schema whose content has this hash.
    ///
    /// # Errors
    ///
    /// [`SchemaError`] if it cannot be used. That is not remembered.
    pub fn get(&self, hash: [u8; 32], schema: &[u8]) -> Result<Arc<Schema>, SchemaError> {
        if let Some(known) = self.known(hash) {
            return Ok(known);
        }
        // Compiled without the lock: it takes milliseconds. Two at once do the
        // work twice, and the second takes the place of the first.
        let compiled = Arc::new(Schema::compile(schema)?);
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        uses.clock += 1;
        let now = uses.clock;
        uses.schemas.insert(hash, (now, compiled.clone()));
        while uses.schemas.len() > self.schemas_max {
            let oldest = uses.schemas.iter().min_by_key(|(_, (used, _))| *used);
            let Some(oldest) = oldest.map(|(hash, _)| *hash) else { break };
            uses.schemas.remove(&oldest);
        }
        Ok(compiled)
    }

    fn known(&self, hash: [u8; 32]) -> Option<Arc<Schema>> {
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        uses.clock += 1;
        let now = uses.clock;
        let (used, schema) = uses.schemas.get_mut(&hash)?;
        *used = now;
        Some(schema.clone())
    }

    /// How many are kept at the moment.
    pub fn len(&self) -> usize {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner).schemas.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
