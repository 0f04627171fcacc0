//! Types and entities, typed and not.

use keelstone_client::{
    Client, Deletion, EntityEvent, EntityFilter, EntityState, EntityType, EnvelopeChange,
    ErrorKind, NewEntity, NewType, Precondition, TypeFilter,
};
use keelstone_tests::running::Running;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;

const TYPE_ID: &str = "urn:vcloud:type:test:cluster:1.0.0";

/// Knows less than there is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Cluster {
    name: String,
    #[serde(default)]
    counter: u64,
    #[serde(default)]
    pools: Vec<Pool>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Pool {
    name: String,
    size: u32,
}

impl EntityType for Cluster {
    const TYPE_ID: &'static str = TYPE_ID;
}

async fn register(client: &Client) {
    let schema = json!({
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "counter": {"type": "integer"}},
    });
    let new = NewType {
        vendor: "test".into(),
        nss: "cluster".into(),
        version: "1.0.0".into(),
        name: "Cluster".into(),
        schema: schema.to_string().into(),
        ..NewType::default()
    };
    let (record, created) = client.types().register(new.clone()).await.unwrap();
    assert_eq!((record.id.as_str(), created), (TYPE_ID, true));
    let (_, again) = client.types().register(new.clone()).await.unwrap();
    assert!(!again, "the same content is no change");
    let other = NewType { schema: json!({"type": "object"}).to_string().into(), ..new };
    let error = client.types().register(other).await.unwrap_err();
    assert!(error.is_conflict(), "{error:?}");
}

fn full_document() -> String {
    json!({
        "name": "prod",
        "counter": 0,
        "pools": [{"name": "a", "size": 1, "foreign": "A"}, {"name": "b", "size": 2, "foreign": "B"}],
        "status": {"foreign": {"deep": true}},
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn entities_live_and_go() {
    let running = Running::three().await;
    let client = &running.client;
    register(client).await;
    let (types, _) = client.types().list(TypeFilter::default()).await.unwrap();
    assert_eq!(types.len(), 1);
    assert_eq!(client.types().get(TYPE_ID).await.unwrap().id, TYPE_ID);

    let documents = client.documents();
    let new = NewEntity::named("prod").org("acme").owner("alice").finalizer("worker");
    let created = documents.create(TYPE_ID, new, full_document()).await.unwrap();
    assert_eq!(created.state, EntityState::PreCreated);
    assert_eq!(&created.document[..], full_document().as_bytes(), "as it was written");
    let id = &created.id;
    let resolved = documents.resolve(id, Precondition::Unconditional).await.unwrap();
    assert_eq!(resolved.state, EntityState::Resolved);

    let mut watch = documents
        .watch(EntityFilter { type_prefix: TYPE_ID.into(), ..EntityFilter::default() })
        .after(created.revision)
        .start()
        .await
        .unwrap();
    let stale = Precondition::IfRevision(created.revision);
    let patch = json!({"counter": 5}).to_string();
    let error = documents.patch(id, stale, patch.clone(), EnvelopeChange::new()).await.unwrap_err();
    let current_revision = resolved.revision;
    assert_eq!(error.kind(), &ErrorKind::Conflict { current_revision });
    let fresh = Precondition::IfRevision(resolved.revision);
    let patched =
        documents.patch(id, fresh, patch, EnvelopeChange::new().name("renamed")).await.unwrap();
    assert_eq!((patched.name.as_str(), patched.owner.as_str()), ("renamed", "alice"));
    let then = documents.get_at(id, created.revision).await.unwrap();
    assert_eq!(&then.document[..], full_document().as_bytes());

    let pending = documents.delete(id, Precondition::IfRevision(patched.revision)).await.unwrap();
    let Deletion::Pending(pending) = pending else { panic!("its finalizer keeps it") };
    assert_eq!(pending.state, EntityState::InDeletion);
    let none: [&str; 0] = [];
    let released = EnvelopeChange::new().finalizers(none);
    let guard = Precondition::IfRevision(pending.revision);
    let patched = documents.patch(id, guard, "{}", released).await;
    if patched.is_ok() {
        let gone = documents.delete(id, Precondition::Unconditional).await;
        assert!(gone.is_ok_and(|gone| gone == Deletion::Gone) || documents.get(id).await.is_err());
    }
    assert!(documents.get(id).await.unwrap_err().is_not_found());

    let history = documents.history(id, 10, None).await.unwrap();
    assert!(history.versions.len() >= 4, "{history:?}");
    assert!(history.versions[0].entity.is_none(), "the newest version is its end");

    let mut kinds = Vec::new();
    while kinds.last() != Some(&"deleted") {
        let changes = tokio::time::timeout(Duration::from_secs(10), watch.next()).await;
        for event in changes.unwrap().unwrap().unwrap().events {
            assert_eq!(&event.entity().id, id);
            kinds.push(match event {
                EntityEvent::Created(_) => "created",
                EntityEvent::Updated(_) => "updated",
                _ => "deleted",
            });
        }
    }
    assert!(kinds.len() >= 3 && kinds[0] == "updated", "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_of_one_entity_lose_nothing() {
    let running = Running::three().await;
    let client = &running.client;
    register(client).await;
    let created = client
        .documents()
        .create(TYPE_ID, NewEntity::named("prod"), full_document())
        .await
        .unwrap();
    let writers = (0..4).map(|_| {
        let (clusters, id) = (client.entities::<Cluster>(), created.id.clone());
        tokio::spawn(async move {
            for _ in 0..10 {
                clusters.modify(&id, |cluster| cluster.counter += 1).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let clusters = client.entities::<Cluster>();
    clusters.modify(&created.id, |cluster| cluster.pools[1].size = 9).await.unwrap();
    let unchanged = clusters.get(&created.id).await.unwrap();
    let same = clusters.modify(&created.id, |_| {}).await.unwrap();
    assert_eq!(same.revision, unchanged.revision, "no change is no write");

    let entity = client.documents().get(&created.id).await.unwrap();
    let document = entity.parse::<serde_json::Value>().unwrap().document;
    assert_eq!(document["counter"], 40);
    assert_eq!(document["pools"][1], json!({"name": "b", "size": 9, "foreign": "B"}));
    assert_eq!(document["status"], json!({"foreign": {"deep": true}}));

    let all = clusters.list().page_size(1).all().await.unwrap();
    assert_eq!(all.entities.len(), 1);
    let given_up = clusters.try_modify(&created.id, |_| Err("no")).await;
    assert!(matches!(given_up, Err(keelstone_client::ModifyError::GivenUp("no"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_entity_is_named() {
    let running = Running::three().await;
    let client = &running.client;
    register(client).await;
    let documents = client.documents();
    let new = || NewEntity::named("x");
    let error = documents.create(TYPE_ID, new(), "{not json").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid { .. }), "{error:?}");
    let unknown = "urn:vcloud:type:test:cluster:9.9.9";
    let error = documents.create(unknown, new(), "{}").await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotFound, "{error:?}");
    let large = json!({"name": "x".repeat(1 << 20)}).to_string();
    let error = documents.create(TYPE_ID, new(), large).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TooLarge { .. }), "{error:?}");

    let uuid = "0190f5de-0000-7000-8000-000000000001";
    let created = documents.create(TYPE_ID, new().uuid(uuid), full_document()).await.unwrap();
    assert!(created.id.ends_with(uuid));
    let error = documents.create(TYPE_ID, new().uuid(uuid), "{}").await.unwrap_err();
    assert!(error.is_conflict(), "{error:?}");

    let invalid = documents.create(TYPE_ID, new().resolve(), r#"{"name": 5}"#).await;
    // Validation is no error of the call.
    let invalid = invalid.unwrap();
    assert_eq!(invalid.state, EntityState::ResolutionError);
    assert!(!invalid.message.is_empty());
}
