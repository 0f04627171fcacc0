//! How the command line reaches a cluster.

use super::output::Format;
use anyhow::{Context as _, Result};
use clap::Args;
use keelstone_client::{Client, Tls};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Options of every command that talks to a cluster.
#[derive(Clone, Debug, Args)]
pub(crate) struct Connection {
    /// Where replicas serve clients; one is enough, all are better.
    #[arg(
        long,
        global = true,
        value_delimiter = ',',
        value_name = "URL",
        env = "KEELSTONE_ENDPOINTS",
        default_value = "http://127.0.0.1:7701"
    )]
    pub(crate) endpoints: Vec<String>,
    /// PEM file: the roots that the servers' certificates must lead to.
    #[arg(
        id = "tls_cacert",
        long = "cacert",
        global = true,
        value_name = "FILE",
        env = "KEELSTONE_CACERT"
    )]
    cacert: Option<PathBuf>,
    /// PEM file: this client's certificate.
    #[arg(
        id = "tls_cert",
        long = "cert",
        global = true,
        value_name = "FILE",
        env = "KEELSTONE_CERT",
        requires = "tls_key"
    )]
    cert: Option<PathBuf>,
    /// PEM file: the private key of the certificate.
    #[arg(
        id = "tls_key",
        long = "key",
        global = true,
        value_name = "FILE",
        env = "KEELSTONE_KEY",
        requires = "tls_cert"
    )]
    key: Option<PathBuf>,
    /// How long a command may take.
    #[arg(
        long,
        global = true,
        value_name = "DURATION",
        env = "KEELSTONE_TIMEOUT",
        default_value = "10s",
        value_parser = humantime::parse_duration
    )]
    timeout: Duration,
    /// How results are printed.
    #[arg(long, short, global = true, value_enum, default_value_t, env = "KEELSTONE_OUTPUT")]
    pub(crate) output: Format,
}

impl Connection {
    /// A client of the cluster.
    pub(crate) async fn client(&self) -> Result<Client> {
        let mut builder = Client::builder().endpoints(&self.endpoints).timeout(self.timeout);
        if let Some(roots) = &self.cacert {
            let mut tls = Tls::roots(read(roots)?);
            if let (Some(certificate), Some(key)) = (&self.cert, &self.key) {
                tls = tls.identity(read(certificate)?, read(key)?);
            }
            builder = builder.tls(tls);
        }
        let client = builder.connect().await;
        client.with_context(|| format!("connect to {}", self.endpoints.join(", ")))
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}
