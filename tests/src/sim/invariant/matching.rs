//! Log matching: an index and a term name one entry, and all before it.
//!
//! Source: Raft, figure 3, "Log Matching"; section 5.3.

use super::Invariant;
use crate::sim::look::{Look, NodeLook};
use keelstone_store::disk::LogId;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher as _};

/// A fingerprint that is the same in every run.
pub(super) fn print(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// See the module.
#[derive(Default)]
pub(super) struct LogMatching {
    /// By index and term: the fingerprint, and the term of the entry before.
    entries: BTreeMap<(u64, u64), (u64, Option<u64>)>,
    /// By node: where its log ended when it was looked at.
    looked: BTreeMap<u64, LogId>,
    inputs: u64,
}

impl LogMatching {
    fn compare(&mut self, node: &NodeLook, last: LogId) -> Result<(), String> {
        let from = self.looked.get(&node.node).map_or(0, |looked| looked.index);
        let committed = node.now.committed.map_or(0, |id| id.index);
        // What is committed is looked at elsewhere; a log that was cut is read
        // again from there on.
        let from = from.min(committed).max(committed.saturating_sub(1));
        let entries = node.entries(from, last.index + 1)?;
        let mut before: Option<u64> = None;
        for entry in entries {
            self.inputs += 1;
            let found = print(&entry.payload);
            let key = (entry.id.index, entry.id.term);
            let known = self.entries.entry(key).or_insert((found, before));
            if known.1.is_none() {
                known.1 = before;
            }
            let chained = before.is_none() || known.1 == before;
            if known.0 != found || !chained {
                return Err(format!("node {} has another entry {:?}", node.node, entry.id));
            }
            before = Some(entry.id.term);
        }
        Ok(())
    }
}

impl Invariant for LogMatching {
    fn name(&self) -> &'static str {
        "log matching"
    }

    fn look(&mut self, look: &Look) -> Result<(), String> {
        for node in &look.nodes {
            let Some(last) = node.now.last else { continue };
            if self.looked.get(&node.node) != Some(&last) {
                self.compare(node, last)?;
                self.looked.insert(node.node, last);
            }
        }
        Ok(())
    }

    fn inputs(&self) -> u64 {
        self.inputs
    }
}
