//! The HTTP port over real sockets.

use super::*;
use crate::config::Config;
use crate::solo::Solo;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

struct Port {
    address: SocketAddr,
    stop: CancellationToken,
    free: Arc<AtomicU64>,
    served: tokio::task::JoinHandle<()>,
    shown: Arc<OnceLock<Shown>>,
}

/// A port whose replica has started.
async fn open(change: impl FnOnce(&mut Shown, &mut LimitsConfig)) -> Port {
    let (port, shown) = starting(change).await;
    assert!(port.shown.set(shown).is_ok());
    port
}

async fn starting(change: impl FnOnce(&mut Shown, &mut LimitsConfig)) -> (Port, Shown) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let free = Arc::new(AtomicU64::new(1000));
    let answer = free.clone();
    let facts = Facts {
        disk_free_bytes: Arc::new(move || answer.load(Ordering::Relaxed)),
        disk_reserve_bytes: 100,
        ..Facts::of_memory()
    };
    let mut shown = Shown { core: Solo::new(), facts };
    let mut limits = Config::default().limits;
    limits.drain_timeout = Duration::from_millis(200);
    change(&mut shown, &mut limits);
    let stop = CancellationToken::new();
    let token = stop.clone();
    let (metrics, cell) = (Arc::new(Metrics::new()), Arc::default());
    let showing = Arc::clone(&cell);
    let served = tokio::spawn(async move {
        serve(listener, showing, metrics, &limits, None, token).await;
    });
    (Port { address, stop, free, served, shown: cell }, shown)
}

impl Port {
    async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let code = text[9..12].parse().unwrap();
        (code, text.split_once("\r\n\r\n").unwrap().1.to_owned())
    }
}

#[tokio::test]
async fn a_node_that_starts_is_alive_and_not_ready() {
    let (port, shown) = starting(|_, _| {}).await;
    assert_eq!(port.get("/livez").await, (200, "ok\n".to_owned()));
    assert_eq!(port.get("/version").await.0, 200);
    for path in ["/readyz", "/metrics"] {
        let (code, text) = port.get(path).await;
        assert_eq!((code, text.as_str()), (503, "the replica has not started yet\n"), "{path}");
    }
    assert!(port.shown.set(shown).is_ok());
    assert_eq!(port.get("/readyz").await, (200, "ready\n".to_owned()));
}

#[tokio::test]
async fn a_node_shows_how_it_is() {
    let port = open(|_, _| {}).await;
    assert_eq!(port.get("/livez").await, (200, "ok\n".to_owned()));
    assert_eq!(port.get("/readyz").await, (200, "ready\n".to_owned()));
    assert_eq!(port.get("/nothing").await.0, 404);
    let (code, version) = port.get("/version").await;
    let version: serde_json::Value = serde_json::from_str(&version).unwrap();
    assert_eq!((code, &version["node_id"]), (200, &serde_json::json!(1)));
    assert_eq!(version["cluster_id"], "07".repeat(16));
    let (code, metrics) = port.get("/metrics").await;
    assert_eq!(code, 200);
    for line in [
        "keelstone_raft_is_leader 1",
        "keelstone_revision 1",
        "keelstone_disk_free_bytes 1000",
        "keelstone_connections{port=\"http\"} 1",
        "# EOF",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn a_node_says_why_it_is_not_ready() {
    let recovering = || vec!["the log is being read".to_owned()];
    let port = open(|shown, _| shown.facts.unready = Arc::new(recovering)).await;
    port.free.store(99, Ordering::Relaxed);
    let (code, reasons) = port.get("/readyz").await;
    assert_eq!(code, 503);
    assert!(reasons.contains("the log is being read\nthe disk has 99 bytes left"), "{reasons}");
    assert_eq!(port.get("/livez").await.0, 200);
    let leaderless = Solo::new();
    leaderless.lead(None);
    let leaderless = open(|shown, _| shown.core = leaderless).await;
    assert_eq!(leaderless.get("/readyz").await, (503, "no leader is known\n".to_owned()));
}

#[tokio::test]
async fn connections_are_limited_and_a_stop_is_bounded() {
    let port = open(|_, limits| limits.http_connections_max = 1).await;
    let mut slow = TcpStream::connect(port.address).await.unwrap();
    slow.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nX: y").await.unwrap();
    let mut second = TcpStream::connect(port.address).await.unwrap();
    assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0);
    port.stop.cancel();
    let began = std::time::Instant::now();
    port.served.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(slow.read(&mut [0; 1]).await.unwrap_or(0), 0);
}
