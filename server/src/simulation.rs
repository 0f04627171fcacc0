//! The door for the deterministic simulation: where randomness begins.
//!
//! Consensus tasks draw from a seed that is handed down from the task that
//! spawns them. What the simulation starts has no such parent: it begins here.
//! Nothing of this is compiled into a server.

use std::future::Future;

/// Runs `task` with randomness that begins with `seed`.
pub async fn scope<F: Future>(seed: u64, task: F) -> F::Output {
    crate::raft::enter(seed, task).await
}
