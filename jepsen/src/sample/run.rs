//! Concurrent clients over the naive store, in simulated time.

use super::client::{BANK_TOTAL, Client, Plan, TTL_MS, Workload};
use super::plant::Plant;
use super::store::Store;
use super::watcher::Watcher;
use super::{Sample, Sampled};
use crate::check::Context;
use crate::history::{
    Action, BackupRestore, Claim, ConfigGet, CounterRead, EntityRead, Event, Fault, FaultPhase,
    Finish, History, Kind, LeaseGrant, LeaseTtl, MemberView, Op, Process, StateHash, Txn,
    prefix_end,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

pub(super) const MS: u64 = 1_000_000;

/// The history in the making, and what all parts share.
#[derive(Debug)]
pub(super) struct Tape {
    pub(super) events: Vec<Event>,
    pub(super) now: u64,
    pub(super) unique: u64,
    pub(super) plant: Option<Plant>,
    /// Before this event no mistake is made.
    pub(super) plant_from: usize,
    pub(super) planted: bool,
    /// The newest revision that a reply or a watch has shown.
    pub(super) shown: u64,
}

impl Tape {
    pub(super) fn unique(&mut self) -> u64 {
        self.unique += 1;
        self.unique
    }

    /// The mistake, if it is to be made and was not yet.
    pub(super) fn plant_ready(&self) -> Option<Plant> {
        self.plant.filter(|_| !self.planted && self.events.len() >= self.plant_from)
    }

    pub(super) fn is_ready(&self, plant: Plant) -> bool {
        self.plant_ready() == Some(plant)
    }

    pub(super) fn record(
        &mut self,
        process: u64,
        kind: Kind,
        op: Op,
        node: Option<u64>,
        error: Option<String>,
    ) {
        if let (Op::Txn(txn), Kind::Ok) = (&op, kind) {
            let shown = txn.reply.as_ref().map_or(0, |reply| reply.revision);
            self.shown = self.shown.max(shown);
        }
        let (index, time) = (self.events.len() as u64, self.now);
        let process = Process::Client(process);
        self.events.push(Event { index, time, process, kind, op, node, error });
    }

    fn fault(&mut self, phase: FaultPhase) {
        let (index, time) = (self.events.len() as u64, self.now);
        let fault = "partition".to_owned();
        let op = Op::Nemesis(Fault { fault, phase, targets: vec![1], ..Fault::default() });
        let (process, kind) = (Process::Nemesis, Kind::Info);
        self.events.push(Event { index, time, process, kind, op, node: None, error: None });
    }
}

/// What will become of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Answered,
    Refused,
    /// The answer is lost, the operation is not.
    Unanswered,
    /// Nothing arrives.
    Lost,
}

pub(super) struct Pending {
    pub(super) client: usize,
    pub(super) process: u64,
    pub(super) node: u64,
    pub(super) op: Op,
    pub(super) fate: Fate,
    pub(super) answer: Option<Result<Op, String>>,
    /// The newest revision that was shown when it was asked.
    pub(super) floor: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Ask(usize),
    Take(usize),
    Answer(usize),
    Expire,
    Watch(usize),
    Fault(bool),
}

pub(super) struct World {
    pub(super) rng: StdRng,
    pub(super) store: Store,
    pub(super) tape: Tape,
    pub(super) plan: Plan,
    pub(super) clients: Vec<Client>,
    pub(super) processes: Vec<u64>,
    pub(super) next_process: u64,
    pub(super) watchers: Vec<Watcher>,
    pub(super) pending: Vec<Pending>,
    queue: BinaryHeap<Reverse<(u64, u64, What)>>,
    pub(super) sequence: u64,
    pub(super) left: usize,
    pub(super) busy: usize,
    pub(super) info: u32,
    pub(super) fail: u32,
    /// What processes saw of replicas: never back.
    pub(super) replicas: BTreeMap<(u64, u64), u64>,
    /// Documents as they were, for lost sections.
    pub(super) old_documents: BTreeMap<String, BTreeMap<String, String>>,
    pub(super) ended_leases: Vec<u64>,
    /// The lease that never ends.
    immortal: Option<u64>,
}

pub(super) fn run(sample: &Sample) -> Sampled {
    let mut world = World::new(sample);
    world.setup();
    while let Some(Reverse((time, _, what))) = world.queue.pop() {
        world.tape.now = time;
        world.happen(what);
    }
    world.finish();
    let World { tape, plan, .. } = world;
    let context = Context {
        prefixes: ["k/", "set/", "append/", "bank/"].map(str::to_owned).to_vec(),
        bank_total: if plan.workload == Workload::Bank { BANK_TOTAL } else { 0 },
        lease_late_ms: 100,
        claim_late_ms: 100,
        watch_lag_ms: 200,
        serve_ms: 200,
        nodes: vec![1, 2, 3],
        ..Context::default()
    };
    let history = History::new(tape.events).expect("the sample keeps the rules of histories");
    Sampled { history, context, planted: tape.planted }
}

impl World {
    fn new(sample: &Sample) -> Self {
        let mut rng = StdRng::seed_from_u64(sample.seed);
        let plant_from = rng.random_range(0..=sample.operations);
        let tape = Tape {
            events: Vec::with_capacity(sample.operations * 2),
            now: 0,
            unique: 0,
            plant: sample.plant,
            plant_from,
            planted: false,
            shown: 0,
        };
        let client = Client::new;
        let plan = Plan { workload: sample.workload, keys: sample.keys, unique: 0, revision: 0 };
        Self {
            rng,
            store: Store::default(),
            tape,
            plan,
            clients: (0..sample.clients).map(client).collect(),
            processes: (0..sample.clients as u64).collect(),
            next_process: sample.clients as u64,
            watchers: (0..sample.watchers).map(Watcher::new).collect(),
            pending: Vec::new(),
            queue: BinaryHeap::new(),
            sequence: 0,
            left: sample.operations,
            busy: sample.clients,
            info: sample.info_permille,
            fail: sample.fail_permille,
            replicas: BTreeMap::new(),
            old_documents: BTreeMap::new(),
            ended_leases: Vec::new(),
            immortal: None,
        }
    }

    fn later(&mut self, delay: u64, what: What) {
        self.sequence += 1;
        self.queue.push(Reverse((self.tape.now + delay, self.sequence, what)));
    }

    fn setup(&mut self) {
        if self.plan.workload == Workload::Bank {
            self.tape.now = MS;
            let keys = i64::try_from(self.plan.keys).unwrap_or(1);
            let open = (0..keys).map(|account| {
                let share = BANK_TOTAL / keys + if account == 0 { BANK_TOTAL % keys } else { 0 };
                Action::put(format!("bank/{account}"), share.to_string())
            });
            let open = Txn { success: open.collect(), linearizable: true, ..Txn::default() };
            self.ask_now(Op::Txn(open));
        }
        for watcher in 0..self.watchers.len() {
            self.later(0, What::Watch(watcher));
        }
        for client in 0..self.clients.len() {
            let delay = 2 * MS + self.rng.random_range(0..10 * MS);
            self.later(delay, What::Ask(client));
        }
        self.later(5 * MS, What::Expire);
        self.later(60 * MS, What::Fault(true));
        self.later(120 * MS, What::Fault(false));
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Ask(client) => self.ask(client),
            What::Take(place) => self.take(place),
            What::Answer(place) => self.answer(place),
            What::Expire => {
                self.expire();
                if self.busy > 0 {
                    self.later(5 * MS, What::Expire);
                }
            }
            What::Watch(place) => {
                self.watchers[place].step(&self.store, &mut self.tape, &mut self.rng, true);
                if self.busy > 0 {
                    let delay = self.rng.random_range(MS..15 * MS);
                    self.later(delay, What::Watch(place));
                }
            }
            What::Fault(begins) => {
                self.tape.fault(if begins { FaultPhase::Start } else { FaultPhase::Heal });
            }
        }
    }

    fn ask(&mut self, client: usize) {
        if self.left == 0 {
            self.busy -= 1;
            return;
        }
        self.left -= 1;
        self.plan.revision = self.store.revision();
        let op = self.plan.next(&self.clients[client], &mut self.rng);
        let draw = self.rng.random_range(0..1000);
        let mut fate = match draw {
            _ if draw < self.info / 2 => Fate::Unanswered,
            _ if draw < self.info => Fate::Lost,
            _ if draw < self.info + self.fail => Fate::Refused,
            _ => Fate::Answered,
        };
        if self.tape.is_ready(Plant::DirtyWrite) && is_blind_put(&op) {
            fate = Fate::Refused;
        }
        let (process, node) = (self.processes[client], self.rng.random_range(1..=3));
        self.tape.record(process, Kind::Invoke, op.clone(), Some(node), None);
        let place = self.pending.len();
        let floor = self.tape.shown;
        self.pending.push(Pending { client, process, node, op, fate, answer: None, floor });
        let there = self.rng.random_range(MS / 10..8 * MS);
        let back = self.rng.random_range(MS / 10..8 * MS);
        // What was not answered may arrive long after the client gave up.
        let late = if fate == Fate::Unanswered { self.rng.random_range(0..60 * MS) } else { 0 };
        self.later(there + late, What::Take(place));
        self.later(there + back, What::Answer(place));
    }

    /// The store does what was asked.
    fn take(&mut self, place: usize) {
        let (op, fate) = (self.pending[place].op.clone(), self.pending[place].fate);
        if self.tape.is_ready(Plant::DirtyWrite) && fate == Fate::Refused && is_blind_put(&op) {
            self.tape.planted = self.store.answer(&op, self.tape.now).is_ok();
        }
        if matches!(fate, Fate::Lost | Fate::Refused) {
            return;
        }
        let answer = match &op {
            Op::Txn(txn) if !txn.linearizable => Ok(self.replica_read(place, txn)),
            Op::Restore(restore) => Ok(self.restore(restore, fate == Fate::Answered)),
            op => match self.spoil(place, op) {
                Some(answer) => {
                    self.tape.planted = true;
                    answer
                }
                None => self.store.answer(op, self.tape.now),
            },
        };
        self.pending[place].answer = Some(answer);
    }

    /// The client hears, or gives up.
    fn answer(&mut self, place: usize) {
        let pending = &self.pending[place];
        let (client, process, node, op) =
            (pending.client, pending.process, Some(pending.node), pending.op.clone());
        let answer = if pending.fate == Fate::Refused {
            Some(Err("refused".to_owned()))
        } else if pending.fate == Fate::Answered {
            pending.answer.clone()
        } else {
            None
        };
        match answer {
            Some(Ok(done)) => {
                if let (Op::Txn(txn), Some(node)) = (&done, node) {
                    let shown = txn.reply.as_ref().map_or(0, |reply| reply.revision);
                    let newest = self.replicas.entry((process, node)).or_default();
                    *newest = shown.max(*newest);
                }
                self.clients[client].learn(&done, &mut self.rng);
                self.tape.record(process, Kind::Ok, done, node, None);
            }
            Some(Err(error)) => {
                self.clients[client].forget(&op);
                self.tape.record(process, Kind::Fail, op, node, Some(error));
            }
            None => {
                self.clients[client].forget(&op);
                let error = Some("timeout".to_owned());
                self.tape.record(process, Kind::Info, op, node, error);
                self.processes[client] = self.next_process;
                self.next_process += 1;
            }
        }
        let delay = self.rng.random_range(0..3 * MS);
        self.later(delay, What::Ask(client));
    }

    fn replica_read(&mut self, place: usize, txn: &Txn) -> Op {
        let pending = &self.pending[place];
        let seen = self.replicas.get(&(pending.process, pending.node)).copied().unwrap_or(0);
        let newest = self.store.revision();
        let at = self.rng.random_range(seen.min(newest)..=newest);
        let reply = Some(Store::read(&self.store.at(at), txn, at));
        Op::Txn(Txn { reply, ..txn.clone() })
    }

    fn expire(&mut self) {
        let now = self.tape.now;
        let early = if self.tape.is_ready(Plant::LeaseEarly) { TTL_MS * MS / 2 } else { 0 };
        let due: Vec<(u64, u64)> = self
            .store
            .leases
            .iter()
            .filter(|(_, (_, expires))| expires.saturating_sub(early) <= now)
            .map(|(lease, (_, expires))| (*lease, *expires))
            .collect();
        for (lease, expires) in due {
            let attached = self.store.keys.values().filter(|kv| kv.lease == lease).count();
            if self.tape.is_ready(Plant::LeaseLate) && attached > 0 && self.immortal.is_none() {
                self.immortal = Some(lease);
            }
            if self.immortal == Some(lease) {
                continue;
            }
            let partial = self.tape.is_ready(Plant::LeasePartial) && attached > 1;
            self.tape.planted |= partial;
            if early > 0 && !self.tape.planted {
                // It shows only if it is early by more than anything that delays.
                if attached == 0 || expires < now + TTL_MS * MS / 4 {
                    continue;
                }
                self.tape.planted = true;
            }
            self.store.end_lease(lease, usize::from(partial));
            self.ended_leases.push(lease);
        }
    }

    fn restore(&mut self, restore: &BackupRestore, heard: bool) -> Op {
        let taken = self.tape.events.iter().find_map(|event| match &event.op {
            Op::Backup(backup) if event.kind == Kind::Ok && backup.name == restore.name => {
                backup.revision
            }
            _ => None,
        });
        let revision = taken.unwrap_or(0);
        let mut keys = self.store.at(revision);
        if heard && self.tape.is_ready(Plant::BackupMixed) {
            let before = self.store.at(revision.saturating_sub(3));
            let differs = keys.iter().find(|(key, kv)| before.get(*key) != Some(kv));
            if let Some(key) = differs.map(|(key, _)| key.clone())
                && key.starts_with("k/")
            {
                match before.get(&key) {
                    Some(kv) => keys.insert(key, kv.clone()),
                    None => keys.remove(&key),
                };
                self.tape.planted = true;
            }
        }
        let reuses = heard && self.tape.is_ready(Plant::RestoreReusesRevisions);
        let lacks = reuses && self.store.revision() > revision;
        self.tape.planted |= lacks;
        let new = if lacks { revision } else { self.store.revision() + 1_000_000 };
        Op::Restore(BackupRestore {
            name: restore.name.clone(),
            revision: Some(revision),
            new_revision: Some(new),
            kvs: Some(keys.into_values().collect()),
            state_roots: Some(vec![format!("root-{revision}"); 3]),
        })
    }

    /// Asks something at the end, alone.
    fn ask_now(&mut self, op: Op) -> Option<Op> {
        let process = self.next_process;
        self.next_process += 1;
        self.tape.record(process, Kind::Invoke, op.clone(), Some(1), None);
        self.tape.now += MS;
        match self.store.answer(&op, self.tape.now) {
            Ok(done) => {
                self.tape.record(process, Kind::Ok, done.clone(), Some(1), None);
                Some(done)
            }
            Err(error) => {
                self.tape.record(process, Kind::Fail, op, Some(1), Some(error));
                None
            }
        }
    }

    /// All is quiet: everybody catches up, and everything is read once more.
    fn finish(&mut self) {
        if self.tape.plant == Some(Plant::NeverServesAgain) {
            self.never_serve();
            return;
        }
        self.tape.now += 400 * MS;
        self.expire();
        self.tape.planted |= self.immortal.is_some_and(|id| self.store.leases.contains_key(&id));
        for place in 0..self.watchers.len() {
            for _ in 0..2000 {
                self.watchers[place].step(&self.store, &mut self.tape, &mut self.rng, false);
            }
        }
        let stuck = self.watchers.iter().any(Watcher::is_stuck);
        self.tape.now += if stuck { 400 * MS } else { MS };
        let write = Txn {
            success: vec![Action::put("k/last", format!("v{}", self.plan.unique + 1))],
            linearizable: true,
            ..Txn::default()
        };
        self.ask_now(Op::Txn(write));
        for prefix in ["k/", "set/", "append/", "bank/"] {
            let end = Some(prefix_end(prefix));
            let all = Action::Range { key: prefix.to_owned(), end, limit: 0 };
            let all = Txn { success: vec![all], linearizable: true, ..Txn::default() };
            self.ask_now(Op::Txn(all));
        }
        self.read_all();
        if self.plan.workload == Workload::Queue {
            self.drain();
        }
        self.look_at_nodes();
    }

    fn never_serve(&mut self) {
        self.tape.planted = true;
        self.tape.now += 10 * MS;
        self.tape.fault(FaultPhase::Heal);
        for _ in 0..5 {
            self.tape.now += 100 * MS;
            let process = self.next_process;
            self.next_process += 1;
            let success = vec![Action::put("k/last", format!("w{process}"))];
            let op = Op::Txn(Txn { success, linearizable: true, ..Txn::default() });
            self.tape.record(process, Kind::Invoke, op.clone(), Some(1), None);
            self.tape.now += 50 * MS;
            self.tape.record(process, Kind::Info, op, Some(1), Some("timeout".to_owned()));
        }
    }

    fn read_all(&mut self) {
        for key in 0..self.plan.keys {
            let (counter, entity, path) = (format!("c{key}"), format!("e{key}"), format!("p{key}"));
            match self.plan.workload {
                Workload::Counter => {
                    self.ask_now(Op::CounterRead(CounterRead {
                        counter,
                        ..CounterRead::default()
                    }));
                }
                Workload::Entity => {
                    self.ask_now(Op::EntityRead(EntityRead { entity, ..EntityRead::default() }));
                }
                Workload::Config => {
                    self.ask_now(Op::ConfigGet(ConfigGet { path, ..ConfigGet::default() }));
                }
                _ => {}
            }
        }
        let leases: Vec<u64> = self.store.leases.keys().copied().collect();
        for lease in leases {
            self.ask_now(Op::LeaseTtl(LeaseTtl { lease, ..LeaseTtl::default() }));
        }
    }

    /// A last worker does what is left.
    fn drain(&mut self) {
        let queue = || "q".to_owned();
        let (lease, worker) = (u64::from(u32::MAX), "last".to_owned());
        self.ask_now(Op::LeaseGrant(LeaseGrant { lease, ttl_ms: 60_000, granted_ms: None }));
        loop {
            let (queue_name, worker) = (queue(), worker.clone());
            let claim =
                Claim { queue: queue_name, worker: worker.clone(), lease, ..Claim::default() };
            let Some(Op::Claim(done)) = self.ask_now(Op::Claim(claim)) else { break };
            let (Some(job), Some(token)) = (done.job, done.token) else { break };
            let finish = Finish { queue: queue(), job, worker, token, ..Finish::default() };
            self.ask_now(Op::Finish(finish));
        }
    }

    /// What nodes say of themselves.
    fn look_at_nodes(&mut self) {
        self.tape.plant_from = 0;
        for round in 0..2_u64 {
            for member in 1..=3_u64 {
                let process = self.next_process;
                self.next_process += 1;
                let (diverges, leaders, back) = (
                    self.tape.is_ready(Plant::StateDiverges) && member == 2,
                    self.tape.is_ready(Plant::TwoLeaders) && member == 2,
                    self.tape.is_ready(Plant::TermGoesBack) && round == 1,
                );
                self.tape.planted |= diverges || leaders || back;
                let asked = StateHash { member, ..StateHash::default() };
                self.tape.record(process, Kind::Invoke, Op::StateHash(asked), Some(member), None);
                let at = Some(self.store.revision());
                let hash = Some(format!("{:x}", if diverges { 1 } else { self.store.revision() }));
                let sample = Op::StateHash(StateHash { member, at, hash });
                self.tape.record(process, Kind::Ok, sample, Some(member), None);
                let asked = MemberView { member, ..MemberView::default() };
                self.tape.record(process, Kind::Invoke, Op::MemberView(asked), Some(member), None);
                let view = Op::MemberView(MemberView {
                    member,
                    log_index: Some(4),
                    voters: Some(vec![1, 2, 3]),
                    learners: Some(Vec::new()),
                    term: Some(if back { 6 } else { 7 }),
                    leader: Some(if back { 0 } else { 1 + u64::from(leaders) }),
                });
                self.tape.record(process, Kind::Ok, view, Some(member), None);
                self.tape.now += MS;
            }
        }
    }
}

/// Whether an operation is a put that nothing can refuse.
fn is_blind_put(op: &Op) -> bool {
    let Op::Txn(txn) = op else { return false };
    let mut actions = txn.success.iter();
    txn.compares.is_empty()
        && txn.success.len() == 1
        && actions.all(|action| matches!(action, Action::Put { lease: 0, .. }))
}
