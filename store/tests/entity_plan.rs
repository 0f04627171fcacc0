//! Whatever is asked of an entity in whatever order, the promises hold.
//!
//! Random operations run against the planner, with a map in the place of the
//! store that applies each planned transaction as the state machine would.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

use bytes::Bytes;
use keelstone_store::entity::json::Json;
use keelstone_store::entity::request::{Create, Delete, EnvelopeChange, Patch, Resolve, Update};
use keelstone_store::entity::schema::Schema;
use keelstone_store::entity::{
    Action, Entity, EntityId, EntityRejection, EntityState, Precondition, Request, TypeId, keys,
    plan,
};
use keelstone_store::machine::{Op, Record, Txn};
use keelstone_store::{Key, KeyRange, Millis, Revision};
use proptest::prelude::*;
use std::collections::BTreeMap;

const UUID: &str = "5e0a7b9c-0f3d-4f0e-9a53-0d1c2b3a4f5e";

/// A field that no operation names, in a spelling that nobody would produce.
const UNKNOWN: &str = r#""unknown": { "big":123456789012345678901234567890 ,"x" : [ 0.10,1E+2 ] }"#;

fn type_id(minor: u8) -> TypeId {
    format!("urn:vcloud:type:acme:thing:1.{minor}.0").parse().unwrap()
}

fn id() -> EntityId {
    EntityId::new(type_id(0).name, UUID).unwrap()
}

/// Version 1.1.0 asks for more than 1.0.0.
fn schema(id: &TypeId) -> Schema {
    let required = if id.version.minor == 0 { "" } else { r#""required": ["size"],"# };
    let text = format!("{{{required} \"properties\": {{\"size\": {{\"type\": \"integer\"}}}}}}");
    Schema::compile(text.as_bytes()).unwrap()
}

#[derive(Clone, Debug)]
enum Asked {
    Create { resolve: bool, finalizers: u8, document: u8 },
    Update { minor: Option<u8>, begin: bool, finalizers: Option<u8>, document: u8 },
    Patch { finalizers: Option<u8>, body: u8, rename: bool },
    Delete,
    Resolve,
}

fn asked() -> impl Strategy<Value = (Asked, u8)> {
    let create = (any::<bool>(), 0..3_u8, 0..4_u8).prop_map(|(resolve, finalizers, document)| {
        Asked::Create { resolve, finalizers, document }
    });
    let update =
        (prop::option::of(0..2_u8), prop::bool::weighted(0.1), prop::option::of(0..3_u8), 0..4_u8);
    let update = update.prop_map(|(minor, begin, finalizers, document)| Asked::Update {
        minor,
        begin,
        finalizers,
        document,
    });
    let patch = (prop::option::weighted(0.2, 0..3_u8), 0..5_u8, any::<bool>())
        .prop_map(|(finalizers, body, rename)| Asked::Patch { finalizers, body, rename });
    let asked = prop_oneof![2 => create, 2 => update, 4 => patch, 1 => Just(Asked::Delete), 2 => Just(Asked::Resolve)];
    (asked, 0..4_u8)
}

fn document(number: u8) -> Bytes {
    let size = [r#""size": 1, "#, r#""size": "x", "#, r#""size": null, "#, ""][usize::from(number)];
    format!("{{{size}\"part\": {{\"a\": {number}}}, {UNKNOWN}}}").into()
}

fn finalizers(number: u8) -> Vec<String> {
    ["one", "two"][..usize::from(number)].iter().map(|name| (*name).to_owned()).collect()
}

fn request(asked: &Asked, precondition: Precondition) -> Request {
    let id = id();
    match asked.clone() {
        Asked::Create { resolve, finalizers: held, document: number } => Request::Create(Create {
            id,
            type_id: type_id(0),
            name: "thing".to_owned(),
            external_id: String::new(),
            org: "acme".to_owned(),
            owner: String::new(),
            document: document(number),
            resolve,
            finalizers: finalizers(held),
        }),
        Asked::Update { minor, begin, finalizers: held, document: number } => {
            Request::Update(Update {
                id,
                precondition,
                document: document(number),
                envelope: EnvelopeChange {
                    finalizers: held.map(finalizers),
                    ..EnvelopeChange::default()
                },
                type_id: minor.map(type_id),
                begin_deletion: begin,
            })
        }
        Asked::Patch { finalizers: held, body, rename } => {
            let bodies = [
                r#"{"size": 2}"#,
                r#"{"size": "bad"}"#,
                r#"{"size": null}"#,
                "{}",
                r#"{"part": {"b": true}}"#,
            ];
            Request::Patch(Patch {
                id,
                precondition,
                merge_patch: Bytes::from_static(bodies[usize::from(body)].as_bytes()),
                envelope: EnvelopeChange {
                    name: rename.then(|| format!("name-{body}")),
                    finalizers: held.map(finalizers),
                    ..EnvelopeChange::default()
                },
            })
        }
        Asked::Delete => Request::Delete(Delete { id, precondition }),
        Asked::Resolve => Request::Resolve(Resolve { id, precondition }),
    }
}

/// The store, as far as planned transactions need one.
#[derive(Default)]
struct Store {
    revision: u64,
    keys: BTreeMap<Key, Record>,
}

impl Store {
    fn entity(&self) -> Option<Entity> {
        self.keys.get(&keys::entity(&id())).map(|record| Entity::decode(record).unwrap())
    }

    fn apply(&mut self, txn: &Txn) -> Revision {
        self.revision += 1;
        let revision = Revision::new(self.revision);
        assert_eq!(txn.compares.len(), 1, "every plan is guarded");
        for op in &txn.then {
            match op {
                Op::Put(put) => {
                    let created = self.keys.get(&put.key).map_or(revision, |old| old.created);
                    let value = put.value.clone();
                    let record = Record { value, created, modified: revision, ..Record::default() };
                    self.keys.insert(put.key.clone(), record);
                }
                Op::Delete(delete) => {
                    let before = self.keys.len();
                    self.keys.retain(|key, _| KeyRange::single(key) != delete.range);
                    assert_eq!(self.keys.len(), before - 1, "what is deleted was there");
                }
                Op::Range(_) | Op::Txn(_) => panic!("a plan only writes"),
            }
        }
        revision
    }
}

fn valid(entity: &Entity) -> bool {
    let text = std::str::from_utf8(&entity.document).unwrap();
    schema(&entity.type_id).validate(&Json::parse(text).unwrap()).is_ok()
}

fn check_promises(store: &Store, entity: &Entity) -> Result<(), TestCaseError> {
    let text = std::str::from_utf8(&entity.document).unwrap();
    prop_assert!(text.contains(&UNKNOWN[11..]), "unknown fields keep their bytes: {}", text);
    prop_assert!(entity.state != EntityState::Resolved || valid(entity), "resolved means valid");
    let failed = entity.state == EntityState::ResolutionError;
    prop_assert_eq!(failed, !entity.message.is_empty(), "only a failure has a message");
    let rows = keys::index_rows(&entity.id, &entity.type_id, &entity.org);
    prop_assert_eq!(store.keys.len(), rows.len() + 1);
    prop_assert!(rows.iter().all(|row| store.keys.contains_key(row)), "the index is right");
    Ok(())
}

/// What a step may do to an entity that was there.
fn check_step(before: &Entity, after: &Entity, now: Millis) -> Result<(), TestCaseError> {
    prop_assert_eq!(&before.id, &after.id);
    prop_assert_eq!(&before.org, &after.org);
    prop_assert_eq!(before.created, after.created);
    prop_assert!(after.modified >= before.modified && after.modified <= now.max(before.modified));
    if before.state == EntityState::InDeletion {
        prop_assert_eq!(after.state, EntityState::InDeletion, "there is no way back");
        let kept = after.finalizers.iter().all(|name| before.finalizers.contains(name));
        prop_assert!(kept, "no finalizer is added");
    }
    let (old, new) = (Json::parse(std::str::from_utf8(&before.document).unwrap()).unwrap(), after);
    let new = Json::parse(std::str::from_utf8(&new.document).unwrap()).unwrap();
    for name in ["size", "part", "unknown"] {
        let pointer = format!("/{name}");
        let same = match (old.pointer(&pointer), new.pointer(&pointer)) {
            (Some(old), Some(new)) => old.same(new),
            (None, None) => true,
            _ => false,
        };
        let moved = after.sections.changed(name) != before.sections.changed(name);
        prop_assert!(same || moved, "a change of {} is noted", name);
    }
    Ok(())
}

proptest! {
    #[test]
    fn promises_hold_whatever_is_asked(steps in prop::collection::vec(asked(), 1..40)) {
        let mut store = Store { revision: 1, ..Store::default() };
        for (step, (asked, choice)) in steps.into_iter().enumerate() {
            let now = Millis(1000 + step as u64 * u64::from(choice));
            let before = store.entity();
            let current = before.as_ref().map_or(Revision::ZERO, |entity| entity.revision);
            let precondition = match choice {
                0 => Precondition::IfRevision(current.previous()),
                1 => Precondition::IfRevision(current),
                _ => Precondition::Unconditional,
            };
            let request = request(&asked, precondition);
            let schema = request.type_id(before.as_ref()).map(schema);
            let planned = plan(&request, before.as_ref(), schema.as_ref(), now);
            match planned {
                Err(EntityRejection::Conflict { expected, .. }) => {
                    prop_assert!(expected != current);
                }
                Err(EntityRejection::Exists { .. }) => prop_assert!(before.is_some()),
                Err(EntityRejection::NotFound(_)) => prop_assert!(before.is_none()),
                Err(_) => {}
                Ok(planned) => match planned.action {
                    Action::Nothing => prop_assert_eq!(Some(planned.entity), before),
                    Action::Delete(txn) => {
                        store.apply(&txn);
                        prop_assert!(store.keys.is_empty(), "nothing is left");
                        prop_assert!(before.is_some());
                    }
                    Action::Write(txn) => {
                        let revision = store.apply(&txn);
                        let after = store.entity().expect("it was written");
                        prop_assert_eq!(&planned.entity.stored_at(revision), &after);
                        check_promises(&store, &after)?;
                        if let Some(before) = before {
                            check_step(&before, &after, now)?;
                        }
                    }
                },
            }
        }
    }
}

/// The random operations reach every state and every kind of answer; without
/// this, the property could hold because nothing happens.
#[test]
fn the_operations_reach_everything() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeMap::<String, usize>::new();
    for _ in 0..100 {
        let steps = prop::collection::vec(asked(), 30).new_tree(&mut runner).unwrap().current();
        let mut store = Store { revision: 1, ..Store::default() };
        for (asked, choice) in steps {
            let before = store.entity();
            let precondition = match choice {
                0 => Precondition::IfRevision(Revision::new(1)),
                _ => Precondition::Unconditional,
            };
            let request = request(&asked, precondition);
            let schema = request.type_id(before.as_ref()).map(schema);
            let answer = match plan(&request, before.as_ref(), schema.as_ref(), Millis(1)) {
                Err(rejection) => rejection.reason().to_owned(),
                Ok(planned) => match planned.action {
                    Action::Nothing => "nothing".to_owned(),
                    Action::Delete(txn) => {
                        store.apply(&txn);
                        "gone".to_owned()
                    }
                    Action::Write(txn) => {
                        store.apply(&txn);
                        planned.entity.state.to_string()
                    }
                },
            };
            *seen.entry(answer).or_default() += 1;
        }
    }
    for answer in [
        "nothing",
        "gone",
        "PRE_CREATED",
        "RESOLVED",
        "RESOLUTION_ERROR",
        "IN_DELETION",
        "conflict",
        "already_exists",
        "entity_not_found",
        "document_invalid",
        "wrong_state",
        "finalizer_added",
    ] {
        assert!(seen.get(answer).is_some_and(|times| *times >= 5), "{answer} in {seen:?}");
    }
}
