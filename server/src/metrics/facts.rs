//! What is known of a node besides its core: where samples, status and
//! readiness get it from.

use super::{Process, Sample};
use crate::core::{Consistency, Core};
use crate::tls::Tls;
use keelstone_store::disk::log::LogStats;
use keelstone_store::machine::View as _;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A local read needs no quorum; this bounds one on a node that is stopping.
const LOCAL_READ: Duration = Duration::from_secs(1);

/// A question that is answered at once.
pub type Ask<T> = Arc<dyn Fn() -> T + Send + Sync>;

/// Where to ask for the facts of a node. All answers are cheap.
#[derive(Clone)]
pub struct Facts {
    /// The state engine's name.
    pub engine: &'static str,
    /// Bytes of state on disk.
    pub state_bytes: Ask<u64>,
    /// Moments of the state that reads hold, the newest included.
    pub state_moments: Ask<u64>,
    /// What the write-ahead log has done.
    pub log: Ask<LogStats>,
    /// Bytes left on the data directory's disk.
    pub disk_free_bytes: Ask<u64>,
    /// Bytes there below which writes are refused.
    pub disk_reserve_bytes: u64,
    /// The node's certificates.
    pub tls: Option<Arc<Tls>>,
    /// Why the node is not ready, besides what the core and the disk say, such
    /// as a recovery that is under way.
    pub unready: Ask<Vec<String>>,
}

impl Facts {
    /// Of a node in memory: nothing on disk, no certificates.
    pub fn of_memory() -> Self {
        Self {
            engine: "memory",
            state_bytes: Arc::new(|| 0),
            state_moments: Arc::new(|| 1),
            log: Arc::new(LogStats::default),
            disk_free_bytes: Arc::new(|| u64::MAX),
            disk_reserve_bytes: 0,
            tls: None,
            unready: Arc::new(Vec::new),
        }
    }

    /// What an operator should know.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.tls.as_ref().map(|tls| tls.problems()).unwrap_or_default();
        problems.extend((self.log)().space_problem);
        problems.extend(self.disk_problem());
        problems
    }

    /// Why the node should get no requests now. Empty: it is ready.
    pub fn unready(&self, core: &dyn Core) -> Vec<String> {
        let mut reasons = (self.unready)();
        if core.status().leader.is_none() {
            reasons.push("no leader is known".to_owned());
        }
        reasons.extend(self.disk_problem());
        reasons
    }

    fn disk_problem(&self) -> Option<String> {
        let (free, reserve) = ((self.disk_free_bytes)(), self.disk_reserve_bytes);
        (free < reserve).then(|| {
            format!("the disk has {free} bytes left, less than the reserve of {reserve}: writes are refused")
        })
    }

    /// How the node is now.
    pub async fn sample(&self, core: &dyn Core) -> Sample {
        let mut sample = Sample {
            status: core.status(),
            node_id: core.identity().node_id,
            log: (self.log)(),
            state_bytes: (self.state_bytes)(),
            state_moments: (self.state_moments)(),
            disk_free_bytes: (self.disk_free_bytes)(),
            disk_reserve_bytes: self.disk_reserve_bytes,
            certificates_expire: self.tls.as_ref().map(|tls| tls.expires()).unwrap_or_default(),
            process: Process::read(),
            ..Sample::default()
        };
        let deadline = Instant::now() + LOCAL_READ;
        if let Ok(view) = core.read(Consistency::Serializable, deadline).await {
            let head = view.head();
            sample.revision = head.revision.get();
            sample.compacted = head.compacted.get();
            sample.transitions = head.transitions;
            (sample.leases, sample.sessions) = (head.leases, head.sessions);
            sample.time_ms = head.now.0;
        }
        sample
    }
}

impl fmt::Debug for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Facts").field("engine", &self.engine).finish_non_exhaustive()
    }
}
