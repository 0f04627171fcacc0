//! The bytes of the machine's types: what is written is read back, without
//! copies, and what older versions wrote can still be read.

mod support;

use bytes::Bytes;
use keelstone_store::machine::codec::{self, DecodeError};
use keelstone_store::machine::{
    Batch, Command, Compare, Delete, Envelope, Head, KeyRecord, Lease, Op, OpReply, Outcome, Put,
    Range, RangeReply, Record, Rejection, Relation, Remembered, Reply, Session, Target, Txn,
    TxnReply, WriteId, check,
};
use keelstone_store::{Key, KeyRange, LeaseId, Millis, RangeEnd, Revision, SessionId, Space};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use std::path::Path;
use support::generate::{concrete, drafts, envelope};
use support::memory::Memory;

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("seeds"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn envelopes_round_trip(envelope in envelope()) {
        let bytes = codec::encode_envelope(&envelope);
        prop_assert_eq!(codec::decode_envelope(bytes), Ok(envelope));
    }

    #[test]
    fn batches_round_trip(now in 0..3_u64, commands in prop::collection::vec(envelope(), 0..9)) {
        let encoded: Vec<_> = commands.iter().map(codec::encode_envelope).collect();
        let batch = Batch { now: Millis(now), commands };
        prop_assert_eq!(codec::decode_batch(codec::encode_batch(batch.now, &encoded)), Ok(batch));
    }

    /// Everything that random commands lead to: replies, records, leases,
    /// sessions with what they remember, heads.
    #[test]
    fn states_round_trip(drafts in drafts()) {
        let mut store = Memory::default();
        for batch in concrete(drafts) {
            for reply in store.apply(&batch).replies {
                prop_assert_eq!(codec::decode_reply(codec::encode_reply(&reply)), Ok(reply));
            }
        }
        for record in store.live().values() {
            let bytes = codec::encode_record(record);
            prop_assert_eq!(&codec::decode_record(bytes), &Ok(record.clone()));
        }
        for lease in store.leases.values() {
            prop_assert_eq!(codec::decode_lease(codec::encode_lease(lease)), Ok(*lease));
        }
        for session in store.sessions.values() {
            prop_assert_eq!(codec::decode_session(codec::encode_session(session)), Ok(*session));
        }
        for ((id, sequence), what) in &store.replies {
            let bytes = codec::encode_remembered(*id, *sequence, what);
            prop_assert_eq!(codec::decode_remembered(bytes), Ok((*id, *sequence, what.clone())));
        }
        let bytes = codec::encode_head(&store.head);
        prop_assert_eq!(codec::decode_head(bytes), Ok(store.head));
    }

    /// Bytes that are cut or changed are an error or something else, never a
    /// panic; and whatever they say, apply answers it.
    #[test]
    fn damage_does_not_panic(
        commands in prop::collection::vec(envelope(), 1..5),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let encoded: Vec<_> = commands.iter().map(codec::encode_envelope).collect();
        let mut bytes = codec::encode_batch(Millis(7), &encoded).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if cut {
            bytes.truncate(at);
        }
        if let Ok(batch) = codec::decode_batch(bytes.into()) {
            Memory::default().apply(&batch);
        }
    }

    /// Stored keys order as their names do, space by space, and a space's range
    /// has exactly its keys.
    #[test]
    fn keys_keep_their_order(
        a in prop::collection::vec(any::<u8>(), 0..6),
        b in prop::collection::vec(any::<u8>(), 0..6),
        prefix in prop::collection::vec(any::<u8>(), 0..3),
    ) {
        for space in [Space::Raw, Space::Types, Space::Entities, Space::Config, Space::System] {
            let (key_a, key_b) = (space.key(&a), space.key(&b));
            prop_assert_eq!(key_a.cmp(&key_b), a.cmp(&b));
            prop_assert_eq!(key_a.name(), Bytes::from(a.clone()));
            for other in [Space::Raw, Space::Types, Space::Entities] {
                prop_assert_eq!(other.all().contains(key_a.as_bytes()), other == space);
            }
        }
        let range = KeyRange::prefix(prefix.clone().into());
        prop_assert_eq!(range.contains(&a), a.starts_with(&prefix));
    }
}

/// Keys and values of a decoded batch lie in the bytes that were decoded.
#[test]
fn decoding_copies_no_bytes() {
    let put = Put::new(Key(Bytes::from_static(b"key")), Bytes::from(vec![1; 3000]));
    let command = Command::Txn(Txn { then: vec![Op::Put(put)], ..Txn::default() });
    let envelope = codec::encode_envelope(&Envelope { write_id: None, command });
    let bytes = codec::encode_batch(Millis(1), &[envelope]);
    let place = bytes.as_ptr_range();
    let batch = codec::decode_batch(bytes.clone()).expect("it was just encoded");
    let Command::Txn(txn) = &batch.commands[0].command else { panic!("a transaction went in") };
    let Op::Put(put) = &txn.then[0] else { panic!("a put went in") };
    assert!(place.contains(&put.key.0.as_ptr()));
    assert!(place.contains(&put.value.as_ptr()));
}

/// What a newer version may say is refused, never guessed.
#[test]
fn unknown_parts_are_refused() {
    let check = |bytes: &[u8], expected: DecodeError| {
        assert_eq!(codec::decode_envelope(Bytes::copy_from_slice(bytes)), Err(expected));
    };
    // No command; a command of number 99; an operation of number 15.
    check(b"", DecodeError::Missing("the command"));
    check(b"\x9a\x06\x00", DecodeError::Missing("the command"));
    check(b"\x12\x04\x12\x02\x7a\x00", DecodeError::Missing("an operation"));
    // A compare of `a` with version 1, by relation 9.
    let relation = b"\x12\x0d\x0a\x0b\x0a\x05\x0a\x01a\x10\x01\x10\x09\x28\x01";
    check(relation, DecodeError::Unknown { what: "relation", number: 9 });
    let rejection = Bytes::from_static(b"\x08\x01\x2a\x03\x08\xe7\x07");
    let unknown = DecodeError::Unknown { what: "rejection", number: 999 };
    assert_eq!(codec::decode_reply(rejection), Err(unknown));
}

/// Every text that a rejection can carry comes back as itself.
#[test]
fn rejections_keep_their_texts() {
    for &text in check::text::ALL {
        for rejection in
            [Rejection::Invalid(text), Rejection::TooLarge { what: text, actual: 2, limit: 1 }]
        {
            let message = codec::rejection_to_proto(&rejection);
            assert_eq!(codec::rejection_from_proto(&message), Ok(rejection));
        }
    }
    let message = codec::rejection_to_proto(&Rejection::Invalid("of the year 2040"));
    let found = codec::rejection_from_proto(&message);
    assert_eq!(found, Ok(Rejection::Invalid(check::text::UNKNOWN)));
}

/// Files written by the first version are read as they were meant, and the same
/// is still written.
///
/// A changed file is a changed format: old logs and backups would not be read.
#[test]
fn the_format_is_that_of_version_1() {
    let commands: Vec<_> = every_command().iter().map(codec::encode_envelope).collect();
    let batch = codec::encode_batch(Millis(1_800_000_000_000), &commands);
    golden("batch-v1.hex", &batch);
    let read = codec::decode_batch(batch).expect("the golden file can be read");
    assert_eq!(read.commands, every_command());

    let replies: Vec<_> = every_reply().iter().map(codec::encode_reply).collect();
    golden("replies-v1.hex", &replies.concat());
    for (bytes, reply) in replies.iter().zip(every_reply()) {
        assert_eq!(codec::decode_reply(bytes.clone()), Ok(reply));
    }

    let rows = [
        codec::encode_head(&head()),
        codec::encode_record(&record()),
        codec::encode_lease(&Lease { id: LeaseId(7), ttl_ms: 5_000, expires: Millis(9) }),
        codec::encode_session(&Session {
            id: SessionId(3),
            ttl_ms: 6_000,
            expires: Millis(10),
            forgotten_below: 4,
            newest: 8,
        }),
        codec::encode_remembered(SessionId(3), 8, &Remembered::AppliedAt(Revision::new(5))),
        codec::encode_remembered(SessionId(3), 7, &Remembered::Reply(every_reply().remove(0))),
    ];
    golden("rows-v1.hex", &rows.concat());
}

fn golden(name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/machine").join(name);
    let lines = bytes.chunks(32).map(|line| {
        let hex = line.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        hex + "\n"
    });
    let text: String = lines.collect();
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(&path, &text).expect("the golden file can be written");
    }
    let expected = std::fs::read_to_string(&path).expect("the golden file is there");
    assert_eq!(text, expected, "{name} has changed");
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn key(text: &'static str) -> Key {
    Key(bytes(text))
}

fn record() -> Record {
    Record {
        value: bytes("value"),
        created: Revision::new(2),
        modified: Revision::new(300),
        version: 3,
        lease: LeaseId(7),
    }
}

fn head() -> Head {
    Head {
        revision: Revision::new(300),
        compacted: Revision::new(20),
        now: Millis(1_800_000_000_000),
        hash: [9; 32],
        transitions: 77,
        feature_level: 1,
        history: [5; 16],
        leases: 2,
        sessions: 1,
    }
}

fn every_command() -> Vec<Envelope> {
    let commands = vec![
        Command::Txn(every_op()),
        Command::LeaseGrant { id: LeaseId(7), ttl_ms: 5_000 },
        Command::LeaseRenew { ids: vec![LeaseId(7), LeaseId(8)] },
        Command::LeaseRevoke { id: LeaseId(7) },
        Command::LeaseExpire { leases: vec![(LeaseId(7), Millis(9)), (LeaseId(8), Millis(10))] },
        Command::Compact { revision: Revision::new(12) },
        Command::SessionOpen { id: SessionId(3), ttl_ms: 6_000 },
        Command::SessionClose { id: SessionId(3) },
        Command::SessionExpire { sessions: vec![(SessionId(3), Millis(11))] },
        Command::FeatureLevel { level: 2 },
    ];
    let envelope = |(sequence, command)| {
        let session = SessionId(u64::MAX);
        let write_id = Some(WriteId { session, sequence, acked_below: sequence / 2 });
        Envelope { write_id: write_id.filter(|_| sequence % 2 == 1), command }
    };
    (1..).zip(commands).map(envelope).collect()
}

fn every_op() -> Txn {
    let compare = |range, relation, target| Compare { range, relation, target };
    let compares = vec![
        compare(single("a"), Relation::Equal, Target::Created(Revision::new(2))),
        compare(single("a"), Relation::Greater, Target::Modified(Revision::new(3))),
        compare(until("a", "b"), Relation::Less, Target::Version(4)),
        compare(KeyRange::prefix(Bytes::new()), Relation::NotEqual, Target::Value(bytes("v"))),
        compare(single("c"), Relation::Equal, Target::Lease(LeaseId(7))),
    ];
    let put = Put { lease: LeaseId(7), previous: true, ..Put::new(key("a"), bytes("value")) };
    let touch = Put { ignore_value: true, ignore_lease: true, ..Put::new(key("b"), bytes("")) };
    let range = Range {
        range: until("a", "b"),
        revision: Revision::new(9),
        limit: 10,
        keys_only: true,
        count_only: true,
    };
    let nested = Txn { then: vec![Op::Range(Range::all(single("x")))], ..Txn::default() };
    let otherwise = vec![Op::Delete(Delete { range: until("c", "d"), previous: true })];
    let then = vec![Op::Put(put), Op::Put(touch), Op::Range(range), Op::Txn(nested)];
    Txn { compares, then, otherwise }
}

fn single(start: &'static str) -> KeyRange {
    KeyRange::single(&key(start))
}

fn until(start: &'static str, until: &'static str) -> KeyRange {
    KeyRange { start: bytes(start), end: RangeEnd::Until(bytes(until)) }
}

fn every_reply() -> Vec<Reply> {
    let pair = || KeyRecord { key: key("a"), record: record() };
    let range = RangeReply { records: vec![pair()], count: 2, more: true };
    let ops = vec![
        OpReply::Put { previous: None },
        OpReply::Put { previous: Some(pair()) },
        OpReply::Delete { deleted: 2, previous: vec![pair()] },
        OpReply::Range(range),
        OpReply::Txn(TxnReply { succeeded: false, ops: vec![OpReply::Put { previous: None }] }),
    ];
    let revision = Revision::new;
    let rejections = [
        Rejection::KeyNotFound,
        Rejection::LeaseNotFound(LeaseId(7)),
        Rejection::LeaseExists(LeaseId(7)),
        Rejection::TooLarge { what: "key bytes", actual: 5_000, limit: 4_096 },
        Rejection::Compacted { asked: revision(3), compacted: revision(4) },
        Rejection::FutureRevision { asked: revision(9), current: revision(8) },
        Rejection::DuplicateKey,
        Rejection::SessionNotFound(SessionId(3)),
        Rejection::SessionExists(SessionId(3)),
        Rejection::ReplyForgotten { sequence: 5, oldest: 6 },
        Rejection::Invalid("the key is empty"),
    ];
    let mut outcomes = vec![
        Outcome::Txn(TxnReply { succeeded: true, ops }),
        Outcome::Lease { id: LeaseId(7), ttl_ms: 5_000 },
        Outcome::Renewed(vec![(LeaseId(7), 5_000), (LeaseId(8), 0)]),
        Outcome::Done,
        Outcome::Applied,
    ];
    outcomes.extend(rejections.into_iter().map(Outcome::Rejected));
    outcomes.into_iter().map(|outcome| Reply { revision: revision(300), outcome }).collect()
}
