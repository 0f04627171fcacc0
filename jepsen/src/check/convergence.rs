//! Convergence: replicas that applied as much have the same state (R4, V2).
//!
//! Two samples with the same number of transitions have the same hash, on
//! whichever nodes and whenever. After the last fault, every node that should be
//! there catches up with the most that anybody had when the faults ended.

use super::quiet::Faults;
use super::{Case, Context, Verdict};
use crate::history::{History, Op};
use std::collections::{BTreeMap, BTreeSet};

/// The checker's name.
pub const NAME: &str = "convergence";

/// Judges all samples of state hashes.
pub fn check(history: &History, context: &Context) -> Verdict {
    let mut case = Case::new(NAME);
    let mut hashes: BTreeMap<u64, Sample<'_>> = BTreeMap::new();
    let mut reached: BTreeMap<u64, u64> = BTreeMap::new();
    let (mut compared, mut most) = (0, 0);
    let over = Faults::of(history).over();
    for operation in history.operations() {
        let Some((event, Op::StateHash(sample))) = operation.ok() else { continue };
        let (Some(at), Some(hash)) = (sample.at, sample.hash.as_deref()) else { continue };
        case.judged.operations += 1;
        if over.is_none_or(|over| event.time <= over) {
            most = most.max(at);
        } else {
            let newest = reached.entry(sample.member).or_default();
            *newest = at.max(*newest);
        }
        let known = hashes.entry(at).or_insert_with(|| Sample {
            hash,
            event: event.index,
            nodes: BTreeSet::new(),
        });
        if known.hash != hash {
            let text = format!(
                "after {at} transitions node {} has the hash {hash}, another one {}",
                sample.member, known.hash
            );
            case.violation("R4", vec![known.event, event.index], text);
        }
        if known.nodes.insert(sample.member) && known.nodes.len() > 1 {
            compared += 1;
        }
    }
    judge_end(&reached, most, over, context, &mut case);
    case.judged.keys = hashes.len() as u64;
    case.judged.events = compared;
    case.close("state hash that two nodes can be compared by", compared)
}

struct Sample<'a> {
    hash: &'a str,
    event: u64,
    nodes: BTreeSet<u64>,
}

/// V2: after the faults all nodes come as far as the first was.
fn judge_end(
    reached: &BTreeMap<u64, u64>,
    most: u64,
    over: Option<u64>,
    context: &Context,
    case: &mut Case,
) {
    if over.is_none() {
        case.unknown("a fault was never ended, so it is not known whether nodes catch up");
        return;
    }
    for node in &context.nodes {
        match reached.get(node) {
            None => {
                let text = format!("node {node} told no state hash after the faults ended");
                case.violation("V2", Vec::new(), text);
            }
            Some(at) if *at < most => {
                let text = format!("node {node} got to {at} transitions, another was at {most}");
                case.violation("V2", Vec::new(), text);
            }
            Some(_) => {}
        }
    }
}
