//! Revision replay: strict serializability of everything, in O(n log n).
//!
//! The store says of each answer at which revision it was given, and each
//! transaction that changes something takes one revision, one more than the one
//! before. So the history names its own total order, and only two questions are
//! left, both easy:
//!
//! * **Is it the order of a correct store?** The transactions are replayed in the
//!   order of their revisions: compares, previous values, counts, ranges,
//!   versions, leases, reads of the past; each answer has to be exactly what the
//!   replayed state gives. No revision has two operations, none has nothing.
//! * **Does it respect real time?** Whatever is asked after revision R was shown
//!   to anybody must be answered at R or later, and change something later only.
//!
//! If both hold, the order of revisions is a witness of strict serializability;
//! if one does not, the store broke a promise, be it only that of its revisions.
//!
//! # Unknown outcomes
//!
//! A revision that no acknowledged operation has is explained by what watches
//! and reads show of it: it must be the whole effect of one transaction with an
//! unknown outcome, asked before, or the end of leases, or a change of keys that
//! the history does not own. It is never the effect of a failed operation, or a
//! second effect of one that has its revision already.
//!
//! With a watch of all keys, which every workload has, this is exact. Without
//! one a revision may leave no trace: then each key that it may have changed is
//! in doubt until it is read again, which the verdict notes. A doubt never makes
//! a violation.
//!
//! Reads of one replica's own state have to be a state that the store had; they
//! may be old, but not older than what the same process has seen on that node
//! since the last fault.

mod candidates;
mod explain;
mod facts;
mod state;

pub use state::{LogChange, Record};

use super::{Case, Context, Verdict};
use crate::history::{History, Outcome, Process};
use candidates::Candidates;
use facts::{Fact, Facts};
use state::{Mismatch, State, short, show};
use std::collections::HashMap;

/// The checker's name.
pub const NAME: &str = "replay";

/// Where a revision comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The transaction whose invocation is this event.
    Transaction(u64),
    /// Another operation; the event that shows it.
    Operation(u64),
    /// The end of leases.
    LeaseEnd,
    /// Something that the history does not own, or does not know.
    Unknown,
}

/// One revision.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// What changed.
    pub changes: Vec<LogChange<'a>>,
    /// Why.
    pub source: Source,
    /// Whether `changes` is known to be all, and right, but for doubtful keys.
    pub sure: bool,
    /// Keys that were in doubt before. That they were put is known, with which
    /// value and lease; not what was there before, nor whether a deletion found
    /// them.
    pub doubtful: Vec<&'a str>,
}

impl<'a> Entry<'a> {
    /// Whether a key was in doubt before.
    pub fn is_doubtful(&self, key: &str) -> bool {
        self.doubtful.contains(&key)
    }

    /// The changes that happened for certain.
    pub fn certain(&self) -> impl Iterator<Item = &LogChange<'a>> {
        let known = self.changes.iter().filter(|_| self.sure);
        known.filter(|change| change.after.is_some() || !self.is_doubtful(change.key))
    }
}

/// All revisions of a history, in order and without gaps.
#[derive(Debug, Default)]
pub struct Log<'a> {
    /// The revision before the first.
    pub base: u64,
    entries: Vec<Entry<'a>>,
}

impl<'a> Log<'a> {
    /// What happened at a revision.
    pub fn get(&self, revision: u64) -> Option<&Entry<'a>> {
        let place = usize::try_from(revision.checked_sub(self.base + 1)?).ok()?;
        self.entries.get(place)
    }

    /// The newest revision.
    pub fn newest(&self) -> u64 {
        self.base + self.entries.len() as u64
    }
}

/// Judges a history by replaying it in the order of its revisions.
pub fn check(history: &History, context: &Context) -> Verdict {
    let (log, mut case) = replay(history, context);
    super::watch::compare_with_log(history, context, &log, &mut case);
    let answered = case.judged.operations;
    case.close("answered transaction", answered)
}

/// Replays a history: what the store's revisions were, as far as it is known.
pub fn log<'a>(history: &'a History, context: &Context) -> Log<'a> {
    replay(history, context).0
}

fn replay<'a>(history: &'a History, context: &Context) -> (Log<'a>, Case) {
    let facts = Facts::collect(history, context);
    let mut replay = Replay::new(&facts, context);
    replay.run();
    let Replay { log, mut case, opaque, unjudged, keys, .. } = replay;
    case.judged.keys = keys;
    case.judged.events = log.entries.len() as u64;
    if opaque > 0 {
        case.note(format!(
            "{opaque} revisions left no trace: keys that unknown operations may have changed there \
             were not judged until they were read again; a watch of all keys would tell"
        ));
    }
    if unjudged > 0 {
        case.note(format!("{unjudged} reads of revisions before the history were not judged"));
    }
    (log, case)
}

/// A replay at work.
struct Replay<'f, 'a> {
    facts: &'f Facts<'a>,
    context: &'f Context,
    state: State<'a>,
    log: Log<'a>,
    case: Case,
    explain: Candidates<'a>,
    opaque: u64,
    unjudged: u64,
    keys: u64,
}

impl<'f, 'a> Replay<'f, 'a> {
    fn new(facts: &'f Facts<'a>, context: &'f Context) -> Self {
        Self {
            facts,
            context,
            state: State::default(),
            log: Log { base: context.base_revision, entries: Vec::new() },
            case: Case::new(NAME),
            explain: Candidates::new(facts),
            opaque: 0,
            unjudged: 0,
            keys: 0,
        }
    }

    fn run(&mut self) {
        let facts = self.facts;
        self.judge_real_time();
        self.judge_sessions();
        self.judge_history_reads();
        let mut acked = facts.acked.iter().peekable();
        let mut reads = facts.reads.iter().peekable();
        let base = self.context.base_revision;
        while acked.next_if(|(revision, _)| *revision <= base).is_some() {
            self.unjudged += 1;
        }
        while reads.next_if(|(revision, _)| *revision < base).is_some() {
            self.unjudged += 1;
        }
        for revision in base..=facts.newest {
            if revision > base {
                let mut own = Vec::new();
                while let Some((_, place)) = acked.next_if(|(at, _)| *at == revision) {
                    own.push(*place);
                }
                let entry = self.advance(revision, &own);
                self.keys += entry.changes.iter().filter(|c| c.before.is_none()).count() as u64;
                self.log.entries.push(entry);
            }
            while let Some((_, place)) = reads.next_if(|(at, _)| *at == revision) {
                self.judge_read(&facts.txns[*place], revision);
            }
        }
    }

    /// Real time: what was shown before an operation was asked is behind it.
    fn judge_real_time(&mut self) {
        for fact in &self.facts.txns {
            let Some(reply) = fact.reply else { continue };
            self.case.judged.operations += 1;
            let (floor, shown) = fact.floor;
            let events = || std::iter::once(shown).chain(fact.operation.indices()).collect();
            if fact.effective && reply.revision <= floor {
                let text = format!(
                    "a write took revision {}, though revision {floor} was shown before it was \
                     asked",
                    reply.revision
                );
                self.case.violation("order", events(), text);
            } else if !fact.effective && fact.txn.linearizable && reply.revision < floor {
                let text = format!(
                    "a linearizable read was answered at revision {}, though revision {floor} was \
                     shown before it was asked",
                    reply.revision
                );
                self.case.violation("stale-read", events(), text);
            }
        }
    }

    /// Reads of one replica's own state: for a process, never back on a node. A
    /// fault in between may have taken the node's newest state, which it then
    /// gets back from its log.
    ///
    /// Writes do not count: a replica passes them on, and the reply does not wait
    /// until its own state has them.
    fn judge_sessions(&mut self) {
        let mut newest: HashMap<(Process, u64), (u64, u64)> = HashMap::new();
        let mut faults = self.facts.faults.iter().peekable();
        let reads = self.facts.txns.iter().filter(|fact| {
            fact.txn.is_read() && fact.txn.compares.is_empty() && fact.txn.success.len() == 1
        });
        let mut answers: Vec<_> =
            reads.filter_map(|fact| Some((fact.operation.ok()?.0, fact.reply?.revision))).collect();
        answers.sort_unstable_by_key(|(event, _)| event.index);
        for (event, revision) in answers {
            while faults.next_if(|fault| **fault < event.index).is_some() {
                newest.clear();
            }
            let Some(node) = event.node else { continue };
            let seen = newest.entry((event.process, node)).or_default();
            if revision < seen.0 {
                let text = format!(
                    "process {} saw revision {revision} of node {node} after revision {}",
                    event.process, seen.0
                );
                self.case.violation("session", vec![seen.1, event.index], text);
            } else {
                *seen = (revision, event.index);
            }
        }
    }

    /// Reads of the past: compacted exactly if history was forgotten there.
    fn judge_history_reads(&mut self) {
        let compactions = &self.facts.compactions;
        let done = maxima(compactions.iter().map(|c| (c.done, c.revision)).collect());
        let asked_for = maxima(compactions.iter().map(|c| (c.invoked, c.revision)).collect());
        for fact in &self.facts.txns {
            let Some(asked) = fact.txn.revision else { continue };
            let forgotten = below(&done, fact.operation.invoke.index);
            let returned = fact.operation.completion.map_or(u64::MAX, |event| event.index);
            let perhaps = below(&asked_for, returned);
            let error = fact.operation.completion.and_then(|event| event.error.as_deref());
            let events = fact.operation.indices();
            if fact.reply.is_some() && asked < forgotten {
                let text = format!("revision {asked} was read after compaction at {forgotten}");
                self.case.violation("compacted", events, text);
            } else if error.is_some_and(|e| e.starts_with("compacted")) && asked >= perhaps {
                let text =
                    format!("revision {asked} is refused as compacted; at most {perhaps} is");
                self.case.violation("compacted", events, text);
            }
            if let Some(reply) = fact.reply.filter(|reply| asked > reply.revision) {
                let text =
                    format!("revision {asked} was read at revision {}: the future", reply.revision);
                self.case.violation("future", fact.operation.indices(), text);
            }
        }
    }

    /// The next revision: the operations that say it is theirs, or whatever
    /// explains it.
    fn advance(&mut self, revision: u64, own: &[usize]) -> Entry<'a> {
        let Some((first, rest)) = own.split_first() else { return self.explain(revision) };
        for other in rest {
            let mut events = self.facts.txns[*first].operation.indices();
            events.extend(self.facts.txns[*other].operation.indices());
            let text = format!("revision {revision} was given to two transactions");
            self.case.violation("revision-reused", events, text);
        }
        if let Some(other) =
            self.facts.others.get(&revision).filter(|other| other.revoked.is_none())
        {
            let mut events = vec![other.event];
            events.extend(self.facts.txns[*first].operation.indices());
            let text = format!("revision {revision} was given to two operations");
            self.case.violation("revision-reused", events, text);
        }
        let entry = self.apply(*first, revision);
        for other in rest {
            self.apply(*other, revision);
        }
        entry
    }

    /// Replays an acknowledged transaction and judges its answer.
    fn apply(&mut self, place: usize, revision: u64) -> Entry<'a> {
        let fact = &self.facts.txns[place];
        let (changes, doubtful) = self.judge_answer(fact, revision, "write");
        let source = Source::Transaction(fact.operation.invoke.index);
        Entry { changes, source, sure: true, doubtful }
    }

    /// A transaction that changed nothing sees the state at its revision.
    fn judge_read(&mut self, fact: &'f Fact<'a>, revision: u64) {
        let (changes, _) = self.judge_answer(fact, revision, "read");
        self.state.undo(&changes);
    }

    /// Runs a transaction over the state and compares the answer. Says what
    /// changed, and which doubtful keys it wrote.
    fn judge_answer(
        &mut self,
        fact: &'f Fact<'a>,
        at: u64,
        what: &str,
    ) -> (Vec<LogChange<'a>>, Vec<&'a str>) {
        let Some(reply) = fact.reply else { return (Vec::new(), Vec::new()) };
        let holds = self.state.holds(fact.txn);
        if holds.is_some_and(|holds| holds != reply.succeeded) {
            let text = format!(
                "a {what} at revision {at} says that its compares {}, and they {}",
                if reply.succeeded { "hold" } else { "do not hold" },
                if reply.succeeded { "do not" } else { "do" },
            );
            self.case.violation("compare", fact.operation.indices(), text);
        }
        let actions = fact.txn.branch(reply.succeeded);
        for settled in self.state.settle_by(actions, &reply.results) {
            if let Some(wrong) = settled.wrong.or_else(|| self.made_up(settled.key, settled.found))
            {
                self.mismatch(fact, at, what, &wrong);
            }
        }
        let doubtful = self.state.doubtful_of(actions);
        let (changes, expected) = self.state.run(actions, at);
        if actions.len() != reply.results.len() {
            let text = format!("{} actions have {} answers", actions.len(), reply.results.len());
            self.case.violation("form", fact.operation.indices(), text);
        }
        for ((action, expected), got) in actions.iter().zip(&expected).zip(&reply.results) {
            if let Some(wrong) = self.state.judge(action, expected, got) {
                self.mismatch(fact, at, what, &wrong);
            }
        }
        self.state.forget_deleted(actions);
        (changes, doubtful)
    }

    /// What was read of a doubtful key, if the revision that is said to have put
    /// it is known, and has not.
    fn made_up(&self, key: &'a str, found: Option<Record<'a>>) -> Option<Mismatch<'a>> {
        let found = found.filter(|found| found.modified > self.log.base)?;
        let known = match self.log.get(found.modified) {
            Some(entry) if !entry.sure => return None,
            Some(entry) => entry.changes.iter().rfind(|change| change.key == key),
            None => None,
        };
        let after = known.and_then(|change| change.after);
        let right =
            after.is_some_and(|after| (after.value, after.lease) == (found.value, found.lease));
        (!right).then(|| {
            let what = show(Some(found));
            let text = format!("{} is {what}, which that revision did not put", short(key));
            Mismatch { expected: None, got: Some(found), text }
        })
    }

    fn mismatch(&mut self, fact: &Fact<'a>, at: u64, what: &str, wrong: &Mismatch<'a>) {
        let older = |record: Record<'a>| {
            wrong.expected.is_some_and(|expected| record.modified < expected.modified)
        };
        let rule = match (wrong.expected, wrong.got) {
            (Some(_), None) => "lost-write",
            (Some(_), Some(got)) if older(got) => "lost-write",
            (None, Some(_)) => "unexpected-value",
            _ => "wrong-answer",
        };
        let writer = wrong.expected.and_then(|expected| self.log.get(expected.modified));
        let mut events = fact.operation.indices();
        if let Some(Entry {
            source: Source::Transaction(event) | Source::Operation(event), ..
        }) = writer
        {
            events.insert(0, *event);
        }
        let text = format!("a {what} at revision {at}: {}", wrong.text);
        self.case.violation(rule, events, text);
    }
}

/// The greatest revision up to each event, in the order of events.
fn maxima(mut list: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    list.sort_unstable();
    let mut newest = 0;
    for (_, revision) in &mut list {
        newest = newest.max(*revision);
        *revision = newest;
    }
    list
}

/// The greatest revision before an event.
fn below(maxima: &[(u64, u64)], event: u64) -> u64 {
    let before = maxima.partition_point(|(at, _)| *at < event);
    before.checked_sub(1).map_or(0, |place| maxima[place].1)
}

/// Whether an operation's outcome leaves open that it happened.
fn is_open(fact: &Fact<'_>) -> bool {
    fact.outcome == Outcome::Info && !fact.txn.is_read()
}
