//! The load: many clients over some connections, each with one operation under
//! way at a time, for a while.

use crate::report::{Measured, Recorder};
use crate::target::{self, Operation, Stub, Target};
use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use serde::Serialize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

/// How long one operation may take before it counts as an error.
const OPERATION_MAX: Duration = Duration::from_secs(10);
/// Longer than anybody watches a load that ends when it is dropped.
const FOREVER: Duration = Duration::from_hours(7 * 24);

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Workload {
    /// Puts of random keys.
    Put,
    /// Linearizable reads of random keys.
    Get,
    /// Linearizable reads of runs of keys.
    Range,
    /// Compare-and-put transactions, each client on its own keys.
    Txn,
    /// Puts, and watchers that all see all of them.
    Watch,
    /// Merge patches of entities; Keelstone only.
    Patch,
}

/// Where the clients connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Spread {
    /// All to the node that leads.
    Leader,
    /// In turn to all endpoints.
    All,
}

/// A load.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct LoadOptions {
    /// What the clients do.
    #[arg(long, value_enum, default_value = "put")]
    pub(crate) workload: Workload,
    /// Clients, each with one operation under way at a time; set by the command.
    #[arg(skip)]
    pub(crate) clients: usize,
    /// Connections that the clients share.
    #[arg(long, default_value_t = 8)]
    pub(crate) connections: usize,
    /// Bytes of a value, or about of an entity's document.
    #[arg(long, default_value_t = 256)]
    pub(crate) value_size: usize,
    /// Different keys, or entities.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) keys: u64,
    /// Keys that one range reads.
    #[arg(long, default_value_t = 100)]
    pub(crate) range_size: u64,
    /// Watchers, for the watch workload.
    #[arg(long, default_value_t = 100)]
    pub(crate) watchers: usize,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
    /// Seconds before that.
    #[arg(long, default_value_t = 2)]
    pub(crate) warm_up: u64,
    /// Operations per second of all clients together; as fast as they can
    /// otherwise. Latency is then counted from when an operation was due.
    #[arg(long)]
    pub(crate) rate: Option<u64>,
    /// Where the clients connect.
    #[arg(long, value_enum, default_value = "leader")]
    pub(crate) spread: Spread,
    /// Gives every write an identity, as the client crate does.
    #[arg(long)]
    pub(crate) identified: bool,
    /// Seed of the keys and values; printed with the result.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// Runs the load against the endpoints.
pub(crate) async fn run(
    target: Target,
    endpoints: &[String],
    options: &LoadOptions,
) -> anyhow::Result<Measured> {
    ensure!(options.clients > 0 && options.connections > 0, "give clients and connections");
    ensure!(options.keys > 0, "give at least one key");
    let channels = channels(target, endpoints, options).await?;
    let subjects = prepare(target, &channels, options).await?;
    let begin = Instant::now() + Duration::from_secs(options.warm_up);
    let end = begin + Duration::from_secs(options.seconds);
    let window = Window { begin, end };
    let watchers = if options.workload == Workload::Watch {
        Some(crate::watchers::start(target, &channels, options, window).await?)
    } else {
        None
    };
    let running = start_clients(target, &channels, options, window, &subjects).await?;
    let mut measured = Measured::of(target, options, running.finish().await?);
    if let Some(watchers) = watchers {
        measured.delivered = Some(watchers.finish().await);
    }
    Ok(measured)
}

/// The time that counts.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    pub(crate) begin: Instant,
    pub(crate) end: Instant,
}

impl Window {
    pub(crate) fn contains(&self, moment: Instant) -> bool {
        self.begin <= moment && moment < self.end
    }
}

async fn channels(
    target: Target,
    endpoints: &[String],
    options: &LoadOptions,
) -> anyhow::Result<Vec<Channel>> {
    let endpoints = match options.spread {
        Spread::Leader => vec![target::leader(target, endpoints).await?],
        Spread::All => endpoints.to_vec(),
    };
    let mut channels = Vec::new();
    for endpoint in endpoints.iter().cycle().take(options.connections.max(endpoints.len())) {
        channels.push(target::connect(endpoint).await.context("connect")?);
    }
    Ok(channels)
}

/// What the operations are about.
pub(crate) enum Subjects {
    Keys,
    Entities(Vec<String>),
}

/// Writes what the measured operations read or change.
async fn prepare(
    target: Target,
    channels: &[Channel],
    options: &LoadOptions,
) -> anyhow::Result<Arc<Subjects>> {
    match options.workload {
        Workload::Put | Workload::Watch | Workload::Txn => Ok(Arc::new(Subjects::Keys)),
        Workload::Get | Workload::Range => {
            fill(target, channels, options).await?;
            Ok(Arc::new(Subjects::Keys))
        }
        Workload::Patch => {
            ensure!(target == Target::Keelstone, "etcd has no entities");
            let client = channels[0].clone();
            let entities = crate::patch::create_entities(client, options).await?;
            Ok(Arc::new(Subjects::Entities(entities)))
        }
    }
}

/// Puts every key once, through the leader.
pub(crate) async fn fill_keys(endpoints: &[String], options: &LoadOptions) -> anyhow::Result<()> {
    let channels = channels(Target::Keelstone, endpoints, options).await?;
    fill(Target::Keelstone, &channels, options).await
}

/// Puts every key once, 64 at a time.
async fn fill(target: Target, channels: &[Channel], options: &LoadOptions) -> anyhow::Result<()> {
    let next = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for number in 0..64 {
        let mut stub = Stub::new(target, channels[number % channels.len()].clone());
        let (next, keys, value) = (next.clone(), options.keys, value(options, number as u64));
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if number >= keys {
                    return Ok(());
                }
                let put = Operation::Put { key: key(number), value: value.clone() };
                stub.send(put).await.context("fill the key space")?;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.context("fill the key space")?.map_err(|error: anyhow::Error| error)?;
    }
    Ok(())
}

/// The key with this number; all have the same length.
pub(crate) fn key(number: u64) -> Bytes {
    format!("bench/{number:012}").into()
}

/// A value that does not compress, different for each client.
fn value(options: &LoadOptions, client: u64) -> Bytes {
    let mut bytes = vec![0; options.value_size];
    StdRng::seed_from_u64(options.seed ^ (client << 32)).fill_bytes(&mut bytes);
    bytes.into()
}

/// A load that goes on, and is looked at meanwhile. Dropping it ends it.
pub(crate) struct Running {
    tasks: JoinSet<()>,
    recorders: Vec<Arc<Mutex<Recorder>>>,
}

impl Running {
    /// Puts of random keys until it is dropped; `options` say how many clients,
    /// keys and puts per second.
    pub(crate) async fn puts(endpoints: &[String], options: &LoadOptions) -> anyhow::Result<Self> {
        let channels = channels(Target::Keelstone, endpoints, options).await?;
        let begin = Instant::now();
        let window = Window { begin, end: begin + FOREVER };
        let subjects = Arc::new(Subjects::Keys);
        start_clients(Target::Keelstone, &channels, options, window, &subjects).await
    }

    /// What was done since it began, or since the last call.
    pub(crate) fn take(&self) -> Recorder {
        let mut all = Recorder::new();
        for recorder in &self.recorders {
            let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
            all.add(&std::mem::take(&mut *recorder));
        }
        all
    }

    /// Waits until the window is over.
    async fn finish(mut self) -> anyhow::Result<Recorder> {
        while let Some(done) = self.tasks.join_next().await {
            done.context("a client of the load")?;
        }
        Ok(self.take())
    }
}

async fn start_clients(
    target: Target,
    channels: &[Channel],
    options: &LoadOptions,
    window: Window,
    subjects: &Arc<Subjects>,
) -> anyhow::Result<Running> {
    // Clients of one connection share a recorder: few locks, little memory.
    let recorders: Vec<_> =
        channels.iter().map(|_| Arc::new(Mutex::new(Recorder::new()))).collect();
    let mut tasks = JoinSet::new();
    for number in 0..options.clients {
        let place = number % channels.len();
        let mut stub = Stub::new(target, channels[place].clone());
        if options.identified {
            stub.identify(channels[place].clone()).await?;
        }
        let client = LoadClient {
            number: number as u64,
            stub,
            rng: StdRng::seed_from_u64(options.seed.wrapping_add(number as u64)),
            value: value(options, number as u64),
            subjects: subjects.clone(),
            options: options.clone(),
            swapped: vec![None; own_keys(options)],
        };
        tasks.spawn(client.run(window, recorders[place].clone()));
    }
    Ok(Running { tasks, recorders })
}

/// Keys that belong to one client alone, for compare-and-put.
fn own_keys(options: &LoadOptions) -> usize {
    let keys = usize::try_from(options.keys).unwrap_or(usize::MAX);
    (keys / options.clients).clamp(1, 1000)
}

struct LoadClient {
    number: u64,
    stub: Stub,
    rng: StdRng,
    value: Bytes,
    subjects: Arc<Subjects>,
    options: LoadOptions,
    /// The revisions of the client's own keys; `None`: not known.
    swapped: Vec<Option<u64>>,
}

impl LoadClient {
    async fn run(mut self, window: Window, recorder: Arc<Mutex<Recorder>>) {
        let pace = self
            .options
            .rate
            .map(|rate| Duration::from_secs_f64(self.options.clients as f64 / rate.max(1) as f64));
        // Clients of a paced load are spread over one interval.
        let mut due = Instant::now() + pace.unwrap_or_default().mul_f64(self.rng.random());
        while Instant::now() < window.end {
            let begun = match pace {
                Some(pace) => {
                    tokio::time::sleep_until(due).await;
                    let begun = due;
                    due += pace;
                    begun
                }
                None => Instant::now(),
            };
            let (operation, slot) = self.next();
            let sent = tokio::time::timeout(OPERATION_MAX, self.stub.send(operation)).await;
            let done = Instant::now();
            let result = sent.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("too slow")));
            if let Some(slot) = slot {
                self.swapped[slot] = result.as_ref().ok().copied();
            }
            if window.contains(done) {
                let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
                recorder.record(done - begun, result.as_ref().err());
            }
            if result.is_err() {
                // A server that refuses at once must not be asked in a busy loop.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// The next operation, and which of the client's own keys it changes.
    fn next(&mut self) -> (Operation, Option<usize>) {
        let keys = self.options.keys;
        match self.options.workload {
            Workload::Put => {
                let key = key(self.rng.random_range(0..keys));
                (Operation::Put { key, value: self.value.clone() }, None)
            }
            Workload::Watch => {
                let key = key(self.rng.random_range(0..keys));
                let value = crate::watchers::stamped(&self.value);
                (Operation::Put { key, value }, None)
            }
            Workload::Get => (Operation::Get { key: key(self.rng.random_range(0..keys)) }, None),
            Workload::Range => {
                let limit = self.options.range_size;
                let first = self.rng.random_range(0..keys.saturating_sub(limit).max(1));
                (Operation::Range { key: key(first), until: key(first + limit), limit }, None)
            }
            Workload::Txn => self.next_swap(),
            Workload::Patch => {
                let Subjects::Entities(entities) = &*self.subjects else {
                    unreachable!("the patch workload is prepared with entities")
                };
                let id = entities[self.rng.random_range(0..entities.len())].clone();
                let patch = crate::patch::heartbeat(self.number, self.rng.next_u64());
                (Operation::Patch { id, patch }, None)
            }
        }
    }

    /// A put of a key whose revision is not known, else a swap.
    fn next_swap(&mut self) -> (Operation, Option<usize>) {
        let slot = self.rng.random_range(0..self.swapped.len());
        let key = format!("bench/swap/{:06}/{slot:06}", self.number).into();
        let value = self.value.clone();
        let operation = match self.swapped[slot] {
            Some(revision) => Operation::Swap { key, value, revision },
            None => Operation::Put { key, value },
        };
        (operation, Some(slot))
    }
}
