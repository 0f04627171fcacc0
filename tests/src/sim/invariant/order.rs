//! The positions of a node are in order and do not go back in one life: purged,
//! applied, committed, last; and the store's revision.
//!
//! Source: Raft, figure 2 ("increases monotonically"); etcd issues 16693 and
//! 17780, where the revision went back.

use super::Invariant;
use crate::sim::look::Look;
use std::collections::BTreeMap;

/// See the module.
#[derive(Default)]
pub(super) struct Order {
    /// By host and life: applied index and revision.
    reached: BTreeMap<(u64, u64), (u64, u64)>,
    inputs: u64,
}

impl Invariant for Order {
    fn name(&self) -> &'static str {
        "positions in order"
    }

    fn look(&mut self, look: &Look) -> Result<(), String> {
        for node in &look.nodes {
            let index = |id: Option<keelstone_store::disk::LogId>| id.map_or(0, |id| id.index);
            let (purged, applied) = (index(node.now.purged), index(node.applied));
            if purged > applied {
                let node = node.node;
                return Err(format!("node {node} purged up to {purged} and applied {applied}"));
            }
            let reached = self.reached.entry((node.host, node.life)).or_default();
            let now = (applied, node.revision.get());
            if now.0 < reached.0 || now.1 < reached.1 {
                return Err(format!(
                    "node {}: applied and revision went from {reached:?} to {now:?}",
                    node.node
                ));
            }
            self.inputs += u64::from(now != *reached);
            *reached = now;
        }
        Ok(())
    }

    fn inputs(&self) -> u64 {
        self.inputs
    }
}
