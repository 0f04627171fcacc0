//! Sets: one key for each element, put once, never deleted.
//!
//! A read of the whole prefix has to have every element whose addition was
//! acknowledged before it was asked, and no element whose addition failed, was
//! asked after the answer, or never. An addition with an unknown outcome may be
//! there or not; once it was read, it has to stay. An element is put once: a
//! second version of it was applied twice.

use super::{Case, Context, Verdict};
use crate::history::{Action, ActionReply, History, Op, Operation, Outcome, prefix_end};
use std::collections::{BTreeMap, BTreeSet};

/// The checker's name.
pub const NAME: &str = "set";

/// Judges the sets of a history.
pub fn check(history: &History, context: &Context) -> Verdict {
    let mut case = Case::new(NAME);
    let operations = history.operations();
    let additions = additions(&operations, &context.set_prefix);
    let reads = reads(&operations, &context.set_prefix);
    case.judged.operations = (additions.len() + reads.len()) as u64;
    case.judged.keys = additions.len() as u64;
    let acknowledged = additions.values().filter(|added| added.acked != u64::MAX).count() as u64;
    let mut known = Known { seen: BTreeSet::new(), additions };
    for read in &reads {
        known.judge(read, &mut case);
    }
    if reads.is_empty() {
        case.unknown("the set was never read as a whole");
    }
    let unsure = known.additions.values().filter(|added| added.acked == u64::MAX && !added.failed);
    case.note(format!(
        "{acknowledged} additions were acknowledged, {} are unknown",
        unsure.count()
    ));
    case.close("acknowledged addition to a set", acknowledged)
}

/// An element that was to be added.
struct Added {
    asked: u64,
    /// The event of its acknowledgement, or the end of time.
    acked: u64,
    failed: bool,
    events: Vec<u64>,
}

/// An answer with the whole set.
struct Read<'a> {
    asked: u64,
    returned: u64,
    events: Vec<u64>,
    elements: BTreeMap<&'a str, u64>,
    linearizable: bool,
}

fn additions<'a>(operations: &[Operation<'a>], prefix: &str) -> BTreeMap<&'a str, Added> {
    let mut additions = BTreeMap::new();
    for operation in operations {
        let Op::Txn(txn) = &operation.invoke.op else { continue };
        for action in &txn.success {
            let Action::Put { key, .. } = action else { continue };
            if !key.starts_with(prefix) {
                continue;
            }
            let succeeded = match operation.ok() {
                Some((_, Op::Txn(done))) => done.reply.as_ref().map(|reply| reply.succeeded),
                _ => None,
            };
            let acked = if succeeded == Some(true) { operation.return_index() } else { u64::MAX };
            let failed = operation.outcome() == Outcome::Fail || succeeded == Some(false);
            let asked = operation.invoke.index;
            let added = Added { asked, acked, failed, events: operation.indices() };
            additions.insert(key.as_str(), added);
        }
    }
    additions
}

fn reads<'a>(operations: &[Operation<'a>], prefix: &str) -> Vec<Read<'a>> {
    let mut reads = Vec::new();
    for operation in operations {
        let Some((_, Op::Txn(done))) = operation.ok() else { continue };
        let (Op::Txn(txn), Some(reply)) = (&operation.invoke.op, &done.reply) else { continue };
        if txn.revision.is_some() {
            continue;
        }
        for (action, result) in txn.branch(reply.succeeded).iter().zip(&reply.results) {
            let (Action::Range { key, end, .. }, ActionReply::Range { kvs, more: false, .. }) =
                (action, result)
            else {
                continue;
            };
            if key != prefix || end.as_deref() != Some(prefix_end(prefix).as_str()) {
                continue;
            }
            reads.push(Read {
                asked: operation.invoke.index,
                returned: operation.return_index(),
                events: operation.indices(),
                elements: kvs.iter().map(|kv| (kv.key.as_str(), kv.version)).collect(),
                linearizable: txn.linearizable,
            });
        }
    }
    reads
}

/// What is known of the set so far.
struct Known<'a> {
    additions: BTreeMap<&'a str, Added>,
    /// Elements with the event of the answer that had them first.
    seen: BTreeSet<(&'a str, u64)>,
}

impl<'a> Known<'a> {
    fn judge(&mut self, read: &Read<'a>, case: &mut Case) {
        case.judged.events += read.elements.len() as u64;
        for (element, version) in &read.elements {
            let mut events = read.events.clone();
            match self.additions.get(element) {
                None => {
                    case.violation("S1", events, format!("{element:?} was never added"));
                }
                Some(added) => {
                    events.extend(&added.events);
                    if added.failed {
                        let text = format!("{element:?} is there, but its addition failed");
                        case.violation("S1", events, text);
                    } else if added.asked > read.returned {
                        let text = format!("{element:?} was read before it was asked for");
                        case.violation("S1", events, text);
                    } else if *version != 1 {
                        let text = format!("{element:?} was put {version} times");
                        case.violation("S1", events, text);
                    }
                }
            }
        }
        if !read.linearizable {
            return;
        }
        for (element, added) in &self.additions {
            if added.acked < read.asked && !read.elements.contains_key(element) {
                let mut events = added.events.clone();
                events.extend(&read.events);
                let text = format!("{element:?} was acknowledged and is lost");
                case.violation("S1", events, text);
            }
        }
        for (element, returned) in &self.seen {
            let acked = self.additions.get(element).is_some_and(|a| a.acked < read.asked);
            if !acked && *returned < read.asked && !read.elements.contains_key(element) {
                let text = format!("{element:?} was read and is gone");
                case.violation("S1", read.events.clone(), text);
            }
        }
        for element in read.elements.keys() {
            self.seen.insert((element, read.returned));
        }
    }
}
