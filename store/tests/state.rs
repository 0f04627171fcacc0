//! The state over each engine: what is applied is there, at every revision,
//! after a restart and after a move to another engine.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use keelstone_store::disk::{EngineKind, LogId};
use keelstone_store::machine::{
    Batch, Command, Delete, Envelope, Op, Put, Range, Txn, View as _, codec,
};
use keelstone_store::state::{Payload, State, StateOptions};
use keelstone_store::{Key, KeyRange, Millis, Revision, Space};
use std::sync::Arc;

fn key(name: &str) -> Key {
    Space::Raw.key(name.as_bytes())
}

fn put(name: &str, value: &str) -> Op {
    Op::Put(Put::new(key(name), Bytes::copy_from_slice(value.as_bytes())))
}

fn delete(name: &str) -> Op {
    Op::Delete(Delete { range: KeyRange::single(&key(name)), previous: false })
}

fn txn(ops: Vec<Op>) -> Command {
    Command::Txn(Txn { compares: Vec::new(), then: ops, otherwise: Vec::new() })
}

fn batch(now: u64, commands: Vec<Command>) -> Payload {
    let envelope = |command| Envelope { write_id: None, command };
    let batch = Batch { now: Millis(now), commands: commands.into_iter().map(envelope).collect() };
    let encoded: Vec<_> = batch.commands.iter().map(codec::encode_envelope).collect();
    Payload::Batch(codec::encode_batch(batch.now, &encoded))
}

fn id(index: u64) -> LogId {
    LogId { term: 1, index, leader: 1 }
}

fn values_at(state: &State, revision: u64) -> Vec<(String, String)> {
    let range = Range { revision: Revision::new(revision), ..Range::all(Space::Raw.all()) };
    let reply = state.view().unwrap().range(&range).unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    reply.records.iter().map(|row| (text(&row.key.name()), text(&row.record.value))).collect()
}

fn write_some(state: &State) {
    state.format([7; 16]).unwrap();
    let entries = [
        (id(0), Payload::Blank),
        (id(1), batch(10, vec![txn(vec![put("a", "1"), put("b", "1")])])),
        (id(2), batch(20, vec![txn(vec![put("a", "2")]), txn(vec![delete("b"), put("c", "3")])])),
    ];
    state.apply(&entries).unwrap();
}

fn check_some(state: &State) {
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    assert_eq!(values_at(state, 2), pairs(&[("a", "1"), ("b", "1")]));
    assert_eq!(values_at(state, 3), pairs(&[("a", "2"), ("b", "1")]));
    assert_eq!(values_at(state, 4), pairs(&[("a", "2"), ("c", "3")]));
    let view = state.view().unwrap();
    assert_eq!(view.head().revision, Revision::new(4));
    assert_eq!(view.applied().id, Some(id(2)));
    let events = view.events_from(Revision::new(4), 10, 1000).unwrap().unwrap();
    assert_eq!(events.len(), 2);
}

fn persistent() -> Vec<EngineKind> {
    let kinds = [EngineKind::Fjall, EngineKind::Sled];
    kinds.into_iter().filter(|kind| kind.is_available()).collect()
}

#[test]
fn a_state_survives_a_restart() {
    for kind in persistent() {
        let dir = tempfile::tempdir().unwrap();
        let open =
            || State::open(&dir.path().join("state"), kind, StateOptions::default()).unwrap();
        let state = open();
        assert!(state.is_fresh());
        write_some(&state);
        check_some(&state);
        let applied = state.checkpoint().unwrap();
        assert_eq!(applied.id, Some(id(2)));
        drop(state);
        let state = open();
        assert!(!state.is_fresh());
        check_some(&state);
    }
}

#[test]
fn a_snapshot_carries_everything() {
    let source = State::in_memory();
    write_some(&source);
    for kind in persistent() {
        let dir = tempfile::tempdir().unwrap();
        let open = || State::open(dir.path(), kind, StateOptions::default()).unwrap();
        let target = Arc::new(open());
        let mut reader = source.snapshot().unwrap();
        let (applied, head) = reader.header();
        let mut writer = target.begin_install(applied, head).unwrap();
        while let Some(chunk) = reader.next_chunk().unwrap() {
            writer.write(chunk).unwrap();
        }
        let finished = writer.finish(&reader.trailer()).unwrap();
        target.install(finished).unwrap();
        check_some(&target);
        target.compact_step(100).unwrap();
        drop(target);
        check_some(&open());
    }
}
