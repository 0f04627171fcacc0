//! A run, from forming to its verdict.
//!
//! Three phases: faults happen while clients work; everything is healed; and the
//! cluster has to be well again within a bound: every member equal, every node
//! answering. Then the history is judged. A run in which nothing happened is no
//! run: it fails as well.

use super::client::{self, Clients, Failed, Stage};
use super::nemesis::{self, Schedule};
use super::world::{Happened, World};
use super::{HostId, Plan, Trace, Violation, door};
use keelstone_jepsen::history::{History, Recorder, TxnReply};
use keelstone_server::core::Core as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// How long a cluster may take to form, in milliseconds.
const FORM_MS: u64 = 20_000;
/// Events of a history.
const EVENTS_MAX: usize = 1_000_000;

/// What became of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was wrong.
    Well,
    /// Something was.
    Violated(Violation),
}

/// A run that is over.
pub struct Report {
    /// Its plan.
    pub plan: Arc<Plan>,
    /// What became of it.
    pub verdict: Verdict,
    /// The fingerprint of all that happened.
    pub trace: Trace,
    /// What happened to the machines.
    pub happened: Happened,
    /// What the rules have looked at.
    pub inputs: Vec<(&'static str, u64)>,
    /// The history, as far as it came.
    pub history: History,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// How long the cluster took to be well after the faults, in simulated
    /// milliseconds.
    pub healed_in_ms: Option<u64>,
}

/// Runs a plan. Directories of nodes are made in `dir`; with `keep` the trace
/// keeps its text.
pub fn run(plan: Plan, dir: &Path, keep: bool) -> Report {
    super::panics::watch();
    let plan = Arc::new(plan);
    let world = World::new(&plan, dir, Trace::new(keep));
    let clock = door::nanoseconds(world.time());
    let recorder = Arc::new(Recorder::in_memory(EVENTS_MAX, clock));
    let mut run = Run {
        schedule: nemesis::schedule(&plan),
        plan: Arc::clone(&plan),
        world,
        recorder,
        healed_in_ms: None,
        simulated_ms: 0,
    };
    let lived = catch_unwind(AssertUnwindSafe(|| run.live()));
    let lived = lived.unwrap_or_else(|_| Err(panicked("in the harness")));
    let ended = catch_unwind(AssertUnwindSafe(|| run.world.end()));
    let lived = lived.and_then(|()| ended.map_err(|_| panicked("at the end")));
    run.judge(lived)
}

fn panicked(when: &str) -> Violation {
    Violation::new("no panic", format!("{when}: {}", super::panics::take().join("\n")))
}

struct Run {
    plan: Arc<Plan>,
    world: World,
    schedule: Schedule,
    recorder: Arc<Recorder>,
    healed_in_ms: Option<u64>,
    simulated_ms: u64,
}

impl Run {
    fn clients(&self, stage: &Stage) -> Clients {
        Clients {
            plan: Arc::clone(&self.plan),
            doors: self.world.doors().clone(),
            recorder: Arc::clone(&self.recorder),
            time: self.world.time().clone(),
            hosts: (1..=self.plan.members).collect(),
            stage: stage.clone(),
        }
    }

    fn live(&mut self) -> Result<(), Violation> {
        self.form()?;
        let stage = Stage::default();
        let clients = self.clients(&stage);
        let finals = Finals::default();
        let (begun, last, all) = (stage.clone(), finals.clone(), clients.clone());
        self.world.start_clients(async move {
            client::start(clients).await;
            last.read_when(&begun, &all).await;
        });
        self.faults()?;
        self.world.heal();
        let healed_at = self.world.time().now_ms();
        self.settle(healed_at)?;
        stage.end();
        self.finish(healed_at, &finals)
    }

    /// Until all initial members take part.
    fn form(&mut self) -> Result<(), Violation> {
        while self.world.time().now_ms() < FORM_MS {
            self.world.step()?;
            let members: Vec<HostId> = (1..=self.plan.members).collect();
            let ready = |host: &HostId| {
                self.world.replica(*host).is_some_and(|replica| *replica.recovered().borrow())
            };
            if members.iter().all(ready) {
                return Ok(());
            }
        }
        Err(Violation::new("liveness", "the cluster did not form in time"))
    }

    fn faults(&mut self) -> Result<(), Violation> {
        let begun = self.world.time().now_ms();
        let mut due = std::mem::take(&mut self.schedule).into_iter().peekable();
        loop {
            let now = self.world.time().now_ms() - begun;
            while let Some((_, action)) = due.next_if(|(at, _)| *at <= now) {
                self.world.act(&action);
            }
            if now >= self.plan.faults_ms {
                return Ok(());
            }
            self.world.step()?;
        }
    }

    /// Until all members that run have the same state, and one of them leads.
    fn settle(&mut self, healed_at: u64) -> Result<(), Violation> {
        // Clients go on for a while: it has to serve them, too.
        while self.world.time().now_ms() < healed_at + 1_000 {
            self.world.step()?;
        }
        Ok(())
    }

    fn equal(&self) -> bool {
        let replicas = self.world.hosts().into_iter().map(|host| self.world.replica(host));
        let replicas: Option<Vec<_>> = replicas.take(self.members()).collect();
        let Some(replicas) = replicas else { return false };
        let mut states = replicas.iter().filter_map(|it| {
            use keelstone_store::machine::View as _;
            let view = it.state().view().ok()?;
            let status = it.status();
            Some((view.head().hash, status.leader, status.last_log_index, view.applied().id))
        });
        let first = states.next();
        first.as_ref().is_some_and(|it| it.1.is_some()) && states.all(|it| Some(it) == first)
    }

    fn members(&self) -> usize {
        usize::try_from(self.plan.members).unwrap_or(usize::MAX)
    }

    /// The last reads, on every member, and equality of all of them.
    fn finish(&mut self, healed_at: u64, finals: &Finals) -> Result<(), Violation> {
        loop {
            let now = self.world.time().now_ms();
            let read = finals.done() == self.members();
            if read && self.equal() {
                self.healed_in_ms = Some(now - healed_at);
                return Ok(());
            }
            if now > healed_at + self.plan.liveness_ms {
                let text = format!(
                    "not well {} ms after the last fault: {} of {} nodes answered, equal: {}",
                    self.plan.liveness_ms,
                    finals.done(),
                    self.members(),
                    self.equal()
                );
                return Err(Violation::new("liveness", text));
            }
            self.world.step()?;
        }
    }

    fn judge(mut self, lived: Result<(), Violation>) -> Report {
        self.simulated_ms = self.world.time().now_ms();
        let happened = self.world.happened().clone();
        let inputs = self.world.inputs();
        let mut trace = self.world.into_trace();
        let events = self.recorder.snapshot();
        for event in &events {
            trace.note(event.time / 1000, &serde_json::to_string(event).unwrap_or_default());
        }
        let (history, judged) = match History::new(events) {
            Ok(history) => (history, Ok(())),
            Err(error) => {
                let text = format!("the history is impossible: {error}");
                (History::default(), Err(Violation::new("harness", text)))
            }
        };
        let lived = lived.and(judged);
        let verdict = lived.map_or_else(Verdict::Violated, |()| Verdict::Well);
        Report {
            plan: self.plan,
            verdict,
            trace,
            happened,
            inputs,
            history,
            simulated_ms: self.simulated_ms,
            healed_in_ms: self.healed_in_ms,
        }
    }
}

/// The last reads, one on each member.
#[derive(Clone, Default)]
struct Finals {
    replies: Arc<Mutex<Vec<(HostId, TxnReply)>>>,
}

impl Finals {
    fn done(&self) -> usize {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Reads on every member once clients have ended, until each has answered.
    async fn read_when(&self, stage: &Stage, all: &Clients) {
        let pause = std::time::Duration::from_millis(50);
        while stage.goes_on() {
            tokio::time::sleep(pause).await;
        }
        // What clients began has an outcome by then.
        tokio::time::sleep(client::PATIENCE_PAST).await;
        for host in all.hosts.clone() {
            loop {
                match client::read_all(all, host).await {
                    Ok(reply) => {
                        let mut replies =
                            self.replies.lock().unwrap_or_else(PoisonError::into_inner);
                        replies.push((host, reply));
                        break;
                    }
                    Err(Failed::No(_) | Failed::Unknown(_)) => tokio::time::sleep(pause).await,
                }
            }
        }
    }
}
