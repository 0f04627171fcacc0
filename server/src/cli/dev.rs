//! `keelstone dev`: three replicas on this machine, for trying things.

use super::local;
use super::output::{line, note};
use anyhow::{Context as _, Result};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Run three replicas on this machine until Ctrl-C.
#[derive(Debug, Args)]
pub(super) struct Dev {
    /// Keep data here, and go on with what is there. Without it, data is
    /// temporary and removed in the end.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Dev {
    pub(super) async fn run(self) -> Result<()> {
        let temporary = match &self.dir {
            Some(dir) => {
                std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
                None
            }
            None => Some(TemporaryDir::create()?),
        };
        let given = self.dir.as_deref();
        let dir = given.or(temporary.as_ref().map(|dir| dir.path.as_path()));
        let dir = dir.expect("one of the two was made").to_owned();
        let bucket = dir.join("bucket");
        std::fs::create_dir_all(&bucket).context("make the bucket's folder")?;

        let mut cluster = local::cluster(&dir)?;
        cluster.start_all()?;
        let (_client, leader) = local::ready(&mut cluster, Duration::from_secs(20)).await?;
        let endpoints = cluster.endpoints().join(",");
        line(&format!(
            "Three replicas run on this machine; replica {leader} leads. Try, in another terminal:

  export KEELSTONE_ENDPOINTS={endpoints}
  keelstone status
  keelstone config put cse/server-1/syslog/port 514 --if-absent
  keelstone watch config cse
  keelstone backup create --to file://{}

Logs and data are in {}. Ctrl-C stops the replicas{}.",
            bucket.display(),
            dir.display(),
            if temporary.is_some() { " and removes them" } else { "" },
        ))?;
        tokio::signal::ctrl_c().await.context("wait for Ctrl-C")?;
        note("stopping");
        tokio::task::block_in_place(|| cluster.stop_all(Duration::from_secs(10)));
        Ok(())
    }
}

/// A folder that is removed in the end.
pub(super) struct TemporaryDir {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Whether it is left for somebody to look at.
    pub(super) keep: bool,
}

impl TemporaryDir {
    /// Makes one that nobody else can read.
    pub(super) fn create() -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let name = format!("keelstone-{}", uuid::Uuid::new_v4().simple());
        let path = std::env::temp_dir().join(name);
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("make {}", path.display()))?;
        Ok(Self { path, keep: false })
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        if !self.keep {
            std::fs::remove_dir_all(&self.path).ok();
        }
    }
}
