//! Carries a schedule out.
//!
//! Replicas that end by themselves are started again, as an init system would
//! do it, and the history says so.

use super::effect::{Active, begin, end, is_down, never, parameters_of, targets_of};
use super::fault::{Episode, Fault, Part};
use crate::client::{Class, Directory, Failure, once, within};
use crate::disk::flip;
use crate::node::Nodes;
use anyhow::Result;
use keelstone_jepsen::history::{self, FaultPhase, Op, Recorder};
use keelstone_proto::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often the processes are looked at.
const GLANCE: Duration = Duration::from_millis(200);
/// How long a call to the cluster may take.
const CALL: Duration = Duration::from_secs(3);
/// How long a replica may take to stop before it is killed.
pub(super) const STOP: Duration = Duration::from_secs(8);
/// Starts of a replica that ends by itself again and again.
const STARTS_MAX: u32 = 200;

/// Does what a schedule says.
pub(crate) struct Nemesis {
    pub(super) nodes: Arc<Mutex<Nodes>>,
    pub(super) directory: Arc<Directory>,
    pub(super) recorder: Arc<Recorder>,
    active: BTreeMap<usize, Active>,
    starts: BTreeMap<u64, u32>,
    /// Whose files were damaged and who has not been seen to serve since.
    pub(super) damaged: BTreeSet<u64>,
    pub(super) next_id: u64,
}

impl Nemesis {
    /// Nothing is broken yet.
    pub(crate) fn new(
        nodes: Arc<Mutex<Nodes>>,
        directory: Arc<Directory>,
        recorder: Arc<Recorder>,
        next_id: u64,
    ) -> Self {
        let (active, starts, damaged) = Default::default();
        Self { nodes, directory, recorder, active, starts, damaged, next_id }
    }

    /// Carries out `episodes`, until the last is over or `stop`.
    pub(crate) async fn run(&mut self, episodes: &[Episode], stop: &CancellationToken) {
        let mut moments: Vec<(u64, bool, usize)> = Vec::new();
        for (index, episode) in episodes.iter().enumerate() {
            moments.push((episode.at_ms, true, index));
            if !episode.fault.is_momentary() {
                moments.push((episode.at_ms + episode.lasts_ms, false, index));
            }
        }
        // At one moment what ends goes first.
        moments.sort_unstable();
        let begin = Instant::now();
        for (at, starts, index) in moments {
            if !self.wait_until(begin + Duration::from_millis(at), stop).await {
                return;
            }
            let fault = &episodes[index].fault;
            let done = if starts { self.start(index, fault).await } else { self.stop(index).await };
            if let Err(error) = done {
                self.note(fault, FaultPhase::Skipped, &[], &[("error", format!("{error:#}"))]);
            }
        }
        self.wait_until(Instant::now() + Duration::from_hours(24), stop).await;
    }

    /// Watches over the processes until `moment`; `false` if it is to stop.
    async fn wait_until(&mut self, moment: Instant, stop: &CancellationToken) -> bool {
        loop {
            if stop.is_cancelled() {
                return false;
            }
            if Instant::now() >= moment {
                return true;
            }
            self.revive().await;
            let next = moment.min(Instant::now() + GLANCE);
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = stop.cancelled() => return false,
            }
        }
    }

    /// Starts what ended by itself.
    pub(crate) async fn revive(&mut self) {
        let down = self.held_down();
        let nodes = Arc::clone(&self.nodes);
        let mut nodes = nodes.lock().await;
        for id in nodes.ids() {
            let Ok(node) = nodes.node(id) else { continue };
            if down.contains(&id) || node.is_running() {
                continue;
            }
            let how = node.unasked_exits().last().cloned().unwrap_or_default();
            let starts = self.starts.entry(id).or_default();
            *starts += 1;
            if *starts > STARTS_MAX {
                continue;
            }
            let mut parameters = BTreeMap::from([("exit".to_owned(), how)]);
            if let Err(error) = nodes.start(id) {
                parameters.insert("start".to_owned(), format!("{error:#}"));
            }
            let fault = "ended-by-itself".to_owned();
            let phase = FaultPhase::Once;
            self.recorder.fault(history::Fault { fault, phase, targets: vec![id], parameters });
        }
    }

    /// Whether a fault wants replica `id` to be down.
    pub(super) fn is_held_down(&self, id: u64) -> bool {
        self.held_down().contains(&id)
    }

    /// Who is down because a fault wants it.
    fn held_down(&self) -> BTreeSet<u64> {
        let down = self.active.values().filter(|active| is_down(&active.fault));
        down.flat_map(|active| active.targets.iter().copied()).collect()
    }

    async fn start(&mut self, index: usize, fault: &Fault) -> Result<()> {
        let leader = self.directory.leader(Duration::from_millis(300)).await;
        let ids = self.nodes.lock().await.ids();
        let targets = targets_of(fault, &ids, leader);
        let mut parameters = parameters_of(fault);
        // Whatever follows happens between these two lines of the history.
        let refused = matches!(fault, Fault::Corrupt { .. }) && !self.damaged.is_empty();
        if !fault.is_momentary() && !refused {
            self.note(fault, FaultPhase::Start, &targets, &parameters);
        }
        let mut active =
            Active { fault: fault.clone(), targets: targets.clone(), slow: Vec::new() };
        match fault {
            Fault::Transfer => {
                let new = self.transfer(&ids, leader).await.map_err(not_done)?;
                parameters.push(("leader", new.to_string()));
            }
            Fault::Compact => {
                let below = self.compact().await.map_err(not_done)?;
                parameters.push(("below", below.to_string()));
            }
            Fault::Grow { bytes } => {
                parameters.push(("grown", self.grow(*bytes).await.to_string()));
            }
            Fault::Rolling => self.roll(&ids).await?,
            Fault::Replace { .. } => {
                for id in &targets {
                    let new = self.replace(*id).await?;
                    parameters.push(("replaced", format!("{id} by {new}")));
                }
            }
            Fault::Corrupt { .. } if !self.damaged.is_empty() => {
                // Damage to a majority loses data, and is not promised otherwise.
                anyhow::bail!("replicas {:?} are still damaged", self.damaged);
            }
            Fault::Corrupt { part, place_permille, .. } => {
                self.active.insert(index, active);
                let damage = self.corrupt(&targets, *part, *place_permille).await?;
                self.note(fault, FaultPhase::Once, &targets, &[("damage", damage)]);
                return Ok(());
            }
            _ => {
                let nodes = Arc::clone(&self.nodes);
                let mut nodes = nodes.lock().await;
                let begun = begin(&mut nodes, fault, &mut active, &cause(index), &ids, leader);
                self.active.insert(index, active);
                return begun;
            }
        }
        self.note(fault, FaultPhase::Once, &targets, &parameters);
        Ok(())
    }

    async fn stop(&mut self, index: usize) -> Result<()> {
        let Some(active) = self.active.remove(&index) else { return Ok(()) };
        // Somebody else may still hold one of them down.
        let held = self.held_down();
        let nodes = Arc::clone(&self.nodes);
        let ended = end(&mut *nodes.lock().await, &active, &cause(index), &held);
        self.note(&active.fault, FaultPhase::Stop, &active.targets, &[]);
        drop(active.slow);
        ended?;
        if let Fault::Corrupt { .. } = active.fault {
            self.damaged.extend(&active.targets);
            self.see_damaged().await;
        }
        Ok(())
    }

    /// Ends everything that lasts.
    ///
    /// # Errors
    ///
    /// Fails if something cannot be undone: then nothing can be said of what
    /// follows.
    pub(crate) async fn heal(&mut self) -> Result<()> {
        for index in self.active.keys().copied().collect::<Vec<_>>() {
            if let Err(error) = self.stop(index).await {
                self.recorder.fault(history::Fault {
                    fault: "heal".to_owned(),
                    parameters: BTreeMap::from([("error".to_owned(), format!("{error:#}"))]),
                    ..history::Fault::default()
                });
            }
        }
        {
            let mut nodes = self.nodes.lock().await;
            let clocks = nodes.common().clocks;
            nodes.network().faults().heal_all()?;
            nodes.network().end_delays();
            for id in nodes.ids() {
                let node = nodes.node(id)?;
                if node.is_paused() {
                    node.pause(false)?;
                }
                if clocks {
                    node.set_clock(0)?;
                }
                node.disk().empty()?;
            }
        }
        self.starts.clear();
        self.revive().await;
        self.see_damaged().await;
        let (fault, phase) = ("all".to_owned(), FaultPhase::Heal);
        self.recorder.fault(history::Fault { fault, phase, ..history::Fault::default() });
        Ok(())
    }

    pub(super) fn note(
        &self,
        fault: &Fault,
        phase: FaultPhase,
        targets: &[u64],
        parameters: &[(&str, String)],
    ) {
        let parameters =
            parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let (fault, targets) = (fault.name().to_owned(), targets.to_vec());
        self.recorder.fault(history::Fault { fault, phase, targets, parameters });
    }

    /// Hands leadership to somebody else; who leads then.
    async fn transfer(&self, ids: &[u64], leader: Option<u64>) -> Result<u64, Failure> {
        let others = ids.iter().filter(|id| Some(**id) != leader);
        // 0: whoever is furthest ahead.
        let to = others.max_by_key(|id| (**id + self.recorder.now()) % 7).copied().unwrap_or(0);
        self.on_leader(leader, |raw| async move {
            let mut cluster = raw.cluster();
            let reply =
                once(CALL, cluster.transfer(within(CALL, v1::TransferRequest { to }))).await?;
            Ok(reply.leader)
        })
        .await
    }

    /// Forgets history; below which revision.
    async fn compact(&self) -> Result<u64, Failure> {
        self.on_leader(None, |raw| async move {
            let status = raw.status(CALL).await?;
            let now = status.header.as_ref().map_or(0, |header| header.revision);
            let revision = now.saturating_sub(50);
            // Watchers are told of it, so that the history has to tell who asked.
            let (process, node) = (self.recorder.new_process(), Some(raw.node));
            let op = Op::Compact { revision };
            self.recorder.invoke(process, op.clone(), node);
            let mut kv = raw.kv();
            let request = within(CALL, v1::CompactRequest { revision });
            match once(CALL, kv.compact(request)).await {
                Ok(_) => {
                    self.recorder.ok(process, op, node);
                    Ok(revision)
                }
                Err(failure) => {
                    // Whatever the class: it may have been done before.
                    self.recorder.info(process, op, node, failure.text());
                    Err(failure)
                }
            }
        })
        .await
    }

    /// Sends large writes that are never done, for their compare never holds:
    /// they fill the log and leave the state and its revision alone.
    async fn grow(&self, bytes: u64) -> u64 {
        const ONE: u64 = 256 << 10;
        let mut grown = 0;
        while grown < bytes {
            let sent = self
                .on_leader(None, |raw| async move {
                    let mut kv = raw.kv();
                    once(CALL, kv.txn(within(CALL, never(ONE)))).await
                })
                .await;
            if sent.is_err_and(|failure| failure.class == Class::Info) {
                break;
            }
            grown += ONE;
        }
        grown
    }

    async fn on_leader<T, F>(
        &self,
        leader: Option<u64>,
        call: impl FnOnce(crate::client::Raw) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let all = self.directory.all();
        let chosen = all.iter().find(|raw| Some(raw.node) == leader).or(all.first());
        match chosen {
            Some(raw) => call(raw.clone()).await,
            None => Err(Failure::timeout()),
        }
    }

    async fn roll(&mut self, ids: &[u64]) -> Result<()> {
        for id in ids {
            let nodes = Arc::clone(&self.nodes);
            {
                let mut nodes = nodes.lock().await;
                let node = nodes.node(*id)?;
                node.ask_to_stop()?;
                tokio::task::block_in_place(|| node.wait_stopped(STOP))?;
                nodes.start(*id)?;
            }
            self.wait_serving(*id, Duration::from_secs(5)).await;
        }
        Ok(())
    }

    /// Waits until the replica follows or leads; `false` if it does not in time.
    pub(super) async fn wait_serving(&self, id: u64, at_most: Duration) -> bool {
        let endpoint = match self.nodes.lock().await.node(id) {
            Ok(node) => node.endpoint(),
            Err(_) => return false,
        };
        let Ok(raw) = self.directory.raw(id, &endpoint) else { return false };
        let until = Instant::now() + at_most;
        while Instant::now() < until {
            if raw.status(GLANCE).await.is_ok_and(|status| status.leader != 0) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    async fn corrupt(&mut self, targets: &[u64], part: Part, permille: u64) -> Result<String> {
        let mut nodes = self.nodes.lock().await;
        let mut damages = Vec::new();
        for id in targets {
            let node = nodes.node(*id)?;
            node.kill()?;
            let part = match part {
                Part::Log => "log",
                Part::State => "state",
            };
            let damage = flip(&node.data_dir(), part, permille)?;
            damages.push(format!("{id}: {} at {}", damage.file, damage.offset));
        }
        Ok(damages.join(", "))
    }
}

fn not_done(failure: Failure) -> anyhow::Error {
    anyhow::anyhow!("not done: {}", failure.text())
}

fn cause(index: usize) -> String {
    format!("episode-{index}")
}
