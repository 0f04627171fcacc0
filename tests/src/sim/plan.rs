//! What a run will be like, as data: drawn from the seed before it begins.

use super::door::Way;
use super::net::Quality;
use crate::durability::Random;
use keelstone_server::replica::Timing;
use std::time::Duration;

/// How a run is set up.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What everything follows from.
    pub seed: u64,
    /// Initial members.
    pub members: u64,
    /// Hosts beside them, that may be added.
    pub spares: u64,
    /// Milliseconds that a host lives at a time.
    pub tick_ms: u64,
    /// How long faults happen, in milliseconds.
    pub faults_ms: u64,
    /// How long the cluster may take to be well again, in milliseconds.
    pub liveness_ms: u64,
    /// Timing of consensus.
    pub timing: Timing,
    /// The network while nothing is wrong with it.
    pub quality: Quality,
    /// The way of clients.
    pub way: Way,
    /// Entries after which a checkpoint is taken.
    pub checkpoint_entries: u64,
    /// Entries that are kept behind one.
    pub keep_log_entries: u64,
    /// Bytes of a log segment.
    pub segment_bytes: u64,
    /// Bytes of recent entries in memory.
    pub tail_bytes_max: usize,
    /// Bytes of recent changes in memory.
    pub changes_bytes: usize,
    /// How long history is kept; zero: always.
    pub history_max: Duration,
    /// Clients of each kind.
    pub clients: Clients,
    /// Whether members and leaders are changed meanwhile.
    pub operator: bool,
    /// Whether chance of faults is drawn at all.
    pub faults: bool,
}

/// How many clients do what.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clients {
    /// Of raw keys.
    pub keys: u64,
    /// Watchers.
    pub watchers: u64,
    /// Holders of leases.
    pub leases: u64,
    /// Retried writes of a session.
    pub counters: u64,
    /// Contenders for a lock.
    pub locks: u64,
    /// Patches of one document.
    pub entities: u64,
}

fn pick<T: Copy>(random: &mut Random, choices: &[T]) -> T {
    choices[random.below_usize(choices.len())]
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let random = &mut Random::of(seed, 1);
        let members = pick(random, &[3, 3, 3, 5]);
        let fast = random.below(3) == 0;
        let ms = Duration::from_millis;
        let timing = Timing {
            heartbeat_interval: if fast { ms(50) } else { ms(100) },
            election_timeout_min: if fast { ms(150) } else { ms(300) },
            election_timeout_max: if fast { ms(300) } else { ms(600) },
            snapshot_timeout: ms(5_000),
            // States are small here; sending one takes a while all the same.
            snapshot_bytes_per_second: 256 * 1024,
        };
        let quality = Quality {
            latency_min_us: 1_000,
            latency_max_us: pick(random, &[1_000, 2_000, 5_000, 15_000]),
            loss_permille: pick(random, &[0, 0, 1, 5]),
            spike_permille: pick(random, &[0, 0, 5]),
            spike_max_us: 80_000,
        };
        let way = Way {
            latency_max_us: 3_000,
            loss_permille: pick(random, &[0, 5, 20]),
            answer_loss_permille: pick(random, &[0, 5, 30]),
        };
        let clients = Clients {
            keys: pick(random, &[3, 5, 8]),
            watchers: pick(random, &[1, 2, 3]),
            leases: pick(random, &[1, 2]),
            counters: pick(random, &[1, 2]),
            locks: pick(random, &[0, 2]),
            entities: pick(random, &[0, 2]),
        };
        Self {
            seed,
            members,
            spares: if members == 3 { pick(random, &[0, 1, 2]) } else { 0 },
            tick_ms: pick(random, &[1, 2, 2]),
            faults_ms: pick(random, &[5_000, 7_000, 9_000]),
            liveness_ms: 20_000,
            timing,
            quality,
            way,
            checkpoint_entries: pick(random, &[10, 10, 50, 200]),
            keep_log_entries: pick(random, &[1, 1, 10, 50]),
            segment_bytes: pick(random, &[16 * 1024, 32 * 1024]),
            tail_bytes_max: pick(random, &[0, 2 * 1024, 64 * 1024]),
            changes_bytes: pick(random, &[1024, 8 * 1024, 1024 * 1024]),
            history_max: pick(random, &[Duration::ZERO, ms(1_000), ms(4_000)]),
            clients,
            operator: random.below(2) == 0,
            faults: true,
        }
    }

    /// A quiet run: three nodes, one client, nothing goes wrong.
    pub fn quiet(seed: u64) -> Self {
        let plan = Self::of(seed);
        Self {
            members: 3,
            spares: 0,
            faults_ms: 2_000,
            quality: Quality::GOOD,
            way: Way { loss_permille: 0, answer_loss_permille: 0, ..plan.way },
            operator: false,
            faults: false,
            ..plan
        }
    }
}
