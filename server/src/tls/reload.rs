//! Certificates that are exchanged while the node runs.

use super::files::{ClientSide, PeerSide, TlsError, client_side, peer_side};
use crate::config::{ClientTls, Config, PeerTls};
use arc_swap::ArcSwap;
use rustls::{ClientConfig, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

/// Where the configuration of the next connection comes from.
pub type ServerConfigs = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// How often the files are looked at.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// The certificates of a node.
///
/// Connections take the configuration that is current when they are made and
/// keep it; exchanged certificates are for the next ones. A file that cannot be
/// used leaves what was there in place and is reported until it is repaired.
#[derive(Debug)]
pub struct Tls {
    client: Option<Exchanged<ClientTls, ClientSide>>,
    peer: Option<Exchanged<PeerTls, PeerSide>>,
}

impl Tls {
    /// Reads the certificates that `config` names.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be read or used, see [`TlsError`].
    pub fn open(config: &Config) -> Result<Arc<Self>, TlsError> {
        let client = Exchanged::open(config.client.tls.clone(), client_side, client_files)?;
        let peer = Exchanged::open(config.peer.tls.clone(), peer_side, peer_files)?;
        Ok(Arc::new(Self { client, peer }))
    }

    /// For connections to the peer port of another replica. `None`: plaintext.
    ///
    /// To be asked for each connection anew, so that it is the current one.
    pub fn peer_client_config(&self) -> Option<Arc<ClientConfig>> {
        self.peer.as_ref().map(|peer| peer.current.load().client.clone())
    }

    /// For connections that the peer port accepts, see
    /// [`peer_client_config`](Tls::peer_client_config).
    pub fn peer_server_config(&self) -> Option<Arc<ServerConfig>> {
        self.peer.as_ref().map(|peer| peer.current.load().server.clone())
    }

    /// The source of configurations for the peer port. `None`: plaintext.
    pub fn peer_configs(self: &Arc<Self>) -> Option<ServerConfigs> {
        self.peer.as_ref()?;
        let tls = self.clone();
        Some(Arc::new(move || tls.peer_server_config().expect("it was there above")))
    }

    /// The source of configurations for the client port. `None`: plaintext.
    pub fn client_configs(self: &Arc<Self>) -> Option<ServerConfigs> {
        self.client.as_ref()?;
        let tls = self.clone();
        Some(Arc::new(move || {
            let client = tls.client.as_ref().expect("it was there above");
            client.current.load().grpc.clone()
        }))
    }

    /// The source of configurations for the HTTP port. `None`: plaintext.
    pub fn http_configs(self: &Arc<Self>) -> Option<ServerConfigs> {
        self.client.as_ref()?;
        let tls = self.clone();
        Some(Arc::new(move || {
            let client = tls.client.as_ref().expect("it was there above");
            client.current.load().http.clone()
        }))
    }

    /// Reads all files again, changed or not.
    pub fn reload(&self) {
        self.client.iter().for_each(Exchanged::reload);
        self.peer.iter().for_each(Exchanged::reload);
    }

    /// Reads those files again that look changed.
    pub fn reload_changed(&self) {
        self.client.iter().for_each(Exchanged::reload_changed);
        self.peer.iter().for_each(Exchanged::reload_changed);
    }

    /// What an operator should know: files that cannot be used.
    pub fn problems(&self) -> Vec<String> {
        let client = self.client.as_ref().and_then(Exchanged::problem);
        let peer = self.peer.as_ref().and_then(Exchanged::problem);
        client.into_iter().chain(peer).collect()
    }

    /// When the certificates in use run out: the client port's and the peer
    /// port's.
    pub fn expires(&self) -> [Option<SystemTime>; 2] {
        [
            self.client.as_ref().map(|client| client.current.load().expires),
            self.peer.as_ref().map(|peer| peer.current.load().expires),
        ]
    }

    /// Keeps the certificates current until `stop`: looks at the files every
    /// `interval`, and at once after SIGHUP.
    pub async fn keep_current(self: Arc<Self>, interval: Duration, stop: CancellationToken) {
        let mut hangup = match hangups() {
            Ok(hangup) => Some(hangup),
            Err(error) => {
                tracing::warn!(%error, "SIGHUP cannot be received; certificates are polled only");
                None
            }
        };
        loop {
            let signalled = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            let signalled = tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(interval) => false,
                _ = signalled => true,
            };
            let tls = self.clone();
            let read = move || if signalled { tls.reload() } else { tls.reload_changed() };
            if tokio::task::spawn_blocking(read).await.is_err() {
                return;
            }
        }
    }
}

fn hangups() -> std::io::Result<tokio::signal::unix::Signal> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
}

type Read<S, M> = fn(&S) -> Result<Option<M>, TlsError>;

/// What is made of some files, current and replaceable.
#[derive(Debug)]
struct Exchanged<S, M> {
    settings: S,
    read: Read<S, M>,
    files: fn(&S) -> Vec<&Path>,
    current: ArcSwap<M>,
    seen: Mutex<Seen>,
}

/// The files when they were last read, and what was wrong with them.
#[derive(Debug)]
struct Seen {
    stamps: Vec<Stamp>,
    problem: Option<String>,
}

/// Tells one content of a file from another, without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    found: Option<(SystemTime, u64, u64)>,
}

impl<S, M> Exchanged<S, M> {
    fn open(
        settings: S,
        read: Read<S, M>,
        files: fn(&S) -> Vec<&Path>,
    ) -> Result<Option<Self>, TlsError> {
        let stamps = stamps(&files(&settings));
        let Some(material) = read(&settings)? else { return Ok(None) };
        let seen = Mutex::new(Seen { stamps, problem: None });
        let current = ArcSwap::from_pointee(material);
        Ok(Some(Self { settings, read, files, current, seen }))
    }

    fn reload_changed(&self) {
        let changed = {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.stamps != stamps(&(self.files)(&self.settings))
        };
        if changed {
            self.reload();
        }
    }

    fn reload(&self) {
        // Taken before reading: a change during it is seen the next time.
        let stamps = stamps(&(self.files)(&self.settings));
        let problem = match (self.read)(&self.settings) {
            Ok(Some(material)) => {
                self.current.store(Arc::new(material));
                tracing::info!(files = stamps.len(), "certificates were read again");
                None
            }
            Ok(None) => None,
            Err(error) => {
                tracing::error!(%error, "new certificates cannot be used, the old ones stay");
                Some(format!("new certificates cannot be used, the old ones stay: {error}"))
            }
        };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen { stamps, problem };
    }

    fn problem(&self) -> Option<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).problem.clone()
    }
}

fn client_files(tls: &ClientTls) -> Vec<&Path> {
    [&tls.certificate, &tls.key, &tls.client_roots]
        .into_iter()
        .flatten()
        .map(AsRef::as_ref)
        .collect()
}

fn peer_files(tls: &PeerTls) -> Vec<&Path> {
    [&tls.certificate, &tls.key, &tls.roots].into_iter().flatten().map(AsRef::as_ref).collect()
}

fn stamps(files: &[&Path]) -> Vec<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let stamp = |path: &&Path| {
        let found = std::fs::metadata(path)
            .and_then(|metadata| Ok((metadata.modified()?, metadata.len(), metadata.ino())));
        Stamp { path: path.to_path_buf(), found: found.ok() }
    };
    files.iter().map(stamp).collect()
}
