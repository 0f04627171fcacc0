//! The deterministic simulation: a whole cluster in one process, by seed.
//!
//! The server's own code runs on simulated machines: their time, their network
//! and their disks are data that the world moves and breaks as the seed says.
//! Equal seeds make equal runs, so whatever is found can be looked at again.
//!
//! | file | what |
//! |---|---|
//! | `plan` | what a run will be like, drawn from the seed |
//! | `nemesis` | what goes wrong and when, as data, drawn from the seed |
//! | `world` | the machines, their time, and the order in which they live |
//! | `host`, `net`, `disk`, `clock` | what a machine is made of |
//! | `node`, `door` | the server on a machine, and how clients reach it |
//! | `client` | what clients do, and the history of it |
//! | `look`, `invariant` | what must always hold of the nodes, a file for each |
//! | `promise` | what clients are promised, a file for each |
//! | `run`, `trace` | a run from forming to its verdict, and its fingerprint |
//!
//! What is not here: gRPC of clients, TLS, real files and engines. Those are
//! tested on real processes.

pub mod client;
pub mod clock;
pub mod disk;
pub mod door;
pub mod host;
pub mod invariant;
pub mod look;
pub mod nemesis;
pub mod net;
pub mod node;
pub mod panics;
pub mod plan;
pub mod promise;
pub mod run;
pub mod trace;
pub mod world;

pub use clock::{WallClock, WorldTime};
pub use plan::{Clients, Plan};
pub use run::{Report, Verdict, run};
pub use trace::Trace;

/// A simulated machine. Initial members have the ids of their hosts.
pub type HostId = u64;

/// Where the randomness of clients' errands begins.
const SEED_OF_ERRANDS: u64 = 0x5EED_0E88_A4D5;

/// Something that must never be was seen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{invariant}: {text}")]
pub struct Violation {
    /// Which rule.
    pub invariant: &'static str,
    /// What was seen.
    pub text: String,
}

impl Violation {
    fn new(invariant: &'static str, text: impl Into<String>) -> Self {
        Self { invariant, text: text.into() }
    }
}
