//! Types, entities and configuration: the statuses of their refusals, and their
//! watches.

use super::*;
use keelstone_proto::v1::entity_event::Kind;
use keelstone_proto::v1::precondition::Condition;

const SCHEMA: &str = r#"{"type":"object","properties":{"size":{"type":"integer"}}}"#;
const UUID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

fn must(condition: Condition) -> Option<v1::Precondition> {
    Some(v1::Precondition { condition: Some(condition) })
}

fn registration(version: &str, schema: &str) -> v1::TypeRegisterRequest {
    v1::TypeRegisterRequest {
        vendor: "vmware".to_owned(),
        nss: "cluster".to_owned(),
        version: version.to_owned(),
        name: "Cluster".to_owned(),
        schema: schema.to_owned().into(),
        ..v1::TypeRegisterRequest::default()
    }
}

fn creation(name: &str, org: &str, document: &str) -> v1::EntityCreateRequest {
    v1::EntityCreateRequest {
        type_id: "urn:vcloud:type:vmware:cluster:1.0.0".to_owned(),
        name: name.to_owned(),
        org: org.to_owned(),
        document: document.to_owned().into(),
        resolve: true,
        ..v1::EntityCreateRequest::default()
    }
}

fn patch(id: &str, condition: Option<v1::Precondition>, text: &str) -> v1::EntityPatchRequest {
    v1::EntityPatchRequest {
        id: id.to_owned(),
        precondition: condition,
        merge_patch: text.to_owned().into(),
        ..v1::EntityPatchRequest::default()
    }
}

#[tokio::test]
async fn types_are_registered_once() {
    let node = Node::open().await;
    let mut types = node.types().await;
    let first = types.register(registration("1.0.0", SCHEMA)).await.unwrap().into_inner();
    assert!(first.created && first.r#type.unwrap().content_hash.len() == 32);
    let again = types.register(registration("1.0.0", SCHEMA)).await.unwrap().into_inner();
    assert!(!again.created);
    let other = types.register(registration("1.0.0", r#"{"type":"object"}"#)).await;
    assert!(other.as_ref().unwrap_err().message().contains("size"), "{other:?}");
    assert_eq!(refusal(other), "AlreadyExists type_differs schema");
    for (version, schema, expected) in [
        ("1.0", SCHEMA, "InvalidArgument field_invalid version"),
        ("2.0.0", "{", "InvalidArgument schema_invalid schema"),
        ("2.0.0", r#"{"$ref":"http://example.com/x"}"#, "InvalidArgument schema_invalid schema"),
    ] {
        assert_eq!(refusal(types.register(registration(version, schema)).await), expected);
    }
    let get = |id: &str| v1::TypeGetRequest { id: id.to_owned(), consistency: 0 };
    types.get(get("urn:vcloud:type:vmware:cluster:1.0.0")).await.unwrap();
    assert_eq!(
        refusal(types.get(get("urn:vcloud:type:vmware:cluster:9.0.0")).await),
        "NotFound type_not_found type_id"
    );
    assert_eq!(refusal(types.get(get("x")).await), "InvalidArgument field_invalid type_id");
    let list = types.list(v1::TypeListRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.types.len(), 1);
}

#[tokio::test]
async fn entities_are_written_with_preconditions() {
    let node = Node::open().await;
    node.types().await.register(registration("1.0.0", SCHEMA)).await.unwrap();
    let mut entities = node.entities().await;
    let with_uuid =
        v1::EntityCreateRequest { uuid: UUID.to_owned(), ..creation("c1", "org", r#"{"size":3}"#) };
    let created = entities.create(with_uuid.clone()).await.unwrap().into_inner();
    let entity = created.entity.unwrap();
    let (id, revision) = (entity.id.clone(), entity.revision);
    assert_eq!(entity.state(), v1::EntityState::Resolved);
    assert_eq!(created.header.unwrap().revision, revision);
    let again = entities.create(with_uuid).await.unwrap_err();
    assert_eq!(detail(&again).current_revision, revision);
    assert_eq!(refusal::<()>(Err(again)), "AlreadyExists already_exists id");

    let at = |revision| must(Condition::IfRevision(revision));
    entities.patch(patch(&id, at(revision), r#"{"size":4}"#)).await.unwrap();
    let stale = entities.patch(patch(&id, at(revision), r#"{"size":5}"#)).await.unwrap_err();
    assert_eq!(detail(&stale).current_revision, revision + 1);
    assert_eq!(refusal::<()>(Err(stale)), "Aborted conflict precondition");

    let unconditional = || must(Condition::Unconditional(true));
    for (request, expected) in [
        (patch(&id, None, "{}"), "InvalidArgument precondition_invalid precondition"),
        (patch(&id, unconditional(), "{"), "InvalidArgument not_json merge_patch"),
        (patch(&id, unconditional(), "{\"a\":\"\u{0}"), "InvalidArgument not_json merge_patch"),
        (patch("x", unconditional(), "{}"), "InvalidArgument field_invalid id"),
        (
            patch(&id.replace("01890a5d", "00000000"), unconditional(), "{}"),
            "NotFound entity_not_found id",
        ),
    ] {
        assert_eq!(refusal(entities.patch(request).await), expected);
    }
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(1024 * 1024));
    let refused = refusal(entities.create(creation("c2", "org", &large)).await);
    assert!(refused.starts_with("InvalidArgument too_large document"), "{refused}");
    let unknown = v1::EntityCreateRequest {
        type_id: "urn:vcloud:type:vmware:cluster:3.0.0".to_owned(),
        ..creation("c2", "org", "{}")
    };
    assert_eq!(refusal(entities.create(unknown).await), "NotFound type_not_found type_id");

    let get = v1::EntityGetRequest { id: id.clone(), revision, consistency: 0 };
    let old = entities.get(get).await.unwrap().into_inner().entity.unwrap();
    assert_eq!(&old.document[..], br#"{"size":3}"#);
    let history = v1::EntityHistoryRequest { id, ..v1::EntityHistoryRequest::default() };
    assert_eq!(entities.history(history).await.unwrap().into_inner().versions.len(), 2);
    let list = entities.list(v1::EntityListRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.entities.len(), 1);
}

#[tokio::test]
async fn a_watch_of_entities_is_filtered_at_the_server() {
    let node = Node::open().await;
    node.types().await.register(registration("1.0.0", SCHEMA)).await.unwrap();
    node.types().await.register(registration("2.0.0", SCHEMA)).await.unwrap();
    let mut entities = node.entities().await;
    let second = v1::EntityCreateRequest {
        type_id: "urn:vcloud:type:vmware:cluster:2.0.0".to_owned(),
        ..creation("other type", "org", "{}")
    };
    let mine = entities.create(creation("mine", "org", r#"{"size":1}"#)).await.unwrap();
    let id = mine.into_inner().entity.unwrap().id;
    let watch = |request| {
        let mut entities = entities.clone();
        async move { entities.watch(request).await.unwrap().into_inner() }
    };
    let by_type = v1::EntityWatchRequest {
        type_prefix: "urn:vcloud:type:vmware:cluster:1".to_owned(),
        org: "org".to_owned(),
        start_revision: 2,
        summary: true,
        ..v1::EntityWatchRequest::default()
    };
    let mut by_type = watch(by_type).await;
    let by_id = v1::EntityWatchRequest { id: id.clone(), ..v1::EntityWatchRequest::default() };
    let mut by_id = watch(by_id).await;

    let mut writer = entities.clone();
    writer.create(second).await.unwrap();
    writer.create(creation("other org", "elsewhere", "{}")).await.unwrap();
    let unconditional = must(Condition::Unconditional(true));
    writer.patch(patch(&id, unconditional, r#"{"size":2}"#)).await.unwrap();
    let delete =
        v1::EntityDeleteRequest { id: id.clone(), precondition: unconditional, write_id: None };
    writer.delete(delete).await.unwrap();

    for (expected, document) in [(Kind::Created, ""), (Kind::Updated, ""), (Kind::Deleted, "")] {
        let response = by_type.message().await.unwrap().unwrap();
        let [event] = &response.events[..] else { panic!("{response:?}") };
        assert_eq!(event.kind(), expected);
        assert_eq!(event.entity.as_ref().unwrap().document, document);
        assert!(response.header.unwrap().revision >= event.revision);
    }
    for (expected, document) in [(Kind::Updated, r#"{"size":2}"#), (Kind::Deleted, r#"{"size":2}"#)]
    {
        let response = by_id.message().await.unwrap().unwrap();
        let event = &response.events[0];
        assert_eq!(event.kind(), expected);
        assert_eq!(event.entity.as_ref().unwrap().document, document);
    }
    // Ends say why.
    node.kv().await.compact(v1::CompactRequest { revision: 4 }).await.unwrap();
    let old = v1::EntityWatchRequest { start_revision: 2, ..Default::default() };
    assert_eq!(refusal(entities.watch(old).await), "OutOfRange compacted start_revision 0/4");
    let other = v1::EntityWatchRequest { history: vec![1; 16].into(), ..Default::default() };
    assert_eq!(refusal(entities.watch(other).await), "FailedPrecondition history_changed history");
    node.stop.cancel();
    assert_eq!(refusal(by_id.message().await), "Unavailable stopping");
}

#[tokio::test]
async fn configuration_is_written_and_watched() {
    let node = Node::open().await;
    let mut config = node.config().await;
    let request = |path: &str, value: &str, condition| v1::ConfigPutRequest {
        path: path.to_owned(),
        value: value.to_owned().into(),
        precondition: condition,
        write_id: None,
    };
    let absent = must(Condition::IfAbsent(true));
    let watch = v1::ConfigWatchRequest {
        path: "cse/server".to_owned(),
        progress_interval_ms: 100,
        ..v1::ConfigWatchRequest::default()
    };
    let mut watch = config.watch(watch).await.unwrap().into_inner();
    config.put(request("cse/server/port", "514", absent)).await.unwrap();
    config.put(request("cse/servers", "2", absent)).await.unwrap();
    let conflict = config.put(request("cse/server/port", "515", absent)).await.unwrap_err();
    assert_eq!(detail(&conflict).current_revision, 2);
    assert_eq!(refusal::<()>(Err(conflict)), "Aborted conflict precondition");
    for (path, value, condition, expected) in [
        ("cse//x", "1", absent, "InvalidArgument field_invalid path"),
        ("a", "{", absent, "InvalidArgument not_json value"),
        ("a", "1", None, "InvalidArgument precondition_invalid precondition"),
    ] {
        assert_eq!(refusal(config.put(request(path, value, condition)).await), expected);
    }
    let large = format!("\"{}\"", "x".repeat(256 * 1024));
    let refused = refusal(config.put(request("a", &large, absent)).await);
    assert!(refused.starts_with("InvalidArgument too_large value"), "{refused}");
    let get = v1::ConfigGetRequest { path: "none".to_owned(), ..Default::default() };
    assert!(refusal(config.get(get).await).starts_with("NotFound"));

    let delete = v1::ConfigDeleteRequest {
        path: "cse".to_owned(),
        precondition: must(Condition::Unconditional(true)),
        recursive: true,
        write_id: None,
    };
    assert_eq!(config.delete(delete).await.unwrap().into_inner().deleted, 2);
    let mut events = Vec::new();
    let progress = loop {
        let response = watch.message().await.unwrap().unwrap();
        events.extend(response.events);
        if response.progress >= 4 {
            break response.progress;
        }
    };
    let seen: Vec<_> = events
        .iter()
        .map(|event| (event.deleted, event.value.as_ref().unwrap().path.as_str()))
        .collect();
    assert_eq!(seen, [(false, "cse/server/port"), (true, "cse/server/port")]);
    assert_eq!(progress, 4);
}
