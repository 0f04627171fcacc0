//! The limits that scripts cannot show: counts, and bytes of answers.

mod support;

use bytes::Bytes;
use keelstone_store::limits::{
    COMMAND_BYTES_MAX, LEASE_EXPIRE_MAX, LEASE_RENEW_MAX, LEASES_MAX, RANGE_BYTES_MAX,
    RANGE_RECORD_OVERHEAD, SESSION_EXPIRE_MAX, SESSIONS_MAX, TXN_OPS_MAX, VALUE_BYTES_MAX,
};
use keelstone_store::machine::{
    Batch, Command, Delete, Envelope, Op, OpReply, Outcome, Range, RangeReply, Record, Rejection,
    Txn, TxnReply, apply, check, read_range, read_txn,
};
use keelstone_store::{Key, KeyRange, LeaseId, Millis, RangeEnd, Revision, SessionId};
use support::memory::Memory;

/// What the machine says to a command, and that the check before the log says
/// the same.
fn outcome(store: &Memory, command: Command) -> Outcome {
    let envelope = Envelope { write_id: None, command };
    let checked = check::envelope(&envelope).map_err(Rejection::from);
    let batch = Batch { now: Millis(1), commands: vec![envelope] };
    let Ok(mut transition) = apply(store, &batch);
    let outcome = transition.replies.remove(0).outcome;
    if let Err(rejection) = checked {
        assert_eq!(outcome, Outcome::Rejected(rejection));
    }
    outcome
}

fn too_large(what: &'static str, actual: usize, limit: usize) -> Outcome {
    let (actual, limit) = (actual as u64, limit as u64);
    Outcome::Rejected(Rejection::TooLarge { what, actual, limit })
}

#[test]
fn a_transaction_has_a_limited_number_of_parts() {
    let store = Memory::default();
    let read = |count| (0..count).map(|_| Op::Range(Range::all(all()))).collect::<Vec<_>>();
    let nested = |then, otherwise| {
        let nested = Txn { then: read(then), ..Txn::default() };
        let mut then = vec![Op::Txn(nested)];
        then.extend(read(10));
        Command::Txn(Txn { then, otherwise: read(otherwise), ..Txn::default() })
    };
    let fits = outcome(&store, nested(500, TXN_OPS_MAX - 511));
    assert!(matches!(fits, Outcome::Txn(_)));
    let beyond = outcome(&store, nested(500, TXN_OPS_MAX - 510));
    assert_eq!(beyond, too_large("compares and operations", TXN_OPS_MAX + 1, TXN_OPS_MAX));
}

#[test]
fn lists_of_leases_and_sessions_are_limited() {
    let store = Memory::default();
    let renew = |count: usize| Command::LeaseRenew { ids: vec![LeaseId(1); count] };
    assert!(matches!(outcome(&store, renew(LEASE_RENEW_MAX)), Outcome::Renewed(_)));
    let beyond = outcome(&store, renew(LEASE_RENEW_MAX + 1));
    assert_eq!(beyond, too_large("leases to renew", LEASE_RENEW_MAX + 1, LEASE_RENEW_MAX));

    let expire = |count| Command::LeaseExpire { leases: vec![(LeaseId(1), Millis(0)); count] };
    assert_eq!(outcome(&store, expire(LEASE_EXPIRE_MAX)), Outcome::Done);
    let beyond = outcome(&store, expire(LEASE_EXPIRE_MAX + 1));
    assert_eq!(beyond, too_large("leases to expire", LEASE_EXPIRE_MAX + 1, LEASE_EXPIRE_MAX));

    let expire =
        |count| Command::SessionExpire { sessions: vec![(SessionId(1), Millis(0)); count] };
    assert_eq!(outcome(&store, expire(SESSION_EXPIRE_MAX)), Outcome::Done);
    let beyond = outcome(&store, expire(SESSION_EXPIRE_MAX + 1));
    let expected = too_large("sessions to expire", SESSION_EXPIRE_MAX + 1, SESSION_EXPIRE_MAX);
    assert_eq!(beyond, expected);
}

#[test]
fn leases_and_sessions_are_counted() {
    let mut store = Memory::default();
    let grant = || Command::LeaseGrant { id: LeaseId(1), ttl_ms: 5_000 };
    let open = || Command::SessionOpen { id: SessionId(1), ttl_ms: 5_000 };
    store.head.leases = LEASES_MAX - 1;
    store.head.sessions = SESSIONS_MAX - 1;
    assert!(matches!(outcome(&store, grant()), Outcome::Lease { .. }));
    assert_eq!(outcome(&store, open()), Outcome::Done);
    store.head.leases = LEASES_MAX;
    store.head.sessions = SESSIONS_MAX;
    let (what, limit) = ("leases", LEASES_MAX);
    let refused = Rejection::TooLarge { what, actual: limit + 1, limit };
    assert_eq!(outcome(&store, grant()), Outcome::Rejected(refused));
    let (what, limit) = ("sessions", SESSIONS_MAX);
    let refused = Rejection::TooLarge { what, actual: limit + 1, limit };
    assert_eq!(outcome(&store, open()), Outcome::Rejected(refused));
}

#[test]
fn encoded_commands_are_limited() {
    assert!(check::encoded_bytes(COMMAND_BYTES_MAX).is_ok());
    assert!(check::encoded_bytes(COMMAND_BYTES_MAX + 1).is_err());
}

#[test]
fn a_range_is_cut_at_its_bytes_and_can_be_read_in_pages() {
    let store = filled(12, VALUE_BYTES_MAX);
    let mut next = Bytes::new();
    let mut pages = Vec::new();
    loop {
        let range = Range::all(KeyRange { start: next, end: RangeEnd::Unbounded });
        let page = found(&store, &range);
        assert_eq!(page.count, 12 - pages.iter().sum::<u64>(), "the count is of all that is left");
        pages.push(page.records.len() as u64);
        let Some(last) = page.records.last() else { break };
        next = [last.key.as_bytes(), b"\0"].concat().into();
        if !page.more {
            break;
        }
    }
    assert_eq!(pages, [5, 5, 2]);
    let keys = Range { keys_only: true, ..Range::all(all()) };
    assert_eq!(found(&store, &keys).records.len(), 12);
}

#[test]
fn many_small_records_are_limited_too() {
    let in_one = RANGE_BYTES_MAX / (RANGE_RECORD_OVERHEAD + KEY_BYTES);
    let store = filled(in_one + 7, 0);
    let page = found(&store, &Range::all(all()));
    assert_eq!((page.records.len(), page.more), (in_one, true));
    assert_eq!(page.count, in_one as u64 + 7);
}

#[test]
fn the_ranges_of_a_transaction_share_its_bytes() {
    let store = filled(4, VALUE_BYTES_MAX);
    let ranges = vec![Op::Range(Range::all(all())), Op::Range(Range::all(all()))];
    let Ok(reply) = read_txn(&store, &Txn { then: ranges, ..Txn::default() });
    let reply = reply.expect("it only reads");
    let lens: Vec<_> = reply.ops.iter().map(|op| records(op).records.len()).collect();
    assert_eq!(lens, [4, 1]);
    assert!(reply.ops.iter().all(|op| records(op).count == 4));
    assert!(records(&reply.ops[1]).more);
}

#[test]
fn previous_records_share_them_as_well() {
    let store = filled(6, VALUE_BYTES_MAX);
    let delete = Op::Delete(Delete { range: all(), previous: true });
    let txn = Txn { then: vec![delete], ..Txn::default() };
    let Outcome::Txn(TxnReply { ops, .. }) = outcome(&store, Command::Txn(txn)) else {
        panic!("a delete is answered")
    };
    let [OpReply::Delete { deleted, previous }] = &ops[..] else { panic!("by a delete") };
    assert_eq!((*deleted, previous.len()), (6, 5), "all are deleted, not all are told");
}

const KEY_BYTES: usize = 8;

fn key(number: usize) -> Key {
    Key(format!("{number:08}").into())
}

fn all() -> KeyRange {
    KeyRange::prefix(Bytes::new())
}

/// A store of this many keys with values of this size.
fn filled(keys: usize, value_bytes: usize) -> Memory {
    let mut store = Memory::default();
    let value = Bytes::from(vec![b'v'; value_bytes]);
    let revision = Revision::FIRST.next();
    store.head.revision = revision;
    for number in 0..keys {
        let record = Record {
            value: value.clone(),
            created: revision,
            modified: revision,
            version: 1,
            lease: LeaseId::NONE,
        };
        store.history.entry(key(number)).or_default().insert(revision, Some(record));
    }
    store
}

fn found(store: &Memory, range: &Range) -> RangeReply {
    let Ok(found) = read_range(store, range);
    found.expect("the range can be read")
}

fn records(op: &OpReply) -> &RangeReply {
    match op {
        OpReply::Range(range) => range,
        other => panic!("not the answer to a range: {other:?}"),
    }
}
