//! The rows and the snapshot of a small state, as the first version wrote them.
//!
//! A change of these files is a change of what is on people's disks: it needs a
//! new format number, and code that still reads the old one. To write them anew:
//! `UPDATE_GOLDENFILES=1 cargo test -p keelstone-store golden`.

use super::{Payload, State};
use crate::disk::{Checked, Engine as _, LogId, MemoryDisk, Table, WriteBatch};
use crate::machine::{Batch, Command, Delete, Envelope, Op, Put, Txn, View as _, WriteId, codec};
use crate::{Key, KeyRange, LeaseId, Millis, Revision, SessionId, Space};
use bytes::Bytes;
use keelstone_proto::disk;
use std::fmt::Write as _;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

fn key(name: &[u8]) -> Key {
    Space::Raw.key(name)
}

fn put(name: &[u8], value: &'static [u8], lease: i64) -> Op {
    let put = Put::new(key(name), Bytes::from_static(value));
    Op::Put(Put { lease: LeaseId(lease), ..put })
}

fn txn(ops: Vec<Op>) -> Command {
    Command::Txn(Txn { compares: Vec::new(), then: ops, otherwise: Vec::new() })
}

fn batch(now: u64, commands: Vec<Envelope>) -> Payload {
    let batch = Batch { now: Millis(now), commands };
    let commands: Vec<_> = batch.commands.iter().map(codec::encode_envelope).collect();
    Payload::Batch(codec::encode_batch(batch.now, &commands))
}

fn plain(command: Command) -> Envelope {
    Envelope { write_id: None, command }
}

fn membership() -> disk::Membership {
    let member = disk::Member {
        id: 1,
        peer_address: "127.0.0.1:1".to_owned(),
        client_address: "127.0.0.1:2".to_owned(),
        labels: [("site".to_owned(), "a".to_owned())].into(),
    };
    disk::Membership {
        log_id: Some(disk::LogId { term: 1, index: 0, leader: 1 }),
        configs: vec![disk::VoterSet { ids: vec![1] }],
        members: vec![member],
    }
}

/// A state with a bit of everything in it.
fn fill(state: &State) {
    state.format(*b"0123456789abcdef").unwrap();
    let write_id = WriteId { session: SessionId(9), sequence: 1, acked_below: 0 };
    let delete = Op::Delete(Delete { range: KeyRange::single(&key(b"gone")), previous: false });
    let payloads = [
        Payload::Membership(membership()),
        batch(
            1_000,
            vec![
                plain(Command::LeaseGrant { id: LeaseId(5), ttl_ms: 60_000 }),
                plain(Command::SessionOpen { id: SessionId(9), ttl_ms: 30_000 }),
            ],
        ),
        batch(1_500, vec![plain(txn(vec![put(b"a", b"1", 0), put(b"gone", b"x", 0)]))]),
        batch(
            2_000,
            vec![
                plain(txn(vec![put(b"a", b"2", 5), put(b"with\0zero", b"", 0)])),
                Envelope { write_id: Some(write_id), command: txn(vec![delete]) },
            ],
        ),
        batch(2_500, vec![plain(txn(vec![put(b"a", b"3", 5)]))]),
        batch(2_501, vec![plain(Command::Compact { revision: Revision::new(3) })]),
        Payload::Blank,
    ];
    for (index, payload) in payloads.into_iter().enumerate() {
        let id = LogId { term: 2, index: index as u64, leader: 1 };
        state.apply(&[(id, payload)]).unwrap();
    }
    assert!(!state.compact_step(100).unwrap());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn from_hex(text: &str) -> Bytes {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    text.as_bytes().chunks(2).map(byte).collect()
}

fn golden(name: &str, text: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/state").join(name);
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    std::fs::read_to_string(&path).unwrap()
}

fn dump(state: &State) -> String {
    let view = state.view().unwrap();
    let mut text = String::new();
    for table in Table::ALL {
        for row in view.rows().scan(table, (Bound::Unbounded, Bound::Unbounded), false) {
            let (key, value) = row.unwrap();
            writeln!(text, "{} {} {}", table.name(), hex(&key), hex(&value)).unwrap();
        }
    }
    text
}

#[test]
fn rows_are_as_they_were() {
    let state = State::in_memory();
    fill(&state);
    let text = dump(&state);
    assert_eq!(text, golden("rows-v1.txt", &text), "the layout of rows has changed");
}

#[test]
fn rows_of_the_first_version_are_read() {
    let disk = MemoryDisk::default();
    let engine = Checked::open(Box::new(disk.engine("engine-000001"))).unwrap();
    let mut rows = WriteBatch::default();
    for line in golden("rows-v1.txt", "").lines() {
        let (table, row) = line.split_once(' ').unwrap();
        let (key, value) = row.split_once(' ').unwrap();
        let table = Table::ALL.into_iter().find(|known| known.name() == table).unwrap();
        rows.put(table, from_hex(key), from_hex(value));
    }
    engine.commit(rows).unwrap();
    disk.switch("engine-000001");
    same_as_filled(&State::open_in_memory(&disk).unwrap());
}

fn same_as_filled(state: &State) {
    let expected = State::in_memory();
    fill(&expected);
    assert_eq!(dump(state), dump(&expected));
    let (view, expected) = (state.view().unwrap(), expected.view().unwrap());
    assert_eq!(view.head(), expected.head());
    assert_eq!(view.applied(), expected.applied());
    assert_eq!(view.head().revision, Revision::new(5));
    for revision in (3..=5).map(Revision::new) {
        assert_eq!(view.state_root(revision).unwrap(), expected.state_root(revision).unwrap());
    }
}

#[test]
fn a_snapshot_is_as_it_was() {
    let state = State::in_memory();
    fill(&state);
    let mut reader = state.snapshot().unwrap();
    let mut text: String = reader.by_ref().map(|chunk| hex(&chunk.unwrap()) + "\n").collect();
    let trailer = reader.trailer();
    writeln!(text, "{} {}", trailer.rows, hex(&trailer.hash)).unwrap();
    assert_eq!(text, golden("snapshot-v1.txt", &text), "the form of snapshots has changed");
}

#[test]
fn a_snapshot_of_the_first_version_is_read() {
    let expected = State::in_memory();
    fill(&expected);
    let (applied, head) = expected.snapshot().unwrap().header();
    let target = Arc::new(State::in_memory());
    let mut writer = target.begin_install(applied, head).unwrap();
    let text = golden("snapshot-v1.txt", "");
    let mut lines: Vec<_> = text.lines().collect();
    let (rows, hash) = lines.pop().unwrap().split_once(' ').unwrap();
    for chunk in lines {
        writer.write(from_hex(chunk)).unwrap();
    }
    let hash = from_hex(hash).as_ref().try_into().unwrap();
    let trailer = super::SnapshotTrailer { rows: rows.parse().unwrap(), hash };
    target.install(writer.finish(&trailer).unwrap()).unwrap();
    same_as_filled(&target);
}
