//! What a history says, put in the order of revisions.

use super::state::Record;
use crate::check::Context;
use crate::history::{
    ActionReply, ChangeKind, Event, History, Kind, Op, Operation, Outcome, Process, Txn, TxnReply,
    Watch, WatchStep, prefix_end,
};
use std::collections::{BTreeMap, HashMap, HashSet};

/// A transaction of the history.
pub(super) struct Fact<'a> {
    pub(super) operation: Operation<'a>,
    pub(super) txn: &'a Txn,
    pub(super) reply: Option<&'a TxnReply>,
    pub(super) outcome: Outcome,
    /// The newest revision that anybody knew before it was asked, and the event
    /// that showed it.
    pub(super) floor: (u64, u64),
    /// Whether its reply says that it changed something.
    pub(super) effective: bool,
}

/// An operation that is no transaction and has a revision of its own.
#[derive(Clone, Copy)]
pub(super) struct Other {
    pub(super) event: u64,
    /// The lease that it revoked, if it did.
    pub(super) revoked: Option<u64>,
}

/// What somebody saw of a key at a revision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seen<'a> {
    Put(Record<'a>),
    Deleted,
    /// It was put, with what is not known.
    Touched,
}

/// What was seen of a revision that no acknowledged operation has.
#[derive(Default)]
pub(super) struct Evidence<'a> {
    /// Whether `keys` is all that happened to the keys that the history owns.
    pub(super) complete: bool,
    pub(super) keys: BTreeMap<&'a str, (Seen<'a>, u64)>,
    /// Two sources that contradict each other.
    pub(super) conflict: Option<(u64, u64, &'a str)>,
}

/// The history by revisions.
#[derive(Default)]
pub(super) struct Facts<'a> {
    pub(super) txns: Vec<Fact<'a>>,
    /// Effective acknowledged transactions by their revision.
    pub(super) acked: Vec<(u64, usize)>,
    /// Answers by the revision whose state they show.
    pub(super) reads: Vec<(u64, usize)>,
    pub(super) others: HashMap<u64, Other>,
    /// Whether operations that are no transactions may have taken revisions
    /// without saying which.
    pub(super) others_open: bool,
    pub(super) evidence: HashMap<u64, Evidence<'a>>,
    /// What watches of all keys went through, by where they began; each goes as far
    /// as any before it.
    pub(super) covered: Vec<Passed>,
    pub(super) compactions: Vec<Compaction>,
    /// The events of faults.
    pub(super) faults: Vec<u64>,
    pub(super) newest: u64,
}

/// The revisions that one watch went through.
#[derive(Clone, Copy)]
pub(super) struct Passed {
    pub(super) from: u64,
    pub(super) to: u64,
    /// Its last response.
    pub(super) event: u64,
}

/// A request to forget history.
pub(super) struct Compaction {
    pub(super) revision: u64,
    pub(super) invoked: u64,
    /// The event of its success, or the end of time.
    pub(super) done: u64,
}

impl<'a> Facts<'a> {
    pub(super) fn collect(history: &'a History, context: &Context) -> Self {
        let mut facts = Self { newest: context.base_revision, ..Self::default() };
        let floors = facts.sweep(history);
        for operation in history.operations() {
            let floor = floors.get(&operation.invoke.index).copied().unwrap_or_default();
            facts.add(operation, floor);
        }
        facts.faults = history.faults().map(|(event, _)| event.index).collect();
        facts.acked.sort_unstable();
        facts.reads.sort_unstable();
        facts.collect_evidence(history, context);
        facts
    }

    /// The newest revision known before each invocation of a transaction.
    fn sweep(&mut self, history: &'a History) -> HashMap<u64, (u64, u64)> {
        let mut floor = (0, 0);
        let mut floors = HashMap::with_capacity(history.events().len() / 2);
        for event in history.events() {
            if event.kind == Kind::Invoke && matches!(event.op, Op::Txn(_)) {
                floors.insert(event.index, floor);
            }
            let shown = shown(event);
            if shown > floor.0 {
                floor = (shown, event.index);
            }
        }
        self.newest = self.newest.max(floor.0);
        floors
    }

    fn add(&mut self, operation: Operation<'a>, floor: (u64, u64)) {
        let outcome = operation.outcome();
        match &operation.invoke.op {
            Op::Txn(txn) => self.add_txn(operation, txn, floor, outcome),
            Op::Compact { revision } => self.compactions.push(Compaction {
                revision: *revision,
                invoked: operation.invoke.index,
                done: if outcome == Outcome::Ok { operation.return_index() } else { u64::MAX },
            }),
            _ => self.add_other(&operation),
        }
    }

    fn add_txn(
        &mut self,
        operation: Operation<'a>,
        txn: &'a Txn,
        floor: (u64, u64),
        outcome: Outcome,
    ) {
        let reply = match operation.ok() {
            Some((_, Op::Txn(done))) => done.reply.as_ref(),
            _ => None,
        };
        let effective = reply.is_some_and(|reply| changes_something(txn, reply));
        let place = self.txns.len();
        if let Some(reply) = reply {
            if effective {
                self.acked.push((reply.revision, place));
            } else {
                self.reads.push((txn.revision.unwrap_or(reply.revision), place));
            }
        }
        self.txns.push(Fact { operation, txn, reply, outcome, floor, effective });
    }

    fn add_other(&mut self, operation: &Operation<'a>) {
        let outcome = operation.outcome();
        if outcome == Outcome::Fail || !takes_revision(&operation.invoke.op) {
            return;
        }
        // Locks and claims have keys that go with a lease, at a revision that no
        // operation has.
        self.others_open |= matches!(operation.invoke.op, Op::LockAcquire(_) | Op::Claim(_));
        let Some((event, op)) = operation.ok() else {
            self.others_open = true;
            return;
        };
        let revoked = match op {
            Op::LeaseRevoke(revoke) => Some(revoke.lease),
            _ => None,
        };
        match own_revision(op) {
            Some(revision) => {
                self.others.insert(revision, Other { event: event.index, revoked });
            }
            None => self.others_open = true,
        }
    }

    /// What replies and watches show of the revisions that nobody was told of.
    fn collect_evidence(&mut self, history: &'a History, context: &Context) {
        let acked: HashSet<u64> = self.acked.iter().map(|(revision, _)| *revision).collect();
        let base = context.base_revision;
        let mut gaps = Gaps { acked, base, evidence: HashMap::new() };
        for fact in &self.txns {
            let (Some(reply), Some((event, _))) = (fact.reply, fact.operation.ok()) else {
                continue;
            };
            for kv in reply.results.iter().flat_map(kvs) {
                gaps.see(kv.modified, &kv.key, Seen::Put(Record::of(kv)), event.index);
                if kv.create != kv.modified {
                    gaps.see(kv.create, &kv.key, Seen::Touched, event.index);
                }
            }
        }
        let mut passed: HashMap<u64, Passed> = HashMap::new();
        for (event, watch) in history.watches() {
            let whole = covers(watch, context);
            if let WatchStep::Changes(changes) = &watch.step {
                gaps.see_changes(changes, whole, event.index);
            }
            if whole {
                go_through(watch, event.index, &mut passed);
            }
        }
        self.covered = passed.into_values().filter(|passed| passed.from <= passed.to).collect();
        self.covered.sort_unstable_by_key(|passed| (passed.from, passed.to));
        let mut farthest = Passed { from: 0, to: 0, event: 0 };
        for passed in &mut self.covered {
            if passed.to > farthest.to {
                farthest = *passed;
            }
            (passed.to, passed.event) = (farthest.to, farthest.event);
        }
        self.evidence = gaps.evidence;
    }

    /// A watch of all keys that went through a revision.
    pub(super) fn covering(&self, revision: u64) -> Option<Passed> {
        let begun = self.covered.partition_point(|passed| passed.from <= revision);
        let last = self.covered[..begun].last().copied();
        last.filter(|passed| revision <= passed.to)
    }
}

/// Gathers evidence of revisions that no acknowledged transaction has.
struct Gaps<'a> {
    acked: HashSet<u64>,
    base: u64,
    evidence: HashMap<u64, Evidence<'a>>,
}

impl<'a> Gaps<'a> {
    fn see(&mut self, revision: u64, key: &'a str, seen: Seen<'a>, event: u64) {
        if revision <= self.base || self.acked.contains(&revision) {
            return;
        }
        let evidence = self.evidence.entry(revision).or_default();
        match evidence.keys.get(key).copied() {
            None | Some((Seen::Touched, _)) => {
                evidence.keys.insert(key, (seen, event));
            }
            Some((known, before)) => {
                if seen != Seen::Touched && known != seen {
                    evidence.conflict.get_or_insert((before, event, key));
                }
            }
        }
    }

    fn see_changes(&mut self, changes: &'a [crate::history::Change], whole: bool, event: u64) {
        for change in changes {
            let seen = match (change.kind, &change.kv) {
                (ChangeKind::Put, Some(kv)) => Seen::Put(Record::of(kv)),
                (ChangeKind::Put, None) => Seen::Touched,
                (ChangeKind::Delete, _) => Seen::Deleted,
            };
            self.see(change.revision, &change.key, seen, event);
            if whole && let Some(evidence) = self.evidence.get_mut(&change.revision) {
                evidence.complete = true;
            }
        }
    }
}

/// The newest revision that an event shows to whoever received it.
fn shown(event: &Event) -> u64 {
    if event.kind != Kind::Ok || event.process == Process::Nemesis {
        return 0;
    }
    match &event.op {
        Op::Txn(txn) => txn.reply.as_ref().map_or(0, |reply| reply.revision),
        Op::Watch(watch) => match &watch.step {
            WatchStep::Changes(changes) => {
                changes.iter().map(|change| change.revision).max().unwrap_or(0)
            }
            WatchStep::Progress(revision) => *revision,
            _ => 0,
        },
        op => own_revision(op).unwrap_or(0),
    }
}

/// Whether an operation that is no transaction can advance the revision.
fn takes_revision(op: &Op) -> bool {
    matches!(
        op,
        Op::LeaseRevoke(_)
            | Op::LockAcquire(_)
            | Op::LockRelease(_)
            | Op::CounterAdd(_)
            | Op::Enqueue(_)
            | Op::Claim(_)
            | Op::Finish(_)
            | Op::EntityPatch(_)
            | Op::ConfigSet(_)
    )
}

/// The revision that an operation other than a transaction reports as its own.
pub(super) fn own_revision(op: &Op) -> Option<u64> {
    match op {
        Op::LeaseRevoke(revoke) => revoke.revision,
        Op::LockAcquire(acquire) => acquire.token,
        Op::CounterAdd(add) => add.revision,
        Op::Enqueue(enqueue) => enqueue.revision,
        Op::Claim(claim) => claim.token,
        Op::Finish(finish) => finish.revision,
        Op::EntityPatch(patch) => patch.revision,
        Op::ConfigSet(set) => set.revision,
        _ => None,
    }
}

/// Whether a reply says that the transaction changed a key.
fn changes_something(txn: &Txn, reply: &TxnReply) -> bool {
    use crate::history::Action;
    let actions = txn.branch(reply.succeeded);
    let puts = actions.iter().any(|action| matches!(action, Action::Put { .. }));
    puts || reply
        .results
        .iter()
        .any(|result| matches!(result, ActionReply::Delete { deleted, .. } if *deleted > 0))
}

/// All records in an answer.
fn kvs(reply: &ActionReply) -> &[crate::history::KeyValue] {
    match reply {
        ActionReply::Put { prev } => prev.as_slice(),
        ActionReply::Delete { prev, .. } => prev,
        ActionReply::Range { kvs, .. } => kvs,
    }
}

/// Whether a watch sees all keys that the history owns.
fn covers(watch: &Watch, context: &Context) -> bool {
    let Some(end) = watch.end.as_deref() else { return false };
    context.prefixes.iter().all(|prefix| {
        let last = prefix_end(prefix);
        let reaches = end.is_empty() || (!last.is_empty() && last.as_str() <= end);
        watch.key.as_str() <= prefix.as_str() && reaches
    })
}

/// Notes how far a watch has come with this response.
fn go_through(watch: &Watch, event: u64, passed: &mut HashMap<u64, Passed>) {
    let to = match &watch.step {
        WatchStep::Created { start } => {
            passed.insert(watch.watch, Passed { from: *start, to: 0, event });
            return;
        }
        WatchStep::Changes(changes) => changes.iter().map(|change| change.revision).max(),
        WatchStep::Progress(revision) => Some(*revision),
        _ => None,
    };
    if let (Some(to), Some(passed)) = (to, passed.get_mut(&watch.watch)) {
        passed.to = passed.to.max(to);
        passed.event = event;
    }
}
