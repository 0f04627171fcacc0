//! The state over each engine against a store that keeps everything literally,
//! over random commands, with restarts, crashes, compaction and moves to other
//! engines in between.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use bytes::Bytes;
use keelstone_store::disk::{EngineKind, LogId, MemoryDisk};
use keelstone_store::machine::{Batch, Event, Record, Rejection, View, codec};
use keelstone_store::state::{
    Applied, AppliedEntry, Payload, SnapshotTrailer, State, StateOptions, StateView,
};
use keelstone_store::{Key, KeyRange, LeaseId, Millis, RangeEnd, Revision, SessionId};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use support::generate::{concrete, drafts};
use support::memory::Memory;

const HISTORY: [u8; 16] = [7; 16];

/// What happens between two batches.
#[derive(Clone, Copy, Debug)]
enum Between {
    Nothing,
    CompactStep(usize),
    Checkpoint,
    /// Close and open again; in memory, lose what was not checkpointed.
    Restart,
    /// Send a snapshot to a replica with another engine, and go on there.
    Move,
}

fn between() -> impl Strategy<Value = Between> {
    prop_oneof![
        8 => Just(Between::Nothing),
        4 => (1..20_usize).prop_map(Between::CompactStep),
        1 => Just(Between::Checkpoint),
        1 => Just(Between::Restart),
        1 => Just(Between::Move),
    ]
}

/// A replica whose state can be closed, crashed and moved.
struct Replica {
    kind: EngineKind,
    dir: tempfile::TempDir,
    disk: MemoryDisk,
    state: Option<Arc<State>>,
    log: Vec<(LogId, Payload)>,
}

impl Replica {
    fn new(kind: EngineKind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut replica =
            Self { kind, dir, disk: MemoryDisk::default(), state: None, log: Vec::new() };
        replica.open();
        replica
    }

    fn open(&mut self) {
        let state = match self.kind {
            EngineKind::Memory => State::open_in_memory(&self.disk).unwrap(),
            kind => State::open(self.dir.path(), kind, StateOptions::default()).unwrap(),
        };
        state.format(HISTORY).unwrap();
        self.state = Some(Arc::new(state));
    }

    fn state(&self) -> &Arc<State> {
        self.state.as_ref().unwrap()
    }

    fn view(&self) -> StateView {
        self.state().view().unwrap()
    }

    fn apply(&mut self, batch: &Batch) -> AppliedEntry {
        let commands: Vec<_> = batch.commands.iter().map(codec::encode_envelope).collect();
        let payload = Payload::Batch(codec::encode_batch(batch.now, &commands));
        let id = LogId { term: 3, index: self.log.len() as u64, leader: 2 };
        self.log.push((id, payload.clone()));
        let mut applied = self.state().apply(&[(id, payload)]).unwrap();
        applied.remove(0)
    }

    fn restart(&mut self) {
        self.state = None;
        self.disk.crash();
        self.open();
        let next = self.view().applied().id.map_or(0, |id| id.index + 1);
        self.state().apply(&self.log[usize::try_from(next).unwrap()..]).unwrap();
    }

    /// The next engine's turn, filled from a snapshot of this one.
    fn move_on(&mut self, kinds: &[EngineKind]) {
        let next = kinds.iter().position(|kind| *kind == self.kind).unwrap() + 1;
        let mut other = Self::new(kinds[next % kinds.len()]);
        std::mem::swap(&mut other.log, &mut self.log);
        send(self.state(), other.state());
        assert_eq!(snapshot(other.state()), snapshot(self.state()));
        *self = other;
    }
}

fn snapshot(state: &State) -> (Applied, Vec<Bytes>, SnapshotTrailer) {
    let mut reader = state.snapshot().unwrap();
    let (applied, _) = reader.header();
    let chunks = reader.by_ref().map(Result::unwrap).collect();
    (applied, chunks, reader.trailer())
}

fn send(from: &State, to: &Arc<State>) {
    let mut reader = from.snapshot().unwrap();
    let (applied, head) = reader.header();
    let mut writer = to.begin_install(applied, head).unwrap();
    while let Some(chunk) = reader.next_chunk().unwrap() {
        writer.write(chunk).unwrap();
    }
    to.install(writer.finish(&reader.trailer()).unwrap()).unwrap();
}

/// What a run compares with.
#[derive(Default)]
struct Expected {
    memory: Memory,
    events: Vec<Event>,
}

type Keys = BTreeMap<Key, Record>;

fn keys_at<V: View>(view: &V, range: &KeyRange, revision: Revision) -> Keys
where
    V::Error: std::fmt::Debug,
{
    let mut keys = Vec::new();
    view.scan_at(range, revision, &mut |key, record| {
        keys.push((key, record));
        true
    })
    .unwrap();
    assert!(keys.is_sorted_by(|a, b| a.0 < b.0), "keys are in order");
    keys.into_iter().collect()
}

const EVERYTHING: KeyRange = KeyRange { start: Bytes::new(), end: RangeEnd::Unbounded };

fn compare(view: &StateView, expected: &Expected) {
    let memory = &expected.memory;
    assert_eq!(view.head(), memory.head);
    let mut live = Keys::new();
    view.scan(&EVERYTHING, &mut |key, record| live.insert(key, record).is_none()).unwrap();
    assert_eq!(live, memory.live());
    compare_reads(view, memory);
    compare_events(view, expected);
    compare_versions(view, memory);
    let leases = view.leases(LeaseId::NONE, 100).unwrap();
    assert_eq!(leases, memory.leases.values().copied().collect::<Vec<_>>());
    for id in (0..6).map(LeaseId) {
        assert_eq!(view.lease(id).unwrap(), memory.leases.get(&id).copied());
        assert_eq!(view.lease_keys(id).unwrap(), memory.lease_keys(id).unwrap());
    }
    for id in (0..6).map(SessionId) {
        assert_eq!(view.session(id).unwrap(), memory.sessions.get(&id).copied());
    }
    for ((id, sequence), reply) in &memory.replies {
        assert_eq!(view.session_reply(*id, *sequence).unwrap().as_ref(), Some(reply));
        assert_eq!(view.session_reply(*id, sequence + 1000).unwrap(), None);
    }
    compare_expiry(view, memory);
}

fn compare_reads(view: &StateView, memory: &Memory) {
    let compacted = memory.head.compacted.get();
    for revision in compacted..=memory.head.revision.get() {
        let revision = Revision::new(revision);
        assert_eq!(keys_at(view, &EVERYTHING, revision), memory.at(revision));
        let part = KeyRange { start: "b".into(), end: RangeEnd::Until("d".into()) };
        assert_eq!(keys_at(view, &part, revision), keys_at(memory, &part, revision));
        let single = KeyRange::single(&Key("c".into()));
        assert_eq!(keys_at(view, &single, revision), keys_at(memory, &single, revision));
    }
}

fn compare_events(view: &StateView, expected: &Expected) {
    let compacted = expected.memory.head.compacted;
    for from in compacted.get()..=expected.memory.head.revision.get() + 1 {
        let from = Revision::new(from);
        let later = |event: &&Event| event.revision >= from;
        let later: Vec<_> = expected.events.iter().filter(later).cloned().collect();
        let found = view.events_from(from, usize::MAX, usize::MAX).unwrap().unwrap();
        assert_eq!(found, later);
        // In pieces of whole revisions.
        let mut pieces = Vec::new();
        let mut next = from;
        loop {
            let piece = view.events_from(next, 1, usize::MAX).unwrap().unwrap();
            let Some(last) = piece.last() else { break };
            assert!(piece.iter().all(|event| event.revision == last.revision));
            next = last.revision.next();
            pieces.extend(piece);
        }
        assert_eq!(pieces, later);
    }
    if compacted > Revision::ZERO {
        let below = view.events_from(compacted.previous(), 1, 1).unwrap();
        assert!(matches!(below, Err(Rejection::Compacted { .. })));
    }
}

/// A key's versions, back to the one in force at the compaction.
fn versions_of(memory: &Memory, key: &Key) -> Vec<(Revision, Option<Record>)> {
    let compacted = memory.head.compacted;
    let mut versions = Vec::new();
    let all = memory.history.get(key).into_iter().flatten();
    for (revision, record) in all.rev() {
        if *revision < compacted && record.is_none() {
            break;
        }
        versions.push((*revision, record.clone()));
        if *revision <= compacted {
            break;
        }
    }
    versions
}

fn compare_versions(view: &StateView, memory: &Memory) {
    for key in memory.history.keys() {
        let expected = versions_of(memory, key);
        let found = view.versions(key, None, 1000).unwrap();
        assert_eq!(found.versions, expected);
        assert!(!found.more);
        let mut pages = Vec::new();
        let mut below = None;
        loop {
            let page = view.versions(key, below, 2).unwrap();
            below = page.versions.last().map(|(revision, _)| *revision);
            pages.extend(page.versions);
            if !page.more {
                break;
            }
        }
        assert_eq!(pages, expected);
    }
}

fn compare_expiry(view: &StateView, memory: &Memory) {
    for ahead in [0, 1, 999, 1_000, 2_499, 5_000, 20_000] {
        let now = Millis(memory.head.now.0 + ahead);
        let mut leases = view.expiring_leases(now, 100).unwrap();
        leases.sort_by_key(|lease| lease.id);
        let due = memory.leases.values().filter(|lease| lease.expires <= now).copied();
        assert_eq!(leases, due.collect::<Vec<_>>());
        let mut sessions = view.expiring_sessions(now, 100).unwrap();
        sessions.sort_by_key(|session| session.id);
        let due = memory.sessions.values().filter(|session| session.expires <= now).copied();
        assert_eq!(sessions, due.collect::<Vec<_>>());
    }
}

fn run(kinds: &[EngineKind], batches: &[Batch], between: &[Between]) {
    let mut replica = Replica::new(kinds[0]);
    let mut expected = Expected::default();
    let mut held = Vec::new();
    for (batch, between) in batches.iter().zip(between.iter().cycle()) {
        let transition = expected.memory.apply(batch);
        expected.events.extend(transition.events.iter().cloned());
        let applied = replica.apply(batch);
        assert_eq!(applied.replies, transition.replies);
        assert_eq!(applied.events, transition.events);
        assert_eq!(applied.head, transition.head);
        compare(&replica.view(), &expected);
        held.push((replica.view(), expected.memory.live(), expected.memory.head.revision));
        match between {
            Between::Nothing => {}
            Between::CompactStep(rows) => drop(replica.state().compact_step(*rows).unwrap()),
            Between::Checkpoint => drop(replica.state().checkpoint().unwrap()),
            Between::Restart => {
                held.clear();
                replica.restart();
            }
            Between::Move => replica.move_on(kinds),
        }
        compare(&replica.view(), &expected);
    }
    let before = snapshot(replica.state());
    while replica.state().compact_step(3).unwrap() {}
    compare(&replica.view(), &expected);
    assert_eq!(snapshot(replica.state()), before, "compaction shows in a snapshot");
    // Old views still show what they showed.
    for (view, live, revision) in held {
        assert_eq!(view.head().revision, revision);
        assert_eq!(keys_at(&view, &EVERYTHING, revision), live);
    }
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("seeds"))),
        ..ProptestConfig::default()
    }
}

fn available(kinds: &[EngineKind]) -> Vec<EngineKind> {
    kinds.iter().copied().filter(|kind| kind.is_available()).collect()
}

proptest! {
    #![proptest_config(config(96))]

    #[test]
    fn the_state_in_memory_is_the_model(
        drafts in drafts(),
        between in prop::collection::vec(between(), 1..14),
    ) {
        run(&[EngineKind::Memory], &concrete(drafts), &between);
    }
}

proptest! {
    #![proptest_config(config(10))]

    #[test]
    fn the_state_on_every_engine_is_the_model(
        drafts in drafts(),
        between in prop::collection::vec(between(), 1..14),
    ) {
        let kinds = available(&EngineKind::ALL);
        for first in 0..kinds.len() {
            let mut kinds = kinds.clone();
            kinds.rotate_left(first);
            run(&kinds, &concrete(drafts.clone()), &between);
        }
    }
}

/// A state directory is removed with the test.
#[test]
fn a_directory_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path: &Path = &dir.path().join("state");
    for kind in available(&[EngineKind::Fjall, EngineKind::Sled]) {
        let path = path.join(kind.name());
        drop(State::open(&path, kind, StateOptions::default()).unwrap());
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
