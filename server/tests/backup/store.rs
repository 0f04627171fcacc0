//! A store without replicas: the real state machine over the real state, filled
//! with random commands by seed.

use bytes::Bytes;
use keelstone_store::disk::LogId;
use keelstone_store::limits::VALUE_BYTES_MAX;
use keelstone_store::machine::{Command, Delete, Envelope, Op, Outcome, Put, Txn, codec};
use keelstone_store::state::{Payload, State, StateView};
use keelstone_store::{Key, KeyRange, LeaseId, Millis, SessionId, Space};
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _};

pub(crate) const CLUSTER: [u8; 16] = [0xC1; 16];
const SPACES: [Space; 5] =
    [Space::Raw, Space::Types, Space::Entities, Space::Config, Space::System];

/// A state, and where its log would be.
pub(crate) struct Store {
    pub(crate) state: State,
    index: u64,
    now: u64,
}

impl Store {
    pub(crate) fn new() -> Self {
        let state = State::in_memory();
        state.format(CLUSTER).unwrap();
        Self { state, index: 0, now: 1_700_000_000_000 }
    }

    /// Applies one command in an entry of its own; a refusal fails the test.
    pub(crate) fn apply(&mut self, command: Command) {
        self.index += 1;
        self.now += 10;
        let envelope = codec::encode_envelope(&Envelope { write_id: None, command });
        let batch = codec::encode_batch(Millis(self.now), &[envelope]);
        let id = LogId { term: 3, index: self.index, leader: 0 };
        let applied = self.state.apply(&[(id, Payload::Batch(batch))]).unwrap();
        let outcome = &applied[0].replies[0].outcome;
        assert!(!matches!(outcome, Outcome::Rejected(_)), "{outcome:?}");
    }

    pub(crate) fn put(&mut self, key: Key, value: impl Into<Bytes>, lease: LeaseId) {
        let put = Put { lease, ..Put::new(key, value.into()) };
        self.apply(Command::Txn(Txn { then: vec![Op::Put(put)], ..Txn::default() }));
    }

    pub(crate) fn delete(&mut self, key: &Key) {
        let delete = Delete { range: KeyRange::single(key), previous: false };
        self.apply(Command::Txn(Txn { then: vec![Op::Delete(delete)], ..Txn::default() }));
    }

    pub(crate) fn view(&self) -> StateView {
        self.state.view().unwrap()
    }

    /// A lease, a session, and a few keys of a few bytes, on the lease or not.
    pub(crate) fn fill_small(&mut self, rng: &mut StdRng) {
        self.apply(Command::LeaseGrant { id: LeaseId(4711), ttl_ms: 30_000 });
        self.apply(Command::SessionOpen { id: SessionId(7), ttl_ms: 60_000 });
        for number in 0..20 {
            let lease = if number % 3 == 0 { LeaseId(4711) } else { LeaseId::NONE };
            self.put(random_key(rng), format!("value {number}"), lease);
        }
    }

    /// Values that no compression makes smaller, of 1 MiB each.
    pub(crate) fn fill_large(&mut self, rng: &mut StdRng, values: usize) {
        for number in 0..values {
            let mut value = vec![0; 1 << 20];
            rng.fill_bytes(&mut value);
            let key = Space::Config.key(format!("large/{number}").as_bytes());
            self.put(key, value, LeaseId::NONE);
        }
    }

    /// Random commands: puts in all spaces, deletes, leases, sessions, values of
    /// all sizes from none to the largest.
    pub(crate) fn fill(&mut self, rng: &mut StdRng, commands: usize) {
        let mut leases = vec![LeaseId::NONE];
        for _ in 0..6 {
            let id = LeaseId(rng.random_range(1..i64::MAX));
            self.apply(Command::LeaseGrant { id, ttl_ms: rng.random_range(5_000..600_000) });
            leases.push(id);
        }
        self.apply(Command::SessionOpen { id: SessionId(rng.random()), ttl_ms: 60_000 });
        for _ in 0..commands {
            let key = random_key(rng);
            if rng.random_ratio(1, 6) {
                self.delete(&key);
                continue;
            }
            let lease = leases[rng.random_range(0..leases.len())];
            self.put(key, random_value(rng), lease);
        }
        for (space, size) in [(Space::Raw, VALUE_BYTES_MAX), (Space::Entities, 0)] {
            let mut value = vec![0; size];
            rng.fill_bytes(&mut value);
            self.put(space.key(b"\xff\x00extreme"), value, LeaseId::NONE);
        }
    }
}

fn random_key(rng: &mut StdRng) -> Key {
    let space = SPACES[rng.random_range(0..SPACES.len())];
    let mut name = format!("key/{:03}", rng.random_range(0..400)).into_bytes();
    if rng.random_ratio(1, 8) {
        name.extend([0, 0xFF, rng.random()]);
    }
    space.key(&name)
}

fn random_value(rng: &mut StdRng) -> Vec<u8> {
    let size = match rng.random_range(0..20) {
        0 => 0,
        1..=16 => rng.random_range(1..4_000),
        17 | 18 => rng.random_range(20_000..140_000),
        _ => rng.random_range(500_000..VALUE_BYTES_MAX),
    };
    let mut value = vec![0; size];
    // Half of it repeats, as documents do.
    rng.fill_bytes(&mut value[size / 2..]);
    value
}
