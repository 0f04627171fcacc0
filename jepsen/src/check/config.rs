//! Configuration values: the newest is read, and preconditions hold.
//!
//! A value is judged like a section of a document. Besides, no revision of a
//! value is replaced by two writes that both named it as their precondition, and
//! a write that named one has a greater revision.

use super::register::{Cell, Shown, Written};
use super::{Case, Context, Verdict};
use crate::history::{History, Op, Outcome};
use std::collections::BTreeMap;

/// The checker's name.
pub const NAME: &str = "config";

/// Judges all configuration values of a history.
pub fn check(history: &History, _context: &Context) -> Verdict {
    let mut case = Case::new(NAME);
    let operations = history.operations();
    let mut cells: BTreeMap<&str, Cell<'_>> = BTreeMap::new();
    let mut replaced: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    for operation in &operations {
        let Op::ConfigSet(set) = &operation.invoke.op else { continue };
        case.judged.operations += 1;
        let revision = match operation.ok() {
            Some((_, Op::ConfigSet(done))) => done.revision,
            _ => None,
        };
        if let (Some(expected), Some(revision)) = (set.if_revision, revision) {
            let other = replaced.insert((&set.path, expected), operation.invoke.index);
            if let Some(other) = other {
                let text = format!("two writes replaced revision {expected} of {:?}", set.path);
                case.violation("precondition", vec![other, operation.invoke.index], text);
            }
            if revision <= expected {
                let text = format!("{:?} went from revision {expected} to {revision}", set.path);
                case.violation("precondition", operation.indices(), text);
            }
        }
        cells.entry(&set.path).or_default().writes.push(Written {
            value: &set.value,
            asked: operation.invoke.index,
            returned: operation.return_index(),
            failed: operation.outcome() == Outcome::Fail,
            revision,
            events: operation.indices(),
        });
    }
    let mut reads = 0;
    for operation in &operations {
        let Some((_, Op::ConfigGet(read))) = operation.ok() else { continue };
        let Some(cell) = cells.get_mut(read.path.as_str()) else { continue };
        case.judged.operations += 1;
        reads += 1;
        let found = read.found == Some(true);
        cell.reads.push(Shown {
            value: read.value.as_deref().filter(|_| found),
            revision: read.revision.filter(|_| found),
            asked: operation.invoke.index,
            returned: operation.return_index(),
            events: operation.indices(),
        });
    }
    case.judged.keys = cells.len() as u64;
    case.judged.events = reads;
    for (path, cell) in &cells {
        cell.judge("value", &format!("{path:?}"), &mut case);
    }
    case.close("read of a configuration value", reads)
}
