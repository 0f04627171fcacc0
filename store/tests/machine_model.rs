//! The state machine against a naive model, over random commands.

mod support;

use keelstone_store::machine::{
    Batch, Command, Envelope, Event, Outcome, Rejection, Remembered, Reply, Transition, WriteId,
    codec, read_range,
};
use keelstone_store::{RangeEnd, Revision, SessionId};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{FileFailurePersistence, TestRunner};
use std::collections::BTreeMap;
use support::generate::{concrete, drafts, range, txn};
use support::memory::Memory;
use support::model::Model;

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("seeds"))),
        ..ProptestConfig::default()
    })]

    /// Replies, keys at every revision, leases, sessions and events are the
    /// model's after every batch.
    #[test]
    fn apply_equals_the_model(drafts in drafts()) {
        let (mut store, mut model) = (Memory::default(), Model::default());
        for batch in concrete(drafts) {
            let before = model.revision();
            model.pass_time(batch.now);
            let expected: Vec<_> =
                batch.commands.iter().map(|command| model.run(batch.now, command)).collect();
            let transition = store.apply(&batch);
            prop_assert_eq!(&transition.replies, &expected);
            same_state(&store, &model)?;
            same_events(&transition, &model, before)?;
        }
    }

    /// Reads at any revision are the model's past states.
    #[test]
    fn reads_equal_the_model(drafts in drafts(), ranges in prop::collection::vec(range(), 1..8)) {
        let (mut store, mut model) = (Memory::default(), Model::default());
        for batch in concrete(drafts) {
            model.pass_time(batch.now);
            for command in &batch.commands {
                model.run(batch.now, command);
            }
            store.apply(&batch);
        }
        for mut range in ranges {
            if range.range.end == RangeEnd::Single && range.range.start.is_empty() {
                continue;
            }
            for revision in 0..=model.revision().get() + 1 {
                range.revision = Revision::new(revision);
                let Ok(found) = read_range(&store, &range);
                prop_assert_eq!(found, model.range(&range, model.live()));
            }
        }
    }

    /// How commands are packed into batches changes nothing.
    #[test]
    fn splitting_batches_changes_nothing(drafts in drafts(), cuts in any::<u64>()) {
        let batches = concrete(drafts);
        let (mut whole, mut split) = (Memory::default(), Memory::default());
        for batch in &batches {
            let transition = whole.apply(batch);
            let parts: Vec<_> = pieces(batch, cuts).iter().map(|part| split.apply(part)).collect();
            prop_assert_eq!(&joined(parts), &transition);
        }
        prop_assert_eq!(whole, split);
    }

    /// A batch means the same after it went through the log.
    #[test]
    fn the_log_keeps_the_meaning(drafts in drafts()) {
        let (mut store, mut replica) = (Memory::default(), Memory::default());
        for batch in concrete(drafts) {
            let commands: Vec<_> = batch.commands.iter().map(codec::encode_envelope).collect();
            let logged = codec::decode_batch(codec::encode_batch(batch.now, &commands));
            let logged = logged.expect("what was encoded can be read");
            prop_assert_eq!(&logged, &batch);
            prop_assert_eq!(store.apply(&batch), replica.apply(&logged));
        }
        prop_assert_eq!(store, replica);
    }

    /// A client that sends writes of its sessions twice in a row has the effects
    /// and the answers of one that sends each once.
    #[test]
    fn retries_at_once_change_nothing(drafts in drafts(), repeats in any::<u64>()) {
        let (mut once, mut often) = (Memory::default(), Memory::default());
        for batch in concrete(drafts) {
            let replies = once.apply(&batch).replies;
            let mut doubled = Batch { now: batch.now, commands: Vec::new() };
            let mut answers = Vec::new();
            for (place, (command, reply)) in batch.commands.iter().zip(replies).enumerate() {
                let again = bit(repeats, place) && can_be_retried(command);
                for _ in 0..=u8::from(again) {
                    doubled.commands.push(command.clone());
                    answers.push(reply.clone());
                }
            }
            let found = often.apply(&doubled).replies;
            for (found, expected) in found.iter().zip(&answers) {
                prop_assert!(found == expected || found.outcome == Outcome::Applied);
            }
        }
        // Not even the hash can tell: a retry at the same time writes nothing.
        prop_assert_eq!(once, often);
    }

    /// A retry that comes later, among other writes, gets the answer of old and
    /// changes no key.
    #[test]
    fn late_retries_change_nothing(
        writes in prop::collection::vec((txn(2), any::<prop::sample::Index>(), 0..4_u8), 1..40)
    ) {
        let mut store = Memory::default();
        let session = SessionId(9);
        let ttl_ms = 60_000;
        let open = Command::SessionOpen { id: session, ttl_ms };
        store.run(1, Envelope { write_id: None, command: open });
        let mut sent: Vec<(Envelope, Reply)> = Vec::new();
        for (now, (txn, earlier, retries)) in (2..).zip(writes) {
            let sequence = sent.len() as u64 + 1;
            let write_id = Some(WriteId { session, sequence, acked_below: 0 });
            let envelope = Envelope { write_id, command: Command::Txn(txn) };
            let reply = store.run(now, envelope.clone());
            sent.push((envelope, reply));
            for _ in 0..retries {
                let (envelope, reply) = &sent[earlier.index(sent.len())];
                let before = store.clone();
                let again = store.run(now, envelope.clone());
                if fails_again(reply) {
                    // Not remembered if it failed for good: judged anew, alike.
                    prop_assert_eq!(&again.outcome, &reply.outcome);
                } else {
                    prop_assert!(&again == reply || again.outcome == Outcome::Applied);
                    prop_assert_eq!(again.revision, reply.revision);
                }
                prop_assert_eq!(before.history, store.history.clone());
                prop_assert_eq!(before.replies, store.replies.clone());
            }
        }
    }
}

/// Commands that begin and end sessions are left out: with the session its
/// memory goes, and a server never uses an id twice.
fn can_be_retried(envelope: &Envelope) -> bool {
    use Command::{SessionClose, SessionExpire, SessionOpen};
    let lifecycle =
        matches!(envelope.command, SessionOpen { .. } | SessionClose { .. } | SessionExpire { .. });
    envelope.write_id.is_some() && !lifecycle
}

/// Whether the reply is of a transaction that failed and did nothing.
fn fails_again(reply: &Reply) -> bool {
    matches!(&reply.outcome, Outcome::Txn(txn) if !txn.succeeded && txn.ops.is_empty())
}

fn bit(bits: u64, place: usize) -> bool {
    bits >> (place % 64) & 1 == 1
}

fn same_state(store: &Memory, model: &Model) -> Result<(), TestCaseError> {
    prop_assert_eq!(store.head.revision, model.revision());
    prop_assert_eq!(store.head.compacted.get(), model.compacted);
    prop_assert_eq!(store.head.now, model.now);
    prop_assert_eq!(store.head.feature_level, model.feature_level);
    prop_assert_eq!(&store.leases, &model.leases);
    prop_assert_eq!(&store.sessions, &model.sessions);
    prop_assert_eq!(&store.replies, &model.replies);
    for (revision, keys) in model.states.iter().enumerate() {
        prop_assert_eq!(&store.at(Revision::new(revision as u64)), keys);
    }
    Ok(())
}

/// The events are what tells each state from the one before.
fn same_events(
    transition: &Transition,
    model: &Model,
    before: Revision,
) -> Result<(), TestCaseError> {
    let mut expected = BTreeMap::new();
    for revision in before.get() + 1..=model.revision().get() {
        let at = |revision| &model.states[usize::try_from(revision).expect("it is small")];
        let (old, new) = (at(revision - 1), at(revision));
        let revision = Revision::new(revision);
        for key in old.keys().chain(new.keys()) {
            let (previous, record) = (old.get(key).cloned(), new.get(key).cloned());
            if previous != record {
                let event = Event { revision, key: key.clone(), record, previous };
                expected.insert((revision, key.clone()), event);
            }
        }
    }
    prop_assert_eq!(transition.events.len(), expected.len());
    for event in &transition.events {
        prop_assert_eq!(Some(event), expected.get(&(event.revision, event.key.clone())));
    }
    Ok(())
}

/// Cuts a batch after those commands whose bit is set.
fn pieces(batch: &Batch, cuts: u64) -> Vec<Batch> {
    let mut pieces = vec![Batch { now: batch.now, commands: Vec::new() }];
    for (place, command) in batch.commands.iter().enumerate() {
        let last = pieces.last_mut().expect("there is one");
        last.commands.push(command.clone());
        if bit(cuts, place) {
            pieces.push(Batch { now: batch.now, commands: Vec::new() });
        }
    }
    pieces
}

fn joined(parts: Vec<Transition>) -> Transition {
    let mut parts = parts.into_iter();
    let mut whole = parts.next().expect("a batch has at least one piece");
    for part in parts {
        whole.head = part.head;
        whole.writes.extend(part.writes);
        whole.events.extend(part.events);
        whole.replies.extend(part.replies);
    }
    whole
}

/// The random commands come to every kind of answer, so that the properties
/// above mean something.
#[test]
fn every_outcome_is_reached() {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    let mut runner = TestRunner::deterministic();
    for _ in 0..400 {
        let drafts = drafts().new_tree(&mut runner).expect("the strategy never refuses").current();
        let mut store = Memory::default();
        for batch in concrete(drafts) {
            let transition = store.apply(&batch);
            for (envelope, reply) in batch.commands.iter().zip(&transition.replies) {
                *seen.entry(kind(&reply.outcome)).or_default() += 1;
                if matches!(envelope.command, Command::LeaseExpire { .. }) {
                    let gone = transition.events.iter().any(|event| event.record.is_none());
                    *seen.entry("expired keys").or_default() += u64::from(gone);
                }
            }
            let large = store.replies.values().any(|what| matches!(what, Remembered::AppliedAt(_)));
            *seen.entry("a reply too large to remember").or_default() += u64::from(large);
        }
    }
    let expected = [
        "txn",
        "else",
        "lease",
        "renewed",
        "done",
        "applied",
        "key not found",
        "lease not found",
        "lease exists",
        "too large",
        "compacted",
        "future",
        "duplicate",
        "no session",
        "session exists",
        "forgotten",
        "invalid",
        "expired keys",
        "a reply too large to remember",
    ];
    for kind in expected {
        assert!(seen.get(kind).is_some_and(|times| *times >= 5), "{kind} in {seen:?}");
    }
}

fn kind(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Txn(reply) if reply.succeeded => "txn",
        Outcome::Txn(_) => "else",
        Outcome::Lease { .. } => "lease",
        Outcome::Renewed(_) => "renewed",
        Outcome::Done => "done",
        Outcome::Applied => "applied",
        Outcome::Rejected(rejection) => match rejection {
            Rejection::KeyNotFound => "key not found",
            Rejection::LeaseNotFound(_) => "lease not found",
            Rejection::LeaseExists(_) => "lease exists",
            Rejection::TooLarge { .. } => "too large",
            Rejection::Compacted { .. } => "compacted",
            Rejection::FutureRevision { .. } => "future",
            Rejection::DuplicateKey => "duplicate",
            Rejection::SessionNotFound(_) => "no session",
            Rejection::SessionExists(_) => "session exists",
            Rejection::ReplyForgotten { .. } => "forgotten",
            Rejection::Invalid(_) => "invalid",
            _ => "another",
        },
    }
}
