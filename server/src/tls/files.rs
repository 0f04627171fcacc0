//! From PEM files to rustls configurations.

use super::role::{OfSide, Side};
use crate::config::{ClientTls, PeerTls};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or is not what it should be.
    #[error("{path}: {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The files are readable and do not work together.
    #[error("{path} cannot be used: {source}")]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The certificate is not valid at this time.
    #[error("{path}: the certificate is valid from {not_before} to {not_after} (Unix time)")]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// When its validity begins, in seconds.
        not_before: i64,
        /// When it ends.
        not_after: i64,
    },
}

/// What a port needs, made of one reading of its files.
#[derive(Clone, Debug)]
pub(super) struct ClientSide {
    pub(super) grpc: Arc<ServerConfig>,
    pub(super) http: Arc<ServerConfig>,
    pub(super) expires: SystemTime,
}

/// What the peer port and connections to the other replicas need.
#[derive(Clone, Debug)]
pub(super) struct PeerSide {
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
    pub(super) expires: SystemTime,
}

/// A certificate with what leads to its root, and its key.
struct Owned {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    path: PathBuf,
    expires: SystemTime,
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Reads the files of the client port. `None`: it has no TLS.
pub(super) fn client_side(tls: &ClientTls) -> Result<Option<ClientSide>, TlsError> {
    let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) else { return Ok(None) };
    let owned = read_owned(certificate, key)?;
    let verifier = match &tls.client_roots {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(roots) => {
            let required = tls.client_certificate_required;
            client_verifier(roots, Side::Clients, required)?
        }
    };
    let build = |verifier, alpn: &[u8]| {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect("ring has suites for both versions")
            .with_client_cert_verifier(verifier);
        server_config(builder, &owned, alpn)
    };
    let grpc = build(verifier, b"h2")?;
    let http = build(WebPkiClientVerifier::no_client_auth(), b"http/1.1")?;
    Ok(Some(ClientSide { grpc, http, expires: owned.expires }))
}

/// Reads the files of the peer port. `None`: it has no TLS.
pub(super) fn peer_side(tls: &PeerTls) -> Result<Option<PeerSide>, TlsError> {
    let (Some(certificate), Some(key), Some(roots)) = (&tls.certificate, &tls.key, &tls.roots)
    else {
        return Ok(None);
    };
    let owned = read_owned(certificate, key)?;
    // A replica that shows a certificate the others will refuse should not start.
    let is_peer = super::subject_of(&owned.chain[0])
        .is_ok_and(|subject| matches!(subject, super::Subject::Peer(_)));
    if !is_peer {
        let problem = super::RoleError::NotPeer.to_string();
        return Err(TlsError::File { path: certificate.clone(), problem });
    }
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("ring has suites for TLS 1.3")
        .with_client_cert_verifier(client_verifier(roots, Side::Peers, true)?);
    let server = server_config(builder, &owned, b"h2")?;
    let client = peer_client(roots, &owned)?;
    Ok(Some(PeerSide { server, client, expires: owned.expires }))
}

fn server_config(
    builder: rustls::ConfigBuilder<ServerConfig, rustls::server::WantsServerCert>,
    owned: &Owned,
    alpn: &[u8],
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = builder
        .with_single_cert(owned.chain.clone(), owned.key.clone_key())
        .map_err(|source| TlsError::Unusable { path: owned.path.clone(), source })?;
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Arc::new(config))
}

fn peer_client(roots: &Path, owned: &Owned) -> Result<Arc<ClientConfig>, TlsError> {
    let inner: Arc<dyn ServerCertVerifier> =
        WebPkiServerVerifier::builder_with_provider(Arc::new(read_roots(roots)?), provider())
            .build()
            .map_err(|error| unreadable(roots, &error))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("ring has suites for TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OfSide { side: Side::Peers, inner }))
        .with_client_auth_cert(owned.chain.clone(), owned.key.clone_key())
        .map_err(|source| TlsError::Unusable { path: owned.path.clone(), source })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn client_verifier(
    roots: &Path,
    side: Side,
    required: bool,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(read_roots(roots)?), provider());
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    let inner: Arc<dyn ClientCertVerifier> =
        builder.build().map_err(|error| unreadable(roots, &error))?;
    Ok(Arc::new(OfSide { side, inner }))
}

fn read_owned(certificate: &Path, key: &Path) -> Result<Owned, TlsError> {
    let chain = read_certificates(certificate)?;
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, &error))?;
    let expires = check_validity(certificate, &chain[0])?;
    Ok(Owned { chain, key: key_der, path: certificate.to_owned(), expires })
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates = certificates.map_err(|error| unreadable(path, &error))?;
    if certificates.is_empty() {
        return Err(unreadable(path, &"there is no certificate in it"));
    }
    Ok(certificates)
}

fn read_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|error| unreadable(path, &error))?;
    }
    Ok(roots)
}

/// When the certificate runs out, if it is valid now.
fn check_validity(path: &Path, certificate: &[u8]) -> Result<SystemTime, TlsError> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|error| unreadable(path, &error))?;
    let validity = parsed.validity();
    let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    if now < not_before || now > not_after {
        return Err(TlsError::Expired { path: path.to_owned(), not_before, not_after });
    }
    Ok(UNIX_EPOCH + Duration::from_secs(u64::try_from(not_after).unwrap_or(0)))
}

fn unreadable(path: &Path, problem: &impl ToString) -> TlsError {
    TlsError::File { path: path.to_owned(), problem: problem.to_string() }
}
