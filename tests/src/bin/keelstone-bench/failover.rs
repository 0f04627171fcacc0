//! How long writes are not acknowledged when the leader dies.
//!
//! One client writes without pause through the client crate. The leader's
//! process is killed with SIGKILL; the gap is the time between the last
//! acknowledgement before and the first after. In the end every acknowledged
//! write must be there.

use crate::clusters::{keelstone_binary, temporary};
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use keelstone_client::{Client, KeyRange};
use keelstone_server::dev::cluster::{LocalCluster, LocalOptions};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long the cluster may take to be whole again.
const RECOVERY_MAX: Duration = Duration::from_secs(30);
/// Where the writes go.
const PREFIX: &str = "failover/";

/// Kills the leader again and again under a client that writes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Failover {
    /// How often the leader is killed.
    #[arg(long, default_value_t = 10)]
    kills: usize,
    /// Milliseconds between two writes.
    #[arg(long, default_value_t = 5)]
    interval_ms: u64,
    /// Seconds of quiet between being whole again and the next kill.
    #[arg(long, default_value_t = 3)]
    settle: u64,
    /// The longest gap that is not a failure of this run, in seconds.
    #[arg(long, default_value_t = 1.5)]
    gap_max: f64,
    /// The `keelstone` binary; the one beside this program otherwise.
    #[arg(long)]
    keelstone: Option<PathBuf>,
    /// Where the data directories go; removed afterwards.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// The gaps.
#[derive(Debug, Serialize)]
struct Report {
    kills: usize,
    gaps_seconds: Vec<f64>,
    median_seconds: f64,
    worst_seconds: f64,
    limit_seconds: f64,
    acknowledged: usize,
    /// Acknowledged writes that are not there.
    lost: usize,
    failed_writes: usize,
}

#[derive(Default)]
struct Written {
    /// When each acknowledgement came, and of which write.
    acknowledged: Vec<(Instant, u64)>,
    failed: usize,
    last_error: String,
}

impl Failover {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let binary = keelstone_binary(self.keelstone.clone())?;
        let dir = temporary("failover", self.dir.as_deref())?;
        let mut cluster = LocalCluster::create(LocalOptions::new(binary, dir.path()))?;
        cluster.start_all()?;
        let client = Client::builder()
            .endpoints(cluster.endpoints())
            .attempt_timeout(Duration::from_millis(500))
            .timeout(RECOVERY_MAX)
            .connect_lazy()?;
        leader_of_all(&client).await.context("wait for three replicas and a leader")?;

        let written = Arc::new(Mutex::new(Written::default()));
        let pause = Duration::from_millis(self.interval_ms);
        let writer = tokio::spawn(write(client.clone(), pause, written.clone()));
        let mut gaps = Vec::new();
        for number in 1..=self.kills {
            let gap = self.kill(&mut cluster, &client, &written).await?;
            eprintln!("kill {number}: writes were not acknowledged for {:.3} s", gap.as_secs_f64());
            gaps.push(gap.as_secs_f64());
        }
        writer.abort();
        let lost = lost(&client, &written).await?;
        let report = self.report(gaps, lost, &written);
        println!("{}", serde_json::to_string_pretty(&report)?);
        ensure!(report.lost == 0, "{} acknowledged writes are not there", report.lost);
        ensure!(report.worst_seconds <= self.gap_max, "the worst gap is beyond the limit");
        Ok(())
    }

    /// Kills the leader, and returns how long no write was acknowledged.
    async fn kill(
        &self,
        cluster: &mut LocalCluster,
        client: &Client,
        written: &Mutex<Written>,
    ) -> anyhow::Result<Duration> {
        let leader = leader_of_all(client).await.context("wait for three replicas and a leader")?;
        tokio::time::sleep(Duration::from_secs(self.settle)).await;
        let killed = Instant::now();
        cluster.kill(leader)?;
        let first = loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let written = written.lock().unwrap_or_else(PoisonError::into_inner);
            // An answer that was under way when the process died is no sign of
            // life: it takes a gap, or a while without one.
            let calm = killed + Duration::from_millis(100);
            if let Some((first, _)) = written.acknowledged.iter().find(|(at, _)| *at > calm) {
                break *first;
            }
            if killed.elapsed() > RECOVERY_MAX {
                bail!("no write was acknowledged within {RECOVERY_MAX:?}: {}", written.last_error);
            }
        };
        let gap = longest_gap(written, killed, first);
        cluster.start(leader)?;
        Ok(gap)
    }

    fn report(&self, gaps: Vec<f64>, lost: usize, written: &Mutex<Written>) -> Report {
        let written = written.lock().unwrap_or_else(PoisonError::into_inner);
        Report {
            kills: gaps.len(),
            median_seconds: crate::report::median(gaps.clone()),
            worst_seconds: gaps.iter().copied().fold(0.0, f64::max),
            gaps_seconds: gaps,
            limit_seconds: self.gap_max,
            acknowledged: written.acknowledged.len(),
            lost,
            failed_writes: written.failed,
        }
    }
}

/// The longest time between two acknowledgements from just before `killed` to
/// `until`.
fn longest_gap(written: &Mutex<Written>, killed: Instant, until: Instant) -> Duration {
    let written = written.lock().unwrap_or_else(PoisonError::into_inner);
    let times: Vec<_> = written.acknowledged.iter().map(|(at, _)| *at).collect();
    let before = times.partition_point(|at| *at <= killed).saturating_sub(1);
    let after = times.partition_point(|at| *at <= until);
    let gaps = times[before..after].windows(2).map(|pair| pair[1] - pair[0]);
    gaps.max().unwrap_or_default()
}

async fn write(client: Client, pause: Duration, written: Arc<Mutex<Written>>) {
    for number in 0_u64.. {
        let key = format!("{PREFIX}{number:012}");
        let result = client.kv().put(key, "written").send().await;
        {
            let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(_) => written.acknowledged.push((Instant::now(), number)),
                Err(error) => {
                    written.failed += 1;
                    written.last_error = error.to_string();
                }
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Waits until all three answer, agree on who leads and have caught up.
async fn leader_of_all(client: &Client) -> anyhow::Result<u64> {
    let until = Instant::now() + RECOVERY_MAX;
    loop {
        let all = client.cluster().status_of_each().await;
        let known: Vec<_> = all.iter().filter_map(|(_, status)| status.as_ref().ok()).collect();
        let leader = known.iter().find(|status| status.role == "leader");
        if let Some(leader) = leader
            && known.len() >= 3
            && known.iter().all(|status| status.leader == Some(leader.node_id))
            && known.iter().all(|status| status.applied_index + 1000 > leader.applied_index)
        {
            return Ok(leader.node_id);
        }
        if Instant::now() > until {
            bail!("after {RECOVERY_MAX:?} only {} of {} nodes answer", known.len(), all.len());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How many acknowledged writes are not there.
async fn lost(client: &Client, written: &Mutex<Written>) -> anyhow::Result<usize> {
    let mut pages = client.kv().range(KeyRange::prefix(PREFIX)).keys_only().limit(10_000).pages();
    let mut there = std::collections::BTreeSet::new();
    while let Some(page) = pages.next().await? {
        for kv in page.kvs {
            let number = std::str::from_utf8(&kv.key[PREFIX.len()..])?.parse::<u64>()?;
            there.insert(number);
        }
    }
    let written = written.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(written.acknowledged.iter().filter(|(_, number)| !there.contains(number)).count())
}
