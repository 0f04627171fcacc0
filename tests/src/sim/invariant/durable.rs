//! What was durable is there after a crash: the vote, the entries, the purge.
//!
//! Source: Raft, section 5.1 and figure 2, "Persistent state on all servers";
//! a vote or an entry that is forgotten can elect two leaders or lose a commit.

use super::Invariant;
use crate::sim::look::{Look, NodeLook};
use keelstone_store::disk::log::{Recovered, Vote};
use std::collections::BTreeMap;

/// See the module.
#[derive(Default)]
pub(super) struct Durable {
    /// What each node had durably, in which life.
    kept: BTreeMap<u64, (u64, Recovered)>,
    inputs: u64,
}

/// Whether a vote may follow another.
fn follows(before: Vote, after: Vote) -> bool {
    if after.term != before.term {
        return after.term > before.term;
    }
    if after.committed == before.committed { after.node == before.node } else { after.committed }
}

impl Durable {
    fn compare(&self, before: &Recovered, node: &NodeLook, reborn: bool) -> Result<(), String> {
        if let Some(vote) = before.vote
            && node.now.vote.is_none_or(|after| !follows(vote, after))
        {
            return Err(format!("node {}: vote {vote:?} became {:?}", node.node, node.now.vote));
        }
        if before.purged.map(|id| id.index) > node.now.purged.map(|id| id.index) {
            return Err(format!("node {}: the purge went back", node.node));
        }
        // Entries may be replaced by those of a later term, never just vanish.
        let shorter = node.now.last < before.last;
        let same_term = node.now.vote.map(|vote| vote.term) == before.vote.map(|vote| vote.term);
        if shorter && reborn && same_term {
            return Err(format!(
                "node {}: the log ended at {:?} durably, and at {:?} after a crash",
                node.node, before.last, node.now.last
            ));
        }
        Ok(())
    }
}

impl Invariant for Durable {
    fn name(&self) -> &'static str {
        "durable promises"
    }

    fn look(&mut self, look: &Look) -> Result<(), String> {
        for node in &look.nodes {
            if let Some((life, before)) = self.kept.get(&node.node) {
                let reborn = *life != node.life;
                self.inputs += u64::from(reborn);
                self.compare(before, node, reborn)?;
            }
            if node.durable {
                self.kept.insert(node.node, (node.life, node.now));
            }
        }
        Ok(())
    }

    fn inputs(&self) -> u64 {
        self.inputs
    }
}
