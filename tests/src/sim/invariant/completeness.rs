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
    /// By index: what some node knew to be committed.
    committed: BTreeMap<u64, Committed>,
    /// By host and life: up to where its committed entries were taken.
    taken: BTreeMap<(u64, u64), u64>,
    /// Leaders that were looked at, by node and term.
    looked: BTreeMap<(u64, u64), ()>,
    inputs: u64,
}

/// A committed entry.
struct Committed {
    /// Its term.
    term: u64,
    print: u64,
    /// The term of the node that first told: it was committed then or before.
    /// An entry can be older than that by terms: the leader of a term between
    /// them, which may think that it leads when it starts again, need not have
    /// it.
    by: u64,
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
        let by = node.now.vote.map_or(0, |vote| vote.term);
        for entry in entries {
            let known = Committed { term: entry.id.term, print: print(&entry.payload), by };
            self.committed.entry(entry.id.index).or_insert(known);
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
        for (index, committed) in self.committed.range(from..) {
            self.inputs += 1;
            let present = own.get(index) == Some(&(committed.term, committed.print));
            if committed.by < term && !present {
                return Err(format!(
                    "node {} leads term {term} without entry {index} of term {}, committed by term {}",
                    node.node, committed.term, committed.by
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
