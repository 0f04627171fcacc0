//! Three real processes and a client of them, for one test.
//!
//! Whatever goes wrong here ends the test: a panic is the report.
#![expect(clippy::unwrap_used, reason = "a panic is the report of a test")]

use keelstone_client::{Client, NodeStatus};
use keelstone_server::dev::cluster::{LocalCluster, LocalOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long the processes may take to be whole. Generous, because tests share
/// their machine with builds.
const WHOLE_MAX: Duration = Duration::from_mins(1);

/// Running processes; killed, and their files removed, when it is dropped.
#[derive(Debug)]
pub struct Running {
    /// The processes.
    pub cluster: LocalCluster,
    /// A client that knows all of them.
    pub client: Client,
    dir: tempfile::TempDir,
}

impl Running {
    /// Starts three with default settings, and waits until they are whole.
    pub async fn three() -> Self {
        Self::with(|_| {}).await
    }

    /// Starts some with options of the caller's choice.
    pub async fn with(change: impl FnOnce(&mut LocalOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = LocalOptions::new(binary(), dir.path());
        change(&mut options);
        let mut cluster = LocalCluster::create(options).unwrap();
        cluster.start_all().unwrap();
        let client = Client::builder()
            .endpoints(cluster.endpoints())
            .timeout(WHOLE_MAX)
            .attempt_timeout(Duration::from_secs(1))
            .connect()
            .await
            .unwrap();
        let running = Self { cluster, client, dir };
        running.leader_of_all().await;
        running
    }

    /// Where the replicas have their files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Waits until all answer and agree on who leads; returns its id.
    pub async fn leader_of_all(&self) -> u64 {
        let until = Instant::now() + WHOLE_MAX;
        let replicas = self.cluster.replicas().len();
        loop {
            let all = self.client.cluster().status_of_each().await;
            let known: Vec<_> = all.into_iter().filter_map(|(_, status)| status.ok()).collect();
            if known.len() == replicas
                && let Some(leader) = agreed_leader(&known)
            {
                return leader;
            }
            assert!(Instant::now() < until, "the cluster is not whole: {known:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills the leader and starts it again, so many times.
    pub async fn kill_leaders(&mut self, times: u32) {
        for _ in 0..times {
            let leader = self.leader_of_all().await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            self.cluster.kill(leader).unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
            self.cluster.start(leader).unwrap();
        }
        self.leader_of_all().await;
    }
}

fn agreed_leader(known: &[NodeStatus]) -> Option<u64> {
    let leader = known.iter().find(|status| status.role == "leader")?.node_id;
    known.iter().all(|status| status.leader == Some(leader)).then_some(leader)
}

/// The `keelstone` program of the profile that the test was built with. Built
/// once per test process: cargo builds no programs of other packages for a test.
pub fn binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(build).clone()
}

fn build() -> PathBuf {
    // `target/PROFILE/deps/test` or `target/PROFILE/program`.
    let this = std::env::current_exe().unwrap();
    let folder = this.parent().unwrap();
    let folder = if folder.ends_with("deps") { folder.parent().unwrap() } else { folder };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "-p", "keelstone-server", "--bin", "keelstone"]);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
    assert!(built.success(), "keelstone could not be built");
    folder.join("keelstone")
}
