//! Clusters of three processes on loopback, for comparisons and failovers.
//! Dropping one kills what it started, and nothing else.

use crate::target::{self, Target};
use anyhow::{Context as _, bail};
use keelstone_server::dev::cluster::{LocalCluster, LocalOptions};
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;

/// How long three processes may take to elect a leader.
const START_MAX: Duration = Duration::from_secs(30);

/// Three processes of either kind.
pub(crate) enum Processes {
    Keelstone(LocalCluster),
    Etcd(EtcdProcesses),
}

impl Processes {
    /// Starts three with fresh data below `dir`, and waits until one leads.
    pub(crate) async fn start(target: Target, binary: &Path, dir: &Path) -> anyhow::Result<Self> {
        let processes = match target {
            Target::Keelstone => {
                let mut cluster = LocalCluster::create(LocalOptions::new(binary, dir))?;
                cluster.start_all()?;
                Self::Keelstone(cluster)
            }
            Target::Etcd => Self::Etcd(EtcdProcesses::start(binary, dir)?),
        };
        await_leader(target, &processes.endpoints()).await?;
        Ok(processes)
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        match self {
            Self::Keelstone(cluster) => cluster.endpoints(),
            Self::Etcd(processes) => processes.endpoints.clone(),
        }
    }
}

/// Waits until a node leads, and returns its endpoint.
pub(crate) async fn await_leader(target: Target, endpoints: &[String]) -> anyhow::Result<String> {
    let until = Instant::now() + START_MAX;
    loop {
        match target::leader(target, endpoints).await {
            Ok(leader) => return Ok(leader),
            Err(error) if Instant::now() > until => {
                return Err(error.context(format!("wait {START_MAX:?} for a leader")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Three etcd processes with default settings.
pub(crate) struct EtcdProcesses {
    children: Vec<Child>,
    endpoints: Vec<String>,
}

impl EtcdProcesses {
    fn start(binary: &Path, dir: &Path) -> anyhow::Result<Self> {
        let ports: Vec<_> =
            (0..3).map(|_| Ok((free_port()?, free_port()?))).collect::<anyhow::Result<_>>()?;
        let peers: Vec<_> = ports
            .iter()
            .enumerate()
            .map(|(number, (_, peer))| format!("n{number}=http://127.0.0.1:{peer}"))
            .collect();
        let endpoints =
            ports.iter().map(|(client, _)| format!("http://127.0.0.1:{client}")).collect();
        let mut processes = Self { children: Vec::new(), endpoints };
        for (number, (client, peer)) in ports.iter().enumerate() {
            let data = dir.join(format!("etcd-{number}"));
            std::fs::create_dir_all(&data).context("make a data directory")?;
            let log = File::create(dir.join(format!("etcd-{number}.log"))).context("make a log")?;
            let (client, peer) =
                (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            let child = Command::new(binary)
                .arg(format!("--name=n{number}"))
                .arg(format!("--data-dir={}", data.display()))
                .arg(format!("--listen-client-urls={client}"))
                .arg(format!("--advertise-client-urls={client}"))
                .arg(format!("--listen-peer-urls={peer}"))
                .arg(format!("--initial-advertise-peer-urls={peer}"))
                .arg(format!("--initial-cluster={}", peers.join(",")))
                .arg("--initial-cluster-state=new")
                .arg("--logger=zap")
                .stdin(Stdio::null())
                .stdout(log.try_clone().context("share the log")?)
                .stderr(log)
                .spawn()
                .with_context(|| format!("start {}", binary.display()))?;
            processes.children.push(child);
        }
        Ok(processes)
    }
}

impl Drop for EtcdProcesses {
    fn drop(&mut self) {
        for child in &mut self.children {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// A port that was free a moment ago.
fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}

/// The `keelstone` binary beside this one, unless another is named.
pub(crate) fn keelstone_binary(named: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(path) = named {
        return Ok(path);
    }
    let this = std::env::current_exe().context("find this program")?;
    let beside = this.with_file_name("keelstone");
    if !beside.exists() {
        bail!("{} is not there: build it, or name another with --keelstone", beside.display());
    }
    Ok(beside)
}

/// A directory for data, below `parent` or where temporary files go, that is
/// removed when it is dropped.
pub(crate) fn temporary(purpose: &str, parent: Option<&Path>) -> anyhow::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    let prefix = format!("keelstone-{purpose}-");
    builder.prefix(&prefix);
    parent
        .map_or_else(|| builder.tempdir(), |parent| builder.tempdir_in(parent))
        .context("make a directory for the data")
}

/// The program's version, for the report.
pub(crate) fn version_of(binary: &Path) -> String {
    let output = Command::new(binary).arg("--version").stdin(Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.ok().and_then(|text| text.lines().next().map(str::to_owned)).unwrap_or_default()
}
