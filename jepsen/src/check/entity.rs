//! Documents: patches of sections by several writers lose nothing.
//!
//! Each section of each document is a value of its own: a read of the document
//! has to show for every section the newest patch, whoever patched what else in
//! between. Two patches of one document never report the same revision.

use super::register::{Cell, Shown, Written};
use super::{Case, Context, Verdict};
use crate::history::{History, Op, Outcome};
use std::collections::BTreeMap;

/// The checker's name.
pub const NAME: &str = "entity";

/// Judges all documents of a history.
pub fn check(history: &History, _context: &Context) -> Verdict {
    let mut case = Case::new(NAME);
    let operations = history.operations();
    let mut cells: BTreeMap<(&str, &str), Cell<'_>> = BTreeMap::new();
    let mut revisions: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    for operation in &operations {
        let Op::EntityPatch(patch) = &operation.invoke.op else { continue };
        case.judged.operations += 1;
        let revision = match operation.ok() {
            Some((_, Op::EntityPatch(done))) => done.revision,
            _ => None,
        };
        if let Some(revision) = revision {
            let other = revisions.insert((&patch.entity, revision), operation.invoke.index);
            if let Some(other) = other {
                let text = format!("two patches of {:?} took revision {revision}", patch.entity);
                case.violation("patch", vec![other, operation.invoke.index], text);
            }
        }
        cells.entry((&patch.entity, &patch.section)).or_default().writes.push(Written {
            value: &patch.content,
            asked: operation.invoke.index,
            returned: operation.return_index(),
            failed: operation.outcome() == Outcome::Fail,
            revision,
            events: operation.indices(),
        });
    }
    let mut reads = 0;
    for operation in &operations {
        let Some((_, Op::EntityRead(read))) = operation.ok() else { continue };
        let Some(sections) = &read.sections else { continue };
        case.judged.operations += 1;
        reads += 1;
        for ((_, section), cell) in cells
            .range_mut((read.entity.as_str(), "")..)
            .take_while(|((entity, _), _)| *entity == read.entity)
        {
            case.judged.events += 1;
            cell.reads.push(Shown {
                value: sections.get(*section).map(String::as_str),
                revision: read.revision,
                asked: operation.invoke.index,
                returned: operation.return_index(),
                events: operation.indices(),
            });
        }
    }
    case.judged.keys = cells.len() as u64;
    for ((entity, section), cell) in &cells {
        cell.judge("patch", &format!("section {section:?} of {entity:?}"), &mut case);
    }
    if cells.is_empty() {
        reads = 0;
    }
    case.close("read of a patched document", reads)
}
