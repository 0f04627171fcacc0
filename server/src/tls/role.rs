//! What a certificate says about its owner, and who may use which port.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use std::fmt;
use std::sync::Arc;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Bytes of a subject's name that are kept. Longer names are refused.
const NAME_BYTES_MAX: usize = 256;
const PEER_URI: &str = "keelstone://peer/";
const CLIENT_URI: &str = "keelstone://client/";

/// The owner of a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Subject {
    /// No certificate was shown.
    #[default]
    Anonymous,
    /// A client, by name.
    Client(Arc<str>),
    /// A replica, by node id.
    Peer(u64),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Client(name) => write!(f, "client:{name}"),
            Self::Peer(id) => write!(f, "peer:{id}"),
        }
    }
}

/// Why a certificate that leads to a root is refused all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoleError {
    /// It cannot be read.
    #[error("the certificate cannot be read")]
    Malformed,
    /// It names nobody, or somebody unspeakable.
    #[error("the certificate names no owner: it needs a common name or a URI name")]
    Nameless,
    /// The peer port is for replicas.
    #[error("the certificate is not a replica's: it has no URI name keelstone://peer/<node id>")]
    NotPeer,
    /// The client port is not for replicas.
    #[error("the certificate is a replica's, which is no client")]
    NotClient,
}

/// Who a certificate belongs to.
///
/// # Errors
///
/// Fails if it cannot be read or names nobody.
pub fn subject_of(certificate: &[u8]) -> Result<Subject, RoleError> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| RoleError::Malformed)?;
    let names = certificate.subject_alternative_name().map_err(|_| RoleError::Malformed)?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let mut client = None;
    for name in names {
        let GeneralName::URI(uri) = name else { continue };
        if let Some(id) = uri.strip_prefix(PEER_URI) {
            let id = id.parse().ok().filter(|id| *id > 0).ok_or(RoleError::Nameless)?;
            return Ok(Subject::Peer(id));
        }
        client = client.or_else(|| uri.strip_prefix(CLIENT_URI));
    }
    let common = certificate.subject().iter_common_name().next();
    let common = common.and_then(|name| name.as_str().ok());
    client
        .or(common)
        .filter(|name| is_speakable(name))
        .map_or(Err(RoleError::Nameless), |name| Ok(Subject::Client(Arc::from(name))))
}

/// Names reach logs and spans, so they must not break lines or be endless.
fn is_speakable(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control)
}

/// A port's side of the wall between clients and replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The client port.
    Clients,
    /// The peer port, and connections to one.
    Peers,
}

impl Side {
    fn check(self, certificate: &[u8]) -> Result<(), Error> {
        let subject = subject_of(certificate).and_then(|subject| match (self, &subject) {
            (Self::Peers, Subject::Peer(_)) | (Self::Clients, Subject::Client(_)) => Ok(()),
            (Self::Peers, _) => Err(RoleError::NotPeer),
            (Self::Clients, _) => Err(RoleError::NotClient),
        });
        subject.map_err(|error| {
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
        })
    }
}

/// Verifies the chain as `inner` does, then the role.
#[derive(Debug)]
pub(super) struct OfSide<V: ?Sized> {
    pub(super) side: Side,
    pub(super) inner: Arc<V>,
}

impl ClientCertVerifier for OfSide<dyn ClientCertVerifier> {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        self.side.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

impl ServerCertVerifier for OfSide<dyn ServerCertVerifier> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        self.side.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
