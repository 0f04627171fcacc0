//! The API over TLS: the whole path, and the caller on every request. The
//! matrix of certificates is tested in `crate::tls`.

use super::*;
use crate::tls::Tls;
use crate::tls::issue::{self, Authority};
use std::path::PathBuf;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

const DAY: Duration = Duration::from_hours(24);

/// A development authority, a node that uses it, and clients.
struct Trust {
    dir: tempfile::TempDir,
    node: Node,
}

impl Trust {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tls");
        let hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let nodes = [issue::Node { id: 1, hosts }];
        issue::development(&path, &nodes, &["alice".to_owned()], DAY).unwrap();
        let mut config = Config::default();
        config.client.tls.certificate = Some(path.join("node-1-client.pem"));
        config.client.tls.key = Some(path.join("node-1-client.key"));
        config.client.tls.client_roots = Some(path.join("client-ca.pem"));
        config.client.tls.client_certificate_required = true;
        let tls = Tls::open(&config).unwrap();
        let node = Node::with(|_| {}, tls.client_configs()).await;
        Self { dir, node }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("tls").join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap()
    }

    fn trusting(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.text("client-ca.pem")))
            .domain_name("localhost")
    }

    fn alice(&self) -> ClientTlsConfig {
        let identity =
            Identity::from_pem(self.text("client-alice.pem"), self.text("client-alice.key"));
        self.trusting().identity(identity)
    }

    async fn put(&self, tls: ClientTlsConfig) -> Result<(), String> {
        let endpoint = Endpoint::from_shared(format!("https://{}", self.node.address)).unwrap();
        let endpoint = endpoint.tls_config(tls).unwrap();
        let channel = endpoint.connect().await.map_err(|error| format!("{error:?}"))?;
        let answer = KvClient::new(channel).put(put("a", "1")).await;
        answer.map(drop).map_err(|status| format!("{status:?}"))
    }
}

#[tokio::test]
async fn a_client_with_a_certificate_gets_in_and_nobody_else() {
    let trust = Trust::new().await;
    trust.put(trust.alice()).await.unwrap();

    trust.put(trust.trusting()).await.unwrap_err();
    let other = Authority::create("other", DAY).unwrap();
    let mallory = other.client("mallory", DAY).unwrap();
    let mallory = Identity::from_pem(&mallory.certificate, &mallory.key);
    trust.put(trust.trusting().identity(mallory)).await.unwrap_err();
    let peer = Identity::from_pem(trust.text("node-1-peer.pem"), trust.text("node-1-peer.key"));
    trust.put(trust.trusting().identity(peer)).await.unwrap_err();
    // A client that does not trust the server's root.
    let root = Certificate::from_pem(&other.issued().certificate);
    let wary = ClientTlsConfig::new().ca_certificate(root).domain_name("localhost");
    trust.put(wary).await.unwrap_err();
    // No plaintext on a port with TLS.
    let plain = trust.node.endpoint().connect().await;
    if let Ok(channel) = plain {
        KvClient::new(channel).put(put("a", "1")).await.unwrap_err();
    }
    let text = trust.node.metrics.render();
    for reason in ["no_certificate", "unknown_issuer", "not_tls"] {
        assert!(text.contains(&format!("port=\"client\",reason=\"{reason}\"")), "{reason}\n{text}");
    }
}

#[tokio::test]
async fn the_caller_is_in_the_span_of_each_request() {
    let lines = Lines::default();
    let writer = lines.clone();
    // For all tests of this process: one that is for this thread only races
    // with the others for what each span's place in the code remembers.
    tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
        .with_ansi(false)
        .with_env_filter("info,keelstone_server=debug")
        .init();
    let trust = Trust::new().await;
    trust.put(trust.alice()).await.unwrap();
    let plain = Node::open().await;
    plain.kv().await.put(put("private-key", "private-value")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let text = lines.text();
    let request = |caller: &str| {
        text.lines()
            .find(|line| line.contains(caller) && line.contains("command=\"txn\""))
            .unwrap_or_else(|| panic!("no {caller} in\n{text}"))
    };
    for part in ["method=\"Kv/", "revision=r2", "outcome=\"ok\""] {
        assert!(request("caller=client:alice").contains(part), "{part}\n{text}");
    }
    request("caller=anonymous");
    assert!(!text.contains("private"), "{text}");
}

/// What was logged.
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
