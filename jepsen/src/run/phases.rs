//! The phases of a run, one after the other.

use super::{Place, Plan, observe};
use crate::client::{Directory, Raw};
use crate::nemesis::Nemesis;
use crate::net::Enclosure;
use crate::node::{Certificates, Common, HTTP_PORT, Nodes};
use crate::workload::{self, Watcher, Workload, World, follow};
use anyhow::{Context as _, Result, bail, ensure};
use keelstone_jepsen::check;
use keelstone_jepsen::history::{Action, Fault, FaultPhase, Recorder, Txn};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long the load goes on after all faults ended, so that it can be judged
/// whether everything works again.
const CALM: Duration = Duration::from_secs(4);
/// How long it is written to after the restart: longer than a watch may be
/// behind.
const EPILOGUE: Duration = Duration::from_secs(6);
/// How long the cluster may take to form.
const FORMING: Duration = Duration::from_secs(30);
/// How long it may take to be whole again after all faults ended, before the
/// final reads are tried all the same.
const QUIET: Duration = Duration::from_secs(30);
/// How long replicas may take to stop.
const STOPPING: Duration = Duration::from_secs(10);
/// How long the watchers may take to see the end.
const WATCHING: Duration = Duration::from_secs(20);
/// The numbers that replicas are made under: certificates are made for all.
const CERTIFICATES: std::ops::RangeInclusive<u64> = 1..=99;

/// What a run leaves behind for the judgement.
pub(crate) struct Ran {
    /// What the checkers have to know.
    pub(crate) context: check::Context,
    /// What did not go as it should, though it is no violation.
    pub(crate) troubles: Vec<String>,
}

/// Does the run of `plan` in `place`. What went wrong in setting it up is an
/// error; what goes wrong later is for the checkers.
///
/// # Errors
///
/// Fails if the cluster cannot be made, or if the history is not whole.
pub(crate) async fn run(plan: &Plan, place: &Place, interrupt: CancellationToken) -> Result<Ran> {
    let workload = workload::by_name(&plan.workload)?;
    let mut running = Running::set_up(plan, place).await.context("set up the cluster")?;
    let outcome = running.carry_out(plan, &*workload, &interrupt).await;
    let mut nodes = running.nodes.lock().await;
    tokio::task::block_in_place(|| nodes.stop_all(STOPPING)).ok();
    outcome
}

struct Running {
    nodes: Arc<Mutex<Nodes>>,
    directory: Arc<Directory>,
    recorder: Arc<Recorder>,
    world: Arc<World>,
    base_revision: u64,
}

impl Running {
    async fn set_up(plan: &Plan, place: &Place) -> Result<Self> {
        let enclosure = Enclosure::current().context("not inside of an enclosure")?;
        let mut common = Common {
            binary: plan.binary.clone(),
            dir: place.dir.clone(),
            images: place.images.clone(),
            certificates: None,
            sizes: plan.sizes,
            clocks: plan.schedule.iter().any(|episode| episode.fault.name() == "clock"),
        };
        let mut nodes = {
            if plan.tls {
                let hosts: Vec<_> =
                    CERTIFICATES.map(|id| (id, crate::net::address(enclosure, id))).collect();
                let dir = place.dir.join("certificates");
                common.certificates = Some(Certificates::make(&plan.binary, dir, &hosts)?);
            }
            Nodes::create(common.clone(), enclosure, plan.nodes)?
        };
        for id in nodes.ids() {
            nodes.start(id)?;
        }
        let tls = common.certificates.as_ref().map(Certificates::channel).transpose()?;
        let known = nodes.all().map(|node| (node.id, node.endpoint())).collect();
        let directory = Arc::new(Directory::new(tls, known));
        let base_revision = wait_formed(&directory).await?;
        let recorder = Arc::new(
            Recorder::to_file(&place.dir.join("history.jsonl")).context("begin the history")?,
        );
        let world = World::new(workload::Parts {
            recorder: Arc::clone(&recorder),
            directory: Arc::clone(&directory),
            seed: plan.seed,
            clients: plan.clients,
            rate: plan.rate,
            dir: place.dir.clone(),
            binary: plan.binary.clone(),
            certificates: common.certificates,
        });
        let nodes = Arc::new(Mutex::new(nodes));
        Ok(Self { nodes, directory, recorder, world, base_revision })
    }

    async fn carry_out(
        &mut self,
        plan: &Plan,
        workload: &dyn Workload,
        interrupt: &CancellationToken,
    ) -> Result<Ran> {
        let mut troubles = Vec::new();
        let mut context =
            check::Context { base_revision: self.base_revision, ..Default::default() };
        workload.describe(&mut context);
        let over = CancellationToken::new();
        let watchers = self.watch_everything(&over);
        let samples =
            observe::sample(Arc::clone(&self.recorder), Arc::clone(&self.directory), over.clone());
        workload.prepare(&self.world).await.context("prepare the workload")?;

        self.plant_canary(&mut context).await;
        self.note_skipped(plan);

        let mut nemesis = self.nemesis(plan);
        self.load(plan, workload, &mut nemesis, interrupt).await?;
        self.quiet(&mut nemesis, &mut troubles).await;
        say("final reads");
        self.read_everywhere(workload, &mut troubles).await;
        say("restart");
        self.note_restart(FaultPhase::Start).await;
        self.restart().await.context("restart all replicas")?;
        self.quiet(&mut nemesis, &mut troubles).await;
        self.note_restart(FaultPhase::Stop).await;
        self.epilogue().await;
        say("final reads again");
        self.read_everywhere(workload, &mut troubles).await;
        self.let_watchers_arrive(&watchers, &mut troubles).await;
        if let Err(error) = workload.finish(&self.world, &self.nodes).await {
            troubles.push(format!("the end of the workload: {error:#}"));
        }
        over.cancel();
        for watcher in watchers {
            watcher.task.await.ok();
        }
        samples.await.ok();
        self.describe(&mut context).await;
        Ok(Ran { context, troubles })
    }

    fn nemesis(&self, plan: &Plan) -> Nemesis {
        let (nodes, directory) = (Arc::clone(&self.nodes), Arc::clone(&self.directory));
        Nemesis::new(nodes, directory, Arc::clone(&self.recorder), plan.nodes + 1)
    }

    /// One reader of everything for each replica: what they see has to explain
    /// every revision.
    fn watch_everything(&self, over: &CancellationToken) -> Vec<workload::Following> {
        let nodes = self.directory.nodes();
        nodes
            .iter()
            .map(|(id, _)| {
                let watcher = Watcher::new("", self.base_revision + 1);
                let watcher = Watcher { home: Some(*id), ..watcher };
                follow(&self.world, watcher, over.clone())
            })
            .collect()
    }

    async fn load(
        &self,
        plan: &Plan,
        workload: &dyn Workload,
        nemesis: &mut Nemesis,
        interrupt: &CancellationToken,
    ) -> Result<()> {
        say(&format!("load for {} s", plan.time_ms / 1000));
        let clients = workload.start(&self.world);
        let end = CancellationToken::new();
        let time = Duration::from_millis(plan.time_ms);
        let clock = async {
            tokio::select! {
                () = tokio::time::sleep(time) => {}
                () = interrupt.cancelled() => say("interrupted"),
            }
            end.cancel();
        };
        tokio::join!(nemesis.run(&plan.schedule, &end), clock);
        say("heal");
        nemesis.heal().await.context("end all faults")?;
        nemesis.run(&[], &after(CALM)).await;
        self.world.stop.cancel();
        for client in clients {
            client.await.ok();
        }
        Ok(())
    }

    /// Writes a word that must not be found in any log.
    async fn plant_canary(&self, context: &mut check::Context) {
        let (key, value) = (self.world.canary("key"), self.world.canary("value"));
        let put = Action::put(key.as_str(), value.as_str());
        let txn = Txn { success: vec![put], linearizable: true, ..Txn::default() };
        self.world.actor(u64::MAX - 1).txn(txn).await.ok();
        context.canaries.extend([key, value]);
    }

    /// A few writes after the restart: that it serves again has to be seen.
    async fn epilogue(&self) {
        let mut actor = self.world.actor(u64::MAX - 2);
        let begin = Instant::now();
        while begin.elapsed() < EPILOGUE {
            let put = Action::put("epilogue", begin.elapsed().as_millis().to_string());
            let txn = Txn { success: vec![put], linearizable: true, ..Txn::default() };
            actor.txn(txn).await.ok();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn note_skipped(&self, plan: &Plan) {
        for kind in &plan.skipped {
            let (fault, phase) = (kind.clone(), FaultPhase::Skipped);
            let why = "this machine cannot do it".to_owned();
            let parameters = [("why".to_owned(), why)].into();
            self.recorder.fault(Fault { fault, phase, parameters, targets: Vec::new() });
        }
    }

    /// Waits until all members follow one leader and have applied the same.
    async fn quiet(&self, nemesis: &mut Nemesis, troubles: &mut Vec<String>) {
        let begin = Instant::now();
        let mut last = String::new();
        while begin.elapsed() < QUIET {
            nemesis.revive().await;
            match self.agreement().await {
                Ok(()) => {
                    say(&format!("whole again after {:.1} s", begin.elapsed().as_secs_f64()));
                    return;
                }
                Err(why) => last = format!("{why:#}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        troubles.push(format!("not whole {QUIET:?} after all faults ended: {last}"));
    }

    async fn agreement(&self) -> Result<()> {
        let mut applied = Vec::new();
        for raw in self.directory.all() {
            let status = raw.status(Duration::from_secs(1)).await;
            let status = status.map_err(|failure| {
                anyhow::anyhow!("replica {} does not answer: {}", raw.node, failure.text())
            })?;
            ensure!(status.leader != 0, "replica {} knows no leader", raw.node);
            applied.push(status.transitions);
        }
        ensure!(applied.windows(2).all(|two| two[0] == two[1]), "applied {applied:?}");
        Ok(())
    }

    async fn read_everywhere(&self, workload: &dyn Workload, troubles: &mut Vec<String>) {
        for raw in self.directory.all() {
            let node = raw.node;
            if let Err(error) = workload.read(&self.world, raw.clone()).await {
                troubles.push(format!("final reads at replica {node}: {error:#}"));
            }
            observe::look(&self.recorder, &raw, Duration::from_secs(2)).await;
        }
        self.keep_metrics().await;
    }

    async fn keep_metrics(&self) {
        let members = self.directory.nodes();
        let mut nodes = self.nodes.lock().await;
        for (id, _) in members {
            let address = format!("{}:{HTTP_PORT}", nodes.address(id));
            if let Ok(node) = nodes.node(id) {
                observe::keep_metrics(&address, &node.dir().join("metrics.txt")).await;
            }
        }
    }

    async fn note_restart(&self, phase: FaultPhase) {
        let targets = self.nodes.lock().await.ids();
        let fault = "restart".to_owned();
        self.recorder.fault(Fault { fault, phase, targets, ..Fault::default() });
    }

    async fn restart(&self) -> Result<()> {
        let mut nodes = self.nodes.lock().await;
        tokio::task::block_in_place(|| nodes.stop_all(STOPPING))?;
        for id in nodes.ids() {
            nodes.start(id)?;
        }
        Ok(())
    }

    async fn let_watchers_arrive(
        &self,
        watchers: &[workload::Following],
        troubles: &mut Vec<String>,
    ) {
        let mut newest = 0;
        for raw in self.directory.all() {
            if let Ok(status) = raw.status(Duration::from_secs(2)).await {
                newest = newest.max(status.header.map_or(0, |header| header.revision));
            }
        }
        let begin = Instant::now();
        while begin.elapsed() < WATCHING {
            if watchers.iter().all(|one| one.reached.load(Ordering::Relaxed) >= newest) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        troubles.push(format!("a watcher has not reached r{newest} after {WATCHING:?}"));
    }

    async fn describe(&self, context: &mut check::Context) {
        let mut nodes = self.nodes.lock().await;
        context.nodes = self.directory.nodes().into_iter().map(|(id, _)| id).collect();
        context.logs = nodes
            .all()
            // One that was never started has none.
            .filter(|node| node.log_file().exists())
            .map(|node| check::LogFile { node: node.id, path: node.log_file() })
            .collect();
    }
}

/// A token that is cancelled after `time`.
fn after(time: Duration) -> CancellationToken {
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::time::sleep(time).await;
        cancelled.cancel();
    });
    token
}

/// Waits until all replicas know one leader; the revision then.
pub(crate) async fn wait_formed(directory: &Directory) -> Result<u64> {
    let begin = Instant::now();
    let raws = directory.all();
    let mut last = String::new();
    while begin.elapsed() < FORMING {
        match formed(&raws).await {
            Ok(revision) => return Ok(revision),
            Err(why) => last = format!("{why:#}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("no cluster after {FORMING:?}: {last}")
}

async fn formed(raws: &[Raw]) -> Result<u64> {
    let mut revision = 0;
    let mut leaders = Vec::new();
    for raw in raws {
        let status = raw.status(Duration::from_secs(1)).await;
        let status =
            status.map_err(|failure| anyhow::anyhow!("{}: {}", raw.node, failure.text()))?;
        ensure!(status.leader != 0, "replica {} knows no leader", raw.node);
        leaders.push(status.leader);
        revision = revision.max(status.header.map_or(0, |header| header.revision));
    }
    ensure!(leaders.windows(2).all(|two| two[0] == two[1]), "leaders {leaders:?}");
    Ok(revision)
}

/// Tells whoever looks on how far it is.
pub(super) fn say(text: &str) {
    crate::cli::tell(&format!("  {text}"));
}

/// The version of the program at `binary`.
pub(crate) fn version_of(binary: &Path) -> Result<String> {
    let version = crate::net::tool::run(&binary.display().to_string(), &["--version"])
        .context("ask the program for its version")?;
    Ok(version.trim().to_owned())
}
