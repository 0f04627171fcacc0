//! An S3 server for development and tests: real HTTP on loopback, real
//! signatures, objects in memory and, if asked for, in a directory.
//!
//! It is strict where servers in the wild are lax, so that a client that works
//! here works there: signatures and clock skew are checked, a conditional create
//! is atomic, a wrong checksum leaves nothing behind. And it fails when told to:
//! see [`Faults`]. It is not for production: one process, no replication, and
//! all objects must fit into memory.

mod faults;
mod service;
mod shelf;

pub use faults::{Fault, Faults, Operation, Place, Rule};

use crate::backup::{BucketOptions, Secret};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use service::Service;
use shelf::Shelf;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Connections served at once; more wait.
const CONNECTIONS_MAX: usize = 256;
/// How long a client may take to send the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a client signs its requests with.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The access key's name.
    pub access_key_id: String,
    /// The access key's secret.
    pub secret_access_key: Secret,
}

impl Credentials {
    /// A fresh pair, for one run.
    pub fn random() -> Self {
        Self {
            access_key_id: format!("DEV{:016X}", rand::random::<u64>()),
            secret_access_key: Secret::new(format!("{:032x}", rand::random::<u128>())),
        }
    }
}

/// A running server. It stops when this is dropped.
#[derive(Debug)]
pub struct DevS3 {
    address: SocketAddr,
    credentials: Credentials,
    shelf: Arc<Shelf>,
    faults: Arc<Faults>,
    server: JoinHandle<()>,
}

impl DevS3 {
    /// Serves on `listen`; port 0 chooses one. With `dir`, objects are kept
    /// there as well, and those that are there are served.
    ///
    /// # Errors
    ///
    /// Fails if the address cannot be bound or the directory cannot be read.
    pub async fn start(
        listen: SocketAddr,
        credentials: Credentials,
        dir: Option<PathBuf>,
    ) -> io::Result<Self> {
        let shelf = Arc::new(match dir {
            Some(dir) => tokio::task::spawn_blocking(move || Shelf::open(dir)).await??,
            None => Shelf::in_memory(),
        });
        let faults = Arc::new(Faults::default());
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let secret = credentials.secret_access_key.expose();
        let mut builder =
            S3ServiceBuilder::new(Service::new(Arc::clone(&shelf), Arc::clone(&faults)));
        builder.set_auth(SimpleAuth::from_single(&credentials.access_key_id, secret));
        let server = tokio::spawn(serve(listener, builder.build()));
        Ok(Self { address, credentials, shelf, faults, server })
    }

    /// The endpoint, for `AWS_ENDPOINT_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What a client signs its requests with.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The settings with which this server is reached.
    pub fn bucket_options(&self) -> BucketOptions {
        BucketOptions {
            endpoint: Some(self.url()),
            access_key_id: Some(self.credentials.access_key_id.clone()),
            secret_access_key: Some(self.credentials.secret_access_key.clone()),
            ..BucketOptions::default()
        }
    }

    /// Makes a bucket, if it is not there.
    ///
    /// # Errors
    ///
    /// Fails if its directory cannot be made.
    pub async fn create_bucket(&self, name: &str) -> io::Result<()> {
        self.shelf.create_bucket(name).await
    }

    /// What goes wrong.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Changes a stored object behind the server's back, as a failing disk or an
    /// intruder would; `None` removes it. Only in memory.
    pub async fn tamper(
        &self,
        bucket: &str,
        key: &str,
        change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>,
    ) {
        self.shelf.tamper(bucket, key, change).await;
    }

    /// The names of a bucket's objects.
    pub async fn keys(&self, bucket: &str) -> Vec<String> {
        self.shelf.keys(bucket).await
    }
}

impl Drop for DevS3 {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, service: S3Service) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let service = service.clone();
                tokio::spawn(async move {
                    converse(stream, service).await;
                    drop(permit);
                });
            }
            // Out of descriptors, most likely: wait for some to be closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn converse(stream: TcpStream, service: S3Service) {
    // Small replies would otherwise wait for the client's delayed ACK.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let served = http.serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the development bucket ended");
    }
}
