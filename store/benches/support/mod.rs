//! What the benches of the state machine work on: a filled store in memory, and
//! batches as a loaded leader packs them.

#![allow(dead_code, unreachable_pub, reason = "each bench uses a part")]

use bytes::Bytes;
use keelstone_store::machine::{
    Batch, Command, Compare, Envelope, Head, Lease, Op, Put, Range, Record, Relation, Remembered,
    Session, Target, Txn, View, WriteId,
};
use keelstone_store::{Key, KeyRange, LeaseId, Millis, Revision, SessionId, Space};
use std::collections::BTreeMap;
use std::convert::Infallible;

/// Keys in the store.
pub const KEYS: u64 = 100_000;
/// Commands in a batch.
pub const COMMANDS: u64 = 64;

/// A filled store that is only read.
pub struct Filled {
    keys: BTreeMap<Key, Record>,
    value: Bytes,
}

impl Filled {
    pub fn new(value_bytes: usize) -> Self {
        let value = Bytes::from(vec![b'v'; value_bytes]);
        let record = Record {
            value: value.clone(),
            created: Revision::new(2),
            modified: Revision::new(2),
            version: 1,
            lease: LeaseId::NONE,
        };
        let keys = (0..KEYS).map(|number| (key(number), record.clone())).collect();
        Self { keys, value }
    }

    /// Puts of keys that exist.
    pub fn puts(&self) -> Batch {
        batch(|number| (None, vec![], Put::new(key(number * 997 % KEYS), self.value.clone())))
    }

    /// Updates as kube-apiserver and the entities make them: if the key was
    /// last modified at this revision put, else read.
    pub fn guarded_updates(&self) -> Batch {
        batch(|number| {
            let key = key(number * 997 % KEYS);
            let range = KeyRange::single(&key);
            let target = Target::Modified(Revision::new(2));
            let guard = Compare { range, relation: Relation::Equal, target };
            (None, vec![guard], Put::new(key, self.value.clone()))
        })
    }

    /// Puts of a client's session each.
    pub fn session_puts(&self) -> Batch {
        batch(|number| {
            let write_id = WriteId { session: SessionId(number), sequence: 9, acked_below: 9 };
            (Some(write_id), vec![], Put::new(key(number), self.value.clone()))
        })
    }
}

fn key(number: u64) -> Key {
    Space::Raw.key(format!("registry/pods/{number:08}").as_bytes())
}

fn batch(parts: impl Fn(u64) -> (Option<WriteId>, Vec<Compare>, Put)) -> Batch {
    let envelope = |number| {
        let (write_id, compares, put) = parts(number);
        let otherwise =
            compares.iter().map(|guard| Op::Range(Range::all(guard.range.clone()))).collect();
        let txn = Txn { compares, then: vec![Op::Put(put)], otherwise };
        Envelope { write_id, command: Command::Txn(txn) }
    };
    Batch { now: Millis(1), commands: (1..=COMMANDS).map(envelope).collect() }
}

impl View for Filled {
    type Error = Infallible;

    fn head(&self) -> Head {
        Head { revision: Revision::new(2), ..Head::genesis([1; 16]) }
    }

    fn get(&self, key: &Key) -> Result<Option<Record>, Infallible> {
        Ok(self.keys.get(key).cloned())
    }

    fn scan(
        &self,
        range: &KeyRange,
        visit: &mut dyn FnMut(Key, Record) -> bool,
    ) -> Result<(), Infallible> {
        for (key, record) in self.keys.range::<[u8], _>(range.bounds()) {
            if !visit(key.clone(), record.clone()) {
                break;
            }
        }
        Ok(())
    }

    fn scan_at(
        &self,
        range: &KeyRange,
        _: Revision,
        visit: &mut dyn FnMut(Key, Record) -> bool,
    ) -> Result<(), Infallible> {
        self.scan(range, visit)
    }

    fn lease(&self, _: LeaseId) -> Result<Option<Lease>, Infallible> {
        Ok(None)
    }

    fn lease_keys(&self, _: LeaseId) -> Result<Vec<Key>, Infallible> {
        Ok(Vec::new())
    }

    fn session(&self, id: SessionId) -> Result<Option<Session>, Infallible> {
        let expires = Millis(1);
        Ok(Some(Session { id, ttl_ms: 60_000, expires, forgotten_below: 8, newest: 8 }))
    }

    fn session_reply(&self, _: SessionId, _: u64) -> Result<Option<Remembered>, Infallible> {
        Ok(None)
    }
}
