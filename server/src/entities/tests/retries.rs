//! Writes that are sent again.

use super::*;

#[expect(clippy::unnecessary_wraps, reason = "writes take an option")]
fn write_id(session: SessionId, sequence: u64) -> Option<WriteId> {
    Some(WriteId { session, sequence, acked_below: 0 })
}

fn proto_id(id: Option<WriteId>) -> Option<v1::WriteId> {
    id.map(|id| v1::WriteId { session: id.session.0, sequence: id.sequence, acked_below: 0 })
}

/// Each kind of write is applied, its reply is lost, others write on, and it
/// is sent again.
#[tokio::test]
async fn a_retry_gets_the_first_answer() {
    let bench = Bench::new().await;
    let session = bench.open_session(4);
    let entity = bench.create(r#"{"size": 1}"#).await;
    let (id, revision) = (entity.id, entity.revision);
    let requests = [
        patch(&id, Precondition::IfRevision(revision), r#"{"size": 2}"#),
        Request::Update(update(&id, Precondition::Unconditional, r#"{"size": 3}"#)),
        delete(&id, Precondition::Unconditional),
    ];
    for (sequence, request) in (1..).zip(requests) {
        let gone = matches!(request, Request::Delete(_));
        let write_id = write_id(session, sequence);
        bench.bend(|bend| bend.lose_replies = 1);
        let lost = bench.write_as(request.clone(), write_id).await.unwrap_err();
        assert!(lost.may_take_effect());
        let applied = bench.head_revision();
        let left = bench.get(&id).await.ok();
        if left.is_some() {
            let other = format!("{{\"other\": {sequence}}}");
            bench.write(patch(&id, Precondition::Unconditional, &other)).await.unwrap();
        }
        let moved = bench.head_revision();
        for _ in 0..2 {
            let again = bench.write_as(request.clone(), write_id).await.unwrap();
            assert_eq!(again.revision, applied, "{}", request.name());
            assert_eq!(again.value.gone, gone);
            if !gone {
                assert_eq!(again.value.entity, left);
            }
            assert!(again.value.entity.is_some());
            assert_eq!(bench.head_revision(), moved, "a retry changes nothing");
        }
    }
}

#[tokio::test]
async fn a_retried_creation_means_the_same_entity() {
    let bench = Bench::new().await;
    let session = bench.open_session(4);
    let request = |sequence| {
        let mut request = creation(r#"{"size": 1}"#);
        request.uuid.clear();
        request.write_id = proto_id(write_id(session, sequence));
        request
    };
    bench.bend(|bend| bend.lose_replies = 1);
    assert!(bench.create_with(request(1)).await.unwrap_err().may_take_effect());
    let first = bench.create_with(request(1)).await.unwrap();
    assert_eq!(first.revision, bench.head_revision());
    let second = bench.create_with(request(2)).await.unwrap();
    assert_ne!(first.id, second.id, "another sequence is another entity");
    let anonymous = bench.create_with(v1::EntityCreateRequest { write_id: None, ..request(3) });
    assert_ne!(anonymous.await.unwrap().id, second.id);
    bench.write(delete(&first.id, Precondition::Unconditional)).await.unwrap();
    assert_eq!(bench.create_with(request(1)).await.unwrap(), first, "it was created, once");
    assert_eq!(bench.get(&first.id).await.unwrap_err().reason(), "entity_not_found");
}

/// The first attempt is only late: it is applied after the second was planned.
#[tokio::test]
async fn a_late_first_attempt_is_the_one_that_counts() {
    let bench = Bench::new().await;
    let session = bench.open_session(4);
    let id = bench.create(r#"{"size": 1}"#).await.id;
    let request = patch(&id, Precondition::Unconditional, r#"{"size": 2}"#);
    let write_id = write_id(session, 1);
    let old = bench.solo().state().view().unwrap();
    let first = bench.write_as(request.clone(), write_id).await.unwrap();
    bench.bend(|bend| bend.stale = Some(old));
    let second = bench.write_as(request, write_id).await.unwrap();
    assert_eq!(second, first);
    assert_eq!(bench.head_revision(), first.revision);
}

/// The guard fails, the write is planned anew under the same write id, and the
/// retry of that still finds the answer.
#[tokio::test]
async fn planning_anew_keeps_the_write_id() {
    let bench = Bench::new().await;
    let session = bench.open_session(4);
    let id = bench.create(r#"{"size": 1}"#).await.id;
    let old = bench.solo().state().view().unwrap();
    bench.write(patch(&id, Precondition::Unconditional, r#"{"a": 1}"#)).await.unwrap();
    bench.bend(|bend| {
        bend.stale = Some(old);
        bend.proposals = 0;
    });
    let request = patch(&id, Precondition::Unconditional, r#"{"b": 1}"#);
    let first = bench.write_as(request.clone(), write_id(session, 1)).await.unwrap();
    bench.bend(|bend| assert_eq!(bend.proposals, 2, "the first plan failed"));
    let document = first.value.entity.as_ref().map(text);
    assert_eq!(document, Some(r#"{"size":1,"a":1,"b":1}"#));
    let again = bench.write_as(request, write_id(session, 1)).await.unwrap();
    assert_eq!(again, first);
}

#[tokio::test]
async fn a_refused_creation_stays_refused() {
    let bench = Bench::new().await;
    let session = bench.open_session(4);
    let id = bench.create("{}").await.id;
    let mut request = creation(r#"{"size": 5}"#);
    request.write_id = proto_id(write_id(session, 1));
    let refused = bench.create_with(request.clone()).await.unwrap_err();
    assert_eq!(refused.reason(), "already_exists");
    let refused = bench.create_with(request.clone()).await.unwrap_err();
    assert_eq!(refused.reason(), "already_exists");
    bench.write(delete(&id, Precondition::Unconditional)).await.unwrap();
    let refused = bench.create_with(request.clone()).await.unwrap_err();
    assert_eq!(refused.reason(), "refused_before", "the id has become free");
    request.write_id = proto_id(write_id(session, 2));
    bench.create_with(request).await.unwrap();
}

#[tokio::test]
async fn unknown_sessions_and_foreign_write_ids_are_told() {
    let bench = Bench::new().await;
    let id = bench.create("{}").await.id;
    let request = patch(&id, Precondition::Unconditional, r#"{"size": 2}"#);
    let unknown = bench.write_as(request.clone(), write_id(SessionId(9), 1)).await.unwrap_err();
    assert_eq!((unknown.reason(), unknown.field()), ("session_not_found", "write_id"));
    assert!(unknown.may_take_effect(), "an expired session may have applied it");

    let session = bench.open_session(4);
    bench.write_as(request.clone(), write_id(session, 1)).await.unwrap();
    let mut other = creation("{}");
    other.uuid.clear();
    other.write_id = proto_id(write_id(session, 1));
    let reused = bench.create_with(other).await.unwrap_err();
    assert_eq!(reused.reason(), "write_id_reused");

    let acked = Some(WriteId { session, sequence: 3, acked_below: 3 });
    bench.write_as(patch(&id, Precondition::Unconditional, r#"{"size":3}"#), acked).await.unwrap();
    let forgotten = bench.write_as(request, write_id(session, 1)).await.unwrap_err();
    assert_eq!(forgotten.reason(), "reply_forgotten");
}

/// The history that the first answer was made of is gone.
#[tokio::test]
async fn a_retry_after_compaction_is_still_a_success() {
    let bench = Bench::new().await;
    let session = bench.open_session(4);
    let id = bench.create(r#"{"size": 1}"#).await.id;
    let request = patch(&id, Precondition::Unconditional, r#"{"size": 2}"#);
    let first = bench.write_as(request.clone(), write_id(session, 1)).await.unwrap();
    bench.write(patch(&id, Precondition::Unconditional, r#"{"size": 3}"#)).await.unwrap();
    let revision = bench.head_revision();
    bench.solo().apply_command(Command::Compact { revision }).unwrap();
    let again = bench.write_as(request, write_id(session, 1)).await.unwrap();
    assert_eq!(again.revision, first.revision);
    assert_eq!(text(&again.value.entity.unwrap()), r#"{"size":3}"#);
}
