//! Entities from creation to deletion.

use super::*;

#[tokio::test]
async fn a_document_is_read_as_it_was_sent() {
    let bench = Bench::new().await;
    let sent = "{ \"size\" : 17,\n \"big\": 123456789012345678901234567890, \"exact\": 0.10 }";
    let created = bench.create(sent).await;
    assert_eq!(created.state, EntityState::Resolved);
    let read = bench.get(&created.id).await.unwrap();
    assert_eq!(read, created);
    assert_eq!(text(&read), sent);
    assert_eq!(read.created, Millis(5_000_000));
    let patched = bench.write(patch(&read.id, Precondition::Unconditional, r#"{"size":18}"#));
    let patched = patched.await.unwrap().value.entity.unwrap();
    let expected = r#"{"size":18,"big":123456789012345678901234567890,"exact":0.10}"#;
    assert_eq!(text(&patched), expected);
    assert_eq!(bench.get(&read.id).await.unwrap(), patched);
    assert_eq!(patched.create_revision, created.revision);
    assert!(patched.revision > created.revision);
    assert_eq!(patched.sections.changed("size"), patched.revision);
    assert_eq!(patched.sections.changed("big"), created.revision);
}

#[tokio::test]
async fn invalid_documents_are_refused_only_where_a_valid_one_is_promised() {
    let bench = Bench::new().await;
    let mut request = creation(r#"{"size": -1}"#);
    request.resolve = false;
    let entity = bench.create_with(request).await.unwrap();
    assert_eq!(entity.state, EntityState::PreCreated);
    let id = entity.id;

    let judged = bench.write(resolve(&id)).await.unwrap().value.entity.unwrap();
    assert_eq!(judged.state, EntityState::ResolutionError);
    assert_eq!(judged.message, "/size: value is less than the minimum of 0");

    let better = patch(&id, Precondition::Unconditional, r#"{"size": 1}"#);
    let better = bench.write(better).await.unwrap().value.entity.unwrap();
    assert_eq!((better.state, better.message.as_str()), (EntityState::PreCreated, ""));
    let judged = bench.write(resolve(&id)).await.unwrap().value.entity.unwrap();
    assert_eq!(judged.state, EntityState::Resolved);

    let before = bench.head_revision();
    let worse = update(&id, Precondition::Unconditional, r#"{"size": "large", "part": [1]}"#);
    let error = bench.write(Request::Update(worse)).await.unwrap_err();
    assert_eq!((error.reason(), error.field()), ("document_invalid", "document"));
    let message = error.to_string();
    for part in
        ["/size: value is not of type \"integer\"", "/part: value is not of type \"object\""]
    {
        assert!(message.contains(part), "{message}");
    }
    assert!(!message.contains("large"), "values are not repeated: {message}");
    assert_eq!(bench.head_revision(), before);
}

#[tokio::test]
async fn preconditions_are_kept() {
    let bench = Bench::new().await;
    let entity = bench.create(r#"{"size": 1}"#).await;
    let (id, first) = (entity.id, entity.revision);
    let second = bench.write(patch(&id, Precondition::IfRevision(first), r#"{"size":2}"#));
    let second = second.await.unwrap().revision;
    let late = bench.write(patch(&id, Precondition::IfRevision(first), r#"{"size":3}"#));
    let late = late.await.unwrap_err();
    assert_eq!((late.reason(), late.current_revision()), ("conflict", Some(second)));
    assert!(!late.may_take_effect());
    let late = bench.write(delete(&id, Precondition::IfRevision(first))).await.unwrap_err();
    assert_eq!(late.current_revision(), Some(second));
    let absent = bench.write(patch(&id, Precondition::IfAbsent, r#"{"size":3}"#)).await;
    assert_eq!(absent.unwrap_err().reason(), "precondition_invalid");
    let again = bench.create_with(creation("{}")).await.unwrap_err();
    assert_eq!((again.reason(), again.current_revision()), ("already_exists", Some(second)));
    assert_eq!(text(&bench.get(&id).await.unwrap()), r#"{"size":2}"#);
    let none = v1::EntityPatchRequest { id: id.to_string(), ..Default::default() };
    let error = wire::patch(none).unwrap_err();
    assert_eq!((error.reason(), error.field()), ("precondition_invalid", "precondition"));
}

#[tokio::test]
async fn what_changes_nothing_writes_nothing() {
    let bench = Bench::new().await;
    let entity = bench.create(r#"{"size": 1, "part": {"a": 1}}"#).await;
    let before = bench.head_revision();
    for request in [
        patch(&entity.id, Precondition::Unconditional, r#"{"size":1,"gone":null,"part":{}}"#),
        Request::Update(update(&entity.id, Precondition::Unconditional, text(&entity))),
        resolve(&entity.id),
    ] {
        let answer = bench.write(request).await.unwrap();
        assert_eq!(answer.value.entity.as_ref(), Some(&entity));
        assert_eq!(bench.head_revision(), before);
    }
}

#[tokio::test]
async fn finalizers_hold_an_entity_until_the_last_is_gone() {
    let bench = Bench::new().await;
    let mut request = creation("{}");
    request.finalizers = vec!["machines".to_owned(), "disks".to_owned()];
    let id = bench.create_with(request).await.unwrap().id;
    let asked = bench.write(delete(&id, Precondition::Unconditional)).await.unwrap().value;
    assert!(!asked.gone);
    assert_eq!(asked.entity.unwrap().state, EntityState::InDeletion);
    let before = bench.head_revision();
    assert!(!bench.write(delete(&id, Precondition::Unconditional)).await.unwrap().value.gone);
    assert_eq!(bench.head_revision(), before, "asking twice changes nothing");

    let keep = |names: &[&str]| {
        let mut change = update(&id, Precondition::Unconditional, r#"{"size": -1}"#);
        change.envelope.finalizers = Some(names.iter().map(|name| (*name).to_owned()).collect());
        Request::Update(change)
    };
    let added = bench.write(keep(&["machines", "disks", "more"])).await.unwrap_err();
    assert_eq!(added.reason(), "finalizer_added");
    let one = bench.write(keep(&["disks"])).await.unwrap().value;
    assert!(!one.gone, "nothing is validated any more, and one is left");
    let refused = bench.write(resolve(&id)).await.unwrap_err();
    assert_eq!(refused.reason(), "wrong_state");
    let none = bench.write(keep(&[])).await.unwrap().value;
    assert!(none.gone);
    assert_eq!(none.warnings.len(), 1);
    assert_eq!(bench.get(&id).await.unwrap_err().reason(), "entity_not_found");
    let rows = bench.solo().state().view().unwrap();
    let mut left = 0;
    rows.scan(&keelstone_store::Space::Entities.all(), &mut |_, _| {
        left += 1;
        true
    })
    .unwrap();
    assert_eq!(left, 0, "the index rows are gone too");
}

#[tokio::test]
async fn the_type_version_moves_with_the_index() {
    let bench = Bench::new().await;
    let second = "urn:vcloud:type:acme:thing:1.1.0";
    bench.register(second, r#"{"required": ["color"]}"#).await.unwrap();
    let id = bench.create(r#"{"size": 1}"#).await.id;
    let retype = |type_id: &str, document: &str| {
        let mut change = update(&id, Precondition::Unconditional, document);
        change.type_id = Some(type_id.parse().unwrap());
        Request::Update(change)
    };
    let invalid = bench.write(retype(second, r#"{"size": 1}"#)).await.unwrap_err();
    assert_eq!(invalid.reason(), "document_invalid");
    let other = bench.write(retype("urn:vcloud:type:acme:other:1.0.0", "{}")).await.unwrap_err();
    assert_eq!(other.reason(), "other_type");
    let unknown = bench.write(retype("urn:vcloud:type:acme:thing:9.0.0", "{}")).await.unwrap_err();
    assert_eq!(unknown.reason(), "type_not_found");
    bench.write(retype(second, r#"{"color": "red"}"#)).await.unwrap();
    let listed = |versions: &str| {
        let types = format!("urn:vcloud:type:acme:thing:{versions}").parse().unwrap();
        let query = ListQuery { types: Some(types), ..ListQuery::default() };
        let entities = bench.entities.clone();
        async move { entities.list(&query, deadline()).await.unwrap().value.entities.len() }
    };
    assert_eq!((listed("1.0").await, listed("1.1.0").await, listed("1").await), (0, 1, 1));
}

#[tokio::test]
async fn a_second_content_of_a_type_is_refused_with_the_difference() {
    let bench = Bench::new().await;
    let spaced = "{\"properties\": {\"part\": {\"type\": \"object\"},\n\"size\": {\"minimum\": 0, \"type\": \"integer\"}}, \"type\": \"object\"}";
    let again = bench.register(TYPE, spaced).await.unwrap().value;
    assert!(!again.created);
    assert_eq!(again.entity_type.schema, SCHEMA, "the first spelling stays");
    let other = r#"{"type": "object", "required": ["size"], "properties": {"size": {"type": "integer", "minimum": 1}}}"#;
    let error = bench.register(TYPE, other).await.unwrap_err();
    assert_eq!((error.reason(), error.field()), ("type_differs", "schema"));
    let expected = "urn:vcloud:type:acme:thing:1.0.0 is registered with another schema; registered (-), offered (+):\n\
        ~ /properties/size/minimum: 0 -> 1\n\
        - /properties/part: {\"type\": \"object\"}\n\
        + /required: [\"size\"]";
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn bad_requests_name_their_field() {
    let bench = Bench::new().await;
    let check = async |change: fn(&mut v1::EntityCreateRequest), reason: &str, field: &str| {
        let mut request = creation("{}");
        change(&mut request);
        let before = bench.head_revision();
        let error = bench.create_with(request).await.unwrap_err();
        assert_eq!((error.reason(), error.field()), (reason, field), "{error}");
        assert!(!error.remedy().is_empty());
        assert_eq!(bench.head_revision(), before);
    };
    check(|request| request.type_id.clear(), "field_invalid", "type_id").await;
    check(|request| request.type_id = TYPE.replace('1', "9"), "type_not_found", "type_id").await;
    check(|request| request.uuid = "x".to_owned(), "field_invalid", "uuid").await;
    check(|request| request.name.clear(), "field_invalid", "name").await;
    check(|request| request.name = "x".repeat(300), "too_large", "name").await;
    check(|request| request.org = "a\0b".to_owned(), "field_invalid", "org").await;
    check(|request| request.document = Bytes::new(), "not_json", "document").await;
    check(|request| request.document = "[]".into(), "field_invalid", "document").await;
    check(|request| request.document = vec![0xff].into(), "field_invalid", "document").await;
    check(|request| request.document = vec![b' '; 2 << 20].into(), "too_large", "document").await;
    check(|request| request.finalizers = vec![String::new()], "field_invalid", "finalizers").await;
    let remote = r#"{"properties": {"a": {"$ref": "https://example.com/other.json#/a"}}}"#;
    let error = bench.register("urn:vcloud:type:acme:remote:1.0.0", remote).await.unwrap_err();
    assert_eq!((error.reason(), error.field()), ("schema_invalid", "schema"));
    assert!(error.to_string().contains("https://example.com/other.json"), "{error}");
}

#[tokio::test]
async fn a_large_document_is_warned_of() {
    let bench = Bench::new().await;
    let mut request = creation(&format!("{{\"log\": \"{}\"}}", "x".repeat(300_000)));
    request.uuid.clear();
    let created = bench.entities.create(wire::create(request).unwrap(), deadline()).await.unwrap();
    assert_eq!(created.value.warnings.len(), 1);
}

#[tokio::test]
async fn the_sample_cluster_is_created_and_patched() {
    let bench = Bench::over(Solo::new());
    bench.register(samples::CLUSTER_TYPE, samples::CLUSTER_SCHEMA).await.unwrap();
    let document = samples::cluster(3, samples::ClusterShape::TYPICAL);
    let mut request = creation("");
    request.type_id = samples::CLUSTER_TYPE.to_owned();
    request.document = document.clone().into();
    let created = bench.create_with(request).await.unwrap();
    assert_eq!(created.state, EntityState::Resolved, "{}", created.message);
    assert_eq!(created.document, document);
    let beat = String::from_utf8(samples::heartbeat("worker-1", 5)).unwrap();
    let beaten = bench.write(patch(&created.id, Precondition::Unconditional, &beat)).await.unwrap();
    let beaten = beaten.value.entity.unwrap();
    let value: serde_json::Value = serde_json::from_slice(&beaten.document).unwrap();
    assert_eq!(value["status"]["vcdKe"]["workerId"], "worker-1");
    assert!(value["status"]["capvcd"]["upgrade"]["previous"].is_null());
    assert_eq!(beaten.sections.changed("spec"), created.revision);
    assert_eq!(beaten.sections.changed("status"), beaten.revision);
}
