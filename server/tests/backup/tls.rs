//! The bucket over TLS with a private authority, as most on-premises servers are.

use crate::support::{BUCKET, options, s3};
use keelstone_server::backup::{BucketError, BucketOptions, BucketUrl, Created, open};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};

/// Ends TLS in front of `to` with a certificate of its own authority; returns
/// where, and the authority's certificate as PEM.
async fn terminate_tls(to: SocketAddr) -> (SocketAddr, String) {
    crypto::ring::default_provider().install_default().ok();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&authority_key).unwrap();
    let pem = authority.pem();
    let issuer = Issuer::new(params, authority_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![leaf.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let Ok(mut server) = TcpStream::connect(to).await else { return };
                tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
            });
        }
    });
    (address, pem)
}

#[tokio::test]
async fn a_bucket_behind_a_private_authority_is_reached() {
    let server = s3().await;
    let to = server.url().strip_prefix("http://").unwrap().parse().unwrap();
    let (address, pem) = terminate_tls(to).await;
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, pem).unwrap();
    let endpoint = Some(format!("https://localhost:{}", address.port()));
    let url: BucketUrl = format!("s3://{BUCKET}/p").parse().unwrap();
    let stranger = BucketOptions { endpoint, ..options(&server) };
    let trusting = BucketOptions { ca_file: Some(ca_file), ..stranger.clone() };
    let bucket = open(&url, &trusting, true).unwrap();
    assert_eq!(bucket.create("k", "over TLS".into()).await.unwrap(), Created::Mine);
    assert_eq!(bucket.get("k").await.unwrap(), "over TLS");
    let error = open(&url, &stranger, true).unwrap().get("k").await.unwrap_err();
    assert!(matches!(error, BucketError::Unavailable { .. }), "{error}");
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
}
