//! Equal states: replicas that have applied the same entries have the same
//! state.
//!
//! Source: the state machine approach (Schneider 1990), and the hash chain of
//! `keelstone_store::machine`.

use super::Invariant;
use crate::sim::look::Look;
use std::collections::BTreeMap;

/// See the module.
#[derive(Default)]
pub(super) struct EqualStates {
    /// By applied index: hash, what there is besides keys, and revision; and who
    /// had it first.
    seen: BTreeMap<u64, (([u8; 32], u64, u64), u64)>,
    inputs: u64,
}

impl Invariant for EqualStates {
    fn name(&self) -> &'static str {
        "equal states"
    }

    fn look(&mut self, look: &Look) -> Result<(), String> {
        for node in &look.nodes {
            let Some(applied) = node.applied else { continue };
            let found = (node.hash, node.aside, node.revision.get());
            let (known, first) = *self.seen.entry(applied.index).or_insert((found, node.node));
            self.inputs += u64::from(first != node.node);
            if known == found {
                continue;
            }
            let what = if known.0 == found.0 { "leases or sessions" } else { "states" };
            return Err(format!(
                "after entry {} nodes {first} and {} have different {what} (revisions {} and {})",
                applied.index, node.node, known.2, found.2
            ));
        }
        Ok(())
    }

    fn inputs(&self) -> u64 {
        self.inputs
    }
}
