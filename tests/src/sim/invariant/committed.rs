//! State machine safety: at an index that is committed there is one entry, on
//! every node and for ever.
//!
//! Source: Raft, figure 3, "State Machine Safety"; section 5.4.3.

use super::Invariant;
use super::matching::print;
use crate::sim::look::{Look, NodeLook};
use std::collections::BTreeMap;

/// See the module.
#[derive(Default)]
pub(super) struct CommittedStays {
    /// By index: term and fingerprint.
    entries: BTreeMap<u64, (u64, u64)>,
    /// By host and life: up to where it was looked at.
    looked: BTreeMap<(u64, u64), u64>,
    inputs: u64,
}

impl CommittedStays {
    fn compare(&mut self, node: &NodeLook, committed: u64) -> Result<(), String> {
        let looked = self.looked.entry((node.host, node.life)).or_default();
        let from = *looked;
        if committed < from {
            return Ok(());
        }
        let entries = node.entries(from, committed + 1)?;
        *looked = committed + 1;
        for entry in entries {
            let found = (entry.id.term, print(&entry.payload));
            let first = *self.entries.entry(entry.id.index).or_insert_with(|| {
                self.inputs += 1;
                found
            });
            if first != found {
                return Err(format!(
                    "entry {} was committed in term {}, node {} has another one of term {}",
                    entry.id.index, first.0, node.node, found.0
                ));
            }
        }
        Ok(())
    }
}

impl Invariant for CommittedStays {
    fn name(&self) -> &'static str {
        "state machine safety"
    }

    fn look(&mut self, look: &Look) -> Result<(), String> {
        for node in &look.nodes {
            if let Some(committed) = node.now.committed {
                // A follower may hear of a commit before it has the entry.
                let last = node.now.last.map_or(0, |id| id.index);
                self.compare(node, committed.index.min(last))?;
            }
        }
        Ok(())
    }

    fn inputs(&self) -> u64 {
        self.inputs
    }
}
