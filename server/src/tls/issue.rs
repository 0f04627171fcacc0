//! Certificates for development and for those who have no authority of their
//! own: an authority for clients, one for replicas, and what they sign.
//!
//! Keys are ECDSA P-256, files are PEM, keys are written with mode 0600 and
//! nothing that is there is overwritten.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The name or address cannot stand in a certificate, or an authority's
    /// file is not one.
    #[error("{what}: {source}")]
    Unusable {
        /// The name or file.
        what: String,
        /// Why.
        source: rcgen::Error,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why. An existing file is not overwritten.
        source: std::io::Error,
    },
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// The key must not reach a log.
impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Issued({} bytes)", self.certificate.len())
    }
}

impl Issued {
    /// Writes `<name>.pem` and `<name>.key` into `dir`, and returns both paths.
    ///
    /// # Errors
    ///
    /// Fails if a file is there already or cannot be written.
    pub fn write(&self, dir: &Path, name: &str) -> Result<(PathBuf, PathBuf), IssueError> {
        let (certificate, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        write_new(&key, &self.key, 0o600)?;
        write_new(&certificate, &self.certificate, 0o644)?;
        Ok((certificate, key))
    }
}

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    issued: Issued,
}

impl Authority {
    /// A new authority of this name, valid for `valid` from now on.
    ///
    /// # Errors
    ///
    /// Fails if the name cannot stand in a certificate.
    pub fn create(name: &str, valid: Duration) -> Result<Self, IssueError> {
        let fail = |source| IssueError::Unusable { what: name.to_owned(), source };
        let mut params = params(name, &[], valid)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(fail)?;
        let certificate = params.self_signed(&key).map_err(fail)?;
        let issued = Issued { certificate: certificate.pem(), key: key.serialize_pem() };
        Ok(Self { issuer: Issuer::new(params, key), issued })
    }

    /// The authority whose certificate and key are in these files.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be read or is not an authority's.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, IssueError> {
        let text = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|source| IssueError::File { path: path.to_owned(), source })
        };
        let issued = Issued { certificate: text(certificate)?, key: text(key)? };
        let fail =
            |path: &Path, source| IssueError::Unusable { what: path.display().to_string(), source };
        let pair = KeyPair::from_pem(&issued.key).map_err(|source| fail(key, source))?;
        let signer = Issuer::from_ca_cert_pem(&issued.certificate, pair)
            .map_err(|source| fail(certificate, source))?;
        Ok(Self { issuer: signer, issued })
    }

    /// The authority's own certificate and key.
    pub fn issued(&self) -> &Issued {
        &self.issued
    }

    /// A certificate for the client port of a node, for these host names and
    /// addresses.
    ///
    /// # Errors
    ///
    /// Fails if one of them cannot stand in a certificate.
    pub fn server(&self, hosts: &[String], valid: Duration) -> Result<Issued, IssueError> {
        let mut params = params("keelstone server", hosts, valid)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params)
    }

    /// A certificate for the peer port of node `id` and its connections to the
    /// others.
    ///
    /// # Errors
    ///
    /// Fails if a host name cannot stand in a certificate.
    pub fn peer(&self, id: u64, hosts: &[String], valid: Duration) -> Result<Issued, IssueError> {
        let mut params = params(&format!("keelstone peer {id}"), hosts, valid)?;
        params.subject_alt_names.push(uri(&format!("keelstone://peer/{id}"))?);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    /// A certificate for a client of this name.
    ///
    /// # Errors
    ///
    /// Fails if the name cannot stand in a certificate.
    pub fn client(&self, name: &str, valid: Duration) -> Result<Issued, IssueError> {
        let mut params = params(name, &[], valid)?;
        params.subject_alt_names.push(uri(&format!("keelstone://client/{name}"))?);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Result<Issued, IssueError> {
        let fail = |source| IssueError::Unusable { what: "certificate".to_owned(), source };
        let key = KeyPair::generate().map_err(fail)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(fail)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// A node that gets certificates.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its id.
    pub id: u64,
    /// The names and addresses it is reached at.
    pub hosts: Vec<String>,
}

/// Makes everything that a cluster for development needs, in `dir`:
///
/// * `client-ca`, `peer-ca`: the two authorities;
/// * `node-<id>-client`, `node-<id>-peer`: the certificates of each node;
/// * `client-<name>`: those of clients,
///
/// each as `.pem` and `.key`. Returns the files that were written.
///
/// # Errors
///
/// Fails if a file is there already, or a name cannot stand in a certificate.
pub fn development(
    dir: &Path,
    nodes: &[Node],
    clients: &[String],
    valid: Duration,
) -> Result<Vec<PathBuf>, IssueError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| IssueError::File { path: dir.to_owned(), source })?;
    let client_ca = Authority::create("keelstone development client authority", valid)?;
    let peer_ca = Authority::create("keelstone development peer authority", valid)?;
    let mut all = vec![
        ("client-ca".to_owned(), client_ca.issued().clone()),
        ("peer-ca".to_owned(), peer_ca.issued().clone()),
    ];
    for Node { id, hosts } in nodes {
        all.push((format!("node-{id}-client"), client_ca.server(hosts, valid)?));
        all.push((format!("node-{id}-peer"), peer_ca.peer(*id, hosts, valid)?));
    }
    for name in clients {
        all.push((format!("client-{name}"), client_ca.client(name, valid)?));
    }
    let mut written = Vec::new();
    for (name, issued) in all {
        let (certificate, key) = issued.write(dir, &name)?;
        written.extend([certificate, key]);
    }
    Ok(written)
}

fn params(name: &str, hosts: &[String], valid: Duration) -> Result<CertificateParams, IssueError> {
    let fail = |source| IssueError::Unusable { what: hosts.join(", "), source };
    let mut params = CertificateParams::new(hosts).map_err(fail)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now();
    // Clocks of machines differ: a fresh certificate is valid on all of them.
    params.not_before = (now - Duration::from_mins(5)).into();
    params.not_after = (now + valid).into();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn uri(text: &str) -> Result<SanType, IssueError> {
    let fail = |source| IssueError::Unusable { what: text.to_owned(), source };
    Ok(SanType::URI(text.try_into().map_err(fail)?))
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), IssueError> {
    let fail = |source| IssueError::File { path: path.to_owned(), source };
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(fail)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)
}
