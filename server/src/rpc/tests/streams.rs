//! Watches over gRPC, and how a stop ends what lasts.

use super::*;
use futures::StreamExt as _;
use keelstone_proto::v1::watch_canceled::Reason;
use keelstone_proto::v1::watch_request::Request as Asked;
use keelstone_proto::v1::watch_response::Response as Told;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// A watch stream: what is asked, and what is told.
struct Stream {
    ask: Option<mpsc::Sender<v1::WatchRequest>>,
    told: Streaming<v1::WatchResponse>,
}

impl Stream {
    async fn open(node: &Node) -> Self {
        let (ask, requests) = mpsc::channel(16);
        let requests = ReceiverStream::new(requests);
        let told = node.watch().await.watch(requests).await.unwrap().into_inner();
        Self { ask: Some(ask), told }
    }

    async fn ask(&self, request: Asked) {
        let request = v1::WatchRequest { request: Some(request) };
        self.ask.as_ref().unwrap().send(request).await.unwrap();
    }

    async fn create(&self, watch_id: u64, prefix_of: &str) {
        self.ask(Asked::Create(create(watch_id, prefix_of))).await;
    }

    async fn next(&mut self) -> (u64, Told) {
        let response = self.told.message().await.unwrap().unwrap();
        (response.watch_id, response.response.unwrap())
    }

    async fn canceled(&mut self) -> (u64, Reason, String) {
        match self.next().await {
            (id, Told::Canceled(canceled)) => (id, canceled.reason(), canceled.message),
            other => panic!("{other:?}"),
        }
    }
}

fn create(watch_id: u64, prefix_of: &str) -> v1::WatchCreate {
    v1::WatchCreate { watch_id, span: prefix(prefix_of), ..v1::WatchCreate::default() }
}

#[tokio::test]
async fn a_watch_tells_events_progress_and_its_end() {
    let node = Node::open().await;
    let mut kv = node.kv().await;
    let mut stream = Stream::open(&node).await;
    let with_values = v1::WatchCreate { previous: true, ..create(5, "a") };
    stream.ask(Asked::Create(with_values)).await;
    assert!(matches!(stream.next().await, (5, Told::Created(c)) if c.start_revision == 2));
    let keys_only = v1::WatchCreate { keys_only: true, previous: true, ..create(6, "a") };
    stream.ask(Asked::Create(keys_only)).await;
    assert!(matches!(stream.next().await, (6, Told::Created(_))));

    kv.put(put("a", "1")).await.unwrap();
    let mut both = Vec::new();
    for _ in 0..2 {
        let (id, Told::Events(events)) = stream.next().await else { panic!("no events") };
        both.push((id, events.events[0].clone()));
    }
    let kv_of = |event: &v1::Event| event.kv.clone().unwrap();
    assert_eq!((both[0].0, &kv_of(&both[0].1).value[..]), (5, &b"1"[..]));
    assert_eq!((both[1].0, &kv_of(&both[1].1).value[..]), (6, &b""[..]));
    assert_eq!(&kv_of(&both[0].1).key[..], b"a");
    stream.ask(Asked::Cancel(v1::WatchCancel { watch_id: 6 })).await;
    let (id, reason, _) = stream.canceled().await;
    assert_eq!((id, reason), (6, Reason::Requested));

    let delete = v1::DeleteRequest { span: single("a"), ..v1::DeleteRequest::default() };
    kv.delete(delete).await.unwrap();
    let (5, Told::Events(events)) = stream.next().await else { panic!("no events") };
    let event = &events.events[0];
    assert_eq!(event.kind(), v1::event::Kind::Delete);
    assert_eq!((kv_of(event).mod_revision, kv_of(event).version), (3, 0));
    assert_eq!(&event.previous.as_ref().unwrap().value[..], b"1");
    stream.ask(Asked::Progress(v1::WatchProgress { watch_id: 5 })).await;
    assert!(matches!(stream.next().await, (5, Told::Progress(3))));

    // A client that asks for nothing more still hears of what it watches.
    stream.ask = None;
    kv.put(put("ab", "1")).await.unwrap();
    assert!(matches!(stream.next().await, (5, Told::Events(_))));
    node.stop.cancel();
    let (id, reason, _) = stream.canceled().await;
    assert_eq!((id, reason), (5, Reason::Shutdown));
    assert!(stream.told.message().await.unwrap().is_none());
    tokio::time::timeout(Duration::from_secs(2), node.served).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_watch_that_cannot_begin_says_why() {
    let node = Node::with(|limits| limits.watches_per_stream_max = 1, None).await;
    let mut kv = node.kv().await;
    for value in ["1", "2", "3"] {
        kv.put(put("a", value)).await.unwrap();
    }
    kv.compact(v1::CompactRequest { revision: 3 }).await.unwrap();
    let mut stream = Stream::open(&node).await;
    stream.ask(Asked::Create(v1::WatchCreate { start_revision: 2, ..create(1, "a") })).await;
    let (1, Told::Canceled(canceled)) = stream.next().await else { panic!("it began") };
    assert_eq!((canceled.reason(), canceled.compact_revision), (Reason::Compacted, 3));
    let other = v1::WatchCreate { history: vec![1; 16].into(), ..create(2, "a") };
    stream.ask(Asked::Create(other)).await;
    assert_eq!(stream.canceled().await.1, Reason::HistoryChanged);
    for wrong in [
        v1::WatchCreate { span: None, ..create(3, "a") },
        v1::WatchCreate { span: single(""), ..create(3, "a") },
        v1::WatchCreate { history: vec![1; 3].into(), ..create(3, "a") },
        v1::WatchCreate { span: single(&"k".repeat(5000)), ..create(3, "a") },
    ] {
        stream.ask(Asked::Create(wrong)).await;
        let (id, reason, message) = stream.canceled().await;
        assert_eq!((id, reason), (3, Reason::Invalid));
        assert!(message.contains("span") || message.contains("history"), "{message}");
    }
    stream.create(4, "a").await;
    assert!(matches!(stream.next().await, (4, Told::Created(_))));
    stream.create(5, "a").await;
    let (_, reason, message) = stream.canceled().await;
    assert!(reason == Reason::Invalid && message.contains("limit"), "{message}");
    // The same id again: no answer could tell the two apart.
    stream.create(4, "b").await;
    assert_eq!(refusal(stream.told.message().await), "InvalidArgument invalid create.watch_id");
}

#[tokio::test]
async fn a_request_without_content_ends_the_stream() {
    let node = Node::open().await;
    let mut stream = Stream::open(&node).await;
    stream.ask.as_ref().unwrap().send(v1::WatchRequest { request: None }).await.unwrap();
    assert_eq!(refusal(stream.told.message().await), "InvalidArgument invalid request");
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_nobody() {
    let node = Node::with(|limits| limits.watch_bytes_max = 100_000, None).await;
    let mut kv = node.kv().await;
    let mut slow = Stream::open(&node).await;
    slow.create(1, "").await;
    let mut quick = Stream::open(&node).await;
    quick.create(1, "").await;
    assert!(matches!(slow.next().await, (1, Told::Created(_))));
    assert!(matches!(quick.next().await, (1, Told::Created(_))));
    // More than every buffer and the memory of changes between them.
    let value = "x".repeat(100_000);
    let (mut slow_seen, mut quick_seen) = (0, 0);
    for number in 0..100_u64 {
        kv.put(put(&format!("k{number}"), &value)).await.unwrap();
        while quick_seen <= number {
            let (_, Told::Events(events)) = quick.next().await else { panic!("no events") };
            quick_seen += events.events.len() as u64;
        }
    }
    assert!(node.metrics.watch_history_reads.get() == 0);
    // It reads at last, from history, and has missed nothing.
    let mut revision = 1;
    while slow_seen < 100 {
        let (_, Told::Events(events)) = slow.next().await else { panic!("no events") };
        for event in events.events {
            slow_seen += 1;
            revision += 1;
            assert_eq!(event.kv.unwrap().mod_revision, revision);
        }
    }
    assert!(node.metrics.watch_history_reads.get() > 0);
}

#[tokio::test]
async fn a_stop_refuses_writes_serves_reads_and_is_bounded() {
    let node = Node::open().await;
    let mut kv = node.kv().await;
    kv.put(put("a", "1")).await.unwrap();
    // A request that never ends: its stream would hold the connection for ever.
    let never = futures::stream::pending::<v1::LeaseKeepAliveRequest>();
    let mut leases = node.leases().await;
    let mut renewals = leases.keep_alive(never).await.unwrap().into_inner();
    let export = v1::ExportRequest { revision: 0 };
    let mut exports = v1::export_client::ExportClient::new(node.channel().await);
    let _unread = exports.export(export).await.unwrap();
    let mut other = kv.clone();
    node.stop.cancel();
    assert_eq!(refusal(renewals.message().await), "Unavailable stopping");
    // The connection may be closed first; if it is not, the write is refused.
    if let Err(status) = other.put(put("a", "2")).await {
        let ours = status.metadata().get_bin("keelstone-error-bin").is_some();
        assert!(!ours || detail(&status).reason == "stopping", "{status:?}");
    } else {
        panic!("a write was taken on by a node that stops");
    }
    let ended = tokio::time::timeout(Duration::from_secs(3), node.served).await;
    ended.unwrap().unwrap().unwrap();
    assert_eq!(node.core.state().view().unwrap().applied().id.unwrap().index, 1);
}

#[tokio::test]
async fn health_follows_readiness() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    let node = Node::open().await;
    let mut health = HealthClient::new(node.channel().await);
    let request = || HealthCheckRequest { service: String::new() };
    let mut updates = health.watch(request()).await.unwrap().into_inner();
    let mut until = async |expected: ServingStatus| {
        while let Some(update) = updates.message().await.unwrap() {
            if update.status() == expected {
                return;
            }
        }
    };
    until(ServingStatus::Serving).await;
    node.core.lead(None);
    until(ServingStatus::NotServing).await;
    node.core.lead(Some(1));
    until(ServingStatus::Serving).await;
}

#[tokio::test]
async fn reflection_knows_the_services() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let node = Node::open().await;
    let mut reflection = ServerReflectionClient::new(node.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests = futures::stream::iter([request]).chain(futures::stream::pending());
    let mut answers = reflection.server_reflection_info(requests).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in
        ["Kv", "Watch", "Leases", "Sessions", "Types", "Entities", "Config", "Cluster", "Export"]
    {
        assert!(names.contains(&format!("keelstone.v1.{name}").as_str()), "{name} of {names:?}");
    }
}
