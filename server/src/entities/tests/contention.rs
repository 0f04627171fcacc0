//! Many writers of one entity.

use super::*;
use serde_json::Value;

/// Two nodes, eight writers, each with a section of its own: no write is lost.
#[tokio::test]
async fn no_section_is_lost() {
    let bench = Bench::new().await;
    let id = bench.create("{}").await.id;
    bench.bend(|bend| bend.yields = true);
    let clock: Clock = Arc::new(|| Millis(1));
    let other = Arc::new(Entities::new(bench.core.clone(), clock));
    let mut writers = Vec::new();
    for writer in 0..8 {
        let node = if writer % 2 == 0 { bench.entities.clone() } else { other.clone() };
        let id = id.clone();
        writers.push(tokio::spawn(async move {
            let mut given_up = 0;
            for count in 1..=25 {
                let body = format!("{{\"w{writer}\":{{\"count\":{count},\"c{count}\":true}}}}");
                let request = patch(&id, Precondition::Unconditional, &body);
                let write = Write { request, write_id: None };
                while let Err(error) = node.write(&write, deadline()).await {
                    assert_eq!(error.reason(), "contended", "{error}");
                    given_up += 1;
                }
            }
            given_up
        }));
    }
    let mut given_up = 0;
    for writer in writers {
        given_up += writer.await.unwrap();
    }
    let entity = bench.get(&id).await.unwrap();
    let document: Value = serde_json::from_slice(&entity.document).unwrap();
    for writer in 0..8 {
        let section = &document[format!("w{writer}")];
        assert_eq!(section["count"], 25, "writer {writer}");
        assert_eq!(section.as_object().unwrap().len(), 26, "writer {writer}");
    }
    assert_eq!(entity.revision.get(), entity.create_revision.get() + 200);
    assert!(given_up < 20, "{given_up} writes were given up");
}

/// Within one node, the latch spares all retries.
#[tokio::test]
async fn writers_of_one_node_do_not_collide() {
    let bench = Bench::new().await;
    let id = bench.create("{}").await.id;
    bench.bend(|bend| {
        bend.yields = true;
        (bend.proposals, bend.linearizable) = (0, 0);
    });
    let mut writers = Vec::new();
    for writer in 0..20 {
        let (entities, id) = (bench.entities.clone(), id.clone());
        writers.push(tokio::spawn(async move {
            let body = format!("{{\"w{writer}\":1}}");
            let request = patch(&id, Precondition::Unconditional, &body);
            entities.write(&Write { request, write_id: None }, deadline()).await.unwrap();
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    bench.bend(|bend| assert_eq!((bend.proposals, bend.linearizable), (20, 0)));
}

/// Somebody else is always faster.
#[tokio::test]
async fn a_write_that_is_given_up_is_no_success() {
    let bench = Bench::new().await;
    let id = bench.create(r#"{"size": 1}"#).await.id;
    let (solo, target, mut count) = (bench.solo().clone(), id.clone(), 0);
    bench.bend(|bend| {
        bend.before_proposal = Some(Box::new(move || {
            count += 1;
            touch(&solo, &target, count);
        }));
    });
    let error = bench.write(patch(&id, Precondition::Unconditional, r#"{"mine": true}"#)).await;
    let error = error.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the entity was changed by others 10 times while the write was planned"
    );
    assert!(!error.may_take_effect());
    bench.bend(|bend| bend.before_proposal = None);
    let entity = bench.get(&id).await.unwrap();
    assert_eq!(text(&entity), r#"{"size": 10}"#);
}

#[tokio::test]
async fn a_deadline_ends_the_tries() {
    let bench = Bench::new().await;
    let id = bench.create(r#"{"size": 1}"#).await.id;
    let (solo, target, mut count) = (bench.solo().clone(), id.clone(), 0);
    bench.bend(|bend| {
        bend.before_proposal = Some(Box::new(move || {
            count += 1;
            touch(&solo, &target, count);
        }));
    });
    let request = patch(&id, Precondition::Unconditional, r#"{"mine": true}"#);
    let write = Write { request, write_id: None };
    let error = bench.entities.write(&write, Instant::now()).await.unwrap_err();
    assert_eq!(error.reason(), "contended");
}

/// A node that is behind neither refuses wrongly nor overwrites.
#[tokio::test]
async fn old_local_state_is_not_believed() {
    let bench = Bench::new().await;
    let empty = bench.solo().state().view().unwrap();
    let id = bench.create(r#"{"size": 1}"#).await.id;
    bench.bend(|bend| bend.stale = Some(empty.clone()));
    bench.write(patch(&id, Precondition::Unconditional, r#"{"a": 1}"#)).await.unwrap();

    let old = bench.solo().state().view().unwrap();
    bench.write(patch(&id, Precondition::Unconditional, r#"{"b": 1}"#)).await.unwrap();
    bench.bend(|bend| bend.stale = Some(old.clone()));
    bench.write(patch(&id, Precondition::Unconditional, r#"{"c": 1}"#)).await.unwrap();
    let entity = bench.get(&id).await.unwrap();
    assert_eq!(text(&entity), r#"{"size":1,"a":1,"b":1,"c":1}"#);

    bench.bend(|bend| bend.stale = Some(old));
    let nothing = bench.write(patch(&id, Precondition::Unconditional, r#"{"b": null}"#)).await;
    let nothing = nothing.unwrap().value.entity.unwrap();
    assert_eq!(
        text(&nothing),
        r#"{"size":1,"a":1,"c":1}"#,
        "it was there, though not in the old state"
    );
    bench.bend(|bend| bend.stale = Some(empty));
    let exists = bench.create_with(creation("{}")).await.unwrap_err();
    assert_eq!(exists.reason(), "already_exists");
}

/// Changes the entity behind everybody's back.
fn touch(solo: &Solo, id: &EntityId, count: u64) {
    use keelstone_store::entity::keys;
    use keelstone_store::machine::{Op, Put, Txn};
    let key = keys::entity(id);
    let record = solo.state().view().unwrap().get(&key).unwrap().unwrap();
    let mut entity = Entity::decode(&record).unwrap();
    entity.document = format!("{{\"size\": {count}}}").into();
    let then = vec![Op::Put(Put::new(key, entity.encode()))];
    solo.apply_command(Command::Txn(Txn { then, ..Txn::default() })).unwrap();
}
