//! The state that is replayed, and what a transaction does to it.

use crate::history::{Action, ActionReply, Compare, KeyValue, Operand, Relation, Target, Txn};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;

/// A key's record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record<'a> {
    /// The value.
    pub value: &'a str,
    /// The revision that created the key.
    pub create: u64,
    /// The revision of its last put.
    pub modified: u64,
    /// How often it was put since.
    pub version: u64,
    /// Its lease, or 0.
    pub lease: u64,
}

impl<'a> Record<'a> {
    /// The record in a reply.
    pub fn of(kv: &'a KeyValue) -> Self {
        let KeyValue { key: _, value, create, modified, version, lease } = kv;
        Self { value, create: *create, modified: *modified, version: *version, lease: *lease }
    }
}

/// What happened to one key at one revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogChange<'a> {
    /// The key.
    pub key: &'a str,
    /// What was there.
    pub before: Option<Record<'a>>,
    /// What is there now; none if it was deleted.
    pub after: Option<Record<'a>>,
}

/// What a step has to answer.
#[derive(Debug)]
pub(super) enum Expected<'a> {
    Put { prev: Option<(&'a str, Record<'a>)> },
    Delete { prev: Vec<(&'a str, Record<'a>)> },
    Range { kvs: Vec<(&'a str, Record<'a>)>, count: u64 },
}

/// The keys at one revision.
#[derive(Debug, Default)]
pub(super) struct State<'a> {
    keys: BTreeMap<&'a str, Record<'a>>,
    attached: HashMap<u64, BTreeSet<&'a str>>,
    /// Keys that a revision without a trace may have changed, with that revision.
    /// What is in `keys` for them is a guess until somebody reads them; after a
    /// put that is known, only how old they are.
    doubts: BTreeMap<&'a str, u64>,
    /// Keys that were written or settled since [`State::take_touched`].
    touched: HashSet<&'a str>,
}

impl<'a> State<'a> {
    pub(super) fn get(&self, key: &str) -> Option<Record<'a>> {
        self.keys.get(key).copied()
    }

    pub(super) fn set(&mut self, key: &'a str, record: Option<Record<'a>>) {
        self.touched.insert(key);
        let before = match record {
            Some(record) => self.keys.insert(key, record),
            None => self.keys.remove(key),
        };
        if let Some(before) = before.filter(|before| before.lease != 0)
            && let Some(keys) = self.attached.get_mut(&before.lease)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.attached.remove(&before.lease);
            }
        }
        if let Some(record) = record.filter(|record| record.lease != 0) {
            self.attached.entry(record.lease).or_default().insert(key);
        }
    }

    pub(super) fn span<'s>(
        &'s self,
        key: &'s str,
        end: Option<&'s str>,
    ) -> impl Iterator<Item = (&'a str, Record<'a>)> + 's {
        self.keys.range::<str, _>(bounds(key, end)).map(|(key, record)| (*key, *record))
    }

    pub(super) fn attached(&self, lease: u64) -> Vec<&'a str> {
        self.attached.get(&lease).map(|keys| keys.iter().copied().collect()).unwrap_or_default()
    }

    /// Whether any key has a lease, as far as known.
    pub(super) fn has_leases(&self) -> bool {
        !self.attached.is_empty()
    }

    /// All keys that may have become something else than they were at the last call.
    pub(super) fn take_touched(&mut self) -> Vec<&'a str> {
        self.touched.drain().collect()
    }

    /// A key may have been changed unseen at `revision`.
    pub(super) fn doubt(&mut self, key: &'a str, revision: u64) {
        self.doubts.insert(key, revision);
    }

    /// Whether nothing is in doubt.
    pub(super) fn is_certain(&self) -> bool {
        self.doubts.is_empty()
    }

    pub(super) fn is_doubtful(&self, key: &str) -> bool {
        !self.doubts.is_empty() && self.doubts.contains_key(key)
    }

    /// Whether even a key's presence, value and lease are guessed.
    pub(super) fn is_guess(&self, key: &str) -> bool {
        !self.doubts.is_empty() && self.doubts.contains_key(key) && self.guesses(key, self.get(key))
    }

    /// Whether a doubtful key's record is from before the doubt.
    fn guesses(&self, key: &str, record: Option<Record<'a>>) -> bool {
        let put = record.map_or(0, |record| record.modified);
        self.doubts.get(key).is_some_and(|since| put <= *since)
    }

    pub(super) fn doubts_in(&self, key: &str, end: Option<&str>) -> Vec<&'a str> {
        if self.doubts.is_empty() {
            return Vec::new();
        }
        self.doubts.range::<str, _>(bounds(key, end)).map(|(key, _)| *key).collect()
    }

    /// Takes what was read of a doubtful key for what it is.
    pub(super) fn settle(&mut self, key: &'a str, record: Option<Record<'a>>) {
        self.doubts.remove(key);
        self.set(key, record);
    }

    /// Takes what an answer shows of doubtful keys, as they were before its
    /// transaction, for what they are. Says what that was, and what contradicts
    /// all that is known of them.
    pub(super) fn settle_by(
        &mut self,
        actions: &'a [Action],
        replies: &'a [ActionReply],
    ) -> Vec<Settled<'a>> {
        let mut settled = Vec::new();
        if self.doubts.is_empty() {
            return settled;
        }
        for (place, (action, reply)) in actions.iter().zip(replies).enumerate() {
            let Some((key, end, shown)) = shows(action, reply) else { continue };
            let doubts = self.doubts_in(key, end);
            if doubts.is_empty() {
                continue;
            }
            let shown: HashMap<&str, Record<'a>> =
                shown.iter().map(|kv| (kv.key.as_str(), Record::of(kv))).collect();
            let before = &actions[..place];
            for key in doubts {
                // What the transaction itself wrote hides what was there.
                if !before.iter().any(|action| writes(action, key)) {
                    let found = shown.get(key).copied();
                    let wrong = self.contradiction(key, found);
                    self.settle(key, found);
                    settled.push(Settled { key, found, wrong });
                }
            }
        }
        settled
    }

    /// What was read of a doubtful key, if it cannot be.
    fn contradiction(&self, key: &'a str, found: Option<Record<'a>>) -> Option<Mismatch<'a>> {
        let known = self.get(key)?;
        let same = |found: Record<'a>| {
            (found.modified, found.value, found.lease) == (known.modified, known.value, known.lease)
        };
        let possible = match found {
            found if !self.guesses(key, Some(known)) => found.is_some_and(same),
            Some(found) => found.modified > known.modified || same(found),
            None => true,
        };
        (!possible).then(|| mismatch(key, Some(known), found))
    }

    /// The doubtful keys that these actions write.
    pub(super) fn doubtful_of(&self, actions: &[Action]) -> Vec<&'a str> {
        if self.doubts.is_empty() {
            return Vec::new();
        }
        let spans = actions.iter().filter_map(written);
        spans.flat_map(|(key, end)| self.doubts_in(key, end)).collect()
    }

    /// Doubtful keys that actions deleted are gone for certain, unless they were
    /// put again.
    pub(super) fn forget_deleted(&mut self, actions: &'a [Action]) {
        if self.doubts.is_empty() {
            return;
        }
        for (place, action) in actions.iter().enumerate() {
            let Action::Delete { key, end, .. } = action else { continue };
            let after = &actions[place + 1..];
            for doubtful in self.doubts_in(key, end.as_deref()) {
                if !after.iter().any(|action| writes(action, doubtful)) {
                    self.settle(doubtful, None);
                }
            }
        }
    }

    /// Whether the compares hold; `None` if that hangs on a doubtful key.
    pub(super) fn holds(&self, txn: &Txn) -> Option<bool> {
        let mut sure = true;
        for compare in &txn.compares {
            if self.is_doubtful(&compare.key) {
                sure = false;
            } else if !holds(compare, self.get(&compare.key)) {
                return Some(false);
            }
        }
        sure.then_some(true)
    }

    /// Does the actions at `revision`; says what changed and what they answer.
    pub(super) fn run(
        &mut self,
        actions: &'a [Action],
        revision: u64,
    ) -> (Vec<LogChange<'a>>, Vec<Expected<'a>>) {
        let mut changes = Vec::new();
        let mut expected = Vec::with_capacity(actions.len());
        for action in actions {
            expected.push(match action {
                Action::Put { key, value, lease, prev } => {
                    let before = self.get(key);
                    let after = Record {
                        value,
                        create: before.map_or(revision, |before| before.create),
                        modified: revision,
                        version: before.map_or(0, |before| before.version) + 1,
                        lease: *lease,
                    };
                    self.set(key, Some(after));
                    changes.push(LogChange { key, before, after: Some(after) });
                    let prev = before.filter(|_| *prev).map(|before| (key.as_str(), before));
                    Expected::Put { prev }
                }
                Action::Delete { key, end, .. } => {
                    let gone: Vec<_> = self.span(key, end.as_deref()).collect();
                    for (key, before) in &gone {
                        self.set(key, None);
                        changes.push(LogChange { key, before: Some(*before), after: None });
                    }
                    Expected::Delete { prev: gone }
                }
                Action::Range { key, end, limit } => {
                    let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
                    let limit = if limit == 0 { usize::MAX } else { limit };
                    let mut kvs: Vec<_> = self.span(key, end.as_deref()).collect();
                    let count = kvs.len() as u64;
                    kvs.truncate(limit);
                    Expected::Range { kvs, count }
                }
            });
        }
        (changes, expected)
    }

    /// Takes back what [`State::run`] has done.
    pub(super) fn undo(&mut self, changes: &[LogChange<'a>]) {
        for change in changes.iter().rev() {
            self.set(change.key, change.before);
        }
    }

    /// Compares an answer with what it had to be, but for doubtful keys. Says what
    /// is wrong, with the key.
    pub(super) fn judge(
        &self,
        action: &'a Action,
        expected: &Expected<'a>,
        reply: &'a ActionReply,
    ) -> Option<Mismatch<'a>> {
        match (action, expected, reply) {
            (Action::Put { key, .. }, Expected::Put { prev }, ActionReply::Put { prev: got }) => {
                let got = got.as_ref().map(|kv| (kv.key.as_str(), Record::of(kv)));
                (!self.is_doubtful(key) && *prev != got).then(|| {
                    mismatch(key, prev.map(|(_, record)| record), got.map(|(_, record)| record))
                })
            }
            (
                Action::Delete { key, end, prev: asked },
                Expected::Delete { prev },
                ActionReply::Delete { deleted, prev: got },
            ) => {
                let doubts = self.doubts_in(key, end.as_deref());
                let guessed = prev.iter().filter(|(key, record)| self.guesses(key, Some(*record)));
                let (there, guessed) = (prev.len() as u64, guessed.count() as u64);
                let hidden = doubts.iter().filter(|key| !prev.iter().any(|(k, _)| k == *key));
                let most = there + hidden.count() as u64;
                if *deleted < there - guessed || *deleted > most {
                    let text = format!("deleted {deleted} keys, there were {there}");
                    return Some(Mismatch { expected: None, got: None, text });
                }
                if !doubts.is_empty() {
                    return None;
                }
                let got: Vec<_> = got.iter().map(|kv| (kv.key.as_str(), Record::of(kv))).collect();
                if *asked { first_difference(prev, &got) } else { None }
            }
            (
                Action::Range { key, end, limit },
                Expected::Range { kvs, count },
                ActionReply::Range { kvs: got, count: counted, more },
            ) => {
                let doubts = self.doubts_in(key, end.as_deref());
                let got: Vec<_> = got.iter().map(|kv| (kv.key.as_str(), Record::of(kv))).collect();
                if !doubts.is_empty() {
                    let cut = *limit != 0 || *more;
                    return if cut { None } else { self.judge_in_doubt(kvs, &got) };
                }
                if let Some(wrong) = first_difference(kvs, &got) {
                    return Some(wrong);
                }
                let cut = *count > kvs.len() as u64;
                (count != counted || cut != *more).then(|| {
                    let text = format!(
                        "counted {counted} keys (more: {more}), there are {count} (more: {cut})"
                    );
                    Mismatch { expected: None, got: None, text }
                })
            }
            _ => Some(Mismatch {
                expected: None,
                got: None,
                text: "the answer is not of the kind of its action".to_owned(),
            }),
        }
    }

    /// A range in which some keys are doubtful: the others are compared.
    fn judge_in_doubt(
        &self,
        kvs: &[(&'a str, Record<'a>)],
        got: &[(&'a str, Record<'a>)],
    ) -> Option<Mismatch<'a>> {
        let sure = |list: &[(&'a str, Record<'a>)]| -> Vec<_> {
            list.iter().filter(|(key, _)| !self.is_doubtful(key)).copied().collect()
        };
        first_difference(&sure(kvs), &sure(got))
    }
}

/// What an answer showed of a doubtful key.
pub(super) struct Settled<'a> {
    pub(super) key: &'a str,
    pub(super) found: Option<Record<'a>>,
    /// Why it cannot have been so.
    pub(super) wrong: Option<Mismatch<'a>>,
}

/// A span as a map has it.
fn bounds<'s>(key: &'s str, end: Option<&'s str>) -> (Bound<&'s str>, Bound<&'s str>) {
    let until = match end {
        None => Bound::Included(key),
        Some("") => Bound::Unbounded,
        // An end before the start is an empty span; `range` would panic.
        Some(end) => Bound::Excluded(end.max(key)),
    };
    (Bound::Included(key), until)
}

/// What an answer shows of all the keys of a span, as they were before its
/// action: the key and end of the span, and those that are there.
fn shows<'a>(
    action: &'a Action,
    reply: &'a ActionReply,
) -> Option<(&'a str, Option<&'a str>, &'a [KeyValue])> {
    match (action, reply) {
        (Action::Put { key, prev: true, .. }, ActionReply::Put { prev }) => {
            Some((key, None, prev.as_slice()))
        }
        (Action::Delete { key, end, prev: true }, ActionReply::Delete { prev, .. }) => {
            Some((key, end.as_deref(), prev))
        }
        (Action::Delete { key, end, .. }, ActionReply::Delete { deleted: 0, .. }) => {
            Some((key, end.as_deref(), &[]))
        }
        (Action::Range { key, end, limit: 0 }, ActionReply::Range { kvs, more: false, .. }) => {
            Some((key, end.as_deref(), kvs))
        }
        _ => None,
    }
}

/// The span that an action writes, if it writes.
fn written(action: &Action) -> Option<(&str, Option<&str>)> {
    match action {
        Action::Put { key, .. } => Some((key, None)),
        Action::Delete { key, end, .. } => Some((key, end.as_deref())),
        Action::Range { .. } => None,
    }
}

/// Whether an action writes a key.
pub(super) fn writes(action: &Action, candidate: &str) -> bool {
    written(action).is_some_and(|(key, end)| crate::history::spans(key, end, candidate))
}

/// How an answer differs from what it had to be.
#[derive(Debug)]
pub(super) struct Mismatch<'a> {
    pub(super) expected: Option<Record<'a>>,
    pub(super) got: Option<Record<'a>>,
    pub(super) text: String,
}

fn mismatch<'a>(
    key: &'a str,
    expected: Option<Record<'a>>,
    got: Option<Record<'a>>,
) -> Mismatch<'a> {
    let text = format!("{} is {}, it had to be {}", short(key), show(got), show(expected));
    Mismatch { expected, got, text }
}

fn first_difference<'a>(
    expected: &[(&'a str, Record<'a>)],
    got: &[(&'a str, Record<'a>)],
) -> Option<Mismatch<'a>> {
    let place = expected.iter().zip(got).position(|(expected, got)| expected != got);
    let place =
        place.or_else(|| (expected.len() != got.len()).then_some(expected.len().min(got.len())))?;
    Some(match (expected.get(place), got.get(place)) {
        (Some((key, expected)), Some((same, got))) if key == same => {
            mismatch(key, Some(*expected), Some(*got))
        }
        (Some((key, expected)), got) if got.is_none_or(|(other, _)| other > key) => {
            mismatch(key, Some(*expected), None)
        }
        (_, Some((key, got))) => mismatch(key, None, Some(*got)),
        (Some((key, expected)), None) => mismatch(key, Some(*expected), None),
        (None, None) => mismatch("", None, None),
    })
}

/// A record for people.
pub(super) fn show(record: Option<Record<'_>>) -> String {
    match record {
        None => "absent".to_owned(),
        Some(Record { value, create, modified, version, lease }) => {
            let lease = if lease == 0 { String::new() } else { format!(", lease {lease}") };
            let value = short(value);
            format!("{value} (revision {modified}, created {create}, version {version}{lease})")
        }
    }
}

/// A key or value for people: cut if it is long.
pub(super) fn short(text: &str) -> String {
    const MAX: usize = 60;
    match text.char_indices().nth(MAX) {
        Some((cut, _)) => format!("{:?}...", &text[..cut]),
        None => format!("{text:?}"),
    }
}

/// Whether a compare holds for a key's record. An absent key has 0 for each
/// number, and no value.
fn holds(compare: &Compare, record: Option<Record<'_>>) -> bool {
    let found = record.unwrap_or_default();
    let order = match (compare.target, &compare.operand) {
        (Target::Value, Operand::Text(_)) if record.is_none() => return false,
        (Target::Value, Operand::Text(text)) => found.value.cmp(text.as_str()),
        (Target::Version, Operand::Number(number)) => found.version.cmp(number),
        (Target::Create, Operand::Number(number)) => found.create.cmp(number),
        (Target::Mod, Operand::Number(number)) => found.modified.cmp(number),
        (Target::Lease, Operand::Number(number)) => found.lease.cmp(number),
        (_, Operand::Text(_) | Operand::Number(_)) => return false,
    };
    match compare.op {
        Relation::Equal => order == Ordering::Equal,
        Relation::NotEqual => order != Ordering::Equal,
        Relation::Less => order == Ordering::Less,
        Relation::Greater => order == Ordering::Greater,
    }
}
