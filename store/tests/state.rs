//! The state over each engine: what is applied is there, at every revision,
//! after a restart and after a move to another engine.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use keelstone_store::disk::{EngineKind, LogId};
use keelstone_store::machine::{
    Batch, Command, Delete, Envelope, Op, Put, Range, Txn, View as _, codec,
};
use keelstone_store::state::{
    Applied, OpenError, Payload, SnapshotReader, SnapshotTrailer, State, StateError, StateOptions,
};
use keelstone_store::{Key, KeyRange, LeaseId, Millis, Revision, Space};
use std::fs;
use std::path::Path;
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

fn open(dir: &Path, kind: EngineKind) -> State {
    State::open(dir, kind, StateOptions::default()).unwrap()
}

fn chunks(reader: &mut SnapshotReader) -> (Vec<Bytes>, SnapshotTrailer) {
    let chunks = reader.by_ref().map(Result::unwrap).collect();
    (chunks, reader.trailer())
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn engines_in(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    let mut engines: Vec<_> = names.filter(|name| name.starts_with("engine-")).collect();
    engines.sort();
    engines
}

/// The directory as a crash would leave it is copied at each step of an
/// install, and opened.
#[test]
fn a_crash_during_an_install_leaves_the_old_state_or_the_new() {
    let source = State::in_memory();
    write_some(&source);
    for kind in persistent() {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("live");
        let target = Arc::new(open(&live, kind));
        target.format([7; 16]).unwrap();
        target.apply(&[(id(0), batch(5, vec![txn(vec![put("old", "1")])]))]).unwrap();
        target.checkpoint().unwrap();
        let mut step = 0;
        let mut check_copy = |is_new: bool| {
            step += 1;
            let copy = dir.path().join(format!("copy-{step}"));
            copy_tree(&live, &copy);
            let state = open(&copy, kind);
            if is_new {
                check_some(&state);
            } else {
                assert_eq!(values_at(&state, 2), [("old".to_owned(), "1".to_owned())]);
            }
            assert_eq!(engines_in(&copy).len(), 1, "the leftovers are removed");
            assert!(!copy.join("CURRENT.next").exists());
        };
        let mut reader = source.snapshot().unwrap();
        let (applied, head) = reader.header();
        let mut writer = target.begin_install(applied, head).unwrap();
        check_copy(false);
        let (chunks, trailer) = chunks(&mut reader);
        for chunk in chunks {
            writer.write(chunk).unwrap();
            check_copy(false);
        }
        let finished = writer.finish(&trailer).unwrap();
        check_copy(false);
        target.install(finished).unwrap();
        check_copy(true);
        // The old engine goes when nobody reads it.
        assert_eq!(engines_in(&live), ["engine-000001", "engine-000002"]);
        target.compact_step(1).unwrap();
        assert_eq!(engines_in(&live), ["engine-000002"]);
        check_copy(true);
        check_some(&target);
    }
}

#[test]
fn an_old_view_outlives_an_install() {
    let source = State::in_memory();
    write_some(&source);
    for kind in persistent() {
        let dir = tempfile::tempdir().unwrap();
        let target = Arc::new(open(dir.path(), kind));
        target.format([7; 16]).unwrap();
        target.apply(&[(id(0), batch(5, vec![txn(vec![put("old", "1")])]))]).unwrap();
        let view = target.view().unwrap();
        let mut reader = source.snapshot().unwrap();
        let (applied, head) = reader.header();
        let mut writer = target.begin_install(applied, head).unwrap();
        let (chunks, trailer) = chunks(&mut reader);
        for chunk in chunks {
            writer.write(chunk).unwrap();
        }
        target.install(writer.finish(&trailer).unwrap()).unwrap();
        target.compact_step(1).unwrap();
        assert_eq!(view.get(&key("old")).unwrap().unwrap().value, "1");
        check_some(&target);
    }
}

#[test]
fn a_bad_snapshot_changes_nothing() {
    let source = State::in_memory();
    write_some(&source);
    let mut reader = source.snapshot().unwrap();
    let (applied, head) = reader.header();
    let (chunks, trailer) = chunks(&mut reader);
    assert_eq!(chunks.len(), 1);
    let target = Arc::new(State::in_memory());
    let receive = |applied: &Applied, chunks: &[Bytes], trailer: &SnapshotTrailer| {
        let mut writer = target.begin_install(applied.clone(), head.clone())?;
        chunks.iter().try_for_each(|chunk| writer.write(chunk.clone()))?;
        writer.finish(trailer).map(drop)
    };
    let refuses = |applied: &Applied, chunks: &[Bytes], trailer: &SnapshotTrailer| {
        let refused = receive(applied, chunks, trailer);
        assert!(matches!(refused, Err(StateError::BadSnapshot(_))), "{refused:?}");
        assert!(target.is_fresh());
    };
    refuses(&applied, &[], &trailer);
    refuses(&applied, &[chunks[0].clone(), chunks[0].clone()], &trailer);
    refuses(&applied, &chunks, &SnapshotTrailer { rows: trailer.rows + 1, ..trailer.clone() });
    refuses(&applied, &chunks, &SnapshotTrailer { hash: [0; 32], ..trailer.clone() });
    refuses(&Applied { id: Some(id(9)), ..applied.clone() }, &chunks, &trailer);
    for length in 0..chunks[0].len() {
        refuses(&applied, &[chunks[0].slice(..length)], &trailer);
    }
    for bit in 0..chunks[0].len() * 8 {
        let mut changed = chunks[0].to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        refuses(&applied, &[changed.into()], &trailer);
    }
    receive(&applied, &chunks, &trailer).unwrap();
}

#[test]
fn only_a_snapshot_that_is_ahead_is_taken_and_one_at_a_time() {
    let source = State::in_memory();
    write_some(&source);
    let (applied, head) = source.snapshot().unwrap().header();
    let target = Arc::new(State::in_memory());
    let first = target.begin_install(applied.clone(), head.clone()).unwrap();
    let second = target.begin_install(applied.clone(), head.clone()).err().unwrap();
    assert!(matches!(second, StateError::InstallRunning));
    drop(first);
    let mut reader = source.snapshot().unwrap();
    let mut writer = target.begin_install(applied.clone(), head.clone()).unwrap();
    let (chunks, trailer) = chunks(&mut reader);
    for chunk in chunks {
        writer.write(chunk).unwrap();
    }
    let finished = writer.finish(&trailer).unwrap();
    // Meanwhile the log has brought more than the snapshot has.
    target.format([7; 16]).unwrap();
    target.apply(&[(id(3), Payload::Blank)]).unwrap();
    let refused = target.install(finished).err().unwrap();
    assert!(matches!(refused, StateError::SnapshotBehind { .. }));
    assert_eq!(target.view().unwrap().applied().id, Some(id(3)));
    let refused = target.begin_install(applied, head).err().unwrap();
    assert!(matches!(refused, StateError::SnapshotBehind { .. }));
}

#[test]
fn a_lost_state_is_set_aside() {
    for kind in persistent() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("state");
        let damage: [&dyn Fn(); 3] = [
            &|| fs::remove_dir_all(state_dir.join("engine-000001")).unwrap(),
            &|| fs::write(state_dir.join("CURRENT"), "nonsense").unwrap(),
            &|| {
                for entry in fs::read_dir(state_dir.join("engine-000001")).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_file() {
                        fs::write(path, "nonsense that is no file of an engine").unwrap();
                    }
                }
            },
        ];
        for (number, damage) in (1..).zip(damage) {
            write_some(&open(&state_dir, kind));
            damage();
            let error = State::open(&state_dir, kind, StateOptions::default()).err().unwrap();
            assert!(error.is_lost(), "{kind}: {error}");
            let aside = State::set_aside(&state_dir, &error.to_string()).unwrap();
            assert_eq!(aside, dir.path().join(format!("state.aside-{number}")));
            let reason = fs::read_to_string(aside.join("REASON")).unwrap();
            assert_eq!(reason.trim_end(), error.to_string());
            assert!(open(&state_dir, kind).is_fresh());
            fs::remove_dir_all(&state_dir).unwrap();
        }
    }
}

#[test]
fn another_engine_is_not_opened_by_mistake() {
    let kinds = persistent();
    let [first, second] = kinds[..] else { return };
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), first));
    let error = State::open(dir.path(), second, StateOptions::default()).err().unwrap();
    assert!(matches!(error, OpenError::OtherEngine { .. }));
    assert!(!error.is_lost());
}

#[test]
fn a_backup_is_restored_into_a_new_history() {
    let source = State::in_memory();
    source.format([7; 16]).unwrap();
    let grant = Command::LeaseGrant { id: LeaseId(5), ttl_ms: 60_000 };
    let leased = Put { lease: LeaseId(5), ..Put::new(key("leased"), Bytes::from_static(b"1")) };
    let large = "v".repeat(700_000);
    let entries = [
        (id(0), batch(10, vec![grant, txn(vec![Op::Put(leased)])])),
        (id(1), batch(20, vec![txn(vec![put("large-1", &large), put("large-2", &large)])])),
        (id(2), batch(30, vec![txn(vec![put("large-3", &large), put("small", "1")])])),
        (id(3), batch(40, vec![txn(vec![put("small", "2"), delete("large-1")])])),
    ];
    source.apply(&entries).unwrap();
    let view = source.view().unwrap();
    for revision in [4, 5].map(Revision::new) {
        let mut export = view.export_rows(revision).unwrap();
        let chunks: Vec<_> = export.by_ref().map(Result::unwrap).collect();
        let trailer = export.trailer();
        assert_eq!(trailer.state_root, view.state_root(revision).unwrap().unwrap());
        assert_eq!(trailer.rows, chunks.iter().map(|chunk| chunk.rows).sum::<u64>());
        assert!(chunks.iter().all(|chunk| chunk.bytes.len() <= 1024 * 1024));
        assert!(chunks.len() >= 3);
        for kind in persistent() {
            let dir = tempfile::tempdir().unwrap();
            let options = StateOptions::default();
            let mut writer = State::restore_writer(dir.path(), kind, options.clone()).unwrap();
            for chunk in &chunks {
                writer.write(chunk.bytes.clone()).unwrap();
            }
            assert_eq!(writer.state_root(), trailer.state_root);
            let mut head = view.head();
            head.revision = Revision::new(1_000);
            head.compacted = head.revision;
            head.history = [8; 16];
            let applied = Applied { id: Some(id(0)), ..Applied::default() };
            writer.finish(head.clone(), &applied).unwrap();
            let again = State::restore_writer(dir.path(), kind, options).err().unwrap();
            assert!(matches!(again, OpenError::Directory { .. }), "{again}");
            let restored = open(dir.path(), kind);
            let restored_view = restored.view().unwrap();
            assert_eq!(restored_view.head(), head);
            assert_eq!(restored_view.applied(), applied);
            let root = restored_view.state_root(head.revision).unwrap().unwrap();
            assert_eq!(root, trailer.state_root);
            assert_eq!(restored_view.lease_keys(LeaseId(5)).unwrap(), [key("leased")]);
            assert_eq!(values_at(&restored, 1_000), values_at(&source, revision.get()));
        }
    }
    assert!(view.export_rows(Revision::new(6)).is_err());
}

#[test]
fn a_snapshot_carries_everything() {
    let source = State::in_memory();
    write_some(&source);
    for kind in persistent() {
        let dir = tempfile::tempdir().unwrap();
        let open = || open(dir.path(), kind);
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
