//! Random commands.
//!
//! A strategy cannot know which revisions, expiry times and sequences make sense
//! where a command will stand, so it draws distances, and [`concrete`] turns
//! them into numbers by running the model alongside.

use super::model::Model;
use bytes::Bytes;
use keelstone_store::machine::{
    Batch, Command, Compare, Delete, Envelope, Op, Put, Range, Relation, Target, Txn, WriteId,
};
use keelstone_store::{Key, KeyRange, LeaseId, Millis, RangeEnd, Revision, SessionId};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// A batch to be: how much later than the one before, and its commands.
pub type Draft = (i64, Vec<Envelope>);

/// Batches to be.
pub fn drafts() -> impl Strategy<Value = Vec<Draft>> {
    let elapsed = prop_oneof![8 => 0..900_i64, 1 => 2_000..6_000_i64, 1 => -900..0_i64];
    let rest = vec((elapsed, vec(envelope(), 0..6)), 1..14);
    (prop_oneof![1 => Just(Vec::new()), 4 => Just(beginnings())], rest).prop_map(|(first, rest)| {
        let mut drafts = vec![(1, first)];
        drafts.extend(rest);
        drafts
    })
}

/// Leases and sessions, so that most commands find theirs.
fn beginnings() -> Vec<Envelope> {
    let grant = |id| Command::LeaseGrant { id: LeaseId(id), ttl_ms: 2_500 };
    let open = |id| Command::SessionOpen { id: SessionId(id), ttl_ms: 9_000 };
    let commands = (1..4).map(grant).chain((1..4).map(open));
    commands.map(|command| Envelope { write_id: None, command }).collect()
}

/// Makes drafts into batches that can follow one another.
pub fn concrete(drafts: Vec<Draft>) -> Vec<Batch> {
    let mut model = Model::default();
    let mut batches = Vec::new();
    for (elapsed, mut commands) in drafts {
        let now = Millis(model.now.0.saturating_add_signed(elapsed));
        model.pass_time(now);
        for envelope in &mut commands {
            make_concrete(envelope, &model);
            model.run(now, envelope);
        }
        batches.push(Batch { now, commands });
    }
    batches
}

fn make_concrete(envelope: &mut Envelope, model: &Model) {
    if let Some(id) = &mut envelope.write_id {
        let next = model.next_sequence(id.session);
        // Mostly the next one; else a step back, a gap or a leap.
        id.sequence = match id.sequence {
            0..=7 => next,
            8 => next + 1,
            9 => next + 300,
            10 => 0,
            back => next.saturating_sub(back - 10).max(1),
        };
        id.acked_below = match id.acked_below {
            0..=5 => 0,
            6 => id.sequence,
            7 => id.sequence + 1,
            back => id.sequence.saturating_sub(back - 6),
        };
    }
    let current = model.revision().get();
    let near = |distance: u64| Revision::new((current + 2).saturating_sub(distance));
    match &mut envelope.command {
        Command::Txn(txn) => place_ranges(txn, &near),
        Command::Compact { revision } => *revision = near(revision.get()),
        Command::LeaseExpire { leases } => {
            for (id, seen) in leases {
                let expires = model.leases.get(id).map_or(0, |lease| lease.expires.0);
                *seen = Millis(expires + u64::from(seen.0 == 0));
            }
        }
        Command::SessionExpire { sessions } => {
            for (id, seen) in sessions {
                let expires = model.sessions.get(id).map_or(0, |session| session.expires.0);
                *seen = Millis(expires + u64::from(seen.0 == 0));
            }
        }
        _ => {}
    }
}

fn place_ranges(txn: &mut Txn, near: &dyn Fn(u64) -> Revision) {
    for op in txn.then.iter_mut().chain(&mut txn.otherwise) {
        match op {
            Op::Range(range) if range.revision != Revision::ZERO => {
                range.revision = near(range.revision.get());
            }
            Op::Txn(nested) => place_ranges(nested, near),
            _ => {}
        }
    }
}

/// A command, half of the time within a session.
pub fn envelope() -> impl Strategy<Value = Envelope> {
    let write_id = (1..4_u64, 0..14_u64, 0..10_u64).prop_map(|(session, sequence, acked_below)| {
        WriteId { session: SessionId(session), sequence, acked_below }
    });
    (proptest::option::of(write_id), command())
        .prop_map(|(write_id, command)| Envelope { write_id, command })
}

/// A command of any kind, mostly a transaction.
pub fn command() -> impl Strategy<Value = Command> {
    let lease = || prop_oneof![1 => Just(0_i64), 40 => 1..5_i64].prop_map(LeaseId);
    let session = || prop_oneof![1 => Just(0_u64), 40 => 1..4_u64].prop_map(SessionId);
    let ttl = || prop_oneof![3 => Just(0_u64), 6 => Just(2_500), 1 => Just(u64::MAX)];
    let seen = || (0..6_u64).prop_map(Millis);
    prop_oneof![
        70 => txn(3).prop_map(Command::Txn),
        6 => (lease(), ttl()).prop_map(|(id, ttl_ms)| Command::LeaseGrant { id, ttl_ms }),
        2 => vec(lease(), 0..4).prop_map(|ids| Command::LeaseRenew { ids }),
        2 => lease().prop_map(|id| Command::LeaseRevoke { id }),
        4 => vec((lease(), seen()), 0..5).prop_map(|leases| Command::LeaseExpire { leases }),
        2 => (0..8_u64).prop_map(|d| Command::Compact { revision: Revision::new(d) }),
        8 => (session(), ttl()).prop_map(|(id, ttl_ms)| Command::SessionOpen { id, ttl_ms }),
        1 => session().prop_map(|id| Command::SessionClose { id }),
        2 => vec((session(), seen()), 0..4)
            .prop_map(|sessions| Command::SessionExpire { sessions }),
        1 => (0..3_u32).prop_map(|level| Command::FeatureLevel { level }),
    ]
}

/// A transaction with others nested up to `depth` levels deep.
pub fn txn(depth: u32) -> BoxedStrategy<Txn> {
    let most = if depth == 3 { 4 } else { 3 };
    let txn = (vec(compare(), 0..3), vec(op(depth), 0..most), vec(op(depth), 0..most));
    txn.prop_map(|(compares, then, otherwise)| Txn { compares, then, otherwise }).boxed()
}

fn op(depth: u32) -> BoxedStrategy<Op> {
    let flat = prop_oneof![
        5 => put().prop_map(Op::Put),
        2 => (key_range(), any::<bool>())
            .prop_map(|(range, previous)| Op::Delete(Delete { range, previous })),
        3 => range().prop_map(Op::Range),
    ];
    if depth == 0 {
        return flat.boxed();
    }
    prop_oneof![8 => flat, 1 => txn(depth - 1).prop_map(Op::Txn)].boxed()
}

fn put() -> impl Strategy<Value = Put> {
    let lease = prop_oneof![60 => Just(0_i64), 40 => 1..4_i64, 1 => -1..0_i64].prop_map(LeaseId);
    let ignore = || prop_oneof![9 => Just(false), 1 => Just(true)];
    (key(), value(), lease, any::<bool>(), ignore(), ignore()).prop_map(
        |(key, value, lease, previous, ignore_value, ignore_lease)| {
            // Now and then the form is wrong: a value that is to be ignored.
            let keep = !ignore_value || value.len() == 2;
            let value = if keep { value } else { Bytes::new() };
            let lease = if ignore_lease && lease.0 != 3 { LeaseId::NONE } else { lease };
            Put { key, value, lease, previous, ignore_value, ignore_lease }
        },
    )
}

/// A read of a range; its revision is a distance, zero means now.
pub fn range() -> impl Strategy<Value = Range> {
    let revision = prop_oneof![3 => Just(0_u64), 2 => 1..9_u64].prop_map(Revision::new);
    let limit = prop_oneof![2 => Just(0_u64), 1 => 1..4_u64];
    (key_range(), revision, limit, any::<bool>(), prop_oneof![4 => Just(false), 1 => Just(true)])
        .prop_map(|(range, revision, limit, keys_only, count_only)| Range {
            range,
            revision,
            limit,
            keys_only,
            count_only,
        })
}

fn compare() -> impl Strategy<Value = Compare> {
    let relation =
        select(vec![Relation::Equal, Relation::Greater, Relation::Less, Relation::NotEqual]);
    let target = prop_oneof![
        (0..6_u64).prop_map(|n| Target::Created(Revision::new(n))),
        (0..9_u64).prop_map(|n| Target::Modified(Revision::new(n))),
        (0..4_u64).prop_map(Target::Version),
        value().prop_map(Target::Value),
        (0..4_i64).prop_map(|n| Target::Lease(LeaseId(n))),
    ];
    (key_range(), relation, target).prop_map(|(range, relation, target)| Compare {
        range,
        relation,
        target,
    })
}

/// Few short keys, so that commands meet; rarely the empty one.
pub fn key() -> impl Strategy<Value = Key> {
    let names = ["a", "a", "b", "b", "ab", "c", "c\0", "d", "e", "f", "g", "\u{ff}"];
    prop_oneof![99 => select(names.to_vec()), 1 => Just("")]
        .prop_map(|name| Key(Bytes::from_static(name.as_bytes())))
}

fn key_range() -> impl Strategy<Value = KeyRange> {
    (key(), key(), 0..8_u8).prop_map(|(start, until, form)| match form {
        0..=3 => KeyRange::single(&start),
        4 => KeyRange { start: start.0, end: RangeEnd::Unbounded },
        5 => KeyRange::prefix(start.0),
        _ => KeyRange { start: start.0, end: RangeEnd::Until(until.0) },
    })
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        2 => Just(Bytes::new()),
        6 => select(vec!["x", "y", "xy"]).prop_map(|value| Bytes::from_static(value.as_bytes())),
        2 => Just(Bytes::from(vec![b'z'; 4200])),
    ]
}
