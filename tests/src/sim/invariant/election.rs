//! Election safety: at most one leader in a term, and one vote of each node.
//!
//! Source: Raft (Ongaro and Ousterhout 2014), figure 3, "Election Safety"; and
//! section 5.2: a server votes for at most one candidate in a term.

use super::Invariant;
use crate::sim::look::Look;
use std::collections::BTreeMap;

/// See the module.
#[derive(Default)]
pub(super) struct ElectionSafety {
    leaders: BTreeMap<u64, u64>,
    votes: BTreeMap<(u64, u64), u64>,
    /// Durable votes only: one that was lost with the power was told nobody.
    inputs: u64,
}

impl Invariant for ElectionSafety {
    fn name(&self) -> &'static str {
        "election safety"
    }

    fn look(&mut self, look: &Look) -> Result<(), String> {
        for node in look.nodes.iter().filter(|node| node.durable) {
            let Some(vote) = node.now.vote else { continue };
            if vote.committed {
                let leader = *self.leaders.entry(vote.term).or_insert_with(|| {
                    self.inputs += 1;
                    vote.node
                });
                if leader != vote.node {
                    return Err(format!(
                        "term {} has the leaders {leader} and {} (node {} follows the second)",
                        vote.term, vote.node, node.node
                    ));
                }
                continue;
            }
            let candidate = *self.votes.entry((node.node, vote.term)).or_insert(vote.node);
            if candidate != vote.node {
                return Err(format!(
                    "node {} voted for {candidate} and for {} in term {}",
                    node.node, vote.node, vote.term
                ));
            }
        }
        Ok(())
    }

    fn inputs(&self) -> u64 {
        self.inputs
    }
}
