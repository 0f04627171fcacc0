//! Configuration over the real state machine, without replicas.

use super::*;
use crate::core::Consistency;
use crate::entities::{Answer, EntityError};
use crate::solo::Solo;
use keelstone_proto::v1;
use keelstone_store::SessionId;
use keelstone_store::entity::Precondition;
use keelstone_store::machine::{Command, View as _, WriteId};
use std::time::Duration;
use tokio::time::Instant;

const LINEARIZABLE: Consistency = Consistency::Linearizable;
const UNCONDITIONAL: Precondition = Precondition::Unconditional;

struct Bench {
    core: Arc<Solo>,
    settings: Settings,
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn path(text: &str) -> ConfigPath {
    ConfigPath::parse(text).unwrap()
}

fn put(at: &str, value: &str, precondition: Precondition) -> ConfigPut {
    let value = Bytes::copy_from_slice(value.as_bytes());
    ConfigPut { path: path(at), value, precondition, write_id: None }
}

fn delete(at: &str, recursive: bool, precondition: Precondition) -> ConfigDelete {
    ConfigDelete { path: path(at), precondition, recursive, write_id: None }
}

impl Bench {
    fn new() -> Self {
        let core = Solo::new();
        Self { settings: Settings::new(core.clone()), core }
    }

    fn revision(&self) -> Revision {
        self.core.state().view().unwrap().head().revision
    }

    async fn put(
        &self,
        at: &str,
        value: &str,
        precondition: Precondition,
    ) -> Result<Answer<ConfigValue>, EntityError> {
        self.settings.put(put(at, value, precondition), deadline()).await
    }

    async fn get(&self, at: &str) -> Result<ConfigValue, EntityError> {
        let answer = self.settings.get(&path(at), Revision::ZERO, LINEARIZABLE, deadline()).await;
        answer.map(|answer| answer.value)
    }

    async fn list(&self, at: &str) -> String {
        let path = (!at.is_empty()).then(|| path(at));
        let mut query = ConfigQuery { path, page_size: 2, ..ConfigQuery::default() };
        let mut found = Vec::new();
        loop {
            let page = self.settings.list(&query, deadline()).await.unwrap().value;
            found.extend(page.values.iter().map(|value| value.path.to_string()));
            if page.next_page_token.is_empty() {
                return found.join(" ");
            }
            query.page_token = page.next_page_token;
        }
    }
}

#[tokio::test]
async fn values_are_put_under_preconditions() {
    let bench = Bench::new();
    let first = bench.put("cse/port", "514", Precondition::IfAbsent).await.unwrap();
    assert_eq!(first.value.version, 1);
    assert_eq!(first.value.created, first.revision);
    assert_eq!(bench.get("cse/port").await.unwrap(), first.value);
    let taken = bench.put("cse/port", "515", Precondition::IfAbsent).await.unwrap_err();
    assert_eq!((taken.reason(), taken.current_revision()), ("conflict", Some(first.revision)));
    let second = bench.put("cse/port", " 515 ", Precondition::IfRevision(first.revision)).await;
    let second = second.unwrap();
    assert_eq!((second.value.version, second.value.created), (2, first.revision));
    assert_eq!(bench.get("cse/port").await.unwrap().value, " 515 ");
    let late = bench.put("cse/port", "516", Precondition::IfRevision(first.revision)).await;
    assert_eq!(late.unwrap_err().current_revision(), Some(second.revision));
    let absent = bench.put("cse/host", "1", Precondition::IfRevision(first.revision)).await;
    assert_eq!(absent.unwrap_err().current_revision(), Some(Revision::ZERO));
    bench.put("cse/port", "517", UNCONDITIONAL).await.unwrap();
    assert_eq!(bench.get("cse/none").await.unwrap_err().reason(), "value_not_found");
}

#[tokio::test]
async fn a_subtree_is_listed_and_deleted_at_one_revision() {
    let bench = Bench::new();
    for at in ["a", "a/b", "a/b/c", "a-b", "a.b", "a/d", "b"] {
        bench.put(at, "true", UNCONDITIONAL).await.unwrap();
    }
    assert_eq!(bench.list("").await, "a a/b a/b/c a/d a-b a.b b");
    assert_eq!(bench.list("a").await, "a a/b a/b/c a/d");
    assert_eq!(bench.list("a/b").await, "a/b a/b/c");
    assert_eq!(bench.list("c").await, "");
    let one = bench.settings.delete(delete("a", false, UNCONDITIONAL), deadline()).await.unwrap();
    assert_eq!(one.value, 1);
    let before = bench.revision();
    let all = bench.settings.delete(delete("a", true, UNCONDITIONAL), deadline()).await.unwrap();
    assert_eq!((all.value, all.revision), (3, before.next()));
    assert_eq!(bench.list("").await, "a-b a.b b");
    let none = bench.settings.delete(delete("a", true, UNCONDITIONAL), deadline()).await.unwrap();
    assert_eq!(none.value, 0);
    let b = bench.get("b").await.unwrap().revision;
    let guarded = delete("b", true, Precondition::IfRevision(b));
    let refused = bench.settings.delete(guarded, deadline()).await.unwrap_err();
    assert_eq!(refused.reason(), "precondition_invalid");
    let late = delete("b", false, Precondition::IfRevision(b.previous()));
    let refused = bench.settings.delete(late, deadline()).await.unwrap_err();
    assert_eq!(refused.current_revision(), Some(b));
    let right = delete("b", false, Precondition::IfRevision(b));
    assert_eq!(bench.settings.delete(right, deadline()).await.unwrap().value, 1);
}

#[tokio::test]
async fn history_and_old_revisions_are_read() {
    let bench = Bench::new();
    let first = bench.put("a", "1", UNCONDITIONAL).await.unwrap().value;
    let second = bench.put("a", "2", UNCONDITIONAL).await.unwrap().value;
    bench.settings.delete(delete("a", false, UNCONDITIONAL), deadline()).await.unwrap();
    let query = ConfigHistoryQuery { path: path("a"), limit: 2, before: Revision::ZERO };
    let history = bench.settings.history(&query, LINEARIZABLE, deadline()).await.unwrap().value;
    assert!(history.more);
    let values: Vec<_> = history.versions.iter().map(|version| version.value.as_ref()).collect();
    assert_eq!(values, [None, Some(&second)]);
    let at = bench.settings.get(&path("a"), first.revision, LINEARIZABLE, deadline()).await;
    assert_eq!(at.unwrap().value, first);
    let view = bench.core.state().view().unwrap();
    let events = view.events_from(first.revision, 10, 1 << 20).unwrap().unwrap();
    let told: Vec<_> = events.iter().filter_map(event).collect();
    assert_eq!(told.len(), 3);
    assert_eq!((told[1].deleted, &told[1].value), (false, &second));
    assert_eq!((told[2].deleted, told[2].value.path.to_string()), (true, "a".to_owned()));
    let unknown = ConfigHistoryQuery { path: path("b"), ..query };
    let unknown = bench.settings.history(&unknown, LINEARIZABLE, deadline()).await;
    assert_eq!(unknown.unwrap_err().reason(), "value_not_found");
}

#[tokio::test]
async fn a_retry_gets_the_first_answer() {
    let bench = Bench::new();
    let session = SessionId(3);
    bench.core.apply_command(Command::SessionOpen { id: session, ttl_ms: 60_000 }).unwrap();
    let with = |sequence, request: ConfigPut| ConfigPut {
        write_id: Some(WriteId { session, sequence, acked_below: 0 }),
        ..request
    };
    let create = with(1, put("a", "1", Precondition::IfAbsent));
    let first = bench.settings.put(create.clone(), deadline()).await.unwrap();
    assert_eq!(bench.settings.put(create.clone(), deadline()).await.unwrap(), first);
    let refused = with(2, put("a", "2", Precondition::IfAbsent));
    let error = bench.settings.put(refused.clone(), deadline()).await.unwrap_err();
    bench.settings.delete(delete("a", false, UNCONDITIONAL), deadline()).await.unwrap();
    let again = bench.settings.put(refused, deadline()).await.unwrap_err();
    assert_eq!(again.to_string(), error.to_string(), "though the path has become free");
    assert_eq!(bench.settings.put(create, deadline()).await.unwrap(), first);
    assert_eq!(bench.get("a").await.unwrap_err().reason(), "value_not_found");
    let other = with(1, put("b", "1", UNCONDITIONAL));
    let stolen = bench.settings.put(other, deadline()).await.unwrap_err();
    assert_eq!(stolen.reason(), "write_id_reused");
}

#[tokio::test]
async fn bad_requests_name_their_field() {
    let bench = Bench::new();
    let check = async |value: &[u8], reason: &str| {
        let request =
            ConfigPut { value: Bytes::copy_from_slice(value), ..put("a", "", UNCONDITIONAL) };
        let error = bench.settings.put(request, deadline()).await.unwrap_err();
        assert_eq!((error.reason(), error.field()), (reason, "value"), "{error}");
    };
    check(b"", "not_json").await;
    check(b"{\"a\":1,\"a\":2}", "not_json").await;
    check(b"\xff", "field_invalid").await;
    check(&vec![b' '; 300_000], "too_large").await;
    let missing = v1::ConfigPutRequest { path: "a".to_owned(), ..v1::ConfigPutRequest::default() };
    assert_eq!(wire::put(missing).unwrap_err().field(), "precondition");
    let bad = v1::ConfigGetRequest { path: "a//b".to_owned(), ..v1::ConfigGetRequest::default() };
    assert_eq!(wire::path(&bad.path).unwrap_err().field(), "path");
    assert_eq!(bench.revision(), Revision::FIRST);
}
