//! Spawning of tasks that use the consensus library.

use std::future::Future;

/// Runs a task in the background. In the simulation it inherits the seed of the
/// task that spawns it.
#[cfg(not(feature = "simulation"))]
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

/// Runs a task in the background with a seed derived from this task's.
#[cfg(feature = "simulation")]
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    use openraft::AsyncRuntime as _;
    drop(super::types::Runtime::spawn(task));
}

/// Runs a call that comes from outside, where no seed was inherited.
#[cfg(not(feature = "simulation"))]
pub(crate) async fn enter<F: Future>(_seed: u64, call: F) -> F::Output {
    call.await
}

/// Runs a call that comes from outside, where no seed was inherited.
#[cfg(feature = "simulation")]
pub(crate) async fn enter<F: Future>(seed: u64, call: F) -> F::Output {
    super::types::Runtime::scope(seed, call).await
}
