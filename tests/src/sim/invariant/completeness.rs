//! Leader completeness: what was committed in a term is in the logs of the
//! leaders of all later terms.
//!
//! Source: Raft, figure 3, "Leader Completeness"; section 5.4.

use super::Invariant;
use super::matching::print;
use crate::sim::look::{Look, NodeLook};
use std::collections::BTreeMap;

/// See the module.
#[derive(Default)]
pub(super) struct LeaderCompleteness {
    /// By index: term and fingerprint of what some node knew to be committed.
    committed: BTreeMap<u64, (u64, u64)>,
    /// By host and life: up to where its committed entries were taken.
    taken: BTreeMap<(u64, u64), u64>,
    /// Leaders that were looked at, by node and term.
    looked: BTreeMap<(u64, u64), ()>,
    inputs: u64,
}

impl LeaderCompleteness {
    fn take(&mut self, node: &NodeLook) -> Result<(), String> {
        let Some(committed) = node.now.committed else { return Ok(()) };
        let until = committed.index.min(node.now.last.map_or(0, |id| id.index)) + 1;
        let taken = self.taken.entry((node.host, node.life)).or_default();
        if until <= *taken {
            return Ok(());
        }
        let entries = node.entries(*taken, until)?;
        *taken = until;
        for entry in entries {
            let print = print(&entry.payload);
            self.committed.entry(entry.id.index).or_insert((entry.id.term, print));
        }
        Ok(())
    }

    fn compare(&mut self, node: &NodeLook, term: u64) -> Result<(), String> {
        let from = node.now.purged.map_or(0, |id| id.index + 1);
        let entries = node.entries(from, u64::MAX)?;
        let own: BTreeMap<u64, (u64, u64)> = entries
            .iter()
            .map(|entry| (entry.id.index, (entry.id.term, print(&entry.payload))))
            .collect();
        for (index, (committed_in, print)) in self.committed.range(from..) {
            self.inputs += 1;
            // The entry's term is at most that of its commit.
            if *committed_in < term && own.get(index) != Some(&(*committed_in, *print)) {
                return Err(format!(
                    "node {} leads term {term} without the committed entry {index} of term {committed_in}",
                    node.node
                ));
            }
        }
        Ok(())
    }
}

impl Invariant for LeaderCompleteness {
    fn name(&self) -> &'static str {
        "leader completeness"
    }

    fn look(&mut self, look: &Look) -> Result<(), String> {
        // Leaders first: what is committed now may be of their own term.
        for node in &look.nodes {
            let Some(term) = node.leads() else { continue };
            if self.looked.insert((node.node, term), ()).is_none() {
                self.compare(node, term)?;
            }
        }
        for node in &look.nodes {
            self.take(node)?;
        }
        Ok(())
    }

    fn inputs(&self) -> u64 {
        self.inputs
    }
}
