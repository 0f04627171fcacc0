//! Threads that step back behind those who serve requests.
//!
//! Buffers are full and files have to be merged on all replicas at about the
//! same moment: on machines with few cores that would hold up requests.

/// Lowers the priority of this thread, and of those that it starts, by `nice`
/// (Linux, sched(7)). Elsewhere, or if the system refuses, it is like all
/// others.
pub(super) fn lower(nice: i32) {
    // None is the calling thread, on Linux; elsewhere it is the process.
    if cfg!(target_os = "linux")
        && let Err(error) = rustix::process::setpriority_process(None, nice)
    {
        tracing::debug!(%error, "the state's threads have the priority of the others");
    }
}
