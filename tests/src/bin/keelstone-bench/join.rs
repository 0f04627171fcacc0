//! How much a snapshot to an empty replica delays the writes.
//!
//! Three processes are filled and then written to at a steady rate. Again and
//! again an empty fourth is added, and removed when it votes: latencies from the
//! moment it is added until then are compared with those of the seconds before.
//! Replicas that share a disk wait for each other's syncs; `--dirs` gives each
//! its own.

use crate::clusters::{await_leader, keelstone_binary, temporary};
use crate::load::{self, LoadOptions, Running, Spread, Workload};
use crate::report::{Latency, Recorder, median};
use crate::target::Target;
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use keelstone_client::{Client, NewMember};
use keelstone_server::dev::cluster::{LocalCluster, LocalOptions};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How long an empty replica may take until it can be reached.
const START_MAX: Duration = Duration::from_secs(30);
/// How long it may take until it votes.
const JOIN_MAX: Duration = Duration::from_mins(5);
/// What the first replica that is added is called here.
const FIRST_ID: u64 = 4;

/// Adds empty replicas to a cluster that is written to at a steady rate.
#[derive(Clone, Debug, Args)]
pub(crate) struct Join {
    /// How often a replica is added.
    #[arg(long, default_value_t = 3)]
    rounds: u64,
    /// Keys in the store.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 512)]
    value_size: usize,
    /// Puts per second, of all clients together.
    #[arg(long, default_value_t = 2000)]
    rate: u64,
    /// Clients, each with one put under way at a time.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Seconds of writes before a replica is added that are compared with.
    #[arg(long, default_value_t = 20)]
    before: u64,
    /// Seconds between filling the store, or removing a replica, and those.
    #[arg(long, default_value_t = 15)]
    settle: u64,
    /// The `keelstone` binary; the one beside this program otherwise.
    #[arg(long)]
    keelstone: Option<PathBuf>,
    /// Where the data directories go; removed afterwards.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Four directories, for the three replicas and for those that are added,
    /// such as mount points of four disks.
    #[arg(long, value_delimiter = ',')]
    dirs: Vec<PathBuf>,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    keys: u64,
    value_size: usize,
    rate: u64,
    rounds: Vec<Round>,
    median_before_p99_ms: f64,
    median_during_p99_ms: f64,
    /// Of the medians.
    p99_ratio: f64,
}

/// One replica that was added.
#[derive(Debug, Serialize)]
struct Round {
    before: Phase,
    during: Phase,
    /// Of the two phases' 99th percentiles.
    p99_ratio: f64,
}

/// A while of the load.
#[derive(Debug, Serialize)]
struct Phase {
    seconds: f64,
    puts: u64,
    latency: Latency,
}

impl Phase {
    /// Fails if puts did, as they do when the leader changes, or if there were
    /// none: the percentiles of the others would mean nothing.
    fn of(recorder: &Recorder, seconds: f64) -> anyhow::Result<Self> {
        let (puts, errors) = (recorder.operations(), recorder.errors());
        ensure!(errors == 0, "{errors} puts failed in {seconds:.1} s: measure again");
        ensure!(puts > 0, "nothing was put in {seconds:.1} s");
        Ok(Self { seconds, puts, latency: recorder.latency() })
    }
}

/// The replicas, and the directories that go with them.
struct Place {
    cluster: LocalCluster,
    client: Client,
    /// Removed when all is done, after the processes.
    _dirs: Vec<TempDir>,
}

impl Join {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        ensure!(self.rounds > 0, "give at least one round");
        let mut place = self.place()?;
        place.cluster.start_all()?;
        let endpoints = place.cluster.endpoints();
        await_leader(Target::Keelstone, &endpoints).await?;
        eprintln!("filling the store with {} keys of {} bytes", self.keys, self.value_size);
        let options = self.load();
        load::fill_keys(&endpoints, &options).await?;
        let running = Running::puts(&endpoints, &options).await?;
        let mut rounds = Vec::new();
        for number in 0..self.rounds {
            let round = self.round(&mut place, &running, FIRST_ID + number).await?;
            eprintln!(
                "round {}: p99 {:.1} ms in the {:.0} s before, {:.1} ms in the {:.1} s until the \
                 new replica voted: {:.2} times",
                number + 1,
                round.before.latency.p99_ms,
                round.before.seconds,
                round.during.latency.p99_ms,
                round.during.seconds,
                round.p99_ratio,
            );
            rounds.push(round);
        }
        drop(running);
        println!("{}", serde_json::to_string_pretty(&self.report(rounds))?);
        Ok(())
    }

    fn load(&self) -> LoadOptions {
        LoadOptions {
            workload: Workload::Put,
            clients: self.clients,
            connections: 8,
            value_size: self.value_size,
            keys: self.keys,
            range_size: 1,
            watchers: 0,
            seconds: 0,
            warm_up: 0,
            rate: Some(self.rate),
            spread: Spread::Leader,
            identified: false,
            seed: 1,
        }
    }

    fn place(&self) -> anyhow::Result<Place> {
        let binary = keelstone_binary(self.keelstone.clone())?;
        let base = temporary("join", self.dir.as_deref())?;
        let mut dirs = Vec::new();
        if !self.dirs.is_empty() {
            ensure!(self.dirs.len() == 4, "--dirs takes four directories");
            for (disk, id) in self.dirs.iter().zip(1..=FIRST_ID) {
                let dir = temporary("join", Some(disk))?;
                link(dir.path(), base.path(), id)?;
                dirs.push(dir);
            }
            for id in FIRST_ID + 1..FIRST_ID + self.rounds {
                link(dirs[3].path(), base.path(), id)?;
            }
        }
        let cluster = LocalCluster::create(LocalOptions::new(binary, base.path()))?;
        dirs.push(base);
        let client = Client::builder().endpoints(cluster.endpoints()).connect_lazy()?;
        Ok(Place { cluster, client, _dirs: dirs })
    }

    async fn round(&self, place: &mut Place, running: &Running, id: u64) -> anyhow::Result<Round> {
        tokio::time::sleep(Duration::from_secs(self.settle)).await;
        running.take();
        let began = Instant::now();
        tokio::time::sleep(Duration::from_secs(self.before)).await;
        let before = Phase::of(&running.take(), began.elapsed().as_secs_f64())?;

        place.cluster.add_joining(id)?;
        place.cluster.start(id)?;
        let replica = place.cluster.replica(id)?;
        await_listener(replica.peer).await?;
        let began = Instant::now();
        running.take();
        let new = NewMember {
            peer_address: replica.peer.to_string(),
            client_address: replica.client.to_string(),
            promote: true,
            ..NewMember::default()
        };
        let member = place.client.cluster().add(new).await.context("add a replica")?;
        await_voter(&place.client, member).await?;
        let during = Phase::of(&running.take(), began.elapsed().as_secs_f64())?;

        place.client.cluster().remove(member, false).await.context("remove it again")?;
        place.cluster.kill(id)?;
        place.cluster.wipe(id)?;
        let p99_ratio = during.latency.p99_ms / before.latency.p99_ms;
        Ok(Round { before, during, p99_ratio })
    }

    fn report(&self, rounds: Vec<Round>) -> Report {
        let of = |phase: fn(&Round) -> &Phase| {
            median(rounds.iter().map(|round| phase(round).latency.p99_ms).collect())
        };
        let (before, during) = (of(|round| &round.before), of(|round| &round.during));
        Report {
            keys: self.keys,
            value_size: self.value_size,
            rate: self.rate,
            rounds,
            median_before_p99_ms: before,
            median_during_p99_ms: during,
            p99_ratio: during / before,
        }
    }
}

/// Makes `dir` the directory of the replica `id` below `base`.
fn link(dir: &Path, base: &Path, id: u64) -> anyhow::Result<()> {
    let dir = dir.canonicalize().context("find a data directory")?;
    std::os::unix::fs::symlink(dir, base.join(format!("node-{id}")))
        .context("link to a data directory")
}

/// Waits until a replica that was started can be reached.
async fn await_listener(address: SocketAddr) -> anyhow::Result<()> {
    let until = Instant::now() + START_MAX;
    while let Err(error) = TcpStream::connect(address).await {
        if Instant::now() > until {
            return Err(error).with_context(|| format!("wait {START_MAX:?} for {address}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn await_voter(client: &Client, id: u64) -> anyhow::Result<()> {
    let until = Instant::now() + JOIN_MAX;
    loop {
        let members = client.cluster().members().await.context("look at the members")?;
        if members.iter().any(|member| member.id == id && member.voter) {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("replica {id} does not vote after {JOIN_MAX:?}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
