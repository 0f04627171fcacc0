//! Keys in doubt: what unknown operations may have changed at a revision that
//! nobody saw. No doubt is a violation, and what is not in doubt is judged.

use super::{judge, samples};
use crate::check::{Context, Verdict, replay, watch};
use crate::history::{
    Action, ActionReply, Change, ChangeKind, Event, History, KeyValue, Kind, Op, Recorder, Txn,
    TxnReply, Watch, WatchStep, spans,
};
use crate::sample::{Sample, Sampled, Workload};
use std::sync::Arc;

/// A history written by hand, one operation after the other.
struct Story {
    recorder: Recorder,
    watches: u64,
}

impl Story {
    fn new() -> Self {
        Self { recorder: Recorder::in_memory(200, Arc::new(|| 1)), watches: 0 }
    }

    /// A transaction that is acknowledged.
    fn acked(&self, actions: Vec<Action>, revision: u64, results: Vec<ActionReply>) {
        let process = self.recorder.new_process();
        let mut txn = Txn { success: actions, linearizable: true, ..Txn::default() };
        self.recorder.invoke(process, Op::Txn(txn.clone()), None);
        txn.reply = Some(TxnReply { revision, succeeded: true, results });
        self.recorder.ok(process, Op::Txn(txn), None);
    }

    fn put(&self, key: &str, value: &str, revision: u64) {
        self.acked(vec![Action::put(key, value)], revision, vec![ActionReply::Put { prev: None }]);
    }

    /// A read of one key, at a revision.
    fn get(&self, key: &str, revision: u64, found: Option<KeyValue>) {
        let count = u64::from(found.is_some());
        let kvs = found.into_iter().collect();
        let result = ActionReply::Range { kvs, count, more: false };
        self.acked(vec![Action::get(key)], revision, vec![result]);
    }

    /// A transaction that nobody answers.
    fn unknown(&self, actions: Vec<Action>) {
        let process = self.recorder.new_process();
        let op = Op::Txn(Txn { success: actions, linearizable: true, ..Txn::default() });
        self.recorder.invoke(process, op.clone(), None);
        self.recorder.info(process, op, None, "timeout".to_owned());
    }

    /// A watch of one key from a revision on, and what it delivers.
    fn watch(&mut self, key: &str, start: u64, prev: bool, changes: &[Change]) {
        self.watches += 1;
        let process = self.recorder.new_process();
        let tell = |kind, step| {
            let (watch, reader, end) = (self.watches, self.watches, None);
            let key = key.to_owned();
            let op = Watch { watch, reader, key, end, start, prev, revision: None, step };
            self.recorder.record(process, kind, Op::Watch(op), None, None);
        };
        tell(Kind::Invoke, WatchStep::Create);
        tell(Kind::Ok, WatchStep::Created { start });
        for change in changes {
            tell(Kind::Ok, WatchStep::Changes(vec![change.clone()]));
        }
    }

    /// What replay and the watch checker say.
    fn judge(self) -> [Verdict; 2] {
        let history = self.recorder.finish().unwrap();
        let context = Context::default();
        [replay::check(&history, &context), watch::check(&history, &context)]
    }

    fn passes(self) {
        for verdict in self.judge() {
            assert!(!verdict.is_violation(), "{verdict}");
        }
    }

    /// Both name the rule, and no other.
    fn breaks(self, rule: &str) {
        for verdict in self.judge() {
            assert!(verdict.is_violation(), "no {rule}: {verdict}");
            assert!(verdict.kept().iter().all(|violation| violation.rule == rule), "{verdict}");
        }
    }

    /// Replay names the rule, and no other.
    fn breaks_replay(self, rule: &str) {
        let [verdict, _] = self.judge();
        assert!(verdict.is_violation(), "no {rule}: {verdict}");
        assert!(verdict.kept().iter().all(|violation| violation.rule == rule), "{verdict}");
    }
}

fn kv(key: &str, value: &str, create: u64, modified: u64, version: u64) -> KeyValue {
    let (key, value) = (key.to_owned(), value.to_owned());
    KeyValue { key, value, create, modified, version, lease: 0 }
}

fn put_seen(kv: KeyValue, prev: Option<KeyValue>) -> Change {
    let (revision, key) = (kv.modified, kv.key.clone());
    Change { revision, kind: ChangeKind::Put, key, kv: Some(kv), prev }
}

fn gone(key: &str, revision: u64) -> Change {
    Change { revision, kind: ChangeKind::Delete, key: key.to_owned(), kv: None, prev: None }
}

/// `a` has one value, and revision 3 left no trace: perhaps it deleted `a`.
fn with_a_deletion_that_nobody_saw() -> Story {
    let story = Story::new();
    story.put("a", "1", 1);
    story.put("b", "1", 2);
    story.unknown(vec![Action::delete("a")]);
    story
}

#[test]
fn a_key_that_was_deleted_unseen_begins_anew() {
    let mut story = with_a_deletion_that_nobody_saw();
    story.put("a", "2", 4);
    story.watch("a", 4, false, &[put_seen(kv("a", "2", 4, 4, 1), None)]);
    story.passes();
    // Or it was something else, and the key went on.
    let mut story = with_a_deletion_that_nobody_saw();
    story.unknown(vec![Action::put("c", "1")]);
    story.put("a", "2", 4);
    story.watch("a", 4, false, &[put_seen(kv("a", "2", 1, 4, 2), None)]);
    story.passes();
}

#[test]
fn the_value_before_a_put_of_a_doubtful_key_is_not_guessed() {
    let mut story = with_a_deletion_that_nobody_saw();
    story.put("a", "2", 4);
    story.watch("a", 4, true, &[put_seen(kv("a", "2", 4, 4, 1), None)]);
    story.passes();
    let mut story = Story::new();
    story.put("a", "1", 1);
    story.unknown(vec![Action::put("a", "x")]);
    story.put("a", "2", 3);
    let before = kv("a", "x", 1, 2, 2);
    story.watch("a", 3, true, &[put_seen(kv("a", "2", 1, 3, 3), Some(before))]);
    story.passes();
}

#[test]
fn the_value_of_a_put_is_known_whatever_was_there_before() {
    let mut story = with_a_deletion_that_nobody_saw();
    story.put("a", "2", 4);
    story.watch("a", 4, false, &[put_seen(kv("a", "other", 4, 4, 1), None)]);
    story.breaks("W5");
    let mut story = with_a_deletion_that_nobody_saw();
    story.put("a", "2", 4);
    story.watch("a", 4, false, &[gone("a", 4)]);
    story.breaks("W5");
    // A watch that went past it has lost it.
    let mut story = with_a_deletion_that_nobody_saw();
    story.put("a", "2", 4);
    story.put("a", "3", 5);
    story.watch("a", 4, false, &[put_seen(kv("a", "3", 4, 5, 2), None)]);
    story.breaks("W5");
}

#[test]
fn a_put_of_a_doubtful_key_may_not_be_lost() {
    let story = with_a_deletion_that_nobody_saw();
    story.put("a", "2", 4);
    story.get("a", 4, Some(kv("a", "2", 4, 4, 1)));
    story.passes();
    for found in [None, Some(kv("a", "1", 1, 1, 1))] {
        let story = with_a_deletion_that_nobody_saw();
        story.put("a", "2", 4);
        story.get("a", 4, found);
        story.breaks_replay("lost-write");
    }
}

#[test]
fn a_doubtful_key_is_not_what_a_known_revision_did_not_make_it() {
    let story = with_a_deletion_that_nobody_saw();
    story.put("b", "2", 4);
    // Revision 2 put `b`, and nothing else.
    story.get("a", 4, Some(kv("a", "made up", 2, 2, 1)));
    story.breaks_replay("unexpected-value");
}

#[test]
fn a_deletion_that_found_nothing_settles_a_doubtful_key() {
    let story = || {
        let story = with_a_deletion_that_nobody_saw();
        story.put("b", "2", 4);
        story.acked(
            vec![Action::delete("a")],
            4,
            vec![ActionReply::Delete { deleted: 0, prev: Vec::new() }],
        );
        story
    };
    let right = story();
    right.get("a", 4, None);
    right.passes();
    // What was settled is judged.
    let wrong = story();
    wrong.get("a", 4, Some(kv("a", "1", 1, 1, 1)));
    wrong.breaks_replay("unexpected-value");
    let mut anew = story();
    anew.put("a", "2", 5);
    anew.watch("a", 5, false, &[put_seen(kv("a", "2", 5, 5, 1), None)]);
    anew.passes();
    let mut went_on = story();
    went_on.put("a", "2", 5);
    went_on.watch("a", 5, false, &[put_seen(kv("a", "2", 1, 5, 2), None)]);
    went_on.breaks("W5");
}

#[test]
fn a_deletion_counts_at_least_the_keys_that_are_not_in_doubt() {
    let all = Action::Delete { key: "a".to_owned(), end: Some("c".to_owned()), prev: false };
    for (deleted, right) in [(0, false), (1, true), (2, true), (3, false)] {
        let story = with_a_deletion_that_nobody_saw();
        story.put("c", "1", 4);
        let result = ActionReply::Delete { deleted, prev: Vec::new() };
        // Without a deletion it has no revision of its own.
        story.acked(vec![all.clone()], if deleted == 0 { 4 } else { 5 }, vec![result]);
        if right { story.passes() } else { story.breaks_replay("wrong-answer") }
    }
}

#[test]
fn keys_that_are_not_in_doubt_are_judged_beside_those_that_are() {
    // In the same transaction.
    let both = |story: &Story| {
        let put = || ActionReply::Put { prev: None };
        let actions = vec![Action::put("a", "2"), Action::put("b", "2")];
        story.acked(actions, 4, vec![put(), put()]);
    };
    let mut story = with_a_deletion_that_nobody_saw();
    both(&story);
    story.watch("b", 4, true, &[put_seen(kv("b", "2", 2, 4, 2), Some(kv("b", "1", 2, 2, 1)))]);
    story.passes();
    let mut story = with_a_deletion_that_nobody_saw();
    both(&story);
    story.watch("b", 4, true, &[put_seen(kv("b", "2", 4, 4, 1), None)]);
    story.breaks("W5");
    let mut story = with_a_deletion_that_nobody_saw();
    both(&story);
    story.watch("b", 4, true, &[put_seen(kv("b", "2", 2, 4, 2), None)]);
    story.breaks("W10");
    // In one after it.
    let mut story = with_a_deletion_that_nobody_saw();
    story.put("a", "2", 4);
    story.put("b", "2", 5);
    story.watch("b", 5, false, &[put_seen(kv("b", "2", 2, 5, 3), None)]);
    story.breaks("W5");
}

fn leased(key: &str, lease: u64) -> Action {
    Action::Put { key: key.to_owned(), value: "1".to_owned(), lease, prev: false }
}

#[test]
fn a_lease_that_nobody_saw_attached_may_end() {
    let mut story = Story::new();
    story.put("a", "1", 1);
    story.unknown(vec![Action::Put {
        key: "a".to_owned(),
        value: "2".to_owned(),
        lease: 9,
        prev: false,
    }]);
    story.put("b", "1", 3);
    // Revision 2 gave it a lease, which ended.
    story.watch("a", 4, false, &[gone("a", 4)]);
    story.get("a", 4, None);
    story.passes();
}

#[test]
fn a_deletion_that_may_be_the_end_of_a_lease_is_no_proof_of_the_unknown_one() {
    let mut story = Story::new();
    story.acked(vec![leased("a", 9)], 1, vec![ActionReply::Put { prev: None }]);
    story.unknown(vec![Action::delete("a")]);
    story.put("a", "2", 3);
    // The lease ended at 2; what was asked before came late, at 4.
    story.watch(
        "a",
        2,
        false,
        &[gone("a", 2), put_seen(kv("a", "2", 3, 3, 1), None), gone("a", 4)],
    );
    story.passes();
}

#[test]
fn what_a_narrow_watch_does_not_see_of_several_possible_operations_is_in_doubt() {
    let mut story = Story::new();
    story.put("b", "0", 1);
    story.put("c", "0", 2);
    let both = |other: &str| vec![Action::put("a", "1"), Action::put(other, "1")];
    story.unknown(both("b"));
    story.unknown(both("c"));
    // The second of them it was; the first did not happen.
    story.watch("a", 3, false, &[put_seen(kv("a", "1", 3, 3, 1), None)]);
    story.get("b", 3, Some(kv("b", "0", 1, 1, 1)));
    story.passes();
}

/// The same history, with watches of a part instead of those of all keys.
fn narrowed(sampled: Sampled, key: &str, end: &str) -> Sampled {
    let mut events: Vec<Event> = Vec::new();
    for event in sampled.history.events() {
        let mut event = event.clone();
        event.index = events.len() as u64;
        if let Op::Watch(watch) = &mut event.op {
            if !watch.key.is_empty() {
                continue;
            }
            (watch.key, watch.end) = (key.to_owned(), Some(end.to_owned()));
            if let WatchStep::Changes(changes) = &mut watch.step {
                changes.retain(|change| spans(key, Some(end), &change.key));
                if changes.is_empty() {
                    continue;
                }
            }
        }
        events.push(event);
    }
    Sampled { history: History::new(events).unwrap(), ..sampled }
}

#[test]
fn narrow_watches_make_no_violation() {
    for workload in [Workload::Register, Workload::Single, Workload::Lease, Workload::Bank] {
        let bank = workload == Workload::Bank;
        let (key, end) = if bank { ("bank/1", "bank/2") } else { ("k/1", "k/2") };
        for seed in 0..samples(90) {
            let mut sample = Sample::new(workload, seed);
            sample.info_permille = [20, 100, 300][usize::try_from(seed % 3).unwrap()];
            let sampled = narrowed(sample.run(), key, end);
            for checker in ["replay", "watch", "lease"] {
                let verdict = judge(&sampled, checker);
                assert!(!verdict.is_violation(), "{workload:?}, seed {seed}: {verdict}");
            }
        }
    }
}
