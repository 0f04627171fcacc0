//! Certificates for the replicas and for the harness, made by the product's own
//! command.

use anyhow::{Context as _, Result};
use keelstone_client::Tls;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::net::tool;

/// A directory with two authorities and what they signed.
#[derive(Clone, Debug)]
pub(crate) struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    /// Makes them for `nodes` with `keelstone cert`.
    ///
    /// # Errors
    ///
    /// Fails if the command does.
    pub(crate) fn make(binary: &Path, dir: PathBuf, nodes: &[(u64, Ipv4Addr)]) -> Result<Self> {
        let dir_name = dir.display().to_string();
        let nodes: Vec<String> =
            nodes.iter().map(|(id, address)| format!("--node={id}={address}")).collect();
        let mut words = vec!["cert", "--dir", &dir_name, "--client", "harness"];
        words.extend(nodes.iter().map(String::as_str));
        tool::run(&binary.display().to_string(), &words).context("make certificates")?;
        Ok(Self { dir })
    }

    /// One of the files.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        std::fs::read(self.file(name)).with_context(|| format!("read certificate {name}"))
    }

    /// What raw connections of the harness use.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be read.
    pub(crate) fn channel(&self) -> Result<ClientTlsConfig> {
        Ok(ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.read("client-ca.pem")?))
            .identity(Identity::from_pem(
                self.read("client-harness.pem")?,
                self.read("client-harness.key")?,
            )))
    }

    /// What our own client library uses.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be read.
    pub(crate) fn client(&self) -> Result<Tls> {
        Ok(Tls::roots(self.read("client-ca.pem")?)
            .identity(self.read("client-harness.pem")?, self.read("client-harness.key")?))
    }
}
