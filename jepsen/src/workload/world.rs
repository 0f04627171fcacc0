//! What all clients of a run share.

use crate::client::{Actor, Directory, Raw};
use crate::node::Certificates;
use anyhow::{Context as _, Result};
use keelstone_client::Client;
use keelstone_jepsen::history::{Action, ActionReply, Recorder, Txn};
use rand::Rng as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a final read may take.
const FINAL: Duration = Duration::from_secs(10);
/// Tries of a final read.
const FINAL_TRIES: u32 = 20;

/// Everything that clients need.
pub(crate) struct World {
    /// Where everything is recorded.
    pub(crate) recorder: Arc<Recorder>,
    /// The replicas.
    pub(crate) directory: Arc<Directory>,
    /// The run's seed.
    pub(crate) seed: u64,
    /// How many clients there are.
    pub(crate) clients: u64,
    /// Operations a second of all clients together, about.
    pub(crate) rate: f64,
    /// The load is to end.
    pub(crate) stop: CancellationToken,
    /// The run's directory.
    pub(crate) dir: PathBuf,
    /// The `keelstone` program.
    pub(crate) binary: PathBuf,
    /// For clients of the client library.
    pub(crate) certificates: Option<Certificates>,
    counter: AtomicU64,
}

/// What a [`World`] is made of besides what it counts.
pub(crate) struct Parts {
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) seed: u64,
    pub(crate) clients: u64,
    pub(crate) rate: f64,
    pub(crate) dir: PathBuf,
    pub(crate) binary: PathBuf,
    pub(crate) certificates: Option<Certificates>,
}

impl World {
    /// The load may begin.
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let Parts { recorder, directory, seed, clients, rate, dir, binary, certificates } = parts;
        let (stop, counter) = (CancellationToken::new(), AtomicU64::new(0));
        Arc::new(Self {
            recorder,
            directory,
            seed,
            clients,
            rate,
            stop,
            dir,
            binary,
            certificates,
            counter,
        })
    }

    /// A number that was not given before, from 1: what it is part of is unique.
    pub(crate) fn unique(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A word that is written to the store and must not be found in any log.
    pub(crate) fn canary(&self, what: &str) -> String {
        format!("canary-{what}-{:016x}", self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    /// Client `index`, with its own stream of choices.
    pub(crate) fn actor(&self, index: u64) -> Actor {
        let seed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index;
        Actor::new(Arc::clone(&self.recorder), Arc::clone(&self.directory), seed)
    }

    /// A client that reads at `raw` in the end.
    pub(crate) fn reader(&self, raw: Raw) -> Actor {
        Actor::pinned(Arc::clone(&self.recorder), Arc::clone(&self.directory), raw, FINAL)
    }

    /// Waits as long as the rate asks for; `false` when the load is to end.
    pub(crate) async fn pace(&self, actor: &mut Actor) -> bool {
        let mean = as_f64(self.clients) / self.rate;
        let wait = Duration::from_secs_f64(mean * actor.rng.random_range(0.0..2.0));
        self.rest(wait).await
    }

    /// Waits; `false` when the load is to end.
    pub(crate) async fn rest(&self, wait: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(wait) => !self.stop.is_cancelled(),
            () = self.stop.cancelled() => false,
        }
    }

    /// A client of the library, which retries, on all replicas.
    ///
    /// # Errors
    ///
    /// Fails if its certificates cannot be read.
    pub(crate) fn library(&self) -> Result<Client> {
        let endpoints: Vec<String> =
            self.directory.nodes().into_iter().map(|(_, endpoint)| endpoint).collect();
        let mut builder = Client::builder()
            .endpoints(endpoints)
            .timeout(Duration::from_secs(5))
            .connect_timeout(Duration::from_millis(500))
            .attempt_timeout(Duration::from_secs(1));
        if let Some(certificates) = &self.certificates {
            builder = builder.tls(certificates.client()?);
        }
        builder.connect_lazy().context("make a client")
    }

    /// Reads all keys with `prefix` at `raw`, again and again until it succeeds:
    /// in the end nothing is broken any more.
    ///
    /// # Errors
    ///
    /// Fails if it does not succeed.
    pub(crate) async fn read_prefix(&self, raw: Raw, prefix: &str) -> Result<u64> {
        let mut reader = self.reader(raw);
        let mut from = prefix.to_owned();
        let end = keelstone_jepsen::history::prefix_end(prefix);
        let mut keys = 0;
        let (mut tries, mut revision) = (0, None);
        loop {
            let range = Action::Range { key: from.clone(), end: Some(end.clone()), limit: 0 };
            let (success, linearizable) = (vec![range], true);
            let txn = Txn { success, linearizable, revision, ..Txn::default() };
            match reader.txn(txn).await {
                Ok(reply) => {
                    let Some(ActionReply::Range { kvs, more, .. }) = reply.results.first() else {
                        anyhow::bail!("a range was answered with something else");
                    };
                    keys += kvs.len() as u64;
                    match kvs.last() {
                        Some(last) if *more => from = format!("{}\u{1}", last.key),
                        _ => return Ok(keys),
                    }
                    // All pages at one revision.
                    revision.get_or_insert(reply.revision);
                }
                Err(failure) => {
                    tries += 1;
                    if tries >= FINAL_TRIES {
                        anyhow::bail!("a final read failed {tries} times: {}", failure.text());
                    }
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            }
        }
    }
}

/// A small number with a fraction.
pub(crate) fn as_f64(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
