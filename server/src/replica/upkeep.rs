//! What a replica does without being asked.
//!
//! | task | where | what |
//! |---|---|---|
//! | expiry | leader | ends leases and sessions whose time is over |
//! | stamps | leader | lets replicated time pass while there are leases |
//! | history | leader | forgets history that is older than `history_max` |
//! | checkpoints | every node | makes the state durable, lets old log go |
//! | compaction | every node | removes forgotten history from the disk |
//! | space | every node | looks at the disk |
//! | features | leader | raises the feature level when all members know a higher one |
//!
//! An idle cluster writes nothing: an entry is proposed only if something
//! expires or may be forgotten.

use super::running::Replica;
use super::settings::FEATURE_LEVEL;
use crate::raft::{Keep, blocking, spawn};
use keelstone_proto::peer;
use keelstone_store::limits::{LEASE_EXPIRE_MAX, SESSION_EXPIRE_MAX};
use keelstone_store::machine::{Command, Envelope, View as _, codec};
use keelstone_store::state::StateError;
use keelstone_store::{Millis, Revision};
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often expiry is looked at.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(250);
/// How long replicated time may stand still while there are leases.
const STAMP_INTERVAL: Duration = Duration::from_secs(5);
/// How often checkpoints are considered.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// How many times its usual size the log may grow to for the receivers of
/// snapshots.
const HELD_FACTOR: u64 = 16;
/// How often the disk is looked at.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);
/// How often the feature level is looked at.
const FEATURES_INTERVAL: Duration = Duration::from_secs(1);
/// How long a member may take to say what it knows.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Rows of history removed in one step.
const COMPACT_ROWS: usize = 1000;
/// The pause between two steps.
const COMPACT_PAUSE: Duration = Duration::from_millis(5);
/// The pause when there is nothing to remove.
const COMPACT_IDLE: Duration = Duration::from_secs(1);
/// Marks in the history of revisions; their distance follows from it.
const HISTORY_MARKS: u32 = 60;
/// How long a proposal of this file may take.
const PROPOSAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts all tasks. They end when the replica stops.
pub(super) fn start(replica: &Arc<Replica>) {
    run(replica, expiry);
    run(replica, history);
    run(replica, checkpoints);
    run(replica, compaction);
    run(replica, space);
    run(replica, features);
}

fn run<F: Future<Output = ()> + Send + 'static>(
    replica: &Arc<Replica>,
    task: fn(Arc<Replica>) -> F,
) {
    let (replica, stop) = (Arc::clone(replica), replica.parts.tokens.stop.clone());
    spawn(async move {
        tokio::select! {
            () = task(replica) => {}
            () = stop.cancelled() => {}
        }
    });
}

async fn space(replica: Arc<Replica>) {
    let mut refused = false;
    loop {
        tokio::time::sleep(SPACE_INTERVAL).await;
        replica.space.look();
        let problem = replica.space.problem();
        if problem.is_some() != refused {
            refused = problem.is_some();
            if let Some(problem) = problem {
                tracing::error!(problem);
            } else {
                tracing::info!("the disk has room again: writes are accepted");
            }
        }
    }
}

/// Waits until there is nothing to do unless this node leads.
async fn until_leading(replica: &Replica) {
    let mut leadership = replica.leadership.clone();
    // An error means that consensus is gone, and this task with it.
    if leadership.wait_for(crate::raft::Leadership::leads).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn expiry(replica: Arc<Replica>) {
    let mut stamped = Instant::now();
    loop {
        until_leading(&replica).await;
        tokio::time::sleep(EXPIRY_INTERVAL).await;
        let due = due(&replica);
        let commands = match due {
            Ok(commands) => commands,
            Err(error) => {
                replica.parts.failures.report(&error.to_string());
                return;
            }
        };
        for command in &commands.expired {
            propose(&replica, command).await;
        }
        if commands.stamp && stamped.elapsed() >= STAMP_INTERVAL {
            stamped = Instant::now();
            // An empty batch carries the time alone.
            let now = Millis(replica.parts.pace.now_ms());
            let batch = codec::encode_batch(now, &[]);
            if let Ok(written) = replica.parts.consensus.write(&batch).await {
                // The leader was lost, or it stops: its successor goes on.
                drop(written.await);
            }
        }
    }
}

/// What the leader has to propose because time has passed.
#[derive(Default)]
struct Due {
    expired: Vec<Command>,
    /// There are leases, and replicated time stands still.
    stamp: bool,
}

fn due(replica: &Replica) -> Result<Due, StateError> {
    let view = replica.parts.state.view()?;
    let head = view.head();
    let now = head.now.max(Millis(replica.parts.pace.now_ms()));
    let mut due = Due::default();
    if head.leases > 0 {
        let leases = view.expiring_leases(now, LEASE_EXPIRE_MAX)?;
        let late = now.0.saturating_sub(head.now.0);
        due.stamp = u128::from(late) >= STAMP_INTERVAL.as_millis();
        if !leases.is_empty() {
            let leases = leases.iter().map(|lease| (lease.id, lease.expires)).collect();
            due.expired.push(Command::LeaseExpire { leases });
        }
    }
    if head.sessions > 0 {
        let sessions = view.expiring_sessions(now, SESSION_EXPIRE_MAX)?;
        if !sessions.is_empty() {
            let sessions = sessions.iter().map(|session| (session.id, session.expires)).collect();
            due.expired.push(Command::SessionExpire { sessions });
        }
    }
    Ok(due)
}

/// Proposes a command of the leader's own. What fails is tried again at the
/// next look.
async fn propose(replica: &Replica, command: &Command) {
    let envelope = Envelope { write_id: None, command: command.clone() };
    let deadline = Instant::now() + PROPOSAL_TIMEOUT;
    if let Err(error) = replica.propose_envelope(&envelope, deadline).await {
        tracing::debug!(command = command.name(), %error, "not proposed");
    }
}

/// Every node notes which revision it was when, so that each leader knows.
async fn history(replica: Arc<Replica>) {
    let history_max = replica.parts.settings.history_max;
    if history_max.is_zero() {
        return;
    }
    let interval = (history_max / HISTORY_MARKS).max(Duration::from_millis(10));
    let mut marks: VecDeque<(Instant, Revision)> = VecDeque::new();
    loop {
        tokio::time::sleep(interval).await;
        let now = Instant::now();
        marks.push_back((now, replica.parts.progress.position().revision));
        let mut old = None;
        while let Some((at, revision)) = marks.front() {
            if now.duration_since(*at) < history_max {
                break;
            }
            old = Some(*revision);
            marks.pop_front();
        }
        let Some(revision) = old else { continue };
        if !replica.leadership.borrow().leads() {
            continue;
        }
        let compacted = match replica.parts.state.view() {
            Ok(view) => view.head().compacted,
            Err(_) => continue,
        };
        if revision > compacted {
            propose(&replica, &Command::Compact { revision }).await;
        }
    }
}

async fn features(replica: Arc<Replica>) {
    loop {
        until_leading(&replica).await;
        tokio::time::sleep(FEATURES_INTERVAL).await;
        // No view is held: the engine would keep all that comes after it.
        let Ok(level) = replica.parts.state.view().map(|view| view.head().feature_level) else {
            continue;
        };
        if level >= FEATURE_LEVEL {
            // It is not lowered, and this process does not learn a higher one.
            return;
        }
        if all_know(&replica, FEATURE_LEVEL).await {
            propose(&replica, &Command::FeatureLevel { level: FEATURE_LEVEL }).await;
        }
    }
}

/// Whether all members say that they know a level of features.
async fn all_know(replica: &Replica, level: u32) -> bool {
    let members = Arc::clone(&replica.leadership.borrow().members);
    for member in members.all.values().filter(|member| member.id != replica.node_id()) {
        let request = peer::IdentifyRequest { from: replica.node_id(), ..Default::default() };
        let address = &member.peer_address;
        match replica.parts.calls.identify(address, request, ASK_TIMEOUT).await {
            Ok(response) if response.feature_level >= level => {}
            Ok(_) | Err(_) => return false,
        }
    }
    true
}

async fn checkpoints(replica: Arc<Replica>) {
    let parts = &replica.parts;
    let settings = &parts.settings;
    let mut bytes = parts.consensus.log_written_bytes();
    let mut index = parts.progress.position().index.unwrap_or(0);
    loop {
        tokio::time::sleep(CHECKPOINT_INTERVAL).await;
        let (written, applied) =
            (parts.consensus.log_written_bytes(), parts.progress.position().index.unwrap_or(0));
        let due = written.saturating_sub(bytes) >= settings.checkpoint_bytes
            || applied.saturating_sub(index) >= settings.checkpoint_entries;
        if due && parts.consensus.checkpoint().await.is_ok() {
            (bytes, index) = (written, applied);
        }
        // What was made durable by an earlier checkpoint.
        drop(parts.consensus.purge(kept(&replica)).await);
    }
}

fn kept(replica: &Replica) -> Keep {
    let settings = &replica.parts.settings;
    let (bytes, entries) = (settings.keep_log_bytes, settings.keep_log_entries);
    let (free, reserve) = replica.space.bytes();
    // A member that has to begin anew is better than writes that are refused.
    let factor = if free < reserve.saturating_mul(2) { 0 } else { HELD_FACTOR };
    Keep { bytes, entries, held_bytes_max: bytes.saturating_mul(factor) }
}

async fn compaction(replica: Arc<Replica>) {
    loop {
        let state = Arc::clone(&replica.parts.state);
        match blocking(move || state.compact_step(COMPACT_ROWS)).await {
            Ok(true) => tokio::time::sleep(COMPACT_PAUSE).await,
            Ok(false) => tokio::time::sleep(COMPACT_IDLE).await,
            Err(error) => {
                replica.parts.failures.report(&error.to_string());
                return;
            }
        }
    }
}
