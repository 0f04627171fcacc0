//! What `dev` and `demo` share: replicas on this machine and who leads them.

use crate::dev::cluster::{LocalCluster, LocalOptions};
use anyhow::{Context as _, Result, bail};
use keelstone_client::Client;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Three replicas of this program below `dir`, not started yet.
pub(super) fn cluster(dir: &Path) -> Result<LocalCluster> {
    let binary = std::env::current_exe().context("find this program")?;
    LocalCluster::create(LocalOptions::new(binary, dir)).context("prepare three replicas")
}

/// A client of the replicas, as soon as one of them leads and writes are
/// accepted; and who leads.
pub(super) async fn ready(cluster: &mut LocalCluster, limit: Duration) -> Result<(Client, u64)> {
    let until = Instant::now() + limit;
    let client = Client::builder()
        .endpoints(cluster.endpoints())
        .connect_lazy()
        .context("make a client of the local replicas")?;
    loop {
        if let Some(leader) = leader(&client).await
            && client.position().await.is_ok()
        {
            return Ok((client, leader));
        }
        for id in ids(cluster) {
            let replica = cluster.replica(id)?;
            if !replica.is_running() {
                bail!("replica {id} stopped; see {}", replica.log_file().display());
            }
        }
        if Instant::now() > until {
            bail!("no replica leads after {limit:?}; see log.txt in each replica's folder");
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Who leads, if a majority of the replicas that answer say the same.
pub(super) async fn leader(client: &Client) -> Option<u64> {
    let each = client.cluster().status_of_each().await;
    let newest =
        each.iter().filter_map(|(_, status)| status.as_ref().ok()).max_by_key(|s| s.term)?;
    newest.leader
}

/// The ids of the replicas.
pub(super) fn ids(cluster: &LocalCluster) -> Vec<u64> {
    cluster.replicas().iter().map(|replica| replica.id).collect()
}
