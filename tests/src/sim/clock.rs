//! Time: the world's, and what each host's wall clock makes of it.

use keelstone_server::replica::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// When the world begins, in milliseconds since the Unix epoch.
const BEGIN_MS: u64 = 1_800_000_000_000;

/// The time of the world, which only it moves. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct WorldTime {
    us: Arc<AtomicU64>,
}

impl WorldTime {
    /// Microseconds since the world began.
    pub fn now_us(&self) -> u64 {
        self.us.load(Ordering::Relaxed)
    }

    /// Milliseconds since the world began.
    pub fn now_ms(&self) -> u64 {
        self.now_us() / 1000
    }

    /// Moves it.
    pub fn set_us(&self, us: u64) {
        self.us.store(us, Ordering::Relaxed);
    }
}

/// A host's wall clock, which may be wrong. Clones share it.
#[derive(Clone, Debug)]
pub struct WallClock {
    world: WorldTime,
    offset_ms: Arc<AtomicI64>,
}

impl WallClock {
    /// One that is right.
    pub fn new(world: WorldTime) -> Self {
        Self { world, offset_ms: Arc::default() }
    }

    /// Sets by how much it is wrong, in milliseconds.
    pub fn set_offset_ms(&self, offset_ms: i64) {
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
    }
}

impl Clock for WallClock {
    fn now_ms(&self) -> u64 {
        let offset = self.offset_ms.load(Ordering::Relaxed);
        (BEGIN_MS + self.world.now_ms()).saturating_add_signed(offset)
    }
}
