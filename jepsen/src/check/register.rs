//! Values that are overwritten: who may still be read when? Shared by documents
//! and configuration.
//!
//! A read may show a write that was asked before the read was answered, unless
//! that write was certainly overwritten before the read was asked: by another
//! one that began after the first was acknowledged and was acknowledged before
//! the read. Revisions, where replies have them, sharpen that: a read at a
//! revision shows the newest acknowledged write up to it, or an unknown one.

use super::Case;
use std::collections::BTreeMap;

/// A write of a value that is unique to it.
pub(super) struct Written<'a> {
    pub(super) value: &'a str,
    pub(super) asked: u64,
    /// The end of time if the outcome is unknown.
    pub(super) returned: u64,
    pub(super) failed: bool,
    pub(super) revision: Option<u64>,
    pub(super) events: Vec<u64>,
}

/// A linearizable read.
pub(super) struct Shown<'a> {
    pub(super) value: Option<&'a str>,
    /// The revision of what was read, if the reply has one.
    pub(super) revision: Option<u64>,
    pub(super) asked: u64,
    pub(super) returned: u64,
    pub(super) events: Vec<u64>,
}

/// One value with all that was done to it.
#[derive(Default)]
pub(super) struct Cell<'a> {
    pub(super) writes: Vec<Written<'a>>,
    pub(super) reads: Vec<Shown<'a>>,
}

impl Cell<'_> {
    pub(super) fn judge(&self, rule: &str, name: &str, case: &mut Case) {
        let by_value: BTreeMap<&str, &Written<'_>> =
            self.writes.iter().map(|write| (write.value, write)).collect();
        for read in &self.reads {
            let write = match read.value {
                None => None,
                Some(value) => {
                    let Some(write) = by_value.get(value) else {
                        let text = format!("{name} shows {value:?}, which nobody wrote");
                        case.violation(rule, read.events.clone(), text);
                        continue;
                    };
                    Some(*write)
                }
            };
            if let Some((why, newer)) = self.wrong(write, read) {
                let mut events = write.map(|write| write.events.clone()).unwrap_or_default();
                events.extend(newer.map(|newer| newer.events.clone()).unwrap_or_default());
                events.extend(&read.events);
                let text = format!("{name} shows {:?}: {why}", read.value.unwrap_or("nothing"));
                case.violation(rule, events, text);
            }
        }
    }

    /// Why a read cannot show this write, and the write that it should rather.
    fn wrong(
        &self,
        write: Option<&Written<'_>>,
        read: &Shown<'_>,
    ) -> Option<(&'static str, Option<&Written<'_>>)> {
        if write.is_some_and(|write| write.failed) {
            return Some(("its write failed", None));
        }
        if write.is_some_and(|write| write.asked > read.returned) {
            return Some(("it was written later", None));
        }
        let known = write.map_or(0, |write| write.returned);
        let newer = |other: &&Written<'_>| {
            !other.failed && other.returned < read.asked && (write.is_none() || other.asked > known)
        };
        if let Some(newer) = self.writes.iter().find(newer) {
            return Some(("a later write was acknowledged before", Some(newer)));
        }
        let (at, revision) = (read.revision?, write.map_or(Some(0), |write| write.revision)?);
        let newer = self.writes.iter().find(|other| {
            !other.failed && other.revision.is_some_and(|other| other > revision && other <= at)
        });
        newer.map(|newer| ("a newer revision of it is lost", Some(newer)))
    }
}
