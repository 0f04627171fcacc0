//! The machines, their time, and the order in which they live.

use super::clock::{WallClock, WorldTime};
use super::disk::NodeDisk;
use super::door::Doors;
use super::host::{Host, RATE_TRUE};
use super::invariant::Invariants;
use super::look::{Look, NodeLook};
use super::nemesis::Action;
use super::net::{Leave, Net};
use super::node::{NodeParts, Sight};
use super::{HostId, Plan, Trace, Violation};
use crate::durability::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;

/// A machine with a node.
struct Slot {
    host: Host,
    parts: NodeParts,
    life: u64,
    /// When it is started again, if it is off and shall be.
    start_at_ms: Option<u64>,
    /// How it ends when its disk loses power, and for how long.
    outage_ms: u64,
    /// The last line of it in the trace.
    traced: String,
    /// What was seen of it last.
    seen: Option<NodeLook>,
}

/// What happened to the machines, for the verdict.
#[derive(Clone, Debug, Default)]
pub struct Happened {
    /// Faults by name.
    pub faults: BTreeMap<&'static str, u64>,
    /// Nodes that were started, the first time included.
    pub starts: u64,
    /// Most entries that were purged on a node.
    pub purged: u64,
    /// Snapshots that were installed: the log was purged past its end.
    pub installs: u64,
    /// Highest term.
    pub term: u64,
    /// The oldest revision that can be read somewhere.
    pub compacted: u64,
    /// Leaders that were seen, by term.
    pub leaders: BTreeSet<u64>,
}

impl Happened {
    /// What has to happen in some of many runs for them to mean much.
    pub fn rare(&self) -> [(&'static str, u64); 5] {
        let count = |name| self.faults.get(name).copied().unwrap_or_default();
        [
            ("snapshot installs", self.installs),
            ("purges", u64::from(self.purged > 0)),
            ("compactions", u64::from(self.compacted > 0)),
            ("elections", self.leaders.len().saturating_sub(1) as u64),
            ("new disks", count("new-disk")),
        ]
    }
}

/// See the module.
pub struct World {
    plan: Arc<Plan>,
    time: WorldTime,
    net: Net,
    doors: Doors,
    slots: BTreeMap<HostId, Slot>,
    clients: Host,
    random: Random,
    invariants: Invariants,
    trace: Trace,
    happened: Happened,
}

impl World {
    /// Machines that are all off. Directories of nodes are made in `dir`.
    pub fn new(plan: &Arc<Plan>, dir: &Path, trace: Trace) -> Self {
        let mut random = Random::of(plan.seed, 2);
        let time = WorldTime::default();
        let net = Net::new(random.draw(), plan.quality);
        let doors = Doors::new(random.draw(), plan.way);
        let mut slots = BTreeMap::new();
        for host in 1..=plan.members + plan.spares {
            let parts = NodeParts {
                host,
                plan: Arc::clone(plan),
                net: net.clone(),
                doors: doors.clone(),
                clock: WallClock::new(time.clone()),
                disk: NodeDisk::new(random.draw()),
                data_dir: dir.join(format!("n{host}")),
                joins: host > plan.members,
                sight: Sight::default(),
            };
            let slot = Slot {
                host: Host::new(random.draw()),
                parts,
                life: 0,
                start_at_ms: Some(random.below(50)),
                outage_ms: 0,
                traced: String::new(),
                seen: None,
            };
            slots.insert(host, slot);
        }
        let clients = Host::new(random.draw());
        Self {
            plan: Arc::clone(plan),
            time,
            net,
            doors,
            slots,
            clients,
            random,
            invariants: Invariants::default(),
            trace,
            happened: Happened::default(),
        }
    }

    /// The world's time.
    pub fn time(&self) -> &WorldTime {
        &self.time
    }

    /// Where clients reach nodes.
    pub fn doors(&self) -> &Doors {
        &self.doors
    }

    /// The network.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// What happened so far.
    pub fn happened(&self) -> &Happened {
        &self.happened
    }

    /// What the rules about nodes have looked at.
    pub fn inputs(&self) -> Vec<(&'static str, u64)> {
        self.invariants.inputs()
    }

    /// Notes something in the trace.
    pub fn note(&mut self, text: &str) {
        tracing::info!(at_ms = self.time.now_ms(), "{text}");
        self.trace.note(self.time.now_us(), text);
    }

    /// The trace, at the end.
    pub fn into_trace(self) -> Trace {
        self.trace
    }

    /// Starts what clients do, on a machine of their own.
    pub fn start_clients(&mut self, program: impl Future<Output = ()> + Send + 'static) {
        self.clients.start(program);
    }

    /// Lets everything live one tick, and looks at it.
    ///
    /// # Errors
    ///
    /// The first rule that is broken.
    pub fn step(&mut self) -> Result<(), Violation> {
        let tick_ms = self.plan.tick_ms;
        self.time.set_us(self.time.now_us() + tick_ms * 1000);
        self.start_due();
        self.net.deliver(self.time.now_us());
        self.clients.tick(tick_ms);
        let mut order: Vec<HostId> = self.slots.keys().copied().collect();
        let turn = self.random.below_usize(order.len());
        order.rotate_left(turn);
        for host in order {
            let Some(slot) = self.slots.get_mut(&host) else { continue };
            slot.host.tick(tick_ms);
            if let Some(panic) = super::panics::take().pop() {
                return Err(Violation::new("no panic", format!("node {host}: {panic}")));
            }
            if slot.parts.disk.is_off() {
                let outage = slot.outage_ms;
                self.note(&format!("n{host} lost power at its disk"));
                self.stop(host, Leave::PowerCut, Some(outage));
            } else if let Some(failure) = slot.parts.sight.take_failure() {
                return Err(Violation::new("nodes go on", format!("node {host}: {failure}")));
            }
        }
        self.look()
    }

    fn start_due(&mut self) {
        let now = self.time.now_ms();
        let due = |slot: &Slot| slot.start_at_ms.is_some_and(|at| at <= now);
        let hosts: Vec<HostId> =
            self.slots.iter().filter(|(_, slot)| due(slot)).map(|(host, _)| *host).collect();
        for host in hosts {
            self.start(host);
        }
    }

    fn start(&mut self, host: HostId) {
        let Some(slot) = self.slots.get_mut(&host) else { return };
        slot.start_at_ms = None;
        if slot.host.is_on() {
            return;
        }
        slot.life += 1;
        self.happened.starts += 1;
        self.net.power_on(host);
        let seed = self.plan.seed ^ (host << 40) ^ (slot.life << 20);
        let program = slot.parts.clone().live();
        slot.host.start(keelstone_server::simulation::scope(seed, program));
        let life = slot.life;
        self.note(&format!("n{host} starts, life {life}"));
    }

    /// Ends a machine at once; it starts again after `outage_ms`, if given.
    pub fn stop(&mut self, host: HostId, how: Leave, outage_ms: Option<u64>) {
        let now = self.time.now_ms();
        let Some(slot) = self.slots.get_mut(&host) else { return };
        slot.start_at_ms = outage_ms.map(|outage| now + outage);
        self.doors.close(host);
        slot.parts.sight.clear();
        slot.seen = None;
        if slot.host.is_on() {
            self.net.leave(host, how, || slot.host.stop());
            match how {
                Leave::PowerCut => slot.parts.disk.lose_power(),
                Leave::Killed => slot.parts.disk.lose_process(),
            }
        }
        slot.parts.disk.set_pace_us(1_000);
        slot.parts.disk.set_apply_pace_us(0);
    }

    fn look(&mut self) -> Result<(), Violation> {
        let now_us = self.time.now_us();
        let mut look = Look { nodes: Vec::new() };
        let mut changed = false;
        for (host, slot) in &mut self.slots {
            let Some(replica) = slot.parts.sight.replica() else { continue };
            let before = slot.seen.as_ref();
            let Some(node) = NodeLook::of(*host, slot.life, &replica, before) else { continue };
            let same = before.is_some_and(|it| {
                it.now == node.now
                    && it.hash == node.hash
                    && it.durable == node.durable
                    && it.life == node.life
            });
            if !same {
                changed = true;
                let index = |id: Option<keelstone_store::disk::LogId>| id.map(|id| id.index);
                if before.is_some_and(|it| index(node.now.purged) > index(it.now.last)) {
                    self.happened.installs += 1;
                }
                let line = node.line();
                if slot.traced != line {
                    self.trace.note(now_us, &line);
                    slot.traced = line;
                }
                self.happened.term = self.happened.term.max(node.now.vote.map_or(0, |it| it.term));
                self.happened.compacted = self.happened.compacted.max(node.compacted.get());
                self.happened.leaders.extend(node.leads());
                let purged = node.now.purged.map_or(0, |id| id.index);
                self.happened.purged = self.happened.purged.max(purged);
                slot.seen = Some(node.clone());
            }
            look.nodes.push(node);
        }
        if changed { self.invariants.look(&look) } else { Ok(()) }
    }

    /// Gives a machine a new disk: what was on it is gone for good.
    pub fn wipe(&mut self, host: HostId) {
        self.note(&format!("n{host} is given a new disk"));
        self.stop(host, Leave::Killed, Some(200));
        let seed = self.random.draw();
        let Some(slot) = self.slots.get_mut(&host) else { return };
        slot.parts.disk = NodeDisk::new(seed);
        slot.parts.joins = true;
        if let Err(error) = std::fs::remove_dir_all(&slot.parts.data_dir) {
            self.note(&format!("its directory was not there: {error}"));
        }
        *self.happened.faults.entry("new-disk").or_default() += 1;
    }

    /// Does what the schedule says.
    pub fn act(&mut self, action: &Action) {
        self.note(&format!("nemesis: {action:?}"));
        *self.happened.faults.entry(action.name()).or_default() += 1;
        match *action {
            Action::Kill { host, outage_ms } => self.stop(host, Leave::Killed, Some(outage_ms)),
            Action::PowerCut { host, outage_ms } => {
                self.stop(host, Leave::PowerCut, Some(outage_ms));
            }
            Action::PowerCutAll { outage_ms } => {
                let hosts: Vec<HostId> = self.slots.keys().copied().collect();
                for host in hosts {
                    let late = self.random.below(500);
                    self.stop(host, Leave::PowerCut, Some(outage_ms + late));
                }
            }
            Action::PowerCutAtDisk { host, operations, outage_ms } => {
                let Some(slot) = self.slots.get_mut(&host) else { return };
                if slot.host.is_on() {
                    slot.outage_ms = outage_ms;
                    slot.parts.disk.cut_power_in(operations);
                }
            }
            Action::Pause { host, paused } => {
                let Some(slot) = self.slots.get_mut(&host) else { return };
                slot.host.set_paused(paused);
            }
            Action::Cut { from, to, cut } => self.net.set_cut(from, to, cut),
            Action::Quality(quality) => self.net.set_quality(quality),
            Action::SlowDisk { host, pace_us } => {
                let Some(slot) = self.slots.get_mut(&host) else { return };
                slot.parts.disk.set_pace_us(pace_us);
            }
            Action::SlowApply { host, pace_us } => {
                let Some(slot) = self.slots.get_mut(&host) else { return };
                slot.parts.disk.set_apply_pace_us(pace_us);
            }
            Action::ClockJump { host, offset_ms } => {
                let Some(slot) = self.slots.get_mut(&host) else { return };
                slot.parts.clock.set_offset_ms(offset_ms);
            }
            Action::ClockRate { host, rate } => {
                let Some(slot) = self.slots.get_mut(&host) else { return };
                slot.host.set_rate(rate);
            }
            Action::ShutDoor { host, shut } => self.doors.set_shut(host, shut),
        }
    }

    /// Ends all faults: everything runs, everything is connected, no clock is
    /// wrong any more.
    pub fn heal(&mut self) {
        self.note("heal");
        self.net.heal();
        self.net.set_quality(self.plan.quality);
        self.doors.open_all();
        let way = super::door::Way { loss_permille: 0, answer_loss_permille: 0, ..self.plan.way };
        self.doors.set_way(way);
        let now = self.time.now_ms();
        for slot in self.slots.values_mut() {
            slot.host.set_paused(false);
            slot.host.set_rate(RATE_TRUE);
            slot.parts.clock.set_offset_ms(0);
            slot.parts.disk.set_pace_us(1_000);
            slot.parts.disk.set_apply_pace_us(0);
            slot.parts.disk.log.clear_faults();
            if !slot.host.is_on() {
                slot.start_at_ms = Some(slot.start_at_ms.map_or(now, |at| at.min(now + 500)));
            }
        }
    }

    /// The replica of a host, if it takes part.
    pub fn replica(&self, host: HostId) -> Option<Arc<keelstone_server::replica::Replica>> {
        self.slots.get(&host)?.parts.sight.replica()
    }

    /// All hosts.
    pub fn hosts(&self) -> Vec<HostId> {
        self.slots.keys().copied().collect()
    }

    /// Ends everything, so that nothing is left of the run.
    pub fn end(&mut self) {
        self.clients.stop();
        for host in self.hosts() {
            self.stop(host, Leave::PowerCut, None);
        }
    }
}
