//! `keelstone dev-s3`: an S3 server on this machine, for trying backups.

use super::output::{line, note};
use crate::backup::Secret;
use crate::dev::s3::{Credentials, DevS3};
use anyhow::{Context as _, Result};
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Serve an S3 bucket on this machine until Ctrl-C. Not for production.
#[derive(Debug, Args)]
pub(super) struct DevBucket {
    /// Where to listen; port 0 chooses one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// A bucket to make; can be given more than once.
    #[arg(long = "bucket", value_name = "NAME", default_value = "keelstone")]
    buckets: Vec<String>,
    /// Keep objects here. Without it they are in memory, and gone in the end.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The access key's name; a random one otherwise.
    #[arg(long, env = "AWS_ACCESS_KEY_ID", requires = "secret_access_key")]
    access_key_id: Option<String>,
    /// The access key's secret.
    #[arg(long, env = "AWS_SECRET_ACCESS_KEY", hide_env_values = true)]
    secret_access_key: Option<Secret>,
}

impl DevBucket {
    pub(super) async fn run(self) -> Result<()> {
        let credentials = match (self.access_key_id, self.secret_access_key) {
            (Some(access_key_id), Some(secret_access_key)) => {
                Credentials { access_key_id, secret_access_key }
            }
            _ => Credentials::random(),
        };
        let server = DevS3::start(self.listen, credentials, self.dir).await;
        let server = server.with_context(|| format!("listen on {}", self.listen))?;
        for bucket in &self.buckets {
            server.create_bucket(bucket).await.with_context(|| format!("make {bucket}"))?;
        }
        let credentials = server.credentials();
        line(&format!(
            "An S3 server for development, not for production. In another terminal:

  export AWS_ENDPOINT_URL={}
  export AWS_ACCESS_KEY_ID={}
  export AWS_SECRET_ACCESS_KEY={}
  keelstone backup create --to s3://{}/backups

Ctrl-C stops it.",
            server.url(),
            credentials.access_key_id,
            credentials.secret_access_key.expose(),
            self.buckets[0],
        ))?;
        tokio::signal::ctrl_c().await.context("wait for Ctrl-C")?;
        note("stopping");
        Ok(())
    }
}
