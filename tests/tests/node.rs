//! A whole node in this process, looked at from outside: what it serves, what
//! it counts, how it refuses to start, and how it stops.

#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

use keelstone_proto::v1;
use keelstone_proto::v1::kv_client::KvClient;
use keelstone_proto::v1::watch_client::WatchClient;
use keelstone_server::config::Config;
use keelstone_server::node::{self, NodeError};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

struct Node {
    config: Config,
    stop: CancellationToken,
    ran: JoinHandle<Result<(), NodeError>>,
    dir: tempfile::TempDir,
}

/// Addresses that nobody listens on.
fn free_addresses() -> [SocketAddr; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}

impl Node {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        let [client, peer, http] = free_addresses();
        config.data_dir = dir.path().join("data");
        (config.client.listen, config.peer.listen, config.http.listen) = (client, peer, http);
        config.cluster.members = vec![format!("1={peer}/{client}").parse().unwrap()];
        config.log.segment_bytes = 4 * 1024 * 1024;
        config.limits.drain_timeout = Duration::from_secs(1);
        assert_eq!(config.problems(), Vec::<String>::new());
        let stop = CancellationToken::new();
        let ran = tokio::spawn(node::run(config.clone(), stop.clone()));
        Self { config, stop, ran, dir }
    }

    async fn get(&self, path: &str) -> Option<String> {
        let mut stream = tokio::net::TcpStream::connect(self.config.http.listen).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    async fn until_ready(&self) {
        for _ in 0..1000 {
            let answer = self.get("/readyz").await.unwrap_or_default();
            if answer.starts_with("HTTP/1.1 200") {
                return;
            }
            assert!(!self.ran.is_finished(), "the node ended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the node does not become ready");
    }

    async fn channel(&self) -> Channel {
        let address = format!("http://{}", self.config.client.listen);
        Endpoint::from_shared(address).unwrap().connect().await.unwrap()
    }
}

/// The value of a metric without labels.
fn value(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{metrics}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_counts_what_it_does() {
    let node = Node::start();
    node.until_ready().await;
    let mut kv = KvClient::new(node.channel().await);
    for number in 0..10_u8 {
        let (key, value) = (vec![b'a'].into(), vec![number; 100].into());
        kv.put(v1::PutRequest { key, value, ..Default::default() }).await.unwrap();
    }
    let span = Some(v1::KeySpan { key: vec![b'a'].into(), end: None });
    for _ in 0..3 {
        kv.range(v1::RangeRequest { span: span.clone(), ..Default::default() }).await.unwrap();
    }
    let metrics = node.get("/metrics").await.unwrap();
    for (name, least) in [
        ("keelstone_proposal_batches_total", 10.0),
        ("keelstone_proposal_commands_count", 10.0),
        ("keelstone_proposal_seconds_count", 10.0),
        ("keelstone_apply_commands_total", 10.0),
        ("keelstone_apply_seconds_count", 10.0),
        ("keelstone_log_syncs_total", 10.0),
        ("keelstone_log_sync_seconds_count", 10.0),
        ("keelstone_log_bytes", 4096.0),
        ("keelstone_reads_total", 3.0),
        ("keelstone_read_rounds_total", 3.0),
        ("keelstone_leader_changes_total", 1.0),
        ("keelstone_revision", 11.0),
        ("keelstone_raft_is_leader", 1.0),
        ("keelstone_raft_applied_index", 10.0),
        ("keelstone_disk_free_bytes", 1.0),
        ("keelstone_process_resident_bytes", 1e6),
    ] {
        assert!(value(&metrics, name) >= least, "{name} is below {least}\n{metrics}");
    }
    assert!(value(&metrics, "keelstone_proposal_waiting_bytes").abs() < 0.5);
    node.stop.cancel();
    tokio::time::timeout(Duration::from_secs(20), node.ran).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_watches_and_keeps_what_was_acknowledged() {
    let node = Node::start();
    node.until_ready().await;
    let channel = node.channel().await;
    let span = Some(v1::KeySpan { key: vec![b'a'].into(), end: None });
    let create = v1::WatchCreate { span, ..Default::default() };
    let request = Some(v1::watch_request::Request::Create(create));
    let requests = futures::stream::iter([v1::WatchRequest { request }]);
    let mut watch = WatchClient::new(channel.clone()).watch(requests).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    let mut kv = KvClient::new(channel);
    let put = v1::PutRequest { key: vec![b'a'].into(), ..Default::default() };
    kv.put(put).await.unwrap();
    watch.message().await.unwrap().unwrap();
    node.stop.cancel();
    let last = watch.message().await.unwrap().unwrap();
    let Some(v1::watch_response::Response::Canceled(canceled)) = last.response else {
        panic!("{last:?}");
    };
    assert_eq!(canceled.reason(), v1::watch_canceled::Reason::Shutdown);
    tokio::time::timeout(Duration::from_secs(20), node.ran).await.unwrap().unwrap().unwrap();

    // Another process takes the directory over and has the key.
    let stop = CancellationToken::new();
    let again = Node {
        ran: tokio::spawn(node::run(node.config.clone(), stop.clone())),
        stop,
        config: node.config,
        dir: node.dir,
    };
    again.until_ready().await;
    let span = Some(v1::KeySpan { key: vec![b'a'].into(), end: None });
    let read = v1::RangeRequest { span, ..Default::default() };
    let found = KvClient::new(again.channel().await).range(read).await.unwrap().into_inner();
    assert_eq!((found.count, found.kvs[0].mod_revision), (1, 2));
    again.stop.cancel();
    again.ran.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_node_says_what_keeps_it_from_starting() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = Config::default();
    let dir = tempfile::tempdir().unwrap();
    config.data_dir = dir.path().join("data");
    config.client.listen = taken.local_addr().unwrap();
    let refused = node::run(config.clone(), CancellationToken::new()).await.unwrap_err();
    assert!(refused.to_string().contains("clients"), "{refused}");
    config.client.tls.certificate = Some(dir.path().join("none.pem"));
    config.client.tls.key = Some(dir.path().join("none.key"));
    let refused = node::run(config, CancellationToken::new()).await.unwrap_err();
    assert!(refused.to_string().contains("none"), "{refused}");
}
