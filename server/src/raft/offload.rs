//! Work that would hold up other tasks: disk syncs and long batches.
//!
//! In the simulation everything runs where it is called, since there are no
//! threads and no real disks.

#[cfg(not(feature = "simulation"))]
use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs `work` on a thread for blocking work.
#[cfg(not(feature = "simulation"))]
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only when the runtime is being torn down: nobody is left to see.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}

/// Runs `work` here, after moving other tasks to another thread if possible.
#[cfg(not(feature = "simulation"))]
pub(crate) fn in_place<T>(work: impl FnOnce() -> T) -> T {
    if Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

/// Runs `work` at once.
#[cfg(feature = "simulation")]
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    work()
}

/// Runs `work` at once.
#[cfg(feature = "simulation")]
pub(crate) fn in_place<T>(work: impl FnOnce() -> T) -> T {
    work()
}
