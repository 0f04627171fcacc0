//! What the world sees of the nodes at one moment.

use super::HostId;
use keelstone_server::replica::Replica;
use keelstone_store::disk::LogId;
use keelstone_store::disk::log::{Log, LogEntry, Recovered};
use keelstone_store::machine::View as _;
use keelstone_store::state::StateView;
use keelstone_store::{Millis, Revision};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

/// A node at a moment.
#[derive(Clone)]
pub struct NodeLook {
    /// Its host.
    pub host: HostId,
    /// Its id in the cluster.
    pub node: u64,
    /// Counts the lives of the host.
    pub life: u64,
    /// Its log.
    pub log: Log,
    /// Where the log stands, with all that is queued.
    pub now: Recovered,
    /// Whether all of that is durable.
    pub durable: bool,
    /// The last entry that its state contains.
    pub applied: Option<LogId>,
    /// The hash of its state there.
    pub hash: [u8; 32],
    /// What it holds besides keys, as a number: leases with their keys, and
    /// sessions with the replies that are remembered.
    pub aside: u64,
    /// The store's revision there.
    pub revision: Revision,
    /// The oldest revision that can be read there.
    pub compacted: Revision,
}

/// See [`NodeLook::aside`]. The hash of the state tells what was applied; this
/// tells what came with a snapshot.
fn aside(view: &StateView) -> Option<u64> {
    const MANY: usize = 10_000;
    let end = Millis(u64::MAX);
    let mut hasher = DefaultHasher::new();
    for lease in view.expiring_leases(end, MANY).ok()? {
        (lease.id.0, lease.ttl_ms, lease.expires.0).hash(&mut hasher);
        for key in view.lease_keys(lease.id).ok()? {
            key.as_bytes().hash(&mut hasher);
        }
    }
    for session in view.expiring_sessions(end, MANY).ok()? {
        (session.id.0, session.expires.0, session.forgotten_below).hash(&mut hasher);
        for sequence in session.forgotten_below..=session.newest {
            let reply = view.session_reply(session.id, sequence).ok()?;
            format!("{reply:?}").hash(&mut hasher);
        }
    }
    Some(hasher.finish())
}

/// All nodes that take part, at a moment.
pub struct Look {
    /// By host.
    pub nodes: Vec<NodeLook>,
}

impl NodeLook {
    /// What a replica shows; `before` is what it showed last, and is returned if
    /// nothing has changed. `None` if its state cannot be read.
    pub fn of(
        host: HostId,
        life: u64,
        replica: &Arc<Replica>,
        before: Option<&Self>,
    ) -> Option<Self> {
        use keelstone_server::core::Core as _;
        let now = replica.log().recovered();
        let durable = replica.log().stats().backlog_bytes == 0;
        let view = replica.state().view().ok()?;
        let head = view.head();
        let same = |it: &&Self| {
            it.now == now && it.hash == head.hash && it.durable == durable && it.life == life
        };
        if let Some(before) = before.filter(same) {
            return Some(before.clone());
        }
        Some(Self {
            host,
            node: replica.identity().node_id,
            life,
            now,
            durable,
            log: replica.log().clone(),
            applied: view.applied().id,
            hash: head.hash,
            aside: aside(&view)?,
            revision: head.revision,
            compacted: head.compacted,
        })
    }

    /// What of it belongs into the trace.
    pub fn line(&self) -> String {
        let vote = self.now.vote.map(|vote| (vote.term, vote.node, vote.committed));
        format!(
            "n{} vote {vote:?} last {:?} committed {:?} applied {:?} purged {:?} hash {:02x?}",
            self.host,
            self.now.last.map(|id| (id.term, id.index)),
            self.now.committed.map(|id| id.index),
            self.applied.map(|id| id.index),
            self.now.purged.map(|id| id.index),
            &self.hash[..4],
        )
    }

    /// The entries from `from` to before `until` that its log has.
    ///
    /// # Errors
    ///
    /// Says why they cannot be read.
    pub fn entries(&self, from: u64, until: u64) -> Result<Vec<LogEntry>, String> {
        let mut entries: Vec<LogEntry> = Vec::new();
        loop {
            let next = entries.last().map_or(from, |entry| entry.id.index + 1);
            let read = self.log.read(next, until, usize::MAX);
            let read = read.map_err(|error| format!("node {}: {error}", self.node))?;
            if read.is_empty() {
                return Ok(entries);
            }
            entries.extend(read);
        }
    }

    /// Whether it knows itself to be the leader of its term.
    pub fn leads(&self) -> Option<u64> {
        let vote = self.now.vote.filter(|vote| vote.committed && vote.node == self.node)?;
        Some(vote.term)
    }
}
