//! A run, from forming to its verdict.
//!
//! Three phases: faults happen while clients work; everything is healed; and the
//! cluster has to be well again within a bound: every member equal, every node
//! answering. Then the history is judged. A run in which nothing happened is no
//! run: it fails as well.

use super::client::operator::Orders;
use super::client::{self, Clients, Stage};
use super::nemesis::{self, Schedule};
use super::world::{Happened, World};
use super::{HostId, Plan, Trace, Violation, door, promise};
use keelstone_jepsen::history::{Fault, FaultPhase, History, Op, Recorder};
use keelstone_server::core::Core as _;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a cluster may take to form, in milliseconds.
const FORM_MS: u64 = 20_000;
/// How long clients go on after the faults, in milliseconds.
const AFTER_MS: u64 = 1_500;
/// When all that clients began is over, in milliseconds.
const PATIENCE_PAST_MS: u64 = 2_700;
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
    align_tasks();
    let plan = Arc::new(plan);
    let world = World::new(&plan, dir, Trace::new(keep));
    let clock = door::nanoseconds(world.time());
    let recorder = Arc::new(Recorder::in_memory(EVENTS_MAX, clock));
    let mut run = Run {
        schedule: nemesis::schedule(&plan),
        plan: Arc::clone(&plan),
        world,
        recorder,
        orders: Orders::default(),
        watched: Arc::default(),
        healed_in_ms: None,
        simulated_ms: 0,
    };
    let lived = catch_unwind(AssertUnwindSafe(|| run.live()));
    let lived = lived.unwrap_or_else(|_| Err(panicked("in the harness")));
    let ended = catch_unwind(AssertUnwindSafe(|| run.world.end()));
    let lived = lived.and_then(|()| ended.map_err(|_| panicked("at the end")));
    run.judge(lived)
}

/// Task numbers of a process count up for ever, and a runtime that ends drops its
/// tasks in an order that depends on them (modulo the number of its lists, which
/// is a small power of two). So each run begins with the same remainder. Runs at
/// the same time need processes of their own.
fn align_tasks() {
    const LISTS_MAX: u64 = 1 << 8;
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime without IO needs nothing of the system");
    runtime.block_on(async {
        loop {
            let number = tokio::spawn(async {}).id().to_string();
            let number: u64 = number.parse().expect("a task is shown as its number");
            if number.is_multiple_of(LISTS_MAX) {
                return;
            }
        }
    });
}

fn panicked(when: &str) -> Violation {
    Violation::new("no panic", format!("{when}: {}", super::panics::take().join("\n")))
}

struct Run {
    plan: Arc<Plan>,
    world: World,
    schedule: Schedule,
    recorder: Arc<Recorder>,
    orders: Orders,
    watched: Arc<AtomicU64>,
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
            hosts: self.world.hosts(),
            stage: stage.clone(),
            orders: self.orders.clone(),
            watched: Arc::clone(&self.watched),
        }
    }

    fn live(&mut self) -> Result<(), Violation> {
        self.form()?;
        let stage = Stage::default();
        let clients = self.clients(&stage);
        let finals = Finals::default();
        let last = finals.clone();
        self.world.start_clients(async move {
            client::start(&clients);
            last.read_when(&clients).await;
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
            self.step()?;
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

    /// One step of the world, with what the operator wants of it.
    fn step(&mut self) -> Result<(), Violation> {
        for host in self.orders.take() {
            self.world.wipe(host);
        }
        let before = self.world.happened().compacted;
        self.world.step()?;
        let revision = self.world.happened().compacted;
        if revision > before {
            self.note_compaction(revision);
        }
        Ok(())
    }

    /// The leader forgets history by itself; the judges have to know.
    fn note_compaction(&self, revision: u64) {
        let process = self.recorder.new_process();
        self.recorder.invoke(process, Op::Compact { revision }, None);
        // Nobody says when every node has: one that is behind may still show it.
        self.recorder.info(process, Op::Compact { revision }, None, "by itself".to_owned());
    }

    fn faults(&mut self) -> Result<(), Violation> {
        let begun = self.world.time().now_ms();
        let mut due = std::mem::take(&mut self.schedule).into_iter().peekable();
        self.note_faults(FaultPhase::Start, "any", String::new());
        loop {
            let now = self.world.time().now_ms() - begun;
            while let Some((_, action)) = due.next_if(|(at, _)| *at <= now) {
                self.note_faults(FaultPhase::Once, action.name(), format!("{action:?}"));
                self.world.act(&action);
            }
            if now >= self.plan.faults_ms {
                self.note_faults(FaultPhase::Heal, "any", String::new());
                return Ok(());
            }
            self.step()?;
        }
    }

    fn note_faults(&self, phase: FaultPhase, fault: &str, action: String) {
        let parameters = BTreeMap::from([("action".to_owned(), action)]);
        let fault = fault.to_owned();
        self.recorder.fault(Fault { fault, phase, targets: Vec::new(), parameters });
    }

    /// Clients go on for a while after the faults: they have to be served, too.
    fn settle(&mut self, healed_at: u64) -> Result<(), Violation> {
        while self.world.time().now_ms() < healed_at + AFTER_MS {
            self.step()?;
        }
        Ok(())
    }

    /// The members' hosts, as whoever leads says, and whether that is settled.
    fn members(&self) -> Option<Vec<HostId>> {
        let mut leaders = self.world.hosts().into_iter().filter_map(|host| {
            let replica = self.world.replica(host)?;
            let status = replica.status();
            (status.role == "leader").then_some(replica)
        });
        let leader = leaders.next()?;
        let hosts = leader.members().into_iter().filter_map(|member| host_of(&member.peer_address));
        leaders.next().is_none().then(|| hosts.collect())
    }

    /// Whether all members have the same state and log, and the same leader.
    fn equal(&self, members: &[HostId]) -> bool {
        let mut states = members.iter().map(|host| {
            use keelstone_store::machine::View as _;
            let replica = self.world.replica(*host)?;
            let view = replica.state().view().ok()?;
            let status = replica.status();
            Some((view.head().hash, status.leader?, status.last_log_index, view.applied().id))
        });
        let first = states.next().flatten();
        first.is_some() && states.all(|state| state == first)
    }

    /// The last reads, on every member, and equality of all of them.
    fn finish(&mut self, healed_at: u64, finals: &Finals) -> Result<(), Violation> {
        let mut told = false;
        loop {
            let now = self.world.time().now_ms();
            let members = self.members();
            if let Some(members) = &members
                && !told
                && now >= healed_at + AFTER_MS + PATIENCE_PAST_MS
            {
                finals.begin(members.clone());
                told = true;
            }
            let equal = members.as_ref().is_some_and(|members| self.equal(members));
            let newest = finals.newest();
            let watched = self.watched.load(Ordering::Relaxed);
            if finals.are_done() && equal && watched >= newest {
                self.healed_in_ms = Some(now - healed_at);
                return Ok(());
            }
            if now > healed_at + self.plan.liveness_ms {
                let text = format!(
                    "not well {} ms after the last fault: members {members:?}, last reads {}, equal {equal}, \
                     watched {watched} of {newest}",
                    self.plan.liveness_ms,
                    finals.done(),
                );
                return Err(Violation::new("liveness", text));
            }
            self.step()?;
        }
    }

    fn judge(mut self, lived: Result<(), Violation>) -> Report {
        self.simulated_ms = self.world.time().now_ms();
        let happened = self.world.happened().clone();
        let mut inputs = self.world.inputs();
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
        let lived = lived.and(judged).and_then(|()| something(&self.plan, &history, &happened));
        let (lived, promises) = match lived.and_then(|()| promise::judge(&history, &self.plan)) {
            Ok(promises) => (Ok(()), promises),
            Err(violation) => (Err(violation), Vec::new()),
        };
        inputs.extend(promises);
        inputs.extend(happened.rare());
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

/// A run without faults or without success proves nothing.
fn something(plan: &Plan, history: &History, happened: &Happened) -> Result<(), Violation> {
    if plan.faults && happened.faults.is_empty() {
        return Err(Violation::new("something happened", "no fault fired"));
    }
    let answered = history.operations().iter().any(|operation| operation.ok().is_some());
    if !answered {
        return Err(Violation::new("something happened", "no operation succeeded"));
    }
    Ok(())
}

fn host_of(address: &str) -> Option<HostId> {
    address.strip_prefix('n')?.split(':').next()?.parse().ok()
}

/// The last reads, one on each member. Clones share them.
#[derive(Clone, Default)]
struct Finals {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    /// Whom to ask, once that is known.
    members: Option<Vec<HostId>>,
    done: Vec<(HostId, u64)>,
    leases_asked: bool,
}

impl Finals {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, members: Vec<HostId>) {
        self.lock().members = Some(members);
    }

    fn done(&self) -> usize {
        self.lock().done.len()
    }

    fn are_done(&self) -> bool {
        let shared = self.lock();
        let all = shared.members.as_ref().is_some_and(|it| it.len() == shared.done.len());
        all && shared.leases_asked
    }

    /// The newest revision that was read.
    fn newest(&self) -> u64 {
        self.lock().done.iter().map(|(_, revision)| *revision).max().unwrap_or(0)
    }

    /// Reads on every member, once it is told which they are, until each has
    /// answered.
    async fn read_when(&self, all: &Clients) {
        let pause = Duration::from_millis(50);
        let members = loop {
            if let Some(members) = self.lock().members.clone() {
                break members;
            }
            tokio::time::sleep(pause).await;
        };
        for host in members {
            loop {
                if let Ok(reply) = client::read_all(all, host).await {
                    self.lock().done.push((host, reply.revision));
                    break;
                }
                tokio::time::sleep(pause).await;
            }
            if !self.lock().leases_asked {
                client::ask_all(all, host).await;
                self.lock().leases_asked = true;
            }
        }
    }
}
