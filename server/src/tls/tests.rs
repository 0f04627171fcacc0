//! The TLS matrix over real sockets: who gets in, and who does not.

use super::accept::{Demands, Observed, connections};
use super::issue::{Authority, Issued};
use super::*;
use crate::config::Config;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

const DAY: Duration = Duration::from_hours(24);
const HELLO: &[u8; 24] = b"twenty-four bytes hello!";

/// Two authorities, and a node's files signed by them.
struct Files {
    dir: tempfile::TempDir,
    clients: Authority,
    peers: Authority,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clients = Authority::create("clients", DAY).unwrap();
        let peers = Authority::create("peers", DAY).unwrap();
        clients.issued().write(dir.path(), "client-ca").unwrap();
        peers.issued().write(dir.path(), "peer-ca").unwrap();
        let files = Self { dir, clients, peers };
        files.put("server", &files.clients.server(&hosts(), DAY).unwrap());
        files.put("peer", &files.peers.peer(1, &hosts(), DAY).unwrap());
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a certificate and its key in place of what is there.
    fn put(&self, name: &str, issued: &Issued) {
        std::fs::write(self.path(&format!("{name}.pem")), &issued.certificate).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), &issued.key).unwrap();
    }

    fn config(&self) -> Config {
        let mut config = Config::default();
        config.client.tls.certificate = Some(self.path("server.pem"));
        config.client.tls.key = Some(self.path("server.key"));
        config.client.tls.client_roots = Some(self.path("client-ca.pem"));
        config.client.tls.client_certificate_required = true;
        config.peer.tls.certificate = Some(self.path("peer.pem"));
        config.peer.tls.key = Some(self.path("peer.key"));
        config.peer.tls.roots = Some(self.path("peer-ca.pem"));
        config
    }
}

fn hosts() -> Vec<String> {
    vec!["localhost".to_owned(), "127.0.0.1".to_owned()]
}

/// A port that answers each first message with the caller's name.
struct Port {
    address: SocketAddr,
    observed: Arc<Mutex<Vec<Observed>>>,
    close: CancellationToken,
}

impl Port {
    async fn open(tls: Option<ServerConfigs>, connections_max: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let observed = Arc::new(Mutex::new(Vec::new()));
        let seen = observed.clone();
        let demands = Demands {
            connections_max,
            handshake_timeout: Duration::from_millis(300),
            tls,
            observe: Arc::new(move |what| seen.lock().unwrap().push(what)),
        };
        let close = CancellationToken::new();
        let mut passed = connections(listener, demands, close.clone(), close.clone());
        tokio::spawn(async move {
            while let Some(mut connection) = passed.recv().await {
                tokio::spawn(async move {
                    let name = connection.caller().subject.to_string();
                    let mut hello = [0; HELLO.len()];
                    connection.read_exact(&mut hello).await?;
                    connection.write_all(format!("{name}\n").as_bytes()).await?;
                    // Until the other side or `close` ends it.
                    connection.read_u8().await.map(drop)
                });
            }
        });
        Self { address, observed, close }
    }

    async fn saw(&self, expected: Observed) {
        for _ in 0..200 {
            if self.observed.lock().unwrap().contains(&expected) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{expected:?} is not among {:?}", self.observed.lock().unwrap());
    }

    /// The caller's name as the port sees it, with this client configuration.
    async fn hello(&self, config: ClientConfig) -> io::Result<String> {
        let tcp = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        answer(stream).await
    }
}

async fn answer(mut stream: impl AsyncReadWrite) -> io::Result<String> {
    stream.write_all(HELLO).await?;
    let mut answer = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return Ok(String::from_utf8(answer).unwrap()),
            byte => answer.push(byte),
        }
    }
}

trait AsyncReadWrite: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> AsyncReadWrite for T {}

/// A client that trusts `roots` and shows `certificate`.
fn client(roots: &Authority, certificate: Option<&Issued>) -> ClientConfig {
    let mut store = RootCertStore::empty();
    store
        .add(CertificateDer::from_pem_slice(roots.issued().certificate.as_bytes()).unwrap())
        .unwrap();
    let builder = ClientConfig::builder_with_provider(files::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store);
    match certificate {
        None => builder.with_no_client_auth(),
        Some(issued) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    }
}

#[tokio::test]
async fn the_client_port_lets_clients_in_and_nobody_else() {
    let files = Files::new();
    let tls = Tls::open(&files.config()).unwrap();
    let port = Port::open(tls.client_configs(), 100).await;
    let roots = &files.clients;

    let alice = files.clients.client("alice", DAY).unwrap();
    assert_eq!(port.hello(client(roots, Some(&alice))).await.unwrap(), "client:alice");

    let refused = [
        ("no_certificate", None),
        ("unknown_issuer", Some(files.peers.client("mallory", DAY).unwrap())),
        ("unknown_issuer", Some(files.peers.peer(1, &hosts(), DAY).unwrap())),
        // Signed by the right root, and a replica's.
        ("wrong_role", Some(files.clients.peer(1, &hosts(), DAY).unwrap())),
        // A server's certificate is no client's.
        ("wrong_role", Some(files.clients.server(&hosts(), DAY).unwrap())),
        ("expired", Some(files.clients.client("old", Duration::ZERO).unwrap())),
    ];
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for (reason, certificate) in refused {
        port.observed.lock().unwrap().clear();
        port.hello(client(roots, certificate.as_ref())).await.unwrap_err();
        port.saw(Observed::HandshakeFailed(reason)).await;
    }
}

#[tokio::test]
async fn the_peer_port_lets_replicas_in_and_nobody_else() {
    let files = Files::new();
    let tls = Tls::open(&files.config()).unwrap();
    let port = Port::open(tls.peer_configs(), 100).await;

    let own = (*tls.peer_client_config().unwrap()).clone();
    assert_eq!(port.hello(own).await.unwrap(), "peer:1");
    let other = files.peers.peer(2, &hosts(), DAY).unwrap();
    assert_eq!(port.hello(client(&files.peers, Some(&other))).await.unwrap(), "peer:2");

    let refused = [
        ("no_certificate", None),
        ("unknown_issuer", Some(files.clients.client("alice", DAY).unwrap())),
        // Signed by the peers' root, and still a client's.
        ("wrong_role", Some(files.peers.client("alice", DAY).unwrap())),
        ("wrong_role", Some(files.peers.server(&hosts(), DAY).unwrap())),
    ];
    for (reason, certificate) in refused {
        port.observed.lock().unwrap().clear();
        port.hello(client(&files.peers, certificate.as_ref())).await.unwrap_err();
        port.saw(Observed::HandshakeFailed(reason)).await;
    }
}

#[tokio::test]
async fn a_replica_dials_replicas_only() {
    let files = Files::new();
    let tls = Tls::open(&files.config()).unwrap();
    let peer_config = || (*tls.peer_client_config().unwrap()).clone();

    // A port with a server's certificate, signed by the peers' root.
    let mut config = files.config();
    files.put("impostor", &files.peers.server(&hosts(), DAY).unwrap());
    config.client.tls.certificate = Some(files.path("impostor.pem"));
    config.client.tls.key = Some(files.path("impostor.key"));
    config.client.tls.client_roots = Some(files.path("peer-ca.pem"));
    let impostor = Port::open(Tls::open(&config).unwrap().client_configs(), 100).await;
    let error = impostor.hello(peer_config()).await.unwrap_err();
    assert!(error.to_string().contains("NotPeer"), "{error}");

    // A replica whose certificate names another host.
    files.put("elsewhere", &files.peers.peer(2, &["elsewhere".to_owned()], DAY).unwrap());
    let mut config = files.config();
    config.peer.tls.certificate = Some(files.path("elsewhere.pem"));
    config.peer.tls.key = Some(files.path("elsewhere.key"));
    let elsewhere = Port::open(Tls::open(&config).unwrap().peer_configs(), 100).await;
    let error = elsewhere.hello(peer_config()).await.unwrap_err();
    assert!(
        error.to_string().contains("NotValidForName")
            || error.to_string().contains("not valid for name"),
        "{error}"
    );
}

#[tokio::test]
async fn there_is_no_plaintext_on_a_port_with_tls() {
    let files = Files::new();
    let tls = Tls::open(&files.config()).unwrap();
    let port = Port::open(tls.client_configs(), 100).await;
    let plain = TcpStream::connect(port.address).await.unwrap();
    answer(plain).await.unwrap_err();
    port.saw(Observed::HandshakeFailed("not_tls")).await;
}

#[tokio::test]
async fn clients_may_be_anonymous_if_they_are_allowed_to() {
    let files = Files::new();
    let mut config = files.config();
    config.client.tls.client_certificate_required = false;
    let port = Port::open(Tls::open(&config).unwrap().client_configs(), 100).await;
    assert_eq!(port.hello(client(&files.clients, None)).await.unwrap(), "anonymous");
    // A certificate that is shown must still be good.
    let mallory = files.peers.client("mallory", DAY).unwrap();
    port.hello(client(&files.clients, Some(&mallory))).await.unwrap_err();
    config.client.tls.client_roots = None;
    let port = Port::open(Tls::open(&config).unwrap().client_configs(), 100).await;
    assert_eq!(port.hello(client(&files.clients, None)).await.unwrap(), "anonymous");
}

#[tokio::test]
async fn certificates_are_exchanged_without_a_restart() {
    let files = Files::new();
    let tls = Tls::open(&files.config()).unwrap();
    let port = Port::open(tls.client_configs(), 100).await;
    let stop = CancellationToken::new();
    let look = Duration::from_millis(20);
    tokio::spawn(tls.clone().keep_current(look, stop.clone()));
    let alice = files.clients.client("alice", DAY).unwrap();
    let hello = |roots| port.hello(client(roots, Some(&alice)));
    hello(&files.clients).await.unwrap();

    // Rubbish: the old one stays, and it is told.
    let good = std::fs::read(files.path("server.pem")).unwrap();
    std::fs::write(files.path("server.pem"), "rubbish").unwrap();
    wait_until(|| !tls.problems().is_empty()).await;
    assert!(tls.problems()[0].contains("server.pem"), "{:?}", tls.problems());
    hello(&files.clients).await.unwrap();
    std::fs::write(files.path("server.pem"), good).unwrap();
    wait_until(|| tls.problems().is_empty()).await;

    // A key that belongs to another certificate.
    let next = Authority::create("next", DAY).unwrap();
    let server = next.server(&hosts(), DAY).unwrap();
    std::fs::write(files.path("server.key"), &server.key).unwrap();
    wait_until(|| !tls.problems().is_empty()).await;
    hello(&files.clients).await.unwrap();

    // With its certificate: clients that trust the next authority get in now.
    std::fs::write(files.path("server.pem"), &server.certificate).unwrap();
    wait_until(|| tls.problems().is_empty()).await;
    hello(&next).await.unwrap();
    hello(&files.clients).await.unwrap_err();
    assert!(tls.expires()[0].unwrap() > SystemTime::now());
    stop.cancel();
}

#[test]
fn what_cannot_be_used_is_refused_at_the_start() {
    let files = Files::new();
    let check = |part: &str, change: &dyn Fn(&mut Config)| {
        let mut config = files.config();
        change(&mut config);
        let error = Tls::open(&config).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    files.put("old", &files.clients.server(&hosts(), Duration::ZERO).unwrap());
    files.put("wrong", &files.peers.client("alice", DAY).unwrap());
    std::thread::sleep(Duration::from_millis(1100));
    std::fs::write(files.path("empty.pem"), "").unwrap();
    let file = |name: &str| Some(files.path(name));
    check("No such file", &|c| c.client.tls.certificate = file("missing.pem"));
    check("no certificate in it", &|c| c.client.tls.certificate = file("empty.pem"));
    check("valid from", &|c| {
        c.client.tls.certificate = file("old.pem");
        c.client.tls.key = file("old.key");
    });
    check("server.pem cannot be used", &|c| c.client.tls.key = file("peer.key"));
    check("not a replica's", &|c| {
        c.peer.tls.certificate = file("wrong.pem");
        c.peer.tls.key = file("wrong.key");
    });
}

#[tokio::test]
async fn connections_are_counted_and_the_silent_ones_closed() {
    let port = Port::open(None, 2).await;
    let mut silent = TcpStream::connect(port.address).await.unwrap();
    let speaking = TcpStream::connect(port.address).await.unwrap();
    let mut speaking = tokio::io::BufReader::new(speaking);
    speaking.write_all(HELLO).await.unwrap();
    assert_eq!(speaking.read_u8().await.unwrap(), b'a');
    // A third is one too many.
    let mut third = TcpStream::connect(port.address).await.unwrap();
    assert_eq!(third.read(&mut [0; 1]).await.unwrap_or(0), 0);
    port.saw(Observed::TooMany).await;
    // The silent one is closed and makes room; the speaking one stays.
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0);
    port.saw(Observed::HandshakeFailed("silent")).await;
    port.saw(Observed::Closed).await;
    answer(TcpStream::connect(port.address).await.unwrap()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    speaking.write_all(b"").await.unwrap();
    let mut rest = [0; 9];
    speaking.read_exact(&mut rest).await.unwrap();
    // `close` ends it whatever it does.
    port.close.cancel();
    assert_eq!(speaking.read(&mut [0; 1]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_ended() {
    let files = Files::new();
    let tls = Tls::open(&files.config()).unwrap();
    let port = Port::open(tls.client_configs(), 1).await;
    let mut slow = TcpStream::connect(port.address).await.unwrap();
    slow.write_all(&[22, 3, 1]).await.unwrap();
    assert_eq!(slow.read(&mut [0; 1]).await.unwrap_or(0), 0);
    port.saw(Observed::HandshakeFailed("timeout")).await;
    let alice = files.clients.client("alice", DAY).unwrap();
    port.hello(client(&files.clients, Some(&alice))).await.unwrap();
}

#[test]
fn a_development_authority_makes_all_files_once() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("certificates");
    let nodes = [1, 2, 3].map(|id| issue::Node { id, hosts: hosts() });
    let written = issue::development(&dir, &nodes, &["admin".to_owned()], DAY).unwrap();
    assert_eq!(written.len(), 2 * (2 + 3 * 2 + 1));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for path in written.iter().filter(|path| path.extension().is_some_and(|e| e == "key")) {
        assert_eq!(mode(path), 0o600, "{}", path.display());
    }
    let again = issue::development(&dir, &nodes, &[], DAY).unwrap_err();
    assert!(again.to_string().contains("client-ca.key"), "{again}");

    let mut config = Config::default();
    config.client.tls.certificate = Some(dir.join("node-2-client.pem"));
    config.client.tls.key = Some(dir.join("node-2-client.key"));
    config.client.tls.client_roots = Some(dir.join("client-ca.pem"));
    config.peer.tls.certificate = Some(dir.join("node-2-peer.pem"));
    config.peer.tls.key = Some(dir.join("node-2-peer.key"));
    config.peer.tls.roots = Some(dir.join("peer-ca.pem"));
    assert_eq!(config.problems(), Vec::<String>::new());
    Tls::open(&config).unwrap();
    let authority =
        Authority::read(&dir.join("client-ca.pem"), &dir.join("client-ca.key")).unwrap();
    authority.client("late", DAY).unwrap();
}

#[test]
fn a_subject_is_read_from_its_certificate() {
    let authority = Authority::create("authority", DAY).unwrap();
    let der = |issued: &Issued| {
        CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap().to_vec()
    };
    let check = |issued: &Issued, expected: Result<&str, RoleError>| {
        let found = subject_of(&der(issued)).map(|subject| subject.to_string());
        assert_eq!(found.as_deref(), expected.as_ref().map(|text| *text));
    };
    check(&authority.client("bob", DAY).unwrap(), Ok("client:bob"));
    check(&authority.peer(7, &hosts(), DAY).unwrap(), Ok("peer:7"));
    check(&authority.server(&hosts(), DAY).unwrap(), Ok("client:keelstone server"));
    check(&authority.client(&"x".repeat(300), DAY).unwrap(), Err(RoleError::Nameless));
    check(&authority.client("two\nlines", DAY).unwrap(), Err(RoleError::Nameless));
    check(&authority.peer(0, &[], DAY).unwrap(), Err(RoleError::Nameless));
    assert_eq!(subject_of(b"rubbish"), Err(RoleError::Malformed));
}

#[tokio::test]
async fn a_listener_is_anything_that_accepts() {
    let mut listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connected, accepted) =
        tokio::join!(TcpStream::connect(address), accept::Listener::accept(&mut listener));
    assert_eq!(connected.unwrap().local_addr().unwrap(), accepted.unwrap().1);
}

async fn wait_until(condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come true");
}
