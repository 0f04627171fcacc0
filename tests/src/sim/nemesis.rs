//! What goes wrong and when: a schedule, as data, drawn from the seed.

use super::net::Quality;
use super::{HostId, Plan};
use crate::durability::Random;

/// Something that is done to the machines.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The process is killed and started again.
    Kill {
        /// Where.
        host: HostId,
        /// For how long.
        outage_ms: u64,
    },
    /// The machine loses power, and what was not synced.
    PowerCut {
        /// Which.
        host: HostId,
        /// For how long.
        outage_ms: u64,
    },
    /// All machines lose power at once.
    PowerCutAll {
        /// For how long at least.
        outage_ms: u64,
    },
    /// The machine loses power in the middle of what its disk does.
    PowerCutAtDisk {
        /// Which.
        host: HostId,
        /// At which operation from now.
        operations: u64,
        /// For how long.
        outage_ms: u64,
    },
    /// The process stands still, or goes on.
    Pause {
        /// Where.
        host: HostId,
        /// Whether it stands still.
        paused: bool,
    },
    /// A link is cut in one direction, or heals.
    Cut {
        /// Whose packets do not arrive.
        from: HostId,
        /// Where.
        to: HostId,
        /// Whether it is cut.
        cut: bool,
    },
    /// All links get better or worse.
    Quality(Quality),
    /// A disk gets slow, or fast again.
    SlowDisk {
        /// Whose.
        host: HostId,
        /// How long a round takes.
        pace_us: u64,
    },
    /// A state engine gets slow, or fast again.
    SlowApply {
        /// Whose.
        host: HostId,
        /// How long a batch takes.
        pace_us: u64,
    },
    /// A wall clock jumps.
    ClockJump {
        /// Whose.
        host: HostId,
        /// By how much it is wrong then.
        offset_ms: i64,
    },
    /// A clock runs too fast or too slow.
    ClockRate {
        /// Whose.
        host: HostId,
        /// In thousandths.
        rate: u64,
    },
    /// Clients cannot reach a node, or can again.
    ShutDoor {
        /// Which.
        host: HostId,
        /// Whether they cannot.
        shut: bool,
    },
}

impl Action {
    /// A word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "kill",
            Self::PowerCut { .. } => "power-cut",
            Self::PowerCutAll { .. } => "power-cut-all",
            Self::PowerCutAtDisk { .. } => "power-cut-at-disk",
            Self::Pause { .. } => "pause",
            Self::Cut { .. } => "cut",
            Self::Quality(_) => "network",
            Self::SlowDisk { .. } => "slow-disk",
            Self::SlowApply { .. } => "slow-apply",
            Self::ClockJump { .. } => "clock-jump",
            Self::ClockRate { .. } => "clock-rate",
            Self::ShutDoor { .. } => "shut-door",
        }
    }
}

/// Actions by the time from the beginning of the faults, in milliseconds.
pub type Schedule = Vec<(u64, Action)>;

/// The schedule of a plan.
pub fn schedule(plan: &Plan) -> Schedule {
    if !plan.faults {
        return Schedule::new();
    }
    let mut drawing = Drawing {
        random: Random::of(plan.seed, 3),
        hosts: plan.members + plan.spares,
        plan: plan.clone(),
        schedule: Schedule::new(),
    };
    drawing.draw();
    let mut schedule = drawing.schedule;
    schedule.sort_by_key(|(at, _)| *at);
    schedule
}

struct Drawing {
    random: Random,
    hosts: u64,
    plan: Plan,
    schedule: Schedule,
}

impl Drawing {
    fn host(&mut self) -> HostId {
        1 + self.random.below(self.hosts)
    }

    fn at(&mut self, at: u64, action: Action) {
        self.schedule.push((at, action));
    }

    fn draw(&mut self) {
        let end = self.plan.faults_ms;
        // A run with few kinds of faults reaches other places than one with all.
        let kinds: Vec<u64> = (0..KINDS).filter(|_| self.random.below(3) > 0).collect();
        let kinds = if kinds.is_empty() { vec![0] } else { kinds };
        let mut at = 200 + self.random.below(500);
        while at < end {
            let kind = kinds[self.random.below_usize(kinds.len())];
            self.fault(kind, at);
            at += 100 + self.random.below(1_200);
        }
    }

    fn fault(&mut self, kind: u64, at: u64) {
        let host = self.host();
        let length = 50 + self.random.below(2_500);
        match kind {
            0 => self.at(at, Action::Kill { host, outage_ms: length }),
            1 => self.at(at, Action::PowerCut { host, outage_ms: length }),
            2 => {
                let operations = 1 + self.random.below(12);
                self.at(at, Action::PowerCutAtDisk { host, operations, outage_ms: length });
            }
            3 => {
                self.at(at, Action::Pause { host, paused: true });
                self.at(at + length, Action::Pause { host, paused: false });
            }
            4 => self.isolate(host, at, length),
            5 => self.one_way(at, length),
            6 => self.halves(at, length),
            7 => {
                let pace_us = 20_000 + self.random.below(800_000);
                self.at(at, Action::SlowDisk { host, pace_us });
                self.at(at + length, Action::SlowDisk { host, pace_us: 1_000 });
            }
            8 => {
                let quality = Quality {
                    latency_max_us: 1_000 + self.random.below(60_000),
                    loss_permille: self.random.below(200),
                    spike_permille: self.random.below(50),
                    spike_max_us: 400_000,
                    ..self.plan.quality
                };
                self.at(at, Action::Quality(quality));
                self.at(at + length, Action::Quality(self.plan.quality));
            }
            9 => {
                let size = 10_u64.pow(2 + u32::try_from(self.random.below(5)).unwrap_or(0));
                let size = i64::try_from(1 + self.random.below(size)).unwrap_or(1);
                let offset_ms = if self.random.below(2) == 0 { size } else { -size };
                self.at(at, Action::ClockJump { host, offset_ms });
            }
            10 => {
                let rate = 900 + self.random.below(200);
                self.at(at, Action::ClockRate { host, rate });
                self.at(at + length, Action::ClockRate { host, rate: super::host::RATE_TRUE });
            }
            11 => {
                self.at(at, Action::ShutDoor { host, shut: true });
                self.at(at + length, Action::ShutDoor { host, shut: false });
            }
            12 => {
                let pace_us = 10_000 + self.random.below(1_000_000);
                self.at(at, Action::SlowApply { host, pace_us });
                self.at(at + length, Action::SlowApply { host, pace_us: 0 });
            }
            // So long that the others have let go of the log that it lacks.
            13 => self.isolate(host, at, 2_500 + length),
            _ => self.at(at, Action::PowerCutAll { outage_ms: 50 + length / 4 }),
        }
    }

    fn cut(&mut self, at: u64, length: u64, from: HostId, to: HostId) {
        self.at(at, Action::Cut { from, to, cut: true });
        self.at(at + length, Action::Cut { from, to, cut: false });
    }

    fn isolate(&mut self, host: HostId, at: u64, length: u64) {
        for other in (1..=self.hosts).filter(|other| *other != host) {
            self.cut(at, length, host, other);
            self.cut(at, length, other, host);
        }
    }

    fn one_way(&mut self, at: u64, length: u64) {
        let (from, to) = (self.host(), self.host());
        if from == to {
            // All of one host's packets are lost, and it hears everybody.
            for other in (1..=self.hosts).filter(|other| *other != from) {
                self.cut(at, length, from, other);
            }
        } else {
            self.cut(at, length, from, to);
        }
    }

    fn halves(&mut self, at: u64, length: u64) {
        let side: Vec<bool> = (0..self.hosts).map(|_| self.random.below(2) == 0).collect();
        for from in 1..=self.hosts {
            for to in 1..=self.hosts {
                let index = |host: HostId| usize::try_from(host - 1).unwrap_or(0);
                if side[index(from)] != side[index(to)] {
                    self.cut(at, length, from, to);
                }
            }
        }
    }
}

/// How many kinds of faults there are.
const KINDS: u64 = 15;
